"""The verbs `eval`, `predict` and `report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from isopatch.cli import label_sets, probing, robustness
from isopatch.cli.emit import emit
from isopatch.cli.models import how_to_run, image_size, model_arguments
from isopatch.errors import EXIT_DONE, GateFailed, IsopatchError, UsageError


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure a checkpoint on a data set, at one picture size or several."""
    from isopatch.cli import text

    gate = arguments.min_acc
    if gate is not None and not 0 <= gate <= 1:
        raise UsageError(f"--min-acc {gate:g}: give a share between 0 and 1, such as 0.95")
    chosen = _kind(arguments)
    if chosen == "probe":
        return probing.probe(arguments)
    if chosen in ("labels", "class_subset"):
        return label_sets.evaluate(arguments)
    if chosen == "suite":
        return robustness.robustness(arguments)
    if chosen == "sizes":
        return evaluate_sizes(arguments)
    from isopatch import api

    evaluation = api.evaluate_checkpoint(
        arguments.checkpoint,
        arguments.data,
        split=arguments.split,
        **how_to_run(arguments),
        teacher=arguments.teacher,
        baseline=arguments.baseline,
    ).to_json()
    emit(arguments, evaluation, text.evaluation)
    if gate is not None and evaluation["top1"] < gate:
        raise GateFailed(f"top-1 {evaluation['top1']:.4f} is below --min-acc {gate:g}")
    return EXIT_DONE


# What `isopatch eval` can do beside one evaluation, the options that say something about it alone, and the
# options of one evaluation that it has no use for.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "probe": (probing.OPTIONS, ("min_acc", "teacher", "baseline")),
    "suite": (robustness.OPTIONS, ("min_acc", "teacher", "baseline")),
    "labels": ((), ("teacher", "baseline")),
    "class_subset": ((), ("teacher", "baseline")),
    "sizes": (("position_resize", "plot"), ()),
}


def _kind(arguments: argparse.Namespace) -> str | None:
    """Return which of `KINDS` is asked for; raises UsageError for two of them, and options of others."""
    asked = [kind for kind in KINDS if getattr(arguments, kind) is not None]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(map(_option, asked))}: ask for one of them at a time")
    for kind, (own, others) in KINDS.items():
        for option in own if kind not in asked else others:
            if getattr(arguments, option) is not None:
                raise UsageError(
                    f"{_option(option)} has no meaning with {_option(kind)}: leave one of them out"
                    if kind in asked
                    else f"{_option(option)} says something about {_option(kind)}: give those too"
                )
    return asked[0] if asked else None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def evaluate_sizes(arguments: argparse.Namespace) -> int:
    """Measure a checkpoint at several picture sizes, with a plot."""
    from isopatch.cli import text

    if arguments.min_acc is not None:
        raise UsageError(
            "--min-acc is a gate on one evaluation, --sizes makes several: leave one of them out"
        )
    for option in ("teacher", "baseline"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option} belongs to one evaluation, --sizes makes several: leave one out")
    sizes = [image_size(size.strip(), "--sizes") for size in arguments.sizes.split(",")]
    from isopatch.report.png import plot_file
    from isopatch.report.sizes_plot import default_file, write_sizes_plot

    file = None if arguments.plot is None else plot_file(arguments.plot)
    from isopatch.eval_sizes import evaluate_sizes

    document = evaluate_sizes(
        arguments.checkpoint,
        arguments.data,
        sizes,
        split=arguments.split,
        **how_to_run(arguments),
        position_resize=arguments.position_resize or "deit",
    )
    file = file or default_file(document)
    write_sizes_plot(document, file)
    emit(arguments, {**document, "plot": str(file)}, text.sizes)
    return EXIT_DONE


def predict(arguments: argparse.Namespace) -> int:
    """Classify pictures: to the screen, or into a file."""
    from isopatch import predict
    from isopatch.cli import text

    files = None if arguments.out else predict.expand_inputs(arguments.paths)
    predictor = predict.Predictor(
        arguments.checkpoint,
        name=arguments.model,
        arguments=model_arguments(arguments),
        device=arguments.device,
        top_k=arguments.top_k,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        kernels=arguments.kernels,
    )
    if files is None:
        from isopatch.predict_file import predict_to_file

        written = predict_to_file(predictor, arguments.paths, Path(arguments.out))
        chosen = {"kernels": predictor.kernels, "precision": predictor.precision}
        emit(arguments, {**written, **chosen}, text.predicted)
        return EXIT_DONE
    unreadable = 0
    for prediction in predictor.stream(files):
        unreadable += prediction.error is not None
        print(text.prediction(prediction, as_json=arguments.json))
    if unreadable == len(files):
        raise IsopatchError(f"none of the {unreadable} inputs could be read as a picture")
    return EXIT_DONE


def report(arguments: argparse.Namespace) -> int:
    """Write the page of a run, or one that compares several."""
    runs = [Path(run) for run in arguments.runs]
    out = None if arguments.out is None else Path(arguments.out)
    if len(runs) == 1:
        from isopatch.report.run_page import write_run_report

        page = write_run_report(runs[0], out)
    else:
        from isopatch.report.compare_page import write_comparison

        page = write_comparison(runs, out or runs[0].resolve().parent / "comparison.html")
    emit(arguments, {"report": str(page)}, lambda document: str(document["report"]))
    return EXIT_DONE
