"""Small pictures for reports: SVG made here, shown as data, so that a page fetches nothing from anywhere."""

import base64
import itertools
from collections.abc import Sequence
from xml.sax.saxutils import escape

from linac.capture.steadiness import Steadiness, Trips

WIDTH, HEIGHT = 760, 250
LEFT, RIGHT, TOP = 104, 24, 34
PANEL = 78
GAP = 26
INK, FAINT, BLUE, RED = "#333", "#ccc", "#2563eb", "#dc2626"


def as_image(svg: str, text: str) -> str:
    """Markdown that shows the picture; `text` is for those who do not see it.

    >>> as_image("<svg/>", "nothing")
    '![nothing](data:image/svg+xml;base64,PHN2Zy8+)'
    """
    return f"![{text}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def draw_arrivals(times: Sequence[float], steady: Steadiness, trips: Trips, title: str) -> str:
    """Two panels over the same seconds: the time from each message to the next, and the round trips. What was lost is red."""
    seconds = max(steady.seconds, times[-1] if times else 0.0, 0.1)
    between = [(later, (later - earlier) * 1000) for earlier, later in itertools.pairwise(times)]
    top = _panel(TOP, "ms between\nmessages", seconds, between, line=250.0 if steady.rate_hz < 6 else None)
    answers = [(trip.seconds, trip.ms) for trip in trips.trips if trip.ms is not None]
    bottom = _panel(TOP + PANEL + GAP, "round trip\nms", seconds, answers)
    for cut in steady.breaks:
        top += _mark(TOP, cut.seconds / seconds)
    for trip in trips.trips if trips.known else ():
        if trip.ms is None:
            bottom += _mark(TOP + PANEL + GAP, trip.seconds / seconds)
    digits = 1 if seconds < 20 else 0
    axis = "".join(_text(_x(part / 4), HEIGHT - 10, f"{seconds * part / 4:.{digits}f} s", "middle") for part in range(5))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="{INK}"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{LEFT}" y="18" font-size="13">{escape(title)}</text>{top}{bottom}{axis}</svg>'
    )


def _panel(y: int, label: str, seconds: float, points: Sequence[tuple[float, float]], line: float | None = None) -> str:
    """One curve in its frame, from 0 to its highest value."""
    highest = max([value for _, value in points] + [line or 0.0, 0.001]) * 1.1
    first, _, second = label.partition("\n")
    made = f'<rect x="{LEFT}" y="{y}" width="{WIDTH - LEFT - RIGHT}" height="{PANEL}" fill="none" stroke="{FAINT}"/>'
    made += _text(4, y + 34, first) + _text(4, y + 48, second)
    made += _text(LEFT - 4, y + 10, f"{highest:.3g}", "end") + _text(LEFT - 4, y + PANEL, "0", "end")
    if line is not None:
        at = y + PANEL * (1 - line / highest)
        made += f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="{FAINT}" stroke-dasharray="4 4"/>'
    if not points:
        return made + _text(LEFT + 10, y + PANEL // 2, "nothing was measured")
    drawn = " ".join(f"{_x(at / seconds):.1f},{y + PANEL * (1 - value / highest):.1f}" for at, value in _thinned(points, seconds))
    return made + f'<polyline points="{drawn}" fill="none" stroke="{BLUE}" stroke-width="1.2"/>'


def _thinned(points: Sequence[tuple[float, float]], seconds: float) -> list[tuple[float, float]]:
    """At most one point for each dot of the width: the highest, as the worst is what matters."""
    kept: dict[int, tuple[float, float]] = {}
    for at, value in points:
        dot = round(at / seconds * (WIDTH - LEFT - RIGHT))
        if dot not in kept or value > kept[dot][1]:
            kept[dot] = (at, value)
    return [kept[dot] for dot in sorted(kept)]


def _mark(y: int, part: float) -> str:
    return f'<line x1="{_x(part):.1f}" x2="{_x(part):.1f}" y1="{y}" y2="{y + PANEL}" stroke="{RED}" stroke-width="2"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _x(part: float) -> float:
    return LEFT + min(max(part, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)
