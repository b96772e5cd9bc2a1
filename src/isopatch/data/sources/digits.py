"""The embedded digits: 1,797 real 8x8 scans with a fixed, stratified 20 % test split.

UCI Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998), CC BY 4.0; see
`assets/digits.LICENSE.txt`. Ink 0..16 is scaled to grey 0..255 and shown as RGB.
"""

from __future__ import annotations

import hashlib
from importlib.resources import as_file, files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.data.stored import RawData

CLASSES = tuple("0123456789")


class DigitsSource:
    """Some of the digits, held in memory: images uint8 (N, 8, 8) of ink levels 0..16."""

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[np.uint8], numbers: NDArray[np.int64]
    ) -> None:
        """Take the chosen pictures, their labels and their numbers in scikit-learn's order."""
        self.classes = CLASSES
        self.labels = labels.astype(np.int64)
        self._numbers = numbers
        self._pixels = ((images.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
        digest = hashlib.blake2b(self._pixels.tobytes(), digest_size=16)
        digest.update(self.labels.tobytes())
        self.fingerprint = digest.hexdigest()
        self.state = self.fingerprint

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def name(self, index: int) -> str:
        """`digits:<number>`, its position among scikit-learn's 1,797."""
        return f"digits:{self._numbers[index]}"

    def read(self, index: int) -> Image.Image:
        """Return digit `index` as 8x8 RGB."""
        return Image.fromarray(self._pixels[index]).convert("RGB")

    def stored(self, index: int) -> Image.Image:
        """Return the picture itself: nothing is encoded."""
        return self.read(index)


def open_digits() -> RawData:
    """Return the digits with their own train (1,438) and test (359) splits."""
    with (
        as_file(files("isopatch.data") / "assets" / "digits.npz") as path,
        np.load(path, allow_pickle=False) as arrays,
    ):
        images, labels, test = arrays["images"], arrays["labels"], arrays["test_index"].astype(np.int64)
    train = np.setdiff1d(np.arange(len(labels), dtype=np.int64), test)
    return RawData(
        classes=CLASSES,
        train=DigitsSource(images[train], labels[train], train),
        val=None,
        test=DigitsSource(images[test], labels[test], test),
    )
