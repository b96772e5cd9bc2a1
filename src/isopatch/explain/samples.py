"""The same pictures for a second model, which may expect another size and normalisation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.explain.contract import Context, TooLittle
from isopatch.image.contract import InputContract
from isopatch.nn.classifier import Classifier


def compared(context: Context) -> list[tuple[str, str, Classifier]]:
    """Return (which, name, model) of the one or two models to compare with; which: as in `other_sample`."""
    given = [
        ("other", context.other_name, context.other),
        ("second", str(context.options.get("second_name", "")), context.options.get("second")),
    ]
    return [(which, name, model) for which, name, model in given if isinstance(model, Classifier)]


def other_sample(context: Context, which: str = "other") -> tuple[Tensor, str]:
    """Return (the sample as the other model wants it, a sentence for the caption where it was made here).

    which: "other" or "second" (`options["second"]`). Taken from `options` where the same pictures were
    prepared for that model ("other_sample"); otherwise made from the model's own by undoing its
    normalisation, resizing where the sizes differ and normalising anew. Raises TooLittle without a sample.
    """
    name, model = {key: (name, model) for key, name, model in compared(context)}[which]
    if context.sample is None:
        raise TooLittle("two models are compared on pictures: give a data set with --data")
    prepared = context.options.get(f"{which}_sample")
    if prepared is not None:
        assert isinstance(prepared, Tensor)
        if len(prepared) != len(context.sample):
            raise TooLittle(
                f"the two models got {len(context.sample)} and {len(prepared)} pictures: give them the same"
            )
        return prepared.to(context.device), ""
    own, wanted = _contract(context.model), _contract(model)
    sample = context.sample.to(context.device)
    if own is None or wanted is None or own == wanted:
        return sample, ""
    pictures = sample * _column(own.std, sample) + _column(own.mean, sample)
    note = f" {name or 'The second model'} sees the same pictures, normalised anew"
    if (wanted.height, wanted.width) != tuple(sample.shape[2:]):
        pictures = F.interpolate(
            pictures, (wanted.height, wanted.width), mode="bicubic", antialias=True, align_corners=False
        )
        note += f" and resized to {wanted.height} x {wanted.width}"
    return (pictures.clamp(0, 1) - _column(wanted.mean, sample)) / _column(wanted.std, sample), note + "."


def _contract(model: Classifier) -> InputContract | None:
    contract = None if model.spec is None else model.spec.input
    assert contract is None or isinstance(contract, InputContract)
    return contract


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)
