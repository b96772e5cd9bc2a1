"""The frame of comparators, which change resolution inside: stem -> stages -> norm -> mean -> heads.

They serve what `Classifier` promises; everything that needs one resolution (prefix tokens, positions, twins
of a run of blocks) belongs to the isotropic skeleton.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from isopatch.nn.classifier import Classifier, Features
from isopatch.nn.layout import as_tokens


class Staged(Classifier):
    """Maps (B, C, rows, cols) from stage to stage, then the mean of the last one.

    stem, stages, norm: map -> map.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        norm: nn.Module,
        heads: Mapping[str, nn.Module],
    ) -> None:
        """Put the parts in order."""
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.norm = norm
        self.heads = nn.ModuleDict(heads)

    def pooled(self, x: Tensor) -> Tensor:
        """Return the mean of the last map, (B, 1, C)."""
        return self._encode(x).mean(dim=(2, 3)).unsqueeze(1)

    def features(self, x: Tensor) -> Features:
        """Return the last map, also as tokens."""
        last = self._encode(x)
        return Features(as_tokens(last), (last.shape[2], last.shape[3]), last)

    def _encode(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        encoded: Tensor = self.norm(x)
        return encoded
