"""Evaluation of real models on pictures in memory: invariance, heads, mistakes, interruption."""

from __future__ import annotations

import base64
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from isopatch.errors import IsopatchError, UsageError
from isopatch.image.contract import InputContract
from isopatch.models.spec import build, make_spec
from isopatch.nn.skeleton import Isotropic
from isopatch.training.evaluate import Evaluation, Interrupted, evaluate, evaluation_mode

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


@dataclasses.dataclass
class Pictures:
    """An image source: random pictures, each read counted."""

    count: int = 37
    side: int = 12
    classes: tuple[str, ...] = CLASSES
    fingerprint: str = "none"

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, len(self.classes), self.count)
        self.pixels = rng.integers(0, 256, (self.count, self.side, self.side, 3), dtype=np.uint8)
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


def make(name: str = "convmixer", **changes: object) -> Isotropic:
    """A tiny model that predicts several classes."""
    sizes = {
        "convmixer": {"dim": 16, "depth": 2, "kernel_size": 3, "patch_size": 2},
        "deit_tiny_distilled_patch16_224": {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4},
    }[name]
    torch.manual_seed(0)
    model = build(make_spec(name, {**sizes, "image_size": 8, "num_classes": len(CLASSES), **changes}))
    for parameter in model.parameters():
        if parameter.ndim > 1:  # strong enough that pictures get different classes
            nn.init.normal_(parameter, std=0.5)
    return model


def run(model: Isotropic, source: Pictures, **options: object) -> Evaluation:
    return evaluate(model, source, model.spec.input, classes=CLASSES, **options)  # type: ignore[arg-type]


def test_batch_size_and_workers_change_nothing() -> None:
    model = make()
    whole = run(model, Pictures(), batch_size=100).to_json()
    for options in ({"batch_size": 1}, {"batch_size": 7}, {"batch_size": 5, "workers": 2}):
        other = run(model, Pictures(), **options).to_json()
        for key in ("num_images", "num_correct", "top1", "top5", "confusion", "per_class"):
            assert other[key] == whole[key], key
        for key in ("nll", "ece", "brier"):
            assert other[key] == pytest.approx(whole[key], abs=1e-6)
        assert [m["name"] for m in other["mistakes"]] == [m["name"] for m in whole["mistakes"]]


def test_agrees_with_a_plain_loop() -> None:
    model, source = make().eval(), Pictures()
    from isopatch.image.prepare import prepare

    with torch.no_grad():
        images = torch.stack([prepare(source.read(i), model.spec.input) for i in range(len(source))])
        logits = model(images).double()
    labels = torch.from_numpy(source.labels)
    result = run(model, source, batch_size=8)
    assert result.scalars["num_correct"] == int((logits.argmax(dim=1) == labels).sum())
    assert result.nll == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), abs=1e-6)
    assert result.top5 == pytest.approx(
        float((logits.topk(5).indices == labels[:, None]).any(1).double().mean())
    )


def test_every_picture_is_counted_once() -> None:
    source = Pictures(count=10)
    result = run(make(), source, batch_size=4, gallery=0)
    assert source.reads == [1] * 10
    assert result.scalars["num_images"] == sum(map(sum, result.to_json()["confusion"])) == 10
    assert result.to_json()["mistakes"] == []


@pytest.mark.parametrize("training", [True, False])
def test_training_flags_are_what_they_were(training: bool) -> None:
    model = make().train(training)
    model.blocks[0].eval()  # a frozen part
    before = [module.training for module in model.modules()]
    run(model, Pictures())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("inside")
    assert [module.training for module in model.modules()] == before


def test_nothing_global_changes() -> None:
    model = make("deit_tiny_distilled_patch16_224", drop_path=0.5).train()
    buffers = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    run(model, Pictures(), workers=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, buffers[name]) for name, value in model.state_dict().items())


