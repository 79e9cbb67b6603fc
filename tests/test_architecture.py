"""The design's rules about who may import whom, and about what runs alone on a capture server."""

import subprocess
import sys
from pathlib import Path


def test_every_import_contract_of_pyproject_holds(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_listener_runs_without_site_packages(project: Path) -> None:
    """`python -S -I` sees the standard library and this project's own modules, nothing else."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import linac.capture.listener, linac.icom;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names) - {'__main__', 'linac'}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", program, str(project)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_module_carries_the_name_of_a_package_that_prefect_may_shadow(project: Path) -> None:
    """Prefect puts `flows/` ahead on sys.path, so a file there must not be called like a package."""
    packages = {path.parent.name for path in project.glob("*/__init__.py")} | set(sys.stdlib_module_names) | {"prefect", "pandas"}
    assert not {path.stem for path in (project / "flows").glob("*.py")} - {"__init__"} & packages
