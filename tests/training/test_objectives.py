"""Every objective against NumPy, written out independently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from isopatch.training.config import ObjectiveConfig
from isopatch.training.distill_config import DistillConfig
from isopatch.training.objectives import (
    classification_loss,
    distillation_loss,
    feature_distillation,
    hard_distillation,
    labels_loss,
    soft_distillation,
)

B, K = 6, 7


def draw(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Class head, distillation head, teacher: (B, K) logits; targets: probabilities."""
    generator = torch.Generator().manual_seed(seed)
    cls, dist, teacher, raw = (3 * torch.randn(B, K, generator=generator) for _ in range(4))
    return cls, dist, teacher, raw.softmax(-1)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def numpy_terms(cls, taught, teacher, targets, tau: float) -> tuple[float, float, float]:
    """(label, hard, soft) losses; soft as the mean over the batch."""
    cls, taught, teacher, targets = (t.double().numpy() for t in (cls, taught, teacher, targets))
    label = -(targets * log_softmax(cls)).sum(axis=1).mean()
    hard = -log_softmax(taught)[np.arange(B), teacher.argmax(axis=1)].mean()
    p = np.exp(log_softmax(teacher / tau))
    soft = tau**2 * (p * (log_softmax(teacher / tau) - log_softmax(taught / tau))).sum(axis=1).mean()
    return label, hard, soft


@pytest.mark.parametrize(
    ("kind", "convention", "weights", "tau", "divisor"),
    [
        ("hard", "paper", (0.5, 0.5, 0.0), 3.0, 1),
        ("soft", "paper", (0.9, 0.0, 0.1), 3.0, 1),
        ("both", "paper", (0.4, 0.5, 0.1), 3.0, 1),
        ("hard", "deit-code", (0.5, 0.5, 0.0), 1.0, K),
        ("soft", "deit-code", (0.5, 0.0, 0.5), 1.0, K),
        ("hard", "timm", (1.0, 1.0, 0.0), 4.0, 1),
        ("soft", "timm", (1.0, 0.0, 1.0), 4.0, 1),
    ],
)
@pytest.mark.parametrize("token", [True, False])
def test_every_kind_and_convention_equals_numpy(kind, convention, weights, tau, divisor, token) -> None:
    cls, dist, teacher, targets = draw()
    heads = {"cls": cls, "dist": dist} if token else {"cls": cls}
    distill = DistillConfig(teacher="t", kind=kind, convention=convention)
    found = float(distillation_loss(heads, targets, teacher, ObjectiveConfig(), distill))
    label, hard, soft = numpy_terms(cls, dist if token else cls, teacher, targets, tau)
    expected = weights[0] * label + weights[1] * hard + weights[2] * soft / divisor
    assert found == pytest.approx(expected, rel=1e-6)
    swapped = float(distillation_loss(heads, targets, teacher.flip(0), ObjectiveConfig(), distill))
    assert swapped != pytest.approx(expected, rel=1e-4)  # control: another teacher, another loss


def test_given_weights_and_temperature_replace_the_conventions() -> None:
    cls, _, teacher, targets = draw(1)
    distill = DistillConfig(
        teacher="t", kind="both", temperature=2.0, label_weight=0.2, hard_weight=0.3, soft_weight=0.7
    )
    label, hard, soft = numpy_terms(cls, cls, teacher, targets, 2.0)
    found = float(distillation_loss({"cls": cls}, targets, teacher, ObjectiveConfig(), distill))
    assert found == pytest.approx(0.2 * label + 0.3 * hard + 0.7 * soft, rel=1e-6)


def test_patient_teaching_has_no_labels() -> None:
    cls, _, teacher, targets = draw(2)
    distill = DistillConfig(teacher="t", kind="soft", temperature=1.0, label_weight=0.0, soft_weight=1.0)
    losses = [
        float(distillation_loss({"cls": cls}, t, teacher, ObjectiveConfig(), distill))
        for t in (targets, targets.flip(0))
    ]
    assert losses[0] == losses[1] == pytest.approx(numpy_terms(cls, cls, teacher, targets, 1.0)[2], rel=1e-6)


def deit_losses_py(base: float, student_kd, teacher, *, kind: str, alpha: float, tau: float) -> float:
    """facebookresearch/deit's formula: KL summed over everything, divided by the number of logits."""
    s, t = (log_softmax(x.double().numpy() / (tau if kind == "soft" else 1.0)) for x in (student_kd, teacher))
    if kind == "soft":
        kd = (np.exp(t) * (t - s)).sum() * tau * tau / s.size
    else:
        kd = -s[np.arange(len(s)), t.argmax(axis=1)].mean()
    return base * (1 - alpha) + kd * alpha


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("seed", range(5))
def test_deit_code_equals_deits_formula(kind: str, seed: int) -> None:
    cls, dist, teacher, targets = draw(seed)
    base = float(classification_loss(cls.double(), targets.double(), ObjectiveConfig()))
    distill = DistillConfig(teacher="t", kind=kind, convention="deit-code")
    found = float(distillation_loss({"cls": cls, "dist": dist}, targets, teacher, ObjectiveConfig(), distill))
    assert found == pytest.approx(
        deit_losses_py(base, dist, teacher, kind=kind, alpha=0.5, tau=1.0), rel=1e-6
    )


