"""A share of the training pictures: nested, recorded, and nothing else touched."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from isopatch import api
from isopatch.data.open import open_data
from isopatch.data.source import DataSplits
from isopatch.errors import UsageError
from isopatch.evaluation import split_of
from isopatch.training.config import RunConfig


def names(splits: DataSplits, role: str) -> set[str]:
    source = getattr(splits, role)
    return {source.name(index) for index in range(len(source))}


@pytest.mark.parametrize("seed", [0, 1])
def test_validation_and_test_pictures_stay_and_training_shares_are_nested(seed: int) -> None:
    whole = open_data("digits")
    opened = [open_data("digits", fraction=f, fraction_seed=seed) for f in (0.01, 0.1, 0.5)]
    for splits in opened:
        assert names(splits, "val") == names(whole, "val") and names(splits, "test") == names(whole, "test")
        assert splits.cut == whole.cut
    nested = [names(splits, "train") for splits in [*opened, whole]]
    assert all(small < large for small, large in itertools.pairwise(nested))
    assert whole.train is not None
    counts = np.bincount(whole.train.labels)
    assert [len(share) for share in nested[:-1]] == [
        sum(max(1, math.floor(f * n + 0.5)) for n in counts.tolist()) for f in (0.01, 0.1, 0.5)
    ]


def test_the_share_is_in_the_fingerprint_and_the_notes() -> None:
    prints = {
        open_data("digits", fraction=fraction, fraction_seed=seed).train.fingerprint  # type: ignore[union-attr]
        for fraction, seed in ((1.0, 0), (0.1, 0), (0.1, 1), (0.2, 0))
    }
    assert len(prints) == 4
    said = open_data("digits", fraction=0.1).notes[-1]
    assert said == "Of 1,293 training pictures 130 are used (0.1 of each class, seed 0)."


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_an_impossible_share_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match=r"data.fraction"):
        open_data("digits", fraction=fraction)


def test_a_model_trained_on_a_share_is_measured_on_pictures_it_has_not_seen(tmp_path: Path) -> None:
    model = {"name": "convmixer", "dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}
    data = {"fraction": 0.2, "fraction_seed": 3, "val_fraction": 0.25, "split_seed": 5}
    config = RunConfig.model_validate({"model": model, "data": data, "steps": 1, "threads": 1})
    api.train(config, out=tmp_path / "run", quiet=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    splits, chosen, pictures = split_of(tmp_path / "run", "digits", "val", "fail")
    assert splits.train is not None and summary["data"]["train"] == len(splits.train) == 216
    assert splits.train.fingerprint == summary["data"]["fingerprint"]
    whole = open_data("digits", val_fraction=0.25, split_seed=5)
    assert names(splits, "val") == names(whole, "val")
    assert chosen == "val" and len(pictures) == summary["data"]["val"]
