"""What an explanation is: a question, the models that have the thing, and figures with their numbers.

    context (a model, pictures, another model) -> Explanation.make -> figures -> files and one page

Every explanation is one line of `isopatch.explain.table`; the command line, the page and the documents read
that table and know nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from isopatch.errors import UsageError
from isopatch.nn.classifier import Classifier


class TooLittle(UsageError):
    """What was given is not enough for an explanation; where it was not asked for by name, it is left out."""


Needs = Literal["weights", "pictures", "data", "other"]


@dataclass(frozen=True)
class Shown:
    """One picture to explain.

    name: of the file or of its place in a data set. image: (H, W, 3) uint8, what the model sees, before it is
    normalised. tensor: (1, 3, H, W), what enters the model. label: the true class's index, where it is known.
    original: (h, w, 3) uint8, the whole picture in its own aspect, made smaller; box: (left, top, right,
    bottom), the part of it that the model sees, as shares of its sides. None: nothing but `image` is known.
    """

    name: str
    image: NDArray[np.uint8]
    tensor: Tensor
    label: int | None = None
    original: NDArray[np.uint8] | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Context:
    """What there is to explain with.

    model: in eval mode, on `device`, float32. name: what the user called it. classes: names of its outputs.
    pictures: those that were given to be explained. sample: (M, 3, H, W), up to 128 prepared pictures of a
    data set, for statistics; None without data. other, other_name: a second model to compare with.
    options: `isopatch.explain.options`. store: what one explanation computed and others may take from here.
    """

    model: Classifier
    name: str
    classes: Sequence[str]
    pictures: Sequence[Shown] = ()
    sample: Tensor | None = None
    sample_labels: Tensor | None = None
    other: Classifier | None = None
    other_name: str = ""
    device: str = "cpu"
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    store: dict[Any, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Figure:
    """One figure of an explanation.

    name: a file's stem, unique within the explanation. title: what it shows. caption: how it was computed
    and how to read it, in a sentence or two. svg or png: exactly one of them. data: the numbers behind it,
    plain values that JSON holds. warning: why it should not be believed, where a check failed.
    """

    name: str
    title: str
    caption: str
    svg: str | None = None
    png: bytes | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    warning: str | None = None

    def __post_init__(self) -> None:
        assert (self.svg is None) != (self.png is None), f"{self.name}: either svg or png"


@dataclass(frozen=True)
class Explanation:
    """One thing that can be asked of a model.

    name: as in `--what NAME`. question: one line for the help. needs: what has to be given: nothing beside
    the weights, pictures, a data set, or another model. missing: why this model has no such thing, in words
    ("has no attention"), or None where it has. make: the figures, for a context in which nothing is missing.
    source: paper and section that define it. compares: whether it sets other models beside this one.
    """

    name: str
    question: str
    needs: Needs
    missing: Callable[[Classifier], str | None]
    make: Callable[[Context], list[Figure]]
    source: str = ""
    compares: bool = False
