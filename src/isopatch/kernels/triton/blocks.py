"""The run of a ConvMixer's blocks on the GPU, in one memory layout from end to end."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from isopatch.kernels.triton.choose import measure
from isopatch.kernels.triton.forms import Activation, Form, Layout, Step, candidates, form_named
from isopatch.kernels.triton.halves import depthwise_half, pointwise_half
from isopatch.kernels.twin import DTYPES, Precision, Unfit
from isopatch.models.convmixer import ConvMixerBlock
from isopatch.nn.blocks import Blocks
from isopatch.nn.layout import Grid, as_map
from isopatch.nn.norms import frozen_statistics

LARGEST_KERNEL = 15

log = logging.getLogger("isopatch")


class TritonConvMixer(Blocks):
    """The twin of a ConvMixer's blocks; holds the same blocks.

    dtype: what activations are stored in and the 1x1 products multiply (float32, bfloat16, float16), whatever
        autocast says; sums are float32. The result has the type the plain blocks would return: autocast's
        where that is on, else the input's.
    choices: shape -> form, measured on the GPU when a shape first comes; a record can be given before
        (`choose.replay`).
    What it cannot run here (another device, float64, recomputation, torch.compile, a norm replaced meanwhile)
    the plain blocks do; where that surprises, it is logged once.
    """

    twin_name = "Triton ConvMixer blocks"
    twin_library = "triton"

    def __init__(self, blocks: Blocks, dtype: torch.dtype) -> None:
        """Hold the plain blocks' own children."""
        super().__init__(list(blocks))
        self.dtype = dtype
        self.choices: dict[str, str] = {}
        self._told: set[str] = set()

    def forward(self, tokens: Tensor, grid: Grid, *, recompute: bool = False) -> Tensor:
        """Run all blocks over tokens (B, N, C)."""
        if recompute or torch.compiler.is_compiling() or self._left_to_plain(tokens):
            return super().forward(tokens, grid, recompute=recompute)
        as_map(tokens, grid)  # raises where they do not belong together
        device = tokens.device.type
        result_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype
        here = torch.cuda.device_of(tokens)  # type: ignore[no-untyped-call]
        with torch.autocast(device, enabled=False), here:
            x = tokens.to(self.dtype).view(tokens.shape[0], *grid, tokens.shape[2])
            form = self._form(x)
            x = arrange(x, form.layout)
            for block in self:
                assert isinstance(block, ConvMixerBlock)
                x = run_block(block, x, form)
            if form.layout == "channels":
                x = x.permute(1, 2, 3, 0)
            return x.flatten(1, 2).to(result_dtype).contiguous()

    def _left_to_plain(self, tokens: Tensor) -> bool:
        if tokens.numel() == 0 or (self.training and tokens.shape[0] * tokens.shape[1] == 1):
            return True  # nothing to do, or an error that PyTorch words
        why = next((why for block in self if (why := unfit(block)) is not None), None)
        if tokens.device.type not in ("cuda", "cpu") or (tokens.device.type == "cpu" and not interpreted()):
            why = f"the tokens are on {tokens.device.type}"
        elif tokens.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            why = f"the tokens are {tokens.dtype}"
        if why is not None and why not in self._told:
            self._told.add(why)
            log.warning("kernels triton: the plain blocks run, because %s", why)
        return why is not None

    def _form(self, x: Tensor) -> Form:
        """Return the form for tokens x (B, H, W, C): recorded, measured now, or the rule."""
        first = self[0]
        assert isinstance(first, ConvMixerBlock)
        learns = torch.is_grad_enabled()
        kernel_size = first.depthwise.kernel_size[0]
        shape = shape_name(x, kernel_size, learns)
        if shape not in self.choices:
            forms = candidates(x.shape[2], kernel_size, x.dtype)
            if not x.is_cuda or torch.cuda.is_current_stream_capturing():
                return forms[0]
            times = measure({form.name: _trial(first, x, form, learns) for form in forms})
            self.choices[shape] = min(times, key=times.__getitem__)
            told = ", ".join(f"{name} {milliseconds:.2f} ms" for name, milliseconds in times.items())
            log.info("kernels triton: %s: %s (%s)", shape, self.choices[shape], told)
        return form_named(self.choices[shape])


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


def _trial(block: ConvMixerBlock, x: Tensor, form: Form, learns: bool) -> Callable[[], object]:
    """Run one block as training or inference would, leaving no trace in statistics or gradients."""
    given = arrange(x.detach(), form.layout).requires_grad_(learns)
    wanted = [given, *(parameter for parameter in block.parameters() if parameter.requires_grad)]

    def run() -> object:
        with frozen_statistics(block):
            out = run_block(block, given, form)
            return torch.autograd.grad(out, wanted, out.detach()) if learns else out

    return run


def activation_of(module: nn.Module) -> Activation:
    """Name an activation that `unfit` let pass."""
    return "relu" if isinstance(module, nn.ReLU) else "gelu"


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on the CPU."""
    import triton

    return bool(triton.knobs.runtime.interpret)


def unfit(block: nn.Module) -> str | None:
    """Say why a block cannot be served, or None."""
    if type(block) is not ConvMixerBlock:
        return f"{type(block).__name__} is no ConvMixerBlock"
    if type(block.depthwise) is not nn.Conv2d or type(block.pointwise) is not nn.Conv2d:
        return "a convolution of the block was replaced"
    size = block.depthwise.kernel_size[0]
    if size > LARGEST_KERNEL:
        return f"kernel_size {size} is larger than {LARGEST_KERNEL}"
    if block.depthwise.bias is None or block.pointwise.bias is None:
        return "a convolution of the block has no bias"
    activation = block.activation
    exact = isinstance(activation, nn.GELU) and activation.approximate == "none"
    if not exact and type(activation) is not nn.ReLU:
        return f"activation {activation} is neither exact GELU nor ReLU"
    for norm in (block.depthwise_norm, block.pointwise_norm):
        if type(norm) is not nn.BatchNorm2d:
            return f"{type(norm).__name__} is no plain BatchNorm2d"
        if not norm.affine or not norm.track_running_stats or norm.momentum is None:
            return "BatchNorm2d without weights, running statistics or momentum"
    return None


def make_convmixer(module: nn.Module, precision: Precision) -> TritonConvMixer | Unfit | None:
    """Make the twin of a `Blocks` that holds ConvMixer's blocks and nothing else."""
    if type(module) is not Blocks or not any(isinstance(block, ConvMixerBlock) for block in module):
        return None
    why = next((why for block in module if (why := unfit(block)) is not None), None)
    if why is not None:
        return Unfit(why)
    return TritonConvMixer(module, DTYPES[precision])
