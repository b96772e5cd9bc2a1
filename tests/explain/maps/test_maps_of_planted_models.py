"""Grad-CAM, occlusion and integrated gradients where the evidence is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.explain.depths import blocks_of, patch_cells
from isopatch.explain.gradcam import grad_cam_maps, last_features, without_feature_map
from isopatch.explain.heat import in_batches, mean_colour, target_logits
from isopatch.explain.integrated import attributions, cell_sums, integrated_maps
from isopatch.explain.occlusion import occlusion_maps, windows
from isopatch.nn.classifier import Classifier

Make = Callable[..., Classifier]
Red = Callable[..., torch.Tensor]
ONE = torch.tensor([1])


@pytest.mark.parametrize("class_token", [False, True])
def test_grad_cam_finds_the_cell(plant: Make, red: Red, class_token: bool) -> None:
    model = plant(class_token=class_token)
    (found,) = grad_cam_maps(model, red((1, 2)), ONE, {})
    expected = torch.zeros(4, 4)
    expected[1, 2] = 20 / 16  # the feature is 1 there, the weight the gradient's mean over 16 places
    torch.testing.assert_close(found.values[0], expected / 1.0)
    (against,) = grad_cam_maps(model, red((1, 2)), torch.tensor([0]), {})
    assert not against.values.any()  # nothing speaks for the other class


def test_grad_cam_of_a_class_token_looks_before_the_last_block(plant: Make, red: Red, make: Make) -> None:
    assert last_features(plant(class_token=True), red((1, 2)), ONE)[2] == 0
    assert last_features(plant(), red((1, 2)), ONE)[2] == 1
    x = torch.randn(1, 3, 16, 16)
    assert last_features(make("vit"), x, ONE)[2] == 1
    assert last_features(make("vit-mean"), x, ONE)[2] == 2
    # The control: after the last block the gradient of every patch token of a ViT is zero.
    model = make("vit")
    kept: list[torch.Tensor] = []
    model.blocks[1].register_forward_hook(lambda _m, _i, output: kept.append(output))
    gradient = torch.autograd.grad(target_logits(model, x, ONE).sum(), kept)[0]
    assert gradient[:, 0].any() and not gradient[:, 1:].any()


def test_every_family_has_a_grad_cam_map_that_depends_on_the_class(
    every_model: Classifier, pictures: torch.Tensor
) -> None:
    assert without_feature_map(every_model) is None and blocks_of(every_model)
    targets = torch.tensor([0, 1, 2])
    (found,) = grad_cam_maps(every_model, pictures, targets, {})
    assert found.values.shape[0] == 3 and found.values.min() >= 0 and found.values.any()
    (other,) = grad_cam_maps(every_model, pictures, targets.roll(1), {})
    assert not torch.equal(found.values, other.values)


@pytest.mark.parametrize("class_token", [False, True])
def test_occlusion_in_closed_form(plant: Make, red: Red, class_token: bool) -> None:
    picture = red((1, 2), (3, 0), strength=0.5)
    (found,) = occlusion_maps(plant(class_token=class_token), picture, ONE, {})
    mean = 2 * 0.5 / 16  # of the red in the picture, which a covered cell takes
    logit = torch.tensor(20 * mean)
    covered = torch.full((4, 4), 20 * (mean + mean / 16))  # a black cell turns a little red
    for row, column in ((1, 2), (3, 0)):
        covered[row, column] = 20 * (mean + (mean - 0.5) / 16)
    expected = F.logsigmoid(logit) - F.logsigmoid(covered)
    torch.testing.assert_close(found.values[0], expected, atol=1e-6, rtol=1e-4)
    assert found.values[0, 1, 2] > 0 > found.values[0, 0, 0] and found.signed


def test_occlusion_with_a_stride_averages_the_windows_over_a_cell(plant: Make, red: Red) -> None:
    (found,) = occlusion_maps(plant(), red((1, 2)), ONE, {"occlusion.size": 4, "occlusion.stride": 2})
    assert found.values.shape == (1, 8, 8)
    strongest = torch.isclose(found.values[0], found.values.max(), atol=1e-6).nonzero().tolist()
    assert strongest == [[2, 4], [2, 5], [3, 4], [3, 5]]
    covers = torch.cat(list(windows(16, 16, 5, 3)))
    assert covers.any(0).all() and bool((covers.sum(dim=(1, 2)) == 25).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"occlusion.size": 17}, r"occlusion\.size 17: the model's pictures are 16x16"),
        ({"occlusion.size": 2, "occlusion.stride": 3}, r"occlusion\.stride 3: above the window of 2"),
    ],
)
def test_windows_that_cannot_be(plant: Make, red: Red, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        occlusion_maps(plant(), red((1, 2)), ONE, options)


def test_covering_a_picture_with_its_own_colour_does_nothing(make: Make) -> None:
    """Rounding of the logits is no map, however brightly its own scale would draw it."""
    x = torch.full((1, 3, 16, 16), 0.3)
    x[:, 1] = -1.1
    model = make("convmixer")
    (found,) = occlusion_maps(model, x, ONE, {})
    assert not found.values.any()
    x[:, :, 5, 5] += 0.5
    (found,) = occlusion_maps(model, x, ONE, {})
    assert found.values.any()


def test_a_fine_grid_gets_windows_of_a_sixteenth_of_the_side(make: Make) -> None:
    model = make("convmixer", patch_size=1, image_size=32)
    x = torch.randn(1, 3, 32, 32)
    assert patch_cells(model, x) == (32, 32)
    assert occlusion_maps(model, x, ONE, {})[0].values.shape == (1, 16, 16)


def test_integrated_gradients_of_a_linear_model(plant: Make, red: Red) -> None:
    picture = red((1, 2))
    (found,) = integrated_maps(plant(), picture, ONE, {})
    mean = 1 / 16
    expected = torch.full((4, 4), -20 * mean / 16)
    expected[1, 2] = 20 * (1 - mean) / 16
    torch.testing.assert_close(found.values[0], expected, atol=1e-5, rtol=1e-4)


def test_integrated_gradients_are_complete(every_model: Classifier, pictures: torch.Tensor) -> None:
    targets = torch.tensor([0, 1, 2])
    (found,) = integrated_maps(every_model, pictures, targets, {"integrated_gradients.steps": 100})
    with torch.no_grad():
        rise = target_logits(every_model, pictures, targets)
        rise = rise - target_logits(every_model, mean_colour(pictures), targets)
    torch.testing.assert_close(found.values.sum(dim=(1, 2)), rise, atol=0.05, rtol=0.05)
    few = attributions(every_model, pictures, targets, steps=2).sum(dim=(1, 2, 3))
    assert (few - rise).abs().max() > (found.values.sum(dim=(1, 2)) - rise).abs().max()  # it can be missed


def test_sums_over_cells_lose_nothing() -> None:
    values = torch.randn(2, 11, 7)
    cells = cell_sums(values, (3, 2))
    torch.testing.assert_close(cells.sum(dim=(1, 2)), values.sum(dim=(1, 2)))
    torch.testing.assert_close(cells[0, 0, 1], values[0, :3, 3:].sum())


def test_batches_change_nothing(make: Make) -> None:
    model, x = make("convmixer"), torch.randn(5, 3, 16, 16)
    targets = torch.tensor([0, 1, 2, 3, 0])
    for method in (grad_cam_maps, occlusion_maps, integrated_maps):
        (whole,) = method(model, x, targets, {})
        (parts,) = in_batches(method, model, x, targets, {}, size=2)
        torch.testing.assert_close(parts.values, whole.values, atol=1e-5, rtol=1e-4)
        assert parts.signed == whole.signed
