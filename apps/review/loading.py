"""The files behind a case. Nothing is written.

Only files of a score directory are read and, of the images, those below the root it recorded: a
path that leads elsewhere, also through a symbolic link, is refused. An image counts as the scored
one only if its bytes have the recorded hash. Maps that were made again are read from the folder
beside a score directory that `anodetect maps` writes.
"""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from PIL import Image

from anodetect.data import dicom, formats, manifest, readers
from anodetect.data.dicom_window import window_of, window_of_volume
from anodetect.data.reading import component_of, reading_of
from anodetect.data.records import Record
from anodetect.data.scan import scan
from anodetect.data.series import headlines_of, series_of
from anodetect.data.truth import read_truth
from anodetect.data.volumes import Volume
from anodetect.errors import DataError, ImageError, RunError, one_line
from anodetect.files import inside, is_below, leads_out, path_of, path_text, sha256_of
from anodetect.imaging.planes import split
from anodetect.output import recorded
from anodetect.output.formats import map_reader, readable_names
from anodetect.record import channel_files, made_maps
from anodetect.record.directories import ScoreDirectory, picture_of
from anodetect.record.keeping import ALL
from anodetect.record.rows import OK, ScoreRow
from anodetect.types import Bools, Floats

from . import progress
from .display import Case, Channel, Channels, Picture, VolumeCase, Window, first_planes, windows

T = TypeVar("T")
LARGEST = 512 * 2**20  # bytes of a file that is read for display
# The pictures that a score directory keeps: pixels of a panel, and between two panels.
PANEL, PANEL_GAP = 200, 6
MADE_AGAIN = "The map was not kept and was made again: it is no part of the record."


def load(directory: ScoreDirectory, row: ScoreRow) -> Case:
    """Read everything that can be shown of an image; what is missing becomes a note, no error."""
    notes: list[str] = []
    read = or_note(notes, "image", lambda: _read_with_window(directory, row))
    image, channels, stated = read or (None, (), None)

    progress.reached(progress.MAP)
    heatmap = None
    if row.status == OK:
        heatmap = or_note(notes, "heatmap", lambda: _read_heatmap(directory, row))
    if heatmap is not None and not row.heatmap:
        notes.append(MADE_AGAIN)
    if image is not None and heatmap is not None and image.shape[1:] != heatmap.shape:
        notes.append("The heatmap does not have the image's size; it is not shown over it.")
        heatmap = None

    shape = (row.height or 0, row.width or 0) if image is None else image.shape[1:]
    mask = or_note(notes, "ground-truth mask", lambda: _read_mask(directory, row, shape))
    progress.reached(progress.PYRAMID)

    # The picture kept of a volume shows three planes, not an image beside its reconstruction.
    kept = None
    if not row.is_volume:
        kept = or_note(notes, "kept picture", lambda: _read_kept_picture(directory, row))
    reconstruction, shown = kept or (None, None)
    found = None if heatmap is None else directory.audit.mask_rule.mask(heatmap)
    return Case(image, heatmap, found, mask, reconstruction, shown, tuple(notes), stated, channels)


def load_volume(directory: ScoreDirectory, row: ScoreRow, plane: str) -> VolumeCase:
    """Read everything that can be shown of a volume that was scored along a plane ("axial" …); what
    is missing becomes a note."""
    notes: list[str] = []
    read = or_note(notes, "image", lambda: _read_volume(directory, row))
    if read is None:
        return VolumeCase(None, None, None, None, None, tuple(notes))

    progress.reached(progress.MAP)
    volume, channels = read
    _, depth, height, width = volume.voxels.shape
    geometry = volume.geometry(plane)

    def read_heatmap() -> Floats:
        values = _read_heatmap(directory, row)
        if values.shape != (depth, height, width):
            raise RunError("it does not have the volume's size")
        return np.asarray(geometry.to_slices(values))

    def read_mask() -> Bools | None:
        return read_truth(_with_masks(directory, row), geometry.sides, (volume, geometry))

    heatmap = or_note(notes, "heatmap", read_heatmap) if row.status == OK else None
    if heatmap is not None and not row.heatmap:
        notes.append(MADE_AGAIN)
    mask = or_note(notes, "ground-truth mask", read_mask)
    progress.reached(progress.PYRAMID)
    found = None if heatmap is None else directory.audit.mask_rule.mask(heatmap)
    voxels_along = geometry.to_slices(volume.voxels)
    if channels:
        shown = channels[0].windows
    else:
        is_ct, stated = volume.modality == "CT", window_of_volume(volume)
        shown = MappingProxyType(windows(voxels_along, is_ct=is_ct, stated=stated))
    kept = tuple(notes)
    return VolumeCase(geometry, voxels_along, heatmap, found, mask, kept, shown, channels)


