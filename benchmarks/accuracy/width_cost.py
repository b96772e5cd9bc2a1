"""What width costs and brings: ConvMixer-128, 192, 256, 384 of depth 8, kernel 5, patch 2, on CIFAR-10.

Claim: none; reported beside the paper's remark that a wider ConvMixer converges earlier and needs more memory
(Trockman and Kolter 2022, section 4.1 and appendix). Recipe `convmixer-cifar` for every width, equal epochs,
native kernels where they run. Recorded: epochs until 80 % of the validation pictures are right (a tenth of
the training pictures, cut by seed), test accuracy of the selected weights, seconds, peak memory of a training
step. Restartable, as benchmarks.accuracy.distillation is.
Hardware: 2 CPU cores. Time: about an hour.
Command: ISOPATCH_DATA=... python -m benchmarks.accuracy.width_cost --folder DIR [--widths 128,...]
    in a minute     --data digits --image-size 8 --widths 8,16 --depth 1 --epochs 2 (a test does)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.accuracy.training import train_or_continue
from benchmarks.common import data_root, parser, record

TARGET = 0.80
BATCH = 512  # of the recipe
MODEL = {"kernel_size": 5, "patch_size": 2}


def main() -> int:
    """Train what is missing, read the validation curves, measure memory."""
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, required=True, help="where the runs live; run again to go on")
    options.add_argument("--widths", default="128,192,256,384", help="with commas")
    options.add_argument("--epochs", type=int, default=8)
    options.add_argument("--depth", type=int, default=8)
    options.add_argument("--data", help="default: CIFAR-10")
    options.add_argument("--image-size", type=int, default=32)
    given = options.parse_args()
    started = time.monotonic()
    given.folder.mkdir(parents=True, exist_ok=True)
    rows = [_row(int(width), given) for width in given.widths.split(",")]
    return record(
        "width_cost",
        claim=f"ConvMixer-W/{given.depth} k5 p2 on {given.data or 'CIFAR-10'}, {given.epochs} epochs: "
        "what width costs (no floor)",
        measured="; ".join(
            f"{row['dim']}: {100 * row['top1']:.1f} %, "
            + (f"80 % after {row['epochs_to_80']:.0f} epochs" if row["epochs_to_80"] else "80 % not reached")
            + f", {row['training_seconds']:.0f} s, {row['peak_memory_mb']:.0f} MB"
            for row in rows
        ),
        figure={str(row["dim"]): row for row in rows},
        passed=True,
        n=1,
        seed=given.seed,
        started=started,
        out=given.out,
    )


def _row(width: int, given: argparse.Namespace) -> dict[str, Any]:
    model = {"dim": width, "depth": given.depth, "image_size": given.image_size, **MODEL}
    arguments = ["--data", given.data or str(data_root() / "cifar10")]
    arguments += ["--recipe", "convmixer-cifar", "--model", "convmixer"]
    for key, value in model.items():
        arguments += [f"--model.{key}", str(value)]
    arguments += f"--epochs {given.epochs} --data.val_fraction 0.1 --seed {given.seed}".split()
    out = given.folder.resolve() / f"width-{width}-{given.epochs}-seed{given.seed}"
    result = train_or_continue(arguments, out=out, threads=2)
    curve = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curve = [point for point in curve if point["kind"] == "eval"]
    reached = next((point["epoch"] for point in curve if point["top1"] >= TARGET), None)
    row = {
        "dim": width,
        "epochs_to_80": reached,
        "peak_memory_mb": _memory(model, result),
        "validation": [[round(point["epoch"], 2), point["top1"]] for point in curve],
        **result,
    }
    print(f"{width}: {result['top1']:.2%}, 80 % after {reached} epochs", flush=True)
    return row


def _memory(model: dict[str, Any], result: dict[str, Any]) -> float:
    """Peak memory of a training step, in a process of its own, with the run's kernels and precision."""
    from isopatch.bench.memory import peak_memory_mb
    from isopatch.bench.setting import Setting, Task

    subject = {"source": "convmixer", "arguments": model, "seed": 0}
    layout = "channels_last" if result["kernels"] == "plain" else None
    setting = Setting(f"isopatch-{result['kernels']}", result["precision"], result["threads"], layout)
    return round(peak_memory_mb(subject, Task("train", BATCH), setting), 1)


if __name__ == "__main__":
    sys.exit(main())
