"""How the tensors of a file and of a model met: what was matched, reshaped, left over and missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Tally:
    """What one loading did, in the model's names (or the file's, for what is left over).

    in_file: weights of the file; optimiser states and counters of other tools beside them do not count.
    in_model: tensors of the model. matched: of these, how many have the file's values.
    reshaped: matched tensors that the file keeps otherwise: in parts, transposed, or for another grid.
    left_over: tensors of the file that the model does not have. missing: tensors with the model's own values.
    """

    in_file: int
    in_model: int
    matched: int
    reshaped: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "tensors_in_file": self.in_file,
            "tensors_in_model": self.in_model,
            "matched": self.matched,
            "reshaped": list(self.reshaped),
            "left_over": list(self.left_over),
            "missing": list(self.missing),
        }


def identities(state: Mapping[str, Tensor]) -> set[tuple[int, tuple[int, ...]]]:
    """Return where each tensor's values lie and in what shape: renaming keeps both, reshaping does not."""
    return {(tensor.data_ptr(), tuple(tensor.shape)) for tensor in state.values()}


def reshaped_in(
    state: Mapping[str, Tensor], before: Collection[tuple[int, tuple[int, ...]]]
) -> tuple[str, ...]:
    """Return the names of `state` whose tensors were not among `before` (see `identities`) as they are."""
    return tuple(key for key, t in state.items() if (t.data_ptr(), tuple(t.shape)) not in before)
