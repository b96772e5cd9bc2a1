"""What the heads learned: the part of a run's page that an evaluation's `distillation` fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from isopatch.report.curves import Chart
from isopatch.report.plots import SERIES, Line, line_chart
from isopatch.report.run_files import section
from isopatch.report.scale import Dot, dot, interval, scale_of
from isopatch.report.wording import VOTERS, count, decimal, duration, number, percent, plain

PAPER_COSINES = (
    "DeiT reports 0.06 for the tokens at the input, 0.93 at the last layer, and 0.999 for two class tokens "
    "with the same labels."
)


@dataclass(frozen=True)
class HeadRow:
    """Accuracy of one voter, formatted. result: this is what the model returns."""

    name: str
    top1: str
    interval: str
    dot: Dot | None
    top5: str
    nll: str
    result: bool


@dataclass(frozen=True)
class RateCell:
    """One field of the disagreement table. strength: its colour, 0..1; itself: on the diagonal."""

    rate: str
    strength: float
    title: str
    itself: bool


@dataclass(frozen=True)
class Comparison:
    """The student against its teacher.

    counts: pictures that both, the student alone, the teacher alone and neither have right.
    """

    verdict: str
    certainty: str
    counts: tuple[str, str, str, str]


@dataclass(frozen=True)
class HeadsView:
    """The whole part; what is not known is empty. cost: of teaching, from the run's summary."""

    title: str
    rows: list[HeadRow]
    rates: list[tuple[str, list[RateCell]]]
    teacher: Comparison | None
    cosine: Chart | None
    cost: list[tuple[str, str]]


def heads_view(evaluation: dict[str, Any], summary: dict[str, Any]) -> HeadsView | None:
    """Read one evaluation-<split>.json; None where it tells nothing about heads or teachers.

    summary: the run's, for what teaching cost; empty where that is told elsewhere on the page.
    """
    told = section(evaluation, "distillation")
    if not told:
        return None
    images = number(evaluation.get("num_images")) or 0
    chart = token_chart([("", SERIES[0], False, told)])
    cosine = None if chart is None else Chart("Cosine of the two tokens", chart, _cosine_note(told))
    return HeadsView(
        "What the heads learned" if section(told, "heads") else "What the student learned",
        _rows(told, evaluation, int(images)),
        rate_table(told),
        _comparison(section(section(told, "teacher"), "compared"), images),
        cosine,
        _cost(summary),
    )


def _rows(told: dict[str, Any], evaluation: dict[str, Any], images: int) -> list[HeadRow]:
    heads = section(told, "heads")
    voters = {name: heads[name] for name in VOTERS if name in heads} or {"student": evaluation}
    if "teacher" in told:
        voters["teacher"] = told["teacher"]
    results = {
        name: (top1, images)
        for name, values in voters.items()
        if isinstance(values, dict) and (top1 := number(values.get("top1"))) is not None and 0 <= top1 <= 1
    }
    scale = scale_of(list(results.values()))
    found = []
    for name, result in results.items():
        low, high = interval(result)
        found.append(
            HeadRow(
                VOTERS[name],
                percent(result[0]),
                f"{100 * low:.1f} – {100 * high:.1f} %",  # noqa: RUF001 - a range takes an en dash
                dot(result, scale),
                percent(voters[name].get("top5")),
                decimal(voters[name].get("nll")),
                name in ("mean_of_logits", "student"),
            )
        )
    return found


def rate_table(told: dict[str, Any]) -> list[tuple[str, list[RateCell]]]:
    """Return (voter, its cells) of the disagreement table; empty where it does not fit together."""
    table = section(told, "disagreement")
    voters, rates = table.get("voters"), table.get("rates")
    try:
        values = np.array(rates, dtype=np.float64)
    except (TypeError, ValueError):
        return []
    if not isinstance(voters, list) or not voters or values.shape != (len(voters), len(voters)):
        return []
    if not ((values >= 0) & (values <= 1)).all():  # NaN is neither
        return []
    names = [VOTERS.get(str(voter), str(voter)) for voter in voters]
    largest = max(float(values.max()), 1e-9)
    return [
        (
            name,
            [
                RateCell(
                    f"{100 * values[row, column]:.1f}",
                    round(float(values[row, column]) / largest, 3),
                    f"{name} and {other} differ in {100 * values[row, column]:.2f} % of the pictures",
                    row == column,
                )
                for column, other in enumerate(names)
            ],
        )
        for row, name in enumerate(names)
    ]


