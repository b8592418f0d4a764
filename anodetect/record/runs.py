"""The run directory, which training leaves behind and all other commands need.

    config.json         everything resolved
    model.safetensors   weights and calibration, with all that is frozen in the header
    train.jsonl         what was logged during training
    environment.json    versions and host
    manifest.csv        every image used, its role and its hash
    model_card.md       the facts for a reader
    odd.json            the fit images that are hardest to explain from the others, with pictures
    components.json     the clusters of the fit images, where a detector looked for them
    backbones/          copies of the networks whose features are modelled, on request

The directory is complete or absent: it is written as `<name>.partial` and renamed.
"""

import atexit
import csv
import io
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from pydantic import TypeAdapter, ValidationError

from anodetect.config import canonical
from anodetect.errors import DiskFullError, Interrupted, RunError, one_line
from anodetect.files import (
    FULL,
    refuse_strange,
    sha256_of,
    sync_folder,
    sync_tree,
    walk,
    write_atomic,
    write_error,
)
from anodetect.imaging.backbones.table import (
    DIGITS,
    EMBEDDED,
    BackboneFacts,
    backbone_facts,
)
from anodetect.record import checkpoint, environment, threads
from anodetect.record.calibrations import check_calibration
from anodetect.record.checkpoint import MODEL_FILE
from anodetect.record.components import COMPONENTS_FILE, Components, write_components
from anodetect.record.objects import content_of, object_of, parsed
from anodetect.record.odd import ODD_FILE, OddNormals, write_odd
from anodetect.record.partial import LOCK, locked, partial, release_on_windows
from anodetect.record.rows import first_problem
from anodetect.record.steps import check_steps
from anodetect.remote.paths import local
from anodetect.stats.calibration import DEFAULT_FAR, Calibration
from anodetect.stats.limit import (
    DetectionLimit,
    PlantedTrials,
    detection_limit,
    trials_of,
)
from anodetect.stats.mask_rule import measure_of
from anodetect.types import State

