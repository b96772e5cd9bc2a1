"""Plans: what is held equal is equal, widths are solved, references and seeds lead to the right runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from isopatch import api
from isopatch.errors import UsageError
from isopatch.models.describe import describe
from isopatch.study import costs
from isopatch.study.folder import begin
from isopatch.study.load import load_study
from isopatch.study.match import solve_width
from isopatch.study.planned import Plan
from isopatch.study.planning import plan
from isopatch.study.schema import Study


def convmixer_parameters(h: int, d: int, k: int, p: int, classes: int = 10) -> int:
    """Trockman and Kolter 2022, appendix: h (d (k^2 + h + 6) + 3 p^2 + classes + 3) + classes."""
    return h * (d * (k * k + h + 6) + 3 * p * p + classes + 3) + classes


def counted(arguments: dict[str, Any]) -> int:
    with torch.device("meta"):
        model = api.create_model("bench", num_classes=10, **arguments)
    return sum(parameter.numel() for parameter in model.parameters())


def refusal(study: Study) -> list[str]:
    with pytest.raises(UsageError) as error:
        plan(study)
    return str(error.value).splitlines()


def test_every_cell_and_seed_is_a_run_with_its_exact_size(declare: Any) -> None:
    made = plan(declare(convmixers=True, factors={"kernel_size": [3, 5]}, seeds=[4, 7]))
    assert [run.id for run in made] == [f"kernel-size-{k}-seed{s}" for k in (3, 5) for s in (4, 7)]
    for run in made:
        k = int(run.levels["kernel_size"])
        assert run.parameters == convmixer_parameters(16, 2, k, 2)
        assert run.macs == 16 * (16 * 3 * 4 + 2 * 16 * (k * k + 16)) + 16 * 10  # of the paper's formula
        assert (run.steps, run.images) == (20, 1280)  # 1,293 training pictures in batches of 64
        assert run.training_flops == 2 * 3 * run.macs * run.images
        assert run.config["seed"] == run.config["data_seed"] == run.seed


def test_training_flops_are_equal_within_two_percent(declare: Any) -> None:
    amount = 1.7e9
    factors = {"mixer": ["attention", "depthwise", "identity"], "width": [8, 24]}
    equal = {"training_flops": amount}
    made = plan(declare(factors=factors, equal=equal, base={"batch_size": 16}, seeds=1))
    assert len({run.macs for run in made}) == 6, "control: the cells do cost differently"
    for run in made:
        model = {key: value for key, value in run.config["model"].items() if key != "name"}
        macs = describe("bench", arguments={**model, "num_classes": 10})["macs"]
        assert run.steps * 16 * macs * 6 == pytest.approx(amount, rel=0.02)
        assert run.config["steps"] == run.steps


def test_an_amount_that_whole_steps_miss_is_refused_for_every_cell_it_is(declare: Any) -> None:
    said = refusal(
        declare(factors={"width": [8, 64]}, equal={"training_flops": 3e7}, base={"batch_size": 64})
    )
    assert any("whole steps miss it by" in line and line.endswith("(width-64)") for line in said)
    assert plan(declare(equal={"images": 640})).runs[0].steps == 10
    assert "1.56 steps of 64 pictures" in refusal(declare(equal={"images": 100}))[0]


def test_seconds_become_steps_by_a_measurement_that_the_plan_keeps(
    declare: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    speeds = iter([640.0, 1280.0, 9.0, 9.0])
    monkeypatch.setattr(costs.Costs, "speed", lambda self, config: next(speeds))
    study = declare(factors={"depth": [2, 1]}, equal={"seconds": 5})

    def planner(former: Plan | None) -> Plan:
        return plan(study, former=former)

    first = begin(tmp_path / "s", study, planner)
    assert [run.steps for run in first] == [50, 50, 100, 100]
    assert begin(tmp_path / "s", study, planner) == first, "measured once, whatever the machine does later"
    kept = json.loads((tmp_path / "s" / "plan.json").read_text())["runs"][0]
    assert kept["images_per_second"] == 640.0 and kept["hours"] == pytest.approx(5 / 3600)


def test_a_measured_speed_is_one(declare: Any) -> None:
    made = plan(declare(convmixers=True, seeds=1), measure=True)
    assert made.runs[0].images_per_second is not None and made.runs[0].images_per_second > 0


def test_parameters_are_matched_by_the_width_that_brute_force_finds(declare: Any) -> None:
    study = declare(
        factors={"mixer": ["attention", "depthwise", "identity"], "stem": ["patch", "overlap"]},
        base={"model.dim": 48},
        match={"like": {"mixer": "attention"}, "parameters": 0.05, "multiple_of": 2},
        seeds=1,
    )
    made = {(r.levels["mixer"], r.levels["stem"]): r for r in plan(study)}
    for (mixer, stem), run in made.items():
        target = made["attention", stem].parameters
        assert run.parameters == pytest.approx(target, rel=0.05)
        own = {k: v for k, v in run.config["model"].items() if k != "name"}
        widths = {width: counted({**own, "dim": width}) for width in range(own["dim"] - 4, own["dim"] + 5, 2)}
        assert run.parameters == widths[run.config["model"]["dim"]]
        assert min(abs(count - target) for count in widths.values()) == abs(run.parameters - target)
        assert mixer != "attention" or run.config["model"]["dim"] == 48
    assert made["identity", "patch"].config["model"]["dim"] > 48, "control: there was something to solve"


def test_a_match_that_no_width_meets_is_refused_with_the_nearest(declare: Any) -> None:
    said = refusal(
        declare(
            factors={"mixer": ["attention", "identity"]},
            match={"like": {"mixer": "attention"}, "parameters": 0.0001, "multiple_of": 8},
        )
    )
    assert len(said) == 1 and "the nearest is model.dim" in said[0] and "give a larger tolerance" in said[0]


@pytest.mark.parametrize(
    ("solve", "line"),
    [
        ("model.foo", "match.solve: model.foo: unknown"),
        ("model.kernel_sise", "match.solve: model.kernel_sise: unknown (did you mean 'kernel_size'?)"),
        (
            "model.activation",
            "match.solve: model.activation: takes no whole number; give a width, as model.dim",
        ),
    ],
)
def test_what_is_no_width_cannot_be_solved_for(declare: Any, solve: str, line: str) -> None:
    match = {"like": {"kernel_size": 3}, "solve": solve, "parameters": 0.5}
    (said,) = refusal(declare(convmixers=True, factors={"kernel_size": [3, 5]}, match=match))
    assert said.startswith(line)
    width = declare(convmixers=True, factors={"kernel_size": [3, 5]}, match={**match, "solve": "model.dim"})
    assert len(plan(width)) == 4, "control"


@pytest.mark.parametrize("name", [5, 1.5, True, ["vit"], {"name": 5}])
def test_a_model_whose_name_is_no_text_is_unknown(declare: Any, name: Any) -> None:
    base = {"model": name, "model.dim": 8}
    said = refusal(declare(convmixers=True, base=base, seeds=1))
    assert any(line.startswith("model.name: unknown model") for line in said), said


def test_the_search_finds_the_best_multiple_also_between_widths_that_cannot_be_built() -> None:
    def count(width: int) -> int | None:
        return 3 * width * width if width % 3 == 0 else None

    for target in (3 * 9, 3 * 36 * 36, 3 * 100 * 100, 3 * 4095 * 4095):
        found = solve_width(count, target, tolerance=0.5, multiple_of=1, key="model.dim")
        best = min(range(3, 5000, 3), key=lambda w: abs(3 * w * w - target))
        assert found == best


def test_the_problems_of_all_cells_are_said_at_once(declare: Any) -> None:
    said = refusal(declare(factors={"patch_size": [3, 2, 5], "mixer": ["attention", "depthwize"]}))
    text = "\n".join(said)
    assert "depthwize" in text and "(patch-size-3_mixer-depthwize and 2 more)" in text
    assert "patch-size-3_mixer-attention" in text and "patch-size-5_mixer-attention" in text
    assert refusal(declare(base={"model": None}))[0].startswith("model: none is named; a study says which")


TAUGHT = {
    "factors": {"how": {"alone": {}, "taught": {"teacher": "@convnet", "distillation": "soft"}}},
    "before": {
        "convnet": {"model": "cifar_resnet20", "depth": 8, "resolution": 8, "epochs": 2, "seeds": "one"}
    },
    "seeds": 2,
}


def test_runs_that_come_first_are_planned_first_and_needed_by_seed(declare: Any) -> None:
    made = plan(
        declare(
            convmixers=True,
            factors={"start": {"fresh": {}, "warm": {"weights": "@low", "resolution": 16}}},
            before={
                "low": {
                    "model": "convmixer",
                    "width": 16,
                    "depth": 2,
                    "kernel_size": 3,
                    "patch_size": 2,
                    "resolution": 8,
                    "epochs": 3,
                    "data_fraction": 0.5,
                }
            },
        )
    )
    ids = [run.id for run in made]
    assert ids[:2] == ["before-low-seed0", "before-low-seed1"] and made.runs[0].before
    warm = made.by_id["start-warm-seed1"]
    assert warm.needs == {"low": "before-low-seed1"} and made.by_id["start-fresh-seed1"].needs == {}
    assert warm.config["weights"] == "@low" and warm.config["model"]["image_size"] == 16
    assert warm.run_config(Path("/s")).weights == "/s/runs/before-low-seed1"
    low = made.runs[0]
    assert (low.config["epochs"], low.config["data"]["source"], low.config["threads"]) == (3, "digits", 1)
    assert low.train_images < warm.train_images


def test_weights_of_a_run_bring_its_model_and_the_recipe_for_fine_tuning(declare: Any) -> None:
    study = declare(
        base={"model": None, **dict.fromkeys(("model.dim", "model.depth", "model.num_heads", "recipe"))},
        factors={"from": {"low": {"weights": "@low"}}},
        before={
            "low": {
                "model": "convmixer",
                "width": 24,
                "depth": 1,
                "kernel_size": 3,
                "patch_size": 2,
                "resolution": 8,
                "epochs": 1,
            }
        },
    )
    run = plan(study).runs[-1]
    assert run.config["model"]["name"] == "convmixer" and run.config["model"]["dim"] == 24
    assert run.config["recipe"] == "finetune"


def test_one_teacher_for_all_seeds_and_its_work_is_noted(declare: Any) -> None:
    made = plan(declare(convmixers=True, **TAUGHT))
    assert [run.id for run in made if run.before] == ["before-convnet-seed0"]
    taught = made.by_id["how-taught-seed1"]
    assert taught.needs == {"convnet": "before-convnet-seed0"}
    assert taught.run_config(Path("/s")).distill.teacher == "/s/runs/before-convnet-seed0"
    assert any("teacher's own work" in note for note in made.notes)


def test_a_planned_configuration_is_what_train_would_read(declare: Any, tmp_path: Path) -> None:
    from isopatch.recipes.resolve import dump_config, resolve

    for run in plan(declare(factors={"mixer": ["attention", "depthwise"], "augmentation": [False]})):
        config = run.run_config(tmp_path)
        (tmp_path / "c.yaml").write_text(dump_config(config))
        assert resolve(config_file=tmp_path / "c.yaml") == config


def test_settings_reach_the_model_that_is_built(declare: Any) -> None:
    run = plan(declare(convmixers=True, factors={"kernel_size": [7]}, seeds=1)).runs[0]
    arguments = {k: v for k, v in run.config["model"].items() if k != "name"}
    model = api.create_model("convmixer", num_classes=10, **arguments)
    assert sum(p.numel() for p in model.parameters()) == run.parameters


def test_the_study_that_the_documentation_writes_can_be_planned(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "study.md").read_text()
    written = re.search(r"```yaml\n(name: stems-and-kernels.*?)```", page, re.DOTALL)
    assert written is not None
    file = tmp_path / "study.yaml"
    file.write_text(written.group(1))
    made = plan(load_study(file, data="digits"), measure=False)
    assert len(made.runs) == 15 and len({run.parameters for run in made.runs}) == 5
