"""What a study consists of: its volumes, the options that all of them have, and what is finished already."""

from __future__ import annotations

import argparse
import glob
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from engine.backends.bundle import MANIFEST
from engine.errors import InputError
from engine.io.volumes.reading import VOLUME_ENDINGS
from engine.job.configuration import options_of, parse
from engine.job.output import ENDINGS
from engine.job.parser import build_parser
from engine.job.priors import ROLES
from engine.job.saving import STATE_FILE, short

#: What an input may be, and the task of it where none is named.
KINDS = {"volume": "csmri", "thick": "mrzsr", "stacks": "mrzsr", "kspace": "csmri", "sinogram": "svct"}
#: The option of a run that names an input, where it is not called like its kind.
_OPTIONS = {"stacks": "thick"}
#: The table of a study, in its folder.
CSV, PARQUET = "study.csv", "study.parquet"
RECORD = "run.json"
#: Options that may change from one call to the next: they leave the result as it is.
_OF_MACHINE = ("threads", "batch-size", "save-every", "preview-every", "yes")
#: What is read from a record.
_FIELDS = ("options", "task", "volume", "measurement_sha256", "settings", "priors", "residuals", "peak_memory_mb")
#: Stands on the command line where each volume has its own path.
_OWN = "INPUT"


@dataclass(frozen=True)
class Volume:
    """One input of a study, and the folder of its results; absolute paths."""

    source: Path
    folder: Path


@dataclass(frozen=True)
class Study:
    """What all volumes are reconstructed with.

    Parameters
    ----------
    kind : str
        What an input is, one of `KINDS`.
    options : dict
        Of `engine.run`, as `engine.job.configuration.options_of` gives them.
    files : tuple of Path
        Those among them that belong to the measurement.
    """

    kind: str
    options: dict[str, Any]
    files: tuple[Path, ...] = ()

    @property
    def option(self) -> str:
        """The option of a run that names an input."""
        return _OPTIONS.get(self.kind, self.kind)

    def options_for(self, volume: Volume) -> dict[str, Any]:
        """Those of a run on this input.

        Raises
        ------
        InputError
            A folder that is to hold stacks, and does not.
        """
        named: str | list[str] = str(volume.source)
        if self.kind == "stacks":
            named = [str(path) for path in stacks_in(volume.source)]
        # The order is that of a single run.
        return {**self.options, self.option: named}

    def args_for(self, volume: Volume) -> argparse.Namespace:
        """What `engine.run` would parse for this volume."""
        args: argparse.Namespace = parse(build_parser(), [], {**self.options_for(volume), "out": str(volume.folder)})
        return args


def study_of(kind: str, words: Sequence[str]) -> Study:
    """Check the options that all volumes have.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    words : sequence of str
        Options of `engine.run`; without a task it is that of `KINDS`.

    Raises
    ------
    InputError
        An option that `engine.run` does not take, or that a study gives each volume itself.
    """
    parser = build_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    option = _OPTIONS.get(kind, kind)
    args = parse(parser, [f"--{option}", _OWN, *words], {"task": KINDS[kind]})
    if args.resume is not None:
        raise InputError(
            "resume", "none, for a study goes on by itself when it is called again", args.resume, "drop it"
        )
    for other in KINDS.keys() - _OPTIONS.keys():
        if other != option and getattr(args, other):
            raise InputError(other, f"none beside --as {kind}", f"{getattr(args, other)}", "drop one of them")
    own = getattr(args, option)
    if own not in (Path(_OWN), (Path(_OWN),)):
        named = own if isinstance(own, Path) else ", ".join(str(path) for path in own[1:])
        raise InputError(option, "none beside --inputs", named, "name it there")
    paths = {name: value.absolute() for name, value in args.given.items() if isinstance(value, Path)}
    args.given = {**args.given, **paths, "task": args.task}
    files = [path for name, path in paths.items() if name not in (*ROLES, option, "out", "config", "resume")]
    return Study(kind, options_of(args), tuple(files))


def _refuse(message: str) -> NoReturn:
    raise InputError("options", "those of this command or of `tpdm run`", f"others ({message})", "see their --help")


def inputs_of(patterns: Sequence[str]) -> list[Path]:
    """Files and folders that match, absolute, each once, in order.

    Raises
    ------
    InputError
        A pattern that nothing matches.
    """
    inputs: set[Path] = set()
    for pattern in patterns:
        # A name may hold brackets and be meant as it is.
        matches = [pattern] if Path(pattern).exists() else glob.glob(pattern, recursive=True)
        if not matches:
            raise InputError(
                "inputs",
                "files or folders",
                f"nothing that matches '{pattern}'",
                "check the pattern, and put it in quotes",
            )
        inputs |= {Path(match).absolute() for match in matches}
    return sorted(inputs)


