"""Ridge in closed form against scikit-learn and against the normal equations; its two settings."""

from __future__ import annotations

import numpy as np
import pytest

from isopatch.errors import UsageError
from isopatch.probes.ridge import SETTINGS, Ridge, setting_of
from isopatch.probes.scaling import scaling_of


def problem(pictures: int, dim: int, classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(pictures, dim)) * rng.uniform(0.1, 5, dim) + rng.normal(size=dim)
    labels = np.arange(pictures) % classes
    x[:, :2] += labels[:, None]
    return x, labels.astype(np.int64)


@pytest.mark.parametrize(("pictures", "dim"), [(60, 7), (9, 40), (8, 7)], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("l2", [2.0**-10, 1.0, 2.0**10])
def test_equals_scikit_learn(pictures: int, dim: int, l2: float) -> None:
    from sklearn.linear_model import Ridge as Reference

    x, labels = problem(pictures, dim)
    ridge = Ridge(x, labels, 3, bias=100.0)
    scaled = (x - x.mean(0)) / (x.std(0) + 1e-5)
    with_bias = np.hstack([scaled, np.full((pictures, 1), 100.0)])
    targets = 2.0 * np.eye(3)[labels] - 1
    reference = Reference(alpha=l2, fit_intercept=False, solver="svd").fit(with_bias, targets)
    np.testing.assert_allclose(ridge.weights(l2), reference.coef_.T, rtol=1e-7, atol=1e-10)
    new, _ = problem(5, dim, seed=1)
    scaled_new = np.hstack([(new - x.mean(0)) / (x.std(0) + 1e-5), np.full((5, 1), 100.0)])
    wanted = reference.predict(scaled_new)  # a small score is a difference of large ones
    np.testing.assert_allclose(ridge.scores(new, l2), wanted, rtol=1e-7, atol=1e-8 * np.abs(wanted).max())


def test_solves_the_normal_equations() -> None:
    x, labels = problem(30, 6)
    weights = Ridge(x, labels, 3, bias=1.0).weights(0.5)
    z = np.hstack([scaling_of(x)(x), np.ones((30, 1))])
    targets = np.where(labels[:, None] == np.arange(3), 1.0, -1.0)
    np.testing.assert_allclose((z.T @ z + 0.5 * np.eye(7)) @ weights, z.T @ targets, atol=1e-9)
    other = Ridge(x, labels, 3, bias=1.0).weights(5.0)  # the control: a strength matters
    assert np.abs((z.T @ z + 0.5 * np.eye(7)) @ other - z.T @ targets).max() > 1e-2


def test_a_feature_that_never_changes_does_no_harm() -> None:
    x, labels = problem(12, 4)
    x[:, 3] = 2.5
    ridge = Ridge(x, labels, 3, bias=100.0)
    new, _ = problem(30, 4, seed=3)
    new[:, 3] = 2.5
    moved = new + np.array([0, 0, 0, 1e-3])  # a hundred times what is left of the scale
    np.testing.assert_allclose(ridge.scores(moved, 1.0), ridge.scores(new, 1.0), atol=1e-9)


def test_the_settings_are_the_documented_ones() -> None:
    assert SETTINGS["big_vision"].l2 == (1024.0,) and SETTINGS["big_vision"].bias == 100.0
    assert SETTINGS["vit"].l2[0] == 2.0**-10 and SETTINGS["vit"].l2[-1] == 2.0**20
    with pytest.raises(UsageError, match="did you mean 'big_vision'"):
        setting_of("bigvision")


def test_the_strength_is_chosen_by_the_held_out_pictures() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(40) % 2).astype(np.int64)
    x = np.hstack([labels[:, None] + 0.9 * rng.normal(size=(40, 1)), rng.normal(size=(40, 60))])
    held_labels = (np.arange(400) % 2).astype(np.int64)
    held = np.hstack([held_labels[:, None] + 0.9 * rng.normal(size=(400, 1)), rng.normal(size=(400, 60))])
    ridge = Ridge(x, labels, 2, bias=100.0)
    strengths = SETTINGS["vit"].l2
    chosen = ridge.best_l2(strengths, held, held_labels)
    right = [(ridge.predict(held, l2) == held_labels).mean() for l2 in strengths]
    assert right[strengths.index(chosen)] == max(right) > min(right)
    assert ridge.best_l2((7.0,), held[:0], held_labels[:0]) == 7.0
