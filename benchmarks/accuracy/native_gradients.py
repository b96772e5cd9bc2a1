"""Are the native kernels' bfloat16 gradients biased? At a trained checkpoint, beside PyTorch's own.

Claim: over the same training batches the mean gradient through the native kernels in bfloat16 is no further
from float32's than 1.25 times PyTorch's own in bfloat16, and has its length along it (scale 1 within 0.005);
in float32 it differs by 1e-4 at most.
What rounding leaves in a single batch averages out; what is left in the mean would steer the training. Errors
are relative, of every parameter, then their mean; scale: the projection on the float32 gradient.
Reference: the plain model in float32, in training mode, the same batches without augmentation, labels
smoothed by 0.1. Controls: the same gradients 1 % too long fail, and so do those with an error of one sign:
5 % of a gradient's own size, added to every second value.
Hardware: 2 CPU cores. Time: not known yet; ten minutes more to train the run where there is none.
Command: ISOPATCH_DATA=... python -m benchmarks.accuracy.native_gradients --folder DIR
    in a minute         --data digits --n 2 --changes "--model.image_size 8 --epochs 1" (a test does)
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from benchmarks.accuracy.native_against_plain import RUN
from benchmarks.accuracy.training import run_options, train_or_continue
from benchmarks.common import data_root, record
from torch import Tensor, nn
from torch.nn import functional as F

import isopatch
from isopatch.evaluation import labelled_pictures
from isopatch.image.prepare import prepare
from isopatch.kernels import swap

BATCH = 128
TIMES_PLAIN, SCALE = 1.25, 0.005
EXACT = 1e-4  # of the native kernels in float32

Gradients = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


def main() -> int:
    """Train a checkpoint where there is none, then compare gradients."""
    given = run_options(__doc__, n=12).parse_args()
    started = time.monotonic()
    given.folder.mkdir(parents=True, exist_ok=True)
    data = given.data or str(data_root() / "cifar10")
    run = given.folder.resolve() / f"native-bf16-seed{given.seed}"
    arguments = ["--data", data, *RUN.split(), *given.changes.split(), "--seed", str(given.seed)]
    arguments += ["--kernels", "native", "--precision", "bf16"]
    trained = train_or_continue(arguments, out=run, threads=2)
    torch.set_num_threads(2)
    model = isopatch.load(run).float().train()
    found = list(batches(run, model, data, given.n, given.seed))
    reference = mean_gradients(model, found, "plain", "fp32")
    arms = {
        f"{kernels} {precision}": mean_gradients(model, found, kernels, precision)
        for kernels, precision in (("native", "bf16"), ("plain", "bf16"), ("native", "fp32"))
    }
    native = arms["native bf16"]
    arms["control: 1 % too long"] = {name: 1.01 * value for name, value in native.items()}
    arms["control: of one sign"] = {name: _pushed(value) for name, value in native.items()}
    figure = {name: compared(gradients, reference) for name, gradients in arms.items()}
    plain = figure["plain bf16"]["error"]
    passed = {name: unbiased(values, plain) for name, values in figure.items()}
    ours = figure["native bf16"]
    return record(
        "native_gradients",
        claim="ConvMixer-256/8 k5 p2 at a trained checkpoint: the native kernels' bfloat16 gradients "
        f"are not biased (mean gradient no further from float32 than {TIMES_PLAIN} times PyTorch's, scale "
        f"within {SCALE} of 1)",
        measured=f"mean gradient off by {ours['error']:.2%}, PyTorch's by {plain:.2%}; "
        f"scale {ours['scale']:.4f} (parameters {ours['smallest_scale']:.3f} to {ours['largest_scale']:.3f})",
        figure=figure,
        passed=passed["native bf16"]
        and figure["native fp32"]["error"] <= EXACT
        and not any(passed[name] for name in passed if name.startswith("control")),
        n=given.n,
        seed=given.seed,
        started=started,
        out=given.out,
        run=trained,
        instructions=swap(model, kernels="native", precision="bf16").instructions,
    )


def batches(run: Path, model: nn.Module, data: str, n: int, seed: int) -> Iterable[Batch]:
    """Draw n batches of training pictures."""
    pictures = labelled_pictures(run, model.spec, data, split="train", bad="fail").pictures
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, n * BATCH, BATCH):
        chosen = order[start : start + BATCH]
        images = torch.stack([prepare(pictures.read(index), model.spec.input) for index in chosen])
        yield images, torch.from_numpy(pictures.labels[chosen])


def mean_gradients(model: nn.Module, found: list[Batch], kernels: str, precision: str) -> Gradients:
    """Every parameter's gradient, the mean of the batches'."""
    arm = copy.deepcopy(model)
    if kernels == "native":
        swap(arm, kernels=kernels, precision=precision)
    sums: Gradients = {name: torch.zeros_like(value).double() for name, value in arm.named_parameters()}
    for images, labels in found:
        arm.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = arm(images)
        F.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()
        for name, value in arm.named_parameters():
            assert value.grad is not None
            sums[name] += value.grad.double() / len(found)
    return sums


def compared(gradients: Gradients, reference: Gradients) -> dict[str, float]:
    """Relative error and scale of gradients, over all parameters."""
    errors = [float((gradients[name] - value).norm() / value.norm()) for name, value in reference.items()]
    scales = [
        float((gradients[name] * value).sum() / value.square().sum()) for name, value in reference.items()
    ]
    return {
        "error": statistics.fmean(errors),
        "largest_error": max(errors),
        "scale": statistics.fmean(scales),
        "smallest_scale": min(scales),
        "largest_scale": max(scales),
    }


def unbiased(values: dict[str, float], plain: float) -> bool:
    """Say whether gradients keep the claim beside PyTorch's error in bfloat16."""
    return values["error"] <= TIMES_PLAIN * plain and abs(values["scale"] - 1) <= SCALE


def _pushed(gradient: Tensor) -> Tensor:
    """With an error of one sign in every second value."""
    flat = gradient.flatten().clone()
    flat[::2] += 0.05 * flat.square().mean().sqrt()
    return flat.view_as(gradient)


if __name__ == "__main__":
    sys.exit(main())
