"""The four published CIFAR ResNets on all 10,000 test images, through `isopatch eval`.

Claim: 91.73, 92.63, 93.10 and 93.39 % for depth 20, 32, 44 and 56, to the digit: the accuracies their author
states for these files (akamaster/pytorch_resnet_cifar10).
Control: with the mean and deviation of CIFAR-10 instead of those they were trained with, the counts differ.
Hardware: CPU. Time: 3 minutes on one core. The weights lie beside the data, in ../weights/cifar-resnet.
Command: ISOPATCH_DATA=... python -m benchmarks.accuracy.cifar_resnets
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

from benchmarks.common import data_root, parser, record, run, workspace

CORRECT = {20: 9173, 32: 9263, 44: 9310, 56: 9339}


def counted(depth: int) -> int:
    """Test images that `isopatch eval` counts as right."""
    file = next((data_root().parent / "weights" / "cifar-resnet").glob(f"resnet{depth}-*.th"))
    with workspace("cifar-resnets") as folder:
        model = ("--model", f"cifar_resnet{depth}")
        done = run("eval", str(file), *model, "--data", str(data_root() / "cifar10"), "--json", cwd=folder)
    if done.code != 0:
        sys.exit(done.stderr)
    evaluation = json.loads(done.stdout)
    assert evaluation["num_images"] == 10_000
    return int(evaluation["num_correct"])


def with_other_statistics(depth: int) -> int:
    """The same with another mean and deviation of the pictures."""
    from isopatch.data.open import open_data
    from isopatch.models.load import load
    from isopatch.training.evaluate import evaluate

    file = next((data_root().parent / "weights" / "cifar-resnet").glob(f"resnet{depth}-*.th"))
    model = load(file, name=f"cifar_resnet{depth}")
    test = open_data(str(data_root() / "cifar10"), val_fraction=0.0).test
    assert test is not None
    other = replace(model.spec.input, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    return int(evaluate(model, test, other, classes=test.classes).scalars["num_correct"])


def main() -> int:
    """Evaluate all four and record the counts."""
    arguments = parser(__doc__).parse_args()
    started = time.monotonic()
    found = {depth: counted(depth) for depth in CORRECT}
    control = with_other_statistics(20)
    return record(
        "cifar_resnets",
        claim="Published CIFAR ResNet-20, 32, 44, 56 on all 10,000 test images: 91.73, 92.63, 93.10, 93.39%, "
        "to the digit",
        measured=", ".join(f"{count / 100:.2f}%" for count in found.values()),
        figure={str(depth): count for depth, count in found.items()},
        passed=found == CORRECT and control != CORRECT[20],
        n=10_000,
        seed=None,
        started=started,
        out=arguments.out,
        control_other_statistics=control,
    )


if __name__ == "__main__":
    sys.exit(main())
