"""Names, a file and overrides become one configuration, or one list of everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from isopatch.errors import UsageError
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.recipes.default import DefaultChoice
from isopatch.recipes.resolve import dump_config, resolve
from isopatch.recipes.schema import leaves
from isopatch.recipes.teacher import auto_teacher
from isopatch.training.config import DataConfig, RunConfig

TINY = [("model.dim", "16"), ("model.depth", "1"), ("model.kernel_size", "3"), ("model.patch_size", "1")]
TINY.append(("model.image_size", "8"))


def tiny(*overrides: tuple[str, str], config_file: Path | None = None, **names: str) -> RunConfig:
    named = {"model": "convmixer", **names}
    return resolve(overrides=[*TINY, *overrides], config_file=config_file, **named)  # type: ignore[arg-type]


def problems(*overrides: tuple[str, str], config_file: Path | None = None, **names: str) -> list[str]:
    with pytest.raises(UsageError) as error:
        tiny(*overrides, config_file=config_file, **names)
    return str(error.value).splitlines()


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


# --- precedence ----------------------------------------------------------------------------------------


def test_nothing_given_is_a_convmixer_on_digits() -> None:
    notes: list[str] = []
    config = resolve(notes=notes)
    assert (config.data.source, config.recipe, config.model.name) == ("digits", "small", "convmixer")
    assert len(notes) == 1 and "no model was named" in notes[0]


def test_recipe_then_file_then_overrides(tmp_path: Path) -> None:
    file = write(tmp_path, "optimizer:\n  lr: 2e-3\n  weight_decay: 0.2\nepochs: 7\n")
    config = tiny(("optimizer.lr", "3e-3"), config_file=file, recipe="convmixer")
    assert config.optimizer.lr == 3e-3  # override
    assert config.optimizer.weight_decay == 0.2  # file
    assert config.epochs == 7  # file
    assert config.optimizer.eps == 1e-3  # recipe


def test_the_default_choice_stands_below_a_recipe_that_was_named() -> None:
    def choice(data: DataConfig) -> DefaultChoice:
        assert data.source == "photos"
        sizes = {key.removeprefix("model."): yaml.safe_load(text) for key, text in TINY}
        return DefaultChoice("convmixer", sizes, "small", {"epochs": 3}, "because")

    alone = resolve(data="photos", choose_for=choice)
    assert (alone.epochs, alone.recipe, alone.model.arguments["dim"]) == (3, "small", 16)
    with_recipe = resolve(data="photos", recipe="convmixer", choose_for=choice)
    assert (with_recipe.epochs, with_recipe.model.arguments["dim"]) == (150, 16)
    overridden = resolve(data="photos", overrides=[("model.dim", "24"), ("epochs", "5")], choose_for=choice)
    assert (overridden.epochs, overridden.model.arguments["dim"]) == (5, 24)


def test_a_named_model_needs_no_look_at_the_data() -> None:
    def forbidden(data: DataConfig) -> DefaultChoice:
        raise AssertionError("the data was read")

    config = resolve(model="vit_tiny_patch16_224", data="nowhere", choose_for=forbidden)
    assert config.recipe == "small"


def test_a_configuration_survives_its_own_yaml(tmp_path: Path) -> None:
    sizes = [("model.image_size", "[8, 12]"), *TINY[:-1]]
    config = resolve(model="convmixer", recipe="deit", data="1234", overrides=[("seed", "5"), *sizes])
    again = resolve(config_file=write(tmp_path, dump_config(config)))
    assert again == config
    assert again.data.source == "1234"


def test_pretrained_weights_without_a_recipe_are_fine_tuned() -> None:
    assert tiny(("weights", "some/run")).recipe == "finetune"


def test_a_fine_tuning_recipe_without_weights_is_pointed_out() -> None:
    notes: list[str] = []
    resolve(model="deit_tiny_patch16_224", recipe="deit-384", notes=notes)
    assert any("--weights" in note for note in notes)


# --- values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("optimizer.lr", "1e-3", 1e-3),
        ("optimizer.lr", "1E-3", 1e-3),
        ("optimizer.lr", "5", 5.0),
        ("optimizer.betas", "[0.9, 0.95]", (0.9, 0.95)),
        ("optimizer.clip_norm", "null", None),
        ("schedule.deit_lag", "false", False),
        ("data.source", "007", "007"),
        ("data.source", "true", "true"),
        ("data.source", "a: b", "a: b"),
        ("data.source", "[", "["),
        ("weights", "null", None),
        ("augment.rand_augment", "rand-m9", "rand-m9"),
        ("epochs", "4", 4),
    ],
)
def test_a_value_is_read_as_what_its_key_holds(key: str, text: str, value: object) -> None:
    config: object = tiny((key, text))
    for part in key.split("."):
        config = getattr(config, part)
    assert config == value and type(config) is type(value)


def test_numbers_in_a_file_may_be_short(tmp_path: Path) -> None:
    config = tiny(config_file=write(tmp_path, "optimizer: {lr: 1e-3, eps: 1E-7}\nmodel: {name: convmixer}\n"))
    assert (config.optimizer.lr, config.optimizer.eps) == (1e-3, 1e-7)


def test_an_empty_file_and_empty_groups_say_nothing(tmp_path: Path) -> None:
    assert tiny(config_file=write(tmp_path, "")) == tiny()
    assert tiny(config_file=write(tmp_path, "optimizer:\n# nothing\nmix: {}\n")) == tiny()


# --- everything that is wrong, at once -----------------------------------------------------------------


def test_both_stages_report_in_one_list() -> None:
    found = problems(
        ("optimizer.lrr", "1"),
        ("batch_size", "0"),
        ("model.kernal_size", "5"),
        ("model.activation", "swish"),
        ("optimizer.name", "adam"),
        ("mix.mixup", "-1"),
        ("precision", "fp8"),
    )
    assert set(found[:-2]) == {
        "optimizer.lrr: unknown key (did you mean 'lr'?)",
        "mix.mixup: -1 is below 0",
        "optimizer.name: 'adam' is not one of adamw, sgd, lamb (did you mean 'adamw'?)",
        "batch_size: 0 is below 1",
        "precision: 'fp8' is not one of auto, fp32, bf16, fp16",
    }
    assert {line.split(":")[0] for line in found[-2:]} == {"model.kernal_size", "model.activation"}
    assert any("did you mean 'kernel_size'" in line for line in found[-2:])


def test_rules_over_several_keys_are_in_the_same_list() -> None:
    found = problems(("accumulate", "3"), ("seed", "-1"), ("augment.scale", "[0.9, 0.1]"))
    assert [line.split(":")[0] for line in found[:2]] == ["augment", "seed"]
    assert "accumulate 3 does not divide batch_size" in found[2]


def test_two_unknown_names_are_both_reported() -> None:
    found = problems(("lr", "1"), model="convmixr", recipe="smal")
    assert found[0] == "lr: unknown key (did you mean 'optimizer.lr'?)"
    assert found[-1].startswith("model.name: unknown model 'convmixr' (did you mean 'convmixer'?)")


@pytest.mark.parametrize(
    ("key", "text", "fragment"),
    [
        ("epochs", "true", "true is not a number"),
        ("epochs", "1.5", "is not a whole number"),
        ("epochs", "many", "is not a whole number"),
        ("epochs", "null", "is not a whole number"),
        ("optimizer.lr", "fast", "is not a number"),
        ("optimizer.lr", ".inf", "is not a finite number"),
        ("optimizer.lr", ".nan", "is not a finite number"),
        ("optimizer.lr", "0", "must be above 0"),
        ("augment.flip", "1.5", "is above 1"),
        ("objective.label_smoothing", "1", "must be below 1"),
        ("augment.scale", "0.5", "write them as [0.08, 1.0]"),
        ("augment.scale", "[0.1, 0.2, 0.3]", "write them as [0.08, 1.0]"),
        ("augment.scale", "[true, 1]", "is not a number"),
        ("schedule.deit_lag", "perhaps", "is not true or false"),
        ("schedule.kind", "off", "false is not one of"),
        ("optimizer", "adamw", "is a group of keys"),
        ("model", "vit", "is a group of keys"),
        ("optimizer.lr.peak", "1", "unknown key"),
        ("model.dim.x", "1", "unknown key"),
        ("", "1", "unknown key"),
        ("a..b", "1", "unknown key"),
        ("model.num_classes", "many", "is not an integer"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(key: str, text: str, fragment: str) -> None:
    found = problems((key, text))
    assert len(found) == 1
    assert found[0].startswith(f"{key}:") and fragment in found[0]


def test_an_override_given_twice_is_refused() -> None:
    assert problems(("optimizer.lr", "1"), ("optimizer.lr", "2"))[0].startswith("optimizer.lr: given twice")
    assert tiny(("optimizer.lr", "1"), ("optimizer.lr", "1")).optimizer.lr == 1


def _slips(key: str) -> list[str]:
    """Typing errors in the last part of a key: a letter dropped, two swapped, one doubled, a wrong group."""
    head, _, last = key.rpartition(".")
    head = head + "." if head else ""
    middle = len(last) // 2
    found = [head + last[:middle] + last[middle + 1 :], head + last[: middle + 1] + last[middle:]]
    if last[middle : middle + 1] != last[middle - 1 : middle]:
        found.append(head + last[: middle - 1] + last[middle] + last[middle - 1] + last[middle + 1 :])
    wrong_group = ("checkpoint." if not head.startswith("checkpoint") else "optimizer.") + last
    return [slip for slip in [*found, wrong_group] if slip not in set(leaves()) and not slip.endswith(".")]


def test_nearly_every_typing_error_gets_the_right_suggestion() -> None:
    """Every slip is refused; at least 95 % of the suggestions name the key that was meant."""
    total = right = 0
    for key in leaves():
        if key in ("model.name", "recipe"):
            continue
        for slip in _slips(key):
            line = next(line for line in problems((slip, "1")) if line.startswith(f"{slip}:"))
            assert "unknown key" in line
            total += 1
            right += f"'{key}'" in line or f"'{key.rpartition('.')[2]}'" in line
    assert total > 150
    assert right / total >= 0.95


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(set(leaves()) - {"model.name", "recipe"})), st.text(max_size=12))
def test_no_text_can_crash_the_check(key: str, text: str) -> None:
    try:
        config = tiny((key, text))
    except UsageError as error:
        assert str(error)
    else:
        assert resolve_again(config) == config


def resolve_again(config: RunConfig) -> RunConfig:
    return RunConfig.model_validate(yaml.safe_load(dump_config(config)))


# --- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("epochs: 3\nepochs: 4\n", "run.yaml:2: epochs was given in line 1 already"),
        ("optimizer:\n  lr: 1\n  lr: 1\n", "run.yaml:3: optimizer.lr was given in line 2 already"),
        ("optimizer:\n  lrr: 1\n", "optimizer.lrr: unknown key (did you mean 'lr'?) (run.yaml line 2)"),
        ("epochs: 0\n", "epochs: 0 is below 1 (run.yaml line 1)"),
        ("\n\nmodel:\n  kernal_size: 3\n", "(run.yaml line 4)"),
        ("a: [1\nb: 2\n", "run.yaml:2: not YAML"),
        ("a:\n\t- b\n", "run.yaml:2: not YAML"),
        ("- epochs\n", "run.yaml:1: give keys and values"),
        ("just words\n", "run.yaml:1: give keys and values"),
        ("1: 2\n", "run.yaml:1: 1 is no key"),
        ("epochs: !!python/object/apply:os.system ['true']\n", "run.yaml:1: not YAML"),
        ("optimizer: 3\n", "optimizer: is a group of keys"),
        ("model: vit\n", "model: is a group of keys"),
        ("epochs: {a: 1}\n", "epochs.a: unknown key"),
        ("optimizer.lrr: 1\n", "optimizer.lrr: unknown key"),
        ("seed: 2024-01-01\n", "seed:"),
        ("seed: 2024-99-99\n", "run.yaml: not YAML"),
        ("a: " + "[" * 5000, "not YAML"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(text: str, fragment: str, tmp_path: Path) -> None:
    found = problems(config_file=write(tmp_path, text))
    assert any(fragment in line for line in found), found


def test_dotted_keys_work_in_a_file(tmp_path: Path) -> None:
    assert tiny(config_file=write(tmp_path, "optimizer.lr: 0.5\n")).optimizer.lr == 0.5


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "cannot read" in problems(config_file=tmp_path / "absent.yaml")[0]
    assert "cannot read" in problems(config_file=tmp_path)[0]
    binary = tmp_path / "weights.bin"
    binary.write_bytes(b"\xff\xfe\x00\x01" * 10)
    assert "not a text file" in problems(config_file=binary)[0]


def test_a_file_and_a_flag_with_two_recipes_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "recipe: deit\n")
    assert problems(config_file=file, recipe="convmixer")[0].startswith("recipe: --recipe convmixer")
    assert tiny(config_file=file, recipe="deit").recipe == "deit"


# --- distillation ---------------------------------------------------------------------------------------


def test_the_token_is_a_setting_of_the_distillation() -> None:
    for token in ("true", "false"):
        config = resolve(model="deit_tiny", overrides=[("distill.teacher", "t"), ("distill.token", token)])
        assert config.model.arguments["distilled"] is (token == "true")
    assert "distilled" not in resolve(model="deit_tiny").model.arguments
    said = [("distill.teacher", "t"), ("distill.token", "false"), ("model.distilled", "true")]
    assert (
        resolve(model="deit_tiny", overrides=said).model.arguments["distilled"] is True
    )  # refused by training
    other = resolve(
        model="convmixer_256_8_ks5_p2", overrides=[("distill.teacher", "t"), ("distill.token", "true")]
    )
    assert "distilled" not in other.model.arguments


def test_the_token_is_a_setting_of_a_distillation_that_starts_from_weights(tmp_path: Path) -> None:
    sizes = {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": 8}
    save_model(tmp_path, build(make_spec("deit", sizes)), {})
    for token in ("true", "false"):
        said = [("weights", str(tmp_path)), ("distill.teacher", "t"), ("distill.token", token)]
        assert resolve(overrides=said).model.arguments["distilled"] is (token == "true")
    assert not resolve(overrides=said[:1]).model.arguments["distilled"]


def test_several_teachers_are_one_text() -> None:
    config = resolve(model="deit_tiny", overrides=[("distill.teacher", "runs/a,cifar_resnet56=b.th")])
    assert config.distill.teacher == "runs/a,cifar_resnet56=b.th"


def test_a_teacher_that_is_trained_first_stands_alone() -> None:
    with pytest.raises(UsageError, match="'auto,runs/a': auto is trained for itself; give it alone"):
        resolve(model="deit_tiny", overrides=[("distill.teacher", "auto,runs/a")])


def test_distillation_without_a_teacher_is_refused() -> None:
    with pytest.raises(UsageError, match=r"distill: distill\.kind has no effect without distill\.teacher"):
        resolve(model="deit_tiny", overrides=[("distill.kind", "soft")])


def test_the_automatic_teacher_is_the_same_for_every_seed() -> None:
    students = [resolve(model="deit_tiny", overrides=[("seed", str(seed))]) for seed in range(2)]
    assert auto_teacher(students[0], 5000) == auto_teacher(students[1], 5000)
    assert auto_teacher(students[0], 5000).model.name == "timm:resnet18"
    small = resolve(model="deit_tiny", overrides=[("model.image_size", "32")])
    assert auto_teacher(small, 5000).model.name == "cifar_resnet20"
    assert auto_teacher(small, 5000).data == small.data


def test_the_automatic_teacher_fits_few_pictures_and_rectangles() -> None:
    student = resolve(model="deit_tiny", overrides=[("model.image_size", "32x48")])
    assert auto_teacher(student, 5000).model.arguments["image_size"] == [32, 48]
    assert [auto_teacher(student, pictures).batch_size for pictures in (5000, 100, 24, 5)] == [128, 24, 6, 2]


def test_a_recipes_rate_that_the_bench_has_no_part_for_is_left_out() -> None:
    size = {"dim": 16, "depth": 1, "patch_size": 4, "image_size": 16, "residual": "none"}
    notes: list[str] = []
    said = [(f"model.{key}", str(value)) for key, value in size.items()]
    config = resolve(model="bench", recipe="deit", overrides=said, notes=notes)
    assert "drop_path" not in config.model.arguments
    assert "also sets drop_path 0.1, for which bench has no part" in " ".join(notes)


def test_a_length_is_given_in_epochs_or_in_steps(tmp_path: Path) -> None:
    assert tiny(("steps", "50")).steps == 50
    assert problems(("steps", "50"), ("epochs", "3"))[0].startswith("epochs: 3 has no effect beside steps 50")
    file = write(tmp_path, "steps: 50\nepochs: 3\n")  # a run's own config.yaml holds both
    assert tiny(config_file=file).steps == 50
    assert "no effect beside steps 50" in problems(("epochs", "3"), config_file=file)[0]
    assert tiny(("epochs", "3"), ("steps", "null"), config_file=file).epochs == 3
