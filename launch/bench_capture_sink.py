"""The least that can listen: takes bytes off a linac's socket and throws them away. What it cannot beat, nobody can.

python -m launch.bench_capture_sink ADDRESS PORT
"""

import socket
import sys
import time


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    while True:
        try:
            with socket.create_connection((address, port), timeout=5) as sock:
                sock.settimeout(None)
                while sock.recv(65536):
                    pass
        except OSError:
            pass
        time.sleep(0.5)


if __name__ == "__main__":
    main()
