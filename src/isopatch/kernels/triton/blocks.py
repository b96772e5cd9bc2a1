"""The run of a ConvMixer's blocks on the GPU, in one memory layout from end to end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from isopatch.kernels.convmixer_fit import unfit_blocks
from isopatch.kernels.fallback import CPU, Teller, altered, followed, hooked
from isopatch.kernels.intact import Intact
from isopatch.kernels.triton import too_old
from isopatch.kernels.triton.choose import fits, measure
from isopatch.kernels.triton.forms import Activation, Form, Layout, Step, candidates, form_named
from isopatch.kernels.triton.halves import depthwise_half, pointwise_half
from isopatch.kernels.triton.settings import Settings
from isopatch.kernels.twin import DTYPES, Precision, Unfit
from isopatch.models.convmixer import ConvMixerBlock
from isopatch.nn.blocks import Blocks
from isopatch.nn.layout import Grid
from isopatch.nn.norms import frozen_statistics

log = logging.getLogger("isopatch")


class TritonConvMixer(Blocks):
    """The twin of a ConvMixer's blocks; holds the same blocks.

    dtype: what activations are stored in and the 1x1 products multiply (float32, bfloat16, float16), whatever
        autocast says; sums are float32. The result has the type the plain blocks would return: autocast's
        where that is on, else the input's.
    choices: shape -> form, measured on the GPU when a shape first comes; a record can be given before
        (`choose.replay`).
    The plain blocks run where activations are to be recomputed, where PyTorch watches (`followed`), for
    tokens that such blocks do not take, and, said once, where the blocks are no longer what was replaced, for
    tokens of another device or type, and for a shape of which no form fits the GPU.
    """

    twin_name = "Triton ConvMixer blocks"
    twin_library = "triton"

    def __init__(self, blocks: Blocks, dtype: torch.dtype) -> None:
        """Hold the plain blocks' own children."""
        super().__init__(list(blocks))
        self.dtype = dtype
        self.choices: dict[str, str] = {}
        self._tell = Teller("ConvMixer blocks run", self.twin_library)
        self._intact = Intact()
        self._settings = Settings()
        self._fitting: dict[object, bool] = {}  # what was tried on a GPU -> whether it could be run

    def __getitem__(self, index: int | slice) -> Any:
        """Return a block, or plain `Blocks` of some."""
        return Blocks(list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    def forward(self, tokens: Tensor, grid: Grid, *, recompute: bool = False) -> Tensor:
        """Run all blocks over tokens (B, N, C)."""
        if recompute or followed(tokens) or self._altered(tokens) or not self._takes(tokens, grid):
            return super().forward(tokens, grid, recompute=recompute)
        device = tokens.device.type
        result_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype
        here = torch.cuda.device_of(tokens)  # type: ignore[no-untyped-call]
        with torch.autocast(device, enabled=False), here:
            x = tokens.to(self.dtype).view(tokens.shape[0], *grid, tokens.shape[2])
            form = self._form(x)
            if form is not None:
                x = arrange(x, form.layout)
                for block in self._plain():
                    x = run_block(block, x, form)
                if form.layout == "channels":
                    x = x.permute(1, 2, 3, 0)
                return x.flatten(1, 2).to(result_dtype).contiguous()
        return super().forward(tokens, grid)

    def _plain(self) -> Sequence[ConvMixerBlock]:
        return cast("Sequence[ConvMixerBlock]", list(self._modules.values()))

    def _altered(self, tokens: Tensor) -> bool:
        """Whether the kernels cannot stand in for the blocks, or not for these tokens, which is said once."""
        device = tokens.device
        if device.type not in ("cuda", "cpu") or (device.type == "cpu" and not interpreted()):
            why: str | None = f"the tokens are on {device.type}"
        elif tokens.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            why = f"the tokens are {tokens.dtype}"
        elif self._intact() and self._settings(device):
            return False
        else:
            why = (too_old(device) if device.type == "cuda" else None) or unfit(self, device)
            if why is None:
                self._intact.remember(self)
                self._settings.remember(self, device)
        return self._tell(why)

    def _takes(self, tokens: Tensor, grid: Grid) -> bool:
        """Whether these are tokens of such blocks; what is not, the plain blocks refuse in their words."""
        blocks = self._plain()
        if tokens.dim() != 3 or tokens.numel() == 0 or min(grid) < 1:
            return False
        if tokens.shape[1] != grid[0] * grid[1] or tokens.shape[2] != blocks[0].pointwise.out_channels:
            return False
        several = tokens.shape[0] * tokens.shape[1] > 1  # values of which there is a variance
        return several or not any(norm.training for block in blocks for norm in _norms(block))

    def _form(self, x: Tensor) -> Form | None:
        """Return the form for tokens x (B, H, W, C): recorded, measured now, or the rule.

        None where the GPU cannot run any, or cannot be asked now; that is said once.
        """
        learns = torch.is_grad_enabled()
        kinds = {_kind(block): block for block in self._plain()}
        kernel_size = max(block.depthwise.kernel_size[0] for block in kinds.values())
        shape = shape_name(x, kernel_size, learns)
        forms = candidates(x.shape[2], kernel_size, x.dtype)
        recorded = form_named(self.choices[shape]) if shape in self.choices else None
        if not has_limits(x):
            return recorded or forms[0]
        tried = (shape, x.device, frozenset(kinds))
        if recorded is not None and self._fitting.get((tried, recorded)):
            return recorded
        nothing = f"this GPU can run no form of {shape}"
        if self._fitting.get(tried) is False:
            self._tell(nothing)
            return None
        if torch.cuda.is_current_stream_capturing():
            self._tell(f"{shape} first came while a CUDA graph was captured, when nothing can be tried")
            return None
        if recorded is not None:
            if fits(recorded.name, _trial(kinds.values(), x, recorded, learns)):
                self._fitting[tried, recorded] = True
                return recorded
            log.warning("kernels triton: %s: %s does not fit this GPU, measuring", shape, recorded.name)
        times = measure({form.name: _trial(kinds.values(), x, form, learns) for form in forms})
        self._fitting[tried] = bool(times)
        if not times:
            self._tell(nothing)
            return None
        self.choices[shape] = min(times, key=times.__getitem__)
        chosen = form_named(self.choices[shape])
        self._fitting[tried, chosen] = True
        told = ", ".join(f"{name} {milliseconds:.2f} ms" for name, milliseconds in times.items())
        log.info("kernels triton: %s: %s (%s)", shape, self.choices[shape], told)
        return chosen


def run_block(block: ConvMixerBlock, x: Tensor, form: Form) -> Tensor:
    """Run one block on a map in the form's layout."""
    step = Step(form, activation_of(block.activation))
    x = depthwise_half(x, block.depthwise, block.depthwise_norm, step)
    return pointwise_half(x, block.pointwise, block.pointwise_norm, step)


def arrange(x: Tensor, layout: Layout) -> Tensor:
    """Bring tokens (B, H, W, C) into a layout."""
    return (x.permute(3, 0, 1, 2) if layout == "channels" else x).contiguous()


def shape_name(x: Tensor, kernel_size: int, learns: bool) -> str:
    """Name what a choice depends on, without the batch's size: "bfloat16 k9 32x32 c1536 training"."""
    _, rows, cols, channels = x.shape
    kind = "training" if learns else "inference"
    return f"{str(x.dtype).removeprefix('torch.')} k{kernel_size} {rows}x{cols} c{channels} {kind}"


def _kind(block: ConvMixerBlock) -> tuple[object, ...]:
    """What else decides which kernels are launched: blocks of a kind need the same of a GPU."""
    convolution, activation = (cast(Any, block._modules[name]) for name in ("depthwise", "activation"))
    learns = convolution._parameters["weight"].requires_grad
    modes = tuple(norm.training for norm in _norms(block))
    return convolution.kernel_size[0], learns, activation_of(activation), modes


def _norms(block: ConvMixerBlock) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    parts = cast("dict[str, nn.BatchNorm2d]", block._modules)  # past `nn.Module.__getattr__`, which is slow
    return parts["depthwise_norm"], parts["pointwise_norm"]


def _trial(blocks: Iterable[ConvMixerBlock], x: Tensor, form: Form, learns: bool) -> Callable[[], object]:
    """Run blocks as training or inference would, leaving no trace in statistics or gradients."""
    given = arrange(x.detach(), form.layout).requires_grad_(learns)

    def run_one(block: ConvMixerBlock) -> object:
        wanted = [given, *(parameter for parameter in block.parameters() if parameter.requires_grad)]
        with frozen_statistics(block):
            out = run_block(block, given, form)
            return torch.autograd.grad(out, wanted, out.detach()) if learns else out

    return lambda: [run_one(block) for block in blocks]


def activation_of(module: nn.Module) -> Activation:
    """Name an activation that `unfit` let pass."""
    return "relu" if isinstance(module, nn.ReLU) else "gelu"


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on the CPU."""
    import triton

    return bool(triton.knobs.runtime.interpret)


def has_limits(x: Tensor) -> bool:
    """Whether x is where a form may need more than there is, and can be timed: not in the interpreter."""
    return x.is_cuda


def unfit(blocks: nn.Module, device: torch.device) -> str | None:
    """Say why the kernels cannot do on a device what these blocks do, or None where they can."""
    reason = unfit_blocks(blocks, device)
    if reason is not None:
        return reason
    for block in blocks._modules.values():
        for norm in _norms(cast(ConvMixerBlock, block)):
            kept = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
            if not norm.track_running_stats or norm.momentum is None or any(each is None for each in kept):
                return "BatchNorm2d without running statistics or momentum"
    if any(not each.is_contiguous() for each in (*blocks.parameters(), *blocks.buffers()) if each.dim() == 1):
        return "parameters have gaps in memory"
    return None


def make_convmixer(module: nn.Module, precision: Precision) -> TritonConvMixer | Unfit | None:
    """Make the twin of a `Blocks` that holds ConvMixer's blocks and nothing else."""
    if type(module) is not Blocks or not any(isinstance(block, ConvMixerBlock) for block in module):
        return None
    device = next((parameter.device for parameter in module.parameters()), CPU)
    why = "the blocks have hooks" if hooked(module) else altered(module, (Blocks,), frozenset())
    why = why or unfit(module, device)
    return TritonConvMixer(module, DTYPES[precision]) if why is None else Unfit(why)
