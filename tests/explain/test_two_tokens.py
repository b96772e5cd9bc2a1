"""The two tokens of a distilled model: their cosine is the one `isopatch eval` reports, CKA is known."""

import numpy as np
import pytest
import torch

from isopatch.errors import UsageError
from isopatch.explain.similarity import two_tokens
from isopatch.explain.two_tokens import compare_tokens, make
from isopatch.models.deit import deit
from isopatch.models.vit import vit
from isopatch.training.heads import TokenCosine

SIZES = {"dim": 16, "depth": 3, "num_heads": 2, "patch_size": 4, "image_size": 16, "num_classes": 3}


@pytest.fixture
def model():
    made = deit(**SIZES, distilled=True)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def test_the_cosine_is_that_of_the_evaluation(model):
    sample = torch.randn(10, 3, 16, 16)
    watch = TokenCosine(model)
    with torch.no_grad():
        watch.heads(sample)
    found = compare_tokens(model, sample)
    np.testing.assert_allclose(found.cosine, watch.to_json()["by_depth"], rtol=1e-6)
    assert len(found.cosine) == 4


def test_equal_tokens_are_equal_and_unlike_ones_are_not(model):
    sample = torch.randn(24, 3, 16, 16)
    unlike = compare_tokens(model, sample)
    assert np.isnan(unlike.cka[0])  # as they enter, neither depends on the picture
    assert (unlike.cka[1:] < 0.999).all()
    with torch.no_grad():
        model.prefix.dist_token.copy_(model.prefix.cls_token)
        model.position.table[:, 1] = model.position.table[:, 0]
    same = compare_tokens(model, sample)
    np.testing.assert_allclose(same.cosine, 1.0, atol=1e-6)
    np.testing.assert_allclose(same.cka[1:], 1.0, atol=1e-6)


def test_the_figure_has_no_number_where_there_is_none(model, context):
    (figure,) = make(context(model, sample=torch.randn(8, 3, 16, 16)))
    assert figure.data["cka"][0] is None
    assert figure.data["cka"][1] is not None
    (constant,) = make(context(model, sample=torch.zeros(8, 3, 16, 16)))
    assert constant.data["cka"] == [None] * 4
    with pytest.raises(UsageError, match="at least 4"):
        make(context(model, sample=torch.randn(2, 3, 16, 16)))


def test_models_with_one_token_say_so(model):
    assert two_tokens(model) is None
    assert "no distillation token" in two_tokens(vit(**SIZES))
