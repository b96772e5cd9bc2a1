"""Several runs side by side: one file that opens offline."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isopatch.errors import UsageError
from isopatch.report.compare_heads import compare_heads
from isopatch.report.curves import Chart, whole_percent, x_axis
from isopatch.report.plots import MAX_POINTS, SERIES, Line, line_chart
from isopatch.report.render import picture, write_page
from isopatch.report.run_files import Columns, RunFiles, read_run, section
from isopatch.report.run_page import read_scores
from isopatch.report.scale import Dot, Result, dot, dot_at, scale_of
from isopatch.report.settings import differences, flatten
from isopatch.report.wording import count, duration, number, percent, plain, si

MAX_PREDICTIONS = 48
_SEEDS = ("seed", "data_seed")
_LOSS_POINTS = 80  # noisy losses laid over each other need smoothing to be told apart


@dataclass(frozen=True)
class Row:
    """One line of the table. dot: None where there is no result; link: the run's own page, or ""."""

    name: str
    link: str
    color: str
    cells: tuple[str, ...]
    dot: Dot | None
    best: bool


@dataclass(frozen=True)
class Reference:
    """A figure to hold the runs against, which is no run: a baseline, a published value."""

    name: str
    top1: str
    note: str
    dot: Dot


def write_comparison(
    run_dirs: Sequence[Path],
    out: Path,
    *,
    title: str = "",
    reference_rows: Sequence[tuple[str, float, str]] = (),
    predictions: Sequence[Mapping[str, object]] = (),
    predictions_of: str = "",
) -> Path:
    """Write a page that compares runs to `out` and return its path.

    reference_rows: (name, top-1 as a fraction, note) of what is no run, listed below the runs.
    predictions: a gallery; keys as in an evaluation's mistakes: thumbnail (a PNG data URI), label,
        prediction, confidence and, optionally, name. predictions_of: whose they are.
    Raises `UsageError` where a folder is no run, none is given, or `out` cannot be written, is no .html, or
    exists and is no page of ours.
    """
    if not run_dirs:
        raise UsageError("no run to compare; give the folders of one or more runs")
    runs = [read_run(Path(path)) for path in run_dirs]
    names = _names(runs)
    split = "test" if any(_result(run, "test") for run in runs) else "val"
    results = [_result(run, split) for run in runs]
    scale = scale_of([result for result in results if result], [value for _, value, _ in reference_rows])
    best = max((result[0] for result in results if result), default=None)
    return write_page(
        "compare.html.j2",
        out,
        {
            "title": title or f"{len(runs)} run{'s' * (len(runs) > 1)} side by side",
            "split": split,
            "rows": [
                Row(
                    name,
                    _link(run, out),
                    SERIES[index % len(SERIES)],
                    _cells(run, split),
                    dot(results[index], scale),
                    results[index] is not None and len(runs) > 1 and results[index][0] == best,  # type: ignore[index]
                )
                for index, (run, name) in enumerate(zip(runs, names, strict=True))
            ],
            "references": [
                Reference(str(name), percent(value), str(note), dot_at(float(value), scale))
                for name, value, note in reference_rows
            ],
            "groups": _groups(runs, results),
            "charts": _charts(runs, names),
            "learned": compare_heads(runs, names, split),
            "differences": differences([run.config for run in runs]),
            "names": names,
            "warnings": _warnings(runs, names, split),
            "predictions_of": predictions_of,
            "predictions": [picture(row) for row in list(predictions)[:MAX_PREDICTIONS]],
        },
    )


def _result(run: RunFiles, split: str) -> Result | None:
    values = run.evaluations.get(split) or section(section(run.summary, "final"), split)
    top1, images = number(values.get("top1")), number(values.get("num_images"))
    return None if top1 is None or not 0 <= top1 <= 1 else (top1, max(0, int(images or 0)))


def _cells(run: RunFiles, split: str) -> tuple[str, ...]:
    """The formatted columns of one run; the template has their headings."""
    scores = {score.split: score for score in read_scores(run)}
    headline, val = scores.get(split), scores.get("val")
    summary = run.summary
    return (
        run.model_name,
        headline.top1 if headline else percent(None),
        headline.interval if headline else "",
        val.top1 if val else percent(None),
        si(summary.get("parameters")),
        si(summary.get("macs")),
        count(summary.get("images_per_second")),
        duration(summary.get("seconds")),
        count(summary.get("epochs", run.config.get("epochs"))),
        plain(summary.get("seed", run.config.get("seed"))),
    )


