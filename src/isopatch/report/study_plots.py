"""The plots of a study: verdicts, accuracy by level of a factor, accuracy against cost.

They draw the dictionaries of `isopatch.study.analyse.Analysis.to_dict`: `cells`, `verdicts`, `fronts`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from isopatch.report.plots import GRID, INK, SERIES
from isopatch.report.study_figure import Plot
from isopatch.report.study_metrics import COSTS, metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cell = Mapping[str, Any]
OUTCOME_COLORS = {"supported": SERIES[2], "contradicted": SERIES[4], "not certain": SERIES[7]}
MOST_SERIES = 6
MOST_NAMES = 7  # on a Pareto front, before their names cover each other
MARKERS = ("o", "s", "^", "D", "v")
_SAME = 1.02  # costs within 2 % are one cost


def verdict_plot(verdicts: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Return the differences with their intervals, where they are in points; None without any."""
    shown = [v for v in verdicts if v["difference"] is not None and metric_of(v["metric"]).scale == 100]
    if not shown:
        return None
    lines = [textwrap.wrap(v["claim"], 40, max_lines=3, placeholder=" ...") for v in shown]

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1.0, alpha=0.6, zorder=0)
        for row, verdict in enumerate(shown):
            color = OUTCOME_COLORS[verdict["outcome"]]
            if verdict["expect"] == "equal" and verdict["margin"]:
                margin = 100 * verdict["margin"]
                axes.fill_betweenx([row - 0.36, row + 0.36], -margin, margin, color=GRID, alpha=0.55, lw=0)
            if verdict["interval"]:
                ends = [100 * end for end in verdict["interval"]]
                axes.plot(ends, [row, row], color=color, linewidth=2.4, alpha=0.55, solid_capstyle="butt")
            for _, mean in verdict["blocks"]:
                axes.plot(100 * mean, row, "|", color=color, markersize=8, alpha=0.6)
            axes.plot(100 * verdict["difference"], row, "o", color=color, markersize=7)
        axes.set_yticks(range(len(shown)), ["\n".join(wrapped) for wrapped in lines])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel("difference in points; bar: 95 % interval; strokes: cells of the other factors")
        axes.margins(x=0.08)

    height = 0.62 + sum(0.24 + 0.15 * len(wrapped) for wrapped in lines)
    note = "Green: supported, red: contradicted, grey: not certain. A grey band is what counts as equal."
    return Plot("verdicts", "What was to be tested", note, draw, size=(8.2, height), left=0.38, grid="x")


def cells_plot(cells: Sequence[Cell]) -> Plot | None:
    """Return all cells by accuracy: mean, Student's interval and every single run."""
    if len(cells) < 2:
        return None
    shown = sorted(cells, key=lambda cell: -cell["top1"]["mean"])
    names = [short_name(cell, cells) for cell in shown]

    def draw(axes: Axes) -> None:
        for row, cell in enumerate(shown):
            _with_interval(axes, cell, row, SERIES[0], horizontal=True)
        axes.set_yticks(range(len(shown)), [textwrap.shorten(name, 52, placeholder=" ...") for name in names])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.xaxis.set_major_formatter(lambda value, _position: f"{100 * value:g} %")
        axes.set_xlabel(f"top-1 on {shown[0]['split']}; bar: 95 % interval; small dots: single runs")
        _clip_to_runs(axes, cells, "x")

    left = min(0.5, 0.03 + 0.0098 * max(map(len, (name[:52] for name in names))))
    height = 0.7 + 0.23 * len(shown)
    return Plot("cells", "All cells", "The best first.", draw, size=(8.2, height), left=left, grid="x")


