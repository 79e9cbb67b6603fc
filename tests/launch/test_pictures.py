"""The page for physicists tells the truth: its examples run, one after the other, and its pictures show what they answer."""

from pathlib import Path

import pytest

from launch import pictures, simulated_year

DAYS = 66
"""Until the first days of the course: one of its arcs was interrupted by then."""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("year") / "records"
    assert simulated_year.build(where, days=DAYS, per_day=1) > 100
    return where


def test_the_examples_of_find_a_delivery_run_and_answer_the_five_questions(records: Path) -> None:
    said, printed = pictures.answers(records)
    course = said["course"]
    assert course["field_label"].tolist() == ["1-1", "1-2"] * 5
    assert set(course["mu"]) == {182.4, 156.1}
    assert course["sha256"].is_unique, "no log is found twice, and none of another patient"
    assert course["interruptions"].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert said["often"]["count"].idxmax() == ("4299", f"Y1 Leaf {simulated_year.WORST_LEAF}")
    trend, bank = said["trend"], said["bank"]
    assert len(trend) == len(bank) == 10
    assert (trend["rms_mm"] > bank["rms_mm"]).all()
    faults = said["faults"]
    assert sorted(faults["linac"].unique()) == sorted(simulated_year.LINACS)
    assert faults["deliveries"].sum() == len(said["deliveries"])
    assert said["mu"].sum().sum() == pytest.approx(said["deliveries"]["delivered_mu"].sum())
    replay = said["replay"]
    assert replay["mu"].iloc[-1] == pytest.approx(182.4, abs=0.2)
    assert (replay["linac_state"] == "Interrupted").any()
    assert said["y1_mm"].shape == said["y2_mm"].shape == (len(replay), 80)
    assert said["log"][:1] == b"\x13", "the last example has a log's own bytes"
    assert "leaf 40 of Y1 moved from" in printed


def test_the_pictures_are_drawn_and_small(records: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = pictures.draw(records, tmp_path)
    page = pictures.PAGE.read_text(encoding="utf-8")
    for path in made:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert 5_000 < path.stat().st_size < 100_000
        assert f"(pictures/{path.name})" in page


def test_the_pictures_of_the_page_are_there(project: Path) -> None:
    for name in pictures.PICTURES:
        assert 5_000 < (project / "docs" / "pictures" / f"{name}.png").stat().st_size < 100_000
