"""One line of the table of models. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from isopatch.image.contract import InputContract


class Accuracy(NamedTuple):
    """Top-1 on ImageNet-1k validation (or the set named in `source`), in per cent, of published weights."""

    top1: float
    source: str


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A name of the table.

    architecture: the architecture function that builds it (`vit`, `deit`, `deit3`, `convmixer`).
    arguments: keyword arguments of that function: the published size.
    input: the contract of the published weights; a plain name's takes its size from image_size.
    parameters, macs: exact, at the entry's own size and classes; None for plain names. Tests count
        them again.
    accuracy: what published weights reach. source: where size and figures come from.
    """

    name: str
    architecture: str
    arguments: Mapping[str, Any]
    input: InputContract
    parameters: int | None = None
    macs: int | None = None
    accuracy: tuple[Accuracy, ...] = ()
    source: str = ""

    @property
    def plain(self) -> bool:
        """Whether every size has to be given as an argument."""
        return self.parameters is None


def accuracies(source: str, name: str, weights: dict[str, float]) -> tuple[Accuracy, ...]:
    """One accuracy per tag of published weights; `{weights}` in `source` becomes `<name>.<tag>`."""
    return tuple(Accuracy(top1, source.format(weights=f"{name}.{tag}")) for tag, top1 in weights.items())
