"""What a teacher sees, what it says, and whom it may teach."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from isopatch.errors import IsopatchError, UsageError
from isopatch.image.contract import HALF, IMAGENET_MEAN, IMAGENET_STD, InputContract
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.nn.classifier import Classifier
from isopatch.training.teacher import (
    as_seen_by,
    named_file,
    open_teacher,
    split_sources,
)

STUDENT = InputContract(height=8, width=8, crop_fraction=1.0)
CLASSES = ("ant", "bee", "cat")


def model(classes: tuple[str, ...] | None = CLASSES, *, name: str = "convmixer", seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    sizes = {"dim": 8, "depth": 1, "patch_size": 2, "image_size": 8, "num_classes": len(classes or CLASSES)}
    extra = {"kernel_size": 3} if name == "convmixer" else {"num_heads": 2, "init": "deit"}
    return build(make_spec(name, sizes | extra, classes=classes)).eval()


def saved(folder: Path, teacher: Classifier) -> str:
    save_model(folder, teacher, {})
    return str(folder)


def opened(sources: str, classes: tuple[str, ...] = CLASSES):
    return open_teacher(sources, classes, student=STUDENT, device="cpu", precision="fp32")


@pytest.mark.parametrize("name", ["convmixer", "vit"])
def test_answers_are_the_models_own(tmp_path: Path, name: str) -> None:
    teacher = model(name=name)
    x = torch.randn(4, 3, 8, 8)
    found = opened(saved(tmp_path / "t", teacher))
    with torch.no_grad():
        seen = as_seen_by(x, STUDENT, teacher.spec.input)
        torch.testing.assert_close(found.logits(x), teacher(seen), rtol=0, atol=0)
    (member,) = found.members
    assert not member.model.training
    assert not any(parameter.requires_grad for parameter in member.model.parameters())


def test_statistics_of_batchnorm_do_not_move(tmp_path: Path) -> None:
    found = opened(saved(tmp_path / "t", model()))
    before = {key: tensor.clone() for key, tensor in found.members[0].model.state_dict().items()}
    found.logits(5 + torch.randn(4, 3, 8, 8))
    after = found.members[0].model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_pictures_are_normalised_for_the_teacher() -> None:
    pixels = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    seen = as_seen_by((pixels - mean) / std, STUDENT, replace(STUDENT, mean=HALF, std=HALF))
    torch.testing.assert_close(seen, (pixels - 0.5) / 0.5, atol=1e-6, rtol=0)
    assert as_seen_by(pixels, STUDENT, STUDENT) is pixels


def test_pictures_are_resized_to_the_teachers_contract() -> None:
    x = torch.randn(2, 3, 8, 8)
    seen = as_seen_by(x, STUDENT, replace(STUDENT, height=16, width=12))
    assert seen.shape == (2, 3, 16, 12)
    torch.testing.assert_close(seen.mean((2, 3)), x.mean((2, 3)), atol=0.05, rtol=0)


def test_several_teachers_are_the_mean_of_their_probabilities(tmp_path: Path) -> None:
    teachers = [model(seed=seed) for seed in range(3)]
    sources = ",".join(saved(tmp_path / str(i), teacher) for i, teacher in enumerate(teachers))
    x = 3 * torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        seen = [as_seen_by(x, STUDENT, t.spec.input) for t in teachers]
        mean = torch.stack([t(s).softmax(-1) for t, s in zip(teachers, seen, strict=True)]).mean(0)
    torch.testing.assert_close(opened(sources).logits(x).softmax(-1), mean)


def test_classes_are_matched_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide = model(("cat", "dog", "ant", "bee"))
    x = torch.randn(4, 3, 8, 8)
    with caplog.at_level(logging.INFO, logger="isopatch"):
        found = opened(saved(tmp_path / "t", wide))
    assert "knows 4 classes; its logits of the data's 3 are taken, matched by name" in caplog.text
    with torch.no_grad():
        everything = wide(as_seen_by(x, STUDENT, wide.spec.input))
    assert torch.equal(found.logits(x), everything[:, [2, 3, 0]])


def test_other_classes_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "t", model(("ant", "bee", "dog")))
    with pytest.raises(UsageError, match=r"does not know 1 of the data's 3 classes \(cat\)"):
        opened(source)


def test_a_teacher_without_names_needs_as_many_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = saved(tmp_path / "t", model(None))
    with caplog.at_level(logging.WARNING, logger="isopatch"):
        opened(source)
    assert "does not name its classes" in caplog.text
    with pytest.raises(UsageError, match="has 3 classes without names, the data has 2"):
        opened(source, ("ant", "bee"))


@pytest.mark.parametrize("source", ["convmixer_768_32", "runs/nowhere", "convmixer_768_32=nowhere.pth"])
def test_an_untrained_or_absent_teacher_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match=r"^distill.teacher: "):
        opened(source)


def test_a_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "t", model())
    torch.save(model().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(IsopatchError):
        opened(f"cifar_resnet20={tmp_path / 'weights.pth'}")


def test_reading_of_sources(tmp_path: Path) -> None:
    assert split_sources("a, b") == ["a", "b"]
    with pytest.raises(UsageError, match="missing beside a comma"):
        split_sources("a,,b")
    assert named_file("cifar_resnet56=x/y.th") == ("cifar_resnet56", "x/y.th")
    assert named_file("runs/a=b") == (None, "runs/a=b")
    with pytest.raises(UsageError, match="unknown model"):
        named_file("cifar_resnet57=x/y.th")
