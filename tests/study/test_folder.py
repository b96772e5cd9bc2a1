"""The folder of a study: planned once, changed until the first run, planned again where the plan is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.study.stand_in import SUMMARY

from isopatch.errors import IsopatchError, UsageError
from isopatch.recipes.resolve import dump_config
from isopatch.study.folder import begin, find_plan, has_begun, open_plan
from isopatch.study.load import load_study
from isopatch.study.planned import Plan, PlannedRun
from isopatch.study.planning import plan
from isopatch.study.report import read_document
from isopatch.study.state import status


def begun(folder: Path) -> None:
    """What a driver leaves that has taken a run."""
    (folder / "claims").mkdir(exist_ok=True)
    (folder / "claims" / "x-seed0.1.json").write_text("{}")


def finished(folder: Path, run: PlannedRun) -> None:
    """What a run leaves that has ended."""
    path = folder / "runs" / run.id
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(dump_config(run.run_config(folder)))
    (path / "status.json").write_text('{"state": "finished"}')
    (path / "summary.json").write_text(json.dumps(SUMMARY))


def test_a_study_that_changed_is_refused_unless_runs_were_added(declare: Any, tmp_path: Path) -> None:
    def started(**keys: Any) -> Plan:
        study = declare(convmixers=True, **keys)
        return begin(tmp_path / "s", study, lambda former: plan(study, former=former))

    first = started(factors={"kernel_size": [3, 5]})
    assert open_plan(tmp_path / "s") == first == started(factors={"kernel_size": [3, 5]})
    more = started(factors={"kernel_size": [3, 5, 7]}, seeds=3)
    begun(tmp_path / "s")
    assert set(first.by_id) < set(more.by_id) and len(open_plan(tmp_path / "s")) == 9
    with pytest.raises(UsageError, match=r"all 9 runs: optimizer.lr was 0.005, now 0.1"):
        started(factors={"kernel_size": [3, 5, 7]}, seeds=3, base={"optimizer.lr": 0.1})
    with pytest.raises(UsageError, match=r"3 runs \(kernel-size-7-seed0, ...\): no longer in it"):
        started(factors={"kernel_size": [3, 5]}, seeds=3)
    assert len(open_plan(tmp_path / "s")) == 9, "what was refused changed nothing"


def test_the_same_study_is_planned_once(declare: Any, tmp_path: Path) -> None:
    study = declare(convmixers=True, seeds=1)
    asked: list[Plan | None] = []

    def planner(former: Plan | None) -> Plan:
        asked.append(former)
        return plan(study, threads=2, former=former)

    first = begin(tmp_path / "s", study, planner, threads=2)
    assert begin(tmp_path / "s", study, planner) == first and len(asked) == 1
    begin(tmp_path / "s", study, planner, threads=3)
    assert asked == [None, first], "other threads, another plan"


def test_a_driver_killed_after_it_wrote_the_plan_leaves_a_study_that_can_be_read(
    declare: Any, tmp_path: Path
) -> None:
    study = declare(convmixers=True, seeds=1)

    def planner(former: Plan | None) -> Plan:
        return plan(study, former=former)

    begin(tmp_path / "s", study, planner)
    (tmp_path / "s" / "study.yaml").unlink()  # what a kill between the two files leaves
    assert read_document(tmp_path / "s")["question"] == study.question
    begin(tmp_path / "s", study, planner)
    assert load_study(tmp_path / "s") == study


def test_hypotheses_that_change_after_results_are_noted_for_good(declare: Any, tmp_path: Path) -> None:
    stated = {"claim": "?", "better": {"kernel_size": 5}, "worse": {"kernel_size": 3}}

    def started(*hypotheses: Any, **keys: Any) -> Plan:
        study = declare(
            convmixers=True, seeds=1, factors={"kernel_size": [3, 5]}, hypotheses=list(hypotheses), **keys
        )
        return begin(tmp_path / "s", study, lambda former: plan(study, former=former))

    started()
    assert started(stated).notes == (), "nothing is finished: they are stated beforehand"
    finished(tmp_path / "s", open_plan(tmp_path / "s").runs[0])
    said = "the hypotheses were changed when 1 of 2 runs were finished: otherwise: '?'"
    assert started({**stated, "expect": "less"}).notes == (said,)
    assert started({**stated, "expect": "less"}, question="And?").notes == (said,)
    assert open_plan(tmp_path / "s").notes == (said,)


def test_seeds_added_after_results_are_noted_for_good(declare: Any, tmp_path: Path) -> None:
    def started(seeds: int) -> Plan:
        study = declare(convmixers=True, seeds=seeds)
        return begin(tmp_path / "s", study, lambda former: plan(study, former=former))

    started(1)
    (first,) = started(2).runs[:1]
    assert open_plan(tmp_path / "s").notes == (), "nothing is finished"
    finished(tmp_path / "s", first)
    (said,) = started(4).notes
    assert said.startswith("runs were added when 1 of 2 runs were finished, now 4: seeds added")
    assert open_plan(tmp_path / "s").notes == (said,)


def test_what_is_different_in_many_runs_is_said_once(declare: Any, tmp_path: Path) -> None:
    study = declare(convmixers=True, seeds=3)
    begin(tmp_path / "s", study, lambda former: plan(study, former=former))
    begun(tmp_path / "s")
    other = declare(convmixers=True, seeds=3, base={"batch_size": 16})
    with pytest.raises(UsageError, match=r"begun differently: all 3 runs: batch_size was \d+, now 16; take"):
        begin(tmp_path / "s", other, lambda former: plan(other, former=former))
    named = other.model_copy(update={"name": "another"})
    with pytest.raises(UsageError, match=rf"s holds the study '{study.name}', not 'another'; choose another"):
        begin(tmp_path / "s", named, lambda former: plan(named, former=former))


def test_where_the_pictures_lie_may_change_but_not_the_pictures(declare: Any, tmp_path: Path) -> None:
    study = declare(convmixers=True)
    made = begin(tmp_path / "s", study, lambda former: plan(study, former=former))
    begun(tmp_path / "s")
    study = study.model_copy(update={"question": "asked anew, so planned anew"})
    elsewhere = [changed(run, source="/mnt/digits") for run in made]
    assert begin(tmp_path / "s", study, lambda _: Plan(study, tuple(elsewhere))).digest == made.digest
    study = study.model_copy(update={"question": "and once more"})
    others = [changed(run, fingerprint="other") for run in made]
    with pytest.raises(UsageError, match=r"the pictures in digits are others"):
        begin(tmp_path / "s", study, lambda _: Plan(study, tuple(others)))


def changed(run: PlannedRun, *, source: str = "digits", fingerprint: str | None = None) -> PlannedRun:
    fields = {name: getattr(run, name) for name in PlannedRun.__dataclass_fields__}
    fields["config"] = {**run.config, "data": {**run.config["data"], "source": source}}
    return PlannedRun(**{**fields, "data_fingerprint": fingerprint or run.data_fingerprint})


def test_a_driver_that_begins_while_another_does_takes_its_plan(declare: Any, tmp_path: Path) -> None:
    study = declare(convmixers=True, seeds=1)
    calls: list[Plan | None] = []

    def planner(former: Plan | None) -> Plan:
        calls.append(former)
        if len(calls) == 1:  # the other one begins, and is at work, before this one's plan is made
            begin(tmp_path / "s", study, lambda other: plan(study, former=other))
            begun(tmp_path / "s")
        return plan(study, threads=7, former=former)

    assert begin(tmp_path / "s", study, planner).threads is None
    assert len(calls) == 1 and len(open_plan(tmp_path / "s")) == 1


def test_a_folder_of_other_things_is_left_alone(declare: Any, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "photo.jpg").write_bytes(b"")
    study = declare(convmixers=True)
    with pytest.raises(UsageError, match=r"holds other things \(photo.jpg\)"):
        begin(tmp_path / "s", study, lambda former: plan(study, former=former))
    assert find_plan(tmp_path / "s") is None
    with pytest.raises(UsageError, match=r"no plan\.json here"):
        open_plan(tmp_path / "s")


def test_an_edited_plan_is_noticed(declare: Any, tmp_path: Path) -> None:
    study = declare(convmixers=True)
    begin(tmp_path / "s", study, lambda former: plan(study, former=former))
    path = tmp_path / "s" / "plan.json"
    path.write_text(path.read_text().replace('"epochs": 1,', '"epochs": 2,', 1))
    with pytest.raises(Exception, match="was edited"):
        open_plan(tmp_path / "s")


def test_until_a_run_begins_a_study_may_change(declare: Any, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    measured = []

    def started(**keys: Any) -> Plan:
        study = declare(convmixers=True, seeds=1, factors={"kernel_size": [3, 5]}, **keys)

        def planner(former: Plan | None) -> Plan:
            made = plan(study, former=former)
            measured.append([run.images_per_second for run in made])
            return made

        return begin(folder, study, planner)

    first = started()
    (folder / "plan.json").write_text(
        (folder / "plan.json").read_text().replace('"images_per_second": null', '"images_per_second": 7.0')
    )
    second = started(base={"model.dim": 24})
    assert second.digest != first.digest and open_plan(folder) == second
    assert measured[-2:] == [[7.0, 7.0], [None, None]], "no speed of another model is kept"
    assert load_study(folder).base["model.dim"] == 24
    began = started(base={"model.dim": 32})
    begun(folder)
    with pytest.raises(UsageError, match=r"begun differently: all 2 runs: model.dim was 32, now 24"):
        started(base={"model.dim": 24})
    assert open_plan(folder) == began and load_study(folder).base["model.dim"] == 32


def test_a_driver_that_begins_to_run_while_a_change_is_planned_has_the_change_refused(
    declare: Any, tmp_path: Path
) -> None:
    first, other = (declare(convmixers=True, seeds=1, base={"model.dim": dim}) for dim in (16, 24))
    began = begin(tmp_path / "s", first, lambda former: plan(first, former=former))

    def planner(former: Plan | None) -> Plan:
        begun(tmp_path / "s")
        return plan(other, former=former)

    with pytest.raises(UsageError, match="begun differently"):
        begin(tmp_path / "s", other, planner)
    assert open_plan(tmp_path / "s") == began


def test_another_study_does_not_take_a_folder_that_is_planned(declare: Any, tmp_path: Path) -> None:
    study = declare(convmixers=True, seeds=1)
    other = study.model_copy(update={"name": "another"})
    begin(tmp_path / "s", study, lambda former: plan(study, former=former))
    for _planned in (True, False):
        with pytest.raises(UsageError, match=r"s holds the study 'try', not 'another'"):
            begin(tmp_path / "s", other, lambda former: plan(other, former=former))
        (tmp_path / "s" / "plan.json").unlink(missing_ok=True)
    assert load_study(tmp_path / "s") == study


def test_what_somebody_wrote_in_a_study_is_put_aside(declare: Any, tmp_path: Path) -> None:
    study = declare(convmixers=True, seeds=1)
    (tmp_path / "s").mkdir()
    shutil.copy(tmp_path / "declared.yaml", tmp_path / "s" / "study.yaml")
    written = "# why\n" + (tmp_path / "s" / "study.yaml").read_text()
    (tmp_path / "s" / "study.yaml").write_text(written)
    for _again in range(2):
        begin(tmp_path / "s", study, lambda former: plan(study, former=former))
        assert load_study(tmp_path / "s") == study
    assert [path.name for path in sorted((tmp_path / "s").glob("study*"))] == ["study.1.yaml", "study.yaml"]
    assert (tmp_path / "s" / "study.1.yaml").read_text() == written
    asked = study.model_copy(update={"question": "And?"})
    begin(tmp_path / "s", asked, lambda former: plan(asked, former=former))
    assert not (tmp_path / "s" / "study.2.yaml").exists(), "what was written here is in plan.json"


@pytest.mark.parametrize("damage", ["{", '{"format": 1}', "[]", '"runs": {', "edited"])
def test_a_plan_that_was_damaged_is_made_again_around_the_runs_that_are_there(
    declare: Any, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "s"
    study = declare(convmixers=True, seeds=2)

    def planner(former: Plan | None) -> Plan:
        return plan(study, threads=former.threads if former else 3, former=former)

    first = begin(folder, study, planner)
    finished(folder, first.runs[0])
    begun(folder)
    text = (folder / "plan.json").read_text()
    edited = text.replace('"epochs": 1,', '"epochs": 2,', 1)
    (folder / "plan.json").write_text(edited if damage == "edited" else damage)
    with pytest.raises(
        IsopatchError, match=r"plan\.json: .*delete it, and 'isopatch study run .*s' plans again"
    ):
        begin(folder, study, planner)
    (folder / "plan.json").unlink()
    assert begin(folder, study, planner) == first == open_plan(folder)
    assert status(folder)["done"] == 1

    (folder / "plan.json").unlink()
    other = declare(convmixers=True, seeds=2, base={"optimizer.lr": 0.1})
    with pytest.raises(UsageError, match=r"begun differently: .*-seed0: optimizer.lr was 0.005, now 0.1"):
        begin(folder, other, lambda former: plan(other, threads=3, former=former))
    assert find_plan(folder) is None and load_study(folder) == study, "what was refused changed nothing"


def test_a_plan_made_again_has_the_threads_and_the_lengths_of_the_runs(
    declare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isopatch.study import costs

    speed = 6400.0
    monkeypatch.setattr(costs.Costs, "speed", lambda *_: speed)
    study = declare(convmixers=True, seeds=1, equal={"seconds": 1})
    base = {key: value for key, value in study.base.items() if key != "threads"}
    study = study.model_copy(update={"base": base})

    def planner(former: Plan | None) -> Plan:
        return plan(study, threads=former.threads if former else 1, former=former)

    first = begin(tmp_path / "s", study, lambda former: plan(study, threads=5, former=former))
    assert first.runs[0].steps == 100 and first.runs[0].config["threads"] == 5
    finished(tmp_path / "s", first.runs[0])
    (tmp_path / "s" / "plan.json").unlink()
    speed = 3200.0
    assert begin(tmp_path / "s", study, planner) == first
    shutil.rmtree(tmp_path / "s" / "runs")
    (tmp_path / "s" / "plan.json").unlink()
    fresh = begin(tmp_path / "s", study, planner).runs[0]
    assert fresh.steps == 50 and fresh.config["threads"] == 1, "control: without runs it is measured"


def test_a_folder_is_a_studys_own_only_where_it_says_so(declare: Any, tmp_path: Path) -> None:
    study = declare(convmixers=True, seeds=1)
    (tmp_path / "s" / "runs").mkdir(parents=True)  # what `isopatch train` leaves in any folder
    with pytest.raises(UsageError, match=r"holds other things \(runs\)"):
        begin(tmp_path / "s", study, lambda former: plan(study, former=former))
    shutil.copy(tmp_path / "declared.yaml", tmp_path / "s" / "study.yaml")
    (tmp_path / "s" / "photo.jpg").touch()
    with pytest.raises(UsageError, match=r"holds other things \(photo.jpg\)"):
        begin(tmp_path / "s", study, lambda former: plan(study, former=former))
    (tmp_path / "s" / "photo.jpg").unlink()
    assert not has_begun(tmp_path / "s")
    assert len(begin(tmp_path / "s", study, lambda former: plan(study, former=former))) == 1
