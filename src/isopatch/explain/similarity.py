"""Which layers of which models see pictures alike: CKA within a model, between two, and whose is nearer.

How it is computed: cka.py. The verdict between two references asks, for each layer of the model, how like it
is to the layer of the reference that is most like it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from isopatch.explain.cka import LEAST, Grams, cka, grams, half_samples, layer_by_layer
from isopatch.explain.contract import Context, Figure, TooLittle
from isopatch.explain.drawing import chart, heat_map, key_of, plain
from isopatch.explain.samples import compared, other_sample
from isopatch.models.external.wrapper import External
from isopatch.nn.classifier import Classifier
from isopatch.nn.skeleton import Isotropic
from isopatch.report.plots import SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALVES = 200
SOURCE = "Kornblith et al. 2019; Nguyen et al. 2021, section 2; Raghu et al. 2021, section 4"


class Nearer(NamedTuple):
    """Whose representations a model's are more like.

    by_layer: (L, 2) CKA of each layer with the layer of either reference that is most like it. matched: (L,
    2) which layer that is. mean: (2,) over layers, the stem left out. low, high: 95 % interval of the
    difference mean[0] - mean[1].
    """

    by_layer: NDArray[np.float64]
    matched: NDArray[np.int64]
    mean: NDArray[np.float64]
    low: float
    high: float

    @property
    def difference(self) -> float:
        """First minus second reference."""
        return float(self.mean[0] - self.mean[1])

    @property
    def decided(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def any_model(model: Classifier) -> str | None:
    """Every model has layers."""
    return None


def two_tokens(model: Classifier) -> str | None:
    """Say why a model has no two tokens to compare."""
    if isinstance(model, External):
        return "is another library's, whose tokens are not known here"
    both = isinstance(model, Isotropic) and model.num_prefix == 2
    return None if both else "has no distillation token beside a class token"


def nearer(model: Grams, first: Grams, second: Grams, *, seed: int = 0, halves: int = HALVES) -> Nearer:
    """Decide whether a model is more like the first reference or the second.

    The most similar layers are chosen once, on all pictures, and kept in the half samples: chosen anew, the
    best of many noisy numbers would grow with the noise. The interval is the estimate plus and minus 1.96
    times the scatter of the half samples (cka.half_samples). Raises TooLittle where a similarity does not
    exist.
    """
    found = [cka(model, reference) for reference in (first, second)]
    if not all(_comparable(values) for values in found):
        raise TooLittle("the pictures are all alike to at least one layer: give others with --data")
    matched = np.stack([np.nan_to_num(v, nan=-np.inf).argmax(axis=1) for v in found], axis=1)
    by_layer = np.stack([_at(v, matched[:, i]) for i, v in enumerate(found)], axis=1)
    like = [[gram[matched[:, i]] for gram in reference] for i, reference in enumerate((first, second))]
    drawn, *drawn_like = half_samples([model, *like], halves, seed)
    each = [layer_by_layer(drawn, reference)[1:].mean(dim=0) for reference in drawn_like]
    mean = by_layer[1:].mean(axis=0)
    estimate = float(mean[0] - mean[1])
    scatter = 1.96 * math.sqrt(float(((each[0] - each[1] - estimate) ** 2).mean()))
    return Nearer(by_layer, matched, mean, estimate - scatter, estimate + scatter)


def make_layers(context: Context) -> list[Figure]:
    """CKA of a model's layers with each other."""
    own = grams(context.model, _sample(context))
    values = cka(own, own)
    return [
        Figure(
            name="layers",
            title="Which layers of the model are alike",
            caption=f"Linear CKA (unbiased, minibatches) between the patch features of any two depths, over "
            f"{_count(own)} pictures; 0 is the stem's output. Blocks of high similarity are stretches of the "
            "model that change little; ViTs have one, ResNets a step between early and late layers.",
            svg=heat_map(values, title="CKA of the layers", x_label="depth", y_label="depth",
                         value_label="CKA", numbers=True),
            data={"cka": plain(values), "pictures": _count(own)},
            warning=_undefined(values),
        )
    ]  # fmt: skip


