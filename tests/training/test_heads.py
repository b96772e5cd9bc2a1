"""What a student learned, against plain loops; the teacher as `evaluate` of it alone counts it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from isopatch.errors import IsopatchError
from isopatch.image.prepare import prepare
from isopatch.models.spec import build, make_spec
from isopatch.nn.skeleton import Isotropic
from isopatch.training.evaluate import Interrupted, evaluate
from isopatch.training.heads import TokenCosine, ask, evaluate_taught
from isopatch.training.teacher import Member, as_seen_by

CLASSES = ("ant", "bee", "cat", "dog")


@dataclasses.dataclass
class Pictures:
    """An image source: random pictures, each read counted."""

    count: int = 40
    classes: tuple[str, ...] = CLASSES
    fingerprint: str = "none"

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, len(self.classes), self.count)
        self.pixels = rng.integers(0, 256, (self.count, 20, 14, 3), dtype=np.uint8)
        self.reads = [0] * self.count

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"animals/{index}.png"

    def read(self, index: int) -> Image.Image:
        self.reads[index] += 1
        return Image.fromarray(self.pixels[index])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make(*, distilled: bool = True, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Isotropic:
    """A tiny DeiT for 8 x 8 pictures that predicts several classes."""
    return _strong(
        "deit",
        {"dim": 16, "depth": 3, "num_heads": 2, "patch_size": 4, "image_size": 8, "distilled": distilled},
        classes,
        seed,
    )


def make_teacher(classes: tuple[str, ...] = CLASSES, *, seed: int = 1) -> Isotropic:
    """A tiny ConvMixer with another input contract: 12 x 12, another crop."""
    arguments = {"dim": 16, "depth": 2, "kernel_size": 3, "patch_size": 2, "image_size": 12}
    model = _strong("convmixer", arguments, classes, seed)
    other = dataclasses.replace(model.spec.input, mean=(0.2, 0.5, 0.7), crop_fraction=0.7)
    model.spec = dataclasses.replace(model.spec, input=other)
    return model


def _strong(name: str, arguments: dict[str, object], classes: tuple[str, ...], seed: int) -> Isotropic:
    torch.manual_seed(seed)
    model = build(make_spec(name, {**arguments, "num_classes": len(classes)}, classes=classes))
    assert isinstance(model, Isotropic)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.4)
    return model.eval()


def run(model: Isotropic, source: Pictures, **options: object) -> dict[str, object]:
    told = evaluate_taught(model, source, model.spec.input, classes=CLASSES, **options).to_json()  # type: ignore[arg-type]
    json.dumps(told, allow_nan=False)
    return told


def tensors(model: Isotropic, source: Pictures) -> Tensor:
    return torch.stack([prepare(source.read(i), model.spec.input) for i in range(len(source))])


@torch.no_grad()
def by_hand(model: Isotropic, source: Pictures) -> dict[str, np.ndarray]:
    """Decisions, in one batch and without the house's evaluation."""
    images = tensors(model, source)
    heads = model(images, heads=True)
    found = {name: logits.argmax(dim=1).numpy() for name, logits in heads.items()}
    return {**found, "both": model(images).argmax(dim=1).numpy(), "truth": source.labels}


def test_the_evaluation_itself_is_the_same() -> None:
    model, source = make(), Pictures()
    plain = evaluate(model, source, model.spec.input, classes=CLASSES, batch_size=16).to_json()
    told = run(model, source, batch_size=16)
    assert told.pop("distillation")
    assert told == plain


@torch.no_grad()
def test_the_heads_are_exactly_the_models() -> None:
    model = make()
    images = tensors(model, Pictures())
    looked, forward = TokenCosine(model).heads(images), model(images, heads=True)
    assert list(looked) == list(forward)
    assert all(torch.equal(looked[name], forward[name]) for name in forward)


def test_accuracy_of_both_heads_and_both_means() -> None:
    model, source = make(), Pictures()
    told = run(model, source, batch_size=7)["distillation"]["heads"]  # type: ignore[index]
    with torch.no_grad():
        heads = {name: value.double() for name, value in model(tensors(model, source), heads=True).items()}
    labels = torch.from_numpy(source.labels)
    mean = (heads["cls"].softmax(1) + heads["dist"].softmax(1)) / 2
    expected = {
        "cls": heads["cls"].log_softmax(1),
        "dist": heads["dist"].log_softmax(1),
        "mean_of_logits": ((heads["cls"] + heads["dist"]) / 2).log_softmax(1),
        "mean_of_probabilities": mean.log(),
    }
    assert list(told) == list(expected)
    for name, logs in expected.items():
        right = int((logs.argmax(1) == labels).sum())
        assert told[name]["num_correct"] == right
        assert told[name]["top1"] == right / len(source)
        assert told[name]["nll"] == pytest.approx(float(nn.functional.nll_loss(logs, labels)), abs=1e-6)
    assert told["mean_of_logits"]["nll"] != pytest.approx(told["mean_of_probabilities"]["nll"], abs=1e-3)


