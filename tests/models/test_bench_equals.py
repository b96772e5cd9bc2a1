"""The bench with a preset is the published architecture: same names, logits, gradients and first weights."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from isopatch.models.architectures import architecture_function, architecture_module
from isopatch.models.bench_model import bench, no_weight_decay
from isopatch.models.sizes.bench import BENCH_PRESETS, bench_preset
from isopatch.models.spec import build, make_spec
from isopatch.nn.classifier import Classifier

SIZE: dict[str, Any] = {
    "dim": 16,
    "depth": 3,
    "patch_size": 4,
    "image_size": (8, 12),
    "num_classes": 5,
    "in_channels": 2,
}
HEADS = {"num_heads": 2}

# preset, architecture function, its arguments, the bench's settings of the same size.
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "vit": ("vit", "vit", HEADS, HEADS),
    "vit, Google's": (
        "vit",
        "vit",
        HEADS | {"activation": "gelu_tanh", "init": "jax", "drop_path": 0.2, "attention_dropout": 0.1},
        HEADS | {"activation": "gelu_tanh", "init": "jax", "drop_path": 0.2, "attention_dropout": 0.1},
    ),
    "vit, SimpleViT": (
        "vit",
        "vit",
        HEADS | {"position": "sincos-2d", "class_token": False, "pool": "norm-mean", "dropout": 0.2},
        HEADS
        | {"position": "sincos-2d", "class_token": False, "pool": "norm-mean"}
        | {"dropout": 0.2, "embedding_dropout": 0.2},
    ),
    "vit, mean-norm, axes, scale": (
        "vit",
        "vit",
        HEADS | {"position": "learned-2d", "pool": "mean-norm", "layer_scale": 0.1, "qkv_bias": False},
        HEADS | {"position": "learned-2d", "pool": "mean-norm", "layer_scale": 0.1, "qkv_bias": False},
    ),
    "vit, relative": ("vit", "vit", HEADS | {"position": "relative"}, HEADS | {"position": "relative"}),
    "deit": ("deit", "deit", HEADS | {"drop_path": 0.1}, HEADS | {"drop_path": 0.1}),
    "deit_distilled": ("deit_distilled", "deit", HEADS | {"distilled": True}, HEADS),
    "deit3": ("deit3", "deit3", HEADS | {"drop_path": 0.1}, HEADS | {"drop_path": 0.1}),
    "convmixer": ("convmixer", "convmixer", {"kernel_size": 3}, {"kernel_size": 3}),
    "convmixer, even, ReLU": (
        "convmixer",
        "convmixer",
        {"kernel_size": 4, "activation": "relu"},
        {"kernel_size": 4, "activation": "relu"},
    ),
    "mlp_mixer": (
        "mlp_mixer",
        "mlp_mixer",
        {"dropout": 0.1, "drop_path": 0.1},
        {"dropout": 0.1, "drop_path": 0.1},
    ),
    "resmlp": ("resmlp", "resmlp", {"drop_path": 0.1}, {"drop_path": 0.1}),
    "gmlp": ("gmlp", "gmlp", {"dropout": 0.1, "drop_path": 0.1}, {"dropout": 0.1, "drop_path": 0.1}),
    "metaformer_pool": ("metaformer_pool", "metaformer", {"token_mixer": "pool"}, {}),
    "metaformer_identity": (
        "metaformer_identity",
        "metaformer",
        {"token_mixer": "identity", "layer_scale": 1e-5},
        {"layer_scale": 1e-5},
    ),
    "metaformer_random": ("metaformer_random", "metaformer", {"token_mixer": "random"}, {}),
}

# ConvMixer's block is written out in one piece; everything else has the bench's names already.
RENAMED = {
    "depthwise": "token.mixer.conv",
    "depthwise_norm": "token.norm",
    "pointwise": "channel.mixer.conv",
    "pointwise_norm": "channel.norm",
}


def renamed(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blocks":
        parts[2] = RENAMED.get(parts[2], parts[2])
    return ".".join(parts)


def pair(case: str, seed: int = 0) -> tuple[Classifier, Classifier]:
    """The published model and the bench, each built with the same seed."""
    preset, architecture, arguments, settings = CASES[case]
    torch.manual_seed(seed)
    published = architecture_function(architecture)(**SIZE, **arguments)
    torch.manual_seed(seed)
    return published, bench(**SIZE, **{**bench_preset(preset), **settings})


def noisy(model: Classifier) -> dict[str, Tensor]:
    """Weights that leave nothing at 0 or 1, in the bench's names."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor = tensor + 0.3 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor = tensor.abs() if name.endswith("running_var") else tensor
        state[name] = tensor
    return state


