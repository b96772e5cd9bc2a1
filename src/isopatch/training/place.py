"""Which folder a training runs in (new, to continue, to replace), and with which configuration."""

from __future__ import annotations

import os
from pathlib import Path

from isopatch.errors import IsopatchError, UsageError
from isopatch.training.config import RunConfig
from isopatch.training.runfolder import RunFolder, next_run_path, require_run, stored_config
from isopatch.training.setup import PLACES, config_differences
from isopatch.training.teacher import named_file, split_sources

RUNS = Path("runs")


def located(config: RunConfig) -> RunConfig:
    """Return the configuration with absolute paths, so that it means the same from every folder."""
    data = config.data.model_copy(update={"source": _absolute(config.data.source)})
    weights = None if config.weights is None else _absolute(config.weights)
    distill = config.distill
    paths = {"teacher": distill.teacher and located_sources(distill.teacher)}
    if distill.cache is not None:
        paths["cache"] = os.path.abspath(os.path.expanduser(distill.cache))
    return config.model_copy(
        update={"data": data, "weights": weights, "distill": distill.model_copy(update=paths)}
    )


def run_folder(
    config: RunConfig | None, *, out: str | Path | None, resume: str | None, overwrite: bool
) -> RunFolder:
    """Decide where the run lives, and refuse to mix it with anything else.

    With resume "auto" and no `out`, the newest unfinished run of this configuration in runs/ is continued.
    """
    if resume is not None and overwrite:
        raise UsageError("--resume and --overwrite exclude each other; keep one")
    if resume is not None and resume != "auto":
        if out is not None and Path(out).resolve() != Path(resume).resolve():
            raise UsageError(f"--resume {resume} names another folder than --out {out}; keep one")
        out = resume
        require_run(Path(resume))
    if out is None:
        if config is None:
            raise UsageError("nothing to continue: give --out, the folder of a run")
        stem = f"{Path(config.data.source).name or 'data'}-{config.model.name.replace(':', '-')}"
        begun = _unfinished(stem, config) if resume == "auto" else None
        return RunFolder(begun or next_run_path(RUNS, stem))
    folder = RunFolder(Path(out))
    if config is None:
        require_run(folder.path)
    else:
        _require_apart(folder.path, config)
    if overwrite:
        folder.require_only_a_run()
    elif folder.has_run() and resume is None:
        raise UsageError(
            f"{folder.path} is not empty: --resume auto continues the run in it, --overwrite replaces it, "
            f"--out chooses another folder"
        )
    if resume == "auto" and folder.has_run() and not (folder.path / "config.yaml").is_file():
        raise UsageError(
            f"{folder.path} holds other files and no run (no config.yaml); choose another folder with --out"
        )
    return folder


def _require_apart(folder: Path, config: RunConfig) -> None:
    """Refuse a run whose teacher or first weights lie in its own folder: it would replace them."""
    taught = config.distill.teacher
    sources = [("distill.teacher", named_file(source)[1]) for source in split_sources(taught or "none")]
    sources += [("weights", config.weights)] if config.weights is not None else []
    for key, source in sources:
        path = Path(source)
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{key}: {source} lies in {folder}, the folder of this run itself; choose another --out"
            )


def agreed_config(folder: RunFolder, config: RunConfig | None) -> RunConfig:
    """Return the configuration to go on with; one that would change the run in the folder is refused.

    config: None takes the folder's own.
    """
    if not (folder.path / "config.yaml").is_file():
        assert config is not None
        return config
    stored = stored_config(folder.path)
    if config is None:
        return stored
    finished = (folder.read_json("status.json") or {}).get("state") == "finished"
    moved = () if finished else PLACES  # a finished run opens neither, so nothing would tell them apart
    differences = config_differences(
        stored.model_dump(mode="json"), config.model_dump(mode="json"), moved=moved
    )
    if differences:
        raise UsageError(
            f"the run in {folder.path} was started differently: {'; '.join(differences[:5])}; resume without "
            f"these options, or start afresh with another --out or --overwrite"
        )
    return config


def _unfinished(stem: str, config: RunConfig) -> Path | None:
    """The newest run in runs/ of this name and configuration that has not ended."""
    numbered = sorted(
        (int(number), path)
        for path in RUNS.glob(f"{stem}-*")
        if (number := path.name.removeprefix(f"{stem}-")).isdigit()
    )
    for _, path in reversed(numbered):
        try:
            status = RunFolder(path).read_json("status.json") or {}
            stored = stored_config(path)
        except IsopatchError:
            continue  # damaged, or not a run: not the one to go on with
        same = not config_differences(stored.model_dump(mode="json"), config.model_dump(mode="json"))
        if same and status.get("state") != "finished":
            return path
    return None


def with_teacher(config: RunConfig, teacher: str | None) -> RunConfig:
    """Return the configuration with another teacher, or none."""
    distill = config.distill.model_copy(update={"teacher": teacher})
    return config.model_copy(update={"distill": distill})


def located_sources(sources: str) -> str:
    """Absolute paths within "a,NAME=b"."""
    parts = []
    for source in split_sources(sources):
        name, file = named_file(source)
        parts.append(_absolute(file) if name is None else f"{name}={_absolute(file)}")
    return ",".join(parts)


def _absolute(source: str) -> str:
    """An existing path in full; names of data sets and hub ids as they are."""
    path = os.path.expanduser(source)
    return os.path.abspath(path) if source != "digits" and os.path.exists(path) else source
