"""The checks of a map: closed forms, a right map, a wrong one, and one that ignores the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from isopatch.explain.checked import judged, told_apart
from isopatch.explain.gradcam import grad_cam_maps
from isopatch.explain.randomised import MOST_ALIKE, ranks, shuffled, spearman
from isopatch.explain.scores import (
    ORDERS,
    STEPS,
    Scorer,
    area,
    coarse,
    covered_counts,
    random_orders,
)
from isopatch.nn.classifier import Classifier

Make = Callable[..., Classifier]
Red = Callable[..., torch.Tensor]


def strengths() -> torch.Tensor:
    return torch.linspace(0, 1, 16).view(4, 4).flip(0)


def graded(red: Red) -> torch.Tensor:
    picture = torch.zeros(1, 3, 16, 16)
    for row in range(4):
        for column in range(4):
            picture += red((row, column), strength=float(strengths()[row, column]))
    return picture


def test_areas_in_closed_form(plant: Make, red: Red) -> None:
    """A linear model: after k cells its logit is scale times the mean of what is left and the mean colour."""
    found = Scorer(plant(scale=30.0, bias=-15.0), graded(red), 1)(strengths())
    assert found is not None
    reds = strengths().flatten().sort(descending=True).values
    mean = reds.mean()

    def curve(order: torch.Tensor) -> torch.Tensor:
        lost = torch.cat((torch.zeros(1), (order - mean).cumsum(0)))
        return torch.sigmoid(30.0 * (mean - lost / 16) - 15.0)

    deletion, insertion = curve(reds), curve(reds.flip(0)).flip(0)
    torch.testing.assert_close(torch.tensor(found.deletion.curve), deletion, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(found.insertion.curve), insertion, atol=1e-5, rtol=1e-4)
    expected = torch.trapezoid(deletion, dx=1 / 16)
    assert found.deletion.value == pytest.approx(float(expected), abs=1e-5)
    assert found.deletion.better and found.insertion.better
    assert len(found.deletion.random) == ORDERS


def test_the_map_upside_down_fails_and_so_do_most_random_maps(plant: Make, red: Red) -> None:
    scorer = Scorer(plant(scale=30.0, bias=-15.0), graded(red), 1)
    wrong = scorer(-strengths())
    assert wrong is not None and not wrong.deletion.better and not wrong.insertion.better
    right = scorer(strengths())
    assert right is not None
    for found in (right, wrong):  # the best of the random orders is the best, however the map did
        assert found.deletion.to_json()["random_best"] == round(min(found.deletion.random), 4)
        assert found.insertion.to_json()["random_best"] == round(max(found.insertion.random), 4)
    assert wrong.deletion.value == pytest.approx(right.insertion.value, abs=1e-5)
    passed = [scorer(torch.rand(4, 4)) for _ in range(100)]
    share = sum(found is not None and found.deletion.better for found in passed) / 100
    assert share < 0.15  # 1 in 20 is what chance allows


def test_what_changes_nothing_is_better_than_nothing(plant: Make) -> None:
    found = Scorer(plant(), torch.full((1, 3, 16, 16), 0.5), 1)(strengths())
    assert found is not None and not found.deletion.better and not found.insertion.better


def test_a_constant_map_orders_nothing(plant: Make, red: Red) -> None:
    scorer = Scorer(plant(), graded(red), 1)
    assert scorer(torch.ones(4, 4)) is None and scorer(torch.ones(1, 1)) is None
    lines, fails, data = judged(None, [None, None, None], blank=True)
    assert (lines, fails) == ((("zero everywhere", True),), ("zero everywhere",)) and data["randomised"][
        "passed"
    ] is None


def test_random_orders_are_run_once_for_a_grid(plant: Make, red: Red) -> None:
    model = plant()
    asked: list[int] = []
    model.register_forward_hook(lambda _m, inputs, _o: asked.append(len(inputs[0])))
    scorer = Scorer(model, graded(red), 1)
    scorer(strengths())
    first = sum(asked)
    scorer(torch.rand(4, 4))
    assert first == (2 + ORDERS) * (STEPS + 1) and sum(asked) - first == 2 * (STEPS + 1)


def test_steps_and_cells_are_bounded() -> None:
    assert covered_counts(4) == [0, 1, 2, 3, 4]
    counts = covered_counts(196)
    assert (counts[0], counts[-1], len(counts)) == (0, 196, STEPS + 1) and counts == sorted(set(counts))
    assert coarse(torch.rand(14, 14)).shape == (14, 14) and coarse(torch.rand(56, 8)).shape == (16, 8)
    assert area([1.0, 0.5, 0.0]) == 0.5 and area([1.0, 1.0]) == 1.0
    orders = random_orders(9, 3)
    assert len(orders) == ORDERS and all(sorted(order.tolist()) == list(range(9)) for order in orders)


def test_spearman_is_scipys() -> None:
    for _ in range(20):
        one, other = torch.randint(0, 6, (2, 4, 5)).float()
        assert spearman(one, other) == pytest.approx(spearmanr(one.flatten(), other.flatten()).statistic)
    assert ranks(torch.tensor([3.0, 1.0, 3.0])).tolist() == [0.5, -1.0, 0.5]


def test_spearman_of_what_has_no_order() -> None:
    flat, other = torch.ones(2, 2), torch.rand(2, 2)
    assert spearman(flat, flat) is None and spearman(flat, other) == 0.0
    assert spearman(other, torch.full((2, 2), torch.nan)) is None


def test_shuffling_keeps_each_tensors_values_and_the_model(every_model: Classifier) -> None:
    before = {name: tensor.clone() for name, tensor in every_model.state_dict().items()}
    twin = shuffled(every_model, 1)
    changed = 0
    for name, parameter in twin.named_parameters():
        assert torch.equal(parameter.flatten().sort().values, before[name].flatten().sort().values)
        changed += not torch.equal(parameter, before[name])
    assert changed >= 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in every_model.state_dict().items())
    again = shuffled(every_model, 1)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), again.parameters(), strict=True))


def test_a_map_of_the_picture_alone_fails_and_one_of_the_model_does_not(
    make: Make, pictures: torch.Tensor
) -> None:
    """The control: edges of the picture stay the same whatever the weights; Grad-CAM does not."""
    model = make("convmixer")
    edges = nn.functional.avg_pool2d(pictures.diff(dim=2).abs().mean(1), 4)

    def likeness(maps: Callable[[Classifier], torch.Tensor]) -> float:
        own = maps(model)
        rhos = [spearman(own[0], maps(shuffled(model, seed))[0]) for seed in range(3)]
        return sum(abs(rho) for rho in rhos if rho is not None) / 3

    targets = torch.tensor([0, 1, 2])
    assert likeness(lambda _model: edges) == pytest.approx(1.0)
    assert likeness(lambda one: grad_cam_maps(one, pictures, targets, {})[0].values) < MOST_ALIKE
    _, fails, data = judged(None, [1.0, 1.0, 1.0], blank=False)
    assert "shuffled weights: same map (1.00)" in fails and data["randomised"]["passed"] is False
    assert "one value everywhere" in fails


def test_shuffled_models_that_make_no_map_are_said(plant: Make, red: Red) -> None:
    faithful = Scorer(plant(scale=30.0, bias=-15.0), graded(red), 1)(strengths())
    lines, fails, data = judged(faithful, [None, None, None], blank=False)
    assert lines[-1] == ("with shuffled weights: no finite map to compare", False)
    assert fails == () and data["randomised"]["passed"] is None


def test_areas_that_differ_are_not_told_as_the_same() -> None:
    assert told_apart(0.42, 0.36, 0.49) == ("0.42", "0.36", "0.49")
    assert told_apart(0.18801, 0.1885, 0.1892) == ("0.1880", "0.1885", "0.1892")
    assert told_apart(0.5, 0.5, 0.5) == ("0.50", "0.50", "0.50")  # of a picture of one colour
