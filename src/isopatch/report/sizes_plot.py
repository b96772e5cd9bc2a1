"""A model at several picture sizes as a picture: accuracy above, speed below, the trained size marked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isopatch.files import replace_file
from isopatch.report.intervals import wilson
from isopatch.report.plots import INK, SERIES, STYLE
from isopatch.report.png import QUIET, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
_LABEL: Any = {
    "textcoords": "offset points",
    "fontsize": 8.5,
    "color": QUIET,
    "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
}


def default_file(document: Mapping[str, Any]) -> Path:
    """Where the plot goes: into a run's folder; for other weights into the current one, with their name."""
    source, split = Path(document["checkpoint"]), document["split"]
    if (source / "config.yaml").is_file():
        return source / f"sizes-{split}.png"
    return Path(f"{source.name.split('.')[0] or 'model'}-sizes-{split}.png")


def write_sizes_plot(document: Mapping[str, Any], path: Path) -> None:
    """Draw the document of `isopatch.evaluate_sizes`; sizes that were refused are named, not drawn."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    measured = sorted((row for row in document["sizes"] if row["refused"] is None), key=_side)
    refused = [_name(row) for row in document["sizes"] if row["refused"] is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 5.4), facecolor="white")
        figure.subplots_adjust(left=0.1, right=0.96, top=0.82, bottom=0.12, hspace=0.3)
        accuracy, rate = figure.subplots(2, 1, sharex=True)
        figure.text(0.03, 0.965, document["model"], fontsize=12, fontweight="bold", va="top")
        figure.text(0.03, 0.92, _subtitle(document), fontsize=9, va="top", color=QUIET)
        _draw_accuracy(accuracy, measured)
        _draw_speed(rate, measured)
        _mark_trained(accuracy, rate, document["trained_size"])
        ticks, _ = _curve_and_others(measured)
        rate.set_xticks([_side(row) for row in ticks], [_name(row) for row in ticks])
        if _crowded(ticks):
            rate.tick_params(axis="x", rotation=30)
        note = f"; not possible: {', '.join(refused)}" if refused else ""
        rate.set_xlabel(f"picture size in pixels{note}")
        picture = to_png(figure)
    replace_file(path, picture)


def _draw_accuracy(axes: Axes, rows: list[Row]) -> None:
    middle = {_name(row): 100 * row["top1"] for row in rows}
    ends = {_name(row): wilson(row["num_correct"], row["num_images"]) for row in rows}
    _draw(
        axes, rows, middle, {name: (100 * low, 100 * high) for name, (low, high) in ends.items()}, SERIES[0]
    )
    axes.set_title("top-1 accuracy in %, with its 95 % interval", loc="left", fontsize=9.5)


def _draw_speed(axes: Axes, rows: list[Row]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    middle = {_name(row): row["images_per_second"]["median"] for row in rows}
    _draw(axes, rows, middle, {_name(r): r["images_per_second"]["quartiles"] for r in rows}, SERIES[1])
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter(lambda value, _position: f"{value:,g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(
        "images/s of the model alone: median and quartiles of the batches", loc="left", fontsize=9.5
    )


def _draw(
    axes: Axes, rows: list[Row], y: Mapping[str, float], ends: Mapping[str, Sequence[float]], color: str
) -> None:
    """Draw squares as a curve, rectangles beside it, each with its spread; the trained size is filled."""
    curve, others = _curve_and_others(rows)
    axes.plot([_side(row) for row in curve], [y[_name(row)] for row in curve], color=color, linewidth=1.8)
    for row in rows:
        name, x = _name(row), _side(row)
        axes.plot([x, x], ends[name], color=color, linewidth=1.2, alpha=0.55, solid_capstyle="butt")
        marker = "o" if row in curve else "D"
        face = color if row["trained"] else "white"
        axes.plot(x, y[name], marker, color=color, markerfacecolor=face, markersize=5.5, markeredgewidth=1.5)
    for row in others:
        place = (_side(row), y[_name(row)])
        axes.annotate(_name(row), place, xytext=(0, -17), ha="center", **_LABEL)
    axes.margins(x=0.05, y=0.12)


def _mark_trained(accuracy: Axes, rate: Axes, size: Sequence[int]) -> None:
    x = math.sqrt(size[0] * size[1])
    for axes in (accuracy, rate):
        axes.axvline(x, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), alpha=0.5, zorder=0)
    rate.annotate(
        f"trained at {size[0]}x{size[1]}",
        (x, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(5, -3),
        va="top",
        **_LABEL,
    )


def _curve_and_others(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Squares lie on the curve and the axis; rectangles beside them, at the root of their area, by name."""
    squares = [row for row in rows if row["image_size"][0] == row["image_size"][1]]
    return (squares, [row for row in rows if row not in squares]) if squares else (rows, [])


def _subtitle(document: Mapping[str, Any]) -> str:
    data = Path(document["data"]).name or document["data"]
    return (
        f"{document['split']} split of {data}, {document['num_images']:,} pictures; "
        f"{document['device']}, {document['precision']}, {document['kernels']} kernels, "
        f"threads: {document['threads']}"
    )


def _side(row: Row) -> float:
    return math.sqrt(row["image_size"][0] * row["image_size"][1])


def _name(row: Row) -> str:
    rows, columns = row["image_size"]
    return str(rows) if rows == columns else f"{rows}x{columns}"


def _crowded(rows: list[Row]) -> bool:
    sides = [_side(row) for row in rows]
    gaps = [second - first for first, second in itertools.pairwise(sides)]
    return bool(gaps) and min(gaps) < 0.07 * (sides[-1] - sides[0])
