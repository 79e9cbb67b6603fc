"""Archives one spool until its standard input ends: the archiver alone, in a process that can be measured. For the soak test.

Its first line says its process number.

    python -m launch.bench_capture_archiver SPOOL SERIAL ADDRESS ICOM_FOLDER JOURNAL_LIMIT_BYTES
"""

import os
import sys
import threading

from linac.capture.archive import Archiver
from linac.errors import LinacError
from linac.transport import connect

WAIT_SECONDS = 0.25


def main() -> int:
    spool, serial, address, folder, limit = sys.argv[1:]
    over = threading.Event()
    print(os.getpid(), flush=True)

    def watch() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    with connect(folder) as icom:
        archiver = Archiver(spool, serial, address, icom, journal_limit_bytes=int(limit))
        while True:
            last = over.wait(WAIT_SECONDS)
            try:
                archiver.run_once(seconds=2.0)
            except LinacError as error:
                print(error, file=sys.stderr, flush=True)
            if last:
                return 0


if __name__ == "__main__":
    sys.exit(main())
