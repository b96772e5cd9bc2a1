"""`isopatch eval --probe` end to end: features as the model computes them, kept, and never mixed up."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isopatch import api
from isopatch.cli import main
from isopatch.data.loader import eval_batches
from isopatch.data.open import open_data
from isopatch.errors import IsopatchError, UsageError
from isopatch.models.load import load
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.probes.features import features_of, weights_digest

CONVMIXER: dict[str, Any] = {"dim": 16, "depth": 1, "kernel_size": 3, "patch_size": 1, "image_size": 8}
DEIT: dict[str, Any] = {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": 8}


def model_of(name: str, arguments: dict[str, Any], seed: int = 0, classes: int = 10):
    torch.manual_seed(seed)
    names = tuple("0123456789"[:classes])
    return build(make_spec(name, {**arguments, "num_classes": classes}, classes=names)).eval()


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model", model_of("convmixer", CONVMIXER, classes=3))
    return tmp_path / "model"


def test_features_are_what_the_head_reads() -> None:
    test = open_data("digits").test
    assert test is not None
    for name, arguments in (("convmixer", CONVMIXER), ("deit", {**DEIT, "distilled": True})):
        model = model_of(name, arguments)
        indices = np.array([0, 5, 17, 200])
        found = features_of(model, test, model.spec.input, indices, batch_size=3)
        (batch,) = eval_batches(test, model.spec.input, batch_size=4, indices=indices)
        with torch.no_grad():
            pooled = model.pooled(batch.images)
            logits = model(batch.images)
        assert pooled.shape[1] == (2 if name == "deit" else 1)
        np.testing.assert_allclose(found.values, pooled.mean(dim=1).numpy(), atol=1e-6)
        if name == "convmixer":
            again = model.heads["cls"](torch.from_numpy(found.values))
            torch.testing.assert_close(again, logits, atol=1e-5, rtol=1e-5)
        assert np.array_equal(found.take(np.array([17, 0])), found.values[[2, 0]])
        with pytest.raises(AssertionError):
            found.take(np.array([18]))


def test_broken_weights_name_the_picture() -> None:
    test = open_data("digits").test
    model = model_of("convmixer", CONVMIXER)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    assert test is not None
    with pytest.raises(IsopatchError, match=r"digits:\d+: the model's features are not finite"):
        features_of(model, test, model.spec.input, np.arange(2), batch_size=2)


def test_the_digest_is_of_the_weights() -> None:
    first, same, other = model_of("convmixer", CONVMIXER), model_of("convmixer", CONVMIXER), None
    assert weights_digest(first) == weights_digest(same)
    other = model_of("convmixer", CONVMIXER, seed=1)
    assert weights_digest(first) != weights_digest(other)


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(["eval", *arguments]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


COMMAND = ("model", "--data", "digits", "--probe", "few-shot,knn,ridge", "--shots", "1,5", "--probe-k", "1,5")


def test_the_command_on_other_classes_than_the_models(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three classes were trained, ten are probed: random features of digits are already worth something."""
    out, err = run(capsys, *COMMAND, "--json")
    document = json.loads(out)
    assert document["classes"] == 10 and document["num_images"] == 359 and document["num_train"] == 1438
    assert document["features"] == {"dim": 16, "computed": 1438 + 359, "kept": []}
    assert "not kept" in err
    rows = document["probes"]
    assert list(rows) == ["few-shot", "knn", "ridge"]
    assert [len(row["draws"]) for row in rows["few-shot"]] == [3] * 4
    assert rows["ridge"][0]["top1"] > 0.5 and rows["few-shot"][1]["top1"] > rows["few-shot"][0]["top1"]
    python = api.probe("model", "digits", probes=["few-shot", "knn", "ridge"], shots=[5, 1], ks=[1, 5])
    assert python["probes"] == rows
    text, _ = run(capsys, *COMMAND)
    assert "few-shot  vit, 5 of each class" in text and "(3 draws)" in text and "k = 5" in text


