"""Images that are no longer where they were scored: the folder that holds them now."""

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from anodetect.errors import ConfigError
from anodetect.files import leads_out, path_of
from anodetect.record import directories
from anodetect.record.bounded import check_all

LOOKED_FOR = 20  # rows whose files are looked for
SEARCHED = 1000  # folders below the one that was named


def root_in(folder: Path, data: Path) -> Path | None:
    """Return the folder below which the images of a score directory lie now: `data`, or a folder
    in it; None where they lie in none of them.

    The first rows decide: the folder has the most of their files. RunError if `folder` is no score
    directory.
    """
    names = _first_paths(folder)
    best, most = None, 0
    for root in [data, *_folders_in(data)]:
        count = sum(_is_there(root, name) for name in names)
        if count > most:
            best, most = root, count
    return best


def check(folders: list[Path], data: Path) -> None:
    """Raise ConfigError if `data` is no folder, or if it has the images of none of these score
    directories; RunError if one of them is none."""
    if not data.is_dir():
        raise ConfigError(f"--data {data}: not a folder")
    if folders and not any(root_in(folder, data) for folder in folders):
        raise ConfigError(
            f"--data {data}: neither it nor a folder in it has the images of {folders[0]}; name "
            "the folder in which the scored paths begin"
        )


def _first_paths(folder: Path) -> list[str]:
    """Return the paths of the first rows that were read; [] where the table cannot be read."""
    directories.audit_content(folder)
    try:
        # pyarrow opens no path with bytes that are not UTF-8
        with (
            (folder / "scores.parquet").open("rb") as stream,
            parquet.ParquetFile(stream) as file,
        ):
            check_all(file, stream)
            rows = next(file.iter_batches(LOOKED_FOR, columns=["path"]))
    except (OSError, ValueError, StopIteration, pa.ArrowException):
        return []
    return [str(path) for path in rows["path"].to_pylist()]


def _folders_in(data: Path) -> list[Path]:
    try:
        folders = sorted(each for each in data.iterdir() if each.is_dir())
    except OSError:
        return []
    return folders[:SEARCHED]


def _is_there(root: Path, name: str) -> bool:
    path = path_of(name)
    return not leads_out(path) and (root / path).exists()
