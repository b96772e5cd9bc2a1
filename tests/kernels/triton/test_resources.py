"""A GPU that lacks something runs another form, or the plain blocks; here launches say what it lacks."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from isopatch.kernels.triton import choose
from isopatch.models.convmixer import ConvMixerBlock
from isopatch.nn.blocks import Blocks

blocks_module = pytest.importorskip("isopatch.kernels.triton.blocks", exc_type=ImportError)

GRID = (2, 3)
LARGE, SMALL = "direct-8x16x64", "direct-4x16x64"  # what there is for float32
INFERENCE = "float32 k3 2x3 c4 inference"
Lacking = Callable[..., list[int]]


class Event:
    """Stands for a time measured on a GPU."""

    def __init__(self, enable_timing: bool) -> None:
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 1.0


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> Lacking:
    """Make launches of a kernel with tiles of these rows fail, as on a GPU; return the rows of all."""
    from triton.runtime.errors import OutOfResources

    from isopatch.kernels.triton.device import direct

    monkeypatch.setattr(blocks_module, "has_limits", lambda x: True)
    monkeypatch.setattr(blocks_module, "measure", functools.partial(choose.measure, repeats=1))
    monkeypatch.setattr(choose, "WARM_UP", 1)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    def lack(kernel: str, *rows: int) -> list[int]:
        launched: list[int] = []
        real = getattr(direct, kernel)

        class Kernel:
            def __getitem__(self, grid: object) -> Callable[..., object]:
                def launch(*given: object, **options: int) -> object:
                    launched.append(options["ROWS"])
                    if options["ROWS"] in rows:
                        raise OutOfResources(300_000, 232_448, "shared memory")
                    return real[grid](*given, **options)

                return launch

        monkeypatch.setattr(direct, kernel, Kernel())
        return launched

    return lack


def pair() -> tuple[Blocks, Blocks]:
    """Plain blocks, and a twin of the same weights."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(Blocks(ConvMixerBlock(4, 3) for _ in range(2)))
    return found[0], blocks_module.TritonConvMixer(found[1], torch.float32)


def tokens() -> Tensor:
    return torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))


def step(blocks: Blocks) -> list[Tensor]:
    """Result, gradients and running statistics of a training step."""
    out = blocks.train()(tokens(), GRID)
    out.square().sum().backward()
    gradients = [each.grad for each in blocks.parameters()]
    return [out.detach(), *gradients, *(each.clone() for each in blocks.buffers())]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_where_no_form_fits_the_plain_blocks_run(lacking: Lacking, caplog: pytest.LogCaptureFixture) -> None:
    launched = lacking("convolve", 4, 8)
    plain, twin = pair()
    assert same(step(twin), step(plain))
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(twin.eval()(tokens(), GRID), plain.eval()(tokens(), GRID))
    assert launched == [8, 4, 8, 4]  # each form once for training, once for inference
    assert twin.choices == {}
    said = [each for each in caplog.messages if "does not fit" not in each]
    why = "kernels triton: the plain ConvMixer blocks run, because this GPU can run no form of"
    assert said == [f"{why} float32 k3 2x3 c4 {kind}" for kind in ("training", "inference")]


def test_where_one_form_does_not_fit_the_other_runs(lacking: Lacking) -> None:
    """The control."""
    lacking("convolve", 8)
    plain, twin = pair()
    for one, other in zip(step(twin), step(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert set(twin.choices.values()) == {SMALL} and not twin._tell._told


def test_what_lacks_on_the_way_back_is_found_before_the_first_step(lacking: Lacking) -> None:
    lacking("weight_gradient", 4, 8)
    plain, twin = pair()
    assert same(step(twin), step(plain))
    with torch.no_grad():
        assert not torch.equal(twin.eval()(tokens(), GRID), plain.eval()(tokens(), GRID))  # it needs none
    assert len(twin._tell._told) == 1


def test_what_is_trained_later_is_tried_then(lacking: Lacking) -> None:
    """The first block's weights are frozen, the second's are not."""
    lacking("weight_gradient", 4, 8)
    plain, twin = pair()
    for blocks in (plain, twin):
        blocks.requires_grad_(False)
    assert twin.train()(tokens(), GRID).shape == (2, 6, 4) and not twin._tell._told
    plain.train()(tokens(), GRID)
    for blocks in (plain, twin):
        blocks[1].requires_grad_(True)
        blocks(tokens(), GRID).square().sum().backward()
    assert twin._tell._told
    assert torch.equal(twin[1].depthwise.weight.grad, plain[1].depthwise.weight.grad)


@pytest.mark.parametrize(("rows", "runs"), [((), LARGE), ((8,), SMALL), ((4, 8), None)])
def test_a_recorded_form_is_tried_on_this_gpu_once(
    lacking: Lacking, caplog: pytest.LogCaptureFixture, rows: tuple[int, ...], runs: str | None
) -> None:
    launched = lacking("convolve", *rows)
    plain, twin = pair()
    twin.choices[INFERENCE] = LARGE
    with torch.no_grad():
        got, wanted = twin.eval()(tokens(), GRID), plain.eval()(tokens(), GRID)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        assert torch.equal(got, wanted) is (runs is None)
        count = len(launched)
        twin(tokens(), GRID)
    assert launched[count:] == ([] if runs is None else [8 if runs == LARGE else 4] * 2)
    assert twin.choices[INFERENCE] == (runs or LARGE)
    assert ("direct-8x16x64 does not fit this GPU, measuring" in caplog.text) is (runs != LARGE)
    assert (set(launched) == {8}) is (runs == LARGE)  # nothing else was measured


def test_a_shape_that_first_comes_in_a_cuda_graph_is_the_plain_blocks(
    lacking: Lacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking("convolve")
    plain, twin = (blocks.eval() for blocks in pair())
    with torch.no_grad():
        wanted = plain(tokens(), GRID)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert torch.equal(twin(tokens(), GRID), wanted)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        before = twin(tokens(), GRID)
        assert not torch.equal(before, wanted)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert torch.equal(twin(tokens(), GRID), before)
    assert len(twin._tell._told) == 1