def or_note(notes: list[str], name: str, read: Callable[[], T]) -> T | None:
    """Return what `read` returns, or None with a note that says why `name` is missing."""
    try:
        return read()
    except (OSError, DataError, RunError, ValueError, MemoryError) as error:
        notes.append(f"No {name}: {one_line(error)}")
    return None


# -- Images and volumes ----------------------------------------------------------------------------


def original(directory: ScoreDirectory, row: ScoreRow) -> Path:
    """Return where the image of a row was when it was scored.

    Raises RunError if that is not below the recorded root.
    """
    root = directory.audit.root
    if not root:
        raise RunError("the record does not say where the images were")
    if Path(root).resolve() == Path(Path(root).resolve().anchor):
        raise RunError(f"the record says that the images were anywhere on this disk ({root})")
    return inside(Path(root), path_of(row.path))


def read_image(directory: ScoreDirectory, row: ScoreRow) -> Floats:
    """Return the image [C, H, W] that was scored, of several channels the first; raise ImageError
    where it is not there."""
    image, channels, _ = _read_with_window(directory, row)
    return image[first_planes(channels)]


def _read_with_window(
    directory: ScoreDirectory, row: ScoreRow
) -> tuple[Floats, Channels, Window | None]:
    """Return the image [C, H, W] that was scored with all its channels, these, and the window that
    its DICOM file states, if any; raise ImageError where it is not there."""
    source = _source(directory, row)
    content = source.content()
    if isinstance(content.pixels, Volume):
        raise ImageError("it is a volume; score it again")

    stated = None
    if isinstance(source, readers.Source) and formats.is_series(source.record.path):
        stated = window_of(dicom.parse(source.contents[0]))
    image, channels = _present(content.pixels, content.channels, is_ct=False)
    return image, channels, stated


def read_volume(directory: ScoreDirectory, row: ScoreRow) -> Volume:
    """Return the volume that was scored, of several channels the first; raise ImageError where it
    is not there."""
    volume, channels = _read_volume(directory, row)
    return replace(volume, voxels=volume.voxels[first_planes(channels)])


def _read_volume(directory: ScoreDirectory, row: ScoreRow) -> tuple[Volume, Channels]:
    """Return the volume that was scored with all its channels, and these; raise ImageError where it
    is not there."""
    reading = reading_of(directory.audit.config)
    listed = component_of(_manifest_row(directory, row).get("component", ""))
    if listed is not None:
        reading = replace(reading, component=listed)
    content = _source(directory, row).content(reading)
    volume = content.pixels
    if not isinstance(volume, Volume):
        raise ImageError("it is no volume; score it again")
    is_ct = volume.modality == "CT"
    voxels, channels = _present(volume.voxels, content.channels, is_ct=is_ct)
    return replace(volume, voxels=voxels), channels


def _present(
    pixels: Floats, decoded: Sequence[readers.DecodedChannel], *, is_ct: bool
) -> tuple[Floats, Channels]:
    """Return the planes [C, ...] of the channels that are there, and where they lie in it; all
    planes and no channels of what has one file."""
    if not decoded:
        return pixels, ()
    parts, channels, start = list[Floats](), list[Channel](), 0
    split_pixels = split(pixels, [channel.planes for channel in decoded])
    for channel, part in zip(decoded, split_pixels, strict=True):
        if not channel.sha256:
            continue
        shown = MappingProxyType(windows(part, is_ct=is_ct))
        parts.append(part)
        channels.append(Channel(channel.name, start, len(part), shown))
        start += len(part)
    return np.concatenate(parts), tuple(channels)


