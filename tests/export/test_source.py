"""A generated file with the weights of isopatch gives the logits of the model that it was written for."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.export.source.render import WRAPPED, render_short, render_source
from isopatch.models.sizes.bench import BENCH_PRESETS, bench_preset
from isopatch.models.spec import ModelSpec, build, make_spec
from isopatch.models.table import MODELS

LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}
MOST_LINES, MOST_COLUMNS, MOST_CHARACTERS = 119, 110, 280

VIT = {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "image_size": [12, 20], "num_classes": 5}
PLAIN = {key: value for key, value in VIT.items() if key != "num_heads"}
HYBRID = {**VIT, "dim": 16, "image_size": [64, 96], "patch_size": 1}

POSITIONS = ("learned", "learned-2d", "sincos-2d", "relative", "none")
FEW = {"num_classes": 5}
CYCLE = {"dims": [8, 12, 20], "depths": [1, 2, 1], "mlp_ratios": [2, 2, 2], "image_size": [30, 45], **FEW}
SEGMENTS = {
    "dims": [12, 24, 24],
    "depths": [1, 1, 2],
    "segment_dims": [4, 2, 2],
    "transitions": [True, False],
}
PERMUTATOR = {**SEGMENTS, "mlp_ratios": [3, 3, 3], "patch_size": 3, "image_size": 12, **FEW}
BENCH = {**PLAIN, "dim": 16, "depth": 3, "image_size": [8, 16], "num_heads": 2, "kernel_size": 3}
PYRAMID = {"stage_depths": [1, 2]}
POOLS = (
    (True, "class"),
    (True, "norm-mean"),
    (True, "mean-norm"),
    (False, "norm-mean"),
    (False, "mean-norm"),
)
NORM_PLACES = ("before", "after-mixer", "after-activation", "after-sum")
TOKEN_MIXERS = ("attention", "depthwise", "token-mlp", "token-linear", "pool", "identity", "random")
MLP_FREE = {"activation_place": "both"}
MORE = itertools.cycle(
    (
        {},
        {"layer_scale": 0.3, "class_position": False},
        {"patch_norm": True, "norm_eps": 1e-5, "qkv_bias": False, "init": "pytorch"},
        {"activation": "gelu_tanh", "pre_logits": True, "patch_norm": True},
        {"activation": "relu", "mlp_ratio": 2.3, "in_channels": 1, "dropout": 0.1, "drop_path": 0.2},
        {"image_size": 16, "mlp_ratio": 1.0, "norm_eps": 1e-12},
        {"class_position": False, "layer_scale": 1e-4, "patch_norm": True, "pre_logits": True},
    )
)


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Small models of every architecture and every branch of its template."""
    for position, (class_token, pool) in itertools.product(POSITIONS, POOLS):
        kind = {"position": position, "class_token": class_token, "pool": pool}
        yield "vit", {**VIT, **kind, **next(MORE)}
    yield "vit", {**VIT, "position": "learned", "class_position": False}
    yield "deit", VIT
    yield "deit", {**VIT, "distilled": True, "activation": "relu", "qkv_bias": False, "norm_eps": 1e-5}
    yield "deit_tiny_distilled", {"depth": 1, "image_size": [32, 48], "drop_path": 0.1}
    yield "deit3_small", {"depth": 1, "image_size": [32, 48]}
    # Odd maps, so that TensorFlow's padding is not the same on both sides.
    for layers, size in (([], 64), ([1], [60, 92]), ([2, 1], 64), ([1, 1, 1, 1], [96, 160])):
        yield "vit_tiny_r_s16_p8_224", {**HYBRID, "layers": layers, "image_size": size}
    yield "vit_base_r50_s16_224", {**HYBRID, "layers": [1, 1, 1], "pre_logits": True, "patch_size": 2}
    yield "vit_base_r50_s16_224", {**HYBRID, "layers": [1, 1], "image_size": [50, 70], "in_channels": 2}
    for kernel, activation in ((3, "gelu"), (4, "relu"), (1, "gelu_tanh"), (2, "gelu_tanh"), (9, "relu")):
        yield "convmixer", {**PLAIN, "kernel_size": kernel, "activation": activation}
    yield "convmixer", {**PLAIN, "kernel_size": 5, "image_size": [14, 23], "in_channels": 4}
    yield "mlp_mixer", PLAIN
    yield "mlp_mixer", {**PLAIN, "token_ratio": 0.3, "mlp_ratio": 2.7, "activation": "gelu_tanh"}
    yield "resmlp", PLAIN
    yield "resmlp", {**PLAIN, "layer_scale": 0.7, "mlp_ratio": 1.5, "image_size": 16}
    yield "gmlp", PLAIN
    yield "gmlp", {**PLAIN, "mlp_ratio": 2.5, "activation": "relu", "drop_path": 0.1}
    for mixer, scale in itertools.product(("pool", "identity", "random"), (None, 0.1)):
        yield "metaformer", {**PLAIN, "token_mixer": mixer, "layer_scale": scale}
    yield "metaformer", {**PLAIN, "kernel_size": 5, "activation": "relu", "mlp_ratio": 1.9}
    for kernel, ratio in itertools.product((3, 4), (0.25, None)):
        yield "mobilenet_v3", {**PLAIN, "kernel_size": kernel, "squeeze_ratio": ratio, "expansion": 2.5}
    yield "cifar_resnet20", {"depth": 8, "width": 4, "image_size": [14, 17], "num_classes": 3}
    yield "cifar_resnet20", {"depth": 14, "width": 5, "in_channels": 1}

    for more in (
        {},
        {"mlp_ratios": [4, 1, 2], "activation": "gelu_tanh", "drop_path": 0.1},
        {"mlp_ratios": [2.5, 1.3, 2], "step_size": 4, "in_channels": 2},
        {"mlp_ratios": [2.5, 2.5, 2.5], "activation": "relu", "step_size": 1, "patch_size": 4},
        {"dims": [9], "depths": [2], "mlp_ratios": [1.0], "step_size": 5, "patch_size": 5, "patch_stride": 2},
    ):
        yield "cycle_mlp_b1", {**CYCLE, **more}
    one = {"dims": [8], "depths": [2], "segment_dims": [4], "transitions": [], "mlp_ratios": [2.5]}
    two = {"dims": [12, 12], "depths": [1, 1], "segment_dims": [4, 4], "transitions": [False]}
    for more in (
        {},
        {"mlp_ratios": [3, 1, 2], "activation": "relu", "drop_path": 0.1},
        {"mlp_ratios": [1.5, 2.5, 2.5], "activation": "gelu_tanh"},
        {**two, "mlp_ratios": [1.0, 1.0]},
        {**two, "mlp_ratios": [3.5, 1], "in_channels": 1},
        one,
    ):
        yield "vip_s7", {**PERMUTATOR, **more}
    for preset, more in bench_cases():
        yield f"bench_{preset}", {**BENCH, **more}