FILES = (
    "config.json",
    MODEL_FILE,
    "train.jsonl",
    "environment.json",
    "manifest.csv",
    "model_card.md",
)
HEADER = (
    "detector",
    "representation",
    "config",
    "data",
    "preprocess",
    "representation_state",
    "scale",
    "facts",
    "hashes",
    "calibration_groups",
)
UNUSABLE = (AttributeError, KeyError, TypeError, ValueError)  # what a damaged header raises
OPTIONAL = (ODD_FILE, COMPONENTS_FILE)  # files that not every run has, and that may be removed
COPY = re.compile(rf"{EMBEDDED}/[0-9a-f]{{{DIGITS}}}/\w[\w.-]*")  # a file of a backbone
HASHED = ("config.json", "environment.json", "manifest.csv", "model_card.md")  # in the model file
CURVE_POINTS = 200
KEPT_FOLDS = "fold-*.npz"  # the calibration of folds that are finished
FINGERPRINT = "fingerprint"  # only while a run is being made


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """The facts of a training, as the header of the model file has them.

    `stopped_by` says what ended it: steps, budget …; it and `steps` are None for a detector that
    has no steps. `dropped` says which part the images were too few for, "" if none. `failed` counts
    the images that were left out. `budget_minutes` is None where there was no limit. `found` says
    what the data held. `odd_left_out` counts the oddest images, from which nothing was learned on
    request, `known_anomalies` those that were learned from beside the normals, None for none.
    `calibrated_on` names the data of a later calibration, `calibrated_from` the hash of the model
    that was calibrated anew. `planted` are the scores of planted defects. None stands where an
    older release wrote nothing.
    """

    train_seconds: float
    stopped_by: str | None
    steps: int | None
    fit_images: int
    tune_images: int
    dropped: str
    trained_at: str
    failed: int
    seed: int
    budget_minutes: float | None
    config_sha256: str | None = None
    found: tuple[str, ...] | None = None
    odd_left_out: int | None = None
    known_anomalies: int | None = None
    calibrated_on: str | None = None
    calibrated_from: str | None = None
    planted: PlantedTrials | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the facts as the header has them, without what was not written."""
        content = asdict(self)
        for field in fields(self):
            if field.default is None and content[field.name] is None:
                del content[field.name]
        if self.found is not None:
            content["found"] = list(self.found)
        if self.planted is not None:
            content["planted"] = self.planted.as_json()
        return content


def training_facts(content: Mapping[str, Any]) -> TrainingFacts:
    """Return the facts that `TrainingFacts.as_json` wrote; TypeError if one is missing."""
    known = {field.name for field in fields(TrainingFacts)}
    values = {name: value for name, value in content.items() if name in known}
    if "found" in values:
        values["found"] = tuple(values["found"])
    _check_types(TrainingFacts, values, passed_over=("found", "planted"))
    if "planted" in values:
        values["planted"] = trials_of(values["planted"])
    return TrainingFacts(**values)


def _check_types(cls: type, values: Mapping[str, Any], passed_over: Collection[str]) -> None:
    """Raise ValueError if a value is not of the type that a dataclass has for it."""
    hints = get_type_hints(cls)
    for name, value in values.items():
        if name in passed_over:
            continue
        try:
            TypeAdapter(hints[name]).validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(f"{name}: {first_problem(error)}") from None


@dataclass(frozen=True, kw_only=True)
class RunHeader:
    """The part of the model file that is no array: everything that is frozen with the weights.

    `config` has the sections that were resolved. `preprocess` and `representation_state` are what
    they learned, as their `state` returns it. `scale` has the map values at the ends of the colour
    scale. `seen` says what kind of images the run was made from, None where that is not known.
    `absences` has what scores are of images without some of their channels, None unless they may
    lack some.
    `backbones` are the networks whose features are modelled, None in runs of older releases.
    """

    detector: str
    representation: str
    config: Mapping[str, Any]
    data: str
    preprocess: Mapping[str, Any]
    representation_state: Mapping[str, Any]
    scale: tuple[float, float]
    seen: Mapping[str, Any] | None = None
    backbones: tuple[BackboneFacts, ...] | None = None
    facts: TrainingFacts
    absences: Mapping[str, Any] | None = None

    @property
    def sees(self) -> str:
        """The representation that is modelled, of an ensemble those of its members."""
        members = self.config["detector"].get("members", ())
        seen = {str(member).partition("@")[0].rpartition("/")[2] for member in members}
        return " + ".join(sorted(seen)) or self.representation

    def as_json(self) -> dict[str, Any]:
        """Return the header as the model file has it."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.absences is None:
            del content["absences"]
        if self.backbones is None:
            del content["backbones"]
        else:
            content["backbones"] = [each.as_json() for each in self.backbones]
        return content | {"scale": list(self.scale), "facts": self.facts.as_json()}


def run_header(content: Mapping[str, Any]) -> RunHeader:
    """Return the header that `RunHeader.as_json` wrote.

    AttributeError, KeyError, TypeError or ValueError if it is none. Sections and states are checked
    by what is made of them.
    """
    names = {field.name for field in fields(RunHeader)}
    values = {name: value for name, value in content.items() if name in names}
    if not isinstance(content["preprocess"], Mapping):
        raise TypeError("preprocess is no object")
    _check_types(RunHeader, values, passed_over=("scale", "backbones", "facts"))
    members = content["config"]["detector"].get("members", ())
    if not all(isinstance(member, str) for member in members):
        raise TypeError("members of an ensemble are no texts")
    low, high = content["scale"]
    scale, facts = (float(low), float(high)), training_facts(content["facts"])
    if "backbones" in values:
        values["backbones"] = tuple(map(backbone_facts, values["backbones"]))
    return RunHeader(**values | {"scale": scale, "facts": facts})


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    header: RunHeader
    state: State
    calibration: Calibration
    model_sha256: str


@dataclass(frozen=True)
class ManifestRow:
    """A file that a run was made from: a row of manifest.csv.

    `role` is fit, tune, calibrate, anomaly (a known one that was learned from), odd (left out of
    fit on request) or failed; `error` says why a file failed or was left out. `sha256` is "" for a
    file that could not be read. `pixels_sha256` is the hash of the decoded content, which runs of
    older versions do not have. `prepared` says how a brain was prepared, "" if nothing was done.
    `fold` is the number of the fold, from 1, whose model has scored it to calibrate with, "" where
    one model scored all.
    """

    path: str
    role: str
    group: str = ""
    kind: str = ""
    sha256: str = ""
    error: str = ""
    pixels_sha256: str = ""
    prepared: str = ""
    fold: str = ""


