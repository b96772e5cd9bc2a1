"""A short version of benchmarks/accuracy/dense_scenes.py: it learns, and its models have equal parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from benchmarks.accuracy import dense_scenes
from PIL import Image

import isopatch


def test_a_segmenter_learns_scenes() -> None:
    few = dense_scenes.scenes("train", 16)
    torch.manual_seed(0)
    backbone = isopatch.create_model(
        "convmixer", dim=32, depth=3, kernel_size=5, patch_size=4, image_size=64, num_classes=1
    )
    model = isopatch.Segmenter(backbone, 11)
    before = dense_scenes.measured(model, few)
    repeated = dense_scenes.Scenes(few.pictures.repeat(25, 1, 1, 1), few.masks.repeat(25, 1, 1))
    losses = dense_scenes.train(model, repeated, lr=0.02, seed=0)
    assert len(losses) == 50
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    after = dense_scenes.measured(model, few)
    assert after["miou"] > before["miou"] + 0.1
    assert after["miou_digits"] > 0.05  # to call everything ground gives 0 here, and 0.08 over all classes
    assert set(after["iou"]) == {"background", *"0123456789"}


def test_parameters_are_equal() -> None:
    counts = [
        dense_scenes.parameters(dense_scenes.segmenter(name, width))
        for name, width in dense_scenes.equal_widths().items()
    ]
    assert len(counts) == 3 and max(counts) < 1.05 * min(counts)


def test_the_figure_shows_the_predictions(tmp_path: Path) -> None:
    test = dense_scenes.scenes("test", dense_scenes.SHOWN)
    path = tmp_path / "dense.png"
    dense_scenes.draw(test, {"perfect": test.masks}, path)
    page = np.asarray(Image.open(path).convert("RGB")).astype(int)
    step, left = dense_scenes.CELL + dense_scenes.GAP, dense_scenes.LEFT
    truth, perfect = (page[row * step : row * step + dense_scenes.CELL, left:] for row in (1, 2))
    np.testing.assert_array_equal(truth, perfect)
    assert len(np.unique(truth.reshape(-1, 3), axis=0)) > 5
