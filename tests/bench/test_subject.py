"""The measured model: weights that behave like trained ones, pictures and labels from a seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isopatch.bench import subject as module
from isopatch.bench.subject import CHECKED, Subject, open_subject, settle
from isopatch.errors import UsageError
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec

DEEP = {"dim": 16, "depth": 24, "kernel_size": 3, "patch_size": 4, "image_size": 32, "num_classes": 10}
SMALL = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 4, "image_size": 16, "num_classes": 5}


def differences(subject: Subject) -> float:
    """How much logits depend on the picture, beside their size."""
    logits = subject.logits
    return float((logits - logits.mean(0)).norm() / logits.norm())


def test_a_deep_convmixer_answers_to_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert differences(open_subject("convmixer", arguments=DEEP)) > 0.05
    # The control: as PyTorch initialises it, nothing of a picture reaches the logits.
    monkeypatch.setattr(module, "settle", lambda model, seed: None)
    assert differences(open_subject("convmixer", arguments=DEEP)) < 1e-3


def test_nothing_that_would_hide_an_error_stays() -> None:
    torch.manual_seed(0)
    model = build(
        make_spec("deit3_small_patch16_224", {"depth": 2, "dim": 32, "num_heads": 2, "image_size": 32})
    )
    scales = [value for name, value in model.named_parameters() if name.endswith("scale")]
    assert scales and max(float(scale.detach().abs().max()) for scale in scales) < 1e-3
    settle(model, 0)
    assert all(float(scale.detach().mean()) == pytest.approx(0.1, rel=0.01) for scale in scales)
    assert all(value.detach().any() for value in model.parameters() if value.dim() > 1)


def test_the_same_seed_gives_the_same_weights_pictures_and_labels() -> None:
    first, again, other = (open_subject("convmixer", arguments=SMALL, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.logits, again.logits) and not torch.equal(first.logits, other.logits)
    assert torch.equal(first.labels(9), again.labels(9)) and int(first.labels(99).max()) < 5
    assert torch.equal(first.pictures(7)[:CHECKED], first.pictures(7)[:CHECKED])


def test_opening_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    open_subject("convmixer", arguments=SMALL)
    assert torch.equal(before, torch.random.get_rng_state())


def test_dropout_is_off_so_that_two_steps_are_the_same() -> None:
    sizes = {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "image_size": 16, "num_classes": 5}
    subject = open_subject("deit", arguments={**sizes, "drop_path": 0.5, "dropout": 0.5})
    assert (subject.spec.arguments["drop_path"], subject.spec.arguments["dropout"]) == (0.0, 0.0)
    first = subject.gradients(6)
    subject._gradients.clear()
    assert all(torch.equal(first[name], value) for name, value in subject.gradients(6).items())


def test_gradients_leave_the_model_as_it_was() -> None:
    subject = open_subject("convmixer", arguments=SMALL)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    assert set(subject.gradients(6)) == set(dict(subject.model.named_parameters()))
    assert all(torch.equal(before[name], value) for name, value in subject.model.state_dict().items())
    assert not subject.model.training


def test_a_checkpoint_keeps_its_weights_and_has_no_published_accuracy(tmp_path: Path) -> None:
    trained = open_subject("convmixer", arguments=SMALL, seed=5).model
    save_model(tmp_path / "weights", trained)
    subject = open_subject(str(tmp_path / "weights"), seed=1)
    assert all(
        torch.equal(value, trained.state_dict()[name]) for name, value in subject.model.state_dict().items()
    )
    assert subject.accuracy == []


def test_accuracy_belongs_to_the_published_size_alone() -> None:
    assert open_subject("convmixer_256_8_ks5_p2").accuracy[0]["top1"] == 92.6
    assert open_subject("convmixer_256_8_ks5_p2", arguments={"kernel_size": 3}).accuracy == []


def test_layouts_are_tried_where_more_than_the_stem_convolves(
    subject: Subject, deit_subject: Subject
) -> None:
    assert subject.layouts == ("nchw", "channels_last")
    assert deit_subject.layouts == ("nchw",)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'vit_tiny'"):
        open_subject("vit_tny")


def test_the_weights_are_numbers_that_bf16_has() -> None:
    subject = open_subject("convmixer", arguments=DEEP)
    assert all(torch.equal(value, value.bfloat16().float()) for value in subject.model.parameters())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = subject.model(subject.pictures(CHECKED)).float()
    # After 48 convolutions with BatchNorm, rounding is still rounding.
    assert float((rounded - subject.logits).norm() / subject.logits.norm()) < 0.03
