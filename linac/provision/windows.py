r"""Batch files that make Windows services of listeners or of a Prefect worker, by NSSM (https://nssm.cc).

>>> from linac.provision.services import Listening, Services
>>> files = windows_files(Services("nssm", (Listening("4299", "192.168.17.40"),), r"\\NBCCC-pdc\physics\NBCC-DataExchange"))
>>> print(*sorted(files))
4299_listening.bat services-install.bat services-start.bat services-status.bat services-stop.bat services-uninstall.bat
>>> for line in files["4299_listening.bat"].decode().splitlines()[4:6]:
...     print(*line.split(" --serial "), sep="\n    --serial ")
set "PYTHON_DIR=%~dp0python"
"%PYTHON_DIR%\python.exe" -X utf8 -m linac.icom listen 192.168.17.40 "\\NBCCC-pdc\physics\NBCC-DataExchange\iCom"
    --serial 4299 --spool "C:\ProgramData\linac-flows\spool"

How they are written, and why. They find each other by their own place (`%~dp0`), so the folder may be copied anywhere and be
called anything. Every path stands in quotation marks, delayed expansion is off (it eats `!`), `%` is doubled, and no block in
parentheses holds a path. They are plain ASCII with CRLF: cmd.exe reads a batch file in the console's code page, which differs
between computers, and `chcp 65001` is not heeded everywhere (wine's cmd.exe does not). So an argument with other letters goes
into a file of arguments in UTF-8, which Python reads. `%PATH%` is searched but never changed: it may hold quotation marks. They
do not download NSSM.
"""

import ntpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from linac.errors import SetupError
from linac.provision.services import RESTART_SECONDS, RESTART_WORKER_SECONDS, STOP_SECONDS, Services, Worker

LOG_BYTES = 10_000_000

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:_-")

NSSM_SETTINGS: tuple[tuple[str, str], ...] = (
    ("Application", r'"%HERE%\%PROGRAM%"'),
    ("AppDirectory", '"%HERE%"'),
    ("AppStdin", "NUL"),  # else cmd.exe would wait at "Terminate batch job (Y/N)?" when the service stops
    ("AppStdout", r'"%HERE%\logs\%LOG%"'),
    ("AppStderr", r'"%HERE%\logs\%LOG%"'),
    ("AppRotateFiles", "1"),
    ("AppRotateOnline", "1"),  # also while it runs: it does so for months
    ("AppRotateBytes", str(LOG_BYTES)),
    ("AppRestartDelay", "%DELAY%"),
    ("AppStopMethodConsole", str(STOP_SECONDS * 1000)),  # Ctrl-C, then time to end the connection in order; 1.5 s by default
    ("DisplayName", '"%TITLE%"'),
    ("Description", '"%ABOUT%"'),
    ("Start", "SERVICE_AUTO_START"),
)
"""What a service is told, besides its account: a parameter of `nssm set` and its value, as NSSM 2.24's README names them."""

KEEP_CHILDREN = ("AppKillProcessTree", "0")
"""A listener shall outlive what started it. NSSM 2.24 of 2014 does not know this yet, its later builds (2.24-101) do: ChangeLog,
"Allow skipping kill_process_tree()"."""

ARGUMENTS_CODE = (
    "import runpy,sys;sys.argv[1:]=open(sys.argv[1],encoding='utf-8').read().splitlines();"
    "runpy.run_module('linac.icom',run_name='__main__',alter_sys=True)"
)
"""Python that takes its arguments from a file, a line each: for letters that a batch file does not hold."""


@dataclass(frozen=True)
class _Service:
    """One service: its name for Windows, the batch file that it runs, where that writes, and what people read."""

    name: str
    program: str
    log: str
    title: str
    about: str
    delay_seconds: int = RESTART_SECONDS
    needs_children_kept: bool = False


