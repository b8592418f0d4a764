"""The maps and masks that a scoring wrote, read back from a score directory."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from anodetect.errors import RunError
from anodetect.files import inside
from anodetect.output.formats import Source, map_reader, mask_reader
from anodetect.record.rows import ScoreRow
from anodetect.types import Bools, Floats

T = TypeVar("T")


def source_of(row: ScoreRow) -> Source:
    """Return which kind of source a row is of."""
    return "volume" if row.is_volume else "image"


def read_map(folder: Path, row: ScoreRow) -> Floats | None:
    """Return the map of a row as it was written, [H, W] or [I, J, K] in the grid of its source;
    None if none was written that can be read back.

    RunError if the file is missing or damaged, or if its name leads out of the score directory
    `folder`. Its hash is not compared.
    """
    reader = map_reader(row.heatmap, source_of(row))
    return None if reader is None else _read(folder, row.heatmap, reader)


def read_mask(folder: Path, name: str, source: Source) -> Bools:
    """Return the mask in a file of the score directory `folder`, of an image [H, W], of a volume in
    the file's order; RunError as for `read_map`, and if no such file is a mask."""
    reader = mask_reader(name, source)
    if reader is None:
        raise RunError(f"{name} is no file of a mask")
    return _read(folder, name, reader)


def _read(folder: Path, name: str, reader: Callable[[Path], T]) -> T:
    file = inside(folder, name)
    if not file.is_file():
        raise RunError(f"{name} is missing; anodetect verify tells what else is")
    try:
        return reader(file)
    except RunError:  # which says it already
        raise
    except Exception as error:  # libraries raise whatever they like on damaged files
        raise RunError(f"{name} is damaged ({type(error).__name__})") from None