def test_the_mean_of_probabilities_survives_hopeless_logits() -> None:
    model, source = make(), Pictures()
    for head in model.heads.values():
        for parameter in head.parameters():
            parameter.data *= 1e4  # softmax of these is exactly 0 for most classes
    told = run(model, source)["distillation"]["heads"]  # type: ignore[index]
    assert 100 < told["mean_of_probabilities"]["nll"] < 1e6


@torch.no_grad()
def test_cosines_are_those_of_the_two_tokens() -> None:
    model, source = make(), Pictures()
    told = run(model, source, batch_size=9)["distillation"]["token_cosine"]  # type: ignore[index]
    images = tensors(model, source)

    def mean_cosine(tokens: Tensor) -> float:
        first, second = tokens[:, 0].double().numpy(), tokens[:, 1].double().numpy()
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        return float(np.mean((first * second).sum(axis=1) / norms))

    depths = [mean_cosine(model.features(images, depth).tokens) for depth in range(4)]
    assert told["by_depth"] == pytest.approx(depths, abs=1e-6)
    assert told["after_norm"] == pytest.approx(mean_cosine(model.features(images).tokens), abs=1e-6)
    assert model.prefix is not None
    bare = model.prefix(1)
    assert told["learned"] == pytest.approx(mean_cosine(bare), abs=1e-6)
    # Negative controls: other tokens, and the input without positions, are something else.
    patches = model.features(images, 2).tokens[:, 1:]
    assert told["by_depth"][2] != pytest.approx(mean_cosine(patches), abs=1e-3)
    assert told["by_depth"][0] != pytest.approx(told["learned"], abs=1e-3)


def test_equal_tokens_have_cosine_one() -> None:
    model = make()
    assert model.prefix is not None
    assert model.prefix.dist_token is not None
    model.prefix.dist_token.data.copy_(model.prefix.cls_token.data)
    model.position.table.data[:, 1] = model.position.table.data[:, 0]  # type: ignore[union-attr, index, operator]
    told = run(model, Pictures())["distillation"]["token_cosine"]  # type: ignore[index]
    assert [told["learned"], *told["by_depth"], told["after_norm"]] == pytest.approx([1.0] * 6)


def test_the_teacher_counts_as_its_own_evaluation_does() -> None:
    student, teacher, source = make(), make_teacher(), Pictures()
    alone = evaluate(teacher, source, teacher.spec.input, classes=CLASSES)
    told = run(student, source, teacher=[Member(teacher, None, "runs/teacher")], batch_size=11)
    found = told["distillation"]["teacher"]  # type: ignore[index]
    assert found["source"] == "runs/teacher"
    assert found["num_correct"] == alone.scalars["num_correct"]
    for key in ("top1", "top5", "nll"):
        assert found[key] == pytest.approx(alone.scalars[key], abs=1e-6)
    # Negative control: the student's pictures, resampled for the teacher as in training, are other pictures.
    with torch.no_grad():
        seen = as_seen_by(tensors(student, source), student.spec.input, teacher.spec.input)
        logits = teacher(seen).double()
    taught = float(nn.functional.cross_entropy(logits, torch.from_numpy(source.labels)))
    assert found["nll"] != pytest.approx(taught, abs=1e-3)


