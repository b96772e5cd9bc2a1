"""A teacher's answers as bytes and back."""

from __future__ import annotations

import pytest
import torch

from isopatch.training.answer_coding import EXACT_CLASSES, AnswerCoding, choose_coding
from isopatch.training.objectives import hard_distillation, soft_distillation


def answers(pictures: int, classes: int, *, sharpness: float = 4.0, seed: int = 0) -> torch.Tensor:
    return sharpness * torch.randn(pictures, classes, generator=torch.Generator().manual_seed(seed))


def test_few_classes_are_kept_to_the_bit() -> None:
    logits = answers(5, 10)
    coding = choose_coding(logits, temperature=3.0, top_k=None, tolerance=0.01)
    body = coding.encode(logits)
    assert len(body) == coding.size(5) == 200
    assert torch.equal(coding.decode(body, 5), logits)


@pytest.mark.parametrize("tolerance", [0.05, 0.01])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_chosen_number_keeps_the_loss_within_the_tolerance(tolerance: float, temperature: float) -> None:
    logits = answers(64, 1000, sharpness=6.0)
    student = answers(64, 1000, sharpness=1.0, seed=1)
    coding = choose_coding(logits, temperature=temperature, top_k=None, tolerance=tolerance)
    decoded = coding.decode(coding.encode(logits), 64)
    assert coding.size(64) == len(coding.encode(logits))
    blind = float(loss_of(torch.zeros_like(logits), logits, temperature))

    def moved(students: torch.Tensor, answers: torch.Tensor) -> float:
        return (
            abs(float(loss_of(students, answers, temperature) - loss_of(students, logits, temperature)))
            / blind
        )

    # From a student that knows nothing to one that answers as the teacher does.
    for share in (0.0, 0.3, 0.7, 1.0):
        assert moved(share * logits, decoded) <= tolerance * (1 + 1e-4)
    for distance in (0.1, 1.0):  # and around it
        near = logits + distance * answers(64, 1000, sharpness=1.0, seed=2)
        assert moved(near, decoded) <= 2 * tolerance
    assert float(hard_distillation(student, decoded)) == float(hard_distillation(student, logits))
    crude = AnswerCoding(1000, 1, temperature)  # control: fewer logits, a larger error
    assert moved(logits, crude.decode(crude.encode(logits), 64)) > 2 * tolerance


def loss_of(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    return soft_distillation(student.double(), teacher.double(), temperature, per_class=False)


def test_what_the_coding_moves_is_the_larger_of_two_students_errors() -> None:
    logits = answers(16, 300, sharpness=5.0)
    coding = AnswerCoding(300, 8, 2.0)
    decoded = coding.decode(coding.encode(logits), 16)
    blind = torch.zeros_like(logits)
    whole = loss_of(blind, logits, 2.0)
    errors = [(loss_of(s, decoded, 2.0) - loss_of(s, logits, 2.0)).abs() / whole for s in (blind, logits)]
    assert coding.loss_moved(logits) == pytest.approx(float(max(errors)), rel=1e-3)


def test_more_is_kept_for_flat_answers_than_for_sharp_ones() -> None:
    sharp, flat = (
        choose_coding(answers(32, 1000, sharpness=s), temperature=1.0, top_k=None, tolerance=0.01)
        for s in (20.0, 5.0)
    )
    assert sharp.kept < flat.kept < 1000


def test_the_rest_keeps_its_share_of_the_probability() -> None:
    logits = answers(8, 200, sharpness=2.0)
    coding = AnswerCoding(200, 8, 3.0)
    decoded = coding.decode(coding.encode(logits), 8)
    top = logits.topk(8, dim=-1).indices
    before, after = ((t / 3.0).softmax(-1).gather(-1, top).sum(-1) for t in (logits, decoded))
    torch.testing.assert_close(before, after, atol=1e-3, rtol=0)


def test_a_number_that_is_asked_for_is_taken() -> None:
    logits = answers(4, 1000)
    assert choose_coding(logits, temperature=1.0, top_k=5, tolerance=0.0).kept == 5
    assert choose_coding(logits, temperature=1.0, top_k=1000, tolerance=0.0).temperature is None
    assert choose_coding(answers(4, EXACT_CLASSES), temperature=1.0, top_k=5, tolerance=0.0).kept == 5


@pytest.mark.parametrize("kept", [1, 8])
def test_what_is_decided_for_survives_the_rounding(kept: int) -> None:
    logits = answers(8, 100, sharpness=0.01)
    logits[:, 70] = logits.max(dim=-1).values + 1e-5  # no float16 tells this from the next
    coding = AnswerCoding(100, kept, 1.0)
    body = coding.encode(logits)
    assert coding.decode(body, 8).argmax(dim=-1).tolist() == [70] * 8