def bench_cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each preset, as it is and with one part or a few parts changed."""
    for preset in BENCH_PRESETS:
        yield preset, {}
        if not bench_preset(preset)["class_token"]:
            yield preset, {**PYRAMID, "position": "learned"}
    for place, residual in itertools.product(NORM_PLACES, ("each", "token", "block", "none")):
        if place != "after-sum" or residual == "each":
            yield "mlp_mixer", {"norm_place": place, "residual": residual, "activation_place": "both"}
            scale = None if residual == "none" else 0.3
            yield "deit3", {"norm_place": place, "residual": residual, "layer_scale": scale, "norm": "affine"}
    for place in NORM_PLACES:
        yield "gmlp", {"norm_place": place, "layer_scale": 0.2, "mlp_ratio": 2.5, **PYRAMID}
        yield "metaformer_pool", {"norm_place": place, "activation_place": "token", "norm": "batch"}
    yield "gmlp", {"residual": "none", "activation_place": "none", "norm": "none"}
    yield "mlp_mixer", {"norm": "none", "norm_place": "after-sum", **PYRAMID}
    for norm, mixer in itertools.product(("layer", "batch", "affine", "none"), TOKEN_MIXERS):
        stem = {"stem_activation": True, "stem_norm": True}
        yield "convmixer", {"norm": norm, "token_mixer": mixer, "final_norm": True, **stem}
        if norm != "none":
            yield "convmixer", {"norm": norm, "token_mixer": mixer, "pool": "mean-norm", **PYRAMID}
    for position in POSITIONS:
        for end in ({}, PYRAMID, {"pool": "mean-norm", "norm": "batch"}, {"in_channels": 1}):
            kind = {"position": position, "stem_norm": "in_channels" in end}
            yield "deit", {"class_token": False, "pool": "norm-mean", **end, **kind}
        yield "deit_distilled", {"position": position, "qkv_bias": False, "activation": "gelu_tanh"}
        yield "vit", {"position": position, "pool": "norm-mean", "channel_mixer": "pointwise", **MLP_FREE}
        if position != "relative":
            yield "convmixer", {"position": position, "kernel_size": 4, "norm_eps": 1e-5, "norm": "layer"}
    yield "convmixer", {"kernel_size": 2, "activation": "relu"}
    yield "convmixer", {"layer_scale": 0.3, "image_size": [8, 64]}  # as many columns as channels
    yield "convmixer", {"channel_mixer": "mlp", "mlp_ratio": 1.0, "final_norm": True}
    for stem, patch in itertools.product(("overlap", "conv-pool"), (2, 3, 4, 6, 8)):
        size = {"stem": stem, "patch_size": patch, "image_size": [2 * patch, 4 * patch]}
        yield "mlp_mixer", {**size, "stem_activation": patch % 2 == 0, "stem_norm": patch > 3}
        yield "resmlp", {**size, **PYRAMID, "stem_norm": True, "stem_activation": patch == 8}
    yield "mlp_mixer", {"stem": "conv-pool", "patch_size": 1, "image_size": [2, 4], "activation": "relu"}
    yield "metaformer_pool", {"stem": "overlap", "patch_size": 8, "dim": 2, "image_size": [16, 16]}
    for mixer, ratio in itertools.product(("gated", "mlp"), (4.0, 2.3, 1.0)):
        yield "mlp_mixer", {"channel_mixer": mixer, "mlp_ratio": ratio, "token_ratio": 0.3}
        yield "mlp_mixer", {"channel_mixer": mixer, "mlp_ratio": ratio, "token_ratio": 0.3, **PYRAMID}
    yield "vit", {"channel_mixer": "gated", **MLP_FREE}
    yield "deit", {"num_heads": None, "dim": 128, "embedding_dropout": 0.1, "drop_path": 0.1}
    wide = {"stage_depths": [1, 1, 1], "stage_dims": [16, 24, 40], "image_size": 16, "token_ratio": 2.0}
    yield "mlp_mixer", wide
    yield "deit", {**wide, "class_token": False, "pool": "norm-mean", "position": "relative"}


CASES = [make_spec(name, arguments) for name, arguments in cases()]
SHORT = [
    spec for spec in CASES if spec.architecture == "convmixer" and spec.arguments["kernel_size"] % 2 == 1
]


def label(spec: ModelSpec) -> str:
    return f"{spec.name}-{CASES.index(spec)}"


def executed(text: str) -> SimpleNamespace:
    """The names that a generated file defines, and the last class or function as `main`."""
    tree = ast.parse(text)
    names: dict[str, Any] = {"__name__": "generated"}
    exec(compile(tree, "generated.py", "exec"), names)
    last = [node.name for node in tree.body if isinstance(node, ast.ClassDef)][-1]
    return SimpleNamespace(**names, main=names[last])


def randomised(spec: ModelSpec, dtype: torch.dtype) -> nn.Module:
    """The model of isopatch with weights of which none is zero or one, BatchNorm's statistics included."""
    model = build(spec).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not key.endswith("mixer.weights"):
                noise = 0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                centre = 1.0 if tensor.dim() == 1 and key.endswith(("weight", "var")) else 0.0
                tensor.copy_((centre + noise).abs() if key.endswith("var") else centre + noise)
    return model


