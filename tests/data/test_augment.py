import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from isopatch.data.augment import TrainTransform
from isopatch.data.crops import (
    PaddedCrop,
    RandomResizedCrop,
    SimpleRandomCrop,
    covering,
    whole_contracts,
    window,
)
from isopatch.data.policies import three_augment, timm_rand_augment
from isopatch.errors import UsageError
from isopatch.image.contract import InputContract
from isopatch.image.prepare import normalise, prepare
from isopatch.training.config import AugmentConfig

CROPS = ["random-resized", "padded", "simple-random", "none"]
CONTRACT = InputContract(height=24, width=20, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def noise(height=37, width=50, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def denormalised(sample, contract=CONTRACT):
    scaled = sample * torch.tensor(contract.std).view(3, 1, 1) + torch.tensor(contract.mean).view(3, 1, 1)
    return (scaled * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def global_states():
    _, keys, position, *rest = np.random.get_state()
    return random.getstate(), (keys.tolist(), position, *rest), torch.get_rng_state().tolist()


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", [(37, 50), (24, 20), (5, 3), (1, 90), (200, 1)])
def test_any_picture_becomes_a_sample_of_the_contracts_size(crop, size):
    transform = TrainTransform(AugmentConfig(crop=crop), CONTRACT)
    sample = transform(noise(*size), seed=1)
    assert sample.shape == (3, 24, 20)
    assert sample.dtype == torch.float32
    assert sample.is_contiguous()
    assert sample.isfinite().all()


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("interpolation", ["bicubic", "random"])
def test_a_sample_depends_on_picture_and_seed_alone(crop, interpolation):
    transform = TrainTransform(AugmentConfig(crop=crop, interpolation=interpolation), CONTRACT)
    pictures = [noise(seed=i) for i in range(4)]
    alone = [transform(picture, seed=seed) for seed, picture in enumerate(pictures)]
    together = transform.batch(reversed(pictures), [3, 2, 1, 0])
    assert torch.equal(together.flip(0), torch.stack(alone))
    as_arrays = transform.batch([np.asarray(picture) for picture in pictures], range(4))
    assert torch.equal(as_arrays, torch.stack(alone))


@pytest.mark.parametrize("crop", ["random-resized", "padded", "simple-random"])
def test_other_seeds_give_other_samples(crop):
    transform = TrainTransform(AugmentConfig(crop=crop, padding=8), CONTRACT)
    samples = {transform(noise(), seed=seed).numpy().tobytes() for seed in range(40)}
    assert len(samples) > 30


def test_own_operations_leave_the_global_generators_alone():
    transform = TrainTransform(AugmentConfig(crop="padded", three_augment=True), CONTRACT)
    before = global_states()
    transform.batch([noise()] * 8, range(8))
    assert global_states() == before


def test_without_crop_and_flip_training_sees_what_evaluation_sees():
    transform = TrainTransform(AugmentConfig(crop="none", flip=0), CONTRACT)
    assert torch.equal(transform(noise(), seed=3), prepare(noise(), CONTRACT))


def test_the_flip_mirrors_with_its_probability():
    plain = prepare(noise(), CONTRACT)
    always = TrainTransform(AugmentConfig(crop="none", flip=1), CONTRACT)
    assert torch.equal(always(noise(), seed=3), plain.flip(-1))
    half = TrainTransform(AugmentConfig(crop="none", flip=0.5), CONTRACT)
    flipped = sum(torch.equal(half(noise(), seed=seed), plain.flip(-1)) for seed in range(300))
    assert 115 < flipped < 185  # 150 +- 4 standard deviations


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_a_window_over_the_border_equals_padding_and_cutting(mode):
    pixels = np.asarray(noise(9, 7))
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)), mode="constant" if mode == "zero" else "reflect")
    for top in range(-4, 5):
        for left in range(-4, 5):
            expected = padded[top + 4 : top + 13, left + 4 : left + 11]
            np.testing.assert_array_equal(window(pixels, top, left, 9, 7, mode), expected)


def test_a_padded_crop_takes_every_place_alike():
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[4, 4] = 255
    crop = PaddedCrop(InputContract(height=8, width=8), padding=2)
    places = {}
    for seed in range(2500):
        row, column = np.argwhere(crop(pixels, random.Random(seed))[:, :, 0])[0]
        places[row, column] = places.get((row, column), 0) + 1
    assert sorted(places) == [(row, column) for row in range(2, 7) for column in range(2, 7)]
    assert min(places.values()) > 55 and max(places.values()) < 150  # 100 +- 5 standard deviations


def test_a_padded_crop_without_padding_is_the_whole_picture():
    crop = PaddedCrop(CONTRACT, padding=0)
    np.testing.assert_array_equal(crop(noise(24, 20), random.Random(0)), np.asarray(noise(24, 20)))
    squash = InputContract(height=24, width=20, resize="squash", crop_fraction=0.5)
    resized = PaddedCrop(squash, padding=0)(noise(), random.Random(0))
    np.testing.assert_array_equal(resized, np.asarray(noise().resize((20, 24), Image.Resampling.BICUBIC)))


def test_reflecting_more_than_there_is_is_refused():
    with pytest.raises(UsageError, match="more than 4 pixels a side, not 4x9"):
        PaddedCrop(InputContract(height=4, width=9), padding=4, mode="reflect")
    with pytest.raises(UsageError, match="more than 4 pixels"):
        SimpleRandomCrop(InputContract(height=4, width=4))
    PaddedCrop(InputContract(height=4, width=9), padding=4, mode="zero")


