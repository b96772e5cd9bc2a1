"""The schedules against independent formulas."""

import numpy as np
import pytest

from isopatch.errors import UsageError
from isopatch.training.config import ModelNode, ObjectiveConfig, RunConfig, ScheduleConfig
from isopatch.training.schedule import Schedule


def schedule(epochs=300, steps=10, peak=1e-3, **settings):
    return Schedule(ScheduleConfig(**settings), peak, epochs, steps)


def test_piecewise_linear_is_numpy_interp_looked_up_after_each_step():
    s = schedule(epochs=150, steps=7, peak=0.01, kind="piecewise-linear")
    for step in range(150 * 7):
        expected = np.interp([(step + 1) / 7], [0, 60, 120, 150], [0, 0.01, 0.01 / 20, 0])[0]
        assert s.lr(step) == pytest.approx(expected, abs=1e-15)


def test_piecewise_linear_survives_epochs_too_few_for_its_knees():
    s = schedule(epochs=1, steps=4, peak=0.01, kind="piecewise-linear")
    assert all(np.isfinite(s.lr(i)) and 0 <= s.lr(i) <= 0.01 for i in range(4))


def timm_like_cosine(t, peak, low, warm, start, total):
    if t < warm:
        return start + t * (peak - start) / warm
    return low + 0.5 * (peak - low) * (1 + np.cos(np.pi * t / total))


DEIT = {"kind": "cosine", "unit": "epoch", "warmup_epochs": 5, "warmup_lr": 1e-6, "min_lr": 1e-5}


def test_deit_cosine_by_epoch():
    s = schedule(**DEIT)
    for epoch in range(300):
        expected = timm_like_cosine(epoch, 1e-3, 1e-5, 5, 1e-6, 300)
        assert s.lr(epoch * 10) == s.lr(epoch * 10 + 9) == pytest.approx(expected)


def test_deit_lag_repeats_the_first_epoch_and_never_reaches_the_last():
    s = schedule(**DEIT, deit_lag=True)
    exact = schedule(**DEIT)
    assert s.lr(0) == s.lr(10) == pytest.approx(1e-6)
    assert s.lr(2990) == exact.lr(2980) != exact.lr(2990)


def test_warmup_in_steps_and_linear_decay_end_at_min_lr():
    s = schedule(epochs=10, steps=10, kind="linear", warmup_steps=20, min_lr=1e-5)
    assert s.lr(0) == 0
    assert s.lr(10) == pytest.approx(0.5e-3)
    assert s.lr(20) == pytest.approx(1e-3)
    assert s.lr(60) == pytest.approx(1e-5 + (1e-3 - 1e-5) * 0.5)


def test_lr_scales_linearly_with_the_batch_only_where_a_base_is_given():
    node = ModelNode(name="vit")
    scaled = RunConfig(model=node, batch_size=1024, optimizer={"lr": 5e-4, "lr_base_batch": 512})
    assert scaled.peak_lr == pytest.approx(1e-3)
    assert RunConfig(model=node, batch_size=1024, optimizer={"lr": 5e-4}).peak_lr == 5e-4


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "piecewise-linear", "warmup_epochs": 1},
        {"warmup_epochs": 1, "warmup_steps": 5},
        {"deit_lag": True},
        {"kind": "cosin"},
    ],
)
def test_contradictory_schedules_are_refused(bad):
    with pytest.raises(ValueError):
        ScheduleConfig(**bad)


def test_smoothing_with_binary_cross_entropy_is_refused():
    ObjectiveConfig(loss="binary-cross-entropy")
    with pytest.raises(ValueError, match="label_smoothing 0"):
        ObjectiveConfig(loss="binary-cross-entropy", label_smoothing=0.1)


def of_run(steps_per_epoch, **settings):
    return Schedule.of(RunConfig(model=ModelNode(name="vit"), **settings), steps_per_epoch)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_a_length_in_steps_that_is_whole_epochs_is_the_same_schedule(kind):
    settings = {"schedule": {"kind": kind, "warmup_share": 0.07}}
    by_epochs, by_steps = of_run(11, epochs=30, **settings), of_run(11, steps=330, **settings)
    assert [by_steps.lr(i) for i in range(330)] == [by_epochs.lr(i) for i in range(330)]


def test_a_cosine_of_a_length_in_steps_ends_with_the_run():
    s = of_run(11, steps=50, optimizer={"lr": 1e-3}, schedule={"kind": "cosine", "warmup_share": 0.0})
    expected = [0.5e-3 * (1 + np.cos(np.pi * i / 50)) for i in range(50)]
    assert [s.lr(i) for i in range(50)] == pytest.approx(expected)


def test_the_knees_of_a_length_in_steps_are_not_cut_to_whole_epochs():
    s = of_run(8, steps=12, optimizer={"lr": 0.01}, schedule={"kind": "piecewise-linear"})
    expected = np.interp(np.arange(1, 13), [0, 4.8, 9.6, 12], [0, 0.01, 0.01 / 20, 0])
    assert [s.lr(i) for i in range(12)] == pytest.approx(expected.tolist())


def test_a_warm_up_longer_than_the_steps_is_refused_once_the_data_is_known():
    settings = {"steps": 50, "schedule": {"warmup_epochs": 5}}
    with pytest.raises(
        UsageError, match=r"warmup_epochs 5 leaves nothing of 50 steps, which are 4.55 epochs"
    ):
        of_run(11, **settings)
    assert of_run(9, **settings).lr(49) > 0