def _names(runs: Sequence[RunFiles]) -> list[str]:
    """Folder names; where two runs share one, with as many folders above as tell all runs apart."""
    paths = [run.path.absolute().parts for run in runs]
    names = [run.name for run in runs]
    for more in range(2, max(map(len, paths)) + 1):
        names = [
            name if names.count(name) == 1 else str(Path(*path[-more:]))
            for name, path in zip(names, paths, strict=True)
        ]
    return names


def _link(run: RunFiles, out: Path) -> str:
    """The run's own report relative to `out`, where it exists; a colon in it must not read as a scheme."""
    page = run.path / "report.html"
    if not page.is_file() or page.resolve() == out.resolve():
        return ""
    relative = Path(os.path.relpath(page.resolve(), out.resolve().parent)).as_posix()
    return "./" + "/".join(_quote(part) for part in relative.split("/"))


def _quote(part: str) -> str:
    from urllib.parse import quote_from_bytes

    return quote_from_bytes(os.fsencode(part))


def _groups(runs: Sequence[RunFiles], results: Sequence[Result | None]) -> list[tuple[str, ...]]:
    """Return (model, runs, mean, deviation, range) of runs that differ in their seeds only."""
    groups: dict[str, list[tuple[RunFiles, float]]] = {}
    for run, result in zip(runs, results, strict=True):
        if result is not None and run.config:
            settings = {key: value for key, value in flatten(run.config).items() if key not in _SEEDS}
            groups.setdefault(repr(sorted(settings.items())), []).append((run, result[0]))
    found: list[tuple[str, ...]] = []
    for members in groups.values():
        values = [value for _, value in members]
        if len(values) > 1:
            spread = f"{100 * statistics.stdev(values):.2f}"
            ends = f"{percent(min(values))} to {percent(max(values))}"
            found.append(
                (members[0][0].model_name, str(len(values)), percent(statistics.fmean(values)), spread, ends)
            )
    return found


def _charts(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Chart]:
    x_name, x_label = x_axis(list(runs))

    def line(index: int, values: Columns, column: str, max_points: int) -> Line:
        color, dashed = SERIES[index % len(SERIES)], index // len(SERIES) % 2 == 1
        x, y = values[x_name], values[column]
        return Line(names[index], x, y, color, dashed, points=True, max_points=max_points)

    validation = [
        line(index, values, "top1", MAX_POINTS)
        for index, run in enumerate(runs)
        if (values := _better_weights(run)) is not None
    ]
    training = [line(index, run.train, "loss", _LOSS_POINTS) for index, run in enumerate(runs)]
    found = [
        (
            "Validation top-1",
            validation,
            "Of the weights or their moving average, whichever got further.",
            True,
        ),
        ("Training loss", training, "Comparable where smoothing and mixing are the same.", False),
    ]
    charts = []
    for title, lines, note, as_percent in found:
        svg = line_chart(
            lines,
            title=title,
            x_label=x_label,
            legend=False,
            y_format=whole_percent if as_percent else "{:g}".format,
        )
        if svg is not None:
            charts.append(Chart(title, svg, note))
    return charts


def _better_weights(run: RunFiles) -> Columns | None:
    """The validation rows of the weights or their moving average, whichever reached the higher top-1."""
    reached = {
        kind: float(np.nanmax(values["top1"]))
        for kind, values in run.validation.items()
        if np.isfinite(values["top1"]).any()
    }
    return run.validation[max(reached, key=lambda kind: reached[kind])] if reached else None


def _warnings(runs: Sequence[RunFiles], names: Sequence[str], split: str) -> list[str]:
    found = []
    for run, name in zip(runs, names, strict=True):
        state = run.status.get("state")
        if state not in (None, "finished"):
            found.append(f"{name}: not finished ({state}, step {count(run.status.get('step'))}).")
        elif _result(run, split) is None:
            found.append(f"{name}: no result on the {split} split.")
        found += [f"{name}: {problem}" for problem in run.problems]
    data = {
        (run.data_name, plain(section(run.summary, "data").get("fingerprint")))
        for run in runs
        if run.summary or run.config
    }
    if len(data) > 1:
        found.append("The runs did not use the same data: their results are not like for like.")
    if split == "val" and any(_result(run, "val") for run in runs):
        found.append("No run has a test result: the validation pictures also selected the weights.")
    return found
