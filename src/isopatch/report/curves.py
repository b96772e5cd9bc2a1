"""The charts of a run: loss, validation, learning rate, speed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from isopatch.report.plots import SERIES, Line, line_chart
from isopatch.report.run_files import Columns, RunFiles

_WEIGHTS = {"model": "validation", "ema": "validation, moving average"}


@dataclass(frozen=True)
class Chart:
    """A titled chart with an optional sentence below it."""

    title: str
    svg: Markup
    note: str = ""


def run_charts(run: RunFiles) -> list[Chart]:
    """Return the charts a run's metrics allow, in reading order; an empty list without metrics."""
    x_name, x_label = x_axis([run])
    train = run.train
    found: list[Chart | None] = [
        _chart(
            "Loss",
            [
                Line("training", train[x_name], train["loss"], SERIES[0], band=True),
                *(_line(kind, values, x_name, "nll") for kind, values in run.validation.items()),
            ],
            x_label,
            note="Training: what is minimised, with its label smoothing and mixing; validation: plain "
            "negative log-likelihood.",
        ),
        _chart(
            "Validation top-1",
            [_line(kind, values, x_name, "top1") for kind, values in run.validation.items()],
            x_label,
            percent=True,
        ),
        _chart("Learning rate", [Line("rate", train[x_name], train["lr"], SERIES[3])], x_label, zero=True),
        _chart(
            "Images per second",
            [Line("speed", train[x_name], train["images_per_second"], SERIES[5], band=True)],
            x_label,
            zero=True,
        ),
        _chart(
            "Gradient norm",
            [Line("norm", train[x_name], train["grad_norm"], SERIES[6], band=True)],
            x_label,
            note="Before clipping, where the recipe clips.",
            zero=True,
        ),
    ]
    return [chart for chart in found if chart is not None]


def x_axis(runs: list[RunFiles]) -> tuple[str, str]:
    """Return the column and label of the x axis: epochs where every run logged them, steps elsewhere."""
    columns = [columns for run in runs for columns in (run.train, *run.validation.values()) if columns]
    if all(np.isfinite(values["epoch"]).all() for values in columns):
        return "epoch", "epoch"
    return "step", "step"


def whole_percent(value: float) -> str:
    """0.8 -> 80 %: the tick labels of an accuracy axis."""
    return f"{100 * value:g} %"


def _line(kind: str, values: Columns, x_name: str, column: str) -> Line:
    averaged = kind == "ema"
    color = SERIES[2] if averaged else SERIES[1]
    return Line(
        _WEIGHTS.get(kind, kind), values[x_name], values[column], color, dashed=averaged, points=not averaged
    )


def _chart(
    title: str, lines: list[Line], x_label: str, *, note: str = "", percent: bool = False, zero: bool = False
) -> Chart | None:
    y_format = whole_percent if percent else "{:g}".format
    svg = line_chart(lines, title=title, x_label=x_label, y_format=y_format, zero=zero)
    return None if svg is None else Chart(title, svg, note)