def _comparison(values: dict[str, Any], images: float) -> Comparison | None:
    keys = ("both_right", "only_student", "only_other", "both_wrong")
    counts = [number(values.get(key)) for key in keys]
    both, ours, theirs, neither = counts
    if both is None or ours is None or theirs is None or neither is None or not images:
        return None
    points = f"{100 * abs(ours - theirs) / images:.2f} points"
    verdict = f"The student beats its teacher by {points}."
    if ours <= theirs:
        verdict = f"The student stays {points} behind its teacher."
    if ours == theirs:
        verdict = "The student is exactly as good as its teacher."
    chance = number(values.get("p_value"))
    certainty = (
        f"Were they equally good, a split at least as uneven as {count(ours)} to {count(theirs)} among the "
        f"pictures that only one has right would come up with probability {decimal(chance, 3)} (McNemar's "
        f"exact test)."
    )
    return Comparison(verdict, certainty, (count(both), count(ours), count(theirs), count(neither)))


def token_chart(runs: Sequence[tuple[str, str, bool, dict[str, Any]]]) -> Markup | None:
    """Return the chart of (name, colour, dashed, an evaluation's `distillation`); None without tokens.

    A run without a name also gets its tokens as learned and behind the final norm.
    """
    lines = []
    for name, color, dashed, told in runs:
        values = section(told, "token_cosine")
        depths = values.get("by_depth")
        curve = [number(value) for value in depths] if isinstance(depths, list) else []
        if not curve:
            continue
        y = np.array([np.nan if value is None else value for value in curve])
        x = np.arange(len(y), dtype=np.float64)
        lines.append(Line(name or "in the sequence", x, y, color, dashed, points=True))
        if not name:
            for label, key, at, mark in (
                ("as learned", "learned", x[:1], SERIES[1]),
                ("after the final norm", "after_norm", x[-1:], SERIES[2]),
            ):
                found = number(values.get(key))
                lines.append(Line(label, at, np.array([np.nan if found is None else found]), mark))
    return line_chart(
        lines,
        title="Cosine of class token and distillation token by depth",
        x_label="block; 0: as the tokens enter the first one",
        legend=len(runs) == 1,
        whole_x=True,
    )


def _cosine_note(told: dict[str, Any]) -> str:
    values = section(told, "token_cosine")
    return (
        f"Mean over the pictures. As learned: the bare parameters ({decimal(values.get('learned'), 3)}), "
        f"before their position entries are added. After the final norm, where the heads read them: "
        f"{decimal(values.get('after_norm'), 3)}. {PAPER_COSINES}"
    )


def _cost(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What teaching cost and what the cache saved."""
    values = section(summary, "distillation")
    if not values:
        return []
    cache = section(values, "cache")
    spent, whole = number(values.get("teacher_seconds")), number(summary.get("seconds"))
    share = f" ({percent(spent / whole, 0)} of the training)" if spent is not None and whole else ""
    rows = [
        ("pictures the teacher looked at", count(values.get("pictures_asked"))),
        ("time it took", duration(spent) + share),
    ]
    if cache:
        coding = section(cache, "coding")
        saved = cache.get("teacher_seconds_saved")
        rows += [
            ("answers from the cache", count(values.get("pictures_remembered"))),
            ("teacher time saved", duration(saved)),
            ("kept per picture", f"{plain(coding.get('kept'))} of {plain(coding.get('num_classes'))} logits"),
            ("bytes per picture", decimal(cache.get("bytes_per_picture"), 1)),
        ]
        if coding.get("temperature") is not None:
            rows.append(("loss moved by that, at most", percent(cache.get("tolerance"))))
        if number(cache.get("damaged_records")):
            rows.append(("damaged records, asked again", count(cache.get("damaged_records"))))
    return rows
