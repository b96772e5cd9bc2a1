"""The published sizes against timm, by name: same weights, same logits, same input gradient.

Slow: `pytest -m slow tests/parity`; `python -m benchmarks.parity_published` records the figures. Both models
share one copy of the weights. What would need more than 2 GB of weights is left out: the two huge models, and
the large ones in float64.
"""

from __future__ import annotations

import warnings

import pytest
import torch

from isopatch.models.formats.timm import to_isopatch
from isopatch.models.spec import build, make_spec, resolve
from isopatch.models.table import MODELS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    timm = pytest.importorskip("timm")

LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}
WEIGHT_BYTES = 2e9
SHARED = [name for name in MODELS if timm.is_model(name)]


def test_every_name_of_timms_families_is_there() -> None:
    assert len(SHARED) == 38  # 19 ViT, 8 DeiT, 8 DeiT III, 3 ConvMixer


@pytest.mark.slow
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("name", SHARED)
def test_published_size(name: str, dtype: torch.dtype) -> None:
    entry = resolve(name)
    size = torch.empty((), dtype=dtype).element_size()
    assert entry.parameters is not None
    if entry.parameters * size > WEIGHT_BYTES:
        pytest.skip(f"{entry.parameters * size / 1e9:.1f} GB of weights, the limit is 2 GB")
    errors = published_errors(name, dtype)
    assert max(errors.values()) <= LIMITS[dtype], errors


def published_errors(name: str, dtype: torch.dtype) -> dict[str, float]:
    """Relative errors of logits and input gradient, eval mode, two pictures."""
    torch.manual_seed(0)
    reference = timm.create_model(name, num_classes=1000).eval().requires_grad_(False).to(dtype)
    with torch.no_grad():
        for key, buffer in reference.state_dict().items():
            if buffer.dim() == 1 and buffer.is_floating_point():
                # Norms, biases, layer scales and BatchNorm statistics start at 0, 1 or 1e-6: spread them.
                centre = 0.0 if key.endswith(("bias", "running_mean")) else 1.0
                buffer.copy_(centre + 0.1 * torch.rand_like(buffer))
    with torch.device("meta"):
        ours = build(make_spec(name, {})).eval()
    ours.load_state_dict(to_isopatch(reference.state_dict(), ours.spec.architecture), assign=True)
    ours.requires_grad_(False)
    contract = ours.spec.input
    x = torch.randn(2, 3, contract.height, contract.width, dtype=dtype)
    weight = torch.randn(2, 1000, dtype=dtype)
    results = []
    for model in (ours, reference):
        picture = x.clone().requires_grad_()
        logits = model(picture)
        (logits * weight).sum().backward()
        results.append((logits.detach(), picture.grad))
    (logits, gradient), (expected, expected_gradient) = results
    return {
        "logits": float((logits - expected).abs().max() / expected.abs().max()),
        "input gradient": float((gradient - expected_gradient).abs().max() / expected_gradient.abs().max()),
    }
