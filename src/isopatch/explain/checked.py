"""A map of each picture with its checks: what it says, whether it can be believed, and the figure of both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isopatch.errors import IsopatchError
from isopatch.explain.contract import Context, Figure, Shown
from isopatch.explain.draw import Panel, draw_maps
from isopatch.explain.heat import Heat, Method, in_batches, log_probabilities
from isopatch.explain.randomised import MOST_ALIKE, SHUFFLES, shuffled, spearman
from isopatch.explain.scores import ORDERS, Faithful, Scorer

CHECKS = (
    f"Below each map: the area under the deletion curve (low is good) and under the insertion curve (high is "
    f"good), each with the range of {ORDERS} random orders, and the rank correlation with the same map of "
    f"{SHUFFLES} models whose weights were shuffled (low is good)."
)


def checked_figures(context: Context, method: Method, *, title: str, caption: str) -> list[Figure]:
    """Make a method's maps of the context's pictures and one figure of each picture, checks included."""
    x, targets, probabilities = prepared(context)
    heats = in_batches(method, context.model, x, targets, context.options)
    for heat in heats:
        for index in range(len(x)):
            if not bool(heat.values[index].isfinite().all()):
                raise IsopatchError(f"{context.pictures[index].name}: the {heat.name}'s map is not finite")
    alike = likeness(context, method, x, targets, heats)
    figures = []
    for index, shown in enumerate(context.pictures):
        target = int(targets[index])
        scorer = _scorer(context, index, x[index : index + 1], target)
        panels, data, warnings = [], {}, []
        for number, heat in enumerate(heats):
            faithful = scorer(heat.values[index])
            rhos = [row[index] for row in alike[number]]
            lines, fails, scores = judged(faithful, rhos, blank=not bool(heat.values[index].any()))
            panels.append(Panel(heat.name, heat.values[index].numpy(), heat.signed, lines))
            data[heat.name] = {"values": _rounded(heat.values[index]), **scores}
            warnings += [f"{heat.name}: {fail}" for fail in fails]
        heading = said(context, shown, target, float(probabilities[index]))
        figures.append(
            Figure(
                name=f"{index + 1}-{stem(shown.name)}",
                title=f"{title}: {shown.name}, {heading}",
                caption=f"{caption} {CHECKS}",
                png=draw_maps(shown, heading, panels),
                data={
                    "picture": shown.name,
                    "target": context.classes[target],
                    "probability": round(float(probabilities[index]), 6),
                    "label": None if shown.label is None else context.classes[shown.label],
                    "maps": data,
                },
                warning="; ".join(warnings) or None,
            )
        )
    return figures


def prepared(context: Context) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures (B, C, H, W), their target classes (B,), and the targets' probabilities (B,).

    The target is the class of the option `class` (its index), or each picture's most probable one. Raises
    IsopatchError where the model's output is not finite.
    """
    if "prepared" not in context.store:
        x = torch.cat([shown.tensor for shown in context.pictures]).to(context.device)
        logs = log_probabilities(context.model, x)
        for index, row in enumerate(logs):
            if not bool(row.isfinite().all()):
                name = context.pictures[index].name
                raise IsopatchError(
                    f"{context.name}: its output for {name} is not finite: there is nothing to explain"
                )
        wanted = context.options.get("class")
        targets = logs.argmax(1) if wanted is None else torch.full((len(x),), wanted, device=x.device)
        found = logs.gather(1, targets[:, None]).squeeze(1).exp().cpu()
        context.store["prepared"] = (x, targets, found)
    result: tuple[Tensor, Tensor, Tensor] = context.store["prepared"]
    return result


def likeness(
    context: Context, method: Method, x: Tensor, targets: Tensor, heats: Sequence[Heat]
) -> list[list[list[float | None]]]:
    """Return, for each map, shuffle and picture, the rank correlation with the map of the shuffled model."""
    found: list[list[list[float | None]]] = [[] for _ in heats]
    for number in range(SHUFFLES):
        twin = shuffled(context.model, context.seed + number)
        others = in_batches(method, twin, x, targets, context.options)
        for place, (heat, other) in enumerate(zip(heats, others, strict=True)):
            found[place].append([spearman(a, b) for a, b in zip(heat.values, other.values, strict=True)])
    return found


def judged(
    faithful: Faithful | None, rhos: Sequence[float | None], *, blank: bool
) -> tuple[tuple[tuple[str, bool], ...], tuple[str, ...], dict[str, Any]]:
    """Return (lines of scores, each with whether it fails; what the map fails; plain values of both)."""
    known = [abs(rho) for rho in rhos if rho is not None]
    mean = sum(known) / len(known) if known else None
    randomised = {
        "correlations": [None if rho is None else round(rho, 4) for rho in rhos],
        "mean_absolute": None if mean is None else round(mean, 4),
        "limit": MOST_ALIKE,
        "passed": None if mean is None else mean < MOST_ALIKE,
    }
    lines: list[tuple[str, bool]] = []
    fails: list[str] = []
    if faithful is None:
        fails.append("zero everywhere" if blank else "one value everywhere")
        lines.append((fails[0], True))
    else:
        for name, area in (("deletion", faithful.deletion), ("insertion", faithful.insertion)):
            low, high = min(area.random), max(area.random)
            value, least, most = told_apart(area.value, low, high)
            lines.append((f"{name} {value}  (random {least} to {most})", not area.better))
            if not area.better:
                fails.append(f"{name} no better than chance")
    if mean is None and faithful is not None:
        lines.append(("with shuffled weights: no finite map to compare", False))
    elif mean is not None:
        lines.append((f"with shuffled weights: rank corr. {mean:.2f}", mean >= MOST_ALIKE))
        if mean >= MOST_ALIKE:
            fails.append(f"shuffled weights: same map ({mean:.2f})")
    return (
        tuple(lines),
        tuple(fails),
        {
            "deletion": None if faithful is None else faithful.deletion.to_json(),
            "insertion": None if faithful is None else faithful.insertion.to_json(),
            "randomised": randomised,
            "fails": list(fails),
        },
    )


def told_apart(value: float, low: float, high: float) -> tuple[str, str, str]:
    """Return an area and the range of random ones with as many digits as tell them apart, 2 to 6."""
    for digits in range(2, 7):
        shown = (f"{value:.{digits}f}", f"{low:.{digits}f}", f"{high:.{digits}f}")
        if len(set(shown)) == 3:
            return shown
    return f"{value:.2f}", f"{low:.2f}", f"{high:.2f}"


def said(context: Context, shown: Shown, target: int, probability: float) -> str:
    """Say what is explained: the class and its probability, and the true one where it is another."""
    text = f"{context.classes[target]}: {100 * probability:.0f} %"  # a class may be called 8
    wrong = shown.label is not None and shown.label != target
    return f"{text}, is {context.classes[shown.label]}" if wrong and shown.label is not None else text


def stem(name: str) -> str:
    """Return a picture's name as part of a file's."""
    last = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", re.split(r"[\\/]", name)[-1])
    return re.sub(r"[^A-Za-z0-9_-]+", "-", last).strip("-")[:48] or "picture"


def _scorer(context: Context, index: int, picture: Tensor, target: int) -> Scorer:
    key = ("scorer", index, target)
    if key not in context.store:
        context.store[key] = Scorer(context.model, picture, target, seed=context.seed)
    scorer: Scorer = context.store[key]
    return scorer


def _rounded(values: Tensor) -> list[list[float]]:
    return [[float(f"{value:.5g}") for value in row] for row in values.tolist()]