def stacks_in(folder: Path) -> list[Path]:
    """The stacks of one person: files of volumes, and folders with a series each, by name.

    Raises
    ------
    InputError
        No folder, or fewer than two stacks.
    """
    found = []
    if folder.is_dir():
        found = [
            path for path in sorted(folder.iterdir()) if path.is_dir() or path.name.lower().endswith(VOLUME_ENDINGS)
        ]
    if len(found) < 2:
        has = f"'{folder}' with {len(found)}" if folder.is_dir() else f"the file '{folder}'"
        raise InputError(
            "inputs", "folders that hold two or more stacks of a person each", has, "name folders, or use --as thick"
        )
    return found


def volumes_of(inputs: Sequence[Path], out: Path) -> list[Volume]:
    """Each input with a folder of its own, named like it without its ending.

    Raises
    ------
    InputError
        Two of them would share a folder, or one take the place of the study's table.
    """
    taken: dict[str, Path] = {}
    for source in inputs:
        name = _name_of(source)
        if name in (CSV, PARQUET):
            raise InputError("inputs", "no name like that of the study's table", f"'{source}'", "rename it")
        if name in taken:
            raise InputError(
                "inputs",
                "names that differ without their endings",
                f"'{taken[name]}' and '{source}', whose results would share '{out / name}'",
                "rename one, or make two studies",
            )
        taken[name] = source
    return [Volume(source, out.absolute() / name) for name, source in taken.items()]


def _name_of(source: Path) -> str:
    if source.is_dir():
        return source.name
    return source.name[: -len(".nii.gz")] if source.name.lower().endswith(".nii.gz") else source.stem


def record_of(folder: Path) -> dict[str, Any] | None:
    """The record of a run that is finished; None where there is none, or none that can be read."""
    if not (folder / RECORD).is_file() or (folder / STATE_FILE).exists():
        return None
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not set(_FIELDS) <= set(record):
        return None
    # The report is the last thing that a run writes.
    needed = [recon_of(folder, record), *([] if record["options"].get("no-report") else [folder / "report.html"])]
    return record if all(path.exists() for path in needed) else None


def recon_of(folder: Path, record: dict[str, Any]) -> Path:
    """The reconstruction of a finished run, a file or a folder."""
    return folder / f"recon{ENDINGS[record['options'].get('format', 'nifti')]}"


def check_same(study: Study, volumes: Sequence[Volume]) -> None:
    """Refuse to add to results of other options or engines.

    Raises
    ------
    InputError
        Names the first difference.
    """
    for volume in volumes:
        record = record_of(volume.folder)
        options = _saved_options(volume.folder) if record is None else record["options"]
        if options is None:
            continue
        ours, theirs = _shaping(study.options_for(volume)), _shaping(options)
        for key in {**theirs, **ours}:
            # As text: 2 and 2.0 are different turns of the priors.
            if json.dumps(ours.get(key)) != json.dumps(theirs.get(key)):
                raise InputError(
                    key,
                    f"{short(theirs.get(key, 'none'))}, as in '{volume.folder}'",
                    f"{short(ours.get(key, 'none'))}",
                    "leave it as it was, choose another --out, or start anew with --overwrite",
                )
        for role, prior in ({} if record is None else record["priors"]).items():
            if _engine_changed(prior):
                raise InputError(
                    role,
                    f"the engine '{prior['folder']}' as it was for '{volume.folder}'",
                    "another",
                    "choose another --out, or start anew with --overwrite",
                )


def _shaping(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in _OF_MACHINE}


def _saved_options(folder: Path) -> dict[str, Any] | None:
    """Of an unfinished run; None without one, and of a damaged one, which whoever resumes it complains about."""
    if not (folder / STATE_FILE).is_file():
        return None
    try:
        # The volumes beside it are not read.
        with np.load(folder / STATE_FILE, allow_pickle=False) as archive:
            return dict(json.loads(str(archive["header"]))["options"])
    except (ValueError, LookupError, TypeError, OSError, EOFError, zipfile.BadZipFile):
        return None


def _engine_changed(prior: dict[str, Any]) -> bool:
    try:
        manifest = json.loads((Path(prior["folder"]) / MANIFEST).read_text())
    except (OSError, ValueError):
        # No engine at all: only whoever needs it complains.
        return False
    return bool(manifest.get("files") != prior["files"])


def is_done(study: Study, volume: Volume) -> bool:
    """Whether results are complete, and younger than everything that they were made from.

    Where they are older the measurement itself has to be compared; see `engine.study.worker`.
    """
    if record_of(volume.folder) is None:
        return False
    finished = (volume.folder / RECORD).stat().st_mtime_ns
    inside = volume.source.rglob("*") if volume.source.is_dir() else ()
    sources = [path for path in (volume.source, *inside, *study.files) if path.exists()]
    return max(path.stat().st_mtime_ns for path in sources) <= finished


def forget(volumes: Sequence[Volume]) -> None:
    """Make finished and unfinished runs as if they had never been; volumes and pictures stay until others replace them.

    Raises
    ------
    OSError
        They cannot be removed.
    """
    for volume in volumes:
        for name in (STATE_FILE, RECORD):
            (volume.folder / name).unlink(missing_ok=True)
