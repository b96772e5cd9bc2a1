"""The short way to a JPEG's pixels gives what the one decode function gives, or leaves the file to it."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isopatch.image import jpeg
from isopatch.image.decode import DecodeError, decode, decode_picture

needs_simplejpeg = pytest.mark.skipif(
    jpeg.load() is None, reason="simplejpeg is not installed (isopatch[fast])"
)


def picture(width=45, height=37):
    rows, columns, channels = np.ogrid[:height, :width, :3]
    return Image.fromarray(((rows * 5 + columns * 3 + channels * 40) % 256).astype(np.uint8))


def encoded(image=None, **options):
    file = io.BytesIO()
    (image or picture()).save(file, "JPEG", **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(exif=exif)


PLAIN = {
    "baseline": encoded(),
    "4:4:4": encoded(subsampling="4:4:4"),
    "progressive": encoded(progressive=True),
    "optimised": encoded(optimize=True, quality=35),
    "with a comment": encoded(comment=b"hello"),
    "with a colour profile": encoded(icc_profile=b"x" * 3000),
    "restart markers": encoded(restart_marker_rows=1),
}
NOT_PLAIN = {
    "turned by EXIF": turned(),
    "grey": encoded(picture().convert("L")),
    "CMYK": encoded(picture().convert("CMYK")),
    "empty": b"",
    "start only": b"\xff\xd8",
    "a PNG": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_are_known_as_such(name):
    assert jpeg.is_plain(PLAIN[name], 50_000_000)
    assert not jpeg.is_plain(PLAIN[name], 45 * 37 - 1)


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_other_files_are_left_to_pillow(name):
    assert not jpeg.is_plain(NOT_PLAIN[name], 50_000_000)
    assert jpeg.decode_plain(NOT_PLAIN[name], max_pixels=50_000_000) is None


@needs_simplejpeg
@pytest.mark.parametrize("name", PLAIN)
def test_pixels_are_those_of_decode(name):
    found = jpeg.decode_plain(PLAIN[name], max_pixels=50_000_000)
    np.testing.assert_array_equal(found, np.asarray(decode(PLAIN[name], name="x")))


@pytest.mark.parametrize("data", [*PLAIN.values(), *NOT_PLAIN.values()])
def test_for_training_the_same_pixels_or_the_same_refusal(data, tmp_path):
    (tmp_path / "file").write_bytes(data)
    for source in (data, tmp_path / "file"):
        try:
            expected = np.asarray(decode(source, name="x"))
        except DecodeError as error:
            with pytest.raises(DecodeError) as refused:
                decode_picture(source, name="x")
            assert str(refused.value) == str(error)
        else:
            np.testing.assert_array_equal(np.asarray(decode_picture(source, name="x")), expected)


def test_truncated_and_flipped_files_meet_the_same_verdict():
    rng = np.random.default_rng(0)
    whole = encoded(picture(120, 90), quality=90)
    for trial in range(120):
        data = bytearray(whole)
        if trial % 2:
            del data[rng.integers(2, len(data)) :]
        else:
            data[rng.integers(2, len(data))] ^= 1 << rng.integers(8)
        try:
            expected = np.asarray(decode(bytes(data), name="x"))
        except DecodeError:
            with pytest.raises(DecodeError):
                decode_picture(bytes(data), name="x")
        else:
            np.testing.assert_array_equal(np.asarray(decode_picture(bytes(data), name="x")), expected)


def test_odd_pictures_too():
    root = Path(os.environ.get("ISOPATCH_DATA", "/nowhere")) / "odd-images"
    if not root.is_dir():
        pytest.skip("ISOPATCH_DATA does not name a folder with odd-images")
    for path in sorted(path for path in root.rglob("*.jp*g") if path.is_file()):
        try:
            expected = np.asarray(decode(path, name="x"))
        except DecodeError as error:
            with pytest.raises(DecodeError) as refused:
                decode_picture(path, name="x")
            assert str(refused.value) == str(error)
        else:
            np.testing.assert_array_equal(np.asarray(decode_picture(path, name="x")), expected)


def test_a_decoder_with_other_pixels_is_not_believed():
    def nearly(data):
        pixels = np.array(Image.open(io.BytesIO(data)))
        pixels[3, 4, 1] ^= 1
        return pixels

    assert jpeg.agrees_with_pillow(lambda data: np.array(Image.open(io.BytesIO(data))))
    assert not jpeg.agrees_with_pillow(nearly)


@pytest.mark.parametrize(("short_side", "size"), [(37, (45, 37)), (18, (23, 19)), (9, (12, 10)), (1, (6, 5))])
def test_reduced_decoding_keeps_the_shorter_side(short_side, size):
    image = decode_picture(PLAIN["baseline"], name="x", short_side=short_side)
    assert image.size == size and image.mode == "RGB"
    png = io.BytesIO()
    picture().save(png, "PNG")
    assert decode_picture(png.getvalue(), name="x", short_side=1).size == (45, 37)
    assert decode_picture(turned(), name="x", short_side=9).size == (10, 12)
