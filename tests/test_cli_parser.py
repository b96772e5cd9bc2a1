"""Options, settings and positional arguments in any order."""

from __future__ import annotations

import itertools

import pytest

from isopatch.cli.parser import parse
from isopatch.errors import UsageError


def test_a_setting_may_stand_before_the_name() -> None:
    parts = (["convmixer_256_8_ks5_p2"], ["--model.kernel_size", "3"], ["--model.dim=-8"], ["--json"])
    for order in itertools.permutations(parts):
        arguments = parse(["models", "show", *itertools.chain(*order)])
        assert arguments.name == "convmixer_256_8_ks5_p2"
        assert sorted(arguments.settings) == [("model.dim", "-8"), ("model.kernel_size", "3")]
        assert arguments.json


def test_settings_of_a_training_keep_their_order() -> None:
    command = "train --optimizer.lr 1 --data x --optimizer.lr -2 --batch_size 8 --ema.decay="
    arguments = parse(command.split())
    assert arguments.data == "x"
    assert arguments.settings == [
        ("optimizer.lr", "1"), ("optimizer.lr", "-2"), ("ema.decay", ""), ("batch_size", "8"),
    ]  # fmt: skip
    assert parse(["train", "--optimizer.lr", "", "--seed", "3"]).settings == [("optimizer.lr", "")]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("models show --model.kernel_size vit_tiny", "arguments are required: NAME"),
        ("models show vit_tiny --model.kernel_size", "--model.kernel_size: give a value"),
        ("models show vit_tiny --model.dim --model.depth 3", "--model.dim: give a value"),
        ("train photos --optimizer.lr", "--optimizer.lr: give a value"),
        ("train --optimizer.lr -- photos", "--optimizer.lr: give a value"),
        ("models show --optimizer.lr 3 vit_tiny", "--optimizer.lr: unknown option"),
        ("predict run --data.bad skip a.png", "--data.bad: unknown option"),
        ("eval --optimizer.lr 3 run --data digits", "--optimizer.lr: unknown option"),
        ("report --model.dim 3 run", "--model.dim: unknown option"),
        ("data check --data.bad skip photos", "--data.bad: unknown option"),
        ("predict run a.png --top-k 3 b.png --deviec cuda", "--deviec: unknown option"),
        ("eval run --data digits other", "'other' is one argument too many"),
        ("--model.dim 3", "--model.dim 3: start with a verb"),
    ],
)
def test_what_is_wrong_is_said_whatever_the_order(command: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(command.split())
    assert message in str(error.value)


def test_lists_may_be_cut_by_options() -> None:
    for command in (
        "run a b --top-k 3 c",
        "run --top-k 3 a b c",
        "--top-k 3 run a b c",
        "run a --top-k 3 b c",
    ):
        arguments = parse(["predict", *command.split()])
        assert (arguments.checkpoint, arguments.paths, arguments.top_k) == ("run", ["a", "b", "c"], 3)
    for command in ("a b --out x", "a --out x b", "--out x a b"):
        arguments = parse(["report", *command.split()])
        assert (arguments.runs, arguments.out) == (["a", "b"], "x")
    arguments = parse(["eval", "--data", "digits", "--batch-size", "3", "run"])
    assert (arguments.checkpoint, arguments.batch_size) == ("run", 3)
    assert parse(["data", "check", "--max-pixels", "9", "photos"]).data == "photos"


def test_after_two_dashes_nothing_is_a_setting() -> None:
    arguments = parse(["predict", "run", "--", "--a.png", "b.png"])
    assert arguments.paths == ["--a.png", "b.png"]
