"""What pictures a source holds, from a sample: used to choose a default model and recipe."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isopatch.data.find import find_data
from isopatch.data.source import ImageSource
from isopatch.image.decode import MAX_PIXELS, DecodeError


@dataclass(frozen=True)
class DataSummary:
    """Size, number and kind of a source's pictures.

    median_height, median_width: pixels, of the sample. channels_grey: every sampled picture is grey.
    fixed_size: all sampled pictures have one size.
    """

    num_images: int
    num_classes: int
    median_height: int
    median_width: int
    channels_grey: bool
    fixed_size: bool


def summarise(source: ImageSource | str | Path, sample: int = 64) -> DataSummary:
    """Decode `sample` pictures spread evenly over `source` and summarise them.

    source: an opened source, or what `--data` takes: then its training pictures before any cut.

    Unreadable pictures are passed over; where the whole sample is unreadable, its first error is raised.
    """
    if isinstance(source, (str, Path)):
        source = next(iter(find_data(source, max_pixels=MAX_PIXELS).roles().values()))
    chosen = np.unique(np.linspace(0, len(source) - 1, min(sample, len(source))).astype(int)).tolist()
    sizes: list[tuple[int, int]] = []
    grey = True
    first_error: DecodeError | None = None
    for index in chosen:
        try:
            image = source.read(index)
        except DecodeError as error:
            first_error = first_error or error
            continue
        sizes.append(image.size)
        pixels = np.asarray(image)
        grey = grey and bool((pixels == pixels[..., :1]).all())
    if not sizes and first_error is not None:
        raise first_error
    return DataSummary(
        num_images=len(source),
        num_classes=len(source.classes),
        median_height=int(statistics.median(height for _, height in sizes)),
        median_width=int(statistics.median(width for width, _ in sizes)),
        channels_grey=grey,
        fixed_size=len(set(sizes)) == 1,
    )
