"""The second model's pictures: the same ones, in its own contract."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from isopatch.errors import UsageError
from isopatch.explain.samples import other_sample
from isopatch.image.contract import HALF, InputContract
from isopatch.models.convmixer import convmixer


def model(contract):
    made = convmixer(dim=4, depth=1, kernel_size=3, patch_size=4, image_size=8, num_classes=2)
    made.spec = SimpleNamespace(input=contract)
    return made


OWN = InputContract(height=8, width=12)
OTHER = InputContract(height=8, width=12, mean=HALF, std=HALF)


def normalised(pictures, contract):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (contract.mean, contract.std))
    return (pictures - mean) / std


def test_the_normalisation_is_exchanged(context):
    pictures = torch.rand(3, 3, 8, 12)
    made = context(model(OWN), sample=normalised(pictures, OWN), other=model(OTHER))
    sample, note = other_sample(made)
    torch.testing.assert_close(sample, normalised(pictures, OTHER), atol=1e-5, rtol=1e-5)
    assert "normalised anew" in note
    same, nothing = other_sample(replace(made, other=model(OWN)))
    assert torch.equal(same, made.sample)
    assert nothing == ""


def test_the_size_is_exchanged_and_it_is_said(context):
    pictures = torch.full((2, 3, 8, 12), 0.25)
    wanted = InputContract(height=16, width=16, mean=HALF, std=HALF)
    made = context(model(OWN), sample=normalised(pictures, OWN), other=model(wanted))
    sample, note = other_sample(made)
    torch.testing.assert_close(sample, torch.full((2, 3, 16, 16), -0.5), atol=1e-5, rtol=1e-5)
    assert "resized to 16 x 16" in note


def test_prepared_pictures_are_taken_as_they_are(context):
    prepared = torch.rand(3, 3, 16, 16)
    made = context(
        model(OWN), sample=torch.rand(3, 3, 8, 12), other=model(OTHER), options={"other_sample": prepared}
    )
    assert torch.equal(other_sample(made)[0], prepared)
    with pytest.raises(UsageError, match="3 and 2"):
        other_sample(replace(made, options={"other_sample": prepared[:2]}))
    with pytest.raises(UsageError, match="--data"):
        other_sample(replace(made, sample=None))
