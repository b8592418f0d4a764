"""Foreground and intensity scaling, before any detector sees an image. NumPy and SciPy only.

Of a volume both are found once, over all of its slices, and every slice is treated alike.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from anodetect.config import Config
from anodetect.data.geometry import MIN_SIDE, Geometry, along
from anodetect.data.volumes import FIXED_UNITS, Volume
from anodetect.errors import ImageError
from anodetect.imaging.foreground import (
    COARSE,
    HIGH,
    LOW,
    foreground,
    has_flat_background,
    quantiles,
    volume_foreground,
)
from anodetect.imaging.resize import resize
from anodetect.types import Bools, Floats

SAMPLE_PIXELS = 512  # per image, to learn the intensity range from
CLIP = 1.5
# of their range (12 of the 47 patients lgg_flair trains on held out: 4 % of slices unseen; 9 at 0)
SEEN_MARGIN = 0.1


class PreprocessConfig(Config):
    """How native values become about -1 to 1, and which pixels and slices count."""

    intensity: Literal["auto", "dataset", "image"] = Field(
        default="auto",
        description="Which values become -1 and 1: 'dataset' takes percentiles over all fit images, "
        "so that brightness keeps its meaning; 'image' takes percentiles of the foreground of each "
        "image or volume itself, for scanners without fixed units; 'auto' takes 'image' for volumes "
        "unless all that the model learned from are CT, and 'dataset' for everything else.",
    )
    window: tuple[float, float] | None = Field(
        default=None,
        description="Level and width in native units (for CT in Hounsfield units) of the values "
        "that become -1 to 1, in place of `intensity`; none by default.",
    )
    foreground: Literal["auto", "flat", "all"] = Field(
        default="auto",
        description="Which pixels count: 'flat' takes what lies above a flat background, 'all' "
        "takes every pixel, 'auto' chooses between the two on the fit images.",
    )
    axis: Literal["auto", "axial", "coronal", "sagittal"] = Field(
        default="auto",
        description="The plane in which volumes are sliced; "
        "'auto' takes the one with the finest pixels.",
    )
    component: int | None = Field(
        default=None,
        ge=0,
        description="The number, from 0, of the volume to take from files that hold several.",
    )
    least_foreground: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="A slice of a volume is scored if its foreground has at least this share, from "
        "0 to 1, of the pixels of the fullest slice's foreground.",
    )
    bias: float = Field(
        default=0.0,
        ge=0,
        description="The width in millimetres of the Gaussian with which slow changes of brightness "
        "are removed from volumes; 0 leaves them.",
    )
    spacing: float = Field(
        default=0.0,
        ge=0,
        description="Millimetres per pixel to which slices of volumes are resampled, with --dims 3 "
        "also the distance of slices; maps are resampled back; 0 keeps the volume's own.",
    )
    exported: tuple[float, float] | None = Field(
        default=None,
        description="For images that were made from volumes: the percentile of the volume's voxels "
        "that was scaled to a value, and that value; volumes are scaled and clipped in the same way "
        "before they are scored, in place of `intensity`; none by default.",
    )
    exported_above: float | None = Field(
        default=None,
        description="The native value above which voxels count for the percentile of `exported`; "
        "all voxels count by default.",
    )
    refuse_unseen: bool = Field(
        default=True,
        description="Whether a model that learned from images refuses slices of volumes that are "
        "larger, smaller, brighter or darker than all of those images.",
    )


@dataclass(frozen=True)
class Prepared:
    """A volume as its slices are scored: `slices` [C, D, H, W] in native units, `foreground` [D, H,
    W], `span` the values that become -1 and 1 (None: the model's), and `scored` [D], which slices
    are scored: of those with enough foreground the ones that are not `unseen` [D], outside what the
    model has seen."""

    volume: Volume
    geometry: Geometry
    slices: Floats
    foreground: Bools
    span: tuple[float, float] | None
    scored: Bools
    unseen: Bools
    unit: float = 1.0  # what 1 in the model's range is in native units
    top: float = float("inf")  # higher values count as this one
    supplied: bool = False  # whether the foreground is one that a manifest names

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The slices to score."""
        return np.flatnonzero(self.scored)

    @property
    def share(self) -> Floats:
        """The share of each slice's pixels that is foreground [D]."""
        return np.asarray(self.foreground.mean((1, 2)), np.float32)


class Preprocess:
    """Native units → about [-1, 1] and a foreground. What it learns on the fit images is frozen."""

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config
        self.channels = 1
        self.flat_background = False
        self.range = (0.0, 1.0)
        self.axis: str = config.axis
        self.of_volumes = False  # whether it has learned from volumes,
        self.fixed_units: bool | None = (
            None  # and whether all were of FIXED_UNITS; None: each scored volume tells
        )
        self.seen: list[
            tuple[float, float]
        ] = []  # ranges of the traits of fit and tune images, if those are images

    def learn(self, images: Iterable[Floats]) -> None:
        """Learn channels, kind of background and intensity range from fit images [C, H, W], in one
        pass."""
        coloured, flat, values, inner_values = False, [], [], []
        for image in images:
            coloured |= to_channels(image, 1) is None
            flat.append(has_flat_background(image))
            values.append(_sample(image, np.ones(image.shape[1:], bool)))
            inner_values.append(_sample(image, foreground(image)))
        self.channels = 3 if coloured else 1
        wanted = self.config.foreground
        self.flat_background = (
            bool(np.median(flat) >= 0.5) if wanted == "auto" else wanted == "flat"
        )
        pool = np.concatenate(inner_values if self.flat_background else values)
        self.range = _span(pool)

    def apply(
        self, image: Floats, of: Prepared | None = None, number: int = 0
    ) -> tuple[Floats, Bools]:
        """[C, H, W] in native units → (scaled [channels, H, W], foreground [H, W]). With `of` the
        image is the slice `number` of that volume."""
        same = to_channels(image, self.channels)
        if same is None:
            raise ImageError("a colour image, but the model was trained on grey ones")
        if of is not None:
            same = np.minimum(same, of.top)
        if of is not None and (of.supplied or self.flat_background):
            inside = of.foreground[number]
        else:
            inside = foreground(same) if self.flat_background else np.ones(same.shape[1:], bool)
        if of is not None:
            low, high = of.span or (self.range[0] * of.unit, self.range[1] * of.unit)
        else:
            low, high = self._window() or (
                _span(same[:, inside]) if self.config.intensity == "image" else self.range
            )
        scaled = np.clip((same - low) * (2 / (high - low)) - 1, -CLIP, CLIP).astype(np.float32)
        return (scaled, inside) if of is None else self._resampled(scaled, inside, of.geometry)

    def learn_seen(self, images: Iterable[tuple[Floats, Bools]]) -> None:
        """Learn from scaled images [C, H, W] and their foregrounds [H, W] what slices the model can
        judge: their share of foreground and its median brightness, each with a margin."""
        traits = np.array([_traits(*image) for image in images])
        low, high = traits.min(0), traits.max(0)
        margin = SEEN_MARGIN * (high - low)
        self.seen = list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))

    def prepare(self, volume: Volume, supplied: Bools | None = None) -> Prepared:
        """Slice a volume, and find its foreground (unless `supplied` [I, J, K]) and its range of
        intensities."""
        geometry = along(volume.voxels.shape[1:], volume.affine, self.axis)
        slices = geometry.to_slices(volume.voxels)
        if min(geometry.sides[1:]) < MIN_SIDE:
            _, height, width = geometry.sides
            raise ImageError(
                f"{geometry.plane} slices of {width} × {height} pixels; {MIN_SIDE} × {MIN_SIDE} are needed"
            )
        if slices.min() == slices.max():
            raise ImageError(f"all voxels have the same value, {float(slices.flat[0]):g}")
        if supplied is not None:
            inside = np.ascontiguousarray(geometry.to_slices(supplied))
        elif self.config.foreground == "all":
            inside = np.ones(slices.shape[1:], bool)
        else:
            inside = volume_foreground(slices)
        if self.config.bias:
            slices = evened(slices, inside, self.config.bias, geometry.spacing)
        filled = inside.sum((1, 2))
        if not filled.any():
            raise ImageError("no foreground")
        scored = filled >= max(1, self.config.least_foreground * filled.max())
        unseen, given = np.zeros_like(scored), supplied is not None
        prepared = self._scaling(
            Prepared(volume, geometry, slices, inside, None, scored, unseen, supplied=given)
        )
        if (
            not given and self.flat_background and not self.of_volumes
        ):  # as it is found in the model's images
            for number in prepared.numbers:
                inside[number] = foreground(np.minimum(slices[:, number], prepared.top))
        return (
            self._without_unseen(prepared) if self.seen and self.config.refuse_unseen else prepared
        )

    def _scaling(self, of: Prepared) -> Prepared:
        """The same with what becomes -1 and 1."""
        if self.config.exported:
            top = self._exported_top(of.slices)
            return replace(of, unit=top / self.config.exported[1], top=top)
        span = self._window()
        if span is None and self.config.intensity != "dataset":
            fixed = has_fixed_units(of.volume) if self.fixed_units is None else self.fixed_units
            own = self.config.intensity == "image" or not fixed
            span = _span(_some(of.slices, of.foreground)) if own else None
        return replace(of, span=span)

    def _without_unseen(self, of: Prepared) -> Prepared:
        """The same without the slices that are unlike any the model has learned from."""
        traits = np.array(
            [_traits(*self.apply(of.slices[:, number], of, number)) for number in of.numbers]
        )
        low, high = np.array(self.seen).T
        unseen = np.zeros_like(of.scored)
        unseen[of.numbers] = ((traits < low) | (traits > high)).any(1)
        if unseen.sum() == of.scored.sum():
            share, brightness = np.median(traits, axis=0)
            raise ImageError(
                f"no slice is like those the model has learned from: {share:.0%} foreground of brightness "
                f"{brightness:.2f}, the model has seen {low[0]:.0%} to {high[0]:.0%} of {low[1]:.2f} to {high[1]:.2f}; "
                "if volumes are scaled otherwise than its images were, train with exported or intensity=dataset"
            )
        return replace(of, scored=of.scored & ~unseen, unseen=unseen)

    def _resampled(self, scaled: Floats, inside: Bools, geometry: Geometry) -> tuple[Floats, Bools]:
        """A slice in the spacing asked for, if one is; maps are brought back by the representation."""
        if not self.config.spacing:
            return scaled, inside
        _, rows, columns = geometry.spacing
        height, width = (
            max(MIN_SIDE, round(side * length / self.config.spacing))
            for side, length in zip(inside.shape, (rows, columns), strict=True)
        )
        return resize(scaled, height, width), resize(
            inside[None].astype(np.float32), height, width
        )[0] >= 0.5

    def depth(self, geometry: Geometry) -> int:
        """How many slices a volume that is modelled in three dimensions has in the spacing asked
        for."""
        count, distance = geometry.sides[0], geometry.spacing[0]
        return (
            max(1, round(count * distance / self.config.spacing)) if self.config.spacing else count
        )

    def _exported_top(self, slices: Floats) -> float:
        """The native value that became the highest one of the images made of a volume."""
        assert self.config.exported is not None
        above = self.config.exported_above
        voxels = slices if above is None else slices[slices > above]
        top = float(np.percentile(voxels, self.config.exported[0])) if voxels.size else 0.0
        if top <= 0:
            raise ImageError(f"no voxels to scale by, above {0 if above is None else above:g}")
        return top

    def _window(self) -> tuple[float, float] | None:
        if self.config.window is None:
            return None
        level, width = self.config.window
        return level - width / 2, level + width / 2

    def state(self) -> dict[str, Any]:
        return {
            "channels": self.channels,
            "flat_background": self.flat_background,
            "range": list(self.range),
            "axis": self.axis,
            "of_volumes": self.of_volumes,
            "fixed_units": self.fixed_units,
            "seen": [list(limits) for limits in self.seen],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.channels, self.flat_background = int(state["channels"]), bool(state["flat_background"])
        self.range = (float(state["range"][0]), float(state["range"][1]))
        self.axis = str(state.get("axis", "auto"))  # older runs lack these
        self.of_volumes = bool(state.get("of_volumes", False))
        self.fixed_units = state.get("fixed_units")
        self.seen = [(float(low), float(high)) for low, high in state.get("seen", ())]


def has_fixed_units(volume: Volume) -> bool:
    """Whether values mean the same in every volume of this kind."""
    return volume.modality in FIXED_UNITS


def evened(
    slices: Floats, inside: Bools, width: float, spacing: tuple[float, float, float]
) -> Floats:
    """[C, D, H, W] divided by its local mean over the foreground, a Gaussian of `width`
    millimetres, and multiplied by the mean over all of it: without the slow changes of brightness
    that coils make."""
    step = max(1, -(-max(inside.shape[1:]) // COARSE))
    thin = np.s_[:, ::step, ::step]
    sigma = (width / spacing[0], width / spacing[1] / step, width / spacing[2] / step)
    weight = ndimage.gaussian_filter(inside[thin].astype(np.float32), sigma)
    channels = []
    for channel in slices:
        total = ndimage.gaussian_filter(
            np.where(inside[thin], channel[thin], 0).astype(np.float32), sigma
        )
        mean = float(channel[inside].mean())
        field = np.where(weight > 0.01, total / np.maximum(weight, 0.01), mean) / (mean or 1.0)
        full = np.stack(
            [resize(plane[None].astype(np.float32), *inside.shape[1:])[0] for plane in field]
        )
        channels.append(np.where(full > 0.05, channel / np.maximum(full, 0.05), channel))
    return np.stack(channels)


def to_channels(image: Floats, channels: int) -> Floats | None:
    """The image with 1 or 3 channels; None where colour would be lost."""
    if len(image) == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=0)
    return image[:1] if (image == image[:1]).all() else None


def _sample(image: Floats, inside: Bools) -> Floats:
    values = image[:, inside].ravel()
    return values[:: max(1, values.size // SAMPLE_PIXELS)]


def _traits(scaled: Floats, inside: Bools) -> tuple[float, float]:
    """Share of foreground, and its median brightness: what an image is like however ill the patient
    is."""
    return float(inside.mean()), quantiles(scaled[:, inside], (50.0,))[0]


def _some(slices: Floats, inside: Bools) -> Floats:
    """Foreground values of a volume's every other slice, row and column, where that leaves any."""
    some = slices[:, ::2, ::2, ::2][:, inside[::2, ::2, ::2]]
    return some if some.size else slices[:, inside]


def _span(values: Floats) -> tuple[float, float]:
    low, high = quantiles(values, (LOW, HIGH))
    return low, high if high > low else low + 1.0
