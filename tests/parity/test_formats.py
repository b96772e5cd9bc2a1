"""Every format, every family, both directions: the other project's own code, its files, the same logits.

write: our model with random weights, written by us, opened by the other project's code. read: the other
project's model with random weights, saved as that project saves it, opened by `load`. Google's code does not
install here: for its npz the layout is constructed in test_npz.py and computed there; hybrids go through
timm's reader of it. Files hold float32; the models that hold their values are compared in both precisions.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isopatch.conversion import targets
from isopatch.models.architectures import MODULES
from isopatch.models.formats import timm_config, transformers_config
from isopatch.models.load import load
from isopatch.models.spec import build, make_spec, resolve

HERE = Path(__file__).parent


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem + "_shared", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    return module


timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
T = module_at(HERE / "test_timm.py")
G = module_at(HERE.parent / "models" / "test_npz.py")

LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}
Logits = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Family:
    """case: one of test_timm's, timm's model beside ours. formats: that hold it."""

    case: Any
    formats: tuple[str, ...]


def of(key: str, *formats: str, **more: Any) -> Family:
    case = T.CASES[key]
    return Family(dataclasses.replace(case, arguments={**case.arguments, **more}), formats)


GOOGLE = {"dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8, "image_size": 32, "num_classes": 5}
TANH = {"activation": "gelu_tanh"}
FAMILIES = {
    "vit": of("vit class token", "timm", "deit", "transformers"),
    "vit, layer scale": of("vit no qkv bias, layer scale", "timm"),
    "vit, mean then norm": of("vit mean, then norm", "timm"),
    "vit, norm then mean": of("vit norm, then mean", "timm"),
    "vit, no class token": of("vit no class token", "timm"),
    "vit, tanh gelu": of("vit tanh gelu", "timm"),
    "vit, relu": of("vit relu", "timm"),
    "vit, no positions": of("vit no positions", "timm"),
    "vit, relative positions": of("vit relative bias, class token", "timm"),
    "vit, Google's sizes": Family(T.Case("vit", {**GOOGLE, **TANH}, nn.Identity), ("npz",)),
    "deit": of("deit", "timm", "deit", "transformers"),
    "deit, distilled": of("deit distilled", "timm", "deit", "transformers"),
    "deit3": of("deit3", "timm", "deit"),
    "hybrid r50": of("hybrid r50 s16", "timm"),
    "hybrid r26": of("hybrid r26 s32", "timm", "npz"),
    "hybrid, root alone": of("hybrid root alone", "timm"),
    "convmixer, relu": of("convmixer relu k7 p7", "timm"),
    "convmixer, gelu": of("convmixer gelu k9 p14", "timm", "locuslab"),
    "mlp_mixer": of("mixer", "timm"),
    "mlp_mixer, Google's sizes": Family(T.Case("mlp_mixer", {**G.MIXER, **TANH}, nn.Identity), ("npz",)),
    "resmlp": of("resmlp", "timm", "deit"),
    "gmlp": of("gmlp", "timm"),
}
READ_ONLY = ("locuslab",)  # the authors' `convmixer.py`, whose names are positions
TABLE = [
    (family, kind, direction)
    for family, held in FAMILIES.items()
    for kind in held.formats
    for direction in ("read", "write")
    if not (direction == "write" and kind in READ_ONLY)
]
OURS: dict[str, dict[str, Any]] = {
    "vit": GOOGLE,
    "deit3_small_patch16_224": {"depth": 1, "image_size": 32},
    "convmixer": {"dim": 16, "depth": 2, "kernel_size": 4, "patch_size": 4, "image_size": 16},
    "mlp_mixer": G.MIXER,
    "resmlp": G.MIXER,
    "gmlp": G.MIXER,
    "vit_tiny_r_s16_p8_224": {"depth": 1, "image_size": 64},
    "metaformer": G.MIXER,
    "mobilenet_v3": G.MIXER,
    "cifar_resnet20": {},
    "cycle_mlp_b1": {"dims": (8, 16), "depths": (1, 1), "mlp_ratios": (2, 2), "image_size": (16, 24)},
    "vip_s7": {
        "dims": (8, 16),
        "depths": (1, 1),
        "segment_dims": (4, 2),
        "transitions": (True,),
        "mlp_ratios": (2, 2),
        "patch_size": 4,
        "image_size": 16,
    },
    "bench": {"dim": 8, "depth": 2, "patch_size": 4, "image_size": 16, "token_mixer": "depthwise"},
    "deit": {**GOOGLE, "distilled": True},
    "timm:test_resnet": {"image_size": 32},
    "torchvision:shufflenet_v2_x0_5": {"image_size": 32},
}


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize(("family", "kind", "direction"), TABLE)
def test_same_logits(tmp_path: Path, family: str, kind: str, direction: str, dtype: torch.dtype) -> None:
    assert error(family, kind, direction, dtype, tmp_path) <= LIMITS[dtype]


def error(family: str, kind: str, direction: str, dtype: torch.dtype, folder: Path) -> float:
    """Largest difference of a logit over the largest logit."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        case = FAMILIES[family].case
        ours, theirs = (written if direction == "write" else read)(case, kind, folder, dtype)
        side = case.arguments["image_size"]
        size = (side, side) if isinstance(side, int) else side
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64).to(dtype)
        if isinstance(theirs, nn.Module) and family.startswith("hybrid"):
            theirs = theirs.to(memory_format=torch.channels_last)  # our layout: sums in the same order
            x = x.contiguous(memory_format=torch.channels_last)
        logits, expected = ours(x), theirs(x)
    assert logits.shape == expected.shape and float(expected.abs().max()) > 0.01
    return float((logits - expected).abs().max() / expected.abs().max())


