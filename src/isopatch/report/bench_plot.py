"""The bench as a picture: multiply-adds, and published accuracy, against images/s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isopatch.errors import IsopatchError
from isopatch.files import replace_file
from isopatch.report.names import Line, name_lines
from isopatch.report.plots import INK, SERIES, STYLE
from isopatch.report.png import QUIET, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
# Ours filled, peers hollow; a colour and a mark for each.
_MARKS = {
    "isopatch-native": (SERIES[0], "o", True),
    "isopatch-triton": (SERIES[0], "o", True),
    "isopatch-plain": (SERIES[5], "s", True),
    "openvino-throughput": (SERIES[1], "^", False),
    "openvino-latency": (SERIES[6], "v", False),
    "timm-compile": (SERIES[3], "D", False),
    "timm": (SERIES[7], "o", False),
    "onnxruntime": (SERIES[4], "P", False),
}


def write_bench_plot(document: Mapping[str, Any], path: Path) -> None:
    """Draw the document of `isopatch.bench.run.bench`: the fastest setting of each contender.

    Raises IsopatchError where nothing was measured.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    models = [model for model in document["models"] if model["contenders"]]
    if not models:
        raise IsopatchError(f"--plot {path}: nothing could be measured, so there is nothing to draw")
    accuracy = {id(model): _accuracy(model) for model in models if model["accuracy"]}
    known = [model for model in models if id(model) in accuracy]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "both"}):
        figure = Figure(figsize=(10.5 if known else 6.4, 5.2), facecolor="white")
        figure.text(0.02, 0.97, _title(document), fontsize=12, fontweight="bold", va="top")
        figure.text(0.02, 0.925, _subtitle(document), fontsize=8.5, va="top", color=QUIET)
        panels = figure.subplots(1, 2 if known else 1, squeeze=False)[0]
        figure.subplots_adjust(left=0.075, right=0.985, top=0.83, bottom=0.235, wspace=0.17)
        _draw_macs(panels[0], models, document)
        if known:
            _draw_accuracy(panels[1], known, accuracy)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.015, 0.0), ncols=4, fontsize=8.5)
        picture = to_png(figure)
    replace_file(path, picture)


def _draw_macs(axes: Axes, models: Sequence[Row], document: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    _draw(axes, models, {id(model): model["macs"] / 1e9 for model in models})
    low, high = (value / 1e9 for value in (min(m["macs"] for m in models), max(m["macs"] for m in models)))
    axes.set_ylim(low / 2.2, high * 2.2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title("multiply-adds of a picture, in 10⁹", loc="left", fontsize=9.5)
    if document["mode"] == "infer":
        _draw_limit(axes, models)
    name_lines(axes, [_line(model, model["macs"] / 1e9) for model in models])


def _draw_limit(axes: Axes, models: Sequence[Row]) -> None:
    """Draw where images/s would end at the machine's measured matrix rate: a straight line in both logs."""
    most = max((row for model in models for row in model["matrix_gflops"]), key=lambda row: row["gflops"])
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    if most["gflops"] / 2 / high > 3 * right:  # far to the right of everything
        return
    axes.plot(
        [most["gflops"] / 2 / low, most["gflops"] / 2 / high],
        [low, high],
        color=INK,
        linewidth=1.0,
        linestyle=(0, (4, 3)),
        alpha=0.5,
        zorder=0,
        label=f"matrix rate, {most['precision']}: {most['gflops']:,.0f} GFLOP/s",
    )
    axes.set_xlim(left, max(right, min(most["gflops"] / 2 / low, right * 3)))
    axes.set_ylim(low, high)


def _draw_accuracy(axes: Axes, models: Sequence[Row], accuracy: Mapping[int, float]) -> None:
    _draw(axes, models, accuracy)
    axes.margins(y=0.18)
    axes.set_title("published top-1 in %", loc="left", fontsize=9.5)
    name_lines(axes, [_line(model, accuracy[id(model)]) for model in models])


def _draw(axes: Axes, models: Sequence[Row], heights: Mapping[int, float]) -> None:
    """Draw a line of marks for each model."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    seen: set[str] = set()
    for model in models:
        y = heights[id(model)]
        _, rates, _ = _line(model, y)
        axes.plot([min(rates), max(rates)], [y, y], color=QUIET, linewidth=1.0, alpha=0.45, zorder=1)
        for row in (row for row in model["contenders"] if row["best"]):
            name = row["contender"]
            color, marker, filled = _MARKS[name]
            axes.plot(
                row["images_per_second"],
                y,
                marker,
                color=color,
                markerfacecolor=color if filled else "white",
                markersize=7,
                markeredgewidth=1.6,
                linestyle="none",
                label=None if name in seen else name,
                zorder=3 if filled else 2,
            )
            seen.add(name)
    axes.set_xlabel("images/s, the fastest setting of each")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12)


def _line(model: Row, y: float) -> Line:
    return model["model"], [row["images_per_second"] for row in model["contenders"] if row["best"]], y


def _accuracy(model: Row) -> float:
    """The accuracy of published weights that stands first in the table of models."""
    return float(model["accuracy"][0]["top1"])


def _title(document: Mapping[str, Any]) -> str:
    what = "Training steps" if document["mode"] == "train" else "Inference"
    return f"{what}, batch {document['batch']}"


def _subtitle(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    threads = " or ".join(str(number) for number in document["threads"])
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['gpu'] or machine['cpu']}, threads: {threads}; median of {document['rounds']}; {versions}"
    )
