"""The pictures in docs/: what the examples of docs/find-a-delivery.md answer about a simulated year, drawn.

    python -m launch.pictures OUT [--records FOLDER]

The examples themselves are run, from the page, so that a picture shows what its query gives. A simulated year is made in
`--records` (some minutes), or used if it is there; left out, it is made in a temporary folder.
"""

import argparse
import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.simulated_year import LINACS, MOTOR_CHANGED, WORST_LEAF, build

PAGE = Path(__file__).resolve().parent.parent / "docs" / "find-a-delivery.md"

INK, FAINT, BLUE, ORANGE, RED = "#22313f", "#b8c2cc", "#1f77b4", "#e08e0b", "#c0392b"
COLOURS = dict(zip(LINACS, (BLUE, ORANGE, "#3a9d6e"), strict=True))
WIDE = (8.0, 3.4)
DPI = 100

STYLE: Any = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "grid.color": "#e9edf0",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def examples(page: Path = PAGE) -> list[str]:
    """The Python examples of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def answers(records: Path, page: Path = PAGE) -> tuple[dict[str, Any], str]:
    """All examples of the page, run on the records of a folder: the names that they leave, and what they print."""
    first, *others = examples(page)
    if not re.fullmatch(r"TRF = .*\nICOM = .*\n", first):
        raise ValueError(f"{page} is to begin with the two folders.")
    names: dict[str, Any] = {"TRF": (records / "TRF").as_posix(), "ICOM": (records / "iCom").as_posix()}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for example in others:
            exec(compile(example, page.name, "exec"), names)  # noqa: S102 (our own page)
    return names, printed.getvalue()


def patient(plt: Any, said: dict[str, Any]) -> Any:
    """MU of each field, fraction by fraction."""
    course = said["course"]
    figure, axes = plt.subplots(figsize=WIDE)
    day = course["start_local"].dt.normalize()
    number = day.rank(method="dense").astype(int)
    for label, colour, shift in (("1-1", BLUE, -0.2), ("1-2", ORANGE, 0.2)):
        of = course["field_label"] == label
        below = course[of].groupby(number[of])["mu"].cumsum() - course[of]["mu"]
        name = f"{label} {course[of]['field_name'].iloc[0]}"
        axes.bar(
            number[of] + shift, course[of]["mu"], 0.36, bottom=below, color=colour, label=name, edgecolor="white", linewidth=0.8
        )
    for state, colour, text in (
        (course["end_state"] == "Terminated Fault", RED, "ended in a fault, finished after it"),
        (course["interruptions"] > 0, INK, "was interrupted, and went on"),
    ):
        marked = course[state]
        where = number[state] + marked["field_label"].map({"1-1": -0.2, "1-2": 0.2})
        axes.plot(where, marked["mu"] - 9, "v", color=colour, markersize=7, markeredgecolor="white", label=text)
    axes.set(xlabel="fraction", ylabel="delivered MU", title=f"TEST-0001: {number.max()} fractions, {len(course)} deliveries")
    axes.set_xticks(range(1, number.max() + 1))
    axes.set_ylim(0, course["mu"].max() * 1.32)
    axes.grid(axis="x", visible=False)
    axes.legend(ncols=2, loc="upper left", fontsize=9)
    return figure


def leaf(plt: Any, said: dict[str, Any]) -> Any:
    """One leaf's error over the year, and its bank's."""
    trend, bank = said["trend"], said["bank"]
    figure, axes = plt.subplots(figsize=WIDE)
    axes.plot(trend["week"], trend["rms_mm"], color=RED, linewidth=2)
    axes.plot(bank["week"], bank["rms_mm"], color=FAINT, linewidth=2)
    at = len(trend) // 3
    axes.annotate(
        f"leaf {WORST_LEAF}",
        (trend["week"][at], trend["rms_mm"][at]),
        (0, 14),
        textcoords="offset points",
        color=RED,
        weight="bold",
    )
    axes.annotate("all leaves of the bank", (bank["week"].iloc[0], bank["rms_mm"].iloc[0]), (0, -15), textcoords="offset points")
    if trend["week"].max().date() > MOTOR_CHANGED:
        axes.axvline(MOTOR_CHANGED, color=INK, linewidth=1, linestyle=":")
        axes.annotate("motor changed", (MOTOR_CHANGED, trend["rms_mm"].max()), (6, -4), textcoords="offset points")
    axes.set(ylabel="RMS error, mm", ylim=(0, None), title="Linac 4299, bank Y1: error while the beam is on, by week")
    _months(axes)
    return figure


def faults(plt: Any, said: dict[str, Any]) -> Any:
    """Faults by linac and month."""
    found = said["faults"]
    wide = found.pivot_table(index="month", columns="linac", values="faults", aggfunc="sum").fillna(0)
    total = found.groupby("linac")[["faults", "deliveries"]].sum()
    figure, axes = plt.subplots(figsize=WIDE)
    width = 0.8 / len(wide.columns)
    for place, serial in enumerate(wide.columns):
        label = f"{serial}: {total['faults'][serial]:.0f} of {total['deliveries'][serial]} ({_percent(total, serial)})"
        where = [number + (place - (len(wide.columns) - 1) / 2) * width for number in range(len(wide))]
        axes.bar(where, wide[serial], width * 0.9, color=COLOURS.get(serial, INK), label=label)
    axes.set_xticks(range(len(wide)), [_month(text) for text in wide.index])
    axes.set(ylabel="deliveries ended in a fault", title="Terminated Fault, by linac and month")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right", fontsize=9)
    return figure


def mu_per_day(plt: Any, said: dict[str, Any]) -> Any:
    """MU per day, a row for each linac."""
    mu = said["mu"]
    figure, rows = plt.subplots(len(mu.columns), 1, figsize=(8.0, 4.2), sharex=True, sharey=True)
    for axes, serial in zip(rows, mu.columns, strict=True):
        colour = COLOURS.get(serial, INK)
        axes.bar(mu.index, mu[serial], 1.0, color=colour, alpha=0.35, linewidth=0)
        axes.plot(mu.index, mu[serial].rolling(20, center=True, min_periods=5).mean(), color=colour, linewidth=2)
        axes.text(1.0, 0.96, serial, transform=axes.transAxes, ha="right", va="top", weight="bold", color=colour)
        axes.grid(axis="x", visible=False)
    rows[0].set_title("MU per day, and the mean of 20 days of treatment")
    _months(rows[-1])
    return figure


def replay(plt: Any, said: dict[str, Any]) -> Any:
    """One delivery: what moved and what was delivered over the time, and the leaves at three moments."""
    rows, y1, y2 = said["replay"], said["y1_mm"], said["y2_mm"]
    seconds = (rows["timestamp"] - rows["timestamp"].iloc[0]).dt.total_seconds().to_numpy()
    figure = plt.figure(figsize=(8.0, 4.8))
    left, right = figure.subfigures(1, 2, width_ratios=(1.55, 1))
    panels = left.subplots(3, 1, sharex=True)
    stopped = rows["linac_state"].astype(str).str.startswith("Interrupted").to_numpy()
    for axes, column, label in zip(
        panels, ("gantry_deg", "dose_rate_mu_per_min", "mu"), ("gantry, deg", "dose rate,\nMU/min", "delivered,\nMU"), strict=True
    ):
        axes.plot(seconds, rows[column], color=BLUE, linewidth=1.6)
        axes.fill_between(seconds, 0, 1, where=stopped, transform=axes.get_xaxis_transform(), color=RED, alpha=0.15, linewidth=0)
        axes.set_ylabel(label)
    panels[0].set_title(f"{said['one']['field_label']} {said['one']['field_name']}, {said['one']['start_local']:%d %B %Y}")
    if stopped.any():
        panels[0].text(
            seconds[stopped].mean(),
            0.05,
            "interrupted",
            transform=panels[0].get_xaxis_transform(),
            ha="center",
            color=RED,
            fontsize=9,
        )
    panels[-1].set_xlabel("seconds")
    frames = right.subplots(1, 3, sharey=True)
    delivered = rows["mu"].to_numpy()
    for axes, share, letter in zip(frames, (0.1, 0.5, 0.9), "abc", strict=True):
        at = int((delivered >= share * delivered[-1]).argmax())
        leaves = range(1, 81)
        axes.barh(leaves, y1[at] + y2[at], left=-y1[at], height=1.0, color=BLUE, linewidth=0)
        axes.set_title(f"{letter}: {delivered[at]:.0f} MU", fontsize=9)
        axes.set(xlim=(-60, 60), ylim=(80.5, 0.5), xlabel="mm")
        panels[-1].plot(seconds[at], delivered[at], "o", color=INK, markersize=4)
        panels[-1].annotate(letter, (seconds[at], delivered[at]), (-3, 5), textcoords="offset points", ha="right", weight="bold")
    frames[0].set_ylabel("leaf")
    return figure


def _months(axes: Any) -> None:
    from matplotlib import dates

    made: Any = dates  # whose constructors have no types
    axes.xaxis.set_major_locator(made.MonthLocator())
    axes.xaxis.set_major_formatter(made.DateFormatter("%b"))


def _month(text: str) -> str:
    return ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[int(text[5:7]) - 1]


def _percent(total: Any, serial: str) -> str:
    return f"{100 * total['faults'][serial] / total['deliveries'][serial]:.1f} %"


PICTURES = {
    "question-1-patient": patient,
    "question-2-leaf": leaf,
    "question-3-faults": faults,
    "question-4-mu": mu_per_day,
    "question-5-replay": replay,
}


def draw(records: Path, out: Path) -> list[Path]:
    """Run the page's examples on these records and draw their pictures into `out`; the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    said, _ = answers(records)
    out.mkdir(parents=True, exist_ok=True)
    made = []
    with plt.rc_context(STYLE):
        for name, picture in PICTURES.items():
            figure = picture(plt, said)
            figure.savefig(out / f"{name}.png", dpi=DPI, metadata={"Software": None})
            plt.close(figure)
            made.append(out / f"{name}.png")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw all pictures; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m launch.pictures", description="Draw the pictures in docs/.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the pictures, such as docs/pictures")
    parser.add_argument("--records", type=Path, metavar="FOLDER", help="where the simulated year is, or is to be made")
    parser.add_argument("--days", type=int, default=365, help="make so many days of the year; the course ends on day 88")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="linac-flows-") as here:
        records = (options.records or Path(here) / "records").resolve()
        if not (records / "TRF").is_dir():
            print(f"Making {options.days} days of three simulated linacs in {records} ...", flush=True)
            print(f"{build(records, days=options.days)} deliveries.", flush=True)
        for path in draw(records, options.out):
            print(f"{path} ({path.stat().st_size / 1000:.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
