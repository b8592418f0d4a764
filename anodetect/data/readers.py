"""Files to arrays: an image is float32 [C, H, W] in native units, C 1 or 3; a volume [C, I, J, K]
with its place in space.

The file's own bit depth is kept.
"""

import gzip
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from pkgutil import resolve_name
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from anodetect.data import formats
from anodetect.data.bvalues import number_of
from anodetect.data.channels import ChannelFile
from anodetect.data.dicom_views import laterality_of, looks_left, side_named
from anodetect.data.geometry import MIN_SIDE, Geometry
from anodetect.data.images import MAX_PIXELS, Array, as_float32, channels_first
from anodetect.data.joined import join
from anodetect.data.mask_images import marked_in
from anodetect.data.reading import AS_IT_IS, Reading
from anodetect.data.records import Record
from anodetect.data.regrid import at_places_of, on_grid_of
from anodetect.data.volumes import MAX_VOXELS, Volume
from anodetect.errors import ImageError
from anodetect.files import is_below, leads_out, path_text
from anodetect.types import Bools, Floats
from anodetect.words import amount

MAX_BYTES = 8 * MAX_VOXELS + 2**24  # the largest volume, not compressed, and its header
HALF_WHITE = 127  # of an 8-bit mask that was compressed with loss
T = TypeVar("T")


# -- Bytes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecodedChannel:
    """One of several files that are the channels of an image or volume: its path relative to the
    root and the SHA-256 of its bytes, both "" where it is absent.

    It has so many `planes` along the first axis. `note` says how it was brought to the grid of the
    first, "" if it lay on it. `sample_type` is that of `Content`.
    """

    name: str
    path: str
    sha256: str
    planes: int
    note: str
    sample_type: str = ""


@dataclass(frozen=True)
class Content:
    """The content of a file: an image [C, H, W] or a volume, in native units.

    `sample_type` is the type of its samples, such as "uint8"; "" for volumes and DICOM, whose
    values have units of their own, and for several channels. With `mirrored` the file has its
    columns the other way round. `channels` are the files of several channels.
    """

    pixels: Floats | Volume
    sample_type: str = ""
    mirrored: bool = False
    channels: tuple[DecodedChannel, ...] = ()


@dataclass(frozen=True)
class Source:
    """A record's bytes and their SHA-256, not decoded yet. `contents` is one file, a header and the
    file with its data, or the files of a series in the order of its slices."""

    record: Record
    contents: tuple[bytes, ...]
    sha256: str

    def decode(self, reading: Reading = AS_IT_IS) -> Floats | Volume:
        """Return the image [C, H, W] or the volume; ImageError with the reason if that fails.

        Of a 4-D file, or a series of several volumes, the component that the record names is read,
        else that of `reading`.
        """
        return self.content(reading).pixels

    def content(self, reading: Reading = AS_IT_IS, side: str = "") -> Content:
        """Return what `decode` does, and how samples were stored. `side` is the side of the body
        that the image shows, L or R, "" if only the record or the file can say it."""
        if self.record.component is not None:
            reading = replace(reading, component=self.record.component)
        path = self.record.path
        format_found = formats.format_of(path)
        if format_found is not None and format_found.content == "volume":
            reading = replace(reading, component=number_of(path, reading.component))

        found = _decode(self.contents, format_found, path.name, reading)
        if not reading.flip_right or isinstance(found.pixels, Volume):
            return found
        if (side or self.side()) != "R" or self._looks_left():
            return found
        mirrored = np.ascontiguousarray(found.pixels[..., ::-1])
        return replace(found, pixels=mirrored, mirrored=True)

    def side(self) -> str:
        """Return the side of the body that the image shows, L or R, as a manifest's column
        `laterality` or the DICOM header says; "" if neither does."""
        named = side_named(self.record.extra.get("laterality", ""))
        if named or not formats.is_series(self.record.path):
            return named
        from anodetect.data import dicom  # with pydicom

        return laterality_of(dicom.parse(self.contents[0]))

    def _looks_left(self) -> bool:
        """Return whether an image of the right side was mirrored before it was stored."""
        if not formats.is_series(self.record.path):
            return False
        from anodetect.data import dicom  # with pydicom

        return looks_left(dicom.parse(self.contents[0]))


