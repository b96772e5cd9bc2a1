"""Damage: the same for one seed, other for another, growing with the level, nothing at level 0."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from isopatch.data.open import open_data
from isopatch.eval_robustness import patch_grid
from isopatch.models.spec import build, make_spec
from isopatch.robustness.corruptions import KINDS, LEVELS, corrupt
from isopatch.robustness.views import Corrupted, shuffled, tilings


def picture(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """A scene with an edge, and colours that vary on every scale without repeating."""
    rng = np.random.default_rng(seed)
    base = np.full((height, width, 3), 60.0)
    for cells in (2, 4, 8, 16):
        patch = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        base += 0.3 * np.asarray(patch.resize((width, height), Image.Resampling.BICUBIC)) - 10
    base[height // 4 : height // 2, width // 3 : width // 2] = (240, 30, 60)
    return np.clip(base + 6 * rng.standard_normal(base.shape), 0, 255).astype(np.uint8)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one.astype(float) - other.astype(float)) ** 2)))


def detail(pixels: np.ndarray) -> float:
    return float(np.abs(np.diff(pixels.astype(float), axis=1)).mean())


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(40, 56), (8, 8), (300, 250)], ids=["small", "digits", "photograph"])
def test_severity_grows_with_the_level(name: str, size: tuple[int, int]) -> None:
    """The mean distance to the picture, over some pictures. In 8 pixels two levels may round to one."""
    kind = KINDS[name]
    sources = [picture(*size, seed=index) for index in range(6)]
    means = []
    for level in (0, *LEVELS):
        made = [corrupt(pixels, kind, level, seed=0, index=i) for i, pixels in enumerate(sources)]
        assert all(one.shape == (*size, 3) and one.dtype == np.uint8 for one in made)
        means.append(np.mean([distance(*pair) for pair in zip(made, sources, strict=True)]))
    assert means[0] == 0  # the identity, the control
    least = 0 if size == (8, 8) else 0.1
    assert all(more - less >= least for less, more in itertools.pairwise(means)), means
    assert means[5] > 10 and means[5] > means[3] > means[1]


@pytest.mark.parametrize("name", KINDS)
def test_deterministic_by_seed_kind_and_index(name: str) -> None:
    pixels, kind = picture(), KINDS[name]
    before = pixels.copy()
    first = corrupt(pixels, kind, 3, seed=0, index=7)
    assert np.array_equal(first, corrupt(pixels, kind, 3, seed=0, index=7))
    assert np.array_equal(pixels, before)  # what it was given is left alone
    others = [corrupt(pixels, kind, 3, seed=s, index=i) for s, i in ((0, 8), (1, 7), (2, 9), (3, 11))]
    random = name not in ("gaussian-blur", "jpeg", "contrast")
    assert any(not np.array_equal(first, other) for other in others) == random


def test_no_global_generator_is_touched() -> None:
    np.random.seed(1)
    torch.manual_seed(1)
    numpys, torchs = np.random.get_state()[1].copy(), torch.get_rng_state()
    for kind in KINDS.values():
        corrupt(picture(), kind, 5, seed=0, index=0)
    assert np.array_equal(np.random.get_state()[1], numpys)
    assert torch.equal(torch.get_rng_state(), torchs)


def test_each_kind_is_what_its_name_says() -> None:
    pixels = picture()
    made = {name: corrupt(pixels, kind, 4, seed=0, index=3) for name, kind in KINDS.items()}
    for name in ("gaussian-noise", "shot-noise"):
        assert detail(made[name]) > 1.2 * detail(pixels)
    for name in ("gaussian-blur", "motion-blur", "contrast"):
        assert detail(made[name]) < 0.8 * detail(pixels)
    np.testing.assert_allclose(made["contrast"].mean((0, 1)), pixels.mean((0, 1)), atol=1)
    noise = made["gaussian-noise"][pixels.max(2) < 130].astype(float) - pixels[pixels.max(2) < 130]
    assert KINDS["gaussian-noise"].strengths[3] == 0.16
    grey = np.full((64, 64, 3), 128, np.uint8)
    spread = corrupt(grey, KINDS["gaussian-noise"], 2, seed=0, index=0).astype(float).std()
    assert spread == pytest.approx(255 * 0.06, rel=0.03) and len(noise)
    photons = corrupt(grey, KINDS["shot-noise"], 1, seed=0, index=0).astype(float).std()
    assert photons == pytest.approx(255 * np.sqrt(128 / 255 / 200), rel=0.03)
    covered = (made["occlusion"] != pixels).any(axis=2).mean()
    assert covered == pytest.approx(KINDS["occlusion"].strengths[3], abs=0.03)
    change = corrupt(grey, KINDS["brightness"], 1, seed=0, index=0).astype(int) - 128
    assert abs(change).max() == abs(change).min() == round(255 * 0.08)
    signs = {
        int(np.sign(corrupt(grey, KINDS["brightness"], 1, seed=0, index=i)[0, 0, 0].astype(int) - 128))
        for i in range(20)
    }
    assert signs == {-1, 1}


def test_jpeg_is_pillows() -> None:
    pixels = picture()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=18, subsampling="4:2:0")
    expected = np.asarray(Image.open(file).convert("RGB"))
    assert np.array_equal(corrupt(pixels, KINDS["jpeg"], 3, seed=0, index=0), expected)


def test_a_shift_moves_what_is_there() -> None:
    pixels = picture(200, 200)
    moved = corrupt(pixels, KINDS["shift"], 3, seed=0, index=0)
    best = min(
        (distance(moved[40:160, 40:160], pixels[40 + y : 160 + y, 40 + x : 160 + x]), y, x)
        for y in range(-32, 33)
        for x in range(-32, 33)
    )
    assert best[0] == 0 and np.hypot(*best[1:]) == pytest.approx(30, abs=1)


def test_noise_of_a_photograph_survives_shrinking() -> None:
    """One grain covers several pixels of a large picture: half a level is not averaged away."""
    small = np.full((224, 224, 3), 128, np.uint8)
    large = np.full((896, 896, 3), 128, np.uint8)
    kind = KINDS["gaussian-noise"]
    shrunk = Image.fromarray(corrupt(large, kind, 3, seed=0, index=0)).reduce(4)
    direct = corrupt(small, kind, 3, seed=0, index=0).astype(float).std()
    assert np.asarray(shrunk).astype(float).std() == pytest.approx(direct, rel=0.02)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (3, 2)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), 90, np.uint8)
    for kind in KINDS.values():
        for level in LEVELS:
            assert corrupt(pixels, kind, level, seed=0, index=0).shape == (*size, 3)
    with pytest.raises(ValueError, match="level 6"):
        corrupt(pixels, KINDS["jpeg"], 6, seed=0, index=0)


def test_a_damaged_split_is_a_source() -> None:
    test = open_data("digits").test
    assert test is not None
    view = Corrupted(test, KINDS["occlusion"], 2, 0)
    assert len(view) == 359 and view.classes == test.classes and view.name(3) == test.name(3)
    assert np.array_equal(view.labels, test.labels) and view.fingerprint != test.fingerprint
    expected = corrupt(np.asarray(test.read(3)), KINDS["occlusion"], 2, seed=0, index=3)
    assert np.array_equal(np.asarray(view.read(3)), expected)
    untouched = Corrupted(test, KINDS["occlusion"], 0, 0)
    assert np.array_equal(np.asarray(untouched.read(3)), np.asarray(test.read(3)))


def test_tiles_are_moved_whole() -> None:
    images = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).view(2, 3, 8, 12)
    mixed = shuffled(images, [4, 9], (4, 4), seed=0)

    def tiles(x: torch.Tensor) -> list[tuple[float, ...]]:
        places = itertools.product(range(0, 8, 2), range(0, 12, 3))
        return [tuple(x[:, r : r + 2, c : c + 3].flatten().tolist()) for r, c in places]

    for before, after in zip(images, mixed, strict=True):
        assert sorted(tiles(before)) == sorted(tiles(after)) and tiles(before) != tiles(after)
    assert torch.equal(mixed, shuffled(images, [4, 9], (4, 4), seed=0))
    alone = shuffled(images[1:], [9], (4, 4), seed=0)
    assert torch.equal(alone[0], mixed[1])  # its order is its own, whatever batch it is in
    assert not torch.equal(mixed, shuffled(images, [4, 9], (4, 4), seed=1))
    assert torch.equal(shuffled(images, [4, 9], (1, 1), seed=0), images)  # one tile: the control
    rows = shuffled(images, [4, 9], (4, 1), seed=0)  # tiles as wide as the picture: rows change places alone
    for before, after in zip(images, rows, strict=True):
        strips = [
            sorted(tuple(x[:, r : r + 2].flatten().tolist()) for r in range(0, 8, 2)) for x in (before, after)
        ]
        assert strips[0] == strips[1]
    assert not torch.equal(rows, images)
    with pytest.raises(ValueError, match="5x5 tiles do not divide 8x12"):
        shuffled(images, [4, 9], (5, 5), seed=0)


def test_which_tiles() -> None:
    def square(*sides: int) -> list[tuple[int, int]]:
        return [(side, side) for side in sides]

    assert tilings(32, 32, (8, 8)) == square(2, 4, 8, 16)
    assert tilings(224, 224, (14, 14)) == square(2, 4, 8, 14, 16)
    assert tilings(8, 8) == square(2, 4) == tilings(8, 12) and tilings(7, 7) == []
    assert tilings(30, 60, (5, 10)) == [(2, 2), (5, 10)]  # a model's patches need not be a square
    assert tilings(8, 16, (8, 16)) == square(2, 4) and tilings(8, 8, (1, 1)) == square(2, 4)


def test_which_patches() -> None:
    """Where the stem cuts the whole picture into patches; not of a hybrid, whose patch size is of a map."""

    def grid(name: str, **arguments: object) -> tuple[int, int] | None:
        spec = make_spec(name, {"dim": 8, "depth": 1, "num_classes": 2, **arguments})
        return patch_grid(build(spec))

    assert grid("convmixer", kernel_size=3, patch_size=4, image_size=(8, 16)) == (2, 4)
    assert grid("convmixer", kernel_size=3, patch_size=7, image_size=16) is None
    hybrid = {"num_heads": 2, "patch_size": 2, "image_size": 32}
    assert grid("vit_tiny_r_s16_p8_224", **hybrid) is None
    assert grid("bench", **hybrid, stem="overlap") is None and grid("bench", **hybrid) == (16, 16)
