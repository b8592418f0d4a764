"""The manifest of a run: what each image was used for, and what must not be used again."""

from collections.abc import Iterable, Mapping, Sequence

from anodetect.commands.normals import LeftOut
from anodetect.data.records import Record
from anodetect.data.split import Roles
from anodetect.errors import DataError
from anodetect.record.runs import ManifestRow


def manifest_rows(
    roles: Roles, hashes: Mapping[str, str], left_out: Iterable[LeftOut]
) -> list[ManifestRow]:
    """Return the rows of a new run's manifest.csv: its images by role, and those that failed."""
    rows = used_rows(roles.fit, "fit", hashes)
    rows += used_rows(roles.tune, "tune", hashes)
    rows += used_rows(roles.calibrate, "calibrate", hashes)
    rows += [ManifestRow(each.path, "failed", error=each.reason) for each in left_out]
    return rows


def used_rows(records: Sequence[Record], role: str, hashes: Mapping[str, str]) -> list[ManifestRow]:
    """Return a row for each file, however many slices of it were used."""
    files = {record.id: record for record in records}
    return [
        ManifestRow(name, role, record.group, record.kind, hashes[name])
        for name, record in files.items()
    ]


def refuse_known_groups(rows: Sequence[ManifestRow], records: Sequence[Record]) -> None:
    """Raise DataError if a named group (a patient, a lot) is among the rows of a run's manifest."""
    known = {row.group: row.path for row in rows if row.group != row.path}
    for record in records:
        if record.group != record.id and record.group in known:
            raise DataError(
                f"leak: group {record.group!r} of {record.id} took part in the run "
                f"({known[record.group]})"
            )
