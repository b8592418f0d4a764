"""The folders (roots) that were named when the app was started, and what lies in them: runs, score
directories and folders of images. No path outside the roots is used."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from types import MappingProxyType

from anodetect.data import formats
from anodetect.data.manifest import is_manifest
from anodetect.errors import ConfigError, RunError
from anodetect.files import is_below
from anodetect.record import directories, runs
from anodetect.record.checkpoint import MODEL_FILE
from anodetect.words import amount

DEPTH = 4  # levels of folders that are searched
MOST = 200  # folders that are searched on one level
UNUSABLE = re.compile(r"[^A-Za-z0-9._-]+")  # letters that no name of a run has
LONGEST_NAME = 80
DATA_SET = {"train", "test"}  # names of folders that a data set has


@dataclass(frozen=True)
class Contents:
    """The finished runs, finished score directories and folders of images in the roots."""

    runs: tuple[Path, ...]
    scores: tuple[Path, ...]
    images: tuple[Path, ...]


@dataclass(frozen=True)
class RunRow:
    """One row of the table of runs, as texts that are shown; `seconds` is the training's length."""

    run: str
    detector: str
    image_auroc: str
    representation: str
    data: str
    trained: str
    seconds: float
    ended_by: str
    calibration: str


def allowed(path: str | Path, roots: Sequence[Path]) -> Path:
    """Return the absolute path if it lies in one of the roots, with symbolic links followed.

    Raises ConfigError otherwise.
    """
    absolute = Path(path).absolute()
    if not any(is_in(absolute, root) for root in roots):
        raise ConfigError(
            f"{path} is in none of the folders the app may use; start it with --root FOLDER"
        )
    return absolute


def is_in(path: Path, root: Path) -> bool:
    """Return whether a path lies in a root, with symbolic links followed."""
    return "\0" not in str(path) and is_below(path.absolute(), root)


def search(roots: Sequence[Path]) -> Contents:
    """Search the roots, DEPTH levels deep, without following links or entering hidden folders."""
    run_folders, scores, images = list[Path](), list[Path](), list[Path]()
    level = [root.absolute() for root in roots]

    for _ in range(DEPTH):
        next_level = list[Path]()
        for folder in level[:MOST]:
            subfolders, names = list_folder(folder)
            if MODEL_FILE in names:
                run_folders.append(folder)
                continue
            if directories.AUDIT_FILE in names:
                scores.append(folder)
                continue
            if names & DATA_SET or any(map(is_manifest, names)) or _has_images(folder, names):
                images.append(folder)
            next_level += subfolders
        level = next_level

    return Contents(tuple(run_folders), tuple(scores), tuple(images))


def _has_images(folder: Path, names: set[str]) -> bool:
    return any(formats.format_of(folder / name) is not None for name in names)


def subfolders(folder: Path) -> list[Path]:
    """Return the sorted folders in a folder, none of which is hidden or a link."""
    return list_folder(folder)[0]


def suggested_name(root: Path, *parts: str) -> str:
    """Return a name for something new in a folder, made of these texts, that nothing there has."""
    words = [UNUSABLE.sub("-", part).strip("-.") for part in parts]
    stem = "-".join(word for word in words if word)[:LONGEST_NAME].lstrip("-._") or "new"
    name, number = stem, 2
    while (root / name).exists():
        name, number = f"{stem}-{number}", number + 1
    return name


def list_folder(folder: Path) -> tuple[list[Path], set[str]]:
    """Return the sorted folders in a folder, and all names in it; none where it is not readable."""
    folders, names = list[Path](), set[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                names.add(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(folder / entry.name)
    except OSError:
        return [], set()
    return sorted(folders), names


def measured_auroc(scores: Sequence[Path]) -> Mapping[str, str]:
    """Return for the hash of each model its image AUROC on the labelled images of one of these
    score directories, as a text. Directories without labels and damaged ones are left out."""
    by_model = {}
    for path in scores:
        try:
            audit = directories.read_audit(path)
            if audit.evaluation is None:
                continue
            auroc = audit.evaluation.image["auroc"]
            interval = "" if isnan(auroc.low) else f" ({auroc.low:.3f}–{auroc.high:.3f})"
            by_model[audit.model_sha256] = f"{auroc.value:.3f}{interval} on {path.name}"
        except (RunError, ValueError, KeyError, TypeError):
            continue
    return MappingProxyType(by_model)


def run_row(run: Path, measured: Mapping[str, str]) -> RunRow:
    """Return the row of a run; `measured` is from `measured_auroc`.

    Raises RunError where the run cannot be read.
    """
    facts = runs.facts(run)
    images, groups = facts.calibration_images, facts.calibration_groups
    return RunRow(
        run=run.name,
        detector=facts.detector,
        image_auroc=measured.get(facts.model_sha256, ""),
        representation=facts.representation,
        data=facts.data,
        trained=facts.training.trained_at[:16].replace("T", " "),
        seconds=facts.training.train_seconds,
        ended_by=facts.training.stopped_by or "",
        calibration=f"{amount(images, 'image')}, {amount(groups, 'group')}",
    )
