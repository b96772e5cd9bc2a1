"""Validation accuracy of a study's cells while they trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isopatch.errors import UsageError
from isopatch.report.plots import SERIES
from isopatch.report.run_files import read_run
from isopatch.report.study_figure import Plot
from isopatch.report.study_plots import short_name
from isopatch.report.wording import number, si

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CELLS = 8
Curve = Mapping[str, Any]


def read_curve(run: Path) -> tuple[list[float], list[float]] | None:
    """Return (pictures seen, validation top-1) of a run; None where it logged fewer than two."""
    try:
        files = read_run(run)
    except UsageError:
        return None
    values = files.validation.get("model")
    batch = number(files.config.get("batch_size"))
    if values is None or batch is None:
        return None
    kept = np.isfinite(values["step"] + values["top1"])
    if kept.sum() < 2:
        return None
    return (values["step"][kept] * batch).tolist(), values["top1"][kept].tolist()


def curve_plot(curves: Sequence[Curve], cells: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Return every seed as a thin line and the mean as a thick one, of the cells that ended best.

    curves: {cell, seed, images, top1}. None without any.
    """
    have = {curve["cell"] for curve in curves}
    shown = sorted((cell for cell in cells if cell["cell"] in have), key=lambda cell: -cell["top1"]["mean"])
    if not shown:
        return None
    note = "Validation split. Thin: single seeds."
    if len(shown) > MOST_CELLS:
        note += f" The {MOST_CELLS} best of {len(shown)} cells."
        shown = shown[:MOST_CELLS]

    def draw(axes: Axes) -> None:
        for index, cell in enumerate(shown):
            own = [curve for curve in curves if curve["cell"] == cell["cell"]]
            color, label = SERIES[index % len(SERIES)], short_name(cell, cells)
            aligned = all(curve["images"] == own[0]["images"] for curve in own)
            for curve in own:
                axes.plot(curve["images"], curve["top1"], color=color, linewidth=0.8, alpha=0.35,
                          label=None if aligned else label)  # fmt: skip
                label = label if aligned else ""
            if aligned:
                mean = np.mean([curve["top1"] for curve in own], axis=0)
                axes.plot(own[0]["images"], mean, color=color, linewidth=1.9, label=label)
        axes.yaxis.set_major_formatter(lambda value, _position: f"{100 * value:g} %")
        axes.xaxis.set_major_formatter(lambda value, _position: si(value))
        axes.set_xlabel("pictures seen")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=8)
        box = axes.get_position()
        axes.set_position((box.x0, box.y0, 0.56, box.height))

    return Plot("curves", "While they trained", note, draw, size=(8.2, 3.2), left=0.08)
