"""The manifest of a run: what each image was used for, and what must not be used again."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from anodetect.commands.normals import LeftOut, Normals
from anodetect.data.records import Record
from anodetect.data.split import Roles
from anodetect.errors import DataError
from anodetect.record.odd import OddNormals
from anodetect.record.runs import ManifestRow

ODD = "odd"  # the role of an image that was left out on request
ANOMALY = "anomaly"  # and of a known anomaly that was learned from
LEARNED_FROM = ("fit", "tune", ANOMALY)  # the roles of images that must not be calibrated with


def manifest_rows(
    roles: Roles, normals: Normals, left_out: Iterable[LeftOut], odd: OddNormals | None = None
) -> list[ManifestRow]:
    """Return the rows of a new run's manifest.csv: its images by role, known anomalies, the odd
    ones that were left out, and those that failed. With folds a row of fit or tune names the fold
    in which the image is to calibrate."""
    rows = used_rows(roles.fit, "fit", normals)
    rows += used_rows(roles.tune, "tune", normals)
    if roles.folds:
        fold = {group: str(number) for group, number in roles.fold_of().items()}
        rows = [replace(row, fold=fold.get(row.group, "")) for row in rows]
    else:
        rows += used_rows(roles.calibrate, "calibrate", normals)
    rows += used_rows(roles.anomalies, ANOMALY, normals)
    rows += _odd_rows(normals, odd)
    rows += [ManifestRow(each.path, "failed", error=each.reason) for each in left_out]
    return rows


def used_rows(records: Sequence[Record], role: str, normals: Normals) -> list[ManifestRow]:
    """Return a row for each file, however many slices of it were used."""
    rows = []
    for name, record in {record.id: record for record in records}.items():
        row = ManifestRow(
            name,
            role,
            record.group,
            record.kind,
            sha256=normals.hashes[name],
            pixels_sha256=normals.pixels[name],
            prepared=normals.prepared.get(name, ""),
        )
        rows.append(row)

    return rows


def _odd_rows(normals: Normals, odd: OddNormals | None) -> list[ManifestRow]:
    """Return a row for each image that was left out because it is odd."""
    images = {image.path: image for image in odd.images if image.left_out} if odd else {}
    records = [record for record in normals.records if record.id in images]
    rows = []
    for row in used_rows(records, ODD, normals):
        image = images[row.path]
        reason = (
            f"left out by --drop-odd: {image.score:.2f} times as hard to explain from the others "
            f"as the typical image, rank {image.rank}"
        )
        rows.append(replace(row, error=reason))
    return rows


class KnownFiles:
    """The bytes and the pixels of the files that a run was made from."""

    def __init__(self, rows: Iterable[ManifestRow]) -> None:
        rows = list(rows)
        self._by_bytes = {row.sha256: row.path for row in rows if row.sha256}
        self._by_pixels = {row.pixels_sha256: row.path for row in rows if row.pixels_sha256}

    def copied(self, sha256: str, pixels: str) -> str:
        """Return of which file this is a copy, as "the same bytes as a.png" or "the same pixels as
        a.png"; "" if of none."""
        if sha256 in self._by_bytes:
            return f"the same bytes as {self._by_bytes[sha256]}"
        if pixels in self._by_pixels:
            return f"the same pixels as {self._by_pixels[pixels]}"
        return ""


def known_groups(rows: Sequence[ManifestRow], records: Iterable[Record]) -> list[str]:
    """Return the named groups (patients, lots) of records that are among the rows of a run's
    manifest, sorted."""
    known = {row.group for row in rows if row.group != row.path}
    return sorted({record.group for record in records if record.group != record.id} & known)


def refuse_known_groups(rows: Sequence[ManifestRow], records: Sequence[Record]) -> None:
    """Raise DataError if a named group (a patient, a lot) is among the rows of a run's manifest."""
    known = {row.group: row.path for row in rows if row.group != row.path}
    for record in records:
        if record.group != record.id and record.group in known:
            raise DataError(
                f"leak: group {record.group!r} of {record.id} took part in the run "
                f"({known[record.group]})"
            )
