"""Write src/isopatch/data/assets/digits.npz from scikit-learn's copy of the digits (needs scikit-learn).

Command: python tools/make_digits.py. Arrays: images uint8 (1797, 8, 8), ink 0..16; labels uint8 (1797,);
test_index int16, the fixed, stratified 20 % test split (sorted). Running it again writes the same arrays.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from isopatch.data.split import stratified_cut

ASSET = Path(__file__).parent.parent / "src" / "isopatch" / "data" / "assets" / "digits.npz"


def main() -> None:
    """Write the asset and print its size."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)
    assert (images == digits.images).all() and images.max() == 16
    labels = digits.target.astype(np.uint8)
    _, test = stratified_cut(labels.astype(np.int64), 0.2, 0, purpose="test")
    np.savez_compressed(ASSET, images=images, labels=labels, test_index=test.astype(np.int16))
    print(f"{ASSET}: {len(images)} pictures, {len(test)} of them test, {ASSET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