def factor_plot(cells: Sequence[Cell], factor: str, names: Sequence[str]) -> Plot | None:
    """Return accuracy by level of one factor, a series for every combination of the others.

    Where there are too many combinations they are grey and their mean, over those that have every level, is
    drawn on top. None where fewer than two levels have results.
    """
    levels = [name for name in names if any(cell["levels"].get(factor) == name for cell in cells)]
    if len(levels) < 2:
        return None
    groups: dict[tuple[str, ...], dict[str, Cell]] = {}
    for cell in cells:
        others = tuple(value for key, value in cell["levels"].items() if key != factor)
        groups.setdefault(others, {})[cell["levels"][factor]] = cell
    keys = [key for key in cells[0]["levels"] if key != factor]
    varying = [i for i in range(len(keys)) if len({group[i] for group in groups}) > 1]
    groups = {key: found for key, found in groups.items() if len(found) > 1}
    if not groups:
        return None
    numeric = all(_is_number(level) for level in levels)
    many = len(groups) > MOST_SERIES

    def draw(axes: Axes) -> None:
        width = 0.0 if len(groups) == 1 or many else 0.36
        for index, members in enumerate(groups.values()):
            shift = width * (index / max(1, len(groups) - 1) - 0.5)
            places = [levels.index(level) + shift for level in levels if level in members]
            found = [members[level] for level in levels if level in members]
            color = SERIES[7] if many else SERIES[index % len(SERIES)]
            means = [cell["top1"]["mean"] for cell in found]
            style = "solid" if numeric else (0, (1, 3))
            axes.plot(places, means, color=color, linewidth=1.5 if numeric else 1.0, linestyle=style,
                      alpha=0.35 if many else 0.7)  # fmt: skip
            if not many:
                for place, cell in zip(places, found, strict=True):
                    _with_interval(axes, cell, place, color, horizontal=False)
        complete = [members for members in groups.values() if len(members) == len(levels)]
        if many and complete:
            over = [_mean(members[level]["top1"]["mean"] for members in complete) for level in levels]
            axes.plot(range(len(levels)), over, "o-", color=SERIES[0], linewidth=2.2, markersize=6)
        axes.set_xticks(range(len(levels)), [textwrap.fill(level, 14) for level in levels])
        axes.set_xlim(-0.5, len(levels) - 0.5)
        axes.yaxis.set_major_formatter(lambda value, _position: f"{100 * value:g} %")
        axes.set_xlabel(factor)
        if not many:
            _clip_to_runs(axes, cells, "y")
        _legend(axes, entries)

    entries = (
        {}
        if many or len(groups) == 1
        else {
            " · ".join(_said(keys[i], key[i]) for i in varying): SERIES[index % len(SERIES)]
            for index, key in enumerate(groups)
        }
    )
    note = (
        f"Grey: the {len(groups)} combinations of the other factors; blue: the mean of the complete ones."
        if many
        else "Mean, 95 % interval and single runs."
    )
    title = f"Accuracy by {factor.replace('_', ' ')}"
    return Plot(f"by-{factor.replace('_', '-')}", title, note, draw, legend_rows=_legend_rows(list(entries)))


def pareto_plot(cells: Sequence[Cell], front: Sequence[str], column: str) -> Plot | None:
    """Return accuracy against one cost with the front; None where the cost hardly differs."""
    known = [cell for cell in cells if cell["costs"].get(column)]
    costs = [cell["costs"][column] for cell in known]
    if len(known) < 2 or max(costs) <= _SAME * min(costs):
        return None
    name, more_is_better = COSTS[column]
    by_color, by_marker = _told_apart_by(known)

    def draw(axes: Axes) -> None:
        if max(costs) > 3 * min(costs):
            axes.set_xscale("log")
        axes.margins(x=0.12, y=0.16)
        for cell, cost in zip(known, costs, strict=True):
            color = SERIES[_place(cell, by_color, known)]
            mean, ends = cell["top1"]["mean"], cell["top1"]["t"]
            if ends:
                axes.plot([cost, cost], ends, color=color, linewidth=1.2, alpha=0.3)
            on_front = cell["cell"] in front
            axes.plot(cost, mean, MARKERS[_place(cell, by_marker, known)], color=color, markersize=6.5,
                      zorder=3, markerfacecolor=color if on_front else "none",
                      markeredgewidth=1.4)  # fmt: skip
        steps = [cell for name_ in front for cell in known if cell["cell"] == name_]
        axes.plot([c["costs"][column] for c in steps], [c["top1"]["mean"] for c in steps], color=INK,
                  linewidth=1.0, alpha=0.55, drawstyle="steps-post", zorder=1)  # fmt: skip
        _clip_to_runs(axes, known, "y", above=0.14)
        if len({tuple(_levels(cell, (by_color, by_marker))) for cell in known}) < len(known):
            _name_front(axes, steps, cells, column)
        _plain_log(axes, column)
        axes.yaxis.set_major_formatter(lambda value, _position: f"{100 * value:g} %")
        axes.set_xlabel(name + (" (more is better)" if more_is_better else ""))
        _legend(axes, entries, marks)

    entries = {_said(by_color, level): SERIES[i] for i, level in enumerate(_found(by_color, known))}
    marks = {_said(by_marker, level): MARKERS[i] for i, level in enumerate(_found(by_marker, known))}
    title = f"Accuracy against {name}"
    file = f"pareto-{column.replace('_', '-')}"
    note = "Filled: on the Pareto front."
    return Plot(
        file, title, note, draw, size=(5.4, 3.1), legend_rows=_legend_rows([*entries, *marks]), grid="both"
    )


def short_name(cell: Cell, cells: Sequence[Cell]) -> str:
    """The levels that tell this cell from the others."""
    varying = [key for key in cell["levels"] if len({other["levels"].get(key) for other in cells}) > 1]
    return " · ".join(_said(key, cell["levels"][key]) for key in varying) or cell["cell"]


def _said(factor: str | None, level: str) -> str:
    """A level that does not speak for itself gets its factor's name before it."""
    return f"{factor} {level}" if _is_number(level) or level in ("true", "false", "none") else level


