"""Hostile and damaged sources: refused in one line, nothing run, nothing written."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from isopatch import IsopatchError, cli, convert
from isopatch.models.formats import npz, timm

Damage = Callable[[Path, dict[str, torch.Tensor], Path], Path]


class Creates:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def pickled(folder: Path, state: dict[str, torch.Tensor], victim: Path) -> Path:
    (folder / "evil.pth").write_bytes(pickle.dumps(Creates(victim), protocol=2))
    return folder / "evil.pth"


def pickled_beside_the_weights(folder: Path, state: dict[str, torch.Tensor], victim: Path) -> Path:
    names = timm.from_isopatch(state, "vit")
    torch.save({"model": names, "args": Creates(victim)}, folder / "evil.bin")
    return folder / "evil.bin"


def truncated(folder: Path, state: dict[str, torch.Tensor], victim: Path) -> Path:
    save_file(timm.from_isopatch(state, "vit"), folder / "cut.safetensors")
    content = (folder / "cut.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(content[:-1000])
    return folder / "cut.safetensors"


def objects(folder: Path, state: dict[str, torch.Tensor], victim: Path) -> Path:
    arrays = {k: v.numpy() for k, v in npz.from_isopatch(state, "vit", num_heads=2).items()}
    extra = np.empty(1, dtype=object)
    extra[0] = Creates(victim)
    np.savez(folder / "objects.npz", **arrays, extra=extra)
    return folder / "objects.npz"


def not_finite(folder: Path, state: dict[str, torch.Tensor], victim: Path) -> Path:
    changed = {**state, "blocks.1.token.norm.bias": torch.full((16,), float("nan"))}
    save_file(timm.from_isopatch(changed, "vit"), folder / "nan.safetensors")
    return folder / "nan.safetensors"


def infinite(folder: Path, state: dict[str, torch.Tensor], victim: Path) -> Path:
    changed = {**state, "norm.weight": torch.full((16,), float("inf"))}
    arrays = npz.from_isopatch(changed, "vit", num_heads=2)
    np.savez(folder / "inf.npz", **{key: tensor.numpy() for key, tensor in arrays.items()})
    return folder / "inf.npz"


def another_width(folder: Path, state: dict[str, torch.Tensor], victim: Path) -> Path:
    changed = {**state, "blocks.1.channel.mixer.fc1.weight": torch.zeros(64, 24)}
    save_file(timm.from_isopatch(changed, "vit"), folder / "wide.safetensors")
    return folder / "wide.safetensors"


@pytest.mark.parametrize("options", [{}, {"check": True}, {"ema": True}], ids=str)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickled, r"evil\.pth: refused, because it holds the Python object \w+\.open"),
        (pickled_beside_the_weights, r"evil\.bin: refused, because it holds the Python object"),
        (truncated, r"cut\.safetensors: damaged or not a safetensors file"),
        (objects, r"objects\.npz: refused or damaged .* can run code"),
        (not_finite, r"nan\.safetensors: blocks\.1\.token\.norm\.bias holds values that are not finite"),
        (infinite, r"inf\.npz: norm\.weight holds values that are not finite"),
        (another_width, r"wide\.safetensors: does not fit vit: .* 1 of another shape"),
    ],
)
def test_refused(tmp_path: Path, make: Any, damage: Damage, message: str, options: dict[str, bool]) -> None:
    model, victim = make("vit"), tmp_path / "victim"
    source = damage(tmp_path, model.state_dict(), victim)
    sizes = {key: value for key, value in model.spec.arguments.items() if key != "num_classes"}
    if options.get("ema") and source.suffix in (".npz", ".safetensors"):
        message = "holds no moving average"
    for to, place in (("timm", "out"), ("npz", "out.npz")):
        with pytest.raises(IsopatchError, match=message) as error:
            convert(source, tmp_path / place, to=to, name="vit", arguments=sizes, **options)
        assert "\n" not in str(error.value)
    assert not victim.exists()
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_control_the_same_files_whole_are_converted(tmp_path: Path, make: Any) -> None:
    model = make("vit")
    sizes = {key: value for key, value in model.spec.arguments.items() if key != "num_classes"}
    path = not_finite(tmp_path, model.state_dict(), tmp_path)
    state = load_file(path)
    state["blocks.1.norm1.bias"] = torch.zeros(16)
    save_file(state, path)
    assert convert(path, tmp_path / "out", to="timm", name="vit", arguments=sizes)["passed"]


def test_control_the_pickles_are_alive(tmp_path: Path) -> None:
    path = pickled(tmp_path, {}, tmp_path / "victim")
    with path.open("rb") as file:
        pickle.load(file).close()
    assert (tmp_path / "victim").exists()


def test_the_command_says_it_in_one_line(
    tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = not_finite(tmp_path, make("vit").state_dict(), tmp_path)
    sizes = [f"--model.{key}={value}" for key, value in make("vit").spec.arguments.items()
             if key in ("dim", "depth", "num_heads", "patch_size", "image_size")]  # fmt: skip
    command = ["convert", str(path), str(tmp_path / "out"), "--to", "timm"]
    assert cli.main([*command, "--model", "vit", *sizes]) == 1
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith(f"isopatch: error: {path}: blocks.1.token.norm")
    )
    assert cli.main(command) == 2
    assert "nothing beside it says which model it is; give its name" in capsys.readouterr().err
    assert cli.main([*command, *sizes]) == 2
    assert "name the model too, with --model NAME" in capsys.readouterr().err