def outcome(model: Classifier, *, training: bool) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Logits of every head, the gradient of the picture, gradients and buffers by the bench's names."""
    model.train(training)
    x = torch.randn(6, 2, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x.requires_grad_(True)
    torch.manual_seed(3)  # of dropout and drop path
    logits = model(x, heads=True)
    torch.stack(list(logits.values())).square().sum().backward()
    assert x.grad is not None
    rest = {renamed(name): parameter.grad for name, parameter in model.named_parameters()}
    rest |= {renamed(name): buffer for name, buffer in model.named_buffers()}
    return logits, x.grad, rest


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", CASES)
def test_same_names_weights_logits_and_gradients(case: str, training: bool) -> None:
    published, ours = (model.double() for model in pair(case))
    state = noisy(published)
    published.load_state_dict(state)
    ours.load_state_dict({renamed(name): tensor for name, tensor in state.items()}, strict=True)
    expected, found = outcome(published, training=training), outcome(ours, training=training)
    assert list(found[0]) == list(expected[0])
    for name, logits in expected[0].items():
        torch.testing.assert_close(found[0][name], logits, atol=1e-10, rtol=0)
    torch.testing.assert_close(found[1], expected[1], atol=1e-10, rtol=0)
    assert set(found[2]) == set(expected[2])
    for name, tensor in expected[2].items():
        torch.testing.assert_close(found[2][name], tensor, atol=1e-10, rtol=1e-10, msg=name)


# The architecture draws its blocks before the stem, or its fixed maps after the MLP; the bench stem, token
# mixer, channel mixer. The numbers that stay as drawn differ, their distribution does not.
DRAWN_IN_ANOTHER_ORDER = {"vit": "stem.proj", "vit, relative": "stem.proj", "metaformer_random": "weights"}
DRAWN_IN_ANOTHER_ORDER |= dict.fromkeys(["vit, SimpleViT", "vit, mean-norm, axes, scale"], "stem.proj")


@pytest.mark.parametrize("case", CASES)
def test_same_first_weights_from_the_same_seed(case: str) -> None:
    published, ours = (model.state_dict() for model in pair(case, seed=7))
    other = DRAWN_IN_ANOTHER_ORDER.get(case, "none")
    for name, tensor in published.items():
        found = ours[renamed(name)]
        if other in name:
            assert not torch.equal(found, tensor), name
            torch.testing.assert_close(found.std(), tensor.std(), rtol=0.35, atol=0.0, msg=name)
        else:
            assert torch.equal(found, tensor), name


@pytest.mark.parametrize("case", CASES)
def test_same_names_are_spared_from_weight_decay(case: str) -> None:
    published, ours = pair(case)
    assert no_weight_decay(ours) == architecture_module(CASES[case][1]).no_weight_decay(published)


@pytest.mark.parametrize(
    ("flip", "name"),
    [
        ({"norm_place": "after-mixer"}, "convmixer"),
        ({"residual": "each"}, "convmixer"),
        ({"activation": "relu"}, "convmixer"),
        ({"norm_place": "after-sum"}, "deit"),
        ({"residual": "block"}, "deit"),
        ({"activation_place": "token"}, "mlp_mixer"),
        ({"pool": "mean-norm"}, "mlp_mixer"),
    ],
)
def test_a_flipped_setting_is_seen(flip: dict[str, Any], name: str) -> None:
    # Negative control: the equality above can fail. The same weights fit, the function is another.
    published, _ = (model.double() for model in pair(name))
    state = {renamed(key): tensor for key, tensor in noisy(published).items()}
    settings = CASES[name][3]
    flipped = bench(**SIZE, **{**bench_preset(name), **settings, **flip}).double()
    flipped.load_state_dict(state, strict=True)
    published.load_state_dict(noisy(published))
    difference = outcome(flipped, training=False)[1] - outcome(published, training=False)[1]
    assert difference.abs().max() > 1e-3


def test_presets_are_tables_of_the_same_settings() -> None:
    settings = set(BENCH_PRESETS["mlp_mixer"])
    assert all(set(preset) == settings for preset in BENCH_PRESETS.values())
    sizes = {"dim", "depth", "patch_size", "image_size", "num_classes", "in_channels"}
    sizes |= {"num_heads", "qkv_bias", "kernel_size", "norm_eps", "drop_path"}
    sizes |= {"dropout", "attention_dropout", "embedding_dropout"}
    assert settings | sizes == set(inspect.signature(bench).parameters)
    changed = bench_preset("deit")
    changed["norm"] = "batch"
    assert bench_preset("deit")["norm"] == "layer"  # a copy


@pytest.mark.parametrize("name", BENCH_PRESETS)
def test_a_preset_has_a_name_of_its_own(name: str) -> None:
    sizes = {"dim": 16, "depth": 2, "patch_size": 4, "image_size": [8, 12], "kernel_size": 3}
    model = build(make_spec(f"bench_{name}", sizes))
    assert model.spec.arguments["token_mixer"] == BENCH_PRESETS[name]["token_mixer"]
    assert model(torch.randn(2, 3, 8, 12)).shape == (2, 1000)


def test_the_cifar_convmixer_has_the_published_count() -> None:
    sizes = {"dim": 256, "depth": 8, "patch_size": 2, "image_size": 32, "kernel_size": 5, "num_classes": 10}
    with torch.device("meta"):
        model = build(make_spec("bench_convmixer", sizes))
    assert sum(parameter.numel() for parameter in model.parameters()) == 594_186
