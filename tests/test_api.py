"""The Python interface: what a notebook does, and what it is told when it cannot be done."""

import pytest
import torch

import isopatch
from isopatch import api

TINY = {"name": "convmixer", "dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "image_size": 8}


def config(**changes):
    base = {"model": TINY, "batch_size": 256, "epochs": 1, "threads": 1, "data": {"val_fraction": 0.0}}
    return isopatch.RunConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "run"
    return isopatch.train(config(), out=path, quiet=True)


def test_create_model_takes_the_architectures_arguments():
    model = isopatch.create_model("convmixer_256_8_ks5_p2", num_classes=3, dim=8, depth=1, kernel_size=9)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(isopatch.UsageError, match=r"kernal_size.*kernel_size"):
        isopatch.create_model("convmixer_256_8_ks5_p2", kernal_size=9)


def test_train_writes_a_run_that_loads_evaluates_and_reports(run):
    assert run.exit_code == 0 and (run.path / "report.html").stat().st_size > 10_000
    evaluation = api.evaluate_checkpoint(run.path, "digits", threads=1)
    assert evaluation.top1 == run.summary["final"]["test"]["top1"]
    assert isopatch.load(run.path).spec.classes == tuple("0123456789")


def test_training_leaves_the_callers_generator_and_threads_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    isopatch.train(config(), out=tmp_path / "run", quiet=True)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_an_existing_run_is_neither_mixed_with_nor_overwritten_by_accident(run):
    with pytest.raises(isopatch.UsageError, match=r"not empty: --resume auto .* --overwrite"):
        isopatch.train(config(), out=run.path)
    again = isopatch.train(out=run.path, resume="auto")
    assert again.state == "finished" and again.summary == run.summary
    with pytest.raises(isopatch.UsageError, match="exclude each other"):
        isopatch.train(config(), out=run.path, resume="auto", overwrite=True)


def test_the_time_limit_saves_and_the_next_call_finishes(tmp_path):
    first = isopatch.train(config(epochs=2), out=tmp_path / "run", max_minutes=1e-9, quiet=True)
    assert (first.state, first.exit_code, first.step) == ("stopped", 75, 1)
    assert isopatch.train(out=tmp_path / "run", resume=str(tmp_path / "run"), quiet=True).state == "finished"


@pytest.mark.parametrize("device", ["cdua", "cuda:99"])
def test_a_device_the_machine_does_not_have_is_named(run, device):
    with pytest.raises(isopatch.UsageError, match=f"device '{device}' was asked for"):
        api.evaluate_checkpoint(run.path, "digits", device=device)


def test_a_split_the_data_does_not_have_is_named(run):
    with pytest.raises(isopatch.UsageError, match=r"--split val: .* has .*test"):
        api.evaluate_checkpoint(run.path, "digits", split="val")


def test_a_split_cut_by_seed_is_the_runs_own(tmp_path):
    data = {"val_fraction": 0.3, "split_seed": 7}
    run = isopatch.train(config(data=data), out=tmp_path / "run", quiet=True)
    for source in (run.path, run.path / "best"):
        evaluation = api.evaluate_checkpoint(source, "digits", split="val", threads=1)
        assert evaluation.to_json()["num_images"] == run.summary["final"]["val"]["num_images"] > 400
        assert evaluation.top1 == run.summary["final"]["val"]["top1"]


def test_classes_the_model_does_not_know_are_refused(run, tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        folder = tmp_path / "pets" / "test" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "1.png")
    (tmp_path / "pets" / "train").mkdir()
    for name in ("cat", "dog"):
        folder = tmp_path / "pets" / "train" / name
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "1.png")
    with pytest.raises(isopatch.UsageError, match="classes the model does not know: cat, dog"):
        api.evaluate_checkpoint(run.path, str(tmp_path / "pets"))


def test_the_plan_measures_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = api.plan(config())
    assert plan["images_per_second"] > 0 and plan["steps"] == 5
    assert plan["memory_estimate_bytes"] > 16 * plan["parameters"]
    assert not list(tmp_path.iterdir())
