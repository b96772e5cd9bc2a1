"""The options of every verb, and settings (`--a.b VALUE`) beside them. Imports nothing heavy."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from itertools import takewhile
from typing import Any, NoReturn

from isopatch import __version__
from isopatch.cli.options import (
    CHECKPOINT,
    DATA,
    KERNELS,
    add_bench,
    add_data_bench,
    add_explain,
    add_labels,
    add_max_pixels,
    add_pack,
    add_probes,
    add_suite,
    count,
)
from isopatch.cli.study_options import STUDY_VERBS
from isopatch.errors import UsageError, nearest

VERBS = {
    "train": "train a model: on digits, a folder of pictures, or a data set",
    "eval": "measure a trained model on a data set",
    "predict": "classify pictures",
    "explain": "show what a model has learned and what it looks at in pictures",
    "convert": "write a checkpoint in another project's format, and measure the error",
    "report": "write the page of a run, or one page that compares several",
    "models": "list the models, or show one: parameters, MACs, memory",
    "export": "write a model in another form: one file of source that needs torch alone",
    "study": "plan, run and report controlled studies: declared sets of runs that differ in stated factors",
    "bench": "measure a model beside other runtimes: speed, latency, memory",
    "data": "check a data set, pack it for fast training, or measure how fast it is read",
    "config": "print the configuration a training would use, as YAML",
    "doctor": "show versions, CPU, GPU and speed of this machine",
    "demo": "train two small models on real scans, in about a minute",
}


TRAIN_EPILOG = """\
recipes:
{recipes}

Every setting can be given as --a.b VALUE (--optimizer.lr 1e-3, --model.kernel_size 9, --batch_size 64).
`isopatch config` with the same options prints them all as YAML; --config FILE reads them back.
Precedence: the recipe's values, then the file's, then the command line's."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError and takes no abbreviations.

    late_epilog: makes the end of the help, where that costs an import. settings_under: options that argparse
    does not know are settings where they start like this ("" is all of them); None: there are no settings.
    many: the positional list, which takes what argparse leaves behind an option, as in `RUN --out FILE RUN`.
    """

    late_epilog: Callable[[], str] | None = None
    settings_under: str | tuple[str, ...] | None = None
    many: str | None = None

    def __init__(self, **options: Any) -> None:
        """Pass everything on to argparse."""
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def format_help(self) -> str:
        """Return the help."""
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options of a command: `verb` ("train", "models show", ...), `settings` and its own.

    Raises UsageError for an unknown verb, option or value, with the nearest that exists.
    """
    if not argv or (argv[0] not in VERBS and not argv[0].startswith("-")):
        what = f"'{argv[0]}' is no verb{nearest(argv[0], VERBS)}" if argv else "no verb given"
        raise UsageError(f"{what}; there are {', '.join(VERBS)}; see isopatch --help")
    plain, dotted = _without_settings(argv)
    arguments, rest = build_parser().parse_known_args(plain)
    if "verb" not in arguments:
        said = " ".join([*dotted, *rest])
        raise UsageError(f"{said or 'no verb given'}: start with a verb; see isopatch --help")
    parser: Parser = arguments.parser
    if parser.many is not None:
        more = list(takewhile(lambda token: not token.startswith("-"), rest))
        getattr(arguments, parser.many).extend(more)
        rest = rest[len(more) :]
    arguments.settings = [*_settings(dotted, parser), *_settings(rest, parser)]
    return arguments


