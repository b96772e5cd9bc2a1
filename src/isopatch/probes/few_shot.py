"""Few-shot accuracy: ridge regression on a few pictures of each class, for several draws of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isopatch.errors import UsageError
from isopatch.probes.features import Features
from isopatch.probes.interval import mean_interval
from isopatch.probes.ridge import Ridge, Setting
from isopatch.probes.shots import Draw

Labels = NDArray[np.int64]


def pictures_needed(draws: Sequence[Draw], shots: Sequence[int], settings: Sequence[Setting]) -> Labels:
    """Return, ascending, every training picture that `few_shot` will ask for."""
    most = max(shots)
    parts = [one.shots(most) for one in draws]
    if any(len(setting.l2) > 1 for setting in settings):
        parts += [one.held_out(most) for one in draws]
    return np.unique(np.concatenate(parts))


def few_shot(
    train: Features,
    train_labels: Labels,
    test: NDArray[np.float32],
    test_labels: Labels,
    *,
    num_classes: int,
    draws: Sequence[Draw],
    shots: Sequence[int],
    settings: Sequence[Setting],
) -> list[dict[str, Any]]:
    """Return one row for every setting and number of shots.

    Keys: setting, shots, training_pictures, top1 (the mean over the draws), interval (t, 95 %, of that mean;
    None for one draw), num_images, and draws: seed, num_correct, top1, l2 and held_out (the training
    pictures that chose it, 0 where nothing was chosen). The interval tells how much the choice of the shots
    matters; the test pictures are the same for all draws.
    Raises UsageError where no picture is left to choose a strength on.
    """
    most = max(shots)
    rows = []
    for setting in settings:
        for number in shots:
            measured = []
            for one in draws:
                chosen = one.shots(number)
                ridge = Ridge(train.take(chosen), train_labels[chosen], num_classes, bias=setting.bias)
                held_out = one.held_out(most)[:0]
                if len(setting.l2) > 1:
                    held_out = one.held_out(most)
                    if not len(held_out):
                        raise UsageError(
                            f"--shots {most}: no training picture is left to choose the strength of the "
                            f"ridge on; give fewer shots"
                        )
                l2 = ridge.best_l2(setting.l2, train.take(held_out), train_labels[held_out])
                correct = int((ridge.predict(test, l2) == test_labels).sum())
                measured.append(
                    {
                        "seed": one.seed,
                        "num_correct": correct,
                        "top1": correct / len(test_labels),
                        "l2": l2,
                        "held_out": len(held_out),
                    }
                )
            shares = [float(draw["top1"]) for draw in measured]
            interval = mean_interval(shares)
            rows.append(
                {
                    "setting": setting.name,
                    "shots": number,
                    "training_pictures": number * num_classes,
                    "top1": statistics.fmean(shares),
                    "interval": None if interval is None else list(interval),
                    "num_images": len(test_labels),
                    "draws": measured,
                }
            )
    return rows