# --- written by us, opened by them -----------------------------------------------------------------------


def written(case: Any, kind: str, folder: Path, dtype: torch.dtype) -> tuple[Logits, Logits]:
    model = build(make_spec(case.name, case.arguments)).eval()
    T.randomise(model)
    path = folder / {"deit": "w.pth", "npz": "w.npz", "transformers": "theirs"}.get(kind, "w.safetensors")
    if kind == "timm" and named(model.spec):
        path = folder / "theirs"
    to = targets.as_format(kind)
    targets.refuse_what_is_lost(to, model.spec, path)
    targets.write(to, model, path, targets.state_for(to, model))
    return model.to(dtype), OPEN[kind](case, path, dtype)


def named(spec: Any) -> bool:
    try:
        timm_config.builder(spec)
    except ValueError:
        return False
    return True


def open_timm(case: Any, path: Path, dtype: torch.dtype) -> Logits:
    if path.is_dir():
        return timm.create_model(f"local-dir:{path}", pretrained=True).eval().to(dtype)
    reference = case.reference().eval()
    timm.models.load_checkpoint(reference, str(path))
    return reference.to(dtype)


def open_deit(case: Any, path: Path, dtype: torch.dtype) -> Logits:
    """As timm opens the files that DeiT's authors publish."""
    from timm.models import mlp_mixer, vision_transformer

    state = torch.load(path, weights_only=True)["model"]
    reference = case.reference().eval()
    convert = (
        mlp_mixer.checkpoint_filter_fn
        if case.name.startswith("resmlp")
        else functools.partial(vision_transformer.checkpoint_filter_fn, adapt_layer_scale=True)
    )
    reference.load_state_dict(convert(state, reference))
    return reference.to(dtype)


def open_npz(case: Any, path: Path, dtype: torch.dtype) -> Logits:
    if "r26" in case.name:
        reference = case.reference().eval()
        reference.load_pretrained(str(path))
        return reference.to(dtype)
    with np.load(path, allow_pickle=False) as file:
        return google(case, {name: file[name] for name in file.files}, dtype)


