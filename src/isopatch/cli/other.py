"""The verbs `data check`, `data pack`, `data bench`, `doctor` and `demo`."""

from __future__ import annotations

import argparse
import logging

from isopatch.cli.emit import emit
from isopatch.errors import EXIT_DONE

log = logging.getLogger("isopatch")


def data_check(arguments: argparse.Namespace) -> int:
    """Read every file of a data set."""
    from isopatch.data.check import check_data
    from isopatch.data.check_text import render_check

    emit(arguments, check_data(arguments.data, max_pixels=arguments.max_pixels), render_check)
    return EXIT_DONE


def data_pack(arguments: argparse.Namespace) -> int:
    """Resize every picture of a data set once and store it in shards."""
    from isopatch.cli import text
    from isopatch.data.packing import pack_data

    result = pack_data(
        arguments.data,
        arguments.out,
        short_side=arguments.short_side,
        store=arguments.store,
        quality=arguments.quality,
        workers=arguments.workers,
        bad=arguments.bad,
        overwrite=arguments.overwrite,
        max_pixels=arguments.max_pixels,
    )
    emit(arguments, result, text.packed)
    return EXIT_DONE


def data_bench(arguments: argparse.Namespace) -> int:
    """Measure how fast training pictures arrive, beside the peers' loaders."""
    from isopatch.bench.data import LoaderSettings, measure_loaders, render
    from isopatch.image.contract import InputContract
    from isopatch.recipes.table import find_recipe
    from isopatch.training.config import ModelNode

    recipe = find_recipe(arguments.recipe).build(ModelNode(name=arguments.model), arguments.data, [])
    given = {key: value for key, value in recipe.input.model_dump().items() if value is not None}
    settings = LoaderSettings(
        recipe.augment,
        InputContract(height=arguments.size, width=arguments.size, **given),
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        rounds=arguments.rounds,
        pictures=arguments.pictures,
    )
    peers = [peer.strip() for peer in arguments.peers.split(",") if peer.strip()]
    document = measure_loaders(arguments.data, settings, peers=peers, against=arguments.against)
    emit(arguments, {"recipe": arguments.recipe, **document}, render)
    return EXIT_DONE


def doctor(arguments: argparse.Namespace) -> int:
    """Show what this machine has."""
    from isopatch.cli import text
    from isopatch.doctor import examine

    emit(arguments, examine(), text.examined)
    return EXIT_DONE


def demo(arguments: argparse.Namespace) -> int:
    """Train two small models and write their report."""
    from isopatch.cli import text
    from isopatch.demo import run_demo

    result = run_demo(arguments.out, seed=arguments.seed, say=lambda text: log.info("%s", text))
    document = {
        "accuracies": result.accuracies,
        "report": str(result.report),
        "runs": [str(run) for run in result.runs],
    }
    emit(arguments, document, text.demonstrated)
    return EXIT_DONE
