"""What several tests need: the real TRF samples, and a Prefect server of the tests' own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
SAMPLES = PROJECT.parent / "shared" / "samples" / "trf"

for name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[name]  # a developer's own Prefect settings must not reach the tests


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
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The pinned Prefect server with our blocks and deployments, and no worker; its API's URL."""
    from launch.stack import Stack, free_port

    stack = Stack(tmp_path_factory.mktemp("prefect"), free_port())
    stack.env["PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS"] = "5"  # a minute otherwise
    stack.start(worker=False)
    try:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: stack.env["PREFECT_API_URL"]}):
            yield stack.env["PREFECT_API_URL"]
    finally:
        stack.stop()
