"""Measure whatever `load` opens on a data set: the right pictures, the right cut, classes matched by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from isopatch.data.open import open_data
from isopatch.data.source import DataSplits, ImageSource
from isopatch.data.sources.relabel import relabel
from isopatch.errors import UsageError
from isopatch.kernels.use import use
from isopatch.models import spec as models
from isopatch.models.load import load_for_pictures
from isopatch.models.locate import recorded_data
from isopatch.predict import require_device
from isopatch.training.evaluate import Evaluation
from isopatch.training.heads import evaluate_taught
from isopatch.training.setup import data_fingerprint
from isopatch.training.teacher import Member, open_members, split_sources

log = logging.getLogger("isopatch")


def evaluate_checkpoint(
    source: str | Path,
    data: str,
    *,
    split: str | None = None,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    kernels: str = "auto",
    bad: str = "fail",
    threads: int | None = None,
    teacher: str | None = None,
    baseline: str | None = None,
) -> Evaluation:
    """Evaluate whatever `load` opens on one split of a data set.

    split: "test" where the data has one, else "val", when None. A split that was cut from the data by seed is
        cut as the run did that made the weights (they carry how).
    name, arguments: which model a file that does not say so holds, as in `load`.
    kernels: "auto", "plain", "native" or "triton", as in `isopatch.kernels.swap`.
    teacher: what taught the model, given as for training. baseline: the same model trained without a teacher.
        Both see the same pictures, each prepared as it expects. What they and the two heads of a model with a
        distillation token tell is the result's `distillation`: see `isopatch.training.heads.evaluate_taught`.
    Classes are matched by name with those the model was trained on; a class the model does not know raises
    UsageError.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    place = require_device(device)
    model = load_for_pictures(source, name=name, arguments=arguments)
    chosen = labelled_pictures(source, model.spec, data, split=split, bad=bad)
    classes = chosen.pictures.classes
    others: dict[str, list[Member]] = {"teacher": [], "baseline": []}
    for who, sources in (("teacher", teacher), ("baseline", baseline)):
        if sources is not None:
            others[who] = open_members(sources, classes, setting=f"--{who}")
            if chosen.cut:
                _warn_of_other_cut(source, sources, data, chosen.split, who)
    model.to(place)
    swapped = use(model, kernels=kernels, precision=precision)
    log.info("%s", swapped)
    # Teacher and baseline stay plain, as the teacher is in training.
    result = evaluate_taught(
        model,
        chosen.pictures,
        model.spec.input,
        batch_size=batch_size,
        workers=workers,
        device=str(place),
        precision=precision,
        classes=classes,
        teacher=others["teacher"],
        baseline=others["baseline"],
    )
    return replace(result, kernels=swapped.kernels, instruction_set=swapped.instructions)


class Labelled(NamedTuple):
    """The pictures of a split, with labels that count the model's classes. cut: from the data, by seed."""

    pictures: ImageSource
    split: str
    cut: bool


def labelled_pictures(
    source: str | Path, spec: models.ModelSpec, data: str, *, split: str | None, bad: str
) -> Labelled:
    """Open one split of a data set for the model that `source` holds; see `evaluate_checkpoint`."""
    splits, chosen, pictures = split_of(source, data, split, bad)
    classes = spec.classes
    if classes is None:
        if spec.arguments["num_classes"] != len(splits.classes):
            raise UsageError(
                f"{source} has {spec.arguments['num_classes']} classes without names, {data} has "
                f"{len(splits.classes)}; evaluate a checkpoint trained on this data"
            )
        classes = splits.classes
    pictures = relabel(pictures, classes, where=f"{data} ({chosen})")
    for note in splits.notes:
        if not note.startswith("No validation split"):  # a sentence about training
            log.info("%s", note)
    return Labelled(pictures, chosen, chosen in splits.cut)


def split_of(
    source: str | Path, data: str, split: str | None, bad: str
) -> tuple[DataSplits, str, ImageSource]:
    """Open the split to measure weights on: "test" where the data has one, else "val", when None."""
    splits, changed = _open_as_the_run_did(source, data, bad)
    chosen = split or ("test" if splits.test is not None else "val")
    if changed and chosen in splits.cut:
        raise UsageError(
            f"{data} is not what it was when {source} was trained (pictures were added, removed or changed): "
            f"the {chosen} split cut from it now would hold pictures it was trained on; evaluate on a folder "
            f"of its own"
        )
    pictures: ImageSource | None = {"train": splits.train, "val": splits.val, "test": splits.test}.get(chosen)
    if pictures is None:
        named = {"train": splits.train, "val": splits.val, "test": splits.test}
        present = [name for name, source_ in named.items() if source_ is not None]
        raise UsageError(f"--split {chosen}: {data} has {', '.join(present)}")
    return splits, chosen, pictures


def _warn_of_other_cut(source: str | Path, others: str, data: str, chosen: str, who: str) -> None:
    """Warn where a teacher or baseline was trained on pictures of the split that the model's run cut."""
    cut_by = ("split_seed",) if chosen == "test" else ("split_seed", "val_fraction")
    ours = recorded_data(source)
    for other in split_sources(others):
        theirs = recorded_data(other)
        if ours is None or theirs is None or theirs["source"] not in (os.path.abspath(data), data):
            continue
        if any(ours[key] != theirs[key] for key in cut_by):
            log.warning(
                "the %s %s was trained on another cut of %s, so on pictures of this %s split: its accuracy "
                "here says too much",
                who,
                other,
                data,
                chosen,
            )


def _open_as_the_run_did(source: str | Path, data: str, bad: str) -> tuple[DataSplits, bool]:
    """Open data that was cut by seed as the run that made the weights cut it; say whether it changed since.

    Other data is opened without a validation cut. Warns where a test split cut now may hold pictures that the
    weights were trained on.
    """
    recorded = recorded_data(source)
    if recorded is not None:
        kept = {key: recorded[key] for key in ("val_fraction", "split_seed", "max_pixels")}
        # Weights made before there was a fraction were made of all the pictures.
        kept |= {"fraction": recorded.get("fraction", 1.0), "fraction_seed": recorded.get("fraction_seed", 0)}
        splits = open_data(data, bad="skip" if "skip" in (bad, recorded["bad"]) else "fail", **kept)
        same_pictures = data_fingerprint(splits)["train"] == recorded["fingerprint"]
        if same_pictures or recorded["source"] in (os.path.abspath(data), data):
            return splits, not same_pictures
    splits = open_data(data, bad=bad, val_fraction=0.0)
    if "test" in splits.cut:
        log.warning(
            "%s has no test split of its own, and %s was trained on other data, or does not say on which: if "
            "pictures of both are the same, the test split cut now holds some that it was trained on",
            data,
            source,
        )
    return splits, False
