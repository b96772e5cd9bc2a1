import random

import numpy as np
import pytest
import torch

from isopatch.data.seeding import derive_seed, restored_generators, seeded


def global_states():
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    numpy_state = (kind, keys.tolist(), position, has_gauss, gauss)
    return random.getstate(), numpy_state, torch.get_rng_state().tolist()


def draw_from_all():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_depends_on_every_part_its_type_and_its_place():
    seeds = {
        derive_seed(1, 2),
        derive_seed(2, 1),
        derive_seed(12),
        derive_seed("1", 2),
        derive_seed("1,2"),
        derive_seed(1, 2, 0),
        derive_seed("augment", 1, 2),
    }
    assert len(seeds) == 7
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_a_seed_is_fixed_for_ever():
    # A changed value would silently change the order and augmentation of runs that are resumed.
    assert derive_seed(0, "order", 3) == 0x0AA8_87AD_CBFC_E5FD
    assert derive_seed(np.int64(7), 5) == derive_seed(7, 5)


def test_seeds_of_neighbouring_samples_do_not_collide():
    seeds = {
        derive_seed(0, "augment", epoch, index, copy)
        for epoch in range(5)
        for index in range(1000)
        for copy in range(3)
    }
    assert len(seeds) == 5 * 1000 * 3


def test_the_scope_seeds_and_restores_all_three_generators():
    random.gauss(0, 1)  # leaves a second value in store, which is part of the state
    np.random.standard_normal()
    before = global_states()
    with seeded(123):
        first = draw_from_all()
    assert global_states() == before
    with seeded(123):
        assert draw_from_all() == first
    with seeded(124):
        assert draw_from_all() != first


def test_without_the_scope_the_generators_change():
    before = global_states()
    draw_from_all()
    after = global_states()
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_the_scope_restores_after_an_error():
    before = global_states()
    with pytest.raises(KeyError), seeded(5):
        draw_from_all()
        raise KeyError
    assert global_states() == before


def test_reseeding_within_one_scope_gives_the_draws_of_a_scope_each():
    with restored_generators() as reseed:
        drawn = []
        for seed in (3, 2**64 - 1, 3):
            reseed(seed)
            drawn.append(draw_from_all())
    assert drawn[0] == drawn[2] != drawn[1]
    with seeded(2**64 - 1):
        assert draw_from_all() == drawn[1]


def test_python_and_numpy_do_not_repeat_each_other():
    # Seeded with the same words, the two Mersenne Twisters give the same numbers.
    with seeded(2**40 + 17):
        python = [random.random() for _ in range(8)]
        numpy = np.random.random_sample(8).tolist()
    assert not set(python) & set(numpy)
    np.random.seed([(2**40 + 17) & 0xFFFF_FFFF, (2**40 + 17) >> 32])
    assert set(python) & set(np.random.random_sample(8).tolist()), "the trap this test is about is gone"
