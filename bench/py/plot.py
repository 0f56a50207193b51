"""Rows of dots on a logarithmic axis as SVG, by hand: readable in light and dark, and without
colour, since each series has a shape of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from stats import Ratio


class Dot(NamedTuple):
    series: str
    value: Ratio


class Line(NamedTuple):
    label: str
    dots: Sequence[Dot]


class Panel(NamedTuple):
    title: str
    lines: Sequence[Line]


#: Series -> shape, colour on white and on black (of a palette that colour-blind people can tell
#: apart).
SERIES = {
    "taut": ("disc", "#0b5cad", "#6cb6ff"),
    "taut-stdlib": ("ring", "#0b5cad", "#6cb6ff"),
    "asyncio": ("cross", "#59636e", "#9198a1"),
    "rloop": ("triangle", "#b35900", "#f0a35e"),
    "rsloop": ("square", "#8a3b9b", "#d6a1e4"),
    "zuvloop": ("diamond", "#1a7f37", "#57c878"),
    "C epoll": ("bar", "#59636e", "#9198a1"),
}
WIDTH, LEFT, RIGHT = 920, 210, 90
ROW, TOP, TITLE, GAP, FOOT = 22, 74, 30, 14, 30
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
#: Whose number stands at the end of each line.
NAMED = "taut"

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 12px; fill: #59636e }
.head { font-size: 15px; font-weight: 600 }
.paper { fill: #ffffff }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.one { stroke: #59636e; stroke-width: 1.5 }
.band { fill: #f6f8fa }
"""
DARK = """
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.paper { fill: #0d1117 }
.grid { stroke: #30363d }
.one { stroke: #9198a1 }
.band { fill: #161b22 }
"""


def css_class(series: str) -> str:
    return "s-" + series.replace(" ", "-")


def style() -> str:
    def colours(which: int) -> str:
        rules = []
        for series, look in SERIES.items():
            name, colour = css_class(series), look[which]
            # Twice the class: stronger than the rules of shapes.
            rules.append(f".{name} {{ fill: {colour}; stroke: {colour} }}")
            rules.append(f".{name}.open {{ fill: none }}")
        return "\n".join(rules)

    dark = f"@media (prefers-color-scheme: dark) {{{DARK}{colours(2)}\n}}"
    return f"<style>{STYLE}{colours(1)}\n{dark}</style>"


def mark(series: str, x: float, y: float) -> str:
    shape = SERIES[series][0]
    name = css_class(series)
    if shape in ("disc", "ring"):
        kind, radius = ("open", 4.5) if shape == "ring" else ("", 5.5)
        at = f'cx="{x:.1f}" cy="{y}" r="{radius}"'
        return f'<circle class="{name} {kind}" stroke-width="2" {at}/>'
    paths = {
        "cross": "m-4-4l8 8m0-8l-8 8",
        "triangle": "m0-5.5l5.5 9.5h-11z",
        "square": "m-4.5-4.5h9v9h-9z",
        "diamond": "m0-6l5.5 6l-5.5 6l-5.5-6z",
        "bar": "m0-8v16",
    }
    thick = 3 if shape == "bar" else 2 if shape == "cross" else 0
    path = f"M{x:.1f} {y}{paths[shape]}"
    return f'<path class="{name}" stroke-width="{thick}" d="{path}"/>'


class Axis:
    """From ratios to places: logarithmic, 1 always among them."""

    def __init__(self, panels: Sequence[Panel]) -> None:
        values = [v for p in panels for line in p.lines for d in line.dots for v in d.value]
        self.low = min([0.9, *values]) * 0.94
        self.high = max([1.1, *values]) * 1.06

    def at(self, value: float) -> float:
        whole = math.log(self.high / self.low)
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(value / self.low) / whole

    def ticks(self) -> list[float]:
        return [tick for tick in TICKS if self.low <= tick <= self.high]


def grid(axis: Axis, top: float, bottom: float) -> list[str]:
    made = []
    for tick in axis.ticks():
        x, kind = axis.at(tick), "one" if tick == 1 else "grid"
        made.append(f'<path class="{kind}" d="M{x:.1f} {top}V{bottom}"/>')
    return made


def tick_labels(axis: Axis, y: float) -> list[str]:
    return [
        f'<text class="small" text-anchor="middle" x="{axis.at(tick):.1f}" y="{y}">{tick:g}x</text>'
        for tick in axis.ticks()
    ]


def draw_line(axis: Axis, line: Line, y: float) -> list[str]:
    middle = y + ROW / 2
    made = [f'<text text-anchor="end" x="{LEFT - 12}" y="{middle + 4}">{escape(line.label)}</text>']
    # Whoever is named last is on top.
    for dot in sorted(line.dots, key=lambda d: list(SERIES).index(d.series), reverse=True):
        name, value = css_class(dot.series), dot.value
        low, high = axis.at(value.low), axis.at(value.high)
        about = f"{line.label}, {dot.series}: {value}"
        made.append(f"<g><title>{escape(about)}</title>")
        made.append(
            f'<path class="{name}" stroke-width="1.5" opacity="0.6"'
            f' d="M{low:.1f} {middle}H{high:.1f}"/>'
        )
        made.append(mark(dot.series, axis.at(value.value), middle) + "</g>")
        if dot.series == NAMED:
            at = f'x="{WIDTH - RIGHT + 12}" y="{middle + 4}"'
            made.append(f"<text {at}>{value.value:.2f}x</text>")
    return made


def legend(series: Sequence[str], y: float) -> list[str]:
    made, x = [], float(LEFT)
    for name in series:
        made.append(mark(name, x + 6, y))
        made.append(f'<text x="{x + 18}" y="{y + 4}">{escape(name)}</text>')
        x += 34 + 7.4 * len(name)
    return made


def draw(panels: Sequence[Panel], title: str) -> str:
    """The picture of the panels, one below the other on one axis."""
    axis = Axis(panels)
    present = {dot.series for p in panels for line in p.lines for dot in line.dots}
    used = [name for name in SERIES if name in present]
    body, y = legend(used, 48), float(TOP)
    for panel in panels:
        body.append(f'<text class="head" x="16" y="{y + 18}">{escape(panel.title)}</text>')
        top = y + TITLE
        bottom = top + ROW * len(panel.lines)
        for number in range(0, len(panel.lines), 2):
            at = top + ROW * number
            body.append(f'<rect class="band" x="0" y="{at}" width="{WIDTH}" height="{ROW}"/>')
        body += grid(axis, top, bottom)
        body += tick_labels(axis, y + 20)
        for number, line in enumerate(panel.lines):
            body += draw_line(axis, line, top + ROW * number)
        y = bottom + GAP
    body.append(
        f'<text class="small" x="16" y="{y + 14}">Dots are medians over interleaved rounds, lines'
        f" their 95 % intervals; the number at the right is {NAMED}'s.</text>"
    )
    height = y + FOOT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {height:g}"'
        f' width="{WIDTH}" height="{height:g}"><title>{escape(title)}</title>'
    )
    paper = f'<rect class="paper" width="{WIDTH}" height="{height:g}"/>'
    name = f'<text class="head" x="16" y="26">{escape(title)}</text>'
    return "\n".join([head, style(), paper, name, *body, "</svg>"]) + "\n"