def pictures(spec: ModelSpec, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (2, spec.arguments["in_channels"], spec.input.height, spec.input.width)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def difference(theirs: nn.Module, ours: nn.Module, x: Tensor) -> float:
    """The largest difference of the logits, as a part of the largest logit."""
    with torch.no_grad():
        expected = ours(x)
        return float((theirs(x) - expected).abs().max() / expected.abs().max())


def written(spec: ModelSpec, ours: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The generated model with the weights of isopatch, loaded strictly."""
    model: nn.Module = executed(render_source(spec)).main().to(dtype).eval()
    model.load_state_dict(ours.state_dict(), strict=True)
    return model


@pytest.mark.parametrize("spec", CASES, ids=label)
def test_the_file_gives_the_same_logits(spec: ModelSpec) -> None:
    for dtype, limit in LIMITS.items():
        ours = randomised(spec, dtype)
        assert difference(written(spec, ours, dtype), ours, pictures(spec, dtype)) <= limit


def test_the_comparison_notices_a_changed_weight_and_a_wrong_activation() -> None:
    spec = make_spec("vit", VIT)
    ours, x = randomised(spec, torch.float64), pictures(spec, torch.float64)
    theirs = written(spec, ours, torch.float64)
    with torch.no_grad():
        theirs.get_parameter("blocks.1.token.mixer.proj.bias")[3] += 1e-6
    assert difference(theirs, ours, x) > LIMITS[torch.float64]
    text = render_source(spec)
    assert text.count("nn.GELU()") == 1
    wrong = executed(text.replace("nn.GELU()", 'nn.GELU("tanh")')).main().double().eval()
    wrong.load_state_dict(ours.state_dict())
    assert difference(wrong, ours, x) > LIMITS[torch.float64]


def test_layer_scales_start_where_the_models_do() -> None:
    for more in ({"depth": 2}, {"depth": 20}, {"depth": 25}, {"depth": 1, "dim": 768}):
        spec = make_spec("resmlp", {**PLAIN, **more})
        scale = executed(render_source(spec)).main().get_parameter("blocks.0.token.scale")
        assert torch.equal(scale, build(spec).get_parameter("blocks.0.token.scale"))


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The file of every name of the table that has its sizes, and of the small models above."""
    named = [make_spec(name, {}) for name, entry in MODELS.items() if not entry.plain]
    specs = {spec.name: spec for spec in named if spec.architecture not in WRAPPED}
    sizes = {"dim": 768, "depth": 12, "patch_size": 16, "image_size": 224, "stem": "overlap"}
    specs |= {f"bench_{preset}": make_spec(f"bench_{preset}", sizes) for preset in BENCH_PRESETS}
    found = {name: render_source(spec) for name, spec in specs.items()}
    return found | {f"case{number}": render_source(spec) for number, spec in enumerate(CASES)}


def test_every_file_is_small_and_needs_torch_alone(texts: dict[str, str]) -> None:
    assert {"vit_huge_patch14_224", "convmixer_1536_20", "cycle_mlp_b5", "bench_deit3"} <= texts.keys()
    for name, text in texts.items():
        lines = text.splitlines()
        assert len(lines) <= MOST_LINES and max(map(len, lines)) <= MOST_COLUMNS, name
        imported = {
            alias.name if isinstance(node, ast.Import) else node.module
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert imported <= {"torch", "torch.nn", "collections"}, name


def test_every_file_says_what_it_is(texts: dict[str, str]) -> None:
    for name, entry in MODELS.items():
        if name in texts and not entry.plain:
            head = ast.get_docstring(ast.parse(texts[name])) or ""
            assert f"{name}, {entry.parameters:,} parameters" in head
            assert f"cut to the central {entry.input.height} x {entry.input.width}" in head
            assert "arXiv" in head and "Licence: Apache-2.0" in head


def test_no_bench_model_is_much_longer() -> None:
    """The longest choice of every setting at once; docs/export.md names the number."""
    parts = {"norm": "affine", "position": "relative", "channel_mixer": "gated", "mlp_ratio": 2.5}
    stem = {
        "stem": "overlap",
        "stem_activation": True,
        "stem_norm": True,
        "patch_size": 12,
        "image_size": [48, 96],
    }
    block = {"residual": "block", "norm_place": "after-mixer", "layer_scale": 0.1, "activation_place": "both"}
    end = {"class_token": False, "pool": "mean-norm", "drop_path": 0.1, "dim": 48, **PYRAMID}
    spec = make_spec("bench_deit", {**BENCH, **parts, **stem, **block, **end})
    assert MOST_LINES < len(render_source(spec).splitlines()) <= 126


def test_ruff_finds_nothing_to_change(texts: dict[str, str], tmp_path: Path) -> None:
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    for number, spec in enumerate(SHORT):
        (tmp_path / f"short{number}.py").write_text(render_short(spec))
    ruff = [sys.executable, "-m", "ruff"]
    own = ["--isolated", "--no-cache", "--line-length", str(MOST_COLUMNS), str(tmp_path)]
    rules = ["--select", "E,F,W,I,B,UP,SIM,RUF,C4"]
    for command in ([*ruff, "format", "--check", *own], [*ruff, "check", *rules, *own]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[:3000] + done.stderr
    (tmp_path / "unused.py").write_text("import os\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_only_what_the_spec_uses_is_written() -> None:
    plain = render_source(make_spec("vit", VIT))
    assert not {"scale", "dist", "relative", "pre_logits", "sincos"} & set(plain.replace(".", " ").split())
    assert "dropout" not in plain and "drop path 0.1" in render_source(
        make_spec("vit", VIT | {"drop_path": 0.1})
    )
    assert (
        "def __init__(self, dim=16, depth=2, num_heads=2, patch_size=4, num_classes=5, num_patches=15)"
        in plain
    )


# --- the shortest form ---------------------------------------------------------------------------------


def code_of(text: str) -> str:
    """What the paper counts: the function, and the class it uses, without imports."""
    return text.split("# fmt: off\n")[1].split("\n# fmt: on")[0]


@pytest.mark.parametrize("spec", SHORT, ids=label)
def test_the_shortest_convmixer_gives_the_same_logits(spec: ModelSpec) -> None:
    text = render_short(spec)
    code = code_of(text)
    assert len(code) <= MOST_CHARACTERS and f"ConvMixer in {len(code)} characters" in text
    assert max(map(len, text.splitlines())) <= MOST_COLUMNS
    short = executed(text)
    sizes = (spec.arguments[key] for key in ("dim", "depth", "kernel_size", "patch_size", "num_classes"))
    call = f"ConvMixer({', '.join(str(size) for size in sizes)})"
    assert f"model = {call}.eval()" in text
    for dtype, limit in LIMITS.items():
        ours = randomised(spec, dtype)
        theirs: nn.Module = eval(call, vars(short)).to(dtype).eval()
        theirs.load_state_dict(short.renamed(ours.state_dict()))
        assert difference(theirs, ours, pictures(spec, dtype)) <= limit


def test_the_shortest_convmixer_is_small_for_every_published_size() -> None:
    for name, entry in MODELS.items():
        if entry.architecture == "convmixer" and entry.arguments.get("kernel_size", 2) % 2:
            assert len(code_of(render_short(make_spec(name, {})))) <= MOST_CHARACTERS


def test_even_kernels_are_no_case_for_the_shortest_form() -> None:
    even = make_spec("convmixer", {**PLAIN, "kernel_size": 4})
    with pytest.raises(
        UsageError, match="kernel_size 4: the shortest form pads by half a kernel on both sides"
    ):
        render_short(even)
    odd = executed(render_short(make_spec("convmixer", {**PLAIN, "kernel_size": 3})))
    with pytest.raises(RuntimeError, match="must match the size"):
        odd.ConvMixer(16, 2, 4, 4, 5)(torch.randn(1, 3, 16, 16))


def test_only_convmixer_has_a_shortest_form() -> None:
    with pytest.raises(UsageError, match="the shortest form is ConvMixer's, vit is a vit"):
        render_short(make_spec("vit", VIT))
