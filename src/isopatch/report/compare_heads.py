"""What the heads of several runs learned, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isopatch.report.curves import Chart
from isopatch.report.heads_part import PAPER_COSINES, rate_table, token_chart
from isopatch.report.plots import SERIES
from isopatch.report.run_files import RunFiles, section
from isopatch.report.wording import MISSING, number, percent

MAX_CLASSES = 30
_ACCURACIES = (
    ("class head", ("heads", "cls")),
    ("distillation head", ("heads", "dist")),
    ("model", ()),  # of two heads the mean of logits
    ("mean of probabilities", ("heads", "mean_of_probabilities")),
    ("teacher", ("teacher",)),
)


@dataclass(frozen=True)
class HeadsRow:
    """One run: its colour in the charts and its formatted figures."""

    name: str
    color: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class GainCell:
    """What one run gained for one class. strength: its colour, 0..1."""

    gain: str
    strength: float
    better: bool
    title: str


@dataclass(frozen=True)
class Gains:
    """Recall above that of the same model without a teacher.

    runs: (name, colour, name of the run without) of the columns; rows: (class, a cell per run).
    """

    runs: list[tuple[str, str, str]]
    rows: list[tuple[str, list[GainCell]]]
    note: str


@dataclass(frozen=True)
class HeadsComparison:
    """The part of the page. gains: None without an undistilled run on the same pictures."""

    split: str
    columns: list[str]
    rows: list[HeadsRow]
    cosine: Chart | None
    gains: Gains | None


def compare_heads(runs: Sequence[RunFiles], names: Sequence[str], split: str) -> HeadsComparison | None:
    """Read what the runs' evaluations on `split` tell; None where none tells anything."""
    told = [section(run.evaluations.get(split, {}), "distillation") for run in runs]
    if not any(told):
        return None
    lines = [
        (name, SERIES[index % len(SERIES)], index // len(SERIES) % 2 == 1, values)
        for index, (name, values) in enumerate(zip(names, told, strict=True))
    ]
    chart = token_chart(lines)
    return HeadsComparison(
        split,
        [label for label, _ in _ACCURACIES] + ["differs from teacher", "heads differ"],
        [
            HeadsRow(name, color, _cells(values, run.evaluations[split].get("top1")))
            for run, (name, color, _, values) in zip(runs, lines, strict=True)
            if values
        ],
        None if chart is None else Chart("Cosine of class and distillation token", chart, PAPER_COSINES),
        _gains(runs, names, split),
    )


def is_distilled(run: RunFiles) -> bool:
    """Whether a teacher taught this run, as its summary or its configuration tells."""
    return bool(section(run.summary, "distillation") or section(run.config, "distill").get("teacher"))


def _cells(told: dict[str, Any], top1: object) -> tuple[str, ...]:
    accuracies = []
    for _, keys in _ACCURACIES:
        values = told
        for key in keys:
            values = section(values, key)
        accuracies.append(percent(values.get("top1") if keys else top1))
    rates = rate_table(told)
    voters = section(told, "disagreement").get("voters")
    place = {str(voter): index for index, voter in enumerate(voters)} if rates and voters else {}

    def rate(first: str, second: str) -> str:
        if first not in place or second not in place:
            return MISSING
        return f"{rates[place[first]][1][place[second]].rate} %"

    whole = "both" if "both" in place else "student"
    return (*accuracies, rate(whole, "teacher"), rate("cls", "dist"))


def _gains(runs: Sequence[RunFiles], names: Sequence[str], split: str) -> Gains | None:
    """Compare each distilled run, class by class, with the same model without a teacher."""
    recalls = [_recalls(run, split) for run in runs]
    alone = [i for i, run in enumerate(runs) if not is_distilled(run) and recalls[i]]
    before = {
        index: next((i for i in alone if _comparable(run, recalls[index], runs[i], recalls[i])), None)
        for index, run in enumerate(runs)
        if is_distilled(run) and recalls[index]
    }
    pairs = [(index, base) for index, base in before.items() if base is not None]
    if not pairs:
        return None
    classes = [name for name in recalls[pairs[0][0]] if all(name in recalls[index] for index, _ in pairs)]
    table = {name: [recalls[i][name][0] - recalls[b][name][0] for i, b in pairs] for name in classes}
    order = sorted(table, key=lambda name: -sum(table[name]))
    shown = order if len(order) <= MAX_CLASSES else order[: MAX_CLASSES // 2] + order[-MAX_CLASSES // 2 :]
    largest = max((abs(gain) for name in shown for gain in table[name]), default=0.0) or 1.0

    def cell(pair: tuple[int, int], name: str, gain: float) -> GainCell:
        index, base = pair
        recall, support = recalls[index][name]
        earlier = percent(recalls[base][name][0], 1)
        title = f"{names[index]}: {percent(recall, 1)} of {support:,} {name}, {earlier} in {names[base]}"
        return GainCell(signed_points(gain), round(abs(gain) / largest, 3), gain > 0, title)

    note = "Blue: found more often with a teacher. Sorted by the sum over the runs."
    if len(shown) < len(order):
        note += f" The {len(shown)} of {len(order):,} classes at both ends."
    lonely = [names[index] for index, base in before.items() if base is None]
    if lonely:
        note += f" No run here is {', '.join(lonely)} without a teacher."
    return Gains(
        [(names[i], SERIES[i % len(SERIES)], names[base]) for i, base in pairs],
        [
            (name, [cell(pair, name, gain) for pair, gain in zip(pairs, table[name], strict=True)])
            for name in shown
        ],
        note,
    )


def _comparable(
    run: RunFiles,
    recalls: dict[str, tuple[float, int]],
    other: RunFiles,
    others: dict[str, tuple[float, int]],
) -> bool:
    """Whether two runs are one model, the distillation token apart, evaluated on the same pictures."""
    return _pictures(run, recalls) == _pictures(other, others) and _model(run) == _model(other)


def _model(run: RunFiles) -> object:
    model = section(run.summary, "model")
    arguments = section(model, "arguments")
    return model.get("name"), {key: value for key, value in arguments.items() if key != "distilled"}


def _recalls(run: RunFiles, split: str) -> dict[str, tuple[float, int]]:
    """(recall, pictures) by class, of the classes that have pictures."""
    rows = run.evaluations.get(split, {}).get("per_class")
    found = {}
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            recall, support = number(row.get("recall")), number(row.get("support"))
            if recall is not None and support:
                found[str(row.get("name"))] = (recall, int(support))
    return found


def _pictures(run: RunFiles, recalls: dict[str, tuple[float, int]]) -> object:
    """What two runs share where they were evaluated on the same pictures, as far as their files tell."""
    fingerprint = section(run.summary, "data").get("fingerprint")
    return fingerprint, sorted((name, support) for name, (_, support) in recalls.items())


def signed_points(gain: float) -> str:
    """0.0123 -> +1.2; a real minus sign, no sign for zero."""
    text = f"{100 * gain:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\u2212")
