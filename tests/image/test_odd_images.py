"""The 716 pictures that break loaders: every one is read or refused with a reason, and read rightly."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isopatch.image.decode import DecodeError, decode


def manifest(root: Path) -> list[dict[str, str]]:
    with (root / "MANIFEST.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_picture_is_read_or_refused_with_a_reason(odd_images: Path) -> None:
    read, refused, refused_though_pillow_reads = 0, 0, []
    for row in manifest(odd_images):
        try:
            image = decode(odd_images / row["path"], name=row["path"])
        except DecodeError as error:
            assert error.name == row["path"] and error.reason
            refused += 1
            if row["result"] == "ok":
                refused_though_pillow_reads.append(row["path"])
        else:
            assert image.mode == "RGB"
            assert row["result"] == "ok", row["path"]  # what Pillow refuses, we do not let through
            assert sorted(image.size) == sorted((int(row["width"]), int(row["height"])))
            read += 1
    assert read + refused == 716
    # Floating point from -3.14 to 3.14: no rule says what is white.
    assert refused_though_pillow_reads == ["pillow/10ct_32bit_128.tiff"]


SETS: dict[str, Callable[[Path], list[Path]]] = {
    "Landscape": lambda root: sorted((root / "exif-orientation").glob("Landscape_*.jpg")),
    "Portrait": lambda root: sorted((root / "exif-orientation").glob("Portrait_*.jpg")),
    "hopper jpg": lambda root: sorted((root / "pillow").glob("hopper_orientation_?.jpg")),
    "hopper webp": lambda root: sorted((root / "pillow").glob("hopper_orientation_?.webp")),
    "g4 tif": lambda root: sorted((root / "pillow").glob("g4_orientation_?.tif")),
}


@pytest.mark.parametrize("name", SETS)
def test_an_orientation_set_is_one_upright_picture(name: str, odd_images: Path) -> None:
    paths = SETS[name](odd_images)
    assert len(paths) >= 7
    upright = [np.asarray(decode(path, name=str(path)), dtype=float) for path in paths]
    first = upright[0]
    for path, pixels in zip(paths, upright, strict=True):
        assert pixels.shape == first.shape, path
        assert np.abs(pixels - first).mean() < 6, path
    # Negative control: as stored, without turning, most of the set are other pictures.
    differing = 0
    for path in paths:
        with Image.open(path) as stored:
            raw = np.asarray(stored.convert("RGB"), dtype=float)
        differing += raw.shape != first.shape or np.abs(raw - first).mean() > 6
    if path.suffix != ".tif":  # Pillow turns TIFF by itself
        assert differing >= 5


@pytest.mark.parametrize(
    ("picture", "twin"),
    [
        ("tiff_16bit_RGB.tiff", "tiff_16bit_RGB_target.png"),
        ("hopper.Lab.tif", "hopper.tif"),
        ("tiff_16bit_RGBa.tiff", "tiff_16bit_RGBa_target.png"),
        ("pil168.tif", "pil168.png"),
    ],
)
def test_rare_kinds_look_like_their_plain_twins(picture: str, twin: str, odd_images: Path) -> None:
    one, other = (
        np.asarray(decode(odd_images / "pillow" / name, name=name), dtype=float) for name in (picture, twin)
    )
    assert np.abs(one - other).mean() < 3


def test_16_bit_pictures_keep_the_levels_8_bits_can_hold(odd_images: Path) -> None:
    deep = [row["path"] for row in manifest(odd_images) if row["mode"] in ("I;16", "I;16B")]
    assert len(deep) >= 12
    for path in deep:
        with Image.open(odd_images / path) as stored:
            levels = np.asarray(stored).astype(int)
        shift = 4 if "12bit" in path else 8
        pixels = np.asarray(decode(odd_images / path, name=path))
        if path.endswith("i_trns.png"):  # its level 255 is transparent
            continue
        assert np.array_equal(np.unique(pixels), np.unique(levels >> shift)), path
