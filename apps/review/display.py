"""A case as arrays to look at: image, map over it, reconstruction or difference, contours. Nothing
is written.

Read are the files of a score directory and, of the images themselves, those below the root it
recorded: a path that leads elsewhere, also through a symbolic link, is refused. An image counts as
the one that was scored only if its bytes have the hash that was recorded.
"""

import io
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anodetect.data import readers, scan
from anodetect.data.geometry import Geometry, along, edges
from anodetect.data.volumes import Volume
from anodetect.errors import DataError, ImageError, RunError
from anodetect.files import inside, path_of, sha256_of
from anodetect.output import images as writer
from anodetect.output.formats import Source, map_reader, readable_names
from anodetect.output.volumes import place_text
from anodetect.record.directories import ScoreDirectory, picture_of
from anodetect.record.rows import ScoreRow
from anodetect.types import Bools, Floats

T = TypeVar("T")
Picture = NDArray[np.uint8]
Colours = Literal[
    "inferno", "viridis", "cividis"
]  # perceptually uniform, and told apart by the colour-blind
COLOURS: tuple[Colours, ...] = get_args(Colours)
SIDE = 768  # pixels of the longer side that go to the browser
HOVER = 256  # … whose values are told under the pointer
THUMBNAIL = 64
THUMBNAIL_PIXELS = 2**22  # of an image that is still read for a thumbnail
LARGEST = 512 * 2**20  # bytes of a file that are read for display
STRIP, GAP = 200, 6  # of the pictures a score directory keeps: pixels of a panel and between panels
CT_WINDOWS = {  # level and width in Hounsfield units
    "brain": (40, 80),
    "soft tissue": (40, 400),
    "lung": (-600, 1500),
    "bone": (300, 2000),
}
AIR = -500  # an image with values below is in Hounsfield units, as far as one can tell


@dataclass(frozen=True)
class Case:
    """What there is to see of an image, whole.

    `image` [C, H, W] in native units and `heatmap` [H, W], NaN where not scored, are in the image's
    own grid; `reconstruction` and `shown` are small grey pictures [200, 200], as the report shows
    them. `notes` say what is missing, and why.
    """

    image: Floats | None
    heatmap: Floats | None
    mask: Bools | None
    reconstruction: Picture | None
    shown: Picture | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class VolumeCase:
    """What there is to see of a volume, as its slices were scored: `slices` [C, D, H, W] in native
    units, `heatmap` and `mask` [D, H, W]; all None, with a note, where it cannot be read."""

    geometry: Geometry | None
    slices: Floats | None
    heatmap: Floats | None
    mask: Bools | None
    notes: tuple[str, ...]


@dataclass(
    frozen=True, eq=False
)  # equal to itself alone, so that what is made of it can be kept beside it
class View:
    """What of a case goes to a screen, small enough to be kept for many cases.

    `size` is the image's height and width. Each pixel of `image` [C, h, w] (native units),
    `heatmap` [h, w] and `mask` [h, w] stands for `block` × `block` of the image's, each of
    `intensity` and `anomaly` [h', w'], which are told under the pointer, for `told` × `told`.
    `aspect` is the height of a pixel over its width.
    """

    size: tuple[int, int]
    aspect: float
    block: int
    image: Floats
    heatmap: Floats | None
    mask: Bools | None
    told: int
    intensity: NDArray[Any]
    anomaly: Floats | None
    windows: Mapping[str, tuple[float, float]]
    reconstruction: Picture | None
    difference: Picture | None
    notes: tuple[str, ...]


# -- Files -----------------------------------------------------------------------------------------


def original(directory: ScoreDirectory, row: ScoreRow) -> Path:
    """Where the image of a row was when it was scored; RunError if that is not below the recorded
    root."""
    root = directory.audit.get("root")
    if not root:
        raise RunError("the record does not say where the images were")
    return inside(Path(root), path_of(row.path))


def load(directory: ScoreDirectory, row: ScoreRow) -> Case:
    """Everything there is to see of a row; what cannot be had is a note, never an error."""
    notes: list[str] = []
    image = _noting(notes, "image", lambda: _image(directory, row))
    heatmap = (
        _noting(notes, "heatmap", lambda: _heatmap(directory, row, "image"))
        if row.status == "ok"
        else None
    )
    if image is not None and heatmap is not None and image.shape[1:] != heatmap.shape:
        notes.append("The heatmap does not have the image's size; it is not shown over it.")
        heatmap = None
    mask = _noting(notes, "ground-truth mask", lambda: _mask(directory, row))
    if mask is not None and image is not None and mask.shape != image.shape[1:]:
        mask = None
    # The picture kept of a volume shows three planes, not an image beside its reconstruction.
    strip = (
        None if row.is_volume else _noting(notes, "kept picture", lambda: _strip(directory, row))
    )
    reconstruction, shown = strip or (None, None)
    return Case(image, heatmap, mask, reconstruction, shown, tuple(notes))


