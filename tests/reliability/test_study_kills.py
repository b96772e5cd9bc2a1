"""The study harness in short: trainings that are killed with their drivers, and on their own."""

import pytest
from benchmarks.reliability import study_kills as harness

pytestmark = pytest.mark.slow  # some minutes: every driver and every training is a process


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("study-kills")


@pytest.fixture(scope="module")
def study(work):
    return harness.declare(work, kernels=[3, 5], seeds=2, epochs=3)


@pytest.fixture(scope="module")
def whole(work, study):
    return harness.undisturbed(work, study, "whole")


def test_a_killed_study_ends_with_the_table_of_an_unbroken_one(work, study, whole):
    killed = harness.kill_often(work, study, "killed-study", 3, whole["steps"] / 6, seed=0)
    assert killed["exit_code"] == 0 and killed["digest"] == whole["digest"], killed["error"]
    assert (killed["repeated"], killed["finished"], killed["clashes"]) == ([], 4, 0)
    assert killed["kills"] >= 2 and killed["resumed"] > 0


def test_two_drivers_take_no_run_twice_and_repeated_runs_are_noticed(work, study, whole):
    together = harness.two_at_once(work, study, "together")
    assert together["exit_codes"] == [0, 0] and together["digest"] == whole["digest"]
    assert together["taken_twice"] == [] and sum(together["taken_by_each"]) == 4
    assert len(harness.repeats(work, study, "together")["repeated"]) == 4, "control"


def test_control_a_forgotten_position_is_seen_in_the_table(work, study, whole):
    window = whole["steps"] / 6
    broken = harness.kill_often(work, study, "control", 2, window, seed=0, defect="forgets the position")
    assert broken["resumed"] > 0 and broken["digest"] != whole["digest"]
