"""The robustness suite: one model, one split; damaged pictures, shuffled tiles, calibration, weak classes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isopatch.data.source import ImageSource
from isopatch.data.split import stratified_cut
from isopatch.nn.classifier import Classifier
from isopatch.report.intervals import Z_95, wilson
from isopatch.robustness.calibration import calibrate
from isopatch.robustness.corruptions import LEVELS, Corruption
from isopatch.robustness.outputs import logits_of
from isopatch.robustness.views import Corrupted, shuffled, tilings
from isopatch.training.metrics import MetricAccumulator

log = logging.getLogger("isopatch")

Labels = NDArray[np.int64]
Logits = NDArray[np.float32]
Measure = Callable[..., Logits]


@dataclass(frozen=True)
class Subject:
    """What is measured. measure: `outputs.logits_of` but for source, indices and change."""

    model: Classifier
    source: ImageSource
    measure: Measure


def subject(model: Classifier, source: ImageSource, **how: Any) -> Subject:
    """Return the model and split to measure. how: batch_size, workers, device, precision of `logits_of`."""

    def measure(pictures: ImageSource, **which: Any) -> Logits:
        return logits_of(model, pictures, model.spec.input, **which, **how)

    return Subject(model, source, measure)


def run_suite(
    who: Subject,
    *,
    kinds: Sequence[Corruption],
    pictures: int,
    seed: int,
    patch_grid: tuple[int, int] | None,
) -> dict[str, Any]:
    """Measure everything and return plain JSON values.

    pictures: how many of the split are damaged and shuffled, about as many of each class in proportion, the
        same for every kind and level; 0 takes all. Clean figures and calibration are of the whole split.
    patch_grid: see `views.tilings`.
    Keys: num_images, damaged_images, seed, clean (scalars of `MetricAccumulator`, interval), clean_sample
    (a row), corruptions (name, group, what, levels: rows), shuffled (rows with tiles, tile and
    patches; tiles: [down, across]), summary, calibration (`calibration.calibrate`), classes (weakest first).
    A row has num_correct, top1, interval (Wilson), nll, ece, confidence (mean) and, where something was done
    to the pictures, drop (of top-1 against the same pictures clean) and drop_interval (`paired_drop`).
    """
    source, labels = who.source, who.source.labels
    log.info("robustness: %d clean pictures", len(source))
    clean = who.measure(source)
    calibration = calibrate(clean, labels, seed=seed).to_json()
    sample = sample_of(labels, pictures, seed)
    truth, before = labels[sample], clean[sample].argmax(axis=1) == labels[sample]
    damaged_hits = np.zeros(len(sample))
    rows = []
    for kind in kinds:
        log.info("robustness: %s, %d pictures in %d levels", kind.name, len(sample), len(LEVELS))
        levels = []
        for level in LEVELS:
            logits = who.measure(Corrupted(source, kind, level, seed), indices=sample)
            damaged_hits += logits.argmax(axis=1) == truth
            levels.append(
                {"level": level, "strength": kind.strengths[level - 1], **row_of(logits, truth, before)}
            )
        rows.append({"name": kind.name, "group": kind.group, "what": kind.what, "levels": levels})
    counted = MetricAccumulator(clean.shape[1])
    counted.update(clean, labels)
    scalars = counted.scalars()
    correct = int(scalars["num_correct"])
    return {
        "num_images": len(source),
        "damaged_images": len(sample),
        "seed": seed,
        "chance": float(np.bincount(labels).max() / len(labels)),
        "clean": {**scalars, "interval": list(wilson(correct, len(source)))},
        "clean_sample": row_of(clean[sample], truth),
        "corruptions": rows,
        "summary": summary(rows, float(before.mean())),
        "shuffled": _shuffles(who, sample, truth, before, seed, patch_grid),
        "calibration": calibration,
        "classes": _weak_classes(
            counted, source.classes, truth, damaged_hits / (len(kinds) * len(LEVELS)) if kinds else None
        ),
    }


def sample_of(labels: Labels, pictures: int, seed: int) -> Labels:
    """Return ascending indices of about `pictures` pictures, every class in proportion; all for 0."""
    if pictures == 0 or pictures >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    return stratified_cut(labels, pictures / len(labels), seed, purpose="robustness")[1]


def row_of(logits: Logits, labels: Labels, before: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """Return the figures of pictures; before: which of them were right when nothing was done to them."""
    counted = MetricAccumulator(logits.shape[1])
    predicted, confidence = counted.update(logits, labels)
    scalars = counted.scalars()
    correct = int(scalars["num_correct"])
    row: dict[str, Any] = {
        "num_correct": correct,
        "num_images": len(labels),
        "top1": scalars["top1"],
        "interval": list(wilson(correct, len(labels))),
        "nll": scalars["nll"],
        "ece": scalars["ece"],
        "confidence": float(confidence.mean()),
    }
    if before is not None:
        after = predicted == labels
        row["drop"] = float(before.mean() - after.mean())
        row["drop_interval"] = list(paired_drop(before, after))
    return row


def paired_drop(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the 95 % interval of the loss of the share right, of the same pictures before and after.

    Wald's interval with half a picture added to each of the four cells (Agresti and Min 2005), which keeps
    its coverage where few pictures change.
    """
    lost, won = float((before & ~after).sum()) + 0.5, float((~before & after).sum()) + 0.5
    number = len(before) + 2
    difference = (lost - won) / number
    half = Z_95 * math.sqrt(lost + won - (lost - won) ** 2 / number) / number
    return max(-1.0, difference - half), min(1.0, difference + half)


