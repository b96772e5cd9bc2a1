"""What the options of several verbs share, and the options of those that measure and pack."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from isopatch.explain.options import OPTIONS, PREFIXES

KERNELS = ("auto", "plain", "native", "triton")
DATA = "digits, a folder, a pack, Parquet or a hub name"
CHECKPOINT = "run folder, weights file or hub id"


def count(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a converter for whole numbers from `least` up, to `most` where that is given."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        if most is not None and number > most:
            raise argparse.ArgumentTypeError(f"{text} is above {most}")
        return number

    return convert


def add_pack(pack: argparse.ArgumentParser) -> None:
    """Options of `isopatch data pack`."""
    pack.add_argument("data", metavar="DATA", help=DATA)
    pack.add_argument("out", metavar="OUT", help="a new folder, which --data then takes")
    pack.add_argument(
        "--short-side", type=count(1), default=256, metavar="N", help="pixels at most; default 256"
    )
    pack.add_argument(
        "--store",
        choices=("raw", "jpeg"),
        default="raw",
        help="raw (default): pixels, fastest, 3 bytes each; jpeg: a tenth of that",
    )
    pack.add_argument("--quality", type=count(1, 100), default=95, metavar="Q", help="of jpeg; default 95")
    pack.add_argument("--workers", type=count(0), default=0, metavar="N", help="processes that decode")
    pack.add_argument("--bad", choices=("fail", "skip"), default="fail", help="what an unreadable file does")
    pack.add_argument("--overwrite", action="store_true", help="replace the pack that is at OUT")
    add_max_pixels(pack)


def add_data_bench(bench: argparse.ArgumentParser) -> None:
    """Options of `isopatch data bench`."""
    bench.add_argument("data", metavar="DATA", help=DATA)
    bench.add_argument("--peers", metavar="NAME,...", default="", help="timm, torchvision; default none")
    bench.add_argument("--against", metavar="DATA", help="what the peers read; default DATA")
    bench.add_argument("--recipe", metavar="NAME", default="deit", help="whose augmentation; default deit")
    bench.add_argument(
        "--model", metavar="NAME", default="deit_small_patch16_224", help="whose recipe, where it matters"
    )
    for option, default, what in (
        ("--size", 224, "pixels a side"),
        ("--batch-size", 64, "pictures in a batch"),
        ("--rounds", 5, "of each contender"),
        ("--pictures", 1024, "timed in a round"),
    ):
        bench.add_argument(
            option, type=count(1), default=default, metavar="N", help=f"{what}; default {default}"
        )
    bench.add_argument("--workers", type=count(0), default=2, metavar="N", help="processes; default 2")


def add_explain(explain: Any) -> None:
    """Options of `isopatch explain`."""
    explain.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    explain.add_argument("images", metavar="IMAGE", nargs="*", help="pictures, folders, globs; at most 64")
    explain.add_argument(
        "--what", metavar="NAME,...", help="which explanations; default all that can be made"
    )
    explain.add_argument("--class", dest="class_name", metavar="NAME", help="default: the most probable one")
    explain.add_argument(
        "--compare", metavar="OTHER", action="append", help="another model beside it; at most two"
    )
    explain.add_argument("--data", metavar="DATA", help=f"for statistics: {DATA}")
    explain.add_argument("--split", choices=("train", "val", "test"), help="default: test where there is one")
    explain.add_argument(
        "--pictures", type=count(0), default=0, metavar="N", help="explain N pictures of --data too"
    )
    explain.add_argument(
        "--out", metavar="DIR", help="default: explanations, in the run or where you are; files are replaced"
    )
    explain.add_argument(
        "--model", metavar="NAME", help="which model a file without a name holds; --model.ARGUMENT VALUE"
    )
    explain.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda or cuda:N")
    explain.add_argument("--seed", type=count(0), default=0, metavar="N", help="of samples and checks")
    explain.settings_under = ("model.", *PREFIXES)
    explain.epilog = "options of explanations, with their defaults:\n" + "\n".join(
        f"  --{name} {_shown(option.default)}: {option.about}"
        + (f"; {', '.join(option.choices)}" if option.choices else "")
        for name, option in OPTIONS.items()
    )


def _shown(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """The option that refuses large pictures."""
    parser.add_argument(
        "--max-pixels", type=count(1), default=50_000_000, metavar="N", help="refuse larger pictures"
    )


def add_bench(bench: argparse.ArgumentParser) -> None:
    """Options of `isopatch bench`."""
    bench.add_argument("names", metavar="MODEL", nargs="+", help=f"model name, {CHECKPOINT}")
    bench.add_argument(
        "--mode", choices=("infer", "train"), default="infer", help="a forward pass or a training step"
    )
    bench.add_argument("--batch", type=count(1), metavar="N", help="pictures; default 8, in training 32")
    bench.add_argument("--image-size", metavar="N", help="pixels: 384, or rows x columns as 96x128")
    bench.add_argument(
        "--precision", default="auto", metavar="P[,P]", help="fp32, bf16; default auto: the fastest counts"
    )
    bench.add_argument(
        "--kernels", default="auto", metavar="K", help="plain, native, triton; default auto: plain and twins"
    )
    bench.add_argument(
        "--peers", metavar="P[,P]", help="timm, timm-compile, openvino, onnxruntime (default: all), none"
    )
    bench.add_argument("--rounds", type=count(1), default=5, metavar="N", help="default 5")
    bench.add_argument("--threads", metavar="N[,N]", help="every number is tried; default all cores")
    bench.add_argument("--device", default="cpu", metavar="D", help="cpu (default) or cuda")
    bench.add_argument("--seed", type=count(0), default=0, metavar="N", help="of weights, pictures, order")
    bench.add_argument("--no-memory", action="store_true", help="leave out peak memory: a process each")
    bench.add_argument("--plot", metavar="FILE", help=".png: multiply-adds and accuracy against images/s")


def add_probes(evaluate: argparse.ArgumentParser) -> None:
    """Options of `isopatch eval --probe`."""
    group = evaluate.add_argument_group("probes of the frozen features")
    group.add_argument(
        "--probe", metavar="NAME,...", help="few-shot, knn, logistic, ridge, linear: on DATA's own classes"
    )
    group.add_argument("--shots", metavar="N,N,...", help="pictures per class; default 1,5,10,25")
    group.add_argument("--probe-seeds", type=count(1), metavar="N", help="draws of the shots; default 3")
    group.add_argument("--probe-k", metavar="N,N,...", help="of knn; default 1,10,20,100,200")
    group.add_argument("--probe-cache", metavar="DIR", help="keeps the features; default probes/ in the run")


def add_suite(evaluate: argparse.ArgumentParser) -> None:
    """Options of `isopatch eval --suite`."""
    group = evaluate.add_argument_group("suites: several measurements and a page")
    group.add_argument(
        "--suite", choices=("robustness",), help="damaged pictures, shuffled tiles, calibration, weak classes"
    )
    group.add_argument(
        "--suite-pictures", type=count(0), metavar="N", help="to damage; default 2000, 0 takes all"
    )
    group.add_argument("--corruptions", metavar="NAME,...", help="kinds of damage; default all nine")
    group.add_argument("--suite-seed", type=count(0), metavar="N", help="of sample and damage; default 0")
    group.add_argument(
        "--out", metavar="DIR", help="for the page; default robustness-SPLIT in the run, or here"
    )


def add_labels(evaluate: argparse.ArgumentParser) -> None:
    """Options of `isopatch eval` for ImageNet's other labels and test sets."""
    evaluate.add_argument(
        "--labels", metavar="FILE", help="JSON with several right answers a picture, as ReaL's real.json"
    )
    evaluate.add_argument(
        "--class-subset",
        action="store_const",
        const=True,
        help="only among the classes DATA has folders for: ImageNet-A, -R, -V2",
    )