def test_the_two_divisors_differ_by_the_number_of_classes() -> None:
    _, student, teacher, _ = draw()
    mean = soft_distillation(student, teacher, 3.0, per_class=False)
    torch.testing.assert_close(mean / K, soft_distillation(student, teacher, 3.0, per_class=True))


def test_soft_distillation_is_least_where_student_and_teacher_agree() -> None:
    _, student, teacher, _ = draw()
    assert float(soft_distillation(teacher + 5, teacher, 3.0, per_class=False)) == pytest.approx(0, abs=1e-6)
    assert float(soft_distillation(student, teacher, 3.0, per_class=False)) > 0.1
    assert (
        float(hard_distillation(100 * torch.nn.functional.one_hot(teacher.argmax(-1), K).float(), teacher))
        < 1e-6
    )


def test_gradients_reach_exactly_the_heads_that_are_taught() -> None:
    cls, dist, teacher, targets = draw()
    cases = {
        ("hard", None): (True, True),
        ("soft", 0.0): (
            False,
            True,
        ),  # the class head learns from labels alone: training refuses it
    }
    for (kind, label_weight), expected in cases.items():
        distill = DistillConfig(teacher="t", kind=kind, label_weight=label_weight)
        leaves = {"cls": cls.clone().requires_grad_(), "dist": dist.clone().requires_grad_()}
        distillation_loss(leaves, targets, teacher, ObjectiveConfig(), distill).backward()
        assert tuple(leaf.grad is not None for leaf in leaves.values()) == expected
    leaves = {"cls": cls.clone().requires_grad_(), "dist": dist.clone().requires_grad_()}
    labels_loss(leaves, targets, ObjectiveConfig()).backward()
    assert all(leaf.grad is not None for leaf in leaves.values())


@pytest.mark.parametrize("loss", ["cross-entropy", "binary-cross-entropy"])
def test_without_a_teacher_the_heads_losses_are_averaged(loss: str) -> None:
    cls, dist, _, targets = draw()
    heads = {"cls": cls, "dist": dist}
    goal = targets.double().numpy()
    if loss == "cross-entropy":
        terms = [-(goal * log_softmax(x.double().numpy())).sum(axis=1).mean() for x in heads.values()]
    else:  # every class that a target holds any of is fully there
        signs = np.where(goal > 0, 1.0, -1.0)
        terms = [np.log1p(np.exp(-signs * x.double().numpy())).mean() for x in heads.values()]
    found = float(labels_loss(heads, targets, ObjectiveConfig(loss=loss)))
    assert found == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (7, 5), (2, 3)])
def test_feature_distillation_equals_numpy_with_pillows_resampling(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, 4, 4, generator=generator)
    assert float(feature_distillation(student, student)) == 0
    teacher = torch.randn(2, 3, *size, generator=generator)
    wanted = np.stack(
        [
            [
                np.asarray(Image.fromarray(channel).resize((4, 4), Image.Resampling.BILINEAR))
                for channel in one
            ]
            for one in teacher.numpy()
        ]
    )
    expected = ((student.numpy() - wanted) ** 2).mean()
    assert float(feature_distillation(student, teacher)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "soft", "temperature": 0.0}, "greater than 0"),
        ({"kind": "hard", "temperature": 2.0}, "no effect with distill.kind hard"),
        ({"kind": "hard", "soft_weight": 0.5}, "distill.soft_weight has no effect"),
        ({"kind": "soft", "soft_weight": 0.0}, "every weight of the teacher is 0"),
        ({"feature_weight": 1.0, "cache": "c"}, "too large to keep"),
        ({"cache_top_k": 5}, "distill.cache_top_k has no effect without distill.cache"),
        ({"cache_tolerance": 0.1}, "distill.cache_tolerance has no effect without distill.cache"),
        ({"cache": "c", "cache_top_k": 5, "cache_tolerance": 0.1}, "no effect with distill.cache_top_k"),
    ],
)
def test_settings_that_could_do_nothing_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DistillConfig(teacher="t", **settings)
    if "temperature" not in settings or settings["temperature"]:
        with pytest.raises(ValidationError, match=r"without distill\.teacher"):
            DistillConfig(kind="soft")