@dataclass(frozen=True)
class ChannelSources:
    """The bytes of a record whose channels are several files, None for those that are absent, and
    the SHA-256 of their hashes."""

    record: Record
    sources: tuple[Source | None, ...]
    sha256: str

    def decode(self, reading: Reading = AS_IT_IS) -> Floats | Volume:
        """Return all channels as one image or volume, as `Source.decode` does."""
        return self.content(reading).pixels

    def content(self, reading: Reading = AS_IT_IS) -> Content:
        """Return all channels in one array on the grid of the first, as `Source.content` does."""
        side = self._side() if reading.flip_right else ""
        found: list[Content | None] = []
        for channel, source in zip(self.record.channels, self.sources, strict=True):
            read = None if source is None else partial(source.content, reading, side)
            found.append(None if read is None else _of(channel, read))
        names = [channel.name for channel in self.record.channels]
        joined = join(names, [None if each is None else each.pixels for each in found])

        channels = []
        for number, channel in enumerate(self.record.channels):
            own = self.sources[number]
            sha256 = "" if own is None else own.sha256
            planes, note = joined.planes[number], joined.notes[number]
            content = found[number]
            kind = "" if content is None else content.sample_type
            channels.append(DecodedChannel(channel.name, channel.id, sha256, planes, note, kind))
        mirrored = _mirrored_alike(names, found)
        return Content(joined.pixels, mirrored=mirrored, channels=tuple(channels))

    def _side(self) -> str:
        """Return the side that the first of the files shows that says it, "" if none does."""
        sides = [source.side() for source in self.sources if source is not None]
        return next(filter(None, sides), "")


def _mirrored_alike(names: Iterable[str], found: Iterable[Content | None]) -> bool:
    """Return whether the files of several channels were mirrored; ImageError if some were only."""
    by_name = {}
    for name, each in zip(names, found, strict=True):
        if each is not None:
            by_name[name] = each.mirrored
    for name, mirrored in by_name.items():
        if mirrored != all(by_name.values()):
            raise ImageError(
                f"{name} lies the other way round than another channel; store all files of an "
                "image of the right side mirrored, or none"
            )
    return all(by_name.values())


def read_source(record: Record) -> Source | ChannelSources:
    """Read a record's bytes; ImageError with the reason if that fails."""
    return _read_channels(record) if record.channels else _read_one(record)


def _read_channels(record: Record) -> ChannelSources:
    """Read the files of a record's channels; ImageError names the one that cannot be read."""
    sources: list[Source | None] = []
    hashes: list[tuple[str, str]] = []
    for channel in record.channels:
        source = None
        if channel.path is not None:
            own = replace(
                record, id=channel.id, path=channel.path, files=channel.files, channels=()
            )
            source = _of(channel, partial(_read_one, own))
        sources.append(source)
        hashes.append((channel.name, "" if source is None else source.sha256))
    return ChannelSources(record, tuple(sources), digest_of_channels(hashes))