def _without_settings(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split off `--a.b VALUE` and `--a.b=VALUE`: argparse would take the value for a positional argument."""
    kept: list[str] = []
    dotted: list[str] = []
    end = argv.index("--") if "--" in argv else len(argv)  # what follows `--` are no options
    wants_value = False
    for token in argv[:end]:
        if wants_value and not token.startswith("--"):
            dotted.append(token)
            wants_value = False
            continue
        name, equals, _ = token.partition("=")
        is_setting = name.startswith("--") and "." in name
        (dotted if is_setting else kept).append(token)
        wants_value = is_setting and not equals
    return [*kept, *argv[end:]], dotted


def build_parser() -> Parser:
    """Return the parser of all verbs."""
    parser = Parser(
        prog="isopatch", description="Isotropic patch models: ViT, DeiT, ConvMixer and their kin."
    )
    parser.add_argument("--version", action="version", version=f"isopatch {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(metavar="VERB", parser_class=Parser)

    def verb(name: str, line: str | None = None, *, among: Any = verbs, group: str = "") -> Parser:
        line = line or VERBS[name]
        added: Parser = among.add_parser(name, help=line, description=line)
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added.add_argument("--json", action="store_true", help="print the result as JSON")
        added.set_defaults(verb=f"{group} {name}".strip(), parser=added)
        return added

    def group(name: str, which: str) -> Any:
        added = verbs.add_parser(name, help=VERBS[name], description=VERBS[name])
        return added.add_subparsers(metavar=which, required=True, parser_class=Parser)

    train = verb("train")
    _add_configuration(train)
    train.add_argument("--out", metavar="DIR", help="run folder; default runs/<data>-<model>-<n>")
    train.add_argument(
        "--resume", metavar="auto|DIR", help="continue; auto starts where nothing is saved yet"
    )
    train.add_argument("--overwrite", action="store_true", help="replace the run that is in --out")
    train.add_argument(
        "--max-minutes", type=float, metavar="N", help="save and stop after N minutes, exit code 75"
    )
    train.add_argument("--dry-run", action="store_true", help="measure speed, estimate time and memory, stop")
    _add_configuration(verb("config"))

    evaluate = verb("eval")
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    evaluate.add_argument("--data", metavar="DATA", required=True, help=DATA)
    evaluate.add_argument(
        "--split", choices=("train", "val", "test"), help="default: test where there is one"
    )
    evaluate.add_argument(
        "--teacher", metavar="SOURCE", help="what taught it: is it better, where do they differ"
    )
    evaluate.add_argument(
        "--baseline", metavar="SOURCE", help="the same model trained without a teacher: what it gained"
    )
    evaluate.add_argument(
        "--min-acc", type=float, metavar="X", help="exit with code 3 below this share, e.g. 0.95"
    )
    evaluate.add_argument(
        "--bad", choices=("fail", "skip"), default="fail", help="what an unreadable file does"
    )
    evaluate.add_argument("--workers", type=count(0), default=0, metavar="N", help="loader processes")
    evaluate.add_argument("--threads", type=count(1), metavar="N", help="CPU threads; default all cores")
    evaluate.add_argument(
        "--sizes",
        metavar="N,N,...",
        help="evaluate at several picture sizes: 160,224,192x320 (rows x columns)",
    )
    evaluate.add_argument(
        "--position-resize",
        choices=("deit", "timm", "hf", "jax"),
        help="with --sizes: how positions are resized; default deit",
    )
    evaluate.add_argument(
        "--plot", metavar="FILE", help="with --sizes: .png; default sizes-SPLIT.png in the run, or here"
    )
    add_labels(evaluate)
    add_probes(evaluate)
    add_suite(evaluate)
    _add_inference(evaluate, batch_size=256)

    predict = verb("predict")
    predict.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    predict.add_argument(
        "paths", metavar="PATH", nargs="+", help="pictures, folders (with what is below), globs"
    )
    predict.many = "paths"
    predict.add_argument("--out", metavar="FILE", help=".csv, .jsonl or .parquet; run again to continue it")
    predict.add_argument(
        "--top-k", type=count(1), default=5, metavar="K", help="classes per picture, default 5"
    )
    _add_inference(predict, batch_size=64)

    explain = verb("explain")
    explain.many = "images"
    add_explain(explain)

    convert = verb("convert")
    convert.add_argument("source", metavar="SRC", help=CHECKPOINT)
    convert.add_argument("target", metavar="DST", help="a folder, or a file with the format's suffix")
    convert.add_argument(
        "--to", metavar="FORMAT", required=True, help="isopatch, timm, deit, npz, transformers"
    )
    convert.add_argument(
        "--model",
        metavar="NAME",
        help="which model a file without a name holds; --model.ARGUMENT VALUE for sizes",
    )
    convert.add_argument("--check", action="store_true", help="compare the logits of both sides")
    convert.add_argument(
        "--against", metavar="timm|transformers|FILE", help="whose logits to compare with; implies --check"
    )
    convert.add_argument("--data", metavar="DATA", help=f"pictures to compare on: {DATA}; implies --check")
    convert.add_argument("--split", choices=("train", "val", "test"), help="default: test where there is one")
    convert.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="exit with code 3 above this relative error; default 1e-5",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is at DST")
    convert.add_argument(
        "--partial", action="store_true", help="take the tensors that fit, leave others fresh"
    )
    convert.add_argument("--ema", action="store_true", help="take the moving average of the weights")
    convert.settings_under = "model."

    report = verb("report")
    report.add_argument("runs", metavar="RUN", nargs="+", help="run folders")
    report.many = "runs"
    report.add_argument(
        "--out", metavar="FILE", help="default RUN/report.html, or comparison.html beside the first"
    )

    models = group("models", "list|show")
    verb("list", "every name, with its size", among=models, group="models")
    show = verb("show", "one model; --model.ARGUMENT VALUE changes it", among=models, group="models")
    show.add_argument("name", metavar="NAME")
    show.add_argument("--image-size", metavar="N", help="pixels: 384, or rows x columns as 96x128")
    show.settings_under = "model."

    export = verb("export")
    export.add_argument("source", metavar="NAME", help=f"model name, {CHECKPOINT}")
    export.add_argument("--to", choices=("source",), required=True, help="source: one Python file")
    export.add_argument("--out", metavar="FILE", help="default: standard output")
    export.add_argument("--overwrite", action="store_true", help="replace the file that is in --out")
    export.add_argument("--short", action="store_true", help="ConvMixer in under 280 characters; odd kernels")
    export.add_argument("--model", metavar="NAME", help="which model a file without a name holds")
    export.add_argument("--image-size", metavar="N", help="pixels: 384, or rows x columns as 96x128")
    export.settings_under = "model."

    bench = verb("bench")
    bench.settings_under = "model."
    bench.many = "names"
    add_bench(bench)

    data = group("data", "check|pack|bench")
    what = "read every file: sizes, modes, class balance, unreadable files, duplicates"
    check = verb("check", what, among=data, group="data")
    check.add_argument("data", metavar="DATA", help=DATA)
    add_max_pixels(check)
    pack = verb("pack", "resize every picture once, store them in shards", among=data, group="data")
    add_pack(pack)
    what = "training pictures a second: our loader beside the peers', on the same files"
    add_data_bench(verb("bench", what, among=data, group="data"))

    study = group("study", "list|plan|run|status|report|query")
    for name, (what, add) in STUDY_VERBS.items():
        add(verb(name, what, among=study, group="study"))

    verb("doctor")
    demo = verb("demo")
    demo.add_argument("--out", metavar="DIR", default="runs/demo", help="default runs/demo")
    demo.add_argument("--seed", type=count(0), default=0, metavar="N")
    return parser


def _add_configuration(parser: Parser) -> None:
    parser.settings_under = ""
    parser.late_epilog = _train_epilog
    parser.add_argument("--data", metavar="DATA", help=f"{DATA}; default digits")
    parser.add_argument(
        "--model", metavar="NAME", help="default: chosen for the pictures (isopatch models list)"
    )
    parser.add_argument("--recipe", metavar="NAME", help="default small; finetune with --weights")
    parser.add_argument("--config", metavar="FILE", help="settings in YAML, e.g. a run's config.yaml")
    parser.add_argument("--weights", metavar="SOURCE", help="start from a run, a weights file or a hub id")
    parser.add_argument(
        "--teacher", metavar="SOURCE", help="distil from a run, NAME=FILE, timm:NAME, or auto (trains one)"
    )
    parser.add_argument("--seed", metavar="N", help="of initialisation and drop path; default 0")
    parser.add_argument("--epochs", metavar="N")
    parser.add_argument("--threads", metavar="N", help="CPU threads; default all cores, one for tiny models")
    parser.add_argument("--precision", metavar="auto|fp32|bf16|fp16", help="default auto")
    parser.add_argument(
        "--kernels", metavar="|".join(KERNELS), help="whose operations; default auto: ours where they run"
    )
    parser.add_argument("--bad", metavar="fail|skip", help="what an unreadable picture does; default fail")


def _add_inference(parser: Parser, *, batch_size: int) -> None:
    parser.settings_under = "model."
    parser.add_argument(
        "--model", metavar="NAME", help="which model a file without a name holds; --model.ARGUMENT VALUE"
    )
    parser.add_argument(
        "--batch-size", type=count(1), default=batch_size, metavar="N", help=f"default {batch_size}"
    )
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="default fp32")
    parser.add_argument(
        "--kernels",
        choices=KERNELS,
        default="auto",
        help="whose operations; default auto: ours where they run",
    )


def _train_epilog() -> str:
    from isopatch.recipes.table import recipe_help

    return TRAIN_EPILOG.format(recipes=recipe_help())


def _settings(rest: list[str], parser: Parser) -> list[tuple[str, str]]:
    """Return what argparse did not know as ("a.b", "value") settings, or refuse it with the nearest."""
    settings = []
    tokens = iter(rest)
    for token in tokens:
        if not token.startswith("-"):
            raise UsageError(f"'{token}' is one argument too many; see {parser.prog} --help")
        name, equals, value = token.lstrip("-").partition("=")
        if not token.startswith("--") or not _is_setting(name, parser.settings_under):
            hint = _nearest_option(name, parser)
            raise UsageError(f"{token}: unknown option{hint}; see {parser.prog} --help")
        if not equals:
            following = next(tokens, None)
            if following is None or following.startswith("--"):
                raise UsageError(f"--{name}: give a value, as in --{name} VALUE")
            value = following
        settings.append((name.replace("-", "_"), value))
    return settings


def _is_setting(name: str, under: str | tuple[str, ...] | None) -> bool:
    if under is None or not name.startswith(under):
        return False
    from isopatch.training.config import RunConfig

    return "." in name or name.replace("-", "_") in RunConfig.model_fields


def _nearest_option(name: str, parser: Parser) -> str:
    known = re.findall(r"--([a-z][a-z-]*)", parser.format_usage())
    if parser.settings_under == "":
        from isopatch.recipes.schema import leaves

        settings = list(leaves())
        same = [key for key in settings if key.split(".")[-1] == name.replace("-", "_")]
        if same:
            return f" (did you mean '--{same[0]}'?)"
        known += [key for key in settings if "." not in key] + settings
    return nearest(name, known).replace("'", "'--", 1)