def test_heads_are_counted_one_by_one() -> None:
    model, source = make("deit_tiny_distilled_patch16_224").eval(), Pictures()
    result = run(model, source, batch_size=10).to_json()
    from isopatch.image.prepare import prepare

    with torch.no_grad():
        images = torch.stack([prepare(source.read(i), model.spec.input) for i in range(len(source))])
        heads = {name: logits.argmax(dim=1).numpy() for name, logits in model(images, heads=True).items()}
        mean = model(images).argmax(dim=1).numpy()
    assert result["top1"] == np.mean(mean == source.labels)
    assert set(result["heads"]) == {"cls", "dist", "agreement"}
    for name, predictions in heads.items():
        assert result["heads"][name]["num_correct"] == int((predictions == source.labels).sum())
    assert result["heads"]["agreement"] == np.mean(heads["cls"] == heads["dist"])
    assert 0 < result["heads"]["agreement"] < 1  # else this test shows nothing


def test_one_head_reports_no_heads() -> None:
    assert "heads" not in run(make(), Pictures()).to_json()


def test_mistakes_are_the_most_confident_ones() -> None:
    source = Pictures(count=80, side=300)
    result = run(make(), source, batch_size=9, gallery=100).to_json()
    shown = [mistake["confidence"] for mistake in result["mistakes"]]
    assert len(shown) == 24
    assert shown == sorted(shown, reverse=True)
    assert all(mistake["label"] != mistake["prediction"] for mistake in result["mistakes"])
    everything = run(make(), source, batch_size=80, gallery=24).to_json()["mistakes"]
    assert [mistake["name"] for mistake in everything] == [mistake["name"] for mistake in result["mistakes"]]
    header, content = result["mistakes"][0]["thumbnail"].split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert header == "data:image/png;base64"
    assert picture.format == "PNG"
    assert picture.size == (96, 96)


def test_small_pictures_keep_their_size() -> None:
    result = run(make(), Pictures(side=8), gallery=1).to_json()
    content = result["mistakes"][0]["thumbnail"].split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (8, 8)


def test_the_result_is_json() -> None:
    class Odd(Pictures):
        def name(self, index: int) -> str:
            return f"caf\udce9/{index}.png"

    text = json.dumps(run(make(), Odd()).to_json(), allow_nan=False, ensure_ascii=False)
    assert "caf\\\\xe9" in text
    text.encode("utf-8")  # a lone surrogate would fail here


def test_stop_interrupts_between_batches() -> None:
    source, asked = Pictures(count=30), []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == 3

    model = make().train()
    with pytest.raises(Interrupted):
        run(model, source, batch_size=5, stop=stop)
    assert len(asked) == 3
    assert sum(source.reads) == 15  # the third batch was read, not used
    assert model.training


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    run(make(), Pictures(count=10), batch_size=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_a_broken_model_names_the_picture() -> None:
    class NotFinite(Pictures):
        def name(self, index: int) -> str:
            return f"picture {index}"

    model = make()
    nn.init.constant_(next(iter(model.heads.parameters())), float("nan"))
    with pytest.raises(IsopatchError, match="picture 0: the model's output is not finite"):
        run(model, NotFinite())


@pytest.mark.parametrize(
    ("source", "classes", "message"),
    [
        (Pictures(count=0), CLASSES, "empty"),
        (Pictures(), CLASSES[::-1], "not in its order"),
        (Pictures(classes=CLASSES[:4]), CLASSES, "4 classes are not the model's 6"),
        (Pictures(classes=CLASSES[:4]), CLASSES[:4], "6 outputs for 4 class names"),
    ],
)
def test_what_does_not_fit_is_refused(source: Pictures, classes: tuple[str, ...], message: str) -> None:
    model = make()
    with pytest.raises(UsageError, match=message):
        evaluate(model, source, model.spec.input, classes=classes)


def test_precision_is_checked_and_used() -> None:
    model, source = make(), Pictures()
    with pytest.raises(UsageError, match="fp8"):
        run(model, source, precision="fp8")
    plain, half = run(model, source), run(model, source, precision="bf16")
    assert half.nll != plain.nll
    assert half.nll == pytest.approx(plain.nll, rel=0.1)


def test_the_contract_decides_the_input() -> None:
    model, source = make(), Pictures()
    other = InputContract(height=8, width=8, mean=(0.1, 0.1, 0.1), crop_fraction=1.0)
    assert evaluate(model, source, other, classes=CLASSES).nll != run(model, source).nll
