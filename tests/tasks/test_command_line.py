"""What the terminal shows when a flow is run from it."""

import io
import logging
from collections.abc import Iterator

import pytest
from prefect.logging.handlers import PrefectConsoleHandler

from linac.errors import SetupError
from tasks import command_line


@pytest.fixture
def console() -> Iterator[io.StringIO]:
    """What Prefect writes to the terminal."""
    shown = io.StringIO()
    handler = PrefectConsoleHandler(stream=shown)
    logging.getLogger().addHandler(handler)
    yield shown
    logging.getLogger().removeHandler(handler)


def test_an_error_of_ours_is_shown_as_its_sentence_alone(
    monkeypatch: pytest.MonkeyPatch,
    console: io.StringIO,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    from flows.check_linac import check_linac

    def broken(**_: object) -> None:
        log = logging.getLogger("tests.command_line")
        log.warning("A line of the run.")
        try:
            raise SetupError("There is no such site.")
        except SetupError:
            log.exception("Encountered exception during execution")
            log.error("Finished in state Failed('There is no such site.')")
            raise

    monkeypatch.setattr(command_line, "need_server", lambda: None)
    monkeypatch.setattr(type(check_linac), "__call__", lambda _, **answers: broken(**answers))
    assert command_line.run_from_command_line(check_linac, ["--serial", "4299"]) == 1
    shown = console.getvalue()
    assert "A line of the run." in shown
    assert "There is no such site." not in shown
    assert "Traceback" not in shown
    assert capsys.readouterr().err.endswith("\nThere is no such site.\n")
    assert "Encountered exception" in caplog.text, "other logs, the server's among them, keep it"


def test_other_errors_keep_their_traceback_and_it_ends_with_the_run(console: io.StringIO) -> None:
    with command_line.without_tracebacks():
        try:
            raise ValueError("unforeseen")
        except ValueError:
            logging.getLogger("tests.command_line").exception("Encountered exception during execution")
    assert "ValueError: unforeseen" in console.getvalue()
    try:
        raise SetupError("Later.")
    except SetupError:
        logging.getLogger("tests.command_line").exception("Encountered exception during execution")
    assert "SetupError: Later." in console.getvalue()


def test_answers_that_do_not_fit_make_no_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.add_linac import add_linac

    calls: list[dict[str, object]] = []
    monkeypatch.setattr(command_line, "need_server", lambda: None)
    monkeypatch.setattr(type(add_linac), "__call__", lambda _, **answers: calls.append(answers))
    four = ["--address", "192.168.17.40", "--site", "nbcc"]
    assert command_line.run_from_command_line(add_linac, ["--serial", "12 34", *four]) == 2
    assert calls == []
    assert "- serial: A serial or unique name has 1 to 40 letters" in capsys.readouterr().err
    for given in (["6,10 FFF"], ["6", "10 FFF"], ["6,", "10 FFF"]):
        assert command_line.run_from_command_line(add_linac, ["--serial", "4299", *four, "--energies", *given]) == 0
        assert calls.pop()["energies"] == ["6", "10 FFF"]
    assert '--energies 6,10 or --energies 6 "10 FFF"' in " ".join(command_line.parser(add_linac).format_help().split())


def test_a_missing_server_at_another_port_is_thought_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), pytest.raises(SetupError, match="PREFECT_API_URL"):
        command_line.need_server()
