"""The verb `bench`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from isopatch.cli.emit import emit
from isopatch.cli.models import image_size, model_arguments
from isopatch.errors import EXIT_DONE, IsopatchError


def bench(arguments: argparse.Namespace) -> int:
    """Measure models beside other runtimes."""
    from isopatch.bench import setting
    from isopatch.bench.request import Request
    from isopatch.cli import bench_text

    given = model_arguments(arguments)
    size = None if arguments.image_size is None else image_size(arguments.image_size)
    peers = setting.read_peers(arguments.peers)
    precisions = setting.read_precisions(arguments.precision)
    threads = () if arguments.threads is None else setting.read_threads(arguments.threads)
    from isopatch.report.bench_plot import write_bench_plot
    from isopatch.report.png import plot_file

    file = None if arguments.plot is None else plot_file(arguments.plot)
    from isopatch.bench.run import bench

    document = bench(
        Request(
            models=tuple(arguments.names),
            mode=arguments.mode,
            batch=arguments.batch,
            image_size=size,
            arguments=given,
            precisions=precisions,
            kernels=arguments.kernels,
            peers=peers,
            rounds=arguments.rounds,
            threads=threads,
            device=arguments.device,
            seed=arguments.seed,
            memory=not arguments.no_memory,
        )
    )
    document["plot"] = None
    if file is not None:
        write_bench_plot(document, file)
        document["plot"] = str(file)
    emit(arguments, document, bench_text.measured)
    if arguments.peers is not None and peers and not _any_peer(document):
        raise IsopatchError(f"--peers {arguments.peers}: none of them could be measured; the table says why")
    return EXIT_DONE


def _any_peer(document: Mapping[str, Any]) -> bool:
    return any(not row["ours"] for model in document["models"] for row in model["contenders"])