def windows_files(what: Services | Worker) -> dict[str, bytes]:
    """The batch files, by name. `%HERE%` is the folder that they lie in, wherever that is."""
    files: dict[str, bytes] = {}
    if isinstance(what, Services):
        services = [_listener(linac.serial, linac.address) for linac in what.linacs]
        for linac, service in zip(what.linacs, services, strict=True):
            files.update(_listening(service, linac.serial, what.python, what.listen(linac)))
        files["services-status.bat"] = _status(what, services)
    else:
        services = [_worker(what.pool)]
        files[services[0].program] = _working(what)
    files["services-install.bat"] = _install(services, what, what.icom if isinstance(what, Services) else "")
    for verb in ("start", "stop", "uninstall"):
        files[f"services-{verb}.bat"] = _each(services, verb)
    return files


def service_name(serial: str) -> str:
    """The service that records a linac."""
    return f"icom_listening_{serial}"


def _listener(serial: str, address: str) -> _Service:
    title = f"iCom listening {serial}"
    about = f"Records the iCom stream of linac {serial} at {address}. It reads only; it never controls the linac."
    return _Service(service_name(serial), f"{serial}_listening.bat", f"{serial}_listening_log.txt", title, about)


def _worker(pool: str) -> _Service:
    about = f"Prefect worker of linac-flows, for the work pool {pool}."
    return _Service(
        "linac_flows_worker", "worker.bat", "worker_log.txt", "linac-flows worker", about, RESTART_WORKER_SECONDS, True
    )


def quoted(text: str) -> str:
    r"""An argument for a line of a batch file: cmd.exe and the program both get `text` back.

    >>> quoted("4299"), quoted("C:\\100% (new) & old!\\")
    ('4299', '"C:\\100%% (new) & old!\\\\"')
    """
    if text and set(text) <= _SAFE:
        return text
    end = len(text) - len(text.rstrip("\\"))  # backslashes before the closing mark would escape it
    return f'"{text}{end * chr(92)}"'.replace("%", "%%")


def _batch(lines: Iterable[str]) -> bytes:
    """A batch file: ASCII (or it is a fault of ours), CRLF."""
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def _python_dir(python: str) -> str:
    return f"{'' if ntpath.isabs(python) else '%~dp0'}{python.replace('%', '%%')}"


def _listening(service: _Service, serial: str, python: str, arguments: list[str]) -> Mapping[str, bytes]:
    files: dict[str, bytes] = {}
    if all(argument.isascii() for argument in arguments):
        how = f"-m linac.icom {' '.join(quoted(argument) for argument in arguments)}"
    else:
        name = f"{serial}_listening.args"
        files[name] = "".join(f"{argument}\n" for argument in arguments).encode()
        how = f'-c "{ARGUMENTS_CODE}" "%~dp0{name}"'
    lines = [
        "@echo off",
        f"rem Records the iCom stream of linac {serial}: this is what the service {service.name} runs.",
        'rem Made by "python -m linac.provision services". Ctrl-C ends it in order.',
        "setlocal EnableExtensions DisableDelayedExpansion",
        f'set "PYTHON_DIR={_python_dir(python)}"',
        f'"%PYTHON_DIR%\\python.exe" -X utf8 {how}',
        "exit /b %ERRORLEVEL%",
    ]
    return {service.program: _batch(lines), **files}


def _working(worker: Worker) -> bytes:
    return _batch(
        [
            "@echo off",
            "rem A Prefect worker of linac-flows: this is what the service linac_flows_worker runs.",
            'rem Made by "python -m linac.provision services --for worker". A server with a login wants PREFECT_API_AUTH_STRING:',
            "rem set it with nssm set linac_flows_worker AppEnvironmentExtra, never in a file.",
            "setlocal EnableExtensions DisableDelayedExpansion",
            f'set "PYTHON_DIR={_python_dir(worker.python)}"',
            f'set "PREFECT_API_URL={worker.api_url}"',
            'set "PYTHONUTF8=1"',
            f"cd /d {quoted(worker.project)}",
            "if errorlevel 1 exit /b 2",
            f'"%PYTHON_DIR%\\python.exe" -m prefect worker start --type process --pool {quoted(worker.pool)}',
            "exit /b %ERRORLEVEL%",
        ]
    )


