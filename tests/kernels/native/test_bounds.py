"""No input makes the passes leave their memory: what does not fit is refused by PyTorch or by the library."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tests.kernels.native.models import GRIDS, SIZES, both, build, off, pictures, tokens
from torch import Tensor

from isopatch.kernels import swap
from isopatch.kernels.native.library import NativeLibrary, dtype_number, floats
from isopatch.nn.skeleton import Isotropic

ARCHITECTURES = pytest.mark.parametrize("architecture", SIZES)


def answer(model: Isotropic, images: Tensor) -> Tensor | str:
    """What the model says, or the error it raises."""
    try:
        with torch.no_grad():
            return model(images)
    except (RuntimeError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


@ARCHITECTURES
@pytest.mark.parametrize(
    "images",
    [
        pictures(2, channels=1),
        pictures(2, channels=4),
        pictures(2, channels=30),
        (50 * pictures(2)).to(torch.uint8),
        pictures(2).double(),
        pictures(2).half(),
        pictures(2)[0],
        pictures(2)[None],
    ],
    ids=["grey", "rgba", "30 channels", "uint8", "double", "half", "no batch", "5 dimensions"],
)
def test_pictures_of_another_kind_get_the_plain_modules_answer(
    native: NativeLibrary, architecture: str, images: Tensor
) -> None:
    plain, twin = both(architecture)
    wanted, found = (answer(model.eval(), images) for model in (plain, twin))
    assert isinstance(wanted, str) and found == wanted
    plain.train(), twin.train()
    assert answer(twin, images) == answer(plain, images)
    assert not isinstance(answer(twin.eval(), pictures(2)), str)


@ARCHITECTURES
@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((1, 64, "dim"), (2000, 2000)),
        ((1, 64, "dim"), (0, 0)),
        ((1, 64, 4096), (8, 8)),
        ((20, 17, 32), (4, 4)),
        ((17, "dim"), (4, 4)),
        ((2, 2, 17, "dim"), (4, 4)),
        ((4, 0, "dim"), (0, 0)),
        ((0, 16, "dim"), (4, 4)),
        ((0, 0, "dim"), (0, 0)),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_tokens_of_another_shape_get_the_plain_blocks_answer(
    native: NativeLibrary,
    architecture: str,
    shape: tuple[int | str, ...],
    grid: tuple[int, int],
    training: bool,
) -> None:
    sizes = [SIZES[architecture]["dim"] if each == "dim" else each for each in shape]
    found = []
    for model in both(architecture):
        given = torch.randn(sizes, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                found.append(model.train(training).blocks(given, grid))
        except (RuntimeError, ValueError, IndexError) as error:
            found.append(str(error))
    plain, twin = found
    if isinstance(plain, str):
        assert twin == plain
    else:
        assert isinstance(twin, Tensor) and torch.allclose(twin, plain, rtol=1e-4, atol=1e-4)


@ARCHITECTURES
def test_an_empty_batch_leaves_the_statistics_as_the_plain_modules_do(
    native: NativeLibrary, architecture: str
) -> None:
    plain, twin = both(architecture)
    told = [answer(model.train(), pictures(0)) for model in (plain, twin)]
    assert type(told[0]) is type(told[1])
    for a, b in zip(plain.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    assert all(buffer.isfinite().all() for buffer in twin.buffers())


def stem_sizes(**changes: int) -> dict[str, int]:
    sizes = {"images": 1, "height": 4, "width": 4, "in_channels": 3, "patch": 4, "inner": 64, "channels": 32}
    strides = {"stride_image": 0, "stride_channel": 0, "stride_row": 0, "stride_column": 0}
    return {"dtype": 0, "act": 0, **sizes, "chunk": 192, **strides, **changes}


def test_the_library_itself_refuses_sizes_that_do_not_fit(native: NativeLibrary) -> None:
    picture, out = torch.ones(4, 4), floats(1, 32)
    weight = native.pack(torch.ones(32, 64), torch.float32)

    def call(**changes: int) -> None:
        given = {"pictures": picture.data_ptr(), "weight": weight, "bias": torch.zeros(32), "out": out}
        native.call("stem_forward", **stem_sizes(**changes), **given)

    call()  # strides of 0: every value is the first pixel
    assert torch.equal(out, torch.full((1, 32), 48.0))
    for change in ({"in_channels": 5}, {"patch": 0}, {"inner": 48}, {"images": 0}, {"height": 3}):
        with pytest.raises(RuntimeError, match=r"native kernels refuse these sizes .stem_forward."):
            call(**change)
    with pytest.raises(RuntimeError, match="refuse these sizes"):
        native.call("transformer_infer", dtype=0, act=0, images=1, tokens=0, dim=32, hidden=32, heads=2)


def test_memory_of_another_type_or_place_is_refused(native: NativeLibrary) -> None:
    good, out = torch.ones(3, 8), floats(8)
    native.call("add_up", parts=3, size=8, in_=good, out=out)
    assert torch.equal(out, torch.full((8,), 3.0))
    bad = (good.double(), good.half(), torch.ones(8, 3).t(), torch.ones(3, 8, device="meta"))
    for parts in bad:
        with pytest.raises(TypeError, match=r"add_up: in is .*not contiguous torch.float32 on the CPU"):
            native.call("add_up", parts=3, size=8, in_=parts, out=out)
    with pytest.raises(TypeError, match="add_up: size is Tensor"):
        native.call("add_up", parts=3, size=torch.tensor(8), in_=good, out=out)
    with pytest.raises(TypeError, match=r"normalise: u is torch.bfloat16"):  # in a pass over float32
        sizes = {"dtype": dtype_number(torch.float32), "act": 0, "rows": 1, "channels": 32, "chunk": 1}
        native.call("normalise", **sizes, u=torch.ones(1, 32, dtype=torch.bfloat16))
    for matrix in (good.double(), torch.ones(32), torch.ones(32, 32, device="meta"), torch.ones(32, 33)):
        with pytest.raises(TypeError, match="pack: "):
            native.pack(matrix, torch.float32)


@ARCHITECTURES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_converted_after_the_swap_runs_plain(
    native: NativeLibrary, architecture: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    plain, twin = both(architecture)
    with torch.no_grad():
        twin.eval()(pictures())
        wanted, found = (model.eval().to(dtype)(pictures().to(dtype)) for model in (plain, twin))
    assert torch.equal(found, wanted)
    told = [message for message in caplog.messages if "parameters are not float32" in message]
    assert len(told) == 2, caplog.messages  # stem and blocks, once each
    twin.float()
    with torch.no_grad():
        assert off(twin(pictures()), plain.float()(pictures())) < 1e-5


@ARCHITECTURES
def test_one_part_in_another_type_is_not_read_as_float(native: NativeLibrary, architecture: str) -> None:
    _, twin = both(architecture)
    name = "pointwise_norm" if architecture == "convmixer" else "channel.norm"
    part = twin.blocks[0].get_submodule(name).bfloat16()
    with torch.no_grad():
        try:
            found = twin.eval().blocks(tokens(architecture), GRIDS[architecture])
        except RuntimeError as error:
            assert "type" in str(error).lower()  # PyTorch's own refusal
        else:
            part.float()
            assert off(found, twin.blocks(tokens(architecture), GRIDS[architecture])) < 1e-2


@pytest.mark.parametrize("order", [("avx512", "avx2"), ("avx2", "avx512"), ("avx512", "avx512_bf16")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_instructions_may_change_between_calls(
    native: NativeLibrary, order: tuple[str, str], precision: str
) -> None:
    """Widths at which the sets pad a row to different lengths: old borders must not be taken for zeros."""
    if native.supported == "avx2":
        pytest.skip("this CPU has one instruction set")
    model = build("convmixer", dim=32, depth=1, patch_size=1, image_size=(8, 20)).eval()
    swap(model, kernels="native", precision=precision)
    found = {}
    given = torch.randn(2, 160, 32, generator=torch.Generator().manual_seed(0)) + 3
    with torch.no_grad():
        for round_ in range(3):
            for name in order:
                native.choose(name)
                now = model.blocks(given, (8, 20))
                assert torch.equal(found.setdefault(name, now), now), (round_, name)
    assert off(found[order[0]], found[order[1]]) < (1e-5 if precision == "fp32" else 2e-2)


NO_MEMORY = """
import resource, sys
import torch
from isopatch.kernels import swap
from tests.kernels.native.models import build

torch.set_num_threads(int(sys.argv[1]))
model = build("convmixer", dim=64, depth=1, kernel_size=15, patch_size=1, image_size=8).eval()
swap(model, kernels="native", precision="fp32")
with torch.no_grad():
    small = torch.randn(1, 64, 64)
    before = model.blocks(small, (8, 8))
    large = torch.randn(1, 360_000, 64)
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 214 * 2**20, limit[1]))  # two activations, no plane
    try:
        model.blocks(large, (600, 600))
    except MemoryError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_AS, limit)
    print(torch.equal(model.blocks(small, (8, 8)), before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer needs memory itself")
@pytest.mark.parametrize("threads", [1, 2])
def test_no_memory_is_an_error_and_no_end_of_the_process(native: NativeLibrary, threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY, str(threads)], capture_output=True, text=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert lines == ["the native kernels found no memory to work in (depthwise_forward)", "True"], done
