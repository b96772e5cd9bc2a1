"""The comparison of logits: what it says, what it notices, and that it is a gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isopatch import UsageError, cli, convert
from isopatch.conversion import peers
from isopatch.conversion.compare import Distance
from isopatch.conversion.pictures import GeneratedPictures
from isopatch.models.save import save_model

Source = Callable[..., Path]


def rows(check: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {row["setting"]: (row["ours"], row["theirs"]) for row in check["settings"]}


@pytest.mark.parametrize(
    ("name", "to", "place", "whose"),
    [
        ("deit_tiny_distilled", "timm", "out", "timm"),
        ("convmixer", "timm", "out.safetensors", "timm"),
        ("gmlp", "timm", "out.pth", "timm"),
        ("deit3_small", "deit", "out.pth", "timm"),
        ("resmlp", "deit", "out.pth", "timm"),
        ("vit", "npz", "out.npz", "timm"),
        ("mlp_mixer", "npz", "out.npz", "isopatch"),
        ("deit_tiny_distilled", "transformers", "out", "transformers"),
        ("metaformer", "isopatch", "out", "isopatch"),
    ],
)
def test_the_other_projects_code_says_the_same(
    tmp_path: Path, source: Source, name: str, to: str, place: str, whose: str
) -> None:
    report = convert(source(name), tmp_path / place, to=to, check=True)
    check = report["check"]
    assert check["theirs"].startswith(whose) and check["theirs"].endswith(str(tmp_path / place))
    assert check["passed"] and check["relative_error"] <= 1e-5 and check["top1_agreement"] == 1.0
    assert (check["num_pictures"], check["pictures"]) == (8, "8 generated pictures")
    assert not {"activation", "LayerNorm eps", "heads"} & set(check["differing_settings"])
    if "distilled" in name:
        assert rows(check)["heads"] == ("mean of 2 heads' logits", "mean of 2 heads' logits")
    assert (tmp_path / place).exists()


def test_a_setting_that_explains_the_difference_is_named(tmp_path: Path, source: Source) -> None:
    folder = source("vit", norm_eps=0.1)
    report = convert(folder, tmp_path / "out", to="timm", check=True)
    check = report["check"]
    assert not check["passed"] and not report["passed"]
    assert check["differing_settings"] == ["LayerNorm eps"]
    assert rows(check)["LayerNorm eps"] == (0.1, 1e-6)
    assert not (tmp_path / "out").exists()
    report = convert(folder, tmp_path / "out", to="timm", check=True, tolerance=10.0)
    assert report["passed"] and (tmp_path / "out").is_dir()


def test_the_two_forms_of_gelu_are_told_apart(tmp_path: Path, source: Source) -> None:
    folder = source("vit", activation="gelu_tanh")
    other = tmp_path / "erf"
    from isopatch.models.load import load

    model = load(folder, arguments={"activation": "gelu"})
    save_model(other, model)
    check = convert(folder, tmp_path / "out", to="isopatch", against=other)["check"]
    assert rows(check)["activation"] == ("gelu_tanh", "gelu")
    assert check["differing_settings"] == ["activation"]
    assert 1e-6 < check["relative_error"] < 1e-2


def test_another_checkpoint_and_its_input_settings(tmp_path: Path, source: Source, make: Any) -> None:
    folder = source("vit")
    save_model(tmp_path / "other", make("vit", input={"crop_fraction": 0.5, "mean": (0.5, 0.5, 0.5)}))
    check = convert(folder, tmp_path / "out", to="timm", against=tmp_path / "other")["check"]
    assert check["passed"] and check["max_error"] == 0.0  # the same tensor through the same weights
    assert check["differing_settings"] == ["input crop_fraction", "input mean"]
    assert check["own_input"]["max_error"] > 0  # each prepares the pictures its own way
    wrong = make("vit")
    wrong.heads["cls"].linear.bias.data[1] += 1.0
    save_model(tmp_path / "wrong", wrong)
    check = convert(folder, tmp_path / "out2", to="timm", against=str(tmp_path / "wrong"))["check"]
    assert not check["passed"] and check["max_error"] == pytest.approx(1.0)
    save_model(tmp_path / "more", _with_classes(make, 4))
    with pytest.raises(UsageError, match="has 4 classes, the model compared with it 3"):
        convert(folder, tmp_path / "out3", to="timm", against=tmp_path / "more")
    assert not (tmp_path / "out3").exists()


def _with_classes(make: Any, count: int) -> Any:
    from isopatch.models.spec import build, make_spec

    spec = make("vit").spec
    return build(make_spec("vit", {**spec.arguments, "num_classes": count}))


def test_a_bare_file_is_read_as_the_sources_model(tmp_path: Path, source: Source) -> None:
    folder = source("deit3_small")
    convert(folder, tmp_path / "weights.pth", to="deit")
    check = convert(folder, tmp_path / "out", to="isopatch", against=tmp_path / "weights.pth")["check"]
    assert check["max_error"] == 0.0


@pytest.mark.parametrize("against", ["timm", "transformers"])
def test_a_peer_may_be_named_whatever_is_written(tmp_path: Path, source: Source, against: str) -> None:
    folder = source("vit")
    check = convert(folder, tmp_path / "out.npz", to="npz", against=against)["check"]
    assert check["theirs"].startswith(against) and check["passed"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    first = convert(folder, tmp_path / "theirs", to=against)
    assert first["passed"]
    check = convert(tmp_path / "theirs", tmp_path / "ours", to="isopatch", against=against)["check"]
    assert check["theirs"].endswith(str(tmp_path / "theirs"))  # the source itself, read by its own project


def test_without_the_peer_our_reader_is_used_and_said(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "available", lambda peer: False)
    check = convert(source("vit"), tmp_path / "out", to="transformers", check=True)["check"]
    assert check["theirs"] == f"isopatch, reading {tmp_path / 'out'} (transformers is not installed)"
    with pytest.raises(UsageError, match="timm is not installed"):
        convert(source("vit"), tmp_path / "out2", to="timm", against="timm")
    assert not (tmp_path / "out2").exists()


def test_the_accuracy_of_both_sides(tmp_path: Path) -> None:
    from isopatch.models.spec import build, make_spec

    shape = {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": 8}
    model = build(make_spec("vit", shape, classes=tuple("0123456789")))
    torch.nn.init.normal_(model.heads["cls"].linear.weight)
    save_model(tmp_path / "run", model)
    check = convert(tmp_path / "run", tmp_path / "out", to="isopatch", data="digits")["check"]
    assert check["accuracy"]["num_images"] == 359 and check["pictures"] == "digits (test), 359 pictures"
    from isopatch import evaluate_checkpoint

    measured = evaluate_checkpoint(tmp_path / "run", "digits").top1
    assert check["accuracy"]["ours"] == check["accuracy"]["theirs"] == measured
    model = build(make_spec("vit", shape, classes=("a", "b", "c")))
    save_model(tmp_path / "abc", model)
    check = convert(tmp_path / "abc", tmp_path / "out2", to="isopatch", data="digits")["check"]
    assert check["accuracy"] is None and check["num_pictures"] == 359


def test_the_gate_of_the_command(tmp_path: Path, source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = source("vit", norm_eps=0.1), tmp_path / "out"
    command = ["convert", str(folder), str(out), "--to", "timm", "--check", "--json"]
    assert cli.main(command) == 3
    captured = capsys.readouterr()
    assert cli.main(command[:-1]) == 3
    assert capsys.readouterr().out.startswith(f"{out}: timm (NOT written)")
    assert json.loads(captured.out)["check"]["differing_settings"] == ["LayerNorm eps"]
    assert f"is above --tolerance 1e-05: {out} was not written" in captured.err
    assert not out.exists()
    assert cli.main([*command, "--tolerance", "10"]) == 0
    assert out.is_dir()
    capsys.readouterr()
    assert cli.main([*command[:-1], "--tolerance", "10", "--overwrite"]) == 0
    text = capsys.readouterr().out
    assert "LayerNorm eps        0.1 | 1e-06   <- differs" in text
    assert "note: norm_eps is 0.1 here, 1e-06 in the code that reads timm" in text


def test_a_tolerance_is_a_number_above_zero(tmp_path: Path, source: Source) -> None:
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="give a relative difference above 0"):
            convert(source("vit"), tmp_path / "out", to="timm", check=True, tolerance=value)


def test_the_distance_is_what_it_says() -> None:
    distance = Distance()
    distance.add(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
    distance.add(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert distance.to_json() == {
        "max_error": 3.0,
        "mean_error": (0 + 2 + 3 + 1) / 4,
        "relative_error": 0.75,
        "top1_agreement": 0.5,
    }


def test_the_generated_pictures_are_the_same_and_differ(make: Any) -> None:
    contract = make("vit").spec.input
    first, second = GeneratedPictures(contract), GeneratedPictures(contract)
    content = [first.read(index).tobytes() for index in range(len(first))]
    assert content == [second.read(index).tobytes() for index in range(len(second))]
    assert len(set(content)) == len(content) == 8


def test_a_bare_file_of_a_rectangle_is_compared_at_the_sources_grid(tmp_path: Path, source: Source) -> None:
    """4x9 places are as many as 6x6, and a file of weights alone does not say which."""
    folder = source("vit", image_size=(32, 72))
    convert(folder, tmp_path / "a.pth", to="deit")
    report = convert(folder, tmp_path / "b.pth", to="deit", against=tmp_path / "a.pth")
    assert report["check"]["max_error"] == 0.0


def test_the_command_takes_a_rectangle(tmp_path: Path, source: Source) -> None:
    convert(source("vit", image_size=(32, 48)), tmp_path / "a.pth", to="deit")
    sizes = {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "image_size": "32x48"}
    given = [part for key, value in sizes.items() for part in (f"--model.{key}", str(value))]
    line = ["convert", str(tmp_path / "a.pth"), str(tmp_path / "back"), "--to", "isopatch", "--model", "vit"]
    assert cli.main([*line, *given]) == 0


def test_a_failed_gate_leaves_no_folders_and_a_tolerance_is_one(tmp_path: Path, source: Source) -> None:
    folder = source("vit", norm_eps=0.1)
    kept = tmp_path / "kept"
    kept.mkdir()
    for tolerance, written in ((1e-5, False), (10.0, True)):
        report = convert(folder, kept / "deep" / "out.pth", to="deit", tolerance=tolerance)
        assert report["passed"] == written and report["check"]["tolerance"] == tolerance
        assert (kept / "deep").exists() == written
    assert [path.name for path in (kept / "deep").iterdir()] == ["out.pth"]