def _begin(about: list[str]) -> list[str]:
    """What the companion scripts begin with: `HERE` (no backslash at its end, it would escape a quotation mark), `NSSM`,
    `QUIET`."""
    return [
        "@echo off",
        *(f"rem {line}" for line in about),
        "setlocal EnableExtensions DisableDelayedExpansion",
        'set "HERE=%~dp0"',
        'if "%HERE:~-1%"=="\\" set "HERE=%HERE:~0,-1%"',
        'set "QUIET="',
        'if /i "%~1"=="quiet" set "QUIET=1"',
        'set "ONLY=%~2"',
        'set "FAILED="',
        'set "NSSM="',
        'if exist "%HERE%\\nssm.exe" set "NSSM=%HERE%\\nssm.exe"',
        'if not defined NSSM if exist "%HERE%\\bin\\nssm.exe" set "NSSM=%HERE%\\bin\\nssm.exe"',
        'if not defined NSSM for %%N in (nssm.exe) do set "NSSM=%%~$PATH:N"',
        "if not defined NSSM goto no_nssm",
        'set "FLTMC=%SystemRoot%\\System32\\fltmc.exe"',
        'if not exist "%FLTMC%" goto administrator',
        '"%FLTMC%" >nul 2>&1',  # the least that only an administrator may do
        "if errorlevel 1 goto no_administrator",
        ":administrator",
    ]


def _end(finished: str) -> list[str]:
    """What they end with: exit code 0 only if everything went well, and a pause for those who double-clicked."""
    return [
        "if defined FAILED goto failed",
        f"echo {finished}",
        "if not defined QUIET pause",
        "exit /b 0",
        ":failed",
        "echo Not everything went well: see above. Mend it, then run this again; what is done stays done.",
        "if not defined QUIET pause",
        "exit /b 1",
        ":no_nssm",
        "echo NSSM was not found. Download it from https://nssm.cc and put nssm.exe (of its folder win64) beside this file.",
        "if not defined QUIET pause",
        "exit /b 2",
        ":no_administrator",
        "echo This needs an administrator: right-click this file and choose Run as administrator.",
        "if not defined QUIET pause",
        "exit /b 5",
    ]


def _install(services: list[_Service], what: Services | Worker, icom: str) -> bytes:
    lines = _begin(
        [
            "Installs these services, or brings installed ones up to date. Run it as administrator; running it again is safe.",
            '"services-install.bat quiet" asks nothing and leaves the account as it is; "services-install.bat quiet password"',
            "sets the account with the password that comes as a line of its input, a full stop before it.",
        ]
    )
    lines += [
        f'set "SPOOL={what.spool.replace("%", "%%")}"',
        f'set "ACCOUNT={what.log_on}"',
        'if not exist "%HERE%\\logs" mkdir "%HERE%\\logs"',
        'if not exist "%SPOOL%" mkdir "%SPOOL%"',
        "call :ask_account",
    ]
    for service in services:
        lines += [
            f'set "SERVICE={service.name}"',
            f'set "PROGRAM={service.program}"',
            f'set "LOG={service.log}"',
            f'set "TITLE={service.title}"',
            f'set "ABOUT={service.about}"',
            f'set "DELAY={service.delay_seconds * 1000}"',
            f'set "KEEP={"must" if service.needs_children_kept else "may"}"',
            "call :install",
        ]
    if icom and icom.isascii():
        lines += [
            f"if not exist {quoted(icom)} echo ATTENTION: this account sees no folder {quoted(icom)}. It must be there: make it."
        ]
    lines += ['set "PASSWORD="', *_end("Installed. services-start.bat starts what does not run yet."), *_INSTALL_PARTS]
    for name, value in NSSM_SETTINGS:
        lines += [f'set "SETTING={name}"', f'"%NSSM%" set "%SERVICE%" {name} {value} >nul', "if errorlevel 1 goto refused"]
    lines += _ACCOUNT_PARTS
    return _batch(lines)