def digest_of_channels(hashes: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of a line for each channel with its name and the SHA-256 of its bytes, ""
    for one that is absent."""
    lines = ""
    for name, own in hashes:
        lines += f"{name} {own}\n"
    return digest(lines.encode())


def _of(channel: ChannelFile, read: Callable[[], T]) -> T:
    """Return what `read` returns; ImageError that names the channel if it fails."""
    try:
        return read()
    except ImageError as error:
        raise ImageError(f"{channel.name}: {error}") from None


def _read_one(record: Record) -> Source:
    """Read the bytes of one file or series."""
    contents = [read_bytes(path) for path in record.files or (record.path,)]
    if len(contents) > 1:
        from anodetect.data import dicom  # with pydicom

        contents = _with_reason(lambda: dicom.in_order(contents))
    else:
        companion = _companion(record.path, contents[0])
        contents += [] if companion is None else [read_bytes(companion)]
    return Source(record, tuple(contents), digest(*contents))


def _companion(path: Path, content: bytes) -> Path | None:
    """Return the file that holds the data of a header, None if there is none; ImageError if it is
    not beside or below the header."""
    found = formats.format_of(path)
    if found is None or not found.companion or not content:
        return None
    name: str = _with_reason(lambda: resolve_name(found.companion)(path, content))
    if not name:
        return None

    shown = path_text(name)
    companion = path.parent / name
    if leads_out(name) or "\\" in name or ":" in name or "\0" in name:
        raise ImageError(f"its data file {shown} leads out of the folder; put both into one")
    # A header that is a link stands for data that may be one as well.
    if not path.is_symlink() and not is_below(companion, path.parent):
        raise ImageError(f"its data file {shown} is a link out of the folder")
    if not companion.is_file():
        raise ImageError(f"its data file {shown} is missing")
    return companion


def read_bytes(path: Path) -> bytes:
    """Read a file; ImageError with the reason if that fails, or it is larger than MAX_BYTES."""
    try:
        if path.is_symlink() and not path.exists():
            raise ImageError("symbolic link that leads nowhere")
        if not path.is_file():
            raise ImageError("no such file" if not path.exists() else "not a regular file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ImageError(f"{size} bytes are more than any image has that is read, {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(error.strerror or "unreadable") from None


def digest(*contents: bytes) -> str:
    """Return the SHA-256 of bytes, one after the other, as hexadecimal digits."""
    state = sha256()
    for content in contents:
        state.update(content)
    return state.hexdigest()


# -- Images and volumes ----------------------------------------------------------------------------


def read_image(path: Path) -> Floats:
    """Read an image file; ImageError with the reason if it cannot be used.

    Arrays (NPY, TIFF) are [H, W], [H, W, C] or [C, H, W] with C 1 or 3. The orientation that a file
    names is applied. Palettes become their colours and an alpha channel is dropped if it is opaque
    everywhere; CMYK, transparency and animations are refused.
    """
    return decode_image(read_bytes(path), path.name)


def decode_image(content: bytes, name: str) -> Floats:
    """Decode an image file's bytes as `read_image` does; the suffix of `name` says the format."""
    image = content_of(content, name).pixels
    assert not isinstance(image, Volume)
    return image


def content_of(content: bytes, name: str) -> Content:
    """Return what `decode_image` does, and how samples were stored."""
    found = formats.format_named(name)
    if content and (found is None or found.content != "image"):
        raise _unknown(name)
    return _decode((content,), found, name)


def _decode(
    contents: tuple[bytes, ...],
    found: formats.Format | None,
    name: str,
    reading: Reading = AS_IT_IS,
) -> Content:
    """Decode the bytes of one file or of a series' files in the format that was found for them."""
    if not any(contents):
        raise ImageError("the file is empty")
    if found is None:
        raise _unknown(name)

    read = resolve_name(found.reader)
    if found.content == "volume":
        volume: Volume = _with_reason(lambda: read(contents[0], reading.component, *contents[1:]))
        return Content(volume)
    if found.content == "image":
        read = resolve_name(formats.image_format_in(contents[0], found).reader)
        array: Array = _with_reason(lambda: read(contents[0]))
        return Content(_checked(channels_first(array)), array.dtype.name)
    either: Floats | Volume = _with_reason(lambda: read(contents, reading))
    return Content(either if isinstance(either, Volume) else _checked(either))


def _unknown(name: str) -> ImageError:
    return ImageError(f"unknown image format {formats.suffix_of(name)!r}")


def _with_reason(decode: Callable[[], T]) -> T:
    """Return what `decode` returns; ImageError with the reason if it fails."""
    try:
        return decode()
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise ImageError("not a readable image") from None
    except MemoryError:
        raise ImageError("does not fit into memory") from None
    except (EOFError, struct.error):
        raise ImageError("damaged or unreadable (it ends too early)") from None
    except (zlib.error, gzip.BadGzipFile):
        raise ImageError("damaged or unreadable (its compression is damaged)") from None
    except Exception as error:
        # Decoders raise any kind of error on damaged files. What they say may quote the file, and
        # reasons land in tables that leave the house.
        raise ImageError(f"damaged or unreadable ({type(error).__name__})") from None


def _checked(array: Array) -> Floats:
    """Return an image [C, H, W] as float32; ImageError if it is too small or not finite."""
    height, width = array.shape[1:]
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{width}×{height} pixels; at least {MIN_SIDE}×{MIN_SIDE} are needed")

    image = as_float32(array)
    bad = 0 if array.dtype.kind in "uib" else image.size - np.count_nonzero(np.isfinite(image))
    if bad:
        raise ImageError(f"{amount(int(bad), 'pixel is', 'pixels are')} NaN or infinite")
    return image


# -- Masks -----------------------------------------------------------------------------------------


def read_mask(path: Path) -> Bools:
    """Return a ground-truth mask, bool [H, W]: True where any channel is not zero, of an image with
    a palette where the index is not zero.

    In a format that may compress with loss, black and white are not exactly 0 and 255 near edges:
    there a pixel is True above HALF_WHITE, unless no value is.
    """
    content = read_bytes(path)
    found = formats.format_named(path.name)
    if found is not None and found.content == "image":
        marked = _with_reason(lambda: marked_in(content))
        if marked is not None:
            return marked

    image = decode_image(content, path.name)
    stored = formats.image_format_in(content, found) if found is not None else None
    if stored is not None and stored.lossy and image.max() > HALF_WHITE:
        return np.asarray((image > HALF_WHITE).any(0))
    return np.asarray((image != 0).any(0))


def volume_mask(path: Path, volume: Volume, geometry: Geometry) -> Bools:
    """Return a volume's ground truth [D, H, W]; ImageError if it does not lie on its grid."""
    return np.asarray(geometry.to_slices(_mask_on(path, volume, "mask")))


def supplied_foreground(record: Record, volume: Volume) -> Bools | None:
    """Return the foreground [I, J, K] that a manifest names for a volume, None if it names none;
    ImageError if it does not lie on the volume's grid."""
    return None if record.foreground is None else _mask_on(record.foreground, volume, "foreground")


def supplied_region(record: Record, image: Floats) -> Bools | None:
    """Return the foreground [H, W] that a manifest names for an image, None if it names none;
    ImageError if it has another size."""
    if record.foreground is None:
        return None
    inside = read_mask(record.foreground)
    if inside.shape != image.shape[1:]:
        raise ImageError(
            f"the size {inside.shape} of its foreground {record.foreground.name} is not the "
            f"image's {image.shape[1:]}"
        )
    return inside


def _mask_on(path: Path, volume: Volume, what: str) -> Bools:
    """Return where a volume's mask or foreground is not zero, bool [I, J, K] in the volume's own
    order; ImageError if it does not lie on its grid.

    Voxels in another order of axes are put into the volume's. Slices of the volume may be uneven,
    if those of the mask lie at the same places. A DICOM file is a Segmentation.
    """
    if formats.is_series(path):
        from anodetect.data.dicom_seg import marked_voxels  # with pydicom

        content = read_bytes(path)
        return _with_reason(lambda: marked_voxels(content, volume))

    decoded = _read_one(Record(path.name, path)).decode()
    if volume.places is not None and isinstance(decoded, Volume):
        try:
            return np.asarray((at_places_of(decoded, volume).voxels != 0).any(0))
        except ImageError as error:
            raise ImageError(
                f"its {what} {path.name} {error}, and the volume's slices are not evenly spaced; "
                "draw it on the DICOM series and save it as DICOM Segmentation"
            ) from None
    same = on_grid_of(decoded, volume) if isinstance(decoded, Volume) else None
    if same is None:
        raise ImageError(f"its {what} {path.name} does not lie on the same grid")
    return np.asarray((same.voxels != 0).any(0))
