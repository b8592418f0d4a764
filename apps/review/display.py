"""A case as arrays for a screen: image, map over it, reconstruction or difference, contours."""

import io
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anodetect.data.geometry import Geometry
from anodetect.output import pictures, regions
from anodetect.types import Bools, Floats

Picture = NDArray[np.uint8]
Window = tuple[float, float]  # the values shown black and white
Colours = Literal["inferno", "viridis", "cividis"]  # distinct for the colour-blind, too
COLOURS: tuple[Colours, ...] = get_args(Colours)
SIDE = 768  # pixels of a picture's longer side in the browser
CT_WINDOWS = {  # level and width in Hounsfield units
    "brain": (40, 80),
    "stroke": (40, 40),
    "subdural": (80, 200),
    "soft tissue": (40, 400),
    "lung": (-600, 1500),
    "bone": (300, 2000),
}
STATED = "the file's own"  # the name of the window that a DICOM file states
SAMPLED_SLICES = 32  # of a volume, that its contrast is chosen by
AIR = -500  # an image with smaller values is taken to be in Hounsfield units


@dataclass(frozen=True)
class Channel:
    """One of the files that an image or a volume was put together from: its planes, `count` from
    `start` on, and its windows."""

    name: str
    start: int
    count: int
    windows: Mapping[str, Window]

    @property
    def planes(self) -> slice:
        """Return where its planes are in an array [C, ...]."""
        return slice(self.start, self.start + self.count)


Channels = tuple[Channel, ...]


@dataclass(frozen=True)
class Case:
    """The arrays of one image, in its own grid.

    `image` [C, H, W] is in native units; `heatmap` [H, W] is NaN where it was not scored; `found`
    [H, W] are its regions that count.
    `reconstruction` and `shown` are small grey pictures [200, 200] of the detector's reconstruction
    and its input, as the report shows them. `notes` say what is missing, and why. `stated` is the
    window that a DICOM file states, None for others. `channels` are the files that it was put
    together from, none where it is one file.
    """

    image: Floats | None
    heatmap: Floats | None
    found: Bools | None
    mask: Bools | None
    reconstruction: Picture | None
    shown: Picture | None
    notes: tuple[str, ...]
    stated: Window | None = None
    channels: Channels = ()


@dataclass(frozen=True)
class VolumeCase:
    """The arrays of one volume along the plane it was scored in.

    `slices` [C, D, H, W] are in native units, `heatmap`, `found` (its regions that count) and
    `mask` are [D, H, W]. All are None, with a note, where the volume cannot be read. `windows` are
    those of the whole volume. `channels` are as in Case.
    """

    geometry: Geometry | None
    slices: Floats | None
    heatmap: Floats | None
    found: Bools | None
    mask: Bools | None
    notes: tuple[str, ...]
    windows: Mapping[str, Window] = field(default_factory=lambda: MappingProxyType({}))
    channels: Channels = ()

    def __post_init__(self) -> None:
        _make_read_only(self)

    @cached_property
    def slices_with_regions(self) -> tuple[int, ...]:
        """The slices in which regions count, counted from 1."""
        if self.found is None:
            return ()
        return tuple((np.flatnonzero(self.found.any((1, 2))) + 1).tolist())


@dataclass(frozen=True, eq=False)  # equal to itself alone, so that it can be the key of a cache
class View:
    """The part of a case that goes to a screen, small enough to keep for many cases.

    `size` is the image's height and width; `aspect` is the height of a pixel over its width. Each
    pixel of `image` [C, h, w] (native units), `heatmap` and `found` [h, w] stands for `block` ×
    `block` pixels of the image.
    """

    size: tuple[int, int]
    aspect: float
    block: int
    image: Floats
    heatmap: Floats | None
    found: Bools | None
    windows: Mapping[str, Window]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        _make_read_only(self)


def _make_read_only(shared: "View | VolumeCase") -> None:
    """Let nobody write into the arrays of an object that all sessions share."""
    for value in vars(shared).values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)


# -- Views -----------------------------------------------------------------------------------------


def view(case: Case, aspect: float = 1.0) -> View | None:
    """Return a case made small, of several channels the first; None where it has no image."""
    image, heatmap = case.image, case.heatmap
    if image is None:
        return None
    image = image[first_planes(case.channels)]

    block = factor(image.shape, SIDE)
    return View(
        size=(image.shape[1], image.shape[2]),
        aspect=aspect,
        block=block,
        image=reduced(image, block, "mean"),
        heatmap=None if heatmap is None else reduced(heatmap, block, "max"),
        found=_reduced_mask(case.found, block),
        windows=MappingProxyType(windows(image, stated=case.stated)),
        notes=case.notes,
    )


def first_planes(channels: Channels) -> slice:
    """Return the planes of the first channel; all where there is none."""
    return channels[0].planes if channels else slice(None)


