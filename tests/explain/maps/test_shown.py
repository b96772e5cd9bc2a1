"""What the model sees, where it lies in the picture, and how a map is drawn back onto that."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from isopatch.data.open import open_data
from isopatch.explain.contract import Shown
from isopatch.explain.depths import seen_size
from isopatch.explain.draw import SIDE, TITLE, Panel, canvas_of, draw_maps, overlay, scaled
from isopatch.explain.mosaic import draw_heads, mosaic
from isopatch.explain.shown import cut_to, show, spread
from isopatch.image.contract import InputContract
from isopatch.image.prepare import prepare, seen_box
from isopatch.nn.classifier import Classifier

Make = Callable[..., Classifier]


def coordinates(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row, as shares of 255."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack((x, y, 0 * x), axis=2).round().astype(np.uint8))


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(40, 400),
    height=st.integers(40, 400),
    side=st.tuples(st.integers(16, 48), st.integers(16, 48)),
    crop=st.floats(0.5, 1.0),
    resize=st.sampled_from(["shorter", "squash"]),
)
def test_the_box_is_what_the_model_sees(
    width: int, height: int, side: tuple[int, int], crop: float, resize: str
) -> None:
    contract = InputContract(
        height=side[0], width=side[1], crop_fraction=crop, resize=resize, interpolation="bilinear"
    )
    seen = show(coordinates(width, height), "x", contract).image.astype(float) / 255
    left, top, right, bottom = seen_box(width, height, contract)
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    # The mean of a linear ramp is its value in the middle of the box.
    assert seen[..., 0].mean() == pytest.approx((left + right) / 2, abs=0.02)
    assert seen[..., 1].mean() == pytest.approx((top + bottom) / 2, abs=0.02)
    half = seen[:, -1, 0].mean() - seen[:, 0, 0].mean()
    assert half == pytest.approx((right - left) * (1 - 1 / side[1]), abs=0.05)


def test_a_strip_is_cut_before_it_is_resized() -> None:
    contract = InputContract(height=8, width=8, crop_fraction=1.0)
    left, top, right, bottom = seen_box(6500, 10, contract)
    assert (top, bottom) == (0, 1)
    assert (left + right) / 2 == pytest.approx(0.5, abs=1e-3)
    assert right - left == pytest.approx(10 / 6500, rel=0.01)


def test_what_enters_the_model_is_what_predict_prepares() -> None:
    contract = InputContract(height=24, width=32)
    for image in (coordinates(100, 60), coordinates(1, 1), Image.new("L", (50, 90), 128)):
        shown = show(image, "x", contract)
        assert torch.equal(shown.tensor[0], prepare(image, contract))
        assert shown.image.shape == (24, 32, 3) and shown.original is not None
        assert shown.original.shape[:2] == (image.height, image.width)


def test_a_map_is_drawn_onto_the_part_that_is_seen() -> None:
    contract = InputContract(height=16, width=16, crop_fraction=0.5)
    shown = show(coordinates(200, 100), "x", contract)
    canvas, box = canvas_of(shown)
    assert canvas.shape[:2] == (176, 352) and box == (132, 44, 220, 132)
    values = np.zeros((4, 4), np.float32)
    values[0, 3] = 1.0
    drawn = overlay(canvas, box, values, signed=False).astype(int)
    saturation = drawn.max(2) - drawn.min(2)
    assert saturation[:44].max() == 0 and saturation[:, :132].max() == 0  # outside: grey
    brightest = np.unravel_index(drawn.sum(2)[44:132, 132:220].argmax(), (88, 88))
    assert brightest[0] < 22 and brightest[1] >= 66  # its upper right cell


def test_a_long_strip_is_drawn_as_the_model_sees_it() -> None:
    shown = show(coordinates(900, 9), "x", InputContract(height=16, width=16))
    canvas, box = canvas_of(shown)
    assert canvas.shape[:2] == (352, 352) and box == (0, 0, 352, 352)


def test_signs_keep_their_colours_and_constants_are_drawn() -> None:
    values = np.array([[-1.0, 0.0, 4.0]], np.float32)
    np.testing.assert_allclose(scaled(values, signed=True), [[0.375, 0.5, 1.0]])
    np.testing.assert_allclose(scaled(values, signed=False), [[0.0, 0.2, 1.0]])
    for signed in (False, True):
        assert np.isfinite(scaled(np.zeros((2, 2), np.float32), signed=signed)).all()


def test_what_fails_is_written_on_the_map() -> None:
    shown = show(coordinates(64, 64), "x", InputContract(height=16, width=16))
    values = np.arange(16, dtype=np.float32).reshape(4, 4)

    def pixels(fails: bool) -> np.ndarray:
        panel = Panel("class token", values, lines=(("deletion 0.5", fails),))
        drawn = draw_maps(shown, "cat 90 %", [panel])
        return np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB")).astype(int)

    red = [int((np.abs(pixels(fails) - [192, 57, 43]).max(2) < 25).sum()) for fails in (False, True)]
    assert red[1] > 2000 + red[0]
    below = TITLE + SIDE  # the map itself is whole
    assert np.array_equal(pixels(True)[:below], pixels(False)[:below])


def test_heads_of_all_layers_stand_in_rows() -> None:
    layers = [np.random.default_rng(0).random((3, 4, 4), dtype=np.float32), np.ones((3, 2, 2), np.float32)]
    drawn = mosaic(layers)
    assert drawn.shape == (2 * 36 + 2, 3 * 36 + 4, 3)
    assert draw_heads("class token", layers).startswith(b"\x89PNG")


def test_pictures_of_a_data_set_are_spread_over_its_classes() -> None:
    source = open_data("digits", val_fraction=0.0).train
    assert source is not None
    chosen = spread(source, 10, seed=3)
    assert [int(source.labels[index]) for index in chosen] == list(range(10))
    assert chosen == spread(source, 10, seed=3) != spread(source, 10, seed=4)
    assert len(set(spread(source, 25))) == 25 and spread(source, 0) == []


def test_a_shown_picture_without_an_original_is_drawn_as_seen() -> None:
    shown = Shown("x", np.zeros((16, 8, 3), np.uint8), torch.zeros(1, 3, 16, 8))
    assert canvas_of(shown)[0].shape == (352, 176, 3)


def test_what_a_stem_leaves_out_is_not_seen(make: Make) -> None:
    """Patches of 5 on 16 x 16: the last row and column of pixels are in no patch, and in no map."""
    model = make("convmixer", patch_size=5)
    contract = InputContract(height=16, width=16, crop_fraction=0.5)
    whole = show(coordinates(200, 100), "x", contract)
    assert seen_size(model, 16, 16) == (15, 15) and seen_size(make("vit"), 16, 16) == (16, 16)
    seen = cut_to(whole, 15, 15)
    assert torch.equal(seen.tensor, whole.tensor[:, :, :15, :15]) and seen.image.shape == (15, 15, 3)
    with torch.no_grad():
        torch.testing.assert_close(model(seen.tensor), model(whole.tensor))
    assert whole.box is not None
    left, top, right, bottom = whole.box
    assert seen.box == pytest.approx(
        (left, top, left + (right - left) * 15 / 16, top + (bottom - top) * 15 / 16)
    )
    assert canvas_of(seen)[1] != canvas_of(whole)[1]
    assert cut_to(whole, 16, 16) is whole
    alone = cut_to(replace(whole, original=None, box=None), 15, 15)
    assert alone.box == pytest.approx((0, 0, 15 / 16, 15 / 16)) and alone.original is whole.image
