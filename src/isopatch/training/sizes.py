"""One model at another picture size: what had to be resized, how good it is, how fast, what it costs.

A pixel more or less changes the accuracy of the same weights (Touvron et al. 2019, FixRes), and the speed by
the square of the side or more; which size to run a model at is a measurement, not a property of its name.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from isopatch.data.loader import eval_batches
from isopatch.data.source import ImageSource
from isopatch.errors import IsopatchError
from isopatch.image.contract import InputContract
from isopatch.models.describe import describe_spec
from isopatch.models.resize import Change
from isopatch.nn.classifier import Classifier
from isopatch.training.evaluate import evaluate, evaluation_mode, forward_heads

log = logging.getLogger("isopatch")

WARM_UP = 2  # batches whose time does not count: allocation, choice of kernels, clocks
LEAST, MOST = 3, 20  # batches timed
SECONDS = 2.0  # no further batch after this long
CPU_BATCH = 32  # a CPU gains nothing from larger ones, and takes long for them

MEASURED = ("top1", "top5", "nll", "num_images", "num_correct")

Build = Callable[[tuple[int, int], list[Change]], Classifier]


def at_size(
    build: Build,
    pictures: ImageSource,
    contract: InputContract,
    *,
    batch_size: int,
    workers: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
) -> dict[str, Any]:
    """Return a row of plain JSON values for the size of `contract`.

    build: makes the model for a size (rows, columns) and notes in a list what was resized for it.
    contract: how pictures are prepared: the model's own, crop fraction included, with another size.
    Keys: image_size; refused, why the model cannot take the size (everything below is None then) or None;
    resized, a list of {what, how, from, to}; grid, tokens (prefix included), macs; top1, top5, nll,
    num_images, num_correct; images_per_second, see `speed`.
    """
    size = (contract.height, contract.width)
    row: dict[str, Any] = {"image_size": list(size), "refused": None}
    changes: list[Change] = []
    try:
        model = build(size, changes)
        facts = describe_spec(model.spec)
    except IsopatchError as error:
        log.info("%dx%d: not possible: %s", *size, error)
        names = ("resized", "grid", "tokens", "macs", *MEASURED, "images_per_second")
        return {**row, "refused": str(error), **dict.fromkeys(names)}
    row["resized"] = [
        {"what": c.what, "how": c.how, "from": list(c.before), "to": list(c.after)}
        for c in dict.fromkeys(changes)
    ]
    row |= {key: facts[key] for key in ("grid", "tokens", "macs")}
    model.to(device)
    result = evaluate(
        model,
        pictures,
        contract,
        classes=pictures.classes,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        gallery=0,
    )
    row |= {key: result.scalars[key] for key in MEASURED}
    most = batch_size if torch.device(device).type == "cuda" else min(batch_size, CPU_BATCH)
    batches = eval_batches(pictures, contract, batch_size=most)
    with contextlib.closing(batches):
        images = next(batches).images
    row["images_per_second"] = speed(model, images, device=device, precision=precision)
    log.info(
        "%dx%d: top-1 %.2f %%, %.1f images/s", *size, 100 * result.top1, row["images_per_second"]["median"]
    )
    return row


def speed(model: Classifier, images: torch.Tensor, *, device: str, precision: str) -> dict[str, Any]:
    """Time the model on one batch (B, C, H, W) again and again; reading and preparing pictures is not in it.

    Returns images per second: the median over the timed batches, the quartiles around it, and the batches'
    number and size.
    """
    images = images.to(device)
    rates: list[float] = []
    with evaluation_mode(model):
        for _ in range(WARM_UP):
            forward_heads(model, images, device=device, precision=precision)
        began = time.perf_counter()
        while len(rates) < LEAST or (len(rates) < MOST and time.perf_counter() - began < SECONDS):
            started = time.perf_counter()
            forward_heads(model, images, device=device, precision=precision)  # ends with logits in memory
            rates.append(len(images) / (time.perf_counter() - started))
    lower, median, upper = statistics.quantiles(rates, n=4, method="inclusive")
    return {
        "median": median,
        "quartiles": [lower, upper],
        "batches": len(rates),
        "batch_size": len(images),
    }
