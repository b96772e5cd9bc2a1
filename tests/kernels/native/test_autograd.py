"""What autograd and PyTorch's other watchers are owed: errors for changed inputs, operations to see."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.kernels.native.models import GRIDS, SIZES, both, off, pictures, tokens
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from isopatch.kernels.native.library import NativeLibrary
from isopatch.nn.skeleton import Isotropic

ARCHITECTURES = pytest.mark.parametrize("architecture", SIZES)
PYTORCHS_OWN_WARNINGS = pytest.mark.filterwarnings("ignore")  # of torch.jit, of slow fallbacks
CHANGED = "modified by an inplace operation"
WEIGHT = {
    "convmixer": "1.pointwise.weight",
    "vit": "1.channel.mixer.fc1.weight",
    "mlp_mixer": "1.channel.mixer.fc1.weight",
}
NORM = {
    "convmixer": "0.depthwise_norm.weight",
    "vit": "0.token.norm.weight",
    "mlp_mixer": "0.token.norm.weight",
}


def test_pictures_that_change_before_the_backward_pass(native: NativeLibrary) -> None:
    _, twin = both("convmixer")
    images = pictures()
    loss = twin.stem(images)[0].square().sum()
    images.zero_()
    with pytest.raises(RuntimeError, match=CHANGED):
        loss.backward()


@ARCHITECTURES
@pytest.mark.parametrize("what", ["tokens", "weight", "norm"])
def test_tokens_and_weights_that_change_before_the_backward_pass(
    native: NativeLibrary, architecture: str, what: str
) -> None:
    for model in both(architecture, **({"dim": 64} if architecture == "convmixer" else {})):  # no padding
        shape = (3, *tokens(architecture).shape[1:2], 64)
        given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        loss = model.blocks(given, GRIDS[architecture]).square().sum()
        names = {"weight": WEIGHT[architecture], "norm": NORM[architecture]}
        with torch.no_grad():
            (given if what == "tokens" else model.blocks.get_parameter(names[what])).mul_(2)
        with pytest.raises(RuntimeError, match=CHANGED):
            loss.backward()


@ARCHITECTURES
def test_biases_may_change_as_they_may_with_convolutions(native: NativeLibrary, architecture: str) -> None:
    if architecture != "convmixer":
        pytest.skip("a learned scale's gradient needs them")
    for model in both(architecture):
        loss = model(pictures()).square().sum()
        with torch.no_grad():
            model.blocks[0].pointwise.bias.add_(1)
        loss.backward()


@PYTORCHS_OWN_WARNINGS
@ARCHITECTURES
def test_traces_hold_operations(native: NativeLibrary, architecture: str) -> None:
    _, twin = both(architecture)
    with torch.no_grad():
        traced = torch.jit.trace(twin.eval(), pictures(2), check_trace=False)
        assert off(traced(pictures(5)), twin(pictures(5))) < 1e-5
        exported = torch.export.export(twin, (pictures(2),)).module()
        assert off(exported(2 * pictures(2)), twin(2 * pictures(2))) < 1e-5
        compiled = torch.compile(twin, backend="eager", fullgraph=True)
        assert off(compiled(pictures(2)), twin(pictures(2))) < 1e-5


@ARCHITECTURES
def test_tensors_without_memory(native: NativeLibrary, architecture: str) -> None:
    _, twin = both(architecture)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert twin.eval()(mode.from_tensor(pictures())).shape == (3, 4)
        assert twin(pictures()).shape == (3, 4)  # what it makes is fake
    on_meta = twin.to("meta")
    with torch.no_grad():
        assert on_meta(pictures().to("meta")).shape == (3, 4)
        with pytest.raises((RuntimeError, NotImplementedError)):
            on_meta(pictures())


@ARCHITECTURES
def test_pytorchs_defaults_do_not_reach_the_passes(native: NativeLibrary, architecture: str) -> None:
    _, twin = both(architecture)
    with torch.no_grad():
        before = twin.eval().blocks(tokens(architecture), GRIDS[architecture])
        given = tokens(architecture)
        try:
            torch.set_default_dtype(torch.float64)
            with torch.device("meta"):
                now = twin.train().eval().blocks(given, GRIDS[architecture])
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(before, now)


@PYTORCHS_OWN_WARNINGS
@ARCHITECTURES
@pytest.mark.parametrize("grad", [True, False])
def test_forward_derivatives(native: NativeLibrary, architecture: str, grad: bool) -> None:
    tangents: list[Tensor | str] = []
    for model in both(architecture):
        given = tokens(architecture)
        direction = torch.randn(given.shape, generator=torch.Generator().manual_seed(2))
        with forward_ad.dual_level(), torch.set_grad_enabled(grad):
            dual = forward_ad.make_dual(given, direction)
            try:
                out = forward_ad.unpack_dual(model.eval().blocks(dual, GRIDS[architecture])).tangent
            except NotImplementedError as error:  # PyTorch's fused attention has none
                tangents.append(str(error))
            else:
                assert isinstance(out, Tensor)
                tangents.append(out.detach())
    plain, twin = tangents
    if isinstance(plain, str):
        assert architecture == "vit" and twin == plain
    else:
        assert isinstance(twin, Tensor) and off(twin, plain) < 1e-5


@PYTORCHS_OWN_WARNINGS
@ARCHITECTURES
def test_functional_transforms(native: NativeLibrary, architecture: str) -> None:
    plain, twin = (model.eval() for model in both(architecture))
    found = []
    for model in (plain, twin):
        grid = GRIDS[architecture]

        def loss(one: Tensor, model: Isotropic = model, grid: tuple[int, int] = grid) -> Tensor:
            total: Tensor = model.blocks(one[None], grid).square().sum()
            return total

        gradient = torch.func.grad(loss)(tokens(architecture)[0])
        found.append(
            (gradient, torch.vmap(loss)(tokens(architecture)) if architecture == "vit" else gradient)
        )
    for a, b in zip(*found, strict=True):
        assert off(b, a) < 1e-5


@ARCHITECTURES
def test_fp16_autocast_is_the_plain_modules(native: NativeLibrary, architecture: str) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        plain, twin = (model.eval().final_features(pictures()).tokens for model in both(architecture))
    assert plain.dtype == twin.dtype and torch.equal(plain, twin)


@ARCHITECTURES
def test_counting_operations_counts_all(native: NativeLibrary, architecture: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    counted = []
    for model in both(architecture):
        with FlopCounterMode(display=False) as mode:
            model.eval()(pictures().requires_grad_())
        counted.append(mode.get_total_flops())
    assert counted[0] == counted[1] > 0


@ARCHITECTURES
def test_the_mode_may_be_set_while_another_thread_asks(native: NativeLibrary, architecture: str) -> None:
    _, twin = both(architecture)
    given, grid, wrong = tokens(architecture), GRIDS[architecture], []
    with torch.no_grad():
        wanted = twin.eval().blocks(given, grid)

    def ask() -> None:
        try:
            with torch.no_grad():
                for _ in range(60):
                    assert torch.equal(twin.blocks(given, grid), wanted)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        twin.blocks.eval()
    assert not wrong
