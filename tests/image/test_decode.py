from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from isopatch.errors import IsopatchError
from isopatch.image import decode as decode_module
from isopatch.image.decode import DecodeError, decode, decode_described


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def refusal(source: Path | bytes, **options: int) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(source, name="the file", **options)
    assert caught.value.name == "the file"
    assert "\n" not in str(caught.value)
    assert str(caught.value) == f"the file: {caught.value.reason}"
    return caught.value.reason


def png_declaring(width: int, height: int) -> bytes:
    """A small PNG whose header declares any size; its picture data is one short row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


LOSSLESS = ["PNG", "BMP", "TIFF", "PPM"]
FORMATS = [*LOSSLESS, "JPEG", "WEBP", "GIF", "AVIF"]


@pytest.mark.parametrize("format", FORMATS)
def test_reads_every_listed_format_from_a_path_and_from_bytes(
    format: str, photo: Image.Image, tmp_path: Path
) -> None:
    data = encoded(photo, format)
    path = tmp_path / "picture.anything"  # the content decides, not the name
    path.write_bytes(data)
    from_path, from_bytes = decode(path, name="p"), decode(data, name="b")
    assert from_path.mode == "RGB" and from_path.size == photo.size
    assert from_path.tobytes() == from_bytes.tobytes()
    difference = np.abs(np.asarray(from_path, dtype=int) - np.asarray(photo, dtype=int)).mean()
    assert difference == 0 if format in LOSSLESS else difference < 30


def test_described_tells_how_the_picture_was_stored(photo: Image.Image) -> None:
    found = decode_described(encoded(photo.convert("L"), "PNG"), name="x")
    assert (found.format, found.mode, found.remark) == ("PNG", "L", None)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_every_exif_orientation_gives_the_same_upright_picture(
    orientation: int, format: str, photo: Image.Image
) -> None:
    turn = {  # how an upright picture is stored so that the orientation turns it back
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = photo if turn is None else photo.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    upright = decode(encoded(stored, format, exif=exif, **options), name="x")
    assert upright.size == photo.size
    difference = np.abs(np.asarray(upright, dtype=int) - np.asarray(photo, dtype=int))
    assert difference.mean() <= (4 if format == "JPEG" else 0)
    if format == "JPEG" and orientation > 1:  # negative control: unturned, it is another picture
        raw = np.asarray(stored.resize(photo.size), dtype=int)
        assert np.abs(raw - np.asarray(photo, dtype=int)).mean() > 15


def test_an_orientation_is_applied_once(photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decode(encoded(photo, "PNG", exif=exif), name="x")
    again = decode(encoded(upright, "PNG"), name="x")
    assert again.tobytes() == upright.tobytes()


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_impossible_orientation_counts_as_upright(value: int, photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert decode(encoded(photo, "PNG", exif=exif), name="x").tobytes() == photo.tobytes()


def test_broken_exif_does_not_cost_the_picture(photo: Image.Image) -> None:
    data = encoded(photo, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(data, name="x").tobytes() == photo.tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_truncated_files_are_refused(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, format)
    decode(data, name="x")  # negative control: complete, it is read
    for share in (0.0, 0.1, 0.5, 0.9):
        refusal(data[: int(len(data) * share)])


def test_truncation_is_refused_even_at_the_last_bytes_of_a_png(photo: Image.Image) -> None:
    data = encoded(photo, "PNG")
    image_data_end = data.index(b"IEND") - 4
    assert "truncated" in refusal(data[: image_data_end - 20]).lower()


def test_a_flipped_bit_in_a_png_is_refused(photo: Image.Image) -> None:
    data = bytearray(encoded(photo, "PNG"))
    data[data.index(b"IDAT") + 30] ^= 4
    refusal(bytes(data))


@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 20_000), (65_000, 65_000), (50_000_001, 1)])
def test_a_pixel_bomb_is_refused_from_its_header(size: tuple[int, int]) -> None:
    data = png_declaring(*size)
    tracemalloc.start()
    reason = refusal(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "pixels" in reason
    assert peak < 2_000_000


def test_the_pixel_limit_is_the_caller_s(photo: Image.Image) -> None:
    data = encoded(photo, "PNG")
    pixels = photo.width * photo.height
    decode(data, name="x", max_pixels=pixels)
    assert "48 x 32" in refusal(data, max_pixels=pixels - 1)


def test_a_bomb_is_not_decoded_before_it_is_refused(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    original = ImageFile.ImageFile.load

    def spy(self: ImageFile.ImageFile) -> object:
        loaded.append("yes")
        return original(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", spy)
    refusal(encoded(photo, "PNG"), max_pixels=10)
    assert not loaded
    decode(encoded(photo, "PNG"), name="x")  # negative control: the spy sees an ordinary decode
    assert loaded


def test_a_named_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    pipe = tmp_path / "x.jpg"
    os.mkfifo(pipe)
    assert refusal(pipe) == "a named pipe, not a regular file"


def test_a_pipe_that_appears_after_the_check_does_not_block(
    tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "x.jpg"
    os.mkfifo(pipe)
    regular = tmp_path / "regular.jpg"
    regular.write_bytes(encoded(photo, "JPEG"))
    monkeypatch.setattr(decode_module.os, "stat", lambda path: os.lstat(regular))
    refusal(pipe)


def test_other_things_that_are_no_files(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "a folder, not a regular file"
    assert refusal(tmp_path / "absent.png") == "no such file"
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    assert refusal(tmp_path / "link.png") == "broken link: its target does not exist"
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    refusal(tmp_path / "loop.png")
    with socket.socket(socket.AF_UNIX) as server:
        place = tmp_path / "s.png"
        server.bind(str(place))
        assert refusal(place) == "a socket, not a regular file"
    if Path("/dev/zero").exists():
        assert refusal(Path("/dev/zero")) == "a device, not a regular file"


def test_a_link_to_a_picture_is_followed(tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photo, "PNG"))
    (tmp_path / "b.png").symlink_to("a.png")
    assert decode(tmp_path / "b.png", name="x").tobytes() == photo.tobytes()


def test_a_file_without_permission_is_refused(tmp_path: Path, photo: Image.Image) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(photo, "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert refusal(path) == "Permission denied"


def test_a_file_over_the_size_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.webp"
    with path.open("wb") as file:
        file.truncate(decode_module.MAX_FILE_BYTES + 1)  # sparse: takes no room
    assert "bytes, more than the limit" in refusal(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file"),
        (b"\0" * 100, "zeros only"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (b"%PDF-1.7", "a PDF"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\x89PNG\r\n\x1a\nrubbish", "begins like PNG"),
        (b"hello, world", "not a picture"),
    ],
)
def test_what_is_no_picture_is_explained(content: bytes, expected: str) -> None:
    assert expected in refusal(content)


def test_formats_that_are_not_listed_are_refused_even_when_pillow_reads_them(photo: Image.Image) -> None:
    Image.init()
    for format in ("TGA", "ICO", "PCX", "JPEG2000"):
        data = encoded(photo, format)
        Image.open(io.BytesIO(data)).load()  # negative control: Pillow itself reads it
        refusal(data)


@pytest.mark.parametrize(
    "failure",
    [
        OSError("broken"),
        ValueError("bad\nsecond line"),
        TypeError(),
        SyntaxError("x"),
        NotImplementedError("x"),
        IndexError("x"),
        KeyError("x"),
        EOFError("x"),
        OverflowError("x"),
        ZeroDivisionError("x"),
        AttributeError("x"),
        MemoryError(),
        RuntimeError("x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
        struct.error("x"),
        zlib.error("x"),
        Image.DecompressionBombError("x"),
    ],
)
def test_every_way_a_decoder_fails_is_one_error(
    failure: Exception, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    reason = refusal(encoded(photo, "PNG"))
    assert reason and "\n" not in reason


def test_an_interrupt_is_not_taken_for_a_bad_picture(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decode(encoded(photo, "PNG"), name="x")


def test_the_error_survives_a_process_border() -> None:
    error = DecodeError("a.png", "truncated")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.name, again.reason) == ("a.png: truncated", "a.png", "truncated")
    assert str(DecodeError(str(error))) == "a.png: truncated"  # as torch rebuilds it: from the message alone
    assert isinstance(error, IsopatchError)


def test_mutated_files_raise_nothing_else() -> None:
    """Bit flips, cuts and splices over every format: a picture or a DecodeError, never another exception."""
    random = np.random.default_rng(1)
    noise = Image.fromarray(random.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    seeds = [encoded(noise, format) for format in FORMATS]
    seeds += [encoded(noise.convert("P"), "GIF"), encoded(noise.convert("CMYK"), "JPEG")]
    read = refused = 0
    for _ in range(600):
        data = bytearray(seeds[random.integers(len(seeds))])
        for _ in range(random.integers(1, 6)):
            data[random.integers(len(data))] = random.integers(256)
        if random.random() < 0.3:
            data = data[: random.integers(1, len(data))]
        try:
            assert decode(bytes(data), name="x").mode == "RGB"
            read += 1
        except DecodeError:
            refused += 1
    assert read > 20 and refused > 100
