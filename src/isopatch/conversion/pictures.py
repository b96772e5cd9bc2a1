"""A few generated pictures to compare logits on where no data is given; the same every time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.image.contract import InputContract

COUNT = 8


class GeneratedPictures:
    """`COUNT` pictures of random colour fields, larger and wider than the model's input so that it is cut."""

    classes = ("generated",)
    fingerprint = "generated"

    def __init__(self, contract: InputContract) -> None:
        """Draw them with numpy's generator, seed 0: 6 x 6 colours each, enlarged (bicubic)."""
        colours = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 6, 3), dtype=np.uint8)
        size = (max(8, contract.width * 3 // 2), max(8, contract.height * 5 // 4))
        self.labels: NDArray[np.int64] = np.zeros(COUNT, dtype=np.int64)
        self._pictures = [Image.fromarray(c).resize(size, Image.Resampling.BICUBIC) for c in colours]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return COUNT

    def name(self, index: int) -> str:
        """`generated:<index>`."""
        return f"generated:{index}"

    def read(self, index: int) -> Image.Image:
        """Return picture `index`, RGB."""
        return self._pictures[index]
