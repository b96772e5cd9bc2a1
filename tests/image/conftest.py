from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photo() -> Image.Image:
    """A picture without any symmetry: 48 wide, 32 high, smooth enough for JPEG."""
    y, x = np.mgrid[0:32, 0:48]
    pixels = np.stack([x * 5, y * 7, (x + 2 * y) * 2], axis=-1).astype(np.uint8)
    pixels[2:8, 3:20] = (250, 20, 20)
    return Image.fromarray(pixels)


@pytest.fixture
def odd_images() -> Path:
    root = Path(os.environ.get("ISOPATCH_DATA", "/nowhere")) / "odd-images"
    if not root.is_dir():
        pytest.skip("ISOPATCH_DATA does not name a folder with odd-images")
    return root
