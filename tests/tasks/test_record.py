"""The commissioning record and its pictures: what is said first, what is folded up, and what the drawing shows."""

import base64
import xml.etree.ElementTree as ElementTree
from datetime import date
from pathlib import Path

import pytest

from blocks import Linac, Share, Site
from linac.capture.check import Break
from linac.capture.steadiness import Steadiness, Trip, Trips
from linac.errors import SetupError
from tasks import record as module
from tasks.check import Check, Outcome
from tasks.checks import Checklist
from tasks.drawing import as_image, draw_arrivals
from tasks.plan import Step, carry_out_all, planned
from tasks.record import Record

SVG = "{http://www.w3.org/2000/svg}"
GOOD, BAD = Check("Spool", Outcome.PASS, "fine"), Check("iCom port 1706", Outcome.FAIL, "refused | by the NSS")


@pytest.fixture
def linac(tmp_path: Path) -> Linac:
    share = Share(path=str(tmp_path))
    site = Site(name="Lab", time_zone="Europe/London", records=share, spool=str(tmp_path / "spool"))
    return Linac(serial="4299", address="192.168.17.40", site=site, backup=share)


def done(what: list[str]) -> Step:
    return Step("Block linac-4299", "made", lambda: what.append("made"))


class TestVerdict:
    def test_a_failed_check_comes_before_everything(self, linac: Linac) -> None:
        record = Record(linac, checklist=Checklist([GOOD, BAD]), plan=[done([])])
        assert record.verdict().startswith("**Not added.**")
        with pytest.raises(SetupError, match="was not added; nothing was changed"):
            record.refuse_if_anything_is_wrong()

    def test_so_does_a_step_that_cannot_be_done(self, linac: Linac) -> None:
        def impossible() -> Step:
            raise SetupError("There is no such pool.")

        record = Record(linac, dry_run=True, plan=[planned("Deployment", impossible)])
        assert record.verdict().startswith("**Not added.**")
        assert record.problems == ["There is no such pool."]
        assert "- **Deployment**: There is no such pool." in record.verdict(), "the reason stands at the top"

    def test_each_reason_is_told_once_with_what_it_is_about(self, linac: Linac) -> None:
        away = "Could not list /records: it is not there."
        check = Check("Records share /records", Outcome.FAIL, away)
        plan = [Step("Records share", problem=away), Step("Block", problem="No pool."), Step("Queue", problem="No pool.")]
        record = Record(linac, checklist=Checklist([GOOD, check]), plan=plan)
        with pytest.raises(SetupError) as caught:
            record.refuse_if_anything_is_wrong()
        assert str(caught.value).endswith(f"nothing was changed. Records share /records: {away} Block: No pool.")
        assert record.verdict().count(away) == record.verdict().count("No pool.") == 1

    def test_what_an_earlier_run_left_is_told_where_this_one_changes_nothing(self, linac: Linac) -> None:
        record = Record(linac, unfinished=True, checklist=Checklist([BAD]))
        assert "Nothing was changed. An earlier add-linac of it was not finished:" in record.verdict()
        with pytest.raises(SetupError, match=r"An earlier add-linac of it was not finished: .* iCom port 1706: refused"):
            record.refuse_if_anything_is_wrong()
        assert "earlier" not in Record(linac, checklist=Checklist([BAD])).verdict()

    def test_nothing_is_called_made_that_was_not(self, linac: Linac, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "run_name", lambda: "add-linac-4299")
        record = Record(linac, plan=[done([]), Step("Deployment", problem="There is no such pool.")])
        for words in (
            "## Plan, of which nothing was",
            "**Block linac-4299**: to be made",
            "cannot be done. There is no such pool.",
        ):
            assert words in record.text()
        assert "linac-4299**: made" not in record.text()

    def test_the_person_is_named_beside_the_account(self, linac: Linac, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "run_name", lambda: "add-linac-4299")
        monkeypatch.setattr(module, "_user", lambda: "svc-prefect")
        assert "- **By**: A. O'Müller, under the account svc-prefect on " in Record(linac, done_by=" A. O'Müller ").text()
        assert "- **By**: svc-prefect on " in Record(linac).text()

    def test_in_service(self, linac: Linac) -> None:
        linac.in_service = date(2026, 11, 22)
        assert record_of(linac).verdict().endswith("It was so already: nothing had to change.")
        assert "since 2026-11-22" in record_of(linac, done=["Block: made"]).verdict()
        assert "so already" not in record_of(linac, done=["Block: made"]).verdict()

    def test_dry_run_error_and_waiting(self, linac: Linac) -> None:
        assert "1 of 1 things have to change." in record_of(linac, dry_run=True, plan=[done([])]).verdict()
        assert record_of(linac, error="The share is away.").verdict().startswith("**Not finished.** The share is away.")
        for error, words in ((ValueError("secret"), "unforeseen went wrong (ValueError)"), (KeyboardInterrupt(), "cancelled")):
            record = record_of(linac)
            record.note_failure(error)
            assert words in record.verdict()
            assert "secret" not in record.verdict()
        assert record_of(linac, waiting="Install it.").verdict() == "**Prepared, not yet in service.** Install it."