def make_similarity(context: Context) -> list[Figure]:
    """CKA with the other model; with a second one the verdict whose the model is nearer to."""
    own = grams(context.model, _sample(context))
    others = []
    for which, name, model in compared(context):
        sample, note = other_sample(context, which)
        others.append((name, grams(model, sample), note))
    figures = []
    for index, (name, reference, note) in enumerate(others):
        values = cka(own, reference)
        figures.append(
            Figure(
                name="cka" if index == 0 else "cka-second",
                title=f"{context.name} beside {name}, layer by layer",
                caption="Linear CKA (unbiased, minibatches) between the patch features of the two models "
                f"over the same {_count(own)} pictures; depth 0 is the stem's output." + note,
                svg=heat_map(values, title="CKA of two models", x_label=f"depth of {name}",
                             y_label=f"depth of {context.name}", value_label="CKA", numbers=True,
                             high=_top(values)),
                data={"cka": plain(values), "pictures": _count(own), "models": [context.name, name]},
                warning=_undefined(values),
            )
        )  # fmt: skip
    # Where pictures are all alike to a layer the figures above say so, and there is nothing to decide.
    if len(others) == 2 and all(_comparable(cka(own, reference)) for _, reference, _ in others):
        figures.append(_verdict(context, own, others))
    return figures


def _verdict(context: Context, own: Grams, others: list[tuple[str, Grams, str]]) -> Figure:
    (first, a, _), (second, b, _) = others
    result = nearer(own, a, b, seed=context.seed)
    sentence = say(result, context.name, first, second)

    def draw(axes: Axes) -> None:
        x = np.arange(len(result.by_layer))
        for index, name in enumerate((first, second)):
            axes.plot(x, result.by_layer[:, index], color=SERIES[index], label=key_of(name), linewidth=1.8,
                      marker="o", markersize=3.5)  # fmt: skip
        axes.set_xlabel(f"depth of {context.name}; upwards: CKA with the most similar layer")
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=2, borderaxespad=0.1)

    return Figure(
        name="nearer",
        title=f"Nearer to {first} or to {second}?",
        caption=f"{sentence} For every depth the similarity with the layer of the reference that is most "
        f"like it; the interval comes from {HALVES} random halves of the {_count(own)} pictures "
        "and covers them alone: another training of any of the three may say otherwise.",
        svg=chart(draw, title="Nearer to which", legend=True),
        data={
            "references": [first, second],
            "by_layer": plain(result.by_layer),
            "matched": result.matched.tolist(),
            "mean": plain(result.mean),
            "difference": result.difference,
            "interval": [result.low, result.high],
            "decided": result.decided,
            "verdict": sentence,
        },
    )


def say(result: Nearer, name: str, first: str, second: str) -> str:
    """Put the verdict into a sentence with its certainty."""
    numbers = (
        f"mean CKA {result.mean[0]:.3f} and {result.mean[1]:.3f}, difference {result.difference:+.3f}, "
        f"95 % interval {result.low:+.3f} to {result.high:+.3f}"
    )
    if not result.decided:
        return f"Not decided: {name} may be more like {first} or more like {second} ({numbers})."
    winner, loser = (first, second) if result.difference > 0 else (second, first)
    return f"{name} is more like {winner} than {loser} ({numbers}; {first} minus {second})."


def _at(values: NDArray[np.float64], matched: NDArray[np.int64]) -> NDArray[np.float64]:
    return values[np.arange(len(values)), matched]


def _comparable(values: NDArray[np.float64]) -> bool:
    """Whether every layer but the stem has a similarity with some layer."""
    return bool(np.isfinite(values[1:]).any(axis=1).all())


def _sample(context: Context) -> Tensor:
    if context.sample is None or len(context.sample) < LEAST:
        count = 0 if context.sample is None else len(context.sample)
        raise TooLittle(
            f"CKA needs at least {LEAST} pictures, there are {count}: give a data set with --data"
        )
    return context.sample.to(context.device)


def _count(found: Grams) -> int:
    return sum(part.shape[1] for part in found)


def _top(values: NDArray[np.float64]) -> float:
    """The largest similarity, so that two unlike models are no single dark square; at least 0.2."""
    finite = values[np.isfinite(values)]
    return float(min(1.0, max(0.2, finite.max()))) if finite.size else 1.0


def _undefined(values: NDArray[np.float64]) -> str | None:
    if np.isfinite(values).all():
        return None
    return "the pictures are all alike to some layers, which leaves nothing to compare: those are blank"
