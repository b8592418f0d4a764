"""The run directory: what training leaves behind, and the only thing the other commands need.

    config.json         everything resolved
    model.safetensors   weights and calibration, with all that is frozen in the header
    train.jsonl         what was logged during training
    environment.json    versions and host
    manifest.csv        every image used, its role and its hash
    model_card.md       the facts for a reader

The directory is complete or absent: it is written as `<name>.partial` and renamed.
"""

import atexit
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from anodetect.config import canonical
from anodetect.errors import RunError
from anodetect.files import sha256_of, write_atomic
from anodetect.record import checkpoint, environment, threads
from anodetect.record.checkpoint import CHECKPOINT_FILE, MODEL_FILE
from anodetect.stats.calibration import Calibration
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


CURVE_POINTS = 200
FINGERPRINT = "fingerprint"  # only while a run is being made


@dataclass(frozen=True)
class Run:
    """A finished run. `header` is the model file's: detector, representation, config, preprocess,
    scale, facts."""

    path: Path
    header: dict[str, Any]
    state: State
    calibration: Calibration
    model_sha256: str

    @property
    def scale(self) -> tuple[float, float]:
        """The map values at the ends of the colour scale, fixed for the model."""
        low, high = self.header["scale"]
        return float(low), float(high)


def partial(path: Path) -> Path:
    """Where a run lives while it is being made."""
    return path.with_name(path.name + ".partial")


def checkpoints(workdir: Path) -> list[Path]:
    """What an interrupted training can go on from: its checkpoint, or an ensemble's members that
    are finished."""
    return [file for file in workdir.glob("*.safetensors") if file.name != MODEL_FILE]


def begin(path: Path, *, resume: bool, fingerprint: Mapping[str, Any] | None = None) -> Path:
    """The working directory for a new run, or for one to be continued with the same `fingerprint`."""
    workdir = partial(path)
    if path.exists():
        raise RunError(f"{path} already exists; choose another --out or remove it")
    begun = bool(checkpoints(workdir))
    if resume and not begun:
        raise RunError(f"{workdir} holds no checkpoint to resume from; train without --resume")
    if begun and not resume:
        raise RunError(
            f"{workdir} holds an interrupted training; continue it with --resume or remove it"
        )
    digest = sha256(canonical(fingerprint or {})).hexdigest()
    if resume:
        begun_as = workdir / FINGERPRINT
        if not begun_as.exists() or begun_as.read_text("utf-8") != digest:
            raise RunError(
                f"{workdir} was begun with other settings, seed or images; resume with the same ones"
            )
        for scratch in (child for child in workdir.iterdir() if child.is_dir()):
            shutil.rmtree(scratch, ignore_errors=True)  # what a killed process left
        return workdir
    try:
        shutil.rmtree(workdir, ignore_errors=True)
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomic(workdir / FINGERPRINT, digest)
    except OSError as error:
        raise RunError(f"{workdir}: cannot be made ({error.strerror})") from None
    return workdir


def begin_helping(path: Path, *, resume: bool) -> Path:
    """A working directory for a process that trains along with the one that writes the run."""
    workdir = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, workdir, ignore_errors=True)
    if resume:
        for file in checkpoints(partial(path)):
            shutil.copy(file, workdir)
    return workdir


def write(
    workdir: Path,
    path: Path,
    *,
    header: Mapping[str, Any],
    state: State,
    calibration: Calibration,
    manifest: Iterable[Mapping[str, Any]],
    card: str,
) -> None:
    """Write all files into `workdir`, then give it its name."""
    host_facts = environment.facts() | {"threads": threads.in_use()}
    config_text = json.dumps(header["config"], indent=2) + "\n"
    tensors = {f"detector.{name}": array for name, array in state.items()}
    tensors |= {"calibration.scores": calibration.scores, "calibration.peaks": calibration.peaks}
    write_atomic(workdir / "config.json", config_text)
    write_atomic(workdir / "environment.json", json.dumps(host_facts, indent=2) + "\n")
    write_atomic(workdir / "manifest.csv", to_csv(manifest))
    write_atomic(workdir / "model_card.md", card)
    (workdir / "train.jsonl").touch()
    hashes = {
        name: sha256_of(workdir / name) for name in FILES if name not in (MODEL_FILE, "train.jsonl")
    }
    full = dict(header) | {"calibration_groups": list(calibration.groups), "hashes": hashes}
    checkpoint.write(workdir / MODEL_FILE, tensors, full)
    for name in (CHECKPOINT_FILE, FINGERPRINT):
        (workdir / name).unlink(missing_ok=True)
    workdir.replace(path)