def load_volume(directory: ScoreDirectory, row: ScoreRow, plane: str) -> VolumeCase:
    """Everything there is to see of a volume scored along a plane ("axial" …); what cannot be had
    is a note."""
    notes: list[str] = []
    volume = _noting(notes, "image", lambda: _volume(directory, row))
    if volume is None:
        return VolumeCase(None, None, None, None, tuple(notes))
    shape = volume.voxels.shape
    geometry = along((shape[1], shape[2], shape[3]), volume.affine, plane)

    def heatmap() -> Floats:
        values = _heatmap(directory, row, "volume")
        if values.shape != shape[1:]:
            raise RunError("it does not have the volume's size")
        return np.asarray(geometry.to_slices(values))

    def mask() -> Bools | None:
        path = _mask_file(directory, row)
        return None if path is None else readers.volume_mask(path, volume, geometry)

    found = _noting(notes, "heatmap", heatmap) if row.status == "ok" else None
    truth = _noting(notes, "ground-truth mask", mask)
    return VolumeCase(geometry, geometry.to_slices(volume.voxels), found, truth, tuple(notes))


def slice_view(volume: VolumeCase, number: int) -> View | None:
    """Slice `number` of a volume, from 0; None without the volume."""
    if volume.slices is None or volume.geometry is None:
        return None
    heatmap = None if volume.heatmap is None else volume.heatmap[number]
    if heatmap is not None and np.isnan(heatmap).any():
        heatmap = None  # not scored
    mask = None if volume.mask is None else volume.mask[number]
    _, row, column = volume.geometry.spacing
    return view(
        Case(volume.slices[:, number], heatmap, mask, None, None, volume.notes), aspect=row / column
    )


def _volume(directory: ScoreDirectory, row: ScoreRow) -> Volume:
    component = _listed(directory, row).get("component", "")
    decoded = _source(directory, row).decode(int(component) if component.isdecimal() else None)
    if not isinstance(decoded, Volume):
        raise ImageError("it is no volume; score it again")
    return decoded


