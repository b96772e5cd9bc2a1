"""Do the native kernels train as well as PyTorch? ConvMixer-256/8 k5 p2, short CIFAR-10 runs, paired seeds.

Claim: over five seeds the accuracy in bfloat16 through the native kernels differs from PyTorch's own by less
than half a point in the mean. A pair has the same first weights, order, augmentation and schedule; nothing is
selected, the last weights count, on all 10,000 test pictures. Recorded: both accuracies of every pair, the
mean difference with its 95 % interval (t), seconds.
Restartable: what is finished under --folder is not run again, what was interrupted goes on.
Hardware: 2 CPU cores, both for one run. Time: about 45 minutes.
Command: ISOPATCH_DATA=... python -m benchmarks.accuracy.native_against_plain --folder DIR
    against float32     --plain-precision fp32 (default: bfloat16 autocast)
    in a minute         --data digits --n 2 --changes "--model.image_size 8 --epochs 1" (a test does)
"""

from __future__ import annotations

import sys
import time

from benchmarks.accuracy.distillation import interval
from benchmarks.accuracy.training import run_options, train_or_continue
from benchmarks.common import data_root, record

FLOOR = 0.005
# 30 % of the training pictures, and none evaluated but the test's: nothing is selected
RUN = (
    "--recipe convmixer-cifar --model convmixer_256_8_ks5_p2 --data.fraction 0.3 --data.val_fraction 0 "
    "--epochs 4 --eval.every_epochs 1000 --batch_size 128"
)


def main() -> int:
    """Train what is missing of the pairs, then compare."""
    options = run_options(__doc__, n=5)
    options.add_argument("--plain-precision", choices=("bf16", "fp32"), default="bf16")
    given = options.parse_args()
    started = time.monotonic()
    given.folder.mkdir(parents=True, exist_ok=True)
    arms = {"native": "bf16", "plain": given.plain_precision}
    runs: dict[str, list[dict[str, object]]] = {kernels: [] for kernels in arms}
    for seed in range(given.seed, given.seed + given.n):
        for kernels, precision in arms.items():
            arguments = ["--data", given.data or str(data_root() / "cifar10"), *RUN.split()]
            arguments += [
                *given.changes.split(),
                "--seed",
                str(seed),
                "--kernels",
                kernels,
                "--precision",
                precision,
            ]
            out = given.folder.resolve() / f"{kernels}-{precision}-seed{seed}"
            result = train_or_continue(arguments, out=out, threads=2)
            print(f"{out.name}: {result['top1']:.2%} in {result['training_seconds']:.0f} s", flush=True)
            runs[kernels].append(result)
    native, plain = ([float(str(run["top1"])) for run in runs[kernels]] for kernels in arms)
    difference = interval([a - b for a, b in zip(native, plain, strict=True)])
    mean, half = difference["mean"], difference["half_width"]
    assert mean is not None
    return record(
        "native_against_plain",
        claim="ConvMixer-256/8 k5 p2, short CIFAR-10 runs, paired seeds: native bfloat16 and PyTorch within "
        "0.5 points in the mean",
        measured=f"{100 * mean:+.2f} points"
        + (f" (95 % interval {100 * (mean - half):+.2f} to {100 * (mean + half):+.2f})" if half else ""),
        figure={"difference": difference, "native": interval(native), "plain": interval(plain)},
        passed=abs(mean) < FLOOR,
        n=given.n,
        seed=given.seed,
        started=started,
        out=given.out,
        runs=runs,
    )


if __name__ == "__main__":
    sys.exit(main())