def record_of(linac: Linac, **facts: object) -> Record:
    return Record(linac, **facts)  # type: ignore[arg-type]


def test_the_text_holds_all_of_it(linac: Linac, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_name", lambda: "add-linac-4299")
    step = Step("PyMedPhys configuration", "updated", None, diff="--- a\n+++ b\n+```\n")
    text = Record(linac, checklist=Checklist([GOOD, BAD], ["![p](data:)"]), plan=[step, Step("Block")]).text()
    for words in (
        "# Linac 4299: commissioning record",
        "- **iCom port 1706**: refused | by the NSS\n\n## This run\n\n- **When**",
        "- **Run**: add-linac-4299",
        "1 checks passed, 0 with a warning, 1 failed.",
        "- ❌ fail: **iCom port 1706**. refused | by the NSS",
        "![p](data:)",
        "- **Block**: is as it should be",
        "<details><summary>PyMedPhys configuration</summary>\n\n````diff\n--- a",
        "- **iCom service**: 192.168.17.40 port 1706",
        "Read and accepted by:",
    ):
        assert words in text


def test_steps_are_carried_out_in_order_and_noted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.logging import disable_run_logger

    from tasks import plan

    class Direct:
        @staticmethod
        def with_options(**_: object) -> object:
            return plan_carry_out

    plan_carry_out = plan.carry_out.fn
    monkeypatch.setattr(plan, "carry_out", Direct)
    made: list[str] = []

    def fail() -> None:
        raise SetupError("The power went.")

    told: list[str] = []
    steps = [Step("Kept"), done(made), Step("Broken", "made", fail), Step("Later", "made", lambda: made.append("later"))]
    with disable_run_logger(), pytest.raises(SetupError):
        carry_out_all(steps, told)
    assert (made, told) == (["made"], ["Block linac-4299: made"])


class TestDrawing:
    def draw(self, times: list[float], steady: Steadiness, trips: Trips) -> ElementTree.Element:
        return ElementTree.fromstring(draw_arrivals(times, steady, trips, 'Linac <4299> & "more"'))

    def test_a_curve_for_messages_and_one_for_round_trips(self) -> None:
        times = [i * 0.25 for i in range(241)]
        drawn = self.draw(times, Steadiness(60.0, 241, 4.0), Trips("nss", tuple(Trip(i, 1.0 + i % 3) for i in range(60))))
        messages, trips = drawn.findall(f"{SVG}polyline")
        assert len(messages.get("points", "").split()) == 240
        assert len(trips.get("points", "").split()) == 60

    def test_what_was_lost_is_marked(self) -> None:
        steady = Steadiness(10.0, 2, 4.0, breaks=(Break(5.0, "reset"),))
        drawn = self.draw([0.0, 0.25], steady, Trips("nss", (Trip(0, 1.0), Trip(3, None), Trip(4, None))))
        marks = [line for line in drawn.findall(f"{SVG}line") if line.get("stroke") == "#dc2626"]
        assert len(marks) == 3

    def test_very_many_messages_give_no_more_than_a_point_for_each_dot_and_keep_the_worst(self) -> None:
        times = [i * 0.001 for i in range(30000)] + [30.5]
        drawn = self.draw(times, Steadiness(31.0, len(times), 980.0), Trips())
        points = drawn.findall(f"{SVG}polyline")[0].get("points", "").split()
        assert len(points) < 800
        heights = [float(point.split(",")[1]) for point in points]
        assert min(heights) < heights[0] - 50, "the one long pause stands out"

    @pytest.mark.parametrize(("seconds", "shown"), [(2.0, "0.0 0.5 1.0 1.5 2.0"), (60.0, "0 15 30 45 60")])
    def test_the_seconds_below_differ_also_over_a_short_time(self, seconds: float, shown: str) -> None:
        drawn = self.draw([0.0, 0.25], Steadiness(seconds, 2, 4.0), Trips())
        assert [text.text for text in drawn.findall(f"{SVG}text")[-5:]] == [f"{each} s" for each in shown.split()]

    def test_nothing_at_all(self) -> None:
        assert not self.draw([], Steadiness(), Trips()).findall(f"{SVG}polyline")

    def test_it_is_shown_as_data(self) -> None:
        image = as_image("<svg/>", "a picture")
        assert base64.b64decode(image.partition("base64,")[2].removesuffix(")")) == b"<svg/>"