ASKING = (
    "$p = Read-Host 'Password (Enter: it has none)' -AsSecureString; $t = (New-Object Net.NetworkCredential('', $p)).Password; "
    "if ($t -match '[^ !#-~]|[\\\\]$') { '!' } else { '.' + $t }"
)
r"""PowerShell that asks for a password without showing it. A full stop goes before it: it may begin with anything, or be empty.

`!` alone stands for a password that would not arrive as it is: one with `"`, which ends a word of cmd.exe so that the rest is
run; with `\` at its end, which NSSM takes together with the closing `"`; with letters beyond plain ASCII, which the console's
code page may lack. All other letters are safe between quotation marks (`%` too: what a variable holds is not expanded again)."""

_UNSAFE = re.compile(r"[^ !#-~]|\\$")


def check_password(password: str) -> str:
    """`password`, if a batch file can pass it on: see `ASKING`. Raises `SetupError`."""
    if _UNSAFE.search(password):
        raise SetupError(
            "The password of the services' account has a quotation mark, a backslash at its end, or a letter beyond ASCII: a "
            "batch file cannot pass it on. Choose another one, or set both in the Windows services manager by hand."
        )
    return password


_HAS_MARK = '"%SystemRoot%\\System32\\find.exe" """" >nul'
"""Whether what is piped into it has a `"` (a find program's own way to write one): nothing of the text is expanded for it."""

_INSTALL_PARTS = [
    "",
    ":install",
    '"%NSSM%" get "%SERVICE%" Application >nul 2>&1',
    "if errorlevel 1 goto install_new",
    "echo %SERVICE%: is installed; its settings are brought up to date. If it runs, they count from its next start on.",
    "goto settings",
    ":install_new",
    "echo %SERVICE%: is being installed.",
    'set "SETTING=install"',
    '"%NSSM%" install "%SERVICE%" "%HERE%\\%PROGRAM%" >nul',
    "if errorlevel 1 goto refused",
    ":settings",
    f'"%NSSM%" set "%SERVICE%" {KEEP_CHILDREN[0]} {KEEP_CHILDREN[1]} >nul 2>&1',
    "if not errorlevel 1 goto kept",
    'if "%KEEP%"=="may" goto kept',
    "echo %SERVICE%: this NSSM is too old, it would end the listeners along with the worker. Take 2.24-101 or newer from https://nssm.cc",
    'set "FAILED=1"',
    "goto :eof",
    ":kept",
]

_ACCOUNT_PARTS = [
    "if not defined ACCOUNT goto :eof",
    'set "SETTING=ObjectName (the account; or set it in the Windows services manager)"',
    "if not defined PASSWORD goto account_alone",
    '"%NSSM%" set "%SERVICE%" ObjectName "%ACCOUNT%" "%PASSWORD%" >nul',
    "if errorlevel 1 goto refused",
    "goto :eof",
    ":account_alone",
    '"%NSSM%" set "%SERVICE%" ObjectName "%ACCOUNT%" >nul',
    "if errorlevel 1 goto refused",
    "goto :eof",
    "",
    ":refused",
    "echo %SERVICE%: NSSM refused: %SETTING%. What it said stands above.",
    'set "FAILED=1"',
    "goto :eof",
    "",
    ":ask_account",
    'set "PASSWORD="',
    'if /i "%ONLY%"=="password" goto given_password',
    'if defined QUIET set "ACCOUNT="',
    "if defined QUIET goto :eof",
    "if defined ACCOUNT echo Account that runs the services: %ACCOUNT%",
    "if defined ACCOUNT goto ask_password",
    "echo Account that runs the services, for example HOSPITAL\\icom-recorder. It must be allowed to write the records.",
    "echo Enter alone leaves it as it is; for a new service that is LocalSystem.",
    'set /p "ACCOUNT=Account: "',
    "if not defined ACCOUNT goto :eof",
    f"set ACCOUNT|{_HAS_MARK}",
    "if not errorlevel 1 goto no_account",
    ":ask_password",
    "rem The password is not shown, and kept in no file.",
    f'for /f "usebackq delims=" %%P in (`powershell -NoProfile -Command "{ASKING}"`) do set "PASSWORD=%%P"',
    "if not defined PASSWORD goto rights",
    "goto check_password",
    ":given_password",
    "if not defined ACCOUNT goto :eof",
    'set /p "PASSWORD="',
    "if not defined PASSWORD goto unsafe",
    ":check_password",
    f"set PASSWORD|{_HAS_MARK}",
    "if not errorlevel 1 goto unsafe",
    'if not "%PASSWORD:~0,1%"=="." goto unsafe',
    'set "PASSWORD=%PASSWORD:~1%"',
    "goto rights",
    ":unsafe",
    "echo This password has a quotation mark, a backslash at its end, or a letter beyond ASCII: a batch file cannot pass it on.",
    "echo The services are set up without it. Set account and password in the Windows services manager: services.msc, Log On.",
    'set "PASSWORD="',
    'set "FAILED=1"',
    ":rights",
    'icacls "%HERE%\\logs" /grant "%ACCOUNT%:(OI)(CI)M" >nul',
    "if errorlevel 1 echo The account could not be given the right to write to the folder logs: give it by hand.",
    'icacls "%SPOOL%" /grant "%ACCOUNT%:(OI)(CI)M" >nul',
    "if errorlevel 1 echo The account could not be given the right to write to the spool: give it by hand.",
    'if defined FAILED set "ACCOUNT="',
    "goto :eof",
    ":no_account",
    "echo An account's name has no quotation mark. Run this again with the right one.",
    'set "ACCOUNT="',
    'set "FAILED=1"',
    "goto :eof",
]

