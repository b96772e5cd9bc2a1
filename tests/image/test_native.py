"""The compiled pixel work gives Pillow's bits, on every instruction set this CPU has."""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from isopatch.image import native, prepare
from isopatch.image.contract import InputContract

library = native.load()
needs_library = pytest.mark.skipif(library is None, reason="built without the pixel library (native/data)")
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


@pytest.fixture(params=native.INSTRUCTION_SETS)
def on_each(request):
    """The library, held to one instruction set."""
    if library is None:
        pytest.skip("built without the pixel library (native/data)")
    if library.use(request.param) != request.param:
        library.use("AVX-512")
        pytest.skip(f"this CPU has no {request.param}")
    yield library
    library.use("AVX-512")


def noise(rng, height, width):
    """Noise of full range, so that sums overshoot at both ends."""
    return np.random.default_rng(rng.getrandbits(32)).choice(
        np.array([0, 1, 7, 128, 254, 255], dtype=np.uint8), size=(height, width, 3)
    )


def test_scaling_is_pillows(on_each):
    rng = random.Random(1)
    for trial in range(150):
        height, width = (341, 256) if trial % 10 == 0 else (rng.randint(1, 70), rng.randint(1, 70))
        picture = noise(rng, height, width)
        w, h = rng.randint(1, width), rng.randint(1, height)
        left, top = rng.randint(0, width - w), rng.randint(0, height - h)
        sizes = [(224, 224), (rng.randint(1, 40), rng.randint(1, 40)), (w, rng.randint(1, 60)), (w, h)]
        size, filter = rng.choice(sizes), rng.choice([BICUBIC, BILINEAR])
        part = Image.fromarray(picture).crop((left, top, left + w, top + h))
        expected = np.asarray(part.resize(size, filter))
        box = (left, top, w, h)
        np.testing.assert_array_equal(on_each.scale(picture, box, size, filter), expected)
        mirrored = on_each.scale(picture, box, size, filter, mirror=True)
        np.testing.assert_array_equal(mirrored, expected[:, ::-1])


def matrices(rng, width, height):
    angle, factor = rng.uniform(-4, 4), rng.uniform(-0.5, 0.5)
    cos, sin = math.cos(angle), math.sin(angle)
    yield 1, factor, 0, 0, 1, 0
    yield 1, 0, 0, factor, 1, 0
    yield 1, 0, factor * width, 0, 1, 0
    yield 1, 0, 0, 0, 1, factor * height
    yield 1, 0, float(rng.randint(-5, 5)), 0, 1, 0
    yield cos, sin, rng.uniform(-9, 9), -sin, cos, rng.uniform(-9, 9)
    yield tuple(rng.uniform(-2, 2) for _ in range(6))


def test_moving_is_pillows(on_each):
    rng = random.Random(2)
    for trial in range(25):
        height, width = (96, 130) if trial % 10 == 0 else (rng.randint(1, 40), rng.randint(1, 40))
        picture = noise(rng, height, width)
        for matrix in matrices(rng, width, height):
            image = Image.fromarray(picture)
            expected = image.transform(
                image.size, Image.Transform.AFFINE, matrix, BICUBIC, fillcolor=(124, 116, 104)
            )
            np.testing.assert_array_equal(on_each.affine(picture, matrix, (124, 116, 104)), expected)


@pytest.mark.parametrize("shape", [(5, 16, 24), (1, 1, 1), (2, 7, 3)])
def test_normalising_is_the_plain_one(shape, monkeypatch):
    contract = InputContract(height=16, width=24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours = prepare.normalise_pixels(pixels, contract)
    monkeypatch.setattr(native, "load", lambda: None)
    plain = prepare.normalise_pixels(pixels, contract)
    assert torch.equal(ours, plain) and ours.dtype == torch.float32
    one_by_one = [prepare.normalise(torch.from_numpy(p).permute(2, 0, 1), contract) for p in pixels]
    assert torch.equal(ours, torch.stack(one_by_one))


@needs_library
def test_a_library_that_computes_otherwise_is_left_out_with_a_word(monkeypatch, caplog):
    def by_nearest(self, picture, box, size, filter, *, mirror=False):
        left, top, width, height = box
        part = Image.fromarray(picture).crop((left, top, left + width, top + height))
        return np.asarray(part.resize(size, Image.Resampling.NEAREST))

    assert native.agrees_with_pillow(library)
    monkeypatch.setattr(native.PixelLibrary, "scale", by_nearest)
    native.load.cache_clear()
    try:
        assert native.load() is None
        assert "it is left out" in caplog.text
    finally:
        native.load.cache_clear()


@pytest.mark.parametrize("content", [None, b"", b"no library"])
def test_without_a_library_pillow_does_it(content, monkeypatch, tmp_path, caplog):
    if content is not None:
        (tmp_path / "library.so").write_bytes(content)
    monkeypatch.setattr(native, "_FILE", tmp_path / "library.so")
    native.load.cache_clear()
    try:
        assert native.load() is None
        assert ("cannot be used" in caplog.text) == (content is not None)
    finally:
        native.load.cache_clear()