def summary(rows: Sequence[dict[str, Any]], clean: float) -> dict[str, Any]:
    """Return mean_top1 over all kinds and levels, kept (the mean over the clean top-1), hardest (kind).

    by_level and confidence_by_level are the means of top-1 and of confidence over the kinds, level 1 first.
    Every kind weighs alike. kept is None where nothing was right to begin with, every figure where no kind
    was asked for.
    """
    if not rows:
        names = ("mean_top1", "by_level", "confidence_by_level", "kept", "hardest")
        return dict.fromkeys(names)
    table, confidence = (
        np.array([[level[key] for level in row["levels"]] for row in rows]) for key in ("top1", "confidence")
    )
    mean = float(table.mean())
    return {
        "mean_top1": mean,
        "by_level": table.mean(axis=0).tolist(),
        "confidence_by_level": confidence.mean(axis=0).tolist(),
        "kept": mean / clean if clean else None,
        "hardest": rows[int(table.mean(axis=1).argmin())]["name"],
    }


def _shuffles(
    who: Subject,
    sample: Labels,
    truth: Labels,
    before: NDArray[np.bool_],
    seed: int,
    patch_grid: tuple[int, int] | None,
) -> list[dict[str, Any]]:
    contract = who.model.spec.input
    rows = []
    for tiles in tilings(contract.height, contract.width, patch_grid):
        log.info("robustness: %d x %d tiles shuffled", *tiles)
        change = partial(shuffled, tiles=tiles, seed=seed)
        logits = who.measure(who.source, indices=sample, change=change)
        rows.append(
            {
                "tiles": list(tiles),
                "tile": [contract.height // tiles[0], contract.width // tiles[1]],
                "patches": patch_grid == tiles,
                **row_of(logits, truth, before),
            }
        )
    return rows


def _weak_classes(
    counted: MetricAccumulator, names: Sequence[str], truth: Labels, damaged: NDArray[np.float64] | None
) -> list[dict[str, Any]]:
    """Every class with pictures, by recall, the weakest first.

    damaged: of each sampled picture the share of kinds and levels it was right in, None where there were
    none; damaged_recall: its mean over a class.
    """
    rows = []
    for number, row in enumerate(counted.per_class(tuple(names))):
        if not row["support"]:
            continue
        members = truth == number
        hits = round(row["recall"] * row["support"])
        rows.append(
            {
                **{key: row[key] for key in ("name", "support", "recall", "precision")},
                "interval": list(wilson(hits, row["support"])),
                "damaged_recall": float(damaged[members].mean())
                if damaged is not None and members.any()
                else None,
            }
        )
    return sorted(rows, key=lambda row: (row["recall"], row["name"]))
