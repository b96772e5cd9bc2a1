"""What runs: the twins where they fit, plain modules where they do not, and a reason, once."""

import copy

import pytest
import torch

from isopatch.errors import UsageError
from isopatch.kernels import swap
from isopatch.kernels.use import use
from isopatch.models.convmixer import convmixer
from isopatch.models.vit import vit

SIZES = {"dim": 12, "depth": 2, "kernel_size": 5, "patch_size": 2, "image_size": 12, "num_classes": 3}


def model(**changes):
    torch.manual_seed(0)
    return convmixer(**SIZES | changes)


def pictures():
    return torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def close(a, b):
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_convmixer_runs_on_twins_and_can_be_put_back(needs_native):
    plain = model().eval()
    twin = copy.deepcopy(plain)
    swapped = use(twin, kernels="auto", precision="fp32")
    assert swapped.kernels == "native" and swapped.instructions in str(swapped)
    assert [each.path for each in swapped.replaced] == ["stem", "blocks"] and not swapped.kept
    assert list(twin.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        assert close(twin(pictures()), plain(pictures()))
    swapped.undo()
    assert [type(module) for module in twin.modules()] == [type(module) for module in plain.modules()]


def test_a_kernel_too_large_stays_plain_and_says_so(needs_native):
    plain = model(kernel_size=17).eval()
    twin = copy.deepcopy(plain)
    swapped = use(twin, kernels="native", precision="fp32")
    assert swapped.kernels == "plain" and type(twin.stem).__name__ == "PatchStem"
    assert str(swapped).count("blocks: kernel_size 17 is larger than 15") == 1
    assert str(swapped).count("stem: a twin gains nothing beside plain blocks") == 1
    with torch.no_grad():
        assert close(twin(pictures()), plain(pictures()))


def test_where_nothing_fits_the_kernels_are_plain_and_both_reasons_are_said(needs_native):
    network = model(activation="gelu_tanh")
    swapped = use(network, kernels="native", precision="fp32")
    assert swapped.kernels == "plain" and swapped.instructions is None
    assert "\n" not in str(swapped)
    for part in ("stem", "blocks"):
        assert str(swapped).count(f"{part}: the activation GELU(approximate='tanh') is neither") == 1
    other = vit(dim=16, depth=1, num_heads=2, patch_size=4, image_size=8)
    assert use(other, kernels="auto", precision="fp32").kernels in ("plain", "native")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"precision": "fp16"}, "no native twin computes in fp16"),
        ({"precision": "bf16", "recompute": True}, "activation_checkpointing recomputes"),
    ],
)
def test_what_no_twin_serves_is_plain_with_the_reason(options, why):
    network = model()
    before = [type(module) for module in network.modules()]
    swapped = use(network, kernels="auto", **options)
    assert swapped.kernels == "plain" and why in str(swapped)
    assert [type(module) for module in network.modules()] == before
    assert str(use(network, kernels="plain", **options)) == "kernels plain"  # asked for: no reason


@pytest.mark.parametrize(
    ("kernels", "options", "why"),
    [
        ("native", {"precision": "fp16"}, "no native twin computes in fp16"),
        ("native", {"precision": "bf16", "recompute": True}, "activation_checkpointing"),
        ("triton", {"precision": "fp16", "recompute": True}, "activation_checkpointing"),
    ],
)
def test_kernels_by_name_that_cannot_serve_are_refused(kernels, options, why):
    with pytest.raises(UsageError, match=rf"kernels {kernels}: {why}.*; use --kernels plain"):
        use(model(), kernels=kernels, **options)


@pytest.mark.parametrize(
    ("file", "why"),
    [("libm.so.6", "but not that of isopatch's native kernels"), ("/nowhere", "nowhere"), ("/", "")],
)
def test_another_library_is_named_in_one_line(file, why, monkeypatch):
    from isopatch.kernels.native.library import library

    monkeypatch.setenv("ISOPATCH_NATIVE", file)
    found = library.__wrapped__()
    assert isinstance(found, str) and "cannot be loaded" in found and why in found and "\n" not in found


def test_without_the_library_auto_is_plain_and_native_is_refused(without_native):
    swapped = use(model(), kernels="auto", precision="fp32")
    assert swapped.kernels == "plain" and "taken away" in str(swapped)
    with pytest.raises(UsageError, match=r"kernels native: .*taken away.*; use --kernels plain"):
        use(model(), kernels="native", precision="fp32")


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match=r"kernels 'natve'.*did you mean 'native'"):
        use(model(), kernels="natve", precision="fp32")
    with pytest.raises(UsageError, match="precision 'fp8': choose fp32, bf16 or fp16"):
        use(model(), kernels="auto", precision="fp8")


def one_step(threads, precision, images):
    """Output, gradients and running statistics of a training step of the twins."""
    torch.set_num_threads(threads)
    network = model(dim=40, kernel_size=4)
    swap(network, kernels="native", precision=precision)
    tokens, grid = network.stem(images)
    out = network.blocks(tokens, grid)
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    parts = [part for name, part in network.named_parameters() if name.startswith(("stem", "blocks"))]
    state = [value for name, value in network.state_dict().items() if "running" in name]
    return [out.detach(), *(part.grad for part in parts), *state]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_and_two_threads_give_the_same_bits(precision, needs_native):
    images = torch.rand(11, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    one, two = (one_step(threads, precision, images) for threads in (1, 2))
    assert len(one) > 20 and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    other = one_step(1, precision, images * 1.01)
    assert sum(map(torch.equal, one, other)) <= 1  # the last shift's gradient does not depend on the input


def test_how_a_batch_is_split_changes_no_bit_of_an_answer(needs_native):
    network = model().eval()
    use(network, kernels="native", precision="fp32")
    with torch.no_grad():
        tokens, grid = network.stem(pictures())
        whole = network.blocks(tokens, grid)
        parts = [network.blocks(*network.stem(part)) for part in pictures().split((1, 3, 1))]
    assert torch.equal(whole, torch.cat(parts))


def test_weights_that_change_between_answers_are_seen(needs_native):
    """Twins keep weights laid out for inference; an average that moves must not be answered from old ones."""
    from isopatch.training.ema import Ema

    network, plain = model(), model().eval()
    use(network, kernels="native", precision="fp32")
    ema = Ema(network, 0.5)
    for step in range(3):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * step)
        ema.update(network)
        plain.load_state_dict(ema.model.state_dict())
        with torch.no_grad():
            assert close(ema.model(pictures()), plain(pictures()))
