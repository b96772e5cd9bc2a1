"""TrashNet photographs from scratch, 3 seeds.

Claim: top-1 >= 60 % on the official test split with every seed; the weights are selected on the official
validation split. Upstream's test split shares one picture with train.
Hardware: 2 CPU cores. Time: about 8 minutes a seed.
Command: ISOPATCH_DATA=... python -m benchmarks.accuracy.trashnet [--n 3]
"""

from __future__ import annotations

import sys
import time

from benchmarks.accuracy.training import train
from benchmarks.common import data_root, parser, record, spread, workspace

FLOOR = 0.60
ARGUMENTS = [
    *("--model", "convmixer", "--model.dim", "128", "--model.depth", "6", "--model.kernel_size", "5"),
    *("--model.patch_size", "8", "--model.image_size", "128", "--recipe", "small"),
    *("--batch_size", "32", "--epochs", "40"),
]


def main() -> int:
    """Train with every seed and record the results."""
    arguments = parser(__doc__, n=3).parse_args()
    started = time.monotonic()
    runs = []
    with workspace("trashnet") as folder:
        for seed in range(arguments.seed, arguments.seed + arguments.n):
            given = ["--data", str(data_root() / "trashnet"), *ARGUMENTS, "--seed", str(seed)]
            runs.append(train(given, out=folder / f"seed-{seed}", cwd=folder, threads=1))
            print(f"seed {seed}: top-1 {runs[-1]['top1']:.4f}, macro recall {runs[-1]['macro_recall']:.4f}")
    accuracies = [run["top1"] for run in runs]
    return record(
        "trashnet",
        claim=f"TrashNet photographs from scratch at 128 pixels: >= {FLOOR:.0%} on test, every seed",
        measured=f"{min(accuracies):.1%} to {max(accuracies):.1%}",
        figure={"top1": spread(accuracies), "macro_recall": spread([run["macro_recall"] for run in runs])},
        passed=min(accuracies) >= FLOOR,
        n=arguments.n,
        seed=arguments.seed,
        started=started,
        out=arguments.out,
        runs=runs,
    )


if __name__ == "__main__":
    sys.exit(main())
