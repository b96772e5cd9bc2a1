"""Pictures decoded once and kept as uint8, where all of them fit into a stated limit."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isopatch.data.source import ImageSource, file_name_of, state_of

BYTES_PER_MB = 1_000_000
PROBES = 16  # pictures decoded to estimate the size of all


class KeptSource:
    """A source whose decoded pictures are in memory; forked loader processes share them without a copy.

    pixels: one (N, H, W, 3) uint8 array where all pictures have one size, else a list of (H, W, 3) arrays.
    """

    def __init__(self, source: ImageSource, pixels: list[NDArray[np.uint8]] | NDArray[np.uint8]) -> None:
        """Take over `pixels`, one entry per picture of `source`; they become read-only."""
        assert len(pixels) == len(source), (len(pixels), len(source))
        for picture in pixels if isinstance(pixels, list) else [pixels]:
            picture.setflags(write=False)
        self._source = source
        self._pixels = pixels
        self._digest: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; `labels` index into them."""
        return self._source.classes

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) int64."""
        return self._source.labels

    @property
    def fingerprint(self) -> str:
        """That of the source the pictures came from: keeping them changes nothing."""
        return self._source.fingerprint

    @property
    def state(self) -> str | None:
        """That of the source the pictures came from, as it was when that was opened."""
        return state_of(self._source)

    def digest(self) -> str:
        """Return a hex digest (BLAKE2b) of all kept pixels with their shapes, and of the labels, in order.

        Two sources of one digest give a training the same pictures. Computed when first asked for: about a
        second for a gigabyte.
        """
        if self._digest is None:
            total = hashlib.blake2b(b"%d\0" % len(self), digest_size=16)
            total.update(self.labels.astype("<i8").tobytes())
            for picture in self._pixels:
                total.update(b"%d\0%d\0" % picture.shape[:2])
                total.update(picture.tobytes())
            self._digest = total.hexdigest()
        return self._digest

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._source)

    def name(self, index: int) -> str:
        """Where the picture comes from."""
        return self._source.name(index)

    def file_name(self, index: int) -> str | None:
        """What the picture's file is or was called."""
        return file_name_of(self._source, index)

    def read(self, index: int) -> Image.Image:
        """Return picture `index` as a new PIL RGB image."""
        return Image.fromarray(self._pixels[index])

    def picture(self, index: int, *, short_side: int | None = None) -> NDArray[np.uint8]:
        """Return picture `index` as a read-only view (H, W, 3) of what is kept, decoded in full size."""
        return self._pixels[index]


def keep_in_memory(source: ImageSource, *, limit_mb: float) -> ImageSource:
    """Decode every picture of `source` in order and return a `KeptSource`; or `source`, where that is better.

    limit_mb: in 10**6 bytes, over all pictures of this source, 3 bytes a pixel; 0 keeps nothing. A few
        pictures give an estimate, so a source far above the limit costs little; one that turns out larger
        than estimated is given up as soon as the limit is passed.
    A picture that cannot be read raises what `source.read` raises.
    """
    limit = limit_mb * BYTES_PER_MB
    if isinstance(source, KeptSource) or limit <= 0 or len(source) == 0:
        return source
    probes = [source.read(int(i)) for i in np.linspace(0, len(source) - 1, num=min(PROBES, len(source)))]
    sizes = {picture.size for picture in probes}
    mean_bytes = sum(3 * picture.width * picture.height for picture in probes) / len(probes)
    if mean_bytes * len(source) > limit:
        return source

    one_size = sizes.pop() if len(sizes) == 1 else None
    array: NDArray[np.uint8] | None = None
    if one_size is not None:
        array = np.empty((len(source), one_size[1], one_size[0], 3), dtype=np.uint8)
    pixels: list[NDArray[np.uint8]] = []
    used = 0
    for index in range(len(source)):
        picture = np.asarray(source.read(index))
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3, source.name(index)
        used += picture.nbytes
        if used > limit:
            return source
        if array is not None and picture.shape == array.shape[1:]:
            array[index] = picture
            picture = array[index]
        else:
            array = None  # the rows already written stay alive through the views in `pixels`
        pixels.append(picture)
    return KeptSource(source, pixels if array is None else array)
