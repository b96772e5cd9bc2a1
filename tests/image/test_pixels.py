from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from isopatch.image.decode import DecodeError, decode, decode_described
from isopatch.image.pixels import to_rgb


def roundtrip(image: Image.Image, format: str, **options: object) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, format, **options)
    return np.asarray(decode(file.getvalue(), name="x"))


RAMP16 = np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_a_16_bit_ramp_keeps_256_grey_levels(format: str) -> None:
    pixels = roundtrip(Image.fromarray(RAMP16), format)
    assert len(np.unique(pixels)) == 256
    assert (pixels == (RAMP16 >> 8)[..., None]).all()
    exact = RAMP16[..., None].astype(float) * 255 / 65535
    assert np.abs(pixels - exact).max() < 1


def test_pillow_s_own_conversion_would_have_clipped_the_ramp() -> None:
    """Negative control of the test above: the plain conversion saturates."""
    with Image.open(io.BytesIO(_png16(RAMP16))) as stored:
        assert (np.asarray(stored.convert("RGB")) == 255).mean() > 0.9


def _png16(levels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def test_grey_and_colour_of_16_bits_agree() -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.uint16)
    grey = np.asarray(decode(_png16(levels), name="grey"))
    colour = np.asarray(decode(_png16_rgb(levels), name="colour"))
    assert (grey == colour).all()


def _png16_rgb(levels: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow reads but does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = levels.shape
    rgb = np.repeat(levels[..., None], 3, axis=-1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_tiff_where_white_is_zero_is_inverted() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    pixels = roundtrip(Image.fromarray(RAMP16), "TIFF", tiffinfo=tags)
    plain = roundtrip(Image.fromarray(RAMP16), "TIFF")
    assert (pixels == 255 - plain).all()


def test_32_bit_integers_count_as_16_bit_levels_or_are_refused() -> None:
    levels = RAMP16.astype(np.int32)
    assert (roundtrip(Image.fromarray(levels), "TIFF") == (RAMP16 >> 8)[..., None]).all()
    for bad in (levels + 1, levels - 1):
        with pytest.raises(DecodeError, match=r"outside 0\.\.65535"):
            roundtrip(Image.fromarray(bad), "TIFF")


def test_floating_point_is_0_to_1_or_refused() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert (roundtrip(Image.fromarray(ramp), "TIFF")[..., 0].ravel() == np.arange(256)).all()
    for bad in (ramp * 255, ramp - 0.1, np.where(ramp == 0, np.float32("nan"), ramp)):
        with pytest.raises(DecodeError, match=r"outside 0\.\.1"):
            roundtrip(Image.fromarray(bad), "TIFF")


def test_faint_16_bit_pictures_are_remarked_on() -> None:
    found = decode_described(_png16(RAMP16 >> 4), name="x")  # 12 bits in a 16-bit file
    assert found.remark is not None and "0..4095 of 0..65535" in found.remark
    assert decode_described(_png16(RAMP16 >> 3), name="x").remark is None
    assert decode_described(_png16(RAMP16), name="x").remark is None


def test_cmyk_follows_the_stated_rule() -> None:
    random = np.random.default_rng(0)
    cmyk = random.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    pixels = roundtrip(Image.fromarray(cmyk, "CMYK"), "TIFF")
    ink = cmyk.astype(float) / 255
    expected = (1 - ink[..., :3]) * (1 - ink[..., 3:]) * 255
    assert np.abs(pixels - expected).max() <= 1


def test_cmyk_jpegs_are_read_with_adobe_s_inversion(photo: Image.Image) -> None:
    pixels = roundtrip(photo.convert("CMYK"), "JPEG", quality=95).astype(int)
    assert np.abs(pixels - np.asarray(photo, dtype=int)).mean() < 6
    assert np.abs((255 - pixels) - np.asarray(photo, dtype=int)).mean() > 60  # negative control


def test_lab_goes_through_srgb(photo: Image.Image) -> None:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(photo, to_lab)
    assert lab is not None
    difference = np.abs(np.asarray(to_rgb(lab), dtype=int) - np.asarray(photo, dtype=int))
    assert difference.mean() < 6


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(format: str) -> None:
    rgba = np.zeros((3, 1, 4), dtype=np.uint8)
    rgba[:, 0] = [(200, 10, 30, 255), (200, 10, 30, 128), (200, 10, 30, 0)]
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    opaque, half, clear = roundtrip(Image.fromarray(rgba), format, **options)[:, 0].astype(int)
    assert opaque.tolist() == [200, 10, 30]
    assert clear.tolist() == [255, 255, 255]
    expected = np.array([200, 10, 30]) * 128 / 255 + 255 * 127 / 255
    assert np.abs(half - expected).max() <= 1


def test_grey_with_alpha_is_composited_on_white() -> None:
    la = np.array([[(100, 255), (100, 0)]], dtype=np.uint8)
    pixels = roundtrip(Image.fromarray(la, "LA"), "PNG")
    assert pixels[0, 0].tolist() == [100] * 3 and pixels[0, 1].tolist() == [255] * 3


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_transparent_palette_entries_become_white(format: str) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    pixels = roundtrip(image, format, transparency=0)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [200, 100, 50]
    opaque = roundtrip(image, format)  # negative control
    assert opaque[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("image", "transparent"),
    [
        (Image.fromarray(np.array([[7, 9]], dtype=np.uint8)), 7),
        (Image.fromarray(np.array([[(1, 2, 3), (4, 5, 6)]], dtype=np.uint8)), (1, 2, 3)),
        (Image.fromarray(np.array([[700, 900]], dtype=np.uint16)), 700),
    ],
)
def test_transparent_colours_become_white(image: Image.Image, transparent: object) -> None:
    pixels = roundtrip(image, "PNG", transparency=transparent)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() != [255, 255, 255]


def test_one_bit_is_black_and_white() -> None:
    bits = Image.fromarray(np.array([[True, False]]))
    assert roundtrip(bits, "PNG")[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    pixels = roundtrip(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert pixels[0, 0].tolist() == [255, 0, 0]


def test_nothing_of_the_metadata_is_left(photo: Image.Image) -> None:
    file = io.BytesIO()
    photo.save(file, "JPEG", comment=b"hello", dpi=(72, 72))
    assert decode(file.getvalue(), name="x").info == {}