def google(case: Any, arrays: dict[str, np.ndarray], dtype: torch.dtype) -> Logits:
    kind = np.float64 if dtype == torch.float64 else np.float32
    own = {name: array.astype(kind) for name, array in arrays.items()}
    if case.name == "mlp_mixer":
        return lambda x: G.mixer_logits(x, own)
    return lambda x: G.vit_logits(x, own, big_vision=False)


def open_transformers(case: Any, path: Path, dtype: torch.dtype) -> Logits:
    model = transformers.AutoModelForImageClassification.from_pretrained(path).eval().to(dtype)
    return lambda x: model(x).logits


OPEN = {"timm": open_timm, "deit": open_deit, "npz": open_npz, "transformers": open_transformers}


# --- saved by them, opened by us -------------------------------------------------------------------------


def read(case: Any, kind: str, folder: Path, dtype: torch.dtype) -> tuple[Logits, Logits]:
    path, theirs = SAVE[kind](case, folder, dtype)
    if path.is_dir():
        return load(path).to(dtype), theirs
    sizes = {key: value for key, value in case.arguments.items() if key != "num_classes"}
    return load(path, case.name, arguments=sizes).to(dtype), theirs


def save_timm(case: Any, folder: Path, dtype: torch.dtype) -> tuple[Path, Logits]:
    """As timm saves for the hub, where its factory built the model; else a state dict."""
    reference = case.reference().eval()
    T.randomise(reference)
    if getattr(reference, "pretrained_cfg", None):
        timm.models.save_for_hf(reference, folder / "hub", safe_serialization=True)
        return folder / "hub", reference.to(dtype)
    torch.save(reference.state_dict(), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin", reference.to(dtype)


def save_deit(case: Any, folder: Path, dtype: torch.dtype) -> tuple[Path, Logits]:
    reference = case.reference().eval()
    T.randomise(reference)
    state = {authors_name(key): value for key, value in reference.state_dict().items()}
    if case.name.startswith("resmlp"):
        renamed = (("stem.", "patch_embed."), ("linear_tokens", "attn"), ("mlp_channels", "mlp"))
        for theirs, own in renamed:
            state = {key.replace(theirs, own): value for key, value in state.items()}
        flat = (".alpha", ".beta")
        state = {key: value.reshape(-1) if key.endswith(flat) else value for key, value in state.items()}
    torch.save({"model": state, "args": argparse.Namespace(model="deit")}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth", reference.to(dtype)


def authors_name(key: str) -> str:
    for number in "12":
        key = key.replace(f"ls{number}.gamma", f"gamma_{number}")
        key = f"{key[:-3]}gamma_{number}" if key.endswith(f"ls{number}") else key
    return key


def save_npz(case: Any, folder: Path, dtype: torch.dtype) -> tuple[Path, Logits]:
    """Flax's layout as test_npz.py makes it."""
    path = folder / "google.npz"
    if "r26" in case.name:
        np.savez(path, **G.flax_hybrid(case.arguments))
        return path, open_npz(case, path, dtype)
    arrays = G.flax_mixer() if case.name == "mlp_mixer" else G.flax_vit(big_vision=False)
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.savez(path, **arrays)
    return path, google(case, arrays, dtype)


def save_transformers(case: Any, folder: Path, dtype: torch.dtype) -> tuple[Path, Logits]:
    given = make_spec(case.name, case.arguments).arguments
    kind = "DeiT" if given.get("distilled") else "ViT"
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=given["dim"],
        num_hidden_layers=given["depth"],
        num_attention_heads=given["num_heads"],
        intermediate_size=4 * given["dim"],
        image_size=given["image_size"],
        patch_size=given["patch_size"],
        num_labels=given["num_classes"],
    )
    suffix = "WithTeacher" if kind == "DeiT" else ""
    model = getattr(transformers, f"{kind}ForImageClassification{suffix}")(config).eval()
    T.randomise(model)
    model.save_pretrained(folder / "hub")
    return folder / "hub", lambda x: model.to(dtype)(x).logits


class Skip(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


def save_locuslab(case: Any, folder: Path, dtype: torch.dtype) -> tuple[Path, Logits]:
    """One Sequential, its names positions, as in the authors' file; trained under DataParallel."""
    given = make_spec(case.name, case.arguments).arguments
    dim, kernel, patch = (given[key] for key in ("dim", "kernel_size", "patch_size"))

    def then(layer: nn.Module) -> list[nn.Module]:
        return [layer, nn.GELU(), nn.BatchNorm2d(dim)]

    def block() -> nn.Module:
        depthwise = nn.Conv2d(dim, dim, kernel, groups=dim, padding=kernel // 2)
        return nn.Sequential(Skip(nn.Sequential(*then(depthwise))), *then(nn.Conv2d(dim, dim, 1)))

    model = nn.Sequential(
        *then(nn.Conv2d(3, dim, patch, stride=patch)),
        *(block() for _ in range(given["depth"])),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(dim, given["num_classes"]),
    ).eval()
    T.randomise(model)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 150, "arch": "convmixer"}, folder / "model_best.pth.tar")
    return folder / "model_best.pth.tar", model.to(dtype)


SAVE = {
    "timm": save_timm,
    "deit": save_deit,
    "npz": save_npz,
    "transformers": save_transformers,
    "locuslab": save_locuslab,
}


# --- our own format ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_our_own_format_is_the_same_to_the_bit(tmp_path: Path, name: str) -> None:
    assert round_trip(name, tmp_path) == 0.0


def test_every_architecture_is_written_and_read() -> None:
    assert {resolve(name).architecture for name in OURS} == set(MODULES)


def round_trip(name: str, folder: Path) -> float:
    """Largest difference of a weight after writing and reading."""
    model = build(make_spec(name, OURS[name])).eval()
    T.randomise(model)
    targets.write("isopatch", model, folder / "own", model.state_dict())
    back = load(folder / "own").state_dict()
    assert back.keys() == model.state_dict().keys()
    return max(float((tensor - back[key]).abs().max()) for key, tensor in model.state_dict().items())


# --- controls --------------------------------------------------------------------------------------------


def controls() -> dict[str, float]:
    """Errors of files that are wrong on purpose: they have to be far above the limits."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        right = targets.state_for

        def swapped(to: Any, model: Any) -> dict[str, Tensor]:
            state = right(to, model)
            key = next(key for key in state if key.endswith("blocks.1.attn.qkv.weight"))
            return {**state, key: state[key].flip(0)}  # v, k, q instead of q, k, v

        patch.setattr(targets, "state_for", swapped)
        first = error("vit", "timm", "write", torch.float64, Path(folder))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        described = transformers_config.describe
        patch.setattr(
            transformers_config, "describe", lambda spec: {**described(spec), "layer_norm_eps": 1e-3}
        )
        second = error("vit", "transformers", "write", torch.float64, Path(folder))
    return {"query, key and value in another order": first, "LayerNorm eps 1e-3": second}


def test_what_is_wrong_on_purpose_is_noticed() -> None:
    assert min(controls().values()) > 1e-6


def test_the_list_of_names_that_timm_has_is_right() -> None:
    from isopatch.models.table import MODELS

    listed = {name for name, entry in MODELS.items() if timm_config.in_timm(name)}
    assert listed == {name for name in MODELS if timm.is_model(name)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gmlp_ti16_224", "resmlp_12_224", "mixer_s32_224", "convmixer_1024_20_ks9_p14"]
)
def test_a_named_size_is_a_folder_that_timm_builds(tmp_path: Path, name: str) -> None:
    model = build(make_spec(name, {"num_classes": 5})).eval()
    nn.init.normal_(model.heads["cls"].linear.weight, std=0.02)
    targets.write("timm", model, tmp_path / "out", targets.state_for("timm", model))
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs(x)
        assert float((model(x) - expected).abs().max() / expected.abs().max()) <= 1e-5
