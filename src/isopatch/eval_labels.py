"""`isopatch eval --labels` and `--class-subset`: ImageNet's other test sets, for who has them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isopatch.data.class_subset import subset_outputs
from isopatch.data.label_sets import read_label_sets
from isopatch.data.open import open_data
from isopatch.data.source import ImageSource
from isopatch.errors import UsageError
from isopatch.evaluation import labelled_pictures
from isopatch.kernels.use import use
from isopatch.models.load import load_for_pictures
from isopatch.models.locate import recorded_data
from isopatch.nn.classifier import Classifier
from isopatch.predict import require_device
from isopatch.report.intervals import wilson
from isopatch.robustness.outputs import logits_of

log = logging.getLogger("isopatch")


@dataclass(frozen=True)
class How:
    """How a model is opened and run: the arguments of `evaluate_checkpoint` of these names."""

    name: str | None = None
    arguments: Mapping[str, Any] | None = None
    batch_size: int = 256
    workers: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    kernels: str = "auto"
    bad: str = "fail"
    threads: int | None = None


def evaluate_labels(
    source: str | Path, data: str, labels: str | Path, *, split: str | None = None, how: How | None = None
) -> dict[str, Any]:
    """Evaluate on pictures with several right answers each, such as ReaL's; see `isopatch.data.label_sets`.

    Returns plain JSON values: checkpoint, model, data, split, labels, num_images (of the split), left_out
    (pictures without a right answer), num_counted, num_correct, top1 and interval (prediction among the right
    answers, of the counted pictures), labels_per_picture (mean, of the counted), original (top1, num_correct,
    num_images, interval by the data's own labels, all pictures), device, precision, kernels.
    Raises UsageError where the file does not fit the data, or leaves every picture out.
    """
    how = how or How()
    model, base = _open(source, how)
    chosen = labelled_pictures(source, model.spec, data, split=split, bad=how.bad)
    sets = read_label_sets(Path(labels), chosen.pictures, chosen.pictures.classes)
    counted = np.array([bool(one) for one in sets])
    if not counted.any():
        raise UsageError(f"--labels {labels}: no picture of the {chosen.split} split has a right answer")
    logits, ran = _logits(model, chosen.pictures, how)
    predicted = logits.argmax(axis=1)
    right = np.array([made in one for made, one in zip(predicted.tolist(), sets, strict=True)])
    return {
        **base,
        "data": data,
        "split": chosen.split,
        "labels": str(labels),
        "num_images": len(sets),
        "left_out": int((~counted).sum()),
        "num_counted": int(counted.sum()),
        **_share(right[counted]),
        "labels_per_picture": float(np.mean([len(one) for one in sets if one])),
        "original": {**_share(predicted == chosen.pictures.labels), "num_images": len(sets)},
        **ran,
    }


def evaluate_subset(
    source: str | Path, data: str, *, split: str | None = None, how: How | None = None
) -> dict[str, Any]:
    """Evaluate among the classes that have a folder in `data`: ImageNet-A, -R, -V2.

    See `isopatch.data.class_subset` for how folders become classes. Data without splits is taken whole.
    Returns plain JSON values: checkpoint, model, data, split, num_images, outputs (of the model), classes
    (that have a folder), matched (how), top1, num_correct, interval (the largest output among those classes),
    unrestricted (the same of all outputs), outside (share of the pictures whose largest output is none of
    those classes), device, precision, kernels. Raises UsageError where folders are no classes of the model.
    """
    how = how or How()
    model, base = _open(source, how)
    splits = open_data(data, val_fraction=0.0, test_fraction=0.0, bad=how.bad)
    there = {"test": splits.test, "val": splits.val, "train": splits.train}
    chosen = split or next(role for role, pictures in there.items() if pictures is not None)
    pictures = there[chosen]
    if pictures is None:
        present = ", ".join(role for role, found in there.items() if found is not None)
        raise UsageError(f"--split {chosen}: {data} has {present}")
    recorded = recorded_data(source)
    if chosen == "train" and recorded is not None and recorded["source"] in (os.path.abspath(data), data):
        log.warning("%s was trained on pictures of %s: its accuracy here says too much", source, data)
    outputs = int(model.spec.arguments["num_classes"])
    place, matched = subset_outputs(
        pictures.classes, model.spec.classes, outputs, imagenet=_imagenet, where=f"{data} ({chosen})"
    )
    log.info("%d class folders: %s", len(place), matched)
    logits, ran = _logits(model, pictures, how)
    truth = place[pictures.labels]
    everywhere = logits.argmax(axis=1)
    subset = np.unique(place)  # ascending, so that of equal outputs the first wins here too
    return {
        **base,
        "data": data,
        "split": chosen,
        "num_images": len(pictures),
        "outputs": outputs,
        "classes": len(place),
        "matched": matched,
        **_share(subset[logits[:, subset].argmax(axis=1)] == truth),
        "unrestricted": _share(everywhere == truth),
        "outside": float((~np.isin(everywhere, subset)).mean()),
        **ran,
    }


def _open(source: str | Path, how: How) -> tuple[Classifier, dict[str, Any]]:
    if how.threads is not None:
        torch.set_num_threads(how.threads)
    require_device(how.device)
    model = load_for_pictures(source, name=how.name, arguments=how.arguments)
    return model, {"checkpoint": str(source), "model": model.spec.name}


def _logits(model: Classifier, pictures: ImageSource, how: How) -> tuple[NDArray[np.float32], dict[str, Any]]:
    place = require_device(how.device)
    model.to(place)
    swapped = use(model, kernels=how.kernels, precision=how.precision)
    log.info("%s", swapped)
    logits = logits_of(
        model,
        pictures,
        model.spec.input,
        batch_size=how.batch_size,
        workers=how.workers,
        device=str(place),
        precision=how.precision,
    )
    return logits, {"device": str(place), "precision": how.precision, **swapped.ran_on()}


def _share(right: NDArray[np.bool_]) -> dict[str, Any]:
    correct = int(right.sum())
    return {
        "num_correct": correct,
        "top1": correct / len(right),
        "interval": list(wilson(correct, len(right))),
    }


def _imagenet() -> dict[str, str]:
    """The WordNet ids of ImageNet-1k in the order of a model's outputs, with words, as timm ships them."""
    from timm.data.imagenet_info import ImageNetInfo

    table: Any = ImageNetInfo("imagenet-1k")
    return dict(zip(table.label_names(), table.label_descriptions(), strict=True))
