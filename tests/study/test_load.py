"""What a study.yaml may say: everything wrong is said at once, with the nearest name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from isopatch.errors import UsageError
from isopatch.eval_probes import PROBES
from isopatch.study.load import builtin_names, dump_study, load_study
from isopatch.study.schema import Study


def write(folder: Path, text: str) -> Path:
    path = folder / "my study.yaml"
    path.write_text(text)
    return path


def problems(declare: Any, **keys: Any) -> list[str]:
    with pytest.raises(UsageError) as error:
        declare(**keys)
    return [line.removeprefix("declared.yaml: ") for line in str(error.value).splitlines()]


MIXERS = {"mixer": ["attention", "depthwise"], "depth": [1, 2]}


def test_everything_wrong_is_said_at_once(declare: Any) -> None:
    said = problems(
        declare,
        sedes=3,
        equal={"epochs": 1, "images": 5},
        factors={"kernel_sizes": [3], "mixer": ["attention", "attention"], "depth": []},
        hypotheses=[{"claim": "x", "better": {}, "worse": {}, "expect": "grater"}],
        base={"optimizer.learning_rate": 1, "epochs": 3},
        before={"Teacher": {"modle": "convmixer"}},
    )
    expected = [
        "sedes: unknown key (did you mean 'seeds'?)",
        "equal: give exactly one of epochs, images, seconds, training_flops",
        "hypotheses 1: expect: 'grater' is not one of greater, equal, less (did you mean 'greater'?)",
        "base: optimizer.learning_rate: unknown key",
        "base: epochs cannot be set here: the study's equal says how long runs are",
        "factors.kernel_sizes: kernel_sizes: unknown key (did you mean 'kernel_size'?)",
        "factors.mixer: level attention is given twice",
        "factors.depth: has no levels",
        "before.Teacher: a name is made of a-z, 0-9 and -",
        "before.Teacher: modle: unknown key (did you mean 'model'?)",
    ]
    for line in expected:
        assert any(found.startswith(line) for found in said), (line, said)
    assert len(said) == len(expected)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"equal": None}, "equal: is missing; say what is held equal"),
        ({"seeds": [1, 1]}, "seeds: 1 is given twice"),
        ({"seeds": 0}, "seeds: give how many, from 1 up"),
        (
            {"cells": [{"mixer": "atention", "depth": 1}]},
            "cells 1: mixer has no level atention (did you mean",
        ),
        ({"cells": [{"mixer": "attention"}]}, "cells 1: says nothing about factor depth"),
        (
            {"cells": [{"mixer": "depthwise", "depth": n} for n in (1, "1")]},
            "cells: depth 1, mixer depthwise is",
        ),
        ({"exclude": [{"depth": 3}]}, "exclude 1: depth has no level 3; there are 1, 2"),
        ({"exclude": [{"depth": 1}, {"depth": 2}]}, "exclude: nothing is left of the study"),
        ({"match": {"like": {"mixr": "attention"}}}, "match.like: mixr is no factor (did you mean 'mixer'?)"),
        ({"match": {"like": {"depth": 1}, "solve": "lr"}}, "match.solve: lr: unknown key (did you mean 'opt"),
        ({"match": {"like": {"depth": 1}, "solve": "batch_size"}}, "match.solve: batch_size is no argument"),
        ({"base": {"weights": "@first"}}, "base: @first is no run under before; there are none"),
        ({"base": {"teacher": "auto"}}, "base: teacher auto: name a run under before"),
        ({"base": {"seed": 3}}, "base: seed cannot be set here: the study's seeds say it"),
        ({"base": {"width": 8}}, "base: model.dim is given twice; keep one"),
        (
            {"before": {"a": {"weights": "@b"}, "b": {"weights": "@a"}}},
            "before: a, b wait for each other",
        ),
        (
            {"hypotheses": [{"claim": "x", "better": {"depth": 1}, "worse": {"depth": 1}}]},
            "hypotheses 1: better and worse are the same cells",
        ),
        (
            {
                "hypotheses": [
                    {"claim": "x", "better": {"depth": 1}, "worse": {"depth": 2}, "expect": "equal"}
                ]
            },
            "hypotheses 1: margin belongs to expect: equal",
        ),
        (
            {"factors": {"depth": [1, 2], "size": {"deep": {"model.depth": 9}}}},
            "factors: both depth and size set",
        ),
        ({"probes": ["kmm"]}, "probes 1: 'kmm'"),
        ({"match": {"like": {}}}, "match.like: names no level, so nothing would be matched"),
        ({"factors": None, "match": []}, "match: []: give keys and values"),
        ({"factors": []}, "factors: []: give each with its levels, as 'kernel_size: [3, 5]'"),
        ({"factors": {"depth": 3}}, "factors.depth: give a list of levels, or named levels"),
        ({"factors": {1: [3]}}, "factors: 1 is no name; put it in quotes"),
        ({"before": ["low"]}, 'before: ["low"]: give keys and values'),
        ({"before": {"low": 5}}, "before.low: 5: give keys and values"),
        ({"hypotheses": {"claim": "x"}}, 'hypotheses: {"claim": "x"}: give a list'),
        ({"hypotheses": ["x"]}, "hypotheses 1: 'x': give keys and values"),
        ({"exclude": [5]}, "exclude 1: 5: give keys and values"),
        ({"name": "My study"}, "name: 'My study': a name is made of a-z, 0-9 and -"),
        ({"name": 5}, "name: 5: give a text"),
        ({"seeds": 10**30}, "seeds: give how many, from 1 up to 100,000"),
    ],
)
def test_each_mistake_is_refused(declare: Any, keys: dict[str, Any], line: str) -> None:
    said = problems(declare, **{"factors": MIXERS, **keys})
    assert len(said) == 1 and said[0].startswith(line), said


SIDES = {"claim": "x", "better": {"depth": 2}, "worse": {"depth": 1}}
DIAGONAL = [{"mixer": "attention", "depth": 1}, {"mixer": "depthwise", "depth": 2}]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"metric": "top_1"}, "metric: top_1 is no column of the results (did you mean 'top1'?)"),
        ({"metric": "seed"}, "metric: seed is no column of the results"),
        ({"metric": "model"}, "metric: model is no column of the results"),
        ({"metric": "probe.few-shot.vit.5-shot"}, "metric: probe.few-shot.vit.5-shot: few-shot is not under"),
        ({"metric": "probe.knm.k-10"}, "metric: probe.knm.k-10: knm is not under probes (did you mean 'knn'"),
        ({"metric": "probe.knn"}, "metric: probe.knn: say which of its figures"),
        (
            {"worse": {"mixer": "attention"}},
            "better and worse must name the same factors; only one of them na",
        ),
        (
            {"worse": {"depth": 1, "mixer": "attention"}},
            "better and worse must name the same factors; only o",
        ),
        ({"worse": {}}, "better and worse must name the same factors; only one of them names depth"),
        ({"expect": "equal", "margin": 0}, "margin: 0: give how far apart is still equal, above 0"),
        ({"expect": "equal", "margin": float("inf")}, "margin: inf: give how far apart is still equal"),
        ({"cells": DIAGONAL}, "no two cells differ in this alone"),
        ({"better": {"depth": "@best"}, "cells": DIAGONAL}, None),
        ({"cells": [*DIAGONAL, {"mixer": "attention", "depth": 2}]}, None),
        ({"expect": "equal", "margin": 0.001, "metric": "nll"}, None),
        ({"metric": "probe.knn.k-10"}, None),
        *(({"metric": name}, None) for name in ("top5", "ece", "macro_recall", "val_top1")),
        *(({"metric": name}, None) for name in ("seconds", "images_per_second", "training_flops")),
    ],
)
def test_a_claim_that_no_run_can_test_is_refused_before_they_run(
    declare: Any, keys: dict[str, Any], line: str | None
) -> None:
    keys = dict(keys)
    study = {"factors": MIXERS, "probes": ["knn"], "cells": keys.pop("cells", None)}
    claim = {**SIDES, **keys}
    if line is None:
        assert declare(**study, hypotheses=[claim]).hypotheses[0].claim == "x", "control: it can be tested"
        return
    said = problems(declare, **study, hypotheses=[claim])
    assert len(said) == 1 and said[0].startswith(f"hypotheses 1: {line}"), said


@pytest.mark.parametrize("section", ["base", "factors", "before", "hypotheses", "exclude", "seeds", "equal"])
@pytest.mark.parametrize("value", [None, 5, "x", [[]], {"a": 5}])
def test_a_section_of_another_kind_is_refused_in_one_line(tmp_path: Path, section: str, value: Any) -> None:
    document = {"name": "try", "question": "?", "base": {"model": "vit"}, "equal": {"epochs": 1}}
    path = write(tmp_path, yaml.safe_dump({**document, section: value}))
    if section == "seeds" and value == 5:
        assert load_study(path).seed_list == [0, 1, 2, 3, 4], "control"
        return
    for more in ({}, {"data": "digits", "equal": 2.0}):
        with pytest.raises(UsageError, match=rf"my study.yaml: {section}\b"):
            load_study(path, **more)
    small = write(tmp_path, yaml.safe_dump({**document, "small": {section: value}}))
    with pytest.raises(UsageError, match=rf"my study.yaml: {section}\b"):
        load_study(small, small=True)


def test_a_run_under_before_of_another_kind_is_refused_in_the_small_form_too(tmp_path: Path) -> None:
    before = {"low": {"model": "vit", "epochs": 1}}
    document = {"question": "?", "base": {"model": "vit"}, "equal": {"epochs": 1}, "before": before}
    path = write(tmp_path, yaml.safe_dump({**document, "small": {"before": {"low": [1]}}}))
    with pytest.raises(UsageError, match=r"before\.low: \[1\]: give keys and values"):
        load_study(path, small=True)
    path = write(tmp_path, yaml.safe_dump({**document, "small": {"before": {"low": {"epochs": 2}}}}))
    assert load_study(path, small=True).before == {"low": {"model": "vit", "epochs": 2}}, "control"


def test_the_study_without_a_mistake_is_taken(declare: Any) -> None:
    assert len(declare(factors=MIXERS).factor_levels) == 2


def test_a_file_is_named_by_its_name_and_read_back_from_its_dump(tmp_path: Path) -> None:
    path = write(tmp_path, "question: why\nequal: {training_flops: 1e9}\nfactors: {pyramid: [true, false]}\n")
    study = load_study(path)
    assert (study.name, study.equal.training_flops, study.seed_list) == ("my-study", 1e9, [0, 1, 2])
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "study.yaml").write_text(dump_study(study))
    assert load_study(tmp_path / "copy") == study


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2\n", "a was given in line 1 already"),
        ("base: {model: x, model: y}\n", "model was given in line 1 already"),
        ("- 1\n", "give keys and values"),
        ("base: &x {}\nbefore: *x\n", "aliases"),
        ("base: !!python/object:os.system {}\n", "not YAML"),
        ("weights: @x\n", "not YAML"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        load_study(write(tmp_path, text))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'kernel-size'\?"):
        load_study("kernel-sise")


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_study_loads_in_both_sizes(name: str) -> None:
    assert load_study(name).name == name
    assert load_study(name, small=True).base["data"] == "digits"


@pytest.mark.parametrize("name", builtin_names())
def test_what_a_built_in_study_expects_says_where_that_stands(name: str) -> None:
    for small in (False, True):
        stated = load_study(name, small=small).hypotheses
        assert stated and all(hypothesis.source for hypothesis in stated)


def test_every_change_of_the_ablation_is_tested() -> None:
    study = load_study("convmixer-ablation")
    tested = {hypothesis.worse["change"] for hypothesis in study.hypotheses}
    assert tested == study.factor_levels["change"].keys() - {"none"}


def test_the_small_form_replaces_what_it_says(tmp_path: Path) -> None:
    document = {
        "question": "?",
        "base": {"model": "vit", "model.dim": 64},
        "factors": {"depth": [4, 8], "patch_size": [1, 2]},
        "seeds": 3,
        "equal": {"epochs": 9},
        "small": {"base": {"model.dim": 8}, "factors": {"depth": [1]}, "equal": {"images": 640}},
    }
    path = write(tmp_path, yaml.safe_dump(document))
    small = load_study(path, small=True, data="elsewhere")
    assert small.base == {"model": "vit", "model.dim": 8, "data": "elsewhere"}
    assert small.factors == {"depth": [1], "patch_size": [1, 2]}
    assert small.equal.kind == "images" and small.seeds == 3
    assert load_study(path).equal.kind == "epochs"
    with pytest.raises(UsageError, match="has no section 'small'"):
        load_study(write(tmp_path, "question: why\nequal: {epochs: 1}\n"), small=True)


def test_hypotheses_name_levels_as_text_and_may_ask_for_the_best(declare: Any) -> None:
    study = declare(
        factors=MIXERS,
        hypotheses=[
            {"claim": "x", "better": {"depth": 2, "mixer": "@best"}, "worse": {"depth": 1, "mixer": "@best"}}
        ],
    )
    assert study.hypotheses[0].better == {"depth": "2", "mixer": "@best"}


def test_seeds_may_be_others_than_the_studys(tmp_path: Path) -> None:
    path = write(tmp_path, "question: why\nbase: {model: vit}\nseeds: [4, 7]\nequal: {epochs: 1}\n")
    assert load_study(path).seed_list == [4, 7]
    assert load_study(path, seeds=3).seed_list == [0, 1, 2]


def test_the_amount_may_be_another_than_the_studys(tmp_path: Path) -> None:
    path = write(tmp_path, "question: why\nbase: {model: vit}\nseeds: 2\nequal: {images: 500}\n")
    assert load_study(path, equal=64).equal.amount == 64
    assert load_study("attention-or-patches", equal=2.5e9).equal.amount == 2.5e9
    for amount in (0.5, 0, -3, float("inf"), float("nan")):
        with pytest.raises(UsageError, match=r"equal\.images"):
            load_study(path, equal=amount)
    for amount in (0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match=r"equal\.training_flops"):
            load_study("attention-or-patches", equal=amount)


def test_a_study_has_the_probes_of_eval() -> None:
    assert set(get_args(get_args(Study.model_fields["probes"].annotation)[0])) == set(PROBES)