def _noting(notes: list[str], what: str, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (DataError, RunError, OSError, ValueError, MemoryError) as error:
        reason = (
            (error.strerror or "unreadable")
            if isinstance(error, OSError)
            else str(error) or "too large"
        )
        notes.append(f"No {what}: {reason}")
        return None


def thumbnail(directory: ScoreDirectory, row: ScoreRow) -> str:
    """A small picture of the image as a JPEG in a data URI; "" where it cannot be had or would take
    long."""
    if (
        (row.width or 0) * (row.height or 0) > THUMBNAIL_PIXELS
        or row.is_volume
        or row.status != "ok"
    ):
        return ""
    image = _noting([], "image", lambda: _image(directory, row))
    return "" if image is None else _small(image)


def slice_thumbnail(directory: ScoreDirectory, row: ScoreRow, plane: str, index: int) -> str:
    """A small picture of a volume's slice as a JPEG in a data URI, with the patient's direction on
    its left and its place; "" where it cannot be had. `index`: the slice's in the source, from 0,
    as slices.parquet has it."""
    volume = _noting([], "image", lambda: _volume(directory, row))
    if volume is None:
        return ""
    shape = volume.voxels.shape
    geometry = along((shape[1], shape[2], shape[3]), volume.affine, plane)
    place = geometry.sides[0] - 1 - index if geometry.flipped[0] else index
    _, height, width = geometry.spacing
    marks = edges(plane)["left"], place_text(geometry.centre(place), plane)
    return _small(geometry.to_slices(volume.voxels)[:, place], height / width, marks)


def _small(image: Floats, aspect: float = 1.0, marks: tuple[str, str] = ("", "")) -> str:
    """An image [C, H, W] as a thumbnail; `aspect`: the height of its pixels over their width;
    `marks` stand at its left and at its foot."""
    small = reduced(image, factor(image.shape, THUMBNAIL), "mean")
    picture = writer.grey(small, writer.contrast(small))
    tall, wide = picture.shape[0] * aspect, picture.shape[1]
    shrink = min(1, THUMBNAIL / max(tall, wide))
    size = max(round(wide * shrink), 1), max(round(tall * shrink), 1)
    resized = picture if size == (wide, picture.shape[0]) else _resized(picture, size)
    return data_uri(_marked(resized, *marks) if any(marks) else resized, "jpeg")


def _marked(picture: Picture, left: str, foot: str) -> Picture:
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(10)
    for place, text, anchor in (
        ((2, image.height / 2), left, "lm"),
        ((image.width / 2, image.height - 1), foot, "mb"),
    ):
        draw.text(place, text, "white", font, anchor, stroke_width=1, stroke_fill="black")
    return np.asarray(image)


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    return np.asarray(Image.fromarray(picture).resize(size))


def _image(directory: ScoreDirectory, row: ScoreRow) -> Floats:
    decoded = _source(directory, row).decode()
    if isinstance(decoded, Volume):
        raise ImageError("it is a volume; score it again")
    return decoded


def _source(directory: ScoreDirectory, row: ScoreRow) -> readers.Source:
    """The file of a row, or those of its DICOM series: the bytes that were scored."""
    path = original(directory, row)
    if not path.is_file():
        raise ImageError(f"{path} is no longer there; put the images back where they were scored")
    files = [inside(path.parent, file.name) for file in scan.series_of(path)]
    if sum(file.stat().st_size for file in files or [path]) > LARGEST:
        raise ImageError(
            f"the file has more than {LARGEST // 2**20} MB; open it with a viewer for large images"
        )
    source = readers.read_source(scan.Record(row.path, path, files=tuple(files)))
    if row.sha256 and source.sha256 != row.sha256:
        raise ImageError(f"{path} was changed since it was scored; it is not shown")
    return source


def _heatmap(directory: ScoreDirectory, row: ScoreRow, source: Source) -> Floats:
    """Return a row's heatmap as it was written, in the grid of its image or volume."""
    reader = map_reader(row.heatmap, source)
    if reader is None:
        names = " or ".join(readable_names(source))
        raise RunError(f"none was written; score with --heatmaps {names}")
    path = inside(directory.path, row.heatmap)
    if not path.is_file():
        raise RunError(f"{row.heatmap} is missing; anodetect verify tells what else is")
    if sha256_of(path) != directory.audit["outputs"].get(row.heatmap):
        raise RunError(f"{row.heatmap} was changed since it was written; it is not shown")
    return reader(path)


def _mask(directory: ScoreDirectory, row: ScoreRow) -> Bools | None:
    path = _mask_file(directory, row)
    return None if path is None else readers.read_mask(path)


def _mask_file(directory: ScoreDirectory, row: ScoreRow) -> Path | None:
    """The truth of an image, as the manifest or the MVTec layout of the folder that was scored has
    it."""
    if not directory.audit.get("root"):
        return None
    root, parts = Path(directory.audit["root"]), Path(path_of(row.path)).parts
    if (root / scan.MANIFEST).is_file():
        name = _listed(directory, row).get("mask", "")
        return inside(root, name) if name else None
    if len(parts) != 3 or parts[0] != "test" or ".." in parts:
        return None
    path = scan.mvtec_mask(root, *parts[1:])
    return inside(root, str(path.relative_to(root))) if path else None


def _listed(directory: ScoreDirectory, row: ScoreRow) -> dict[str, str]:
    """What the manifest of the folder that was scored says of an image; {} without one."""
    file = Path(directory.audit.get("root", "")) / scan.MANIFEST
    return _manifest(file, file.stat().st_mtime_ns).get(row.path, {}) if file.is_file() else {}


@lru_cache(4)
def _manifest(
    file: Path, stamp: int
) -> dict[str, dict[str, str]]:  # `stamp`: a manifest written anew is read anew
    return scan.manifest_rows(file)


def _strip(directory: ScoreDirectory, row: ScoreRow) -> tuple[Picture, Picture] | None:
    """Reconstruction and image, small and grey, where the score directory kept a picture with both."""
    path = inside(directory.path, str(picture_of(Path(), row.path)))
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        grey = np.asarray(picture.convert("L"))
    if grey.shape != (
        STRIP,
        3 * STRIP + 2 * GAP,
    ):  # two panels: the detector makes no reconstruction
        return None
    return grey[:, -STRIP:], grey[:, :STRIP]


# -- Windows ---------------------------------------------------------------------------------------


def windows(image: Floats) -> dict[str, tuple[float, float]]:
    """What to show black and white: "auto", "full range", for CT its windows."""
    found = {"auto": writer.contrast(image), "full range": (float(image.min()), float(image.max()))}
    if found["full range"][0] < AIR:
        found |= {
            name: (level - width / 2, level + width / 2)
            for name, (level, width) in CT_WINDOWS.items()
        }
    return found


# -- Pictures --------------------------------------------------------------------------------------


def factor(shape: tuple[int, ...], side: int = SIDE) -> int:
    """Into one displayed pixel go this many by this many, so that the longer side has at most
    `side`."""
    return -(-max(shape[-2:]) // side)


def reduced(values: Floats, block: int, how: Literal["mean", "max"]) -> Floats:
    """[..., H, W] → [..., ⌈H / block⌉, ⌈W / block⌉]: of every block the mean (images) or the
    maximum, so that no small anomaly disappears (maps; NaN only where nothing was scored)."""
    if block == 1:
        return values
    rows, columns = (-size % block for size in values.shape[-2:])
    edges = [(0, 0)] * (values.ndim - 2) + [(0, rows), (0, columns)]
    *rest, height, width = np.pad(values, edges, mode="edge").shape
    blocks = np.pad(values, edges, mode="edge").reshape(
        *rest, height // block, block, width // block, block
    )
    if how == "mean":
        return np.asarray(blocks.mean((-3, -1)), np.float32)
    highest = np.where(np.isnan(blocks), -np.inf, blocks).max((-3, -1))
    return np.where(np.isinf(highest), np.nan, highest).astype(np.float32)


def view(case: Case, aspect: float = 1.0) -> View | None:
    """A case made small; None without an image. `aspect`: the height of its pixels over their
    width."""
    if case.image is None:
        return None
    block, told = (factor(case.image.shape, side) for side in (SIDE, HOVER))
    mask = case.mask
    return View(
        size=(case.image.shape[1], case.image.shape[2]),
        aspect=aspect,
        block=block,
        image=reduced(case.image, block, "mean"),
        heatmap=None if case.heatmap is None else reduced(case.heatmap, block, "max"),
        mask=None if mask is None else reduced(mask.astype(np.float32), block, "max") > 0,
        told=told,
        intensity=_short(reduced(case.image.mean(0), told, "mean")),
        anomaly=None if case.heatmap is None else reduced(case.heatmap, told, "max"),
        windows=windows(case.image),
        reconstruction=None
        if case.reconstruction is None
        else np.repeat(case.reconstruction[..., None], 3, -1),
        difference=difference(case),
        notes=case.notes,
    )


def _short(values: Floats) -> NDArray[Any]:
    """Values in fewer bytes where they are the whole numbers of an 8- or 16-bit image."""
    for kind in (np.uint8, np.uint16):
        if (
            values.min() >= 0
            and values.max() <= np.iinfo(kind).max
            and (values == np.rint(values)).all()
        ):
            return values.astype(kind)
    return values


def overlay(
    picture: Picture, heatmap: Floats, scale: tuple[float, float], colours: Colours, opacity: float
) -> Picture:
    """A picture [H, W, 3] under a map [H, W], the more opaque the higher its value, at most
    `opacity`, 0 to 1."""
    place = writer.stretched(heatmap, scale)
    alpha = (opacity / 255 * place)[..., None]
    return ((1 - alpha) * picture + alpha * writer.palette(colours)[place]).round().astype(np.uint8)


def difference(case: Case) -> Picture | None:
    """|image − reconstruction| of the small pictures, RGB bytes [200, 200, 3] stretched to 255;
    None without them."""
    if case.reconstruction is None or case.shown is None:
        return None
    far = np.abs(case.shown.astype(np.int16) - case.reconstruction)
    return np.repeat((far * 255 // max(int(far.max()), 1)).astype(np.uint8)[..., None], 3, -1)


def outlines(inside: Bools, block: int = 1) -> NDArray[np.float64]:
    """Closed lines [N, 2] of x, y in pixels of the image around what is True in [h, w], whose
    pixels are blocks of `block` × `block`; NaN between two lines, and alone where nothing is True.
    """
    gap = np.full((1, 2), np.nan)
    lines = writer.outlines(inside) if inside.any() else []
    points = np.concatenate([part for line in lines for part in (line, gap)] or [gap])
    return points * block + (block - 1) / 2


def data_uri(picture: Picture, kind: Literal["png", "jpeg"] = "png") -> str:
    """A picture as a file in a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(
        buffer, kind, **({"compress_level": 1} if kind == "png" else {"quality": 70})
    )
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}"


def colour_scale(colours: Colours) -> list[tuple[float, str]]:
    """The colours as stops between 0 and 1; not as #000004, in place of which Streamlit puts its
    theme's red."""
    return [
        (n / 16, "rgb({}, {}, {})".format(*writer.palette(colours)[min(16 * n, 255)]))
        for n in range(17)
    ]


def scale_of(audit: Mapping[str, Any]) -> tuple[float, float]:
    """The model's fixed colour scale."""
    low, high = audit["scale"]
    return float(low), float(high)
