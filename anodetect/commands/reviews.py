"""Export of verdicts: they become labels, and regions become masks, for `evaluate`, `calibrate` and
a new training. Nothing joins by itself: what is written is a folder of its own."""

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from anodetect.data import readers
from anodetect.data.geometry import Geometry, in_plane
from anodetect.data.manifest import MANIFEST, listed_files
from anodetect.data.reading import reading_of
from anodetect.data.records import Record
from anodetect.data.scan import counted
from anodetect.data.series import headlines_of, series_of
from anodetect.data.volumes import Volume
from anodetect.errors import DataError, ImageError, RunError
from anodetect.files import inside, path_of, sync_tree, write_atomic
from anodetect.output import judged
from anodetect.output.judged import Marked
from anodetect.record import channel_files, directories, marks, reviews
from anodetect.record.directories import ScoreDirectory
from anodetect.record.marks import Mark
from anodetect.record.partial import new_directory
from anodetect.record.reviews import Review
from anodetect.record.rows import ScoreRow, SliceRow
from anodetect.stats.agreement import LABELS, consensus
from anodetect.types import Reporter, Silent
from anodetect.words import amount

Form = Literal["manifest", "coco", "masks"]
MASKS = "masks"  # the folder of masks
COCO = "reviews.json"
NO_LABEL = "no label: unsure, bad image, or readers disagree"
COLUMNS = ("path", "split", "label", "kind", "mask", "group")


@dataclass(frozen=True)
class ReviewsExport:
    """An export of reviews: cases by their label, and the regions in them. `left_out` counts by the
    reason the cases, or masks, that are not there."""

    out: Path
    form: Form
    normal: int
    anomalous: int
    regions: int
    left_out: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"out": str(self.out)}

    def text(self) -> str:
        lines = [
            f"{self.normal} normal and {amount(self.anomalous, 'anomalous case')}, "
            f"{amount(self.regions, 'region')}: {self.out}"
        ]
        if self.left_out:
            lines.append(f"left out: {counted(self.left_out)}")
        return "\n".join(lines)


def export(
    directory: Path,
    form: Form,
    out: Path,
    *,
    join_normals: bool = False,
    reporter: Reporter | None = None,
) -> ReviewsExport:
    """Write the verdicts in force on a score directory to a new folder.

    "manifest" writes images, masks and a manifest.csv, as `evaluate` reads them; with
    `join_normals` cases judged normal belong to its train part. "coco" writes their regions alone
    in COCO's format, "masks" as masks. A case has the label that most of its readers gave it, and
    the regions of those who gave this label. RunError if the record does not hold or has no
    verdicts, if `out` is used already, or if another process writes it; it is complete or absent.
    """
    scored = directories.read_as_written(directory)
    in_force = reviews.in_force(intact_reviews(scored))
    rows = {row.path: row for row in scored.rows}
    slices = {each.path: each for each in directories.read_slices(directory)}
    directories.refuse_used(out)

    cases, left_out = list[tuple[ScoreRow, Marked]](), Counter[str]()
    for path, given in sorted(in_force.items()):
        label = consensus(given)
        if label is None:
            left_out[NO_LABEL] += 1
            continue
        try:
            cases.append((rows[path], _marked(scored, rows[path], slices.get(path), label, given)))
        except (DataError, RunError, OSError) as error:
            (reporter or Silent()).warn(f"{path}: left out ({error})")
            left_out["cannot be read"] += 1

    with new_directory(out, "this export") as workdir:
        if form == "coco":
            judged.write_coco([case for _, case in cases], workdir / COCO)
        else:
            masks = _write_masks(scored, cases, workdir, left_out)
            if form == "manifest":
                _write_manifest(scored, cases, masks, workdir, join_normals, left_out)
        sync_tree(workdir)

    labels = Counter(case.label for _, case in cases)
    regions = sum(len(case.marks) for _, case in cases)
    return ReviewsExport(out, form, labels[0], labels[1], regions, dict(left_out))


def intact_reviews(scored: ScoreDirectory) -> list[Review]:
    """Return the reviews of a score directory; RunError if there are none or they do not hold."""
    file = scored.path / reviews.FILE
    head = scored.audit.verdicts_start
    found = reviews.read(file) if file.is_file() else []
    own = [review for review in found if review.head == head]
    if not own:
        raise RunError(
            f"{scored.path}: no verdicts in {reviews.FILE}; record some with "
            f"`anodetect review {scored.path}`"
        )
    problem = next(reviews.broken(own, head), "")
    if problem:
        raise RunError(f"{file}: {problem}; `anodetect verify` says more")

    return own