@dataclass(frozen=True)
class RunFacts:
    """The facts that `anodetect info` prints. `representation` names those of all members of an
    ensemble. `training` are those that training has written:
    seconds, steps, numbers of images, seed … `calibration_folds` is 0 where one model scored all
    calibration images. `limit` is the detection limit at the default
    false-alarm rate, None where nothing was planted."""

    run: str
    detector: str
    representation: str
    data: str
    training: TrainingFacts
    config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    scale: tuple[float, float]
    backbones: tuple[BackboneFacts, ...]
    calibration_images: int
    calibration_groups: int
    model_sha256: str
    model_mb: float
    environment: Mapping[str, Any]
    calibration_folds: int = 0
    limit: DetectionLimit | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the facts on one level, those of training among them; the scores of planted
        defects come as the detection limit."""
        content: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            content |= value.as_json() if field.name == "training" else {field.name: value}
        content.pop("planted", None)
        limit = None if self.limit is None else self.limit.as_json()
        backbones = [each.as_json() for each in self.backbones]
        return content | {"scale": list(self.scale), "backbones": backbones, "limit": limit}


# -- Writing ---------------------------------------------------------------------------------------


def checkpoints(workdir: Path) -> list[Path]:
    """Return what an interrupted training can continue from: its checkpoint, or the members of an
    ensemble or the folds that are finished."""
    models = [file for file in workdir.glob("*.safetensors") if file.name != MODEL_FILE]
    return [*models, *workdir.glob(KEPT_FOLDS)]


@contextmanager
def begin(path: Path, *, resume: bool) -> Iterator[Path]:
    """Yield the working directory of a new run, or of one to be continued, and give it the run's
    name at the end of the block.

    It is locked meanwhile; the lock of a process that was killed is void. RunError if the run
    exists, if another process is making it, if there is nothing to continue or something that was
    not asked to be continued, or if nothing can be written here. After an error what can be
    continued stays; a directory without a fingerprint is removed.
    """
    workdir = partial(path)
    _refuse_existing(path)
    if resume and not checkpoints(workdir):
        raise RunError(f"{workdir} holds no checkpoint to resume from; train without --resume")
    lock = locked(workdir, "this run")
    try:
        _refuse_existing(path)  # another process may have finished it just now
        _prepare(workdir, resume=resume)
        yield workdir
        sync_tree(workdir)
        release_on_windows(lock)
        workdir.replace(path)
        sync_folder(path.parent)
        # Until now a killed training could go on from its checkpoints.
        for file in (path / LOCK, path / FINGERPRINT, *checkpoints(path)):
            file.unlink(missing_ok=True)
    except BaseException as error:
        if not (workdir / FINGERPRINT).exists():
            release_on_windows(lock)
            shutil.rmtree(workdir, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise write_error(workdir, error, _hint(workdir)) from None
        if isinstance(error, DiskFullError):
            raise DiskFullError(f"{error}{_hint(workdir)}") from None
        if isinstance(error, KeyboardInterrupt) and checkpoints(workdir):
            raise Interrupted("stopped; the same command with --resume goes on") from None
        raise
    finally:
        lock.release()


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise RunError(f"{path} already exists; choose another --out or remove it")


def _prepare(workdir: Path, *, resume: bool) -> None:
    """Remove what a killed process left in a working directory: its folders, and if nothing is
    continued everything; RunError if there is something that was not asked to be continued."""
    if checkpoints(workdir) and not resume:
        raise RunError(
            f"{workdir} holds an interrupted training; continue it with --resume or remove it"
        )
    for child in list(workdir.iterdir()):
        if child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        elif not resume and child.name != LOCK:
            child.unlink()
        else:
            refuse_strange(child)


def _hint(workdir: Path) -> str:
    """Return what to do where the disk is full."""
    if checkpoints(workdir):
        return "; make room, then the same command with --resume goes on"
    return "; make room, then give the same command again"


def identify(workdir: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> None:
    """Write down what a new run is made from; RunError if one that is continued was started with
    another fingerprint."""
    digest = sha256(canonical(fingerprint)).hexdigest()
    file = workdir / FINGERPRINT
    if not resume:
        write_atomic(file, digest)
    elif not file.is_file() or file.read_bytes() != digest.encode():
        raise RunError(
            f"{workdir} was started with other settings, seed or images; resume with the same ones"
        )


def begin_helping(path: Path, *, resume: bool) -> Path:
    """Return a working directory for a process that trains along with the one that writes the
    run."""
    workdir = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, workdir, ignore_errors=True)
    if resume:
        for file in checkpoints(partial(path)):
            shutil.copy(file, workdir)
    return workdir


def write(
    workdir: Path,
    *,
    header: RunHeader,
    state: State,
    calibration: Calibration,
    manifest: Iterable[ManifestRow],
    card: str,
    odd: OddNormals | None = None,
    components: Components | None = None,
) -> None:
    """Write all files of a run into `workdir`."""
    versions = environment.facts() | {"threads": threads.in_use()}
    config = json.dumps(header.config, indent=2)
    write_atomic(workdir / "config.json", config + "\n")
    write_atomic(workdir / "environment.json", json.dumps(versions, indent=2) + "\n")
    write_atomic(workdir / "manifest.csv", to_csv(asdict(row) for row in manifest))
    write_atomic(workdir / "model_card.md", card)
    (workdir / "train.jsonl").touch()
    hashed = [*HASHED, *copies_in(workdir)]
    if odd is not None:
        write_odd(workdir, odd)
        hashed.append(ODD_FILE)
    if components is not None:
        write_components(workdir, components)
        hashed.append(COMPONENTS_FILE)
    hashes = {name: sha256_of(workdir / name) for name in hashed}
    added: dict[str, Any] = {"calibration_groups": list(calibration.groups), "hashes": hashes}
    tensors = {f"detector.{name}": array for name, array in state.items()}
    tensors |= {"calibration.scores": calibration.scores, "calibration.peaks": calibration.peaks}

    if calibration.regions is not None and calibration.strengths is not None:
        tensors["calibration.strengths"] = calibration.strengths
        added["regions"] = calibration.regions.as_json()
    if calibration.folds is not None:
        tensors["calibration.folds"] = calibration.folds
    checkpoint.write(workdir / MODEL_FILE, tensors, header.as_json() | added)


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as CSV text."""
    rows = list(rows)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


