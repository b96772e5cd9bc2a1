"""The page of `isopatch eval --suite robustness`: one file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isopatch.report.curves import Chart
from isopatch.report.plots import SERIES, Line, calibration_chart, line_chart
from isopatch.report.render import Picture, picture, write_page
from isopatch.report.wording import count, decimal, percent

WORST = 10  # classes shown


@dataclass(frozen=True)
class Cell:
    """A field of the table of kinds and levels. strength: how much of the accuracy was lost, 0..1."""

    top1: str
    strength: float
    title: str


def write_robustness_page(document: Mapping[str, Any], shown: Mapping[str, Any], out: Path) -> Path:
    """Write the page of a robustness document to `out` and return it.

    shown: a picture clean and damaged, see `isopatch.eval_robustness.examples`.
    Raises `UsageError` where `out` exists and is no page of ours, or cannot be written.
    """
    clean, calibration = document["clean"], document["calibration"]
    data = Path(document["data"]).name or document["data"]
    return write_page(
        "robustness.html.j2",
        out,
        {
            "title": f"{document['model']} on damaged {data}",
            "checkpoint": document["checkpoint"],
            "split": document["split"],
            "clean": percent(clean["top1"]),
            "clean_interval": _interval(clean["interval"]),
            "images": count(document["num_images"]),
            "damaged_images": count(document["damaged_images"]),
            "tiles": _tiles(document),
            "levels": [level["level"] for level in document["corruptions"][0]["levels"]]
            if document["corruptions"]
            else [],
            "table": [(row["name"], row["what"], _cells(row)) for row in document["corruptions"]],
            "example_name": shown["name"],
            "example_clean": _example(shown, shown["clean"], "clean"),
            "examples": [
                (kind, [_example(shown, uri, kind) for uri in uris]) for kind, uris in shown["kinds"].items()
            ],
            "example_levels": shown["levels"],
            "charts": _charts(document),
            "shuffled": _shuffled(document),
            "shuffled_chart": _shuffled_chart(document),
            "calibration_charts": [
                *_calibration_charts(calibration),
                *_sureness_charts(document),
                *_risk_charts(calibration["selective"]),
            ],
            "calibration_sentence": _calibration_sentence(calibration),
            "selective": [
                (
                    percent(row["coverage"], 0),
                    count(row["num_images"]),
                    percent(row["accuracy"]),
                    percent(row["confidence"], 1),
                )
                for row in calibration["selective"]["at"]
            ],
            "classes": [
                (
                    row["name"],
                    count(row["support"]),
                    percent(row["recall"], 1),
                    _interval(row["interval"]),
                    percent(row["precision"], 1),
                    percent(row["damaged_recall"], 1),
                )
                for row in document["classes"][:WORST]
            ],
            "all_classes": count(len(document["classes"])),
            "computed": f"{document['device']}, {document['precision']}, {document['kernels']} kernels, "
            f"seed {document['seed']}",
        },
    )


def _tiles(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    summary, calibration = document["summary"], document["calibration"]
    return [
        ("damaged, mean of all", percent(summary["mean_top1"])),
        ("clean accuracy kept", percent(summary["kept"], 1)),
        ("hardest kind", summary["hardest"] or "–"),  # noqa: RUF001 - an en dash: no value
        ("nll, clean", decimal(document["clean"]["nll"])),
        ("ece, clean", decimal(document["clean"]["ece"])),
        ("temperature", "none" if calibration["at_the_end"] else decimal(calibration["temperature"], 3)),
    ]


def _interval(ends: Sequence[float]) -> str:
    return f"{percent(ends[0], 1)} to {percent(ends[1], 1)}"


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    cells = []
    for level in row["levels"]:
        before = level["top1"] + level["drop"]
        lost = max(0.0, level["drop"]) / before if before else 0.0
        low, high = level["drop_interval"]
        title = (
            f"{row['name']} {level['level']} (strength {level['strength']:g}): {percent(level['top1'])}, "
            f"lost {100 * level['drop']:.1f} points (95 % interval {100 * low:.1f} to {100 * high:.1f}), "
            f"mean confidence {percent(level['confidence'], 1)}, ece {decimal(level['ece'])}"
        )
        cells.append(Cell(f"{100 * level['top1']:.1f}", round(lost, 3), title))
    return cells


def _example(shown: Mapping[str, Any], uri: str, name: str) -> Picture:
    return picture({"thumbnail": uri, "name": f"{shown['name']}, {name}"})


def _charts(document: Mapping[str, Any]) -> list[Chart]:
    """One chart for each group of kinds: accuracy by level, from the clean pictures on."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in document["corruptions"]:
        groups.setdefault(row["group"], []).append(row)
    clean = document["clean_sample"]["top1"]
    charts = []
    for group, rows in groups.items():
        lines = [
            Line(
                row["name"],
                np.array([0.0, *(level["level"] for level in row["levels"])]),
                np.array([clean, *(level["top1"] for level in row["levels"])]),
                SERIES[index],
                points=True,
            )
            for index, row in enumerate(rows)
        ]
        svg = line_chart(
            lines,
            title=f"Top-1 by level: {group}",
            x_label="level; 0: as it is",
            y_format=_whole_percent,
            zero=True,
            whole_x=True,
        )
        if svg is not None:
            charts.append(Chart(group.capitalize(), svg))
    return charts