# -- Cases -----------------------------------------------------------------------------------------


def _marked(
    scored: ScoreDirectory,
    row: ScoreRow,
    a_slice: SliceRow | None,
    label: int,
    given: Mapping[str, Review],
) -> Marked:
    """Return a case with its label and regions; a normal one has none."""
    texts = []
    for review in given.values():
        if label == 1 and LABELS.get(review.verdict) == label and review.region:
            texts.append(review.region)
    found = tuple(dict.fromkeys(mark for text in texts for mark in marks.parse(text)))

    if not row.is_volume:
        return Marked(row.path, label, found, (row.width or 0, row.height or 0))
    if not found:
        return Marked(row.path, label, (), (0, 0))
    volume = _volume(scored, row)
    geometry = volume.geometry(a_slice.axis if a_slice else "auto")
    _check_places(found, geometry)
    _, height, width = geometry.sides
    return Marked(row.path, label, found, (width, height), volume, geometry)


def _check_places(found: tuple[Mark, ...], geometry: Geometry) -> None:
    """Raise DataError where a region lies in no slice of the volume."""
    for mark in found:
        try:
            depth, height, width = in_plane(geometry, mark.place.plane).sides
        except ImageError:
            raise DataError(f"the region {mark} names no slice of its volume") from None
        marks.check_inside(mark, width, height, depth)


def _record(scored: ScoreDirectory, row: ScoreRow) -> Record:
    """Return the files of a row; RunError if they lie outside the folder that was scored."""
    root = Path(scored.audit.root).resolve()
    path = inside(root, path_of(row.path))
    files = series_of(path, root=root) if path.is_file() else ()
    if path.is_dir():  # a manifest lists the folder of a series
        path, files = listed_files(path, row.path, partial(headlines_of, root=path.parent))
    channels = channel_files.files_of(row.channels, lambda name: inside(root, path_of(name)), root)
    return Record(row.path, path, files=files, channels=channels)


def _volume(scored: ScoreDirectory, row: ScoreRow) -> Volume:
    """Return the volume of a row; DataError if it is not the one that was scored."""
    source = readers.read_source(_record(scored, row))
    if row.sha256 and source.sha256 != row.sha256:
        raise DataError("it was changed since it was scored")
    decoded = source.content(reading_of(scored.audit.config)).pixels
    if not isinstance(decoded, Volume):
        raise DataError("it is no volume")
    return decoded


# -- Files -----------------------------------------------------------------------------------------


def _write_masks(
    scored: ScoreDirectory,
    cases: Sequence[tuple[ScoreRow, Marked]],
    out: Path,
    left_out: Counter[str],
) -> Mapping[str, str]:
    """Write the masks of cases with regions; return by the cases' paths the names below `out` of
    those that a manifest names."""
    names = {}
    for row, case in cases:
        if not case.marks:
            continue
        pseudonym = "" if scored.audit.identifiers else row.group
        try:
            files = judged.write_masks(case, out / MASKS / path_of(case.path), pseudonym)
        except RunError as error:
            left_out[f"mask: {error}"] += 1
            continue
        names[case.path] = files[0].relative_to(out).as_posix()

    return names


def _write_manifest(
    scored: ScoreDirectory,
    cases: Sequence[tuple[ScoreRow, Marked]],
    masks: Mapping[str, str],
    out: Path,
    join_normals: bool,
    left_out: Counter[str],
) -> None:
    """Write the images of cases and their manifest.csv. Images are hard links where that is
    possible, else copies."""
    root = Path(scored.audit.root)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()

    for row, case in cases:
        if row.channels:
            left_out["several files as channels, which only their own manifest lists"] += 1
            continue
        for file in _record(scored, row).all_files():
            _link(file, out / file.relative_to(root.resolve()))
        writer.writerow(
            {
                "path": path_of(row.path),
                "split": "train" if join_normals and case.label == 0 else "test",
                "label": case.label,
                "kind": row.kind if case.label and row.kind else "",
                "mask": masks.get(row.path, ""),
                "group": "" if row.group == row.path else row.group,
            }
        )
    write_atomic(out / MANIFEST, text.getvalue())


def _link(source: Path, target: Path) -> None:
    """Make a file appear at another place without a copy, or copy it."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