def test_disagreement_and_comparison_are_those_of_the_decisions() -> None:
    student, teacher, baseline, source = make(), make_teacher(), make(distilled=False, seed=5), Pictures()
    told = run(
        student,
        source,
        teacher=[Member(teacher, None, "t")],
        baseline=[Member(baseline, None, "b")],
        batch_size=11,
    )["distillation"]
    decisions = by_hand(student, source) | {
        "teacher": by_hand(teacher, source)["both"],
        "baseline": by_hand(baseline, source)["both"],
    }
    table = told["disagreement"]  # type: ignore[index]
    assert table["voters"] == ["truth", "teacher", "baseline", "cls", "dist", "both"]
    for row, first in enumerate(table["voters"]):
        for column, second in enumerate(table["voters"]):
            differing = int((decisions[first] != decisions[second]).sum())
            assert table["differing"][row][column] == differing
    right, theirs = (decisions[who] == source.labels for who in ("both", "teacher"))
    compared = told["teacher"]["compared"]  # type: ignore[index]
    assert compared["only_student"] == int((right & ~theirs).sum())
    assert compared["only_other"] == int((~right & theirs).sum())
    assert compared["better"] == bool(right.sum() > theirs.sum())
    gains = {row["name"]: row["gain"] for row in told["baseline"]["gains"]}  # type: ignore[index]
    for label, name in enumerate(CLASSES):
        members = source.labels == label
        before = decisions["baseline"][members] == label
        assert gains[name] == pytest.approx(right[members].mean() - before.mean())


def test_a_teacher_that_knows_more_classes_is_matched_by_name() -> None:
    more = ("yak", "dog", "cat", "zebu", "bee", "ant")
    student, teacher, source = make(), make_teacher(more), Pictures()
    columns = torch.tensor([more.index(name) for name in CLASSES])
    told = run(student, source, teacher=[Member(teacher, columns, "t")])["distillation"]
    with torch.no_grad():
        logits = teacher(tensors(teacher, source))[:, columns]
    right = int((logits.argmax(1).numpy() == source.labels).sum())
    assert told["teacher"]["num_correct"] == right  # type: ignore[index]


def test_several_teachers_are_the_mean_of_their_probabilities() -> None:
    teachers, source = [make_teacher(), make(distilled=True, seed=7)], Pictures()
    opinion = ask(
        [Member(model, None, "t") for model in teachers],
        source,
        len(CLASSES),
        batch_size=16,
        workers=0,
        device="cpu",
        precision="fp32",
    )
    with torch.no_grad():
        shares = [model(tensors(model, source)).double().softmax(1) for model in teachers]
    mean = (shares[0] + shares[1]) / 2
    assert opinion.decisions.tolist() == mean.argmax(1).tolist()
    nll = float(nn.functional.nll_loss(mean.log(), torch.from_numpy(source.labels)))
    assert opinion.metrics.scalars()["nll"] == pytest.approx(nll, abs=1e-6)


def test_one_head_has_no_token_part_and_nothing_without_company() -> None:
    model, source = make(distilled=False), Pictures()
    assert "distillation" not in run(model, source)
    told = run(model, source, teacher=[Member(make_teacher(), None, "t")])["distillation"]
    assert set(told) == {"teacher", "disagreement"}  # type: ignore[call-overload]
    assert told["disagreement"]["voters"] == ["truth", "teacher", "student"]  # type: ignore[index]


def test_every_model_reads_every_picture_once() -> None:
    source = Pictures()
    run(make(), source, teacher=[Member(make_teacher(), None, "t")], gallery=0)
    assert source.reads == [2] * len(source)


def test_batch_size_and_workers_change_no_count() -> None:
    student, teacher = make(), [Member(make_teacher(), None, "t")]
    results = [
        run(student, Pictures(), teacher=teacher, **options)["distillation"]
        for options in ({"batch_size": 40}, {"batch_size": 3}, {"batch_size": 8, "workers": 2})
    ]
    tables = [told["disagreement"] for told in results]  # type: ignore[index]
    assert tables[0] == tables[1] == tables[2]
    cosines = [told["token_cosine"]["by_depth"] for told in results]  # type: ignore[index]
    assert cosines[1] == pytest.approx(cosines[0])
    assert cosines[2] == pytest.approx(cosines[0])


def test_stop_reaches_the_teacher() -> None:
    source, asked = Pictures(), []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == 6  # four batches of the student, then the teacher's second

    student, teacher = make(), make_teacher()
    with pytest.raises(Interrupted):
        run(student, source, teacher=[Member(teacher, None, "t")], batch_size=10, stop=stop)
    assert len(asked) == 6


def test_a_broken_teacher_is_named_with_the_picture() -> None:
    teacher = make_teacher()
    next(iter(teacher.heads.parameters())).data.fill_(float("nan"))
    with pytest.raises(IsopatchError, match=r"animals/0\.png, runs/broken: the model's output is not finite"):
        run(make(), Pictures(), teacher=[Member(teacher, None, "runs/broken")])