def _shuffled(document: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            f"{row['tiles'][0]} x {row['tiles'][1]}{' (its patches)' if row['patches'] else ''}",
            f"{row['tile'][0]} x {row['tile'][1]}",
            percent(row["top1"]),
            _interval(row["interval"]),
            percent(row["confidence"], 1),
        )
        for row in document["shuffled"]
    ]


def _shuffled_chart(document: Mapping[str, Any]) -> Chart | None:
    rows = document["shuffled"]
    # Of tiles that are not as many across as down the mean (geometric), so that their number orders them.
    x = np.array([1.0, *(float(np.sqrt(np.prod(row["tiles"]))) for row in rows)])
    y = np.array([document["clean_sample"]["top1"], *(row["top1"] for row in rows)])
    lines = [
        Line("top-1", x, y, SERIES[0], points=True),
        Line("always the commonest class", x, np.full(len(x), document["chance"]), SERIES[7], dashed=True),
    ]
    label = "tiles a side; 1: as it is"
    svg = line_chart(lines, title="Top-1 by tiles", x_label=label, y_format=_whole_percent, zero=True)
    return Chart("Top-1 with shuffled tiles", svg) if rows and svg is not None else None


def _calibration_charts(calibration: Mapping[str, Any]) -> list[Chart]:
    charts = []
    temperature = decimal(calibration["temperature"], 3)
    shown = [("before", "As the model says"), ("after", f"With temperature {temperature}")]
    for key, title in shown[: 1 if calibration["at_the_end"] else 2]:
        figures = calibration[key]
        bins = [
            (row["confidence"], row["accuracy"], row["images"]) for row in figures["bins"] if row["images"]
        ]
        svg = calibration_chart(bins, title=title)
        if svg is not None:
            note = ", ".join(f"{name} {decimal(figures[name])}" for name in ("ece", "nll", "brier"))
            charts.append(Chart(title, svg, note))
    return charts


def _sureness_charts(document: Mapping[str, Any]) -> list[Chart]:
    """Accuracy beside confidence by level, the mean over the kinds; none where nothing was damaged."""
    summary, clean = document["summary"], document["clean_sample"]
    if summary["by_level"] is None:
        return []
    x = np.arange(len(summary["by_level"]) + 1, dtype=np.float64)
    lines = [
        Line("top-1", x, np.array([clean["top1"], *summary["by_level"]]), SERIES[0], points=True),
        Line(
            "confidence",
            x,
            np.array([clean["confidence"], *summary["confidence_by_level"]]),
            SERIES[1],
            points=True,
        ),
    ]
    svg = line_chart(
        lines,
        title="Top-1 and confidence by level",
        x_label="level of damage, mean over the kinds; 0: as it is",
        y_format=_whole_percent,
        zero=True,
        whole_x=True,
    )
    note = "Where confidence stays above accuracy, the model does not notice the damage. No temperature."
    return [] if svg is None else [Chart("Is it less sure of damaged pictures?", svg, note)]


def _calibration_sentence(calibration: Mapping[str, Any]) -> str:
    temperature = calibration["temperature"]
    if calibration["at_the_end"]:
        fitted_on, others = count(calibration["fitted_on"]), count(calibration["before"]["num_images"])
        return (
            f"No temperature: on the {fitted_on} pictures for it, the best lies outside the range that is "
            f"searched. The figures are of the other {others}."
        )
    if temperature > 1.02:
        told = "above 1: the model is surer than it should be"
    elif temperature < 0.98:
        told = "below 1: the model is less sure than it could be"
    else:
        told = "about 1: the model's probabilities can be taken as they are"
    return (
        f"The temperature {decimal(temperature, 3)} was fitted on {count(calibration['fitted_on'])} "
        f"pictures, and both figures are of the other {count(calibration['before']['num_images'])}: {told}."
    )


def _risk_charts(selective: Mapping[str, Any]) -> list[Chart]:
    coverage, risk = np.array(selective["curve"], dtype=np.float64).T
    svg = line_chart(
        [Line("risk", coverage, risk, SERIES[0])],
        title="Risk by coverage",
        x_label="share of the pictures answered, the surest first",
        y_format=_percent,
        zero=True,
        legend=False,
    )
    note = (
        f"Area under it {decimal(selective['aurc'])}; {decimal(selective['ideal_aurc'])} if every right "
        f"answer were surer than every wrong one."
    )
    return [] if svg is None else [Chart("Share wrong among the pictures answered", svg, note)]


def _whole_percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
