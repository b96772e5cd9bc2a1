"""No answer comes from old weights, however they changed since the last one."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable

import pytest
import torch
from tests.kernels.native.models import SIZES, both, build, off, pictures
from torch import Tensor, nn

from isopatch.kernels import swap
from isopatch.kernels.native.laid_out import LaidOut
from isopatch.kernels.native.library import NativeLibrary
from isopatch.nn.skeleton import Isotropic

ARCHITECTURES = pytest.mark.parametrize("architecture", SIZES)


def halve(model: Isotropic) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(0.5)


def replace_memory(model: Isotropic) -> None:
    for parameter in model.parameters():
        parameter.data = 0.5 * parameter.data


def average(model: Isotropic) -> None:
    """A moving average, as many training scripts write it."""
    drawn = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        parameter.data.mul_(0.9).add_(0.02 * torch.randn(parameter.shape, generator=drawn))


def assign(model: Isotropic) -> None:
    state = {name: 0.7 * v if v.is_floating_point() else v.clone() for name, v in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def one_bias(model: Isotropic) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.data[3] += 1


@ARCHITECTURES
@pytest.mark.parametrize("change", [halve, replace_memory, average, assign, one_bias])
def test_changes_behind_pytorchs_back(
    native: NativeLibrary, architecture: str, change: Callable[[Isotropic], None]
) -> None:
    plain, twin = both(architecture)
    plain.eval(), twin.eval()
    with torch.no_grad():
        for _ in range(4):
            before = twin(pictures())
            change(plain), change(twin)
            after = twin(pictures())
            assert off(after, before) > 1e-4
            assert off(after, plain(pictures())) < 1e-5


@ARCHITECTURES
def test_changes_are_seen_in_the_stem_too(native: NativeLibrary, architecture: str) -> None:
    plain, twin = both(architecture)
    with torch.no_grad():
        for _ in range(3):
            tokens = twin.eval().stem(pictures())[0]
            halve(plain), halve(twin)
            assert off(twin.stem(pictures())[0], tokens) > 1e-4
            assert off(twin.stem(pictures())[0], plain.eval().stem(pictures())[0]) < 1e-5


@ARCHITECTURES
def test_weights_given_for_one_call(native: NativeLibrary, architecture: str) -> None:
    plain, twin = both(architecture)
    plain.eval(), twin.eval()
    with torch.no_grad():
        for step in range(12):  # freed and used again, the memory of the last call's weights is this one's
            scale = 0.5 + 0.05 * step
            given = {n: scale * v if v.is_floating_point() else v for n, v in plain.state_dict().items()}
            wanted, found = (torch.func.functional_call(m, given, (pictures(),)) for m in (plain, twin))
            del given
            assert off(found, wanted) < 1e-5
        assert off(twin(pictures()), plain(pictures())) < 1e-5


@ARCHITECTURES
def test_inference_mode(native: NativeLibrary, architecture: str) -> None:
    """Its tensors do not count their changes."""
    with torch.inference_mode():
        plain, twin = both(architecture)
        for _ in range(3):
            assert off(twin.eval()(pictures()), plain.eval()(pictures())) < 1e-5
            for model in (plain, twin):
                for parameter in model.parameters():
                    parameter[..., -1] += 0.5


@ARCHITECTURES
def test_models_are_pickled_without_what_was_laid_out(native: NativeLibrary, architecture: str) -> None:
    model = build(architecture).eval()
    swap(model, kernels="native", precision="fp32")
    sizes = []
    for _ in range(2):
        written = pickle.dumps(model)
        sizes.append(len(written))
        restored = pickle.loads(written)
        with torch.no_grad():
            assert torch.equal(restored(pictures()), model(pictures()))
        torch.save(model, io.BytesIO())
    assert sizes[0] == sizes[1]


@ARCHITECTURES
def test_the_parameters_looked_at_are_all(native: NativeLibrary, architecture: str) -> None:
    _, twin = both(architecture)
    with torch.no_grad():
        twin(pictures())
    found, wanted = twin.blocks._intact.parameters(), list(twin.blocks.parameters())
    assert len(found) == len(wanted) and all(a is b for a, b in zip(found, wanted, strict=True))


def test_what_is_kept_and_when(native: NativeLibrary) -> None:
    made: list[int] = []
    kept: LaidOut[int] = LaidOut()

    def ask(*tensors: Tensor, settings: object = None) -> int:
        return kept.of(native, tensors, settings, lambda: made.append(0) or len(made))

    matrix, vector = nn.Parameter(torch.randn(64, 64)), nn.Parameter(torch.randn(1000))
    assert ask(matrix, vector) == ask(matrix, vector) == 1
    vector.data[-1] += 1e-3
    assert ask(matrix, vector) == 2
    with torch.no_grad():
        matrix[5, 5] += 1e-3
    assert ask(matrix, vector) == ask(matrix, vector) == 3
    assert ask(matrix, vector, settings=1e-5) == 4 and ask(matrix, vector, settings=1e-6) == 5
    assert ask(matrix.detach(), vector, settings=1e-6) == 6  # another tensor, though the same memory
    assert ask(matrix, vector) == 7
    kept.forget()
    assert ask(matrix, vector) == 8
    native.choose("avx2")
    assert ask(matrix, vector) == 9
    computed = matrix * 2
    assert ask(computed) == 10 and ask(computed) == 11  # is not kept: it would keep a graph alive