def read(path: Path) -> Run:
    """Read a run; RunError if it is missing, incomplete, newer than this release, or altered."""
    _check_complete(path)
    tensors, header = checkpoint.read(path / MODEL_FILE)
    lacking = [key for key in HEADER if key not in header]
    if lacking:
        raise RunError(
            f"{path}: the model file lacks {', '.join(lacking)}; it was not written by `anodetect train`"
        )
    hashes = header.get("hashes", {})
    if not isinstance(hashes, dict):
        raise RunError(f"{path}: the model file does not say what the run's other files are")
    for name, digest in hashes.items():
        if name not in FILES:
            raise RunError(f"{path}: the model file names {name!r}, which is no file of a run")
        if sha256_of(path / name) != digest:
            raise RunError(
                f"{path / name}: does not match the hash in the model file; it was altered"
            )
    try:
        calibration = Calibration(
            tensors.pop("calibration.scores"),
            tensors.pop("calibration.peaks"),
            tuple(header["calibration_groups"]),
        )
        state = {name.removeprefix("detector."): array for name, array in tensors.items()}
        return Run(path, header, state, calibration, sha256_of(path / MODEL_FILE))
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{path}: the model file lacks {error}; it was not written by `anodetect train`"
        ) from None


def model_card(header: Mapping[str, Any], calibration: Calibration) -> str:
    facts, preprocess = header["facts"], header["preprocess"]
    low, high = preprocess["range"]
    steps = f", {facts['steps']} steps, ended by {facts['stopped_by']}" if facts["steps"] else ""
    return f"""# {header["detector"]} on {header["data"]}

An anomaly detector trained on normal images only. A larger score means: less like the normals it has seen.
It says nothing about why, and it is not a medical device.

- Detector: `{header["detector"]}` on `{header["representation"]}`, seed {facts["seed"]}; trained {facts["trained_at"]}
- Data: {header["data"]}: {facts["fit_images"]} images to fit, {facts["tune_images"]} to tune,
  {len(calibration.scores)} to calibrate ({calibration.n_groups} groups); which ones, with their hashes: `manifest.csv`
- Training: {facts["train_seconds"]:.1f} s{steps}
- Given up: {facts["dropped"] or "nothing"}
- Images: {preprocess["channels"]} channel(s); values {low:g} to {high:g} become -1 to 1; foreground:
  {"above the flat background" if preprocess["flat_background"] else "every pixel"}
- False alarms: {calibration.statement(0.05)}
"""


def facts(path: Path) -> dict[str, Any]:
    """What `anodetect info` tells."""
    run = read(path)
    header = run.header
    return {
        "run": str(path),
        "detector": header["detector"],
        "representation": header["representation"],
        "data": header["data"],
        **header["facts"],
        "config": header["config"],
        "preprocess": header["preprocess"],
        "scale": list(run.scale),
        "calibration_images": len(run.calibration.scores),
        "calibration_groups": run.calibration.n_groups,
        "model_sha256": run.model_sha256,
        "model_mb": round((path / MODEL_FILE).stat().st_size / 1e6, 3),
        "environment": json.loads((path / "environment.json").read_text("utf-8")),
    }


def read_manifest(path: Path) -> list[dict[str, str]]:
    """The images a run was made from: path, role, sha256, …"""
    with (path / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of train.jsonl; a line that is being written at this moment is not yet one."""
    lines = (path / "train.jsonl").read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.strip() and line.endswith("\n")]


def curves(path: Path) -> list[dict[str, Any]]:
    """The steps of train.jsonl as they were logged, at most CURVE_POINTS evenly spread ones; a
    detector that is not trained in steps has none."""
    steps = [record for record in read_log(path) if "loss" in record]
    return steps[:: -(-len(steps) // CURVE_POINTS) or 1]


def _check_complete(path: Path) -> None:
    if not path.is_dir():
        hint = f"; an unfinished training lies in {partial(path)}" if partial(path).is_dir() else ""
        raise RunError(f"{path}: no such run directory{hint}")
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise RunError(f"{path}: not a complete run directory; missing: {', '.join(missing)}")


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows with the same keys as CSV text."""
    rows = list(rows)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
