from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from isopatch.image.contract import InputContract
from isopatch.image.prepare import MAX_ASPECT, normalise, prepare, prepare_uint8, resized_size

torch.set_num_threads(1)


def noise(width: int, height: int) -> Image.Image:
    seed = width * 10_000 + height
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


SIZES = [(473, 392), (392, 473), (256, 341), (31, 47), (224, 224), (500, 33), (33, 500), (1, 7), (301, 299)]


@pytest.mark.parametrize(("side", "fraction"), [(224, 0.875), (224, 0.9), (224, 0.96), (384, 1.0), (33, 0.8)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equal_to_torchvision(side: int, fraction: float, interpolation: str) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    contract = InputContract(height=side, width=side, crop_fraction=fraction, interpolation=interpolation)
    mode = transforms.InterpolationMode(interpolation)
    reference = transforms.Compose(
        [transforms.Resize(int(side / fraction), interpolation=mode), transforms.CenterCrop(side)]
    )
    scale = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(list(contract.mean), list(contract.std))]
    )
    for size in SIZES:
        image = noise(*size)
        ours = prepare_uint8(image, contract)
        theirs = reference(image)
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), np.asarray(theirs)), size
        assert torch.equal(normalise(ours, contract), scale(theirs)), size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (96, 64), (17, 31)])
@pytest.mark.parametrize("resize", ["shorter", "squash"])
def test_shape_dtype_and_covering(size: tuple[int, int], height: int, width: int, resize: str) -> None:
    contract = InputContract(height=height, width=width, resize=resize, crop_fraction=0.9)
    resized = resized_size(*size, contract)
    box = (int(width / 0.9), int(height / 0.9))
    if resize == "squash":
        assert resized == box
    else:
        assert resized[0] >= box[0] and resized[1] >= box[1]
        assert resized[0] == box[0] or resized[1] == box[1]
    pixels = prepare_uint8(noise(*size), contract)
    assert pixels.shape == (3, height, width) and pixels.dtype == torch.uint8 and pixels.is_contiguous()


def test_single_and_batch_agree_bit_for_bit() -> None:
    contract = InputContract(height=37, width=29)
    images = [noise(*size) for size in SIZES]
    together = normalise(torch.stack([prepare_uint8(image, contract) for image in images]), contract)
    for image, row in zip(images, together, strict=True):
        assert torch.equal(prepare(image, contract), row)


def test_normalise_leaves_its_input_alone() -> None:
    contract = InputContract(height=2, width=2)
    pixels = torch.full((3, 2, 2), 128, dtype=torch.uint8)
    normalise(pixels, contract)
    assert (pixels == 128).all()


def test_the_centre_is_kept() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    contract = InputContract(height=100, width=100, crop_fraction=1.0)
    assert (prepare_uint8(image, contract) == 255).all()
    off_centre = Image.new("RGB", (300, 100), "black")  # negative control
    off_centre.paste("white", (0, 0, 100, 100))
    assert (prepare_uint8(off_centre, contract) == 0).all()


def test_resizing_antialiases() -> None:
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    contract = InputContract(height=32, width=32, crop_fraction=1.0)
    pixels = prepare_uint8(Image.fromarray(stripes), contract).int()
    assert (pixels[:, 4:-4, 4:-4] - 128).abs().max() <= 2


def test_a_long_strip_is_prepared_without_blowing_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    contract = InputContract(height=64, width=64)
    largest = 0
    original = Image.Image.resize

    def spy(self: Image.Image, size: tuple[int, int], *rest: object) -> Image.Image:
        nonlocal largest
        largest = max(largest, size[0] * size[1])
        return original(self, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", spy)
    for size in ((1, 65_535), (65_535, 1)):
        assert prepare(Image.new("RGB", size, "red"), contract).shape == (3, 64, 64)
    assert largest <= MAX_ASPECT * 73 * 73


def test_other_modes_are_converted_by_the_same_rules() -> None:
    contract = InputContract(height=8, width=8, crop_fraction=1.0)
    assert (prepare_uint8(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), contract) == 255).all()
    sixteen = Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16))
    assert (prepare_uint8(sixteen, contract) == 0x80).all()
