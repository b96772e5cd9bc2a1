"""`isopatch export NAME --to source`: names, checkpoints, files and refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from isopatch.cli import main
from isopatch.export.source.render import render_source
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec

ROOT = Path(__file__).parents[2]
TINY = {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": [8, 12], "num_classes": 3}
NAME = "convmixer_256_8_ks5_p2"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def export(*arguments: str) -> int:
    return main(["export", *arguments])


def test_a_name_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert export("convmixer_cifar", "--to", "source") == 0
    assert capsys.readouterr().out == render_source(make_spec(NAME, {}))
    assert export(NAME, "--to", "source", "--model.depth", "3", "--image-size", "32x64") == 0
    changed = make_spec(NAME, {"depth": 3, "image_size": (32, 64)})
    assert capsys.readouterr().out == render_source(changed)


def test_a_file_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert export(NAME, "--to", "source", "--out", "new/model.py") == 0
    out = Path("new/model.py")
    assert capsys.readouterr().out == f"new/model.py: {NAME}, {out.read_text().count(chr(10))} lines\n"
    out.write_text("mine")
    assert export(NAME, "--to", "source", "--out", "new/model.py") == 2
    assert "new/model.py: exists; give another name, or --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert export(NAME, "--to", "source", "--out", "new/model.py", "--overwrite") == 0
    assert out.read_text() == render_source(make_spec(NAME, {}))
    assert [path.name for path in out.parent.iterdir()] == ["model.py"]


def test_a_checkpoint_is_written_as_what_it_is_and_its_weights_load(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    model = build(make_spec("vit", TINY, input_overrides={"mean": (0.1, 0.2, 0.3)})).eval()
    save_model(Path("best"), model)
    for command in (("best",), ("best/model.safetensors",)):
        assert export(*command, "--to", "source", "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["model"], document["out"]) == ("vit", None)
    assert "with mean (0.1, 0.2, 0.3)" in document["source"]
    names: dict = {}
    exec(document["source"], names)
    alone = names["ViT"]().eval()
    alone.load_state_dict(load_file("best/model.safetensors"))
    x = torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(alone(x), model(x))
    assert export("best", "--to", "source", "--image-size", "16") == 0
    assert "num_patches=16" in capsys.readouterr().out


def test_a_file_that_does_not_say_its_model_takes_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    model = build(make_spec("cifar_resnet20", {}))
    torch.save(model.state_dict(), "weights.pth")
    assert export("weights.pth", "--to", "source") == 2
    assert "give its name" in capsys.readouterr().err


MISTAKES = [
    (f"{NAME}", "the following arguments are required: --to"),
    (f"{NAME} --to onnxx", "argument --to: invalid choice: 'onnxx' (choose from source)"),
    ("vit_tny --to source", "unknown model 'vit_tny' (did you mean 'vit_tiny'?)"),
    ("runs/absent --to source", "runs/absent: no such file or folder"),
    ("vit --to source", "model.dim: missing"),
    ("vit_tiny --to source --image-size 30", "30"),
    ("vit_tiny --to source --model.dimm 3", "model.dimm: unknown (did you mean 'dim'?)"),
    ("vit_tiny --to source --short", "the shortest form is ConvMixer's"),
    ("convmixer_cifar_tiny --to source --short", "kernel_size 8: the shortest form pads by half a kernel"),
    ("timm:resnet18 --to source", "a model of timm cannot be written as source: its modules are timm's"),
    ("vit_tiny --to source --out .", ".: is a folder; give a file"),
]


@pytest.mark.parametrize(("command", "fragment"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_one_line(command: str, fragment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(*command.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert fragment.replace("'", "") in captured.err.replace("'", "")


def test_the_page_shows_the_files_that_the_commands_write(capsys: pytest.CaptureFixture[str]) -> None:
    """Python blocks of docs/export.md, each below a comment with its command."""
    page = (ROOT / "docs" / "export.md").read_text()
    shown = re.findall(r"<!-- file: isopatch (.*?) -->\n```python\n(.*?)```", page, re.S)
    assert len(shown) == 2
    for command, text in shown:
        assert main(command.split()) == 0
        assert capsys.readouterr().out == text, f"isopatch {command}"
