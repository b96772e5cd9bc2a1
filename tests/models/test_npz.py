"""Google's `.npz` files: what we write, timm's own reader understands; what Flax computes, we compute."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.errors import IsopatchError
from isopatch.models.formats.npz import from_isopatch, read_npz, to_isopatch
from isopatch.models.load import load
from isopatch.models.spec import build, make_spec
from isopatch.nn.skeleton import Isotropic

Arrays = dict[str, np.ndarray]

VIT = {"dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8, "image_size": 32, "num_classes": 5}


def random_model(name: str, arguments: dict[str, Any], dtype: torch.dtype = torch.float32) -> Isotropic:
    model = build(make_spec(name, arguments)).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            noise = 0.2 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(noise + (1.0 if tensor.dim() == 1 else 0.0))
    return model


def written(model: Isotropic, path: Path) -> Path:
    arguments = model.spec.arguments
    state = from_isopatch(model.state_dict(), model.spec.architecture, num_heads=arguments.get("num_heads"))
    np.savez(path, **{key: tensor.numpy() for key, tensor in state.items()})
    return path


@pytest.mark.parametrize(
    ("name", "arguments", "theirs"),
    [
        ("vit", VIT, ("vit_tiny_patch16_224", {"patch_size": 8})),
        (
            "vit_small_r26_s32_224",
            {"dim": 24, "depth": 2, "num_heads": 3, "image_size": 64, "num_classes": 5},
            ("vit_small_r26_s32_224", {"img_size": 64}),
        ),
    ],
)
def test_timm_reads_what_is_written(
    tmp_path: Path, name: str, arguments: dict[str, Any], theirs: tuple[str, dict[str, Any]]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm")
    model = random_model(name, arguments)
    path = written(model, tmp_path / "weights.npz")
    options = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5, "img_size": 32} | theirs[1]
    reference = timm.create_model(theirs[0], **options).eval()
    reference.load_pretrained(str(path))
    side = arguments["image_size"]
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, logits = reference(x), model(x)
    assert float((logits - expected).abs().max() / expected.abs().max()) <= 1e-5
    with torch.no_grad():
        assert torch.equal(load(path, name=name, arguments=_sizes(arguments))(x), logits)


def _sizes(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key != "num_classes"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit", VIT),
        ("vit", VIT | {"pre_logits": True}),
        ("vit", VIT | {"class_token": False, "pool": "norm-mean"}),
        ("mlp_mixer", {"dim": 16, "depth": 2, "patch_size": 8, "image_size": 32, "num_classes": 5}),
        ("vit_base_r50_s16_224", {"dim": 24, "depth": 1, "num_heads": 3, "image_size": 32, "num_classes": 5}),
    ],
)
def test_there_and_back_is_the_same_to_the_bit(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    model = random_model(name, arguments)
    loaded = load(written(model, tmp_path / "w.npz"), name=name, arguments=_sizes(arguments))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )


# --- the layout constructed here, computed here ---------------------------------------------------------


def dense(x: Tensor, arrays: Arrays, name: str) -> Tensor:
    return x @ torch.from_numpy(arrays[f"{name}/kernel"]) + torch.from_numpy(arrays[f"{name}/bias"])


def norm(x: Tensor, arrays: Arrays, name: str) -> Tensor:
    scale, bias = (torch.from_numpy(arrays[f"{name}/{leaf}"]) for leaf in ("scale", "bias"))
    return F.layer_norm(x, x.shape[-1:], scale, bias, eps=1e-6)


def embed(x: Tensor, arrays: Arrays, name: str, side: int) -> Tensor:
    cut = x.unfold(2, side, side).unfold(3, side, side)  # B, c, rows, cols, p, p
    tokens = torch.einsum("bcrsij,ijcd->brsd", cut, torch.from_numpy(arrays[f"{name}/kernel"]))
    return (tokens + torch.from_numpy(arrays[f"{name}/bias"])).flatten(1, 2)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class Maker:
    """Arrays of one Flax parameter tree."""

    def __init__(self) -> None:
        self.arrays: Arrays = {}
        self.random = np.random.default_rng(0)

    def put(self, name: str, *shape: int, centre: float = 0.0) -> None:
        self.arrays[name] = centre + 0.3 * self.random.standard_normal(shape)

    def dense(self, name: str, *shape: int, bias: tuple[int, ...] | None = None) -> None:
        self.put(f"{name}/kernel", *shape)
        self.put(f"{name}/bias", *(bias or shape[-1:]))

    def norm(self, name: str, dim: int) -> None:
        self.put(f"{name}/scale", dim, centre=1.0)
        self.put(f"{name}/bias", dim)


def flax_mixer() -> Arrays:
    made = Maker()
    made.dense("stem", 8, 8, 3, 16)
    for i in range(2):
        made.norm(f"MixerBlock_{i}/LayerNorm_0", 16)
        made.dense(f"MixerBlock_{i}/token_mixing/Dense_0", 16, 8)
        made.dense(f"MixerBlock_{i}/token_mixing/Dense_1", 8, 16)
        made.norm(f"MixerBlock_{i}/LayerNorm_1", 16)
        made.dense(f"MixerBlock_{i}/channel_mixing/Dense_0", 16, 64)
        made.dense(f"MixerBlock_{i}/channel_mixing/Dense_1", 64, 16)
    made.norm("pre_head_layer_norm", 16)
    made.dense("head", 16, 5)
    return made.arrays


def mixer_logits(x: Tensor, arrays: Arrays) -> Tensor:
    tokens = embed(x, arrays, "stem", 8)
    for i in range(2):
        name = f"MixerBlock_{i}"
        y = norm(tokens, arrays, f"{name}/LayerNorm_0").transpose(1, 2)
        y = dense(
            gelu(dense(y, arrays, f"{name}/token_mixing/Dense_0")), arrays, f"{name}/token_mixing/Dense_1"
        )
        tokens = tokens + y.transpose(1, 2)
        y = norm(tokens, arrays, f"{name}/LayerNorm_1")
        y = dense(
            gelu(dense(y, arrays, f"{name}/channel_mixing/Dense_0")), arrays, f"{name}/channel_mixing/Dense_1"
        )
        tokens = tokens + y
    return dense(norm(tokens, arrays, "pre_head_layer_norm").mean(1), arrays, "head")


def flax_vit(*, big_vision: bool) -> Arrays:
    """24 channels, 2 blocks of 3 heads, 16 patches of 8 pixels, class token."""
    mlp, attention, second = ("0", "0", "1") if big_vision else ("3", "1", "2")
    made = Maker()
    made.dense("embedding", 8, 8, 3, 24)
    made.put("cls", 1, 1, 24)
    made.put(
        *(
            ("pos_embedding", 1, 16, 24)
            if big_vision
            else ("Transformer/posembed_input/pos_embedding", 1, 17, 24)
        )
    )
    for i in range(2):
        block = f"Transformer/encoderblock_{i}"
        made.norm(f"{block}/LayerNorm_0", 24)
        for part in ("query", "key", "value"):
            made.dense(f"{block}/MultiHeadDotProductAttention_{attention}/{part}", 24, 3, 8, bias=(3, 8))
        made.dense(f"{block}/MultiHeadDotProductAttention_{attention}/out", 3, 8, 24)
        made.norm(f"{block}/LayerNorm_{second}", 24)
        made.dense(f"{block}/MlpBlock_{mlp}/Dense_0", 24, 96)
        made.dense(f"{block}/MlpBlock_{mlp}/Dense_1", 96, 24)
    made.norm("Transformer/encoder_norm", 24)
    made.dense("head", 24, 5)
    return made.arrays


def vit_logits(x: Tensor, arrays: Arrays, *, big_vision: bool) -> Tensor:
    mlp, attention, second = ("0", "0", "1") if big_vision else ("3", "1", "2")
    tokens = embed(x, arrays, "embedding", 8)
    cls = torch.from_numpy(arrays["cls"]).expand(len(x), -1, -1)
    if big_vision:
        tokens = torch.cat((cls, tokens + torch.from_numpy(arrays["pos_embedding"])), 1)
    else:
        positions = torch.from_numpy(arrays["Transformer/posembed_input/pos_embedding"])
        tokens = torch.cat((cls, tokens), 1) + positions
    for i in range(2):
        block = f"Transformer/encoderblock_{i}"
        heads = f"{block}/MultiHeadDotProductAttention_{attention}"
        y = norm(tokens, arrays, f"{block}/LayerNorm_0")
        q, k, v = (
            torch.einsum("bnc,chd->bnhd", y, torch.from_numpy(arrays[f"{heads}/{part}/kernel"]))
            + torch.from_numpy(arrays[f"{heads}/{part}/bias"])
            for part in ("query", "key", "value")
        )
        weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) / 8**0.5).softmax(-1)
        y = torch.einsum("bhnm,bmhd->bnhd", weights, v)
        y = torch.einsum("bnhd,hdc->bnc", y, torch.from_numpy(arrays[f"{heads}/out/kernel"]))
        tokens = tokens + y + torch.from_numpy(arrays[f"{heads}/out/bias"])
        y = norm(tokens, arrays, f"{block}/LayerNorm_{second}")
        y = dense(
            gelu(dense(y, arrays, f"{block}/MlpBlock_{mlp}/Dense_0")),
            arrays,
            f"{block}/MlpBlock_{mlp}/Dense_1",
        )
        tokens = tokens + y
    return dense(norm(tokens, arrays, "Transformer/encoder_norm")[:, 0], arrays, "head")


def flax_hybrid(arguments: dict[str, Any]) -> Arrays:
    """R26 with two units per stage, and one block of 3 heads."""
    made, dim = Maker(), arguments["dim"]
    made.put("conv_root/kernel", 7, 7, 3, 64)
    made.norm("gn_root", 64)
    channels = 64
    for stage in range(4):
        width = 64 * 2**stage
        for unit in range(2):
            where = f"block{stage + 1}/unit{unit + 1}"
            shapes = {1: (1, 1, channels, width), 2: (3, 3, width, width), 3: (1, 1, width, 4 * width)}
            for number, shape in shapes.items():
                made.put(f"{where}/conv{number}/kernel", *shape)
                made.norm(f"{where}/gn{number}", shape[-1])
            if unit == 0:
                made.put(f"{where}/conv_proj/kernel", 1, 1, channels, 4 * width)
                made.norm(f"{where}/gn_proj", 4 * width)
            channels = 4 * width
    made.dense("embedding", 1, 1, channels, dim)
    made.put("cls", 1, 1, dim)
    made.put("Transformer/posembed_input/pos_embedding", 1, (arguments["image_size"] // 32) ** 2 + 1, dim)
    block, head = "Transformer/encoderblock_0", dim // 3
    made.norm(f"{block}/LayerNorm_0", dim)
    for part in ("query", "key", "value"):
        made.dense(f"{block}/MultiHeadDotProductAttention_1/{part}", dim, 3, head, bias=(3, head))
    made.dense(f"{block}/MultiHeadDotProductAttention_1/out", 3, head, dim)
    made.norm(f"{block}/LayerNorm_2", dim)
    made.dense(f"{block}/MlpBlock_3/Dense_0", dim, 4 * dim)
    made.dense(f"{block}/MlpBlock_3/Dense_1", 4 * dim, dim)
    made.norm("Transformer/encoder_norm", dim)
    made.dense("head", dim, arguments["num_classes"])
    return {name: array.astype(np.float32) for name, array in made.arrays.items()}


def stacked(arrays: Arrays) -> Arrays:
    """As big_vision keeps scanned models: one array for all blocks."""
    own = {k: v for k, v in arrays.items() if "encoderblock_" not in k}
    for name in {k.partition("encoderblock_")[2][2:] for k in arrays if "encoderblock_" in k}:
        blocks = [arrays[f"Transformer/encoderblock_{i}/{name}"] for i in range(2)]
        own[f"Transformer/encoderblock/{name}"] = np.stack(blocks)
    return own


def test_mixer_of_a_flax_tree(tmp_path: Path) -> None:
    arrays = flax_mixer()
    model = build(make_spec("mlp_mixer", MIXER | {"activation": "gelu_tanh"})).double().eval()
    model.load_state_dict(to_isopatch(_saved(arrays, tmp_path), "mlp_mixer"))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert _error(model(x), mixer_logits(x, arrays)) <= 1e-10


MIXER = {"dim": 16, "depth": 2, "patch_size": 8, "image_size": 32, "num_classes": 5}


@pytest.mark.parametrize("root", ["", "params/", "opt/target/"])
@pytest.mark.parametrize("kind", ["vision_transformer", "big_vision", "big_vision, scanned"])
def test_vit_of_a_flax_tree(tmp_path: Path, kind: str, root: str) -> None:
    big_vision = kind != "vision_transformer"
    arrays = flax_vit(big_vision=big_vision)
    stored = {
        f"{root}{key}": value for key, value in (stacked(arrays) if "scanned" in kind else arrays).items()
    }
    if root == "opt/target/":
        stored["opt/state/step"] = np.array(3)
    model = build(make_spec("vit", VIT | {"activation": "gelu_tanh"})).double().eval()
    model.load_state_dict(to_isopatch(_saved(stored, tmp_path), "vit"))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert _error(model(x), vit_logits(x, arrays, big_vision=big_vision)) <= 1e-10


def test_erf_instead_of_tanh_would_be_noticed(tmp_path: Path) -> None:
    arrays = flax_vit(big_vision=False)
    model = build(make_spec("vit", VIT)).double().eval()
    model.load_state_dict(to_isopatch(_saved(arrays, tmp_path), "vit"))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert _error(model(x), vit_logits(x, arrays, big_vision=False)) > 1e-6


def _saved(arrays: Arrays, folder: Path) -> dict[str, Tensor]:
    np.savez(folder / "tree.npz", **arrays)
    return read_npz(folder / "tree.npz")


def _error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


# --- what is refused ------------------------------------------------------------------------------------


def test_a_file_with_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", cls=np.array([{"a": 1}], dtype=object))
    with pytest.raises(IsopatchError, match=r"objects\.npz: refused .* run code"):
        read_npz(tmp_path / "objects.npz")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = written(random_model("vit", VIT), tmp_path / "w.npz")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(IsopatchError, match=r"w\.npz: refused or damaged"):
        load(path, name="vit", arguments=_sizes(VIT))


def test_text_is_no_weights(tmp_path: Path) -> None:
    np.savez(tmp_path / "text.npz", cls=np.array(["a"]))
    with pytest.raises(IsopatchError, match="not numbers"):
        read_npz(tmp_path / "text.npz")


def test_another_width_and_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = written(random_model("vit", VIT), tmp_path / "w.npz")
    with pytest.raises(IsopatchError, match="of another shape"):
        load(path, name="vit", arguments=_sizes(VIT) | {"dim": 48})
    arrays = dict(np.load(path))
    arrays["cls"][0, 0, 0] = np.nan
    np.savez(path, **arrays)
    with pytest.raises(IsopatchError, match=r"prefix\.cls_token holds values that are not finite"):
        load(path, name="vit", arguments=_sizes(VIT))


def test_what_has_no_place_there_is_named() -> None:
    model = random_model("vit", VIT | {"layer_scale": 0.1})
    with pytest.raises(IsopatchError, match=r"blocks\.0\.token\.scale has no place"):
        from_isopatch(model.state_dict(), "vit", num_heads=3)


def test_bfloat16_stored_as_raw_bytes(tmp_path: Path) -> None:
    values = torch.randn(4, 3).bfloat16()
    np.savez(tmp_path / "b.npz", a=values.view(torch.int16).numpy().view("V2"))
    assert torch.equal(read_npz(tmp_path / "b.npz")["a"], values)
