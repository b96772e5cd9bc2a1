import numpy as np
import pytest

from isopatch.data.sampler import EpochSampler, epoch_order
from isopatch.errors import UsageError


def epoch_samples(sampler, epoch):
    batches = [sampler.batch(epoch, step) for step in range(sampler.steps_per_epoch)]
    return np.concatenate([b.indices for b in batches]), np.concatenate([b.copies for b in batches])


def test_an_epoch_visits_each_picture_at_most_once_and_drops_the_rest():
    sampler = EpochSampler(103, global_batch=10, data_seed=0)
    indices, copies = epoch_samples(sampler, 0)
    assert sampler.steps_per_epoch == 10
    assert len(set(indices.tolist())) == 100
    assert not copies.any()
    assert indices.dtype == copies.dtype == np.int64


def test_a_batch_is_a_function_of_its_position_alone():
    straight = EpochSampler(97, global_batch=8, data_seed=5)
    in_order = {(e, s): straight.batch(e, s).indices.tolist() for e in range(3) for s in range(12)}
    jumping = EpochSampler(97, global_batch=8, data_seed=5)
    for epoch, step in [(2, 11), (0, 3), (2, 0), (1, 7), (0, 3)]:
        assert jumping.batch(epoch, step).indices.tolist() == in_order[epoch, step]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in (0, 1, 2**40) for epoch in range(4)}
    assert len(orders) == 12
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_the_order_is_fixed_for_ever():
    # A changed order would silently change runs that are resumed.
    assert epoch_order(10, 0, 0).tolist() == [3, 1, 4, 5, 0, 9, 7, 6, 8, 2]


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_the_ranks_partition_the_global_batch(world_size, repeats):
    whole = EpochSampler(700, global_batch=24, data_seed=1, repeats=repeats)
    ranks = [
        EpochSampler(700, global_batch=24, data_seed=1, repeats=repeats, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    for epoch, step in [(0, 0), (0, 9), (3, 20)]:
        expected = whole.batch(epoch, step)
        parts = [rank.batch(epoch, step) for rank in ranks]
        together = sorted(
            pair for part in parts for pair in zip(part.indices.tolist(), part.copies.tolist(), strict=True)
        )
        assert together == sorted(zip(expected.indices.tolist(), expected.copies.tolist(), strict=True))
        assert max(len(p.indices) for p in parts) - min(len(p.indices) for p in parts) <= 1


@pytest.mark.parametrize(("num_samples", "length"), [(1000, 768), (256, 256), (255, 255), (513, 512)])
def test_repeated_augmentation_is_deits(num_samples, length):
    """The list repeated in place, dealt to the ranks in turn, cut to a multiple of 256 over all ranks."""
    world_size, batch = 2, 16
    order = epoch_order(num_samples, 9, 2)
    dealt = np.repeat(order, 3)[:length]
    for rank in range(world_size):
        sampler = EpochSampler(
            num_samples, global_batch=batch, data_seed=9, repeats=3, rank=rank, world_size=world_size
        )
        assert sampler.steps_per_epoch == length // batch
        indices, copies = epoch_samples(sampler, 2)
        steps = sampler.steps_per_epoch
        np.testing.assert_array_equal(indices, dealt[rank::world_size][: steps * batch // world_size])
        np.testing.assert_array_equal(copies, np.tile([0, 1, 2], length)[rank : steps * batch : world_size])


def test_repeats_work_in_one_process_with_different_copies():
    sampler = EpochSampler(300, global_batch=12, data_seed=0, repeats=3)
    batch = sampler.batch(0, 0)
    assert len(set(batch.indices.tolist())) == 4
    assert batch.copies.tolist() == [0, 1, 2] * 4
    indices, copies = epoch_samples(sampler, 0)
    pairs = list(zip(indices.tolist(), copies.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) == 252
    assert len(set(indices.tolist())) == 84  # a third of what the epoch's length suggests


@pytest.mark.parametrize(
    ("num_samples", "batch", "repeats", "words"),
    [
        (100, 128, 1, ["batch_size 128", "100 training pictures", "at most 100", "64"]),
        (300, 280, 3, ["batch_size 280", "300 training pictures", "256 after", "at most 256"]),
        (0, 1, 1, ["no picture", "empty"]),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(num_samples, batch, repeats, words):
    with pytest.raises(UsageError) as caught:
        EpochSampler(num_samples, global_batch=batch, data_seed=0, repeats=repeats)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_batch_as_large_as_the_data_fits():
    assert EpochSampler(100, global_batch=100, data_seed=0).steps_per_epoch == 1


def test_more_ranks_than_pictures_in_a_batch_are_refused():
    with pytest.raises(UsageError, match="ranks"):
        EpochSampler(100, global_batch=2, data_seed=0, world_size=4)
