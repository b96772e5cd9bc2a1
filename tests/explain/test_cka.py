"""CKA: known answers, and a second implementation that knows nothing of U-centring."""

import numpy as np
import pytest
import torch

from isopatch.errors import UsageError
from isopatch.explain.cka import batches_of, cka, grams, half_samples, layer_by_layer, u_centred
from isopatch.explain.similarity import nearer, say
from isopatch.models.convmixer import convmixer


def gram_stack(*representations, size=None):
    """Gram matrices as `grams` returns them, of representations (n, D)."""
    count = len(representations[0])
    parts = batches_of(count, size or count)
    return [torch.stack([x[part] @ x[part].T for x in representations]) for part in parts]


def hsic_by_formula(first, second):
    """HSIC_1 written out as in Song et al. 2012, equation 5."""
    n = len(first)
    a, b = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
    ones = np.ones(n)
    trace = np.trace(a @ b)
    product = (ones @ a @ ones) * (ones @ b @ ones) / ((n - 1) * (n - 2))
    mixed = 2 / (n - 2) * (ones @ a @ b @ ones)
    return (trace + product - mixed) / (n * (n - 3))


def draw(count, dim, seed):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [None, 16, 8])
def test_equal_rotated_and_scaled_representations_are_the_same(size):
    x = draw(48, 20, 0)
    rotation, _ = torch.linalg.qr(draw(20, 20, 1))
    values = cka(gram_stack(x, size=size), gram_stack(x, x @ rotation, 3 * x + 5, size=size))
    np.testing.assert_allclose(values, 1.0, atol=1e-10)


def test_a_map_that_is_no_rotation_is_not_the_same():
    x = draw(48, 20, 0)
    values = cka(gram_stack(x), gram_stack(x @ torch.diag(torch.linspace(0.01, 3, 20).double())))
    assert 0.3 < values[0, 0] < 0.97


def test_independent_representations_have_none_on_average():
    """Unbiased: the mean over draws is 0 within its error; the usual estimate is far above it."""
    found, biased = [], []
    for seed in range(150):
        x, y = draw(16, 30, 2 * seed), draw(16, 30, 2 * seed + 1)
        found.append(cka(gram_stack(x), gram_stack(y))[0, 0])
        centred = [g - g.mean(0) - g.mean(1, keepdim=True) + g.mean() for g in (x @ x.T, y @ y.T)]
        biased.append(float((centred[0] * centred[1]).sum() / (centred[0].norm() * centred[1].norm())))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found)) + 0.01
    assert np.mean(biased) > 0.5


def test_hsic_is_that_of_the_formula():
    x, y = draw(11, 5, 3), draw(11, 7, 4) + draw(11, 5, 3).sum(dim=1, keepdim=True)
    first, second = x @ x.T, y @ y.T
    ours = float((u_centred(first) * u_centred(second)).sum()) / (11 * 8)
    assert ours == pytest.approx(hsic_by_formula(first.numpy(), second.numpy()), rel=1e-10)


@pytest.mark.parametrize("size", [13, 20])
def test_minibatches_of_unequal_size_are_averaged_as_the_formula_says(size):
    x, y = draw(33, 6, 5), draw(33, 6, 5) + draw(33, 6, 6)
    parts = batches_of(33, size)
    assert len({part.stop - part.start for part in parts}) > 1

    def mean(a, b):
        return sum(hsic_by_formula((a[p] @ a[p].T).numpy(), (b[p] @ b[p].T).numpy()) for p in parts)

    expected = mean(x, y) / np.sqrt(mean(x, x) * mean(y, y))
    first, second = gram_stack(x, size=size), gram_stack(y, size=size)
    assert cka(first, second)[0, 0] == pytest.approx(expected, rel=1e-10)
    assert float(layer_by_layer(first, second)[0]) == pytest.approx(expected, rel=1e-10)


def test_minibatches_are_never_too_small():
    assert [(p.start, p.stop) for p in batches_of(67, 32)] == [(0, 32), (32, 67)]
    assert [(p.start, p.stop) for p in batches_of(68, 32)] == [(0, 32), (32, 64), (64, 68)]
    assert [(p.start, p.stop) for p in batches_of(5, 32)] == [(0, 5)]


