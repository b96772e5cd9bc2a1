"""Grad-CAM of timm's and torchvision's models: the formula, and who has no map to draw."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isopatch.explain.gradcam import grad_cam_maps, last_features, without_feature_map
from isopatch.explain.heat import target_logits
from isopatch.models.external.wrapper import External
from isopatch.models.spec import build, make_spec

pytest.importorskip("timm")


def other(name: str, size: int = 64) -> External:
    torch.manual_seed(0)
    model = build(make_spec(name, {"image_size": size, "num_classes": 3})).eval()
    assert isinstance(model, External)
    nn.init.normal_(model.heads["cls"].linear.weight)
    return model


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:resnet18", "torchvision:densenet121"])
def test_behind_a_mean_over_places_it_is_the_classifier_at_each_place(name: str) -> None:
    """logit = W mean(A) + b: the gradient is W / N at every place, the map (W A / N)+."""
    model = other(name)
    assert without_feature_map(model) is None
    x, targets = torch.randn(3, 3, 64, 64), torch.tensor([0, 1, 2])
    (found,) = grad_cam_maps(model, x, targets, {})
    with torch.no_grad():
        features = model.final_features(x).map
    rows = model.heads["cls"].linear.weight.detach()[targets]
    expected = torch.einsum("bc,bcij->bij", rows, features) / features[0, 0].numel()
    torch.testing.assert_close(found.values, expected.clamp(min=0), atol=1e-5, rtol=1e-4)
    assert expected.any() and found.name == "target class"


@pytest.mark.parametrize("name", ["timm:test_vit3", "timm:test_mambaout"])  # tokens; channels last
def test_gradients_stand_at_the_places_of_the_features(name: str) -> None:
    """Both are of the map that `final_features` gives, and the logit is the model's own."""
    model, target = other(name, 160), torch.tensor([1])
    assert without_feature_map(model) is None
    x = torch.randn(1, 3, 160, 160)
    features, gradient, _ = last_features(model, x, target)
    with torch.no_grad():
        torch.testing.assert_close(features, model.final_features(x).map)
    held = model.in_graph(x)
    torch.testing.assert_close(model.head_logits(held.pooled)["cls"][:, 1], target_logits(model, x, target))
    place = gradient.square().sum(1).flatten().argmax()
    assert gradient.shape == features.shape and gradient.flatten(2)[..., place].any()


def test_what_has_no_map_says_why() -> None:
    reason = without_feature_map(other("timm:test_vit", 160))
    assert reason is not None and "another library's and reads its class token alone" in reason
    model = other("timm:test_resnet")
    pooled = model.pooled
    model.pooled = lambda x: pooled(x) + 1  # type: ignore[method-assign]
    reason = without_feature_map(model)
    assert reason is not None and "does not classify by its last feature map alone" in reason
    del model.pooled
    assert without_feature_map(model) is None  # the control
    model.peer.forward_features = lambda x: (x, x)
    reason = without_feature_map(model)
    assert reason is not None and "no feature map of it is known" in reason
