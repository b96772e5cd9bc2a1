"""The frame of comparators, which change resolution inside: stem -> stages -> norm -> mean -> heads.

They serve what `Classifier` promises; everything that needs one resolution (prefix tokens, positions, twins
of a run of blocks) belongs to the isotropic skeleton.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from isopatch.nn.classifier import Classifier, Encoded, Features
from isopatch.nn.layout import as_tokens
from isopatch.nn.recompute import recomputed


class Staged(Classifier):
    """Maps (B, C, rows, cols) from stage to stage, then the mean of the last one.

    stem, norm: map -> map. stages: each a sequence of blocks map -> map; a step to a lower resolution belongs
    to a block or is one.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        stages: Sequence[nn.Sequential],
        norm: nn.Module,
        heads: Mapping[str, nn.Module],
    ) -> None:
        """Put the parts in order."""
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.norm = norm
        self.heads = nn.ModuleDict(heads)

    def encode(self, x: Tensor) -> Encoded:
        """Return the last map, after the norm, and its mean."""
        last = self._encode(x)
        return Encoded(_features(last), last.mean(dim=(2, 3)).unsqueeze(1))

    def features_by_depth(self, x: Tensor) -> Iterator[Features]:
        """Yield what leaves the stem, then each block of each stage: resolution and channels change."""
        x = self.stem(x)
        yield _features(x)
        for block in self._blocks():
            x = block(x)
            yield _features(x)

    def _blocks(self) -> Iterator[nn.Module]:
        for stage in self.stages:
            assert isinstance(stage, nn.Sequential)
            yield from stage

    def _encode(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        recompute = self.activation_checkpointing and self.training
        for block in self._blocks():
            x = recomputed(block, x) if recompute else block(x)
        encoded: Tensor = self.norm(x)
        return encoded


def _features(feature_map: Tensor) -> Features:
    return Features(as_tokens(feature_map), (feature_map.shape[2], feature_map.shape[3]), feature_map)