def _reduced_mask(mask: Bools | None, block: int) -> Bools | None:
    """Return a mask made small, True where any pixel of a block is."""
    return None if mask is None else reduced(mask.astype(np.float32), block, "max") > 0


def slice_view(volume: VolumeCase, number: int) -> View | None:
    """Return the view of a volume's slice, counted from 0, of several channels the first; None
    where there is no volume."""
    if volume.slices is None or volume.geometry is None:
        return None

    heatmap = None if volume.heatmap is None else volume.heatmap[number]
    if heatmap is not None and np.isnan(heatmap).any():
        heatmap = None  # the slice was not scored
    found = None if volume.found is None or heatmap is None else volume.found[number]

    _, row, column = volume.geometry.spacing
    image = volume.slices[first_planes(volume.channels), number]
    case = Case(image, heatmap, found, None, None, None, volume.notes)
    shown = view(case, aspect=row / column)
    if shown is None or not volume.windows:
        return shown
    return replace(shown, windows=volume.windows)


def windows(
    image: Floats, *, is_ct: bool = False, stated: Window | None = None
) -> dict[str, Window]:
    """Return the windows to choose from for an image [C, H, W] or a volume [C, D, H, W]: "auto",
    "full range", STATED where the file has a window of its own, and for CT those of CT_WINDOWS."""
    low, high = float(image.min()), float(image.max())
    choices = {"auto": _contrast(image), "full range": (low, high)}
    if stated is not None:
        choices[STATED] = stated
    if is_ct or low < AIR:
        for name, (level, width) in CT_WINDOWS.items():
            choices[name] = (level - width / 2, level + width / 2)
    return choices


def _contrast(image: Floats) -> Window:
    """Return the values to show black and white: of a volume those of all its slices."""
    if image.ndim == 3:
        return pictures.contrast(image)
    step = max(1, image.shape[1] // SAMPLED_SLICES)
    sampled = image[:, ::step]
    return pictures.contrast(sampled.reshape(len(image), -1, image.shape[-1]))


def factor(shape: tuple[int, ...], side: int = SIDE) -> int:
    """Return how many pixels become one along each axis, so that the longer side of [..., H, W] has
    at most `side`."""
    return -(-max(shape[-2:]) // side)


def reduced(values: Floats, block: int, how: Literal["mean", "max"]) -> Floats:
    """Return [..., H, W] as [..., ⌈H / block⌉, ⌈W / block⌉].

    Each value is the mean of its block (for images) or the maximum, so that no small anomaly
    disappears (for maps). A maximum is NaN only where the whole block is NaN.
    """
    if block == 1:
        return values

    rows, columns = -values.shape[-2] % block, -values.shape[-1] % block
    padding = [(0, 0)] * (values.ndim - 2) + [(0, rows), (0, columns)]
    padded = np.pad(values, padding, mode="edge")
    *rest, height, width = padded.shape
    blocks = padded.reshape(*rest, height // block, block, width // block, block)

    if how == "mean":
        return np.asarray(blocks.mean((-3, -1)), np.float32)
    highest = np.where(np.isnan(blocks), -np.inf, blocks).max((-3, -1))
    return np.where(np.isinf(highest), np.nan, highest).astype(np.float32)


# -- Pictures --------------------------------------------------------------------------------------


def overlay(
    picture: Picture, heatmap: Floats, scale: tuple[float, float], colours: Colours, opacity: float
) -> Picture:
    """Return a picture [H, W, 3] with a map [H, W] over it.

    The map is the more opaque the higher its value, at most `opacity`, 0 to 1.
    """
    place = pictures.stretched(heatmap, scale)
    alpha = (opacity / 255 * place)[..., None]
    mixed = (1 - alpha) * picture + alpha * pictures.palette(colours)[place]
    return mixed.round().astype(np.uint8)


def difference(case: Case) -> Picture | None:
    """Return |image − reconstruction| of the small pictures as RGB [200, 200, 3], stretched to 255;
    None where there are no such pictures."""
    if case.reconstruction is None or case.shown is None:
        return None
    distance = np.abs(case.shown.astype(np.int16) - case.reconstruction)
    stretched = (distance * 255 // max(int(distance.max()), 1)).astype(np.uint8)
    return np.repeat(stretched[..., None], 3, -1)


def outlines(inside: Bools, block: int = 1) -> NDArray[np.float64]:
    """Return closed lines [N, 2] around what is True in [h, w], as x, y in pixels of the image.

    Each pixel of [h, w] stands for `block` × `block` pixels of the image. NaN stands between two
    lines, and alone where nothing is True.
    """
    gap = np.full((1, 2), np.nan)
    parts = []
    for line in regions.outlines(inside) if inside.any() else []:
        parts += [line, gap]
    return np.concatenate(parts or [gap]) * block + (block - 1) / 2


def data_uri(picture: Picture, kind: Literal["png", "jpeg"] = "png") -> str:
    """Return a picture as a file in a data URI."""
    options = {"compress_level": 1} if kind == "png" else {"quality": 70}
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}"
