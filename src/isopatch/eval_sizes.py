"""`isopatch eval --sizes`: one set of weights at several picture sizes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from isopatch.data.memory import keep_in_memory
from isopatch.errors import UsageError
from isopatch.evaluation import labelled_pictures
from isopatch.kernels import Swapped
from isopatch.kernels.use import use
from isopatch.models.load import fit, read_weights, require_rgb
from isopatch.models.resize import Change, ResizeMode
from isopatch.nn.classifier import Classifier
from isopatch.predict import require_device
from isopatch.training.config import DataConfig
from isopatch.training.sizes import at_size

log = logging.getLogger("isopatch")


def evaluate_sizes(
    source: str | Path,
    data: str,
    sizes: Sequence[int | tuple[int, int]],
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
    position_resize: ResizeMode = "deit",
) -> dict[str, Any]:
    """Evaluate whatever `load` opens at several picture sizes, (rows, columns) or one side, on one split.

    The weights are read and the data opened once; the other arguments are those of `evaluate_checkpoint` and
    `load`.
    Returns plain JSON values: model, trained_size, split, num_images, position_resize, device, precision,
    kernels, threads, and sizes, one row each (`isopatch.training.sizes.at_size`): what was resized, accuracy,
    speed, cost, or why the model cannot take the size. Raises UsageError where it can take none of them.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    place = require_device(device)
    weights = read_weights(source)
    spec = fit(weights, name, arguments=arguments).model.spec
    require_rgb(spec, source)
    chosen = labelled_pictures(source, spec, data, split=split, bad=bad)
    pictures = keep_in_memory(chosen.pictures, limit_mb=DataConfig().memory_limit_mb)  # one pass per size
    trained = (spec.input.height, spec.input.width)
    swapped: list[Swapped] = []

    def build(size: tuple[int, int], changes: list[Change]) -> Classifier:
        fitted = fit(
            weights,
            name,
            arguments=arguments,
            image_size=size,
            position_resize=position_resize,
            changes=changes,
        )
        model = fitted.model.to(place)
        swapped.append(use(model, kernels=kernels, precision=precision))
        if len(swapped) == 1:  # the same for every size
            log.info("%s", swapped[0])
        return model

    rows = []
    for size in dict.fromkeys((side, side) if isinstance(side, int) else tuple(side) for side in sizes):
        row = at_size(
            build,
            pictures,
            replace(spec.input, height=size[0], width=size[1]),
            batch_size=batch_size,
            workers=workers,
            device=str(place),
            precision=precision,
        )
        rows.append({**row, "trained": size == trained})
    refused = [row["refused"] for row in rows if row["refused"] is not None]
    if len(refused) == len(rows):
        raise UsageError("\n".join(refused or ["no size to evaluate at: give at least one"]))
    return {
        "checkpoint": str(source),
        "model": spec.name,
        "trained_size": list(trained),
        "data": data,
        "split": chosen.split,
        "num_images": len(pictures),
        "position_resize": position_resize,
        "device": str(place),
        "precision": precision,
        **swapped[0].ran_on(),
        "sizes": rows,
    }