# -- Reading ---------------------------------------------------------------------------------------


def read(path: Path) -> Run:
    """Read a run; RunError if it is missing, incomplete, newer than this release, or altered."""
    _check_complete(path)
    tensors, header = checkpoint.read(path / MODEL_FILE)
    _check_header(path, header)
    _check_hashes(path, header.get("hashes", {}))
    _check_finite(path, tensors)

    try:
        calibration = Calibration(
            tensors.pop("calibration.scores"),
            tensors.pop("calibration.peaks"),
            tuple(header["calibration_groups"]),
            measure_of(header.get("regions")),
            tensors.pop("calibration.strengths", None),
            tensors.pop("calibration.folds", None),
        )
        check_calibration(calibration)
        state = {name.removeprefix("detector."): array for name, array in tensors.items()}
        model_sha256 = sha256_of(path / MODEL_FILE)
        return Run(path, run_header(header), state, calibration, model_sha256)
    except UNUSABLE as error:
        raise _unusable(path, error) from None


def read_header(path: Path) -> RunHeader:
    """Read what is said of a run, without its weights and without comparing hashes; RunError if it
    is missing, incomplete or newer than this release."""
    _check_complete(path)
    header = checkpoint.read_header(path / MODEL_FILE)
    _check_header(path, header)
    try:
        return run_header(header)
    except UNUSABLE as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: Exception) -> RunError:
    return RunError(
        f"{path}: the model file is not as it should be ({one_line(error)}); it was not written by "
        "`anodetect train`"
    )


def _check_header(path: Path, header: Mapping[str, Any]) -> None:
    lacking = [key for key in HEADER if key not in header]
    if lacking:
        raise RunError(
            f"{path}: the model file lacks {', '.join(lacking)}; "
            "it was not written by `anodetect train`"
        )


def _check_complete(path: Path) -> None:
    local(path, "runs stay")
    if not path.is_dir():
        hint = f"; an unfinished training lies in {partial(path)}" if partial(path).is_dir() else ""
        raise RunError(f"{path}: no such run directory{hint}")
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise RunError(f"{path}: not a complete run directory; missing: {', '.join(missing)}")


