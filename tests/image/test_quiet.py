from __future__ import annotations

import io
import logging
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from isopatch.image.decode import DecodeError, decode
from isopatch.image.names import printable
from isopatch.image.quiet import QuietPillow


def noisy_png() -> bytes:
    """A palette picture whose conversion makes Pillow warn."""
    image = Image.fromarray(np.zeros((4, 4), dtype=np.uint8), "P")
    image.putpalette([1, 2, 3])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=b"\x00\x80")
    return file.getvalue()


def test_pillow_s_warnings_do_not_leak() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode(noisy_png(), name="x")
        quiet = QuietPillow()
        with quiet:
            Image._decompression_bomb_check((10_000, 10_000))
        assert not caught
        Image._decompression_bomb_check((10_000, 10_000))  # negative control
        assert len(caught) == 1


def test_other_warnings_still_come_through_while_decoding() -> None:
    quiet = QuietPillow()
    with quiet, pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", UserWarning, stacklevel=1)


def test_the_log_stays_quiet_and_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    quiet, logger = QuietPillow(), logging.getLogger("PIL.TiffImagePlugin")
    with caplog.at_level(logging.ERROR):
        with quiet:
            logger.error("noise")
        assert not caplog.records
        logger.error("afterwards")
        assert [record.message for record in caplog.records] == ["afterwards"]


def test_filters_are_as_before_after_many_threads() -> None:
    before = list(warnings.filters)
    failures: list[BaseException] = []

    def work() -> None:
        for index in range(50):
            try:
                if index % 2:
                    decode(noisy_png(), name="x")
                else:
                    with pytest.raises(DecodeError):
                        decode(b"nothing", name="x")
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(warnings.filters) == before
    assert logging.getLogger("PIL").propagate


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain/é 😀.jpg", "plain/é 😀.jpg"),
        ("a\nb.jpg", "a\\nb.jpg"),
        (b"caf\xe9.jpg", "caf\\xe9.jpg"),
        ("\x1b[31mred", "\\x1b[31mred"),
    ],
)
def test_names_are_one_printable_line(name: str | bytes, shown: str) -> None:
    assert printable(name) == shown
    printable(name).encode("utf-8")
