r"""What a capture server and PyMedPhys need to be told about a linac, as files that IT can read before anything is installed.

>>> import tempfile
>>> from linac.provision import Listening, Services, plan, service_files
>>> from linac.transport import connect
>>> services = Services("nssm", (Listening("4299", "192.168.17.40"),), r"\\NBCCC-pdc\physics\NBCC-DataExchange")
>>> with tempfile.TemporaryDirectory() as there, connect(there) as folder:
...     first = plan(folder, service_files(services))
...     print(first.text(diffs=False), end="")
...     written = first.apply()
...     plan(folder, service_files(services)).changed
new  4299_listening.bat
new  services-status.bat
new  services-install.bat
new  services-start.bat
new  services-stop.bat
new  services-uninstall.bat
()

The same on the command line: `python -m linac.provision services`, `config`, `bundle` (with `--dry-run`: the plan alone), `push`.

    services, windows, systemd   a listener or a Prefect worker as a service of Windows (by NSSM) or systemd
    config                       PyMedPhys's config.toml, edited as a person would
    closure, bundle              one folder with Python, the listener and its service files: nothing else is installed
    push, push_linux,            the same put on a capture host over SSH, and seen to record; or taken away again
    push_windows, pushing
    plan                         what would be written, and how it differs from what is there

What it does not do: install or start anything on this computer, keep a password, download NSSM or Python, or
know Prefect.
"""

from linac.provision.plan import Change, Plan, plan
from linac.provision.services import NSSM, SYSTEMD, Listening, Services, Worker
from linac.provision.systemd import systemd_files
from linac.provision.windows import windows_files

__all__ = ["NSSM", "SYSTEMD", "Change", "Listening", "Plan", "Services", "Worker", "plan", "service_files"]


def service_files(what: Services | Worker) -> dict[str, bytes]:
    """The files that make services of `what`: their names in one folder, and their contents."""
    return windows_files(what) if what.kind == NSSM else systemd_files(what)