_VERBS: dict[str, tuple[str, str, list[str]]] = {
    "start": (
        "Starts these services; those that run are left alone.",
        "All of them run.",
        [
            "if defined RUNS echo %SERVICE%: runs already, or waits for its next start; its log is in the folder logs.",
            "if defined RUNS goto :eof",
            '"%NSSM%" start "%SERVICE%"',
            "if not errorlevel 1 goto :eof",
            "echo %SERVICE%: did not start. Its log is in the folder logs beside this file; is it installed?",
            'set "FAILED=1"',
            "goto :eof",
        ],
    ),
    "stop": (
        "Stops these services: the connection to each linac is ended in order. Do it when no patient is being treated.",
        "None of them runs.",
        [
            "if not defined RUNS echo %SERVICE%: does not run.",
            "if not defined RUNS goto :eof",
            '"%NSSM%" stop "%SERVICE%"',
            "if not errorlevel 1 goto :eof",
            "echo %SERVICE%: did not stop.",
            'set "FAILED=1"',
            "goto :eof",
        ],
    ),
    "uninstall": (
        "Stops and removes these services. What they recorded stays, in the spool and in the records folder.",
        "None of them is installed any more. What they recorded is still there.",
        [
            '"%NSSM%" get "%SERVICE%" Application >nul 2>&1',
            "if errorlevel 1 echo %SERVICE%: is not installed.",
            "if errorlevel 1 goto :eof",
            'if defined RUNS "%NSSM%" stop "%SERVICE%"',
            '"%NSSM%" remove "%SERVICE%" confirm',
            "if not errorlevel 1 goto :eof",
            "echo %SERVICE%: could not be removed.",
            'set "FAILED=1"',
            "goto :eof",
        ],
    ),
}
"""What each companion script is for, says at its end, and does to one service. `RUNS` is defined if the service is there and
not stopped: NSSM calls one that waits for its next start paused."""

_STATES = ("STOPPED", "START_PENDING", "STOP_PENDING", "RUNNING", "CONTINUE_PENDING", "PAUSE_PENDING", "PAUSED")
"""As `sc query` says them in every language of Windows, in `        STATE              : 4  RUNNING`."""

_READ_STATE = (
    f'for /f "tokens=2-4" %%A in (\'sc query %SERVICE%\') do if "%%A"==":" for %%S in ({" ".join(_STATES)}) do '
    'if "%%C"=="%%S" set "STATE=%%S"'
)


