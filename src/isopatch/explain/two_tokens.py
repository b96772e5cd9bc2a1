"""The distillation token beside the class token, by depth (Touvron et al. 2021, section 4).

The paper gives their cosine: 0.06 at the input, 0.93 at the last layer. CKA asks something else: whether the
two tell pictures apart in the same way, wherever they point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from isopatch.explain.cka import BATCH, LEAST, cka, grams
from isopatch.explain.contract import Context, Figure, TooLittle
from isopatch.explain.drawing import chart, plain
from isopatch.explain.tensors import batches
from isopatch.nn.classifier import Classifier
from isopatch.report.plots import SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASS, DISTILLATION = 0, 1  # the order of the prefix


class Tokens(NamedTuple):
    """By depth, 0 as the tokens enter the first block.

    cosine: mean over pictures. cka: NaN where a token does not depend on the picture, as at depth 0.
    """

    cosine: NDArray[np.float64]
    cka: NDArray[np.float64]


@torch.no_grad()
def compare_tokens(model: Classifier, sample: Tensor) -> Tokens:
    """Compare the two tokens of a model that has them, on prepared pictures (M, C_in, H, W)."""
    sums: list[Tensor] = []
    for pictures in batches(sample, BATCH):
        cosines = [_cosine(features.tokens).sum() for features in model.features_by_depth(pictures)]
        sums = [a + b for a, b in zip(sums, cosines, strict=True)] if sums else cosines
    own = [grams(model, sample, read=lambda f, i=i: f.tokens[:, i]) for i in (CLASS, DISTILLATION)]  # type: ignore[misc]
    return Tokens(torch.stack(sums).cpu().numpy() / len(sample), np.diag(cka(own[0], own[1])).copy())


def make(context: Context) -> list[Figure]:
    """Draw cosine and CKA by depth."""
    if context.sample is None or len(context.sample) < LEAST:
        raise TooLittle(f"CKA needs at least {LEAST} pictures: give a data set with --data")
    found = compare_tokens(context.model, context.sample.to(context.device))
    depth = np.arange(len(found.cosine))

    def draw(axes: Axes) -> None:
        axes.plot(depth, found.cosine, color=SERIES[0], marker="o", markersize=4, linewidth=1.8,
                  label="cosine of the two vectors")  # fmt: skip
        axes.plot(depth, found.cka, color=SERIES[1], marker="o", markersize=4, linewidth=1.8,
                  label="CKA over pictures")  # fmt: skip
        axes.axhline(0.0, color="#7a869a", linewidth=0.8)
        axes.set_xlabel("after block; 0: as they enter the first")
        axes.set_ylim(min(-0.05, float(np.nanmin(found.cosine)) - 0.05), 1.05)
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=2, borderaxespad=0.1)

    last = f"{found.cosine[0]:.2f} as they enter, {found.cosine[-1]:.2f} after the last block"
    return [
        Figure(
            name="tokens",
            title="Distillation token beside class token",
            caption=f"Cosine of the two tokens of a picture, mean over {len(context.sample)} pictures "
            f"({last}; DeiT reports 0.06 and 0.93), and CKA: whether they tell pictures apart in the same "
            "way. At depth 0 both are the same for every picture, and there is no CKA.",
            svg=chart(draw, title="Two tokens by depth", legend=True),
            data={"cosine": plain(found.cosine), "cka": plain(found.cka), "pictures": len(context.sample)},
        )
    ]


def _cosine(tokens: Tensor) -> Tensor:
    return F.cosine_similarity(tokens[:, CLASS].double(), tokens[:, DISTILLATION].double(), dim=-1)
