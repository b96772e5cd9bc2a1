"""Principal components: planted filters are found again; every stem's filters are read as it applies them."""

import numpy as np
import pytest
import torch

from isopatch.explain.filters import first_filters, make, principal_components
from isopatch.models.cifar_resnet import cifar_resnet
from isopatch.models.convmixer import convmixer
from isopatch.models.hybrid import hybrid
from isopatch.models.vit import vit
from isopatch.nn.resnet_stem import pad_same


def planted(strengths, *, shape=(3, 4, 4), count=200, noise=0.0, seed=0):
    """Filters that mix orthogonal patterns with uncorrelated factors of given standard deviation."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    patterns = np.linalg.qr(rng.normal(size=(size, len(strengths))))[0].T
    factors = rng.normal(size=(count, len(strengths)))
    factors = np.linalg.qr(factors - factors.mean(axis=0))[0] * np.sqrt(count) * np.array(strengths)
    filters = factors @ patterns + noise * rng.normal(size=(count, size)) + 7.0
    return filters.reshape(count, *shape), patterns.reshape(-1, *shape)


def test_planted_patterns_are_recovered_in_their_order():
    filters, patterns = planted([3.0, 2.0, 1.0])
    found = principal_components(filters, 3)
    cosine = np.einsum("kcyx,jcyx->kj", found.filters, patterns)
    np.testing.assert_allclose(np.abs(cosine), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(found.variance, np.array([9, 4, 1]) / 14, atol=1e-9)


def test_noise_has_no_pattern_to_find():
    filters, patterns = planted([0.0, 0.0], noise=1.0, count=2000)
    found = principal_components(filters, 2)
    assert np.abs(np.einsum("kcyx,jcyx->kj", found.filters, patterns)).max() < 0.6
    assert found.variance.max() < 0.05


def test_components_have_one_sign_and_at_most_as_many_as_there_are():
    filters, _ = planted([3.0, 2.0], count=5)
    turned = principal_components(-filters)
    found = principal_components(filters)
    assert len(found.filters) == 4  # five filters have a mean and four directions beside it
    np.testing.assert_allclose(turned.filters[:2], found.filters[:2], atol=1e-9)
    assert (found.filters.reshape(4, -1).max(axis=1) >= -found.filters.reshape(4, -1).min(axis=1)).all()


def test_equal_filters_have_no_variance_and_the_figure_says_so(context):
    model = convmixer(dim=4, depth=1, kernel_size=3, patch_size=2, image_size=4, num_classes=2)
    torch.nn.init.constant_(model.stem.proj.weight, 0.5)
    figures = make(context(model))
    assert figures[0].data["variance"] == [0.0] * len(figures[0].data["variance"])
    assert "equal" in figures[0].warning
    torch.nn.init.normal_(model.stem.proj.weight)
    assert make(context(model))[0].warning is None


def test_a_flattened_projection_has_the_filters_of_a_convolution():
    model = vit(dim=8, depth=1, num_heads=2, patch_size=4, image_size=(8, 12), num_classes=2, patch_norm=True)
    stem = model.stem
    filters = torch.from_numpy(first_filters(model)).float()
    x = torch.randn(1, 3, 8, 12)
    by_convolution = torch.nn.functional.conv2d(x, filters, stem.proj.bias, stride=4)
    stem.patch_norm, stem.norm = torch.nn.Identity(), torch.nn.Identity()
    torch.testing.assert_close(stem(x)[0].transpose(1, 2).view(1, 8, 2, 3), by_convolution)


def test_a_hybrids_filters_are_standardised():
    model = hybrid(dim=8, depth=1, num_heads=2, layers=(), image_size=32, patch_size=8, num_classes=2)
    conv = model.stem.root.conv
    filters = torch.from_numpy(first_filters(model)).float()
    x = torch.randn(1, 3, 32, 32)
    expected = torch.nn.functional.conv2d(pad_same(x, 7, 2), filters, stride=2)
    torch.testing.assert_close(conv(x), expected, atol=1e-4, rtol=1e-4)
    assert not np.allclose(filters, conv.weight.detach(), atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels_is_drawn(context, channels):
    model = cifar_resnet(depth=8, image_size=8, in_channels=channels)
    figures = make(context(model))
    assert figures[0].data["shape"] == [channels, 3, 3]
    assert all(figure.svg.startswith("<svg") for figure in figures)
