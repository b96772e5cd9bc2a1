"""Which of a model's outputs the class folders of a data set stand for: ImageNet-A, -R and -V2.

ImageNet-A and -R (Hendrycks et al. 2021) hold pictures of 200 of ImageNet's 1,000 classes in folders named by
WordNet id, ImageNet-V2 (Recht et al. 2019) all of them in folders named 0 .. 999, which as names would sort
as 0, 1, 10, 100. Nothing is downloaded: everything follows from the names of folders and classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from isopatch.data.label_sets import WORDNET_ID, imagenet_order
from isopatch.errors import UsageError, nearest

IMAGENET_CLASSES = 1000


def subset_outputs(
    folders: Sequence[str],
    classes: Sequence[str] | None,
    outputs: int,
    *,
    imagenet: Callable[[], Mapping[str, str]],
    where: str,
) -> tuple[NDArray[np.int64], str]:
    """Return ((F,) the output that each folder stands for, how that was found out).

    classes: names of the model's outputs, None where it has none. imagenet: returns ImageNet's 1,000 WordNet
    ids in its order, each with its words ("tench, Tinca tinca"); asked where a model of 1,000 outputs does
    not name them so. Names that are not those words, in that order, are not taken for ImageNet's.
    In this order: folders that are classes of the model, by name; numbers, as ImageNet counts; WordNet ids.
    Raises UsageError naming what is none of these.
    """
    known = {name: index for index, name in enumerate(classes or ())}
    unknown = [name for name in folders if name not in known]
    if not unknown:
        return _as_array([known[name] for name in folders], where), "by name"
    if all(name.isdecimal() for name in folders):
        numbers = [int(name) for name in folders]
        if max(numbers) >= outputs:
            raise UsageError(f"{where}: has a class folder {max(numbers)}, and the model {outputs} outputs")
        order = imagenet_order(classes) if classes is not None else None
        return _as_array([number if order is None else order[number] for number in numbers], where), (
            "folders are numbers"
        )
    wordnet = all(WORDNET_ID.fullmatch(name) for name in folders)
    if wordnet and outputs == IMAGENET_CLASSES and (classes is None or imagenet_order(classes) is None):
        table = imagenet()
        if classes is not None and not _are_words(classes, list(table.values())):
            raise UsageError(
                f"{where}: has folders named by WordNet id, and the model's 1,000 classes have other names, "
                f"not ImageNet's, such as '{classes[0]}'; rename the folders like its classes"
            )
        place = {name: index for index, name in enumerate(table)}
        strangers = [name for name in folders if name not in place]
        if not strangers:
            how = "the model's 1,000 outputs are taken in ImageNet's order, WordNet ids sorted"
            return _as_array([place[name] for name in folders], where), how
        unknown = strangers
    few = ", ".join(f"'{name}'" for name in unknown[:3])
    raise UsageError(
        f"{where}: {len(unknown)} of {len(folders)} class folders are no classes of the model, such as "
        f"{few}{nearest(unknown[0], known)}; --class-subset takes folders named like the model's classes, by "
        f"WordNet id, or by number"
    )


def _are_words(classes: Sequence[str], words: Sequence[str]) -> bool:
    """Whether nine in ten names begin with the same word as ImageNet's; lists differ in a few."""
    same = (
        a.split(",")[0].casefold() == b.split(",")[0].casefold() for a, b in zip(classes, words, strict=True)
    )
    return sum(same) >= 0.9 * len(words)


def _as_array(numbers: list[int], where: str) -> NDArray[np.int64]:
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"{where}: two class folders stand for one class of the model (such as 1 and 01)")
    return np.array(numbers, dtype=np.int64)