def _source(directory: ScoreDirectory, row: ScoreRow) -> readers.Source | readers.ChannelSources:
    """Return a row's file, the files of its DICOM series, or those of its channels.

    Raises ImageError where they are missing, too large, or have another hash than the recorded one.
    """
    path = original(directory, row)
    root = Path(directory.audit.root).resolve()
    file, files = _series(directory, row, path, root)

    def place(name: str) -> Path:
        return inside(root, path_of(name))

    channels = channel_files.files_of(row.channels, place, root)
    record = Record(row.path, file, files=files, channels=channels)
    for file in record.all_files():
        if not is_below(file, root):
            raise RunError(f"{file} leads out of {root}; it is not read")
        if not file.is_file():
            raise ImageError(
                f"{file} is no longer there; put the images back where they were scored"
            )
    if sum(file.stat().st_size for file in record.all_files()) > LARGEST:
        raise ImageError(
            f"the file has more than {LARGEST // 2**20} MB; open it with a viewer for large images"
        )

    progress.reached(progress.READING)
    source = readers.read_source(record)
    progress.reached(progress.DECODING)
    unread = row.status != OK and not row.sha256  # what could not be read may be there now
    if source.sha256 != row.sha256 and not unread:
        raise ImageError(f"{path} was changed since it was scored; it is not shown")
    return source


def _series(
    directory: ScoreDirectory, row: ScoreRow, path: Path, root: Path
) -> tuple[Path, tuple[Path, ...]]:
    """Return the file that stands for a row at `path`, and those of its DICOM series, as scoring
    found them: in the folder that a manifest names, or in all below `root` in which they lie."""
    is_file = path.is_file()
    if is_file and not formats.is_series(path):
        return path, ()
    if path.is_dir() or _manifest_row(directory, row):
        return manifest.listed_files(path, row.path, partial(headlines_of, root=path.parent))
    return path, series_of(path, root=root) if is_file else ()


# -- Heatmaps, masks and kept pictures -------------------------------------------------------------


def _read_heatmap(directory: ScoreDirectory, row: ScoreRow) -> Floats:
    """Return a row's heatmap as it was written, in the grid of its image or volume."""
    if not row.heatmap and directory.audit.keep != ALL:
        return _read_made_again(directory, row)
    path = inside(directory.path, row.heatmap) if row.heatmap else directory.path
    if path.is_file() and sha256_of(path) != directory.output_hash(row.heatmap):
        raise RunError(f"{row.heatmap} was changed since it was written; it is not shown")

    heatmap = recorded.read_map(directory.path, row)
    if heatmap is None:
        names = " or ".join(readable_names(recorded.source_of(row)))
        raise RunError(f"none was written; score with --heatmaps {names}")
    return heatmap


def _read_made_again(directory: ScoreDirectory, row: ScoreRow) -> Floats:
    """Return a heatmap that was not kept, and was made again since; RunError if it was not."""
    folder = _folder_of_made(directory)
    source = recorded.source_of(row)
    for made in reversed(made_maps.read(folder, directory.audit.head)):  # a TIFF before a NIfTI
        if made.path != row.path or map_reader(made.name, source) is None:
            continue
        path = inside(folder, made.name)
        if path.is_file() and sha256_of(path) != made.sha256:
            raise RunError(f"{made.name} was changed since it was made again; it is not shown")
        heatmap = recorded.read_map(folder, replace(row, heatmap=made.name))
        assert heatmap is not None  # its name has a reader
        return heatmap

    command = shlex.join(["anodetect", "maps", str(directory.path), row.path])
    raise RunError(f"it was not kept (--keep {directory.audit.keep}); make it with {command}")


def _folder_of_made(directory: ScoreDirectory) -> Path:
    folder = made_maps.folder_of(directory.path)
    if not is_below(folder, folder.parent):
        raise RunError(f"{folder} is a link that leads elsewhere; it is not read")
    return folder


