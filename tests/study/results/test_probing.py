"""A probe of a study's run is measured as the run's own test evaluation was: where, and in what."""

from __future__ import annotations

import json

import pytest
from tests.study.stand_in import SUMMARY

from isopatch.cli.parser import build_parser
from isopatch.study.jobs import next_job
from isopatch.study.planned import Plan, PlannedRun
from isopatch.study.schema import Equal, Study
from isopatch.training.config import RunConfig

TRAINED = {"device": "cuda:1", "precision": "bf16", "threads": 3, "kernels": "triton"}


@pytest.fixture
def probed(tmp_path):
    """The options of a finished run's probe, as `isopatch eval` reads them."""

    def read(summary):
        data = {"source": "digits", "bad": "skip", "workers": 2}
        config = RunConfig.model_validate({"model": {"name": "vit"}, "data": data}).model_dump(mode="json")
        run = PlannedRun("a-seed0", "a", {}, 0, config, {}, False, "vit", 1, 1, 1, 1, 1, "x")
        study = Study(name="try", question="?", equal=Equal(epochs=1), probes=["knn"])
        path = tmp_path / "runs" / run.id
        path.mkdir(parents=True)
        (path / "status.json").write_text('{"state": "finished"}')
        (path / "summary.json").write_text(json.dumps({**SUMMARY, **summary}))
        job = next_job(tmp_path, Plan(study, (run,)), run)
        assert job is not None and job.name == "probe knn"
        return build_parser().parse_args(job.arguments)

    return read


def test_a_probe_runs_where_its_run_trained_and_in_float32(probed):
    options = probed(TRAINED)
    assert (options.device, options.threads, options.kernels) == ("cuda:1", 3, "triton")
    assert options.precision == "fp32", "the accuracies of a table are, whatever was trained in"
    assert (options.bad, options.workers, options.data, options.json) == ("skip", 2, "digits", True)


def test_control_another_run_is_probed_otherwise(probed):
    """Of a device nothing is said by a run of an older version: eval takes its own."""
    options = probed({"kernels": "plain"})
    assert (options.device, options.threads, options.kernels) == ("cpu", 1, "plain")
