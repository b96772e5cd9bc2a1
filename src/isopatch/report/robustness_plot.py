"""The robustness suite as one picture: damage, shuffled tiles, calibration, risk against coverage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isopatch.files import replace_file
from isopatch.report.plots import GRID, INK, SERIES, STYLE
from isopatch.report.png import QUIET, to_png
from isopatch.report.wording import decimal

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_robustness_plot(document: Mapping[str, Any], path: Path) -> None:
    """Draw a robustness document as PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 7.2), facecolor="white")
        grid = figure.add_gridspec(
            2, 3, left=0.06, right=0.97, top=0.85, bottom=0.08, hspace=0.36, wspace=0.28
        )
        figure.text(0.03, 0.97, f"{document['model']}, damaged", fontsize=12.5, fontweight="bold", va="top")
        data = Path(document["data"]).name or document["data"]
        subtitle = (
            f"{document['split']} split of {data}: {document['num_images']:,} pictures clean, "
            f"{document['damaged_images']:,} damaged; isopatch's own corruptions, not ImageNet-C"
        )
        figure.text(0.03, 0.93, subtitle, fontsize=9, va="top", color=QUIET)
        _draw_damage(figure.add_subplot(grid[0, :]), document)
        _draw_tiles(figure.add_subplot(grid[1, 0]), document)
        _draw_calibration(figure.add_subplot(grid[1, 1]), document["calibration"])
        _draw_risk(figure.add_subplot(grid[1, 2]), document["calibration"]["selective"])
        picture = to_png(figure)
    replace_file(path, picture)


def _percent_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda value, _position: f"{100 * value:g} %")


def _draw_damage(axes: Axes, document: Mapping[str, Any]) -> None:
    clean = document["clean_sample"]["top1"]
    dashes: list[Any] = ["solid", (0, (4, 2))]
    for index, row in enumerate(document["corruptions"]):
        y = [clean, *(level["top1"] for level in row["levels"])]
        axes.plot(
            range(len(y)), y, label=row["name"], linewidth=1.6, marker="o", markersize=3,
            color=SERIES[index % len(SERIES)], linestyle=dashes[index // len(SERIES) % 2],
        )  # fmt: skip
    _percent_axis(axes)
    axes.set_ylim(bottom=0)
    axes.set_box_aspect(0.335)
    axes.set_anchor("W")
    axes.set_xlabel("level; 0: as it is")
    axes.set_title("top-1 by level of damage", loc="left", fontsize=9.5)
    if document["corruptions"]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02))


def _draw_tiles(axes: Axes, document: Mapping[str, Any]) -> None:
    rows = document["shuffled"]
    x = list(range(len(rows) + 1))
    clean = document["clean_sample"]
    for place, row in zip(x, [clean, *rows], strict=True):
        axes.plot([place, place], row["interval"], color=SERIES[0], linewidth=1.2, alpha=0.55)
    axes.plot(x, [clean["top1"], *(row["top1"] for row in rows)], color=SERIES[0], linewidth=1.8, marker="o")
    axes.axhline(document["chance"], color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.5)
    axes.annotate(
        "always the commonest class", (0, document["chance"]), xytext=(0, -11), textcoords="offset points",
        fontsize=8, color=QUIET,
    )  # fmt: skip
    names = [
        "as it is",
        *(f"{r['tiles'][0]} x {r['tiles'][1]}{chr(10) + 'its patches' * r['patches']}" for r in rows),
    ]
    axes.set_xticks(x, names)
    _percent_axis(axes)
    axes.set_ylim(bottom=0)
    axes.set_title("top-1, tiles in another order", loc="left", fontsize=9.5)


def _draw_calibration(axes: Axes, calibration: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2, linestyle=(0, (4, 3)))
    named = [("before", "as it is"), ("after", f"temperature {decimal(calibration['temperature'], 2)}")]
    if calibration["at_the_end"]:
        named = named[:1]
    for color, (key, name) in zip(SERIES, named, strict=False):
        bins = [row for row in calibration[key]["bins"] if row["images"]]
        confidence, accuracy = ([row[which] for row in bins] for which in ("confidence", "accuracy"))
        most = max(row["images"] for row in bins)
        sizes = [6 + 60 * row["images"] / most for row in bins]
        label = f"{name}, ece {decimal(calibration[key]['ece'], 3)}"
        axes.plot(confidence, accuracy, color=color, linewidth=1.3, label=label)
        axes.scatter(confidence, accuracy, s=sizes, color=color, linewidths=0)
    _percent_axis(axes)
    axes.xaxis.set_major_formatter(lambda value, _position: f"{100 * value:g} %")
    axes.set_xlabel("confidence; area: pictures")
    axes.set_title("share right by confidence", loc="left", fontsize=9.5)
    axes.legend(fontsize=8, loc="upper left")


def _draw_risk(axes: Axes, selective: Mapping[str, Any]) -> None:
    coverage, risk = zip(*selective["curve"], strict=True)
    axes.plot(coverage, risk, color=SERIES[4], linewidth=1.8)
    _percent_axis(axes)
    axes.xaxis.set_major_formatter(lambda value, _position: f"{100 * value:g} %")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share answered, the surest first")
    axes.set_title("share wrong among the answered", loc="left", fontsize=9.5)