def test_features_are_kept_and_never_mixed_up(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="isopatch")
    command = (*COMMAND, "--probe-cache", "kept", "--json")
    first = json.loads(run(capsys, *command)[0])
    second = json.loads(run(capsys, *command)[0])
    assert first["features"]["computed"] == 1797 and second["features"]["computed"] == 0
    assert second["probes"] == first["probes"] and len(second["features"]["kept"]) == 2
    # Few-shot alone takes what is there for all pictures.
    few = api.probe("model", "digits", probes=["few-shot"], shots=[1, 5], cache="kept")
    assert few["features"]["computed"] == 0 and few["probes"]["few-shot"] == first["probes"]["few-shot"]

    damaged = Path(second["features"]["kept"][1])
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 64
    damaged.write_bytes(content)
    caplog.clear()
    third = json.loads(run(capsys, *command)[0])
    assert third["features"]["computed"] == 359 and third["probes"] == first["probes"]
    assert "damaged (its content is not what was written)" in caplog.text

    save_model(checkpoint.parent / "other", model_of("convmixer", CONVMIXER, seed=1, classes=3))
    caplog.clear()
    other = api.probe("other", "digits", probes=["knn"], ks=[1], cache="kept")
    assert other["features"]["computed"] == 1797 and "are of other weights: computed anew" in caplog.text
    # The same weights behind another activation are another model, whose features are others.
    save_model(
        checkpoint.parent / "relu", model_of("convmixer", {**CONVMIXER, "activation": "relu"}, classes=3)
    )
    twin, own = load("relu"), load("model")
    assert weights_digest(twin) == weights_digest(own)
    caplog.clear()
    other = api.probe("relu", "digits", probes=["knn"], ks=[1], cache="kept")
    assert other["features"]["computed"] == 1797 and "are of other model: computed anew" in caplog.text
    caplog.clear()
    options: dict[str, Any] = {"cache": "kept", "precision": "bf16", "kernels": "plain"}
    again = api.probe("model", "digits", probes=["knn"], ks=[1], **options)
    assert again["features"]["computed"] == 1797 and "are of other precision" in caplog.text


def test_few_shots_compute_only_what_they_need(checkpoint: Path) -> None:
    options: dict[str, Any] = {"shots": [1], "seeds": 2, "settings": ["big_vision"]}
    found = api.probe("model", "digits", probes=["few-shot"], **options)
    assert 10 <= found["features"]["computed"] - 359 <= 20
    full = api.probe("model", "digits", probes=["few-shot", "knn"], ks=[1], **options)
    assert full["probes"]["few-shot"] == found["probes"]["few-shot"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--probe", "few_shot"], "--probe few_shot: there are few-shot, knn, .*did you mean 'few-shot'"),
        (["--probe", ","], "name at least one"),
        (["--probe", "knn", "--shots", "0"], "--shots: give numbers"),
        (["--probe", "knn", "--shots", "1;5"], "--shots 1;5: give whole numbers"),
        (["--probe", "knn", "--probe-k", "0,1"], "--probe-k: give numbers"),
        (["--probe", "few-shot", "--shots", "500"], "class '0' has 142 training pictures; give fewer"),
        (["--probe", "knn", "--split", "train"], "the probes learn from it"),
        (["--probe", "knn", "--probe-cache", "file"], "--probe-cache file: is a file"),
        (["--probe", "knn", "--min-acc", "0.5"], "--min-acc has no meaning with --probe"),
        (["--probe", "knn", "--sizes", "8"], "ask for one of them"),
        (["--probe", "knn", "--plot", "a.png"], "--plot says something about --sizes"),
        (["--shots", "5"], "--shots says something about --probe"),
    ],
)
def test_refused(
    options: list[str], message: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    _, err = run(capsys, "model", "--data", "digits", *options, code=2)
    assert err.splitlines()[-1].startswith("isopatch: error: ")
    import re

    assert re.search(message, err), err


def test_data_without_training_pictures(checkpoint: Path) -> None:
    from PIL import Image

    for name in ("0", "1"):
        folder = Path("only") / "test" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "a.png")
    with pytest.raises(UsageError, match="has no training split for a probe"):
        api.probe("model", "only", probes=["knn"])


def test_another_librarys_model(tmp_path: Path) -> None:
    """No network of ours: what timm's own feature call returns is what is probed."""
    import timm

    torch.manual_seed(0)
    spec = make_spec("timm:test_vit", {"image_size": 32, "num_classes": 10})
    save_model(tmp_path / "vit", build(spec).eval())
    model = load(tmp_path / "vit")
    test = open_data("digits").test
    assert test is not None
    found = features_of(model, test, model.spec.input, np.arange(5), batch_size=5)
    peer = timm.create_model("test_vit", num_classes=10, img_size=32).eval()
    state = {k.removeprefix("peer."): v for k, v in model.state_dict().items() if k.startswith("peer.")}
    assert set(peer.state_dict()) - set(state) == {"head.weight", "head.bias"}
    peer.load_state_dict(state, strict=False)
    (batch,) = eval_batches(test, model.spec.input, batch_size=5, indices=np.arange(5))
    with torch.no_grad():
        expected = peer.forward_head(peer.forward_features(batch.images), pre_logits=True)
    np.testing.assert_allclose(found.values, expected.numpy(), atol=1e-5)
    probed = api.probe(tmp_path / "vit", "digits", probes=["knn"], ks=[1])
    assert probed["probes"]["knn"][0]["top1"] > 0.5