def _with_interval(axes: Axes, cell: Cell, at: float, color: str, *, horizontal: bool) -> None:
    mean, ends = cell["top1"]["mean"], cell["top1"]["t"]

    def plot(values: Sequence[float], *style: str, **options: Any) -> None:
        places = [at] * len(values)
        axes.plot(*((values, places) if horizontal else (places, values)), *style, **options)

    if ends:
        plot(ends, color=color, linewidth=2.2, alpha=0.35, solid_capstyle="butt")
    plot(cell["values"], "o", color=color, markersize=3.2, alpha=0.55, markeredgewidth=0)
    plot([mean], "o", color=color, markersize=6)


def _clip_to_runs(axes: Axes, cells: Sequence[Cell], axis: str, above: float = 0.06) -> None:
    """Keep wide intervals of few seeds from squeezing the results: at most half the range on either side.

    above: the margin at the upper end, as a share of the range.
    """
    values = [value for cell in cells for value in cell["values"]]
    ends = [end for cell in cells if cell["top1"]["t"] for end in cell["top1"]["t"]]
    low, high = min(values), max(values)
    room = max(0.5 * (high - low), 0.004)
    low_end = max(min([*ends, low]), low - room, min(0.0, low))
    high_end = min(max([*ends, high]), high + room, max(1.0, high))  # no share is above 100 %
    span = (high_end - low_end) or 0.06
    (axes.set_xlim if axis == "x" else axes.set_ylim)(low_end - 0.06 * span, high_end + above * span)


def _legend(axes: Axes, entries: Mapping[str, str], marks: Mapping[str, str] | None = None) -> None:
    """A row or more above the axes: coloured dots, then the grey marks of a second factor."""
    from matplotlib.lines import Line2D

    shown = {
        name: Line2D([], [], marker="o", linestyle="none", color=color) for name, color in entries.items()
    }
    for name, mark in (marks or {}).items():
        shown[name] = Line2D([], [], marker=mark, linestyle="none", color=INK, markerfacecolor="none")
    if shown:
        axes.legend(list(shown.values()), list(shown), loc="lower right", bbox_to_anchor=(1.01, 1.0),
                    fontsize=8, ncols=_columns(list(shown)), borderaxespad=0.1, handletextpad=0.1,
                    columnspacing=0.9)  # fmt: skip


def _columns(entries: Sequence[str]) -> int:
    """As many columns as fit above a chart: every column is as wide as its longest entry."""
    widest = max(map(len, entries))
    return max(1, min(len(entries), 76 // (widest + 4)))


def _legend_rows(entries: Sequence[str]) -> int:
    return math.ceil(len(entries) / _columns(entries)) if entries else 0


def _name_front(axes: Axes, steps: Sequence[Cell], cells: Sequence[Cell], column: str) -> None:
    if len(steps) > MOST_NAMES:
        return
    low, high = axes.get_xlim()
    for cell in steps:
        cost = cell["costs"][column]
        share = (
            math.log(cost / low) / math.log(high / low)
            if axes.get_xscale() == "log"
            else (cost - low) / (high - low)
        )
        side = "left" if share < 0.25 else "right" if share > 0.75 else "center"
        axes.annotate(textwrap.shorten(short_name(cell, cells), 34, placeholder=" ..."),
                      (cost, cell["top1"]["mean"]), textcoords="offset points", xytext=(0, 7), ha=side,
                      fontsize=7.5, color=INK, annotation_clip=True)  # fmt: skip


def _told_apart_by(cells: Sequence[Cell]) -> tuple[str | None, str | None]:
    """The factors that colours and marks show: the two with most levels that have enough of them."""
    levels = {name: len(_found(name, cells)) for name in cells[0]["levels"]}
    ranked = sorted((name for name in levels if levels[name] > 1), key=lambda name: -levels[name])
    color = next((name for name in ranked if levels[name] <= len(SERIES)), None)
    fitting = (name for name in ranked if name != color and levels[name] <= len(MARKERS))
    return color, next(fitting, None)


def _found(factor: str | None, cells: Sequence[Cell]) -> list[str]:
    """The levels of a factor that occur, in order; none of no factor."""
    return [] if factor is None else list(dict.fromkeys(cell["levels"][factor] for cell in cells))


def _place(cell: Cell, factor: str | None, cells: Sequence[Cell]) -> int:
    return 0 if factor is None else _found(factor, cells).index(cell["levels"][factor])


def _levels(cell: Cell, factors: Sequence[str | None]) -> list[str]:
    return [cell["levels"][name] for name in factors if name is not None]


def _plain_log(axes: Axes, column: str) -> None:
    """Ticks as people write them: 200 k, 1 M; not in powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    from isopatch.report.study_metrics import cost_text

    if axes.get_xscale() == "log":
        low, high = axes.get_xlim()
        subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=12))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _position: cost_text(column, value) if value > 0 else "0")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _mean(values: Any) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
