"""CIFAR-10 with the ConvMixer paper's 0.7 M model, 256/8 k9 p1 (706,570 parameters), on one GPU.

Claim: >= 95.7 % top-1 in the mean of three seeds (aim 96.0; the paper's one run: 96.03, reproduced by others:
95.89), on all 10,000 test pictures, all 50,000 trained on, so that nothing is selected. The settings are
those of the run that reproduced it (issue 15 of the ConvMixer repository): 200 epochs of the ImageNet recipe
with batches of 64, weight decay 0.01 and crops of 0.75 to 1 of the area. Beside them the time until 94 % of a
validation cut (a tenth) are right, in a run of its own with the first seed. Restartable.
Hardware: one CUDA GPU of compute capability 8.0 or newer. Not measured yet: no GPU.
Command: ISOPATCH_DATA=... python -m benchmarks.accuracy.cifar10_gpu --folder DIR
    on a CPU, in a minute   --n 1 --data digits --changes "--device cpu --kernels auto --precision fp32
                            --model.image_size 8 --model.dim 16 --model.depth 1 --epochs 1" (a test does)
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.accuracy.distillation import interval
from benchmarks.accuracy.training import run_options, train_or_continue
from benchmarks.common import data_root, record

FLOOR, AIM, TIMED = 0.957, 0.960, 0.94
RUN = {
    "--recipe": "convmixer",
    "--model": "convmixer",
    "--model.image_size": "32",
    "--model.dim": "256",
    "--model.depth": "8",
    "--model.kernel_size": "9",
    "--model.patch_size": "1",
    "--epochs": "200",
    "--batch_size": "64",
    "--accumulate": "1",
    "--optimizer.weight_decay": "0.01",
    "--augment.scale": "[0.75, 1]",
    "--input.crop_fraction": "1",
    "--input.mean": "[0.4914, 0.4822, 0.4465]",
    "--input.std": "[0.2471, 0.2435, 0.2616]",
    "--device": "cuda",
    "--kernels": "triton",
    "--precision": "bf16",
}


def main() -> int:
    """Train what is missing, then say how good it became, and how soon 94 % were right."""
    given = run_options(__doc__, n=3).parse_args()
    started = time.monotonic()
    given.folder.mkdir(parents=True, exist_ok=True)
    changes = given.changes.split()
    settings = RUN | dict(zip(changes[::2], changes[1::2], strict=True))
    shared = ["--data", given.data or str(data_root() / "cifar10"), *chain.from_iterable(settings.items())]
    runs = []
    for seed in range(given.seed, given.seed + given.n):
        arguments = [*shared, "--data.val_fraction", "0", "--seed", str(seed)]
        runs.append(train_or_continue(arguments, out=given.folder.resolve() / f"seed{seed}", threads=4))
        print(f"seed {seed}: {runs[-1]['top1']:.2%}", flush=True)
    out = given.folder.resolve() / f"timed-seed{given.seed}"
    arguments = [*shared, "--data.val_fraction", "0.1", "--seed", str(given.seed)]
    timed = train_or_continue(arguments, out=out, threads=4)
    seconds = seconds_to(TIMED, out / "metrics.jsonl")
    accuracies = interval([run["top1"] for run in runs])
    mean = statistics.fmean(run["top1"] for run in runs)
    return record(
        "cifar10_gpu",
        claim=f"CIFAR-10, ConvMixer-256/8 k9 p1, 200 epochs on a GPU: mean of {given.n} seeds >= {FLOOR:.1%} "
        f"(aim {AIM:.1%}); time to {TIMED:.0%} stated",
        measured=f"{mean:.2%}; {TIMED:.0%} of the validation pictures "
        + (f"after {seconds / 60:.1f} minutes" if seconds else "never reached"),
        figure={"top1": accuracies, "seconds_to_94": seconds},
        passed=mean >= FLOOR,
        n=given.n,
        seed=given.seed,
        started=started,
        out=given.out,
        runs=runs,
        timed=timed,
    )


def seconds_to(top1: float, metrics: Path) -> float | None:
    """Return the seconds of a run, validations included, until one has at least this accuracy.

    Of the first measured step behind that validation, since not every step is.
    """
    reached, seconds = False, 0.0
    for line in metrics.read_text(encoding="utf-8").splitlines():
        point: dict[str, Any] = json.loads(line)
        if point["kind"] == "train":
            seconds = point["seconds"]
            if reached:
                break
        reached = reached or (point["kind"] == "eval" and point["top1"] >= top1)
    return seconds if reached else None


if __name__ == "__main__":
    sys.exit(main())