def _check_finite(path: Path, tensors: State) -> None:
    """Raise RunError if weights or calibration are not finite. Single limits may be infinite, and
    so may the strength of an image without a region."""
    for name, array in tensors.items():
        if not np.issubdtype(array.dtype, np.floating):
            continue
        limits = array.ndim < 2 and name not in ("calibration.scores", "calibration.peaks")
        if not (np.isfinite(array) | (limits & np.isinf(array))).all():
            raise RunError(
                f"{path}: {name} has values that are not finite, so no score of this run means "
                "anything; train or calibrate anew"
            )


def _check_hashes(path: Path, hashes: Any) -> None:
    """Raise RunError if a file of the run is not the one that the model file names."""
    if not isinstance(hashes, dict):
        raise RunError(f"{path}: the model file does not say what the run's other files are")
    for name, digest in hashes.items():
        if name not in FILES + OPTIONAL and not COPY.fullmatch(name):
            raise RunError(f"{path}: the model file names {name!r}, which is no file of a run")
        if name in OPTIONAL and not (path / name).exists():
            continue  # it was taken away before the run was passed on
        if name not in FILES and not (path / name).parent.exists():
            continue  # so was the copy of a backbone
        if not (path / name).is_file():
            raise RunError(f"{path / name}: missing; restore it, or remove its folder")
        if sha256_of(path / name) != digest:
            raise RunError(
                f"{path / name}: does not match the hash in the model file; it was altered"
            )
    unknown = sorted(set(copies_in(path)) - set(hashes))
    if unknown:
        raise RunError(f"{path / unknown[0]}: no file of this run; it was added later")


def copies_in(path: Path) -> list[str]:
    """Return the names of all files of backbones that were copied into a run."""
    if not (path / EMBEDDED).is_dir():
        return []
    return sorted(file.relative_to(path).as_posix() for file in walk(path / EMBEDDED))


def facts(path: Path) -> RunFacts:
    """Return what `anodetect info` prints; RunError as for `read`."""
    run = read(path)
    header = run.header
    planted = header.facts.planted
    limit = None if planted is None else detection_limit(planted, run.calibration, DEFAULT_FAR)

    return RunFacts(
        run=str(path),
        detector=header.detector,
        representation=header.sees,
        data=header.data,
        training=header.facts,
        config=header.config,
        preprocess=header.preprocess,
        scale=header.scale,
        backbones=header.backbones or (),
        calibration_images=len(run.calibration.scores),
        calibration_groups=run.calibration.n_groups,
        model_sha256=run.model_sha256,
        model_mb=round((path / MODEL_FILE).stat().st_size / 1e6, 3),
        environment=_environment(path / "environment.json"),
        calibration_folds=run.calibration.n_folds,
        limit=limit,
    )


def _environment(file: Path) -> dict[str, Any]:
    """Return what environment.json says; RunError if it is no object."""
    return object_of(file, TypeAdapter(dict[str, Any]))


def read_manifest(path: Path) -> list[ManifestRow]:
    """Return the files that a run was made from; RunError if they cannot be read."""
    names = [field.name for field in fields(ManifestRow)]
    rows, listed = [], path / "manifest.csv"
    try:
        text = content_of(listed).decode()
        for line in csv.DictReader(io.StringIO(text, newline="")):
            values = {name: line.get(name) or "" for name in names}
            rows.append(ManifestRow(**values))
    except (ValueError, csv.Error) as error:
        raise RunError(f"{listed}: not readable ({one_line(error)})") from None
    return rows


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the entries of train.jsonl, without a line that is not yet complete; RunError if one
    is no object."""
    entries, log = [], path / "train.jsonl"
    for line in content_of(log).splitlines(keepends=True):
        if not line.strip() or not line.endswith(b"\n"):
            continue
        try:
            entry = parsed(line, nan=True)  # a loss may have been none
        except ValueError as error:
            raise RunError(f"{log}: not readable ({one_line(error)})") from None
        if not isinstance(entry, dict):
            raise RunError(f"{log}: a line is no object")
        entries.append(entry)

    return entries


def curves(path: Path) -> list[Mapping[str, Any]]:
    """Return the steps in train.jsonl, at most CURVE_POINTS evenly spread ones; none of a detector
    that is not trained in steps. RunError if one is none that a training logs."""
    steps = [entry for entry in read_log(path) if "loss" in entry]
    try:
        return list(check_steps(steps[:: -(-len(steps) // CURVE_POINTS) or 1]))
    except ValueError as error:
        raise RunError(f"{path / 'train.jsonl'}: {error}") from None