def test_the_simple_random_crop_covers_and_reflects():
    contract = InputContract(height=16, width=16)
    whole = whole_contracts(contract, "bicubic")[0]
    wide = covering(noise(30, 100), whole)
    assert wide.shape == (16, 53, 3)
    padded = np.pad(wide, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = {padded[t : t + 16, x : x + 16].tobytes() for t in range(9) for x in range(53 - 16 + 9)}
    crop = SimpleRandomCrop(contract)
    seen = {crop(noise(30, 100), random.Random(seed)).tobytes() for seed in range(200)}
    assert seen <= windows
    assert len(seen) > 100


def test_a_strip_does_not_take_gigabytes():
    strip = Image.new("RGB", (60_000, 1))
    for crop in (SimpleRandomCrop(CONTRACT), PaddedCrop(CONTRACT), RandomResizedCrop(CONTRACT)):
        assert crop(strip, random.Random(0)).shape == (24, 20, 3)


def test_random_rectangles_keep_to_their_scale_and_ratio():
    crop = RandomResizedCrop(CONTRACT, scale=(0.3, 0.6), ratio=(0.5, 2.0))
    drawn = [crop.rectangle((400, 300), random.Random(seed)) for seed in range(500)]
    areas = [w * h / 120_000 for _, _, w, h in drawn]
    aspects = [w / h * CONTRACT.height / CONTRACT.width for _, _, w, h in drawn]
    assert min(areas) > 0.29 and max(areas) < 0.61 and max(areas) - min(areas) > 0.25
    assert min(aspects) > 0.49 and max(aspects) < 2.05 and max(aspects) - min(aspects) > 1
    assert all(x >= 0 and y >= 0 and x + w <= 400 and y + h <= 300 for x, y, w, h in drawn)


@pytest.mark.parametrize(("height", "width"), [(48, 32), (24, 60)])
def test_pictures_are_distorted_no_more_in_a_rectangle_than_in_a_square(height, width):
    """What training sees has the aspect that evaluation keeps, give or take the ratio."""
    crop = RandomResizedCrop(InputContract(height=height, width=width), scale=(0.1, 0.4))
    square = RandomResizedCrop(InputContract(height=32, width=32), scale=(0.1, 0.4))
    for rectangles, aspect in ((crop, width / height), (square, 1.0)):
        drawn = [rectangles.rectangle((4000, 3000), random.Random(seed)) for seed in range(400)]
        distortions = [w / h / aspect for _, _, w, h in drawn]
        assert 0.74 < min(distortions) < 0.8 and 1.25 < max(distortions) < 1.34


def test_the_whole_picture_at_scale_one():
    # The ConvMixer CIFAR-10 script: scale 1, ratio 1 is the picture itself.
    crop = RandomResizedCrop(InputContract(height=32, width=32), scale=(1, 1), ratio=(1, 1))
    np.testing.assert_array_equal(crop(noise(32, 32), random.Random(0)), np.asarray(noise(32, 32)))


def test_three_augment_is_one_of_grey_solarised_and_blurred():
    image = noise()
    grey = image.convert("L").convert("RGB")
    counts = {"grey": 0, "solarised": 0, "blurred": 0}
    for seed in range(300):
        result = three_augment(image, random.Random(seed))
        if result == grey:
            counts["grey"] += 1
        elif result == ImageOps.solarize(image):
            counts["solarised"] += 1
        else:
            radius = random.Random(seed)
            radius.randrange(3)
            assert result == image.filter(ImageFilter.GaussianBlur(radius.uniform(0.1, 2.0)))
            counts["blurred"] += 1
    assert all(67 < count < 133 for count in counts.values()), counts  # 100 +- 4 standard deviations


def test_three_augment_comes_after_the_crop_and_before_normalising():
    transform = TrainTransform(AugmentConfig(crop="none", flip=0, three_augment=True), CONTRACT)
    results = [denormalised(transform(noise(), seed=seed)) for seed in range(20)]
    cropped = Image.fromarray(denormalised(prepare(noise(), CONTRACT)))
    grey = np.asarray(cropped.convert("L").convert("RGB"))
    assert any(np.array_equal(result, grey) for result in results)


def test_a_batch_is_normalised_as_its_pictures_are():
    transform = TrainTransform(AugmentConfig(crop="padded", padding=0, flip=0), CONTRACT)
    pixels = np.asarray(noise(24, 20))
    expected = normalise(torch.from_numpy(pixels.copy()).permute(2, 0, 1), CONTRACT)
    assert torch.equal(transform.batch([pixels] * 3, [0, 1, 2]), expected.expand(3, -1, -1, -1))


@pytest.mark.parametrize(
    ("notation", "named"),
    [
        ("rand-m9-mstd0.5-inc", "'inc'"),
        ("rand-m9.5", "'m9.5'"),
        ("rand-foo", "'foo'"),
        ("augmix-m5", "'augmix-m5'"),
        ("", "''"),
        ("rand-m9-", "''"),
    ],
)
def test_notation_that_timm_would_misread_is_refused(notation, named):
    with pytest.raises(UsageError) as caught:
        timm_rand_augment(notation, CONTRACT, "bicubic")
    assert named in str(caught.value)
    assert "rand-m9-mstd0.5-inc1" in str(caught.value)