def place_files(names: Iterable[str], gone: Iterable[str], sums: str, coming: str) -> bytes:
    """A batch file that puts the files of its folder `files` into the folder that it is given, and removes those in `gone`.

    `sums` is the list of all files, which comes last, and is there as `coming` until then. Names have `/`, as in a zip.
    """
    lines = [
        "@echo off",
        "setlocal EnableExtensions DisableDelayedExpansion",
        'set "FROM=%~dp0files"',
        'set "TO=%~1"',
        'if not exist "%TO%" mkdir "%TO%"',
        f'copy /b /y "%FROM%\\{sums}" "%TO%\\{coming}" >nul',
        "if errorlevel 1 goto failed",
    ]
    made: set[str] = set()
    for name in [*names, sums]:
        path = name.replace("/", "\\")
        folder = ntpath.dirname(path)
        if folder not in made:
            lines += [f'if not exist "%TO%\\{folder}" mkdir "%TO%\\{folder}"']
            made.add(folder)
        lines += [
            f'copy /b /y "%FROM%\\{path}" "%TO%\\{path}.new" >nul',
            "if errorlevel 1 goto failed",
            f'move /y "%TO%\\{path}.new" "%TO%\\{path}" >nul',
            "if errorlevel 1 goto failed",
        ]
    for name in gone:
        path = name.replace("/", "\\")
        lines += [f'if exist "%TO%\\{path}" del /q "%TO%\\{path}"', f'if exist "%TO%\\{path}" goto failed']
    lines += [
        f'del /q "%TO%\\{coming}"',
        "exit /b 0",
        ":failed",
        "echo Not every file could be put into its place: see above. Is the account an administrator? Is a program in use?",
        "exit /b 1",
    ]
    return _batch(lines)


def _status(what: Services, services: list[_Service]) -> bytes:
    lines = [
        "@echo off",
        "rem Shows whether these services run and what they record. It changes nothing.",
        'rem "services-status.bat quiet" does not wait for a key in the end; a service named behind it is shown alone.',
        "rem Exit code 0 only if each service is there, connected, and what it recorded is archived; else 1.",
        "setlocal EnableExtensions DisableDelayedExpansion",
        'set "CODE=0"',
        f'set "PYTHON_DIR={_python_dir(what.python)}"',
        f'set "SPOOL={what.spool.replace("%", "%%")}"',
    ]
    for linac, service in zip(what.linacs, services, strict=True):
        lines += [f'set "SERIAL={linac.serial}"', f'set "SERVICE={service.name}"', 'call :one "%~2"']
    lines += [
        'if /i not "%~1"=="quiet" pause',
        "exit /b %CODE%",
        "",
        ":one",
        'if not "%~1"=="" if /i not "%~1"=="%SERVICE%" goto :eof',
        'sc query "%SERVICE%"',
        'if errorlevel 1 set "CODE=1"',
        '"%PYTHON_DIR%\\python.exe" -X utf8 -m linac.icom status --serial "%SERIAL%" --spool "%SPOOL%"',
        'if errorlevel 1 set "CODE=1"',
        "goto :eof",
    ]
    return _batch(lines)


def _each(services: list[_Service], verb: str) -> bytes:
    about, finished, steps = _VERBS[verb]
    lines = _begin(
        [
            f"{about} Run it as administrator; running it again is safe.",
            f'"services-{verb}.bat quiet" does not wait for a key in the end; a service named behind it is meant alone.',
        ]
    )
    for service in services:
        lines += [f'set "SERVICE={service.name}"', "call :one"]
    lines += [
        *_end(finished),
        "",
        ":one",
        "if not defined ONLY goto wanted",
        'if /i not "%ONLY%"=="%SERVICE%" goto :eof',
        ":wanted",
        'set "RUNS="',
        'set "STATE="',
        _READ_STATE,
        "if not defined STATE goto no_state",
        'if not "%STATE%"=="STOPPED" set "RUNS=1"',
        "goto known",
        ":no_state",
        '"%NSSM%" get "%SERVICE%" Application >nul 2>&1',
        "if errorlevel 1 goto known",  # it is not there: nobody can tell its state
        "echo %SERVICE%: Windows does not tell whether it runs. Nothing was done; run this again.",
        'set "FAILED=1"',
        "goto :eof",
        ":known",
        *steps,
    ]
    return _batch(lines)