def is_made_again(directory: ScoreDirectory, row: ScoreRow) -> bool:
    """Return whether the map of a row was not kept, and was made again since."""
    if not lacks_map(directory, row):
        return False
    listed = made_maps.folder_of(directory.path) / made_maps.FILE
    changed = listed.stat().st_mtime_ns if listed.is_file() else 0
    return row.path in _made_again(directory.path, directory.audit.head, changed)


@lru_cache(4)
def _made_again(path: Path, head: str, changed: int) -> frozenset[str]:
    """Return the paths of the rows whose maps were made again; `changed` makes the list be read
    anew."""
    try:
        listed = made_maps.read(made_maps.folder_of(path), head)
    except RunError:  # the note on the missing map says it
        return frozenset()
    return frozenset(each.path for each in listed)


def lacks_map(directory: ScoreDirectory, row: ScoreRow) -> bool:
    """Return whether the map of a row that has a score was not kept."""
    return directory.audit.keep != ALL and row.status == OK and not row.heatmap


def _read_mask(directory: ScoreDirectory, row: ScoreRow, shape: tuple[int, ...]) -> Bools | None:
    """Return the true mask [H, W] of an image of this shape, or None."""
    return read_truth(_with_masks(directory, row), shape)


def _with_masks(directory: ScoreDirectory, row: ScoreRow) -> Record:
    """Return the record of an image with its masks, which a manifest names or the names of the
    scored folder show, as they are found for `evaluate`."""
    name, root = path_of(row.path), Path(directory.audit.root)
    record = Record(row.path, root / name)
    if not directory.audit.root or leads_out(name) or not root.is_dir():
        return record

    folder = _manifest_folder(root, name)
    if folder is None:
        masks = _masks_of(root, root.stat().st_mtime_ns).get(row.path, ())
    else:
        listed = _manifest_row(directory, row).get("mask", "")
        masks = manifest.masks_at(inside(folder, listed)) if listed else ()

    found = tuple(inside(root, os.path.relpath(mask, root)) for mask in masks)
    return replace(record, masks=found)


@lru_cache(4)
def _masks_of(root: Path, changed: int) -> Mapping[str, tuple[Path, ...]]:
    """Return the masks of a folder's images by their paths; `changed` makes them be found anew."""
    masks = {record.id: record.masks for record in scan(root).records if record.masks}
    return MappingProxyType(masks)


def _manifest_folder(root: Path, name: str) -> Path | None:
    """Return the nearest folder above an image, up to the root, that has a manifest; None if none
    has one."""
    for parent in Path(name).parents:
        if manifest.manifest_of(root / parent):
            return root / parent
    return None


def _manifest_row(directory: ScoreDirectory, row: ScoreRow) -> Mapping[str, str]:
    """Return an image's line in the manifest of the scored folder, or of one in it; {} where it has
    none."""
    name, root = path_of(row.path), Path(directory.audit.root)
    folder = None if leads_out(name) else _manifest_folder(root, name)
    file = None if folder is None else manifest.manifest_of(folder)
    if folder is None or file is None:
        return {}
    listed = path_text(Path(root, name).relative_to(folder))
    return _read_manifest(file, file.stat().st_mtime_ns).get(listed, {})


@lru_cache(4)
def _read_manifest(file: Path, changed: int) -> Mapping[str, Mapping[str, str]]:
    """Return the lines of a manifest by their paths; `changed` makes a new one be read anew."""
    rows = manifest.manifest_rows(file)
    return MappingProxyType({name: MappingProxyType(row) for name, row in rows.items()})


def _read_kept_picture(directory: ScoreDirectory, row: ScoreRow) -> tuple[Picture, Picture] | None:
    """Return reconstruction and image, small and grey, from the picture that the score directory
    kept; None where it kept none, or one without a reconstruction."""
    path = inside(directory.path, str(picture_of(Path(), row.path)))
    if not path.is_file():
        return None

    with Image.open(path) as picture:
        grey = np.asarray(picture.convert("L"))
    if grey.shape != (PANEL, 3 * PANEL + 2 * PANEL_GAP):
        return None  # it has two panels, image and heatmap
    return grey[:, -PANEL:], grey[:, :PANEL]
