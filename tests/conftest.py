"""What several tests need: the real TRF samples, and a Prefect server of the tests' own."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from launch.stack import Stack
    from linac.simulator.samba import Samba
    from linac.simulator.sshd import SshServer

PROJECT = Path(__file__).resolve().parent.parent
SAMPLES = PROJECT.parent / "shared" / "samples" / "trf"

for name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[name]  # a developer's own Prefect settings must not reach the tests

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # how long an example takes tells of the computer alone


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of the real TRF files, which the repository does not hold."""
    if not SAMPLES.is_dir():
        pytest.skip("the real TRF samples are not beside the repository (../shared/samples/trf)")
    return SAMPLES


@pytest.fixture(scope="session")
def smb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Samba"]:
    """A real smbd with the shares `Backup` (read-only) and `physics`; each test uses folders of its own in them."""
    from linac.simulator.samba import Samba, is_installed

    if not is_installed():
        pytest.skip("Samba's server is not installed (apt-get install --no-install-recommends samba)")
    with Samba(tmp_path_factory.mktemp("smb"), {"Backup": False, "physics": True}) as server:
        yield server


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["SshServer"]:
    """A real sshd that lets this account in with its own key; tests that stop it or change its settings make one of their own."""
    from linac.simulator.sshd import SshServer, is_installed

    if not is_installed():
        pytest.skip("OpenSSH's server is not installed (apt-get install --no-install-recommends openssh-server)")
    with SshServer(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture(scope="session")
def prefect_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Stack"]:
    """The pinned Prefect server with our blocks and deployments, and no worker; this process talks to it."""
    from launch.stack import Stack, free_port

    stack = Stack(tmp_path_factory.mktemp("prefect"), free_port())
    stack.env["PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS"] = "5"  # a minute otherwise
    stack.env["PREFECT_WORKER_QUERY_SECONDS"] = "2"
    stack.start(worker=False)
    try:
        from prefect.logging.handlers import APILogHandler
        from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

        quiet = {PREFECT_API_URL: stack.env["PREFECT_API_URL"], PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}
        with temporary_settings(quiet):
            yield stack
            APILogHandler().flush()
    finally:
        stack.stop()


@pytest.fixture(scope="session")
def prefect_server(prefect_stack: "Stack") -> str:
    """The URL of that server's API."""
    return prefect_stack.env["PREFECT_API_URL"]