def test_a_model_is_itself_and_a_representation_that_never_varies_is_nothing():
    model = convmixer(dim=8, depth=2, kernel_size=3, patch_size=4, image_size=16, num_classes=3).eval()
    own = grams(model, torch.randn(12, 3, 16, 16))
    values = cka(own, own)
    assert values.shape == (3, 3)
    np.testing.assert_allclose(np.diag(values), 1.0, atol=1e-9)
    constant = grams(model, torch.full((12, 3, 16, 16), 0.3))
    assert np.isnan(cka(own, constant)).all()
    with pytest.raises(UsageError, match="all alike"):
        nearer(own, constant, own)


def test_gram_matrices_are_those_of_the_features():
    model = convmixer(dim=8, depth=1, kernel_size=3, patch_size=4, image_size=(8, 16), num_classes=3).eval()
    x = torch.randn(6, 3, 8, 16)
    with torch.no_grad():
        by_hand = model.features(x, depth=1).map.flatten(1).double()
    expected = u_centred(by_hand @ by_hand.T)
    torch.testing.assert_close(u_centred(grams(model, x)[0][1]), expected, atol=1e-5, rtol=1e-5)


def test_gram_matrices_in_pieces_are_the_whole(monkeypatch):
    """Pieces of the features, one of which does not vary, and which alone say that another one does."""
    from isopatch.explain import cka as module

    values = torch.cat((torch.full((6, 4), 7.0), draw(6, 5, 2).float()), dim=1)
    whole = module._gram(values)
    monkeypatch.setattr(module, "PIECE", 3)
    torch.testing.assert_close(module._gram(values), whole)
    assert not module._gram(torch.full((6, 9), 7.0) + 1e-6 * draw(6, 9, 1).float()).any()


def family(x, seeds, noise):
    """Layers that are a representation with noise of their own."""
    return gram_stack(*(x + noise * draw(*x.shape, seed) for seed in seeds), size=32)


def test_the_verdict_finds_the_nearer_one_and_leaves_open_what_is_open():
    x, y = draw(96, 24, 7), draw(96, 24, 8)
    model = family(x, range(10, 14), 0.3)
    kin, stranger = family(x, range(20, 25), 0.6), family(y, range(30, 33), 0.6)
    found = nearer(model, kin, stranger)
    assert found.decided
    assert found.difference > 0.3
    assert found.low < found.difference < found.high
    assert "more like A than B" in say(found, "it", "A", "B")
    other_way = nearer(model, stranger, kin)
    assert other_way.difference == pytest.approx(-found.difference)
    assert "more like B than A" in say(other_way, "it", "A", "B")
    undecided = nearer(model, kin, family(x, range(40, 45), 0.6))
    assert not undecided.decided
    assert say(undecided, "it", "A", "B").startswith("Not decided")


def test_the_interval_has_the_width_that_new_pictures_would_show():
    """Scatter of the estimate over fresh draws of pictures, against what one draw's halves say."""

    def once(seed):
        x = draw(64, 12, 100 + seed)
        model = gram_stack(*(x + 0.5 * draw(64, 12, 1000 + 10 * seed + i) for i in range(3)))
        first = gram_stack(x + 0.7 * draw(64, 12, 5000 + seed))
        second = gram_stack(x + 1.0 * draw(64, 12, 9000 + seed))
        return nearer(model, first, second, seed=seed, halves=60)

    found = [once(seed) for seed in range(30)]
    scatter = np.std([result.difference for result in found])
    told = np.mean([(result.high - result.low) / (2 * 1.96) for result in found])
    assert 0.8 < told / scatter < 1.7


def test_halves_are_the_same_pictures_for_every_model():
    x = draw(24, 4, 1)
    one, two = half_samples([gram_stack(x, size=12), gram_stack(x, x, size=12)], 5, seed=3)
    assert [gram.shape for gram in one] == [(1, 5, 6, 6)] * 2
    torch.testing.assert_close(one[0][0], two[0][1])
    assert not torch.equal(one[0][0, 0], one[0][0, 1])
