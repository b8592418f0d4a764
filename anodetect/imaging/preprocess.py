"""Foreground and intensity scaling, before any detector sees an image. NumPy and SciPy only.

For a volume both are found once, over all of its slices, and every slice is treated alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from anodetect.config import Config
from anodetect.data.channels import Channels, channels_of
from anodetect.data.geometry import FRAMES, MIN_SIDE, Geometry
from anodetect.data.readers import DecodedChannel
from anodetect.data.reading import Reading
from anodetect.data.volumes import FIXED_UNITS, Volume
from anodetect.errors import DataError, ImageError
from anodetect.imaging.bias import remove_bias
from anodetect.imaging.brain import (
    BrainConfig,
    PreparedBrain,
    Tools,
    prepare,
    tools_for,
    tools_here,
    tools_of,
)
from anodetect.imaging.foreground import foreground, volume_foreground
from anodetect.imaging.intensities import (
    ImageSample,
    Range,
    Traits,
    deviations_of,
    range_of,
    to_channels,
    traits_of,
    volume_values,
)
from anodetect.imaging.padding import padding_as_air
from anodetect.imaging.planes import absent, arranged, comparable
from anodetect.imaging.regions import Region, RegionOfInterest, filled, region_of, roi_of
from anodetect.imaging.resize import resize
from anodetect.imaging.sample_types import SampleTypes
from anodetect.types import Bools, Floats

Window = tuple[float, float]  # level and width
OWN = ("image", "zscore")  # the values of `intensity` by which each image has a range of its own
CLIP = 1.5  # scaled values beyond are clipped
# The share of the range of traits by which a slice may lie outside it (12 of the 47 patients that
# lgg_flair trains on held out: 4 % of slices are refused; 9 % with a margin of 0).
SEEN_MARGIN = 0.1


class PreprocessConfig(Config):
    """The scaling of native values to about -1 to 1, and the pixels and slices that count."""

    intensity: Literal["auto", "dataset", "image", "zscore"] = Field(
        default="auto",
        description="Which values become -1 and 1: 'dataset' takes percentiles over all fit "
        "images, so that brightness keeps its meaning; 'image' takes percentiles of the foreground "
        "of each image or volume itself, for scanners without fixed units; 'zscore' takes what "
        "lies three standard deviations from the mean of that foreground; 'auto' takes 'image' "
        "for volumes unless all that the model learned from are CT, and 'dataset' otherwise.",
    )
    window: Window | Annotated[tuple[Window, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="Level and width in native units (for CT in Hounsfield units) of the values "
        "that become -1 to 1, in place of `intensity`; with --channels one pair for each channel, "
        "in their order; none by default.",
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
    component: Annotated[int, Field(ge=0)] | str | None = Field(
        default=None,
        description="The number, from 0, of the volume to take from files that hold several; of a "
        "DICOM series also its name, such as 'echo 20 ms'.",
    )
    frames: bool = Field(
        default=False,
        description="Whether each frame of a DICOM file of ultrasound, angiography, OCT or another "
        "modality than CT, MR and PET is an image of its own; by default only frames that are "
        "slices of a volume are read.",
    )
    flip_right: bool = Field(
        default=False,
        description="Whether images of a right breast, or of another part of the right side, are "
        "mirrored before a model sees them, as their DICOM header or a manifest's column "
        "'laterality' says; maps are mirrored back.",
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
        description="The width in millimetres of the Gaussian with which slow changes of "
        "brightness are removed from volumes; 0 leaves them.",
    )
    spacing: float = Field(
        default=0.0,
        ge=0,
        description="Millimetres per pixel to which slices of volumes are resampled, with --dims 3 "
        "also the distance of slices; maps are resampled back; 0 keeps the volume's own.",
    )
    brain: BrainConfig = BrainConfig()
    exported: tuple[float, float] | None = Field(
        default=None,
        description="For images that were made from volumes: the percentile of the volume's "
        "voxels that was scaled to a value, and that value; volumes are scaled and clipped in the "
        "same way before they are scored, in place of `intensity`; none by default.",
    )
    exported_above: float | None = Field(
        default=None,
        description="The native value above which voxels count for the percentile of `exported`; "
        "all voxels count by default.",
    )
    letterbox: bool = Field(
        default=False,
        description="Whether images are padded to a square, with the values of their edges, before "
        "they are resized; by default they are squeezed into it.",
    )
    refuse_unseen: bool = Field(
        default=True,
        description="Whether a model that learned from images refuses slices of volumes that are "
        "larger, smaller, brighter or darker than all of those images.",
    )

    @property
    def reading(self) -> Reading:
        """The choices of how files are read."""
        return Reading(self.component, self.frames, self.flip_right)


@dataclass(frozen=True)
class PreparedVolume:
    """A volume as its slices are scored, made from the voxels of `source`.

    `slices` are [C, D, H, W] in native units, with air in place of padding, and without bias if
    that is to be removed. `foreground`
    is [D, H, W]; `supplied` says whether a manifest named it. `scored` [D] says which slices are
    scored: those with enough foreground that are not `unseen` [D], outside what the model has seen.
    `span` are the values that become -1 and 1; None for those of the model, times `native_unit`.
    Values above `highest` count as that value. Of a volume whose channels are several files
    `planes` counts those of each, and `spans` has in place of `span` the values of every plane.

    Where the source has no place in the patient, slices are pictures: each is treated as an image
    that counts in `region`, everywhere if that is None.
    """

    source: Volume
    geometry: Geometry
    slices: Floats
    foreground: Bools
    span: Range | None
    scored: Bools
    unseen: Bools
    native_unit: float = 1.0
    highest: float = float("inf")
    supplied: bool = False
    region: Region | None = None
    planes: tuple[int, ...] = ()
    spans: tuple[Range, ...] = ()

    @property
    def is_pictures(self) -> bool:
        """True if slices are images that stand for themselves."""
        return self.source.is_pictures

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of the slices to score [n]."""
        return np.flatnonzero(self.scored)

    @property
    def share(self) -> Floats:
        """The share of each slice's pixels that is foreground [D]."""
        return np.asarray(self.foreground.mean((1, 2)), np.float32)


# What an image is of: the volume that it is a slice of, or the region in which it counts.
Whole = PreparedVolume | Region | None


class Preprocess:
    """Scales native values to about [-1, 1] and finds foregrounds.

    What it learns from fit images, and `trait_limits` from fit and tune images, is frozen then.
    With three `dims` volumes are not seen slice by slice.
    """

    def __init__(self, config: PreprocessConfig, dims: int = 2) -> None:
        self.config, self.dims = config, dims
        self.channels = 1
        self.flat_background = False
        self.range: Range = (0.0, 1.0)
        self.axis: str = config.axis
        self.of_volumes = False  # whether it learned from volumes
        # Whether these were all of FIXED_UNITS; None: every volume says it of itself.
        self.fixed_units: bool | None = None
        self.trait_limits: list[Range] = []  # limits of each of `Traits`; empty after volumes
        self.sample_types = SampleTypes()
        self.roi: RegionOfInterest | None = None  # where images count
        self.named: Channels | None = None  # the channels of images that have several files
        self.planes: tuple[int, ...] = ()  # of each of them
        self.ranges: tuple[Range, ...] = ()  # and in place of `range`
        self.tools = Tools()  # that prepare brains

    # -- learning ------------------------------------------------------------------------------

    def learn(self, samples: Iterable[ImageSample]) -> None:
        """Learn channels, kind of background and range of values from samples of fit images, after
        `sample_types`."""
        factors = self.sample_types.factors
        samples = [each.scaled(factors.get(each.sample_type, 1.0)) for each in samples]

        wanted = self.config.foreground
        if wanted == "auto":
            flat = np.median([sample.flat_background for sample in samples])
            self.flat_background = bool(flat >= 0.5)
        else:
            self.flat_background = wanted == "flat"

        if self.named is not None:
            self._learn_channels(self.named, samples)
            return
        self.channels = 3 if any(sample.coloured for sample in samples) else 1
        self.range = self._range_of(samples)

    def _learn_channels(self, named: Channels, samples: Sequence[ImageSample]) -> None:
        """Learn the planes and the range of each of several channels."""
        planes, ranges = [], []
        for number, name in enumerate(named.names):
            found = [sample.channels[number] for sample in samples]
            present = [channel for channel in found if channel is not None]
            if not present:
                raise DataError(f"no fit image has the channel {name}")
            planes.append(3 if any(channel.coloured for channel in present) else 1)
            ranges.append(self._range_of(present))
        self.planes, self.ranges, self.channels = tuple(planes), tuple(ranges), sum(planes)

    def _range_of(self, samples: Sequence[ImageSample]) -> Range:
        """Return the range of the values that count."""
        values = []
        for sample in samples:
            values.append(sample.inner_values if self.flat_background else sample.values)
        return range_of(np.concatenate(values))

    def learn_trait_limits(self, traits: Iterable[Traits]) -> None:
        """Learn from the traits of fit and tune images which slices of volumes the model can judge:
        those within the range of each trait and a margin."""
        values = np.array([(each.share, each.brightness) for each in traits])
        low, high = values.min(0), values.max(0)
        margin = SEEN_MARGIN * (high - low)
        self.trait_limits = list(
            zip((low - margin).tolist(), (high + margin).tolist(), strict=True)
        )

    def state(self) -> dict[str, Any]:
        """Return everything learned, for JSON."""
        state: dict[str, Any] = {
            "channels": self.channels,
            "flat_background": self.flat_background,
            "range": list(self.range),
            "axis": self.axis,
            "of_volumes": self.of_volumes,
            "fixed_units": self.fixed_units,
            "seen": [list(limits) for limits in self.trait_limits],
            "sample_type": self.sample_types.reference,
            "sample_factors": dict(self.sample_types.factors),
        }
        if self.named is not None:
            ranges = [list(each) for each in self.ranges]
            state["named"] = self.named.state() | {"planes": list(self.planes), "ranges": ranges}
        if self.config.brain.wanted:
            state["brain"] = self.tools.state()

        return state if self.roi is None else state | {"roi": self.roi.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become the preprocessing whose `state` this was."""
        self.channels = int(state["channels"])
        self.flat_background = bool(state["flat_background"])
        self.range = (float(state["range"][0]), float(state["range"][1]))
        # Older runs lack these.
        self.axis = str(state.get("axis", "auto"))
        self.of_volumes = bool(state.get("of_volumes", False))
        self.fixed_units = state.get("fixed_units")
        self.trait_limits = [(float(low), float(high)) for low, high in state.get("seen", ())]
        factors = {name: float(value) for name, value in state.get("sample_factors", {}).items()}
        self.sample_types = SampleTypes(str(state.get("sample_type", "")), factors)
        self.roi = roi_of(state.get("roi"))
        self.tools = tools_of(state.get("brain"))
        self.named = channels_of(state.get("named"))
        if self.named is not None:
            self.planes = tuple(int(count) for count in state["named"]["planes"])
            ranges = state["named"]["ranges"]
            self.ranges = tuple((float(low), float(high)) for low, high in ranges)

    # -- images and slices ---------------------------------------------------------------------

    def region(self, shape: tuple[int, int], supplied: Bools | None) -> Region | None:
        """Return where an image counts, for which a manifest may have named the foreground
        `supplied` [H, W]; None if it is everywhere. ImageError if it is nowhere, or the region of
        interest has another size."""
        return region_of(shape, self.roi, supplied)

    def arranged(self, pixels: Floats, found: Sequence[DecodedChannel]) -> Floats:
        """Return the planes [C, ...] of an image or volume that has the channels `found`, () for
        one of a single file, in the order learned; ImageError if the model has other ones."""
        return arranged(pixels, found, self.named, self.planes)

    def laid_out(self, found: Sequence[DecodedChannel]) -> tuple[DecodedChannel, ...]:
        """Return channels with the planes that they have in `arranged`."""
        if not self.planes or len(found) != len(self.planes):
            return tuple(found)
        pairs = zip(found, self.planes, strict=True)
        return tuple(replace(channel, planes=count) for channel, count in pairs)

    def in_learned_type(
        self,
        image: Floats,
        sample_type: str,
        region: Region | None = None,
        *,
        accept_any: bool = False,
    ) -> tuple[Floats, str]:
        """Return an image [C, H, W] in the values of the type that was learned from, and in words
        how it was scaled, "" if it was not; ImageError if its values fit in no way, unless
        `accept_any`. Only those in its region are looked at."""
        values, high = image if region is None else image[:, None, region.inside], self.range[1]
        factor = self.sample_types.factor(values, sample_type, high, accept_any=accept_any)
        if factor == 1:
            return image, ""
        reference = self.sample_types.reference
        note = f"{sample_type} values scaled by {factor:.6g} to the range of {reference}"

        return image * np.float32(factor), note

    def apply(self, image: Floats, of: Whole = None, number: int = 0) -> tuple[Floats, Bools]:
        """Return an image [C, H, W] in native units scaled, [channels, H, W], and its foreground
        [H, W].

        With `of` the image counts only in that region, or is slice `number` of that volume, and
        comes in the spacing asked for. A channel that is absent is background. ImageError for a
        colour image if the model was trained on grey ones.
        """
        region = of if isinstance(of, Region) else None
        if region is not None:
            image = filled(image, region, with_lowest=self.flat_background)
        same = self.in_model_channels(image)
        if isinstance(of, PreparedVolume):
            return self._apply_slice(same, of, number)

        inside = np.ones(same.shape[1:], bool) if region is None else region.inside
        if self.flat_background and not (region is not None and region.exact):
            inside = self._found_inside(same, inside)
        if self.config.window is not None:
            spans = self._window_spans(len(same))
        elif self.config.intensity in OWN:
            spans = self._own_spans(same[:, inside])
        else:
            spans = self._learned_spans()
        return self._scaled(same, spans), inside

    def in_model_channels(self, image: Floats) -> Floats:
        """Return an image with the channels that were learned; ImageError if it has others."""
        if self.named is not None and len(image) != self.channels:
            raise ImageError(
                f"a single file, but the model was trained on {self.named.described()}"
            )
        same = image if self.named is not None else to_channels(image, self.channels)
        if same is None:
            raise ImageError("a colour image, but the model was trained on grey ones")
        return same

    def _scaled(self, image: Floats, spans: Sequence[Range]) -> Floats:
        """Return an image in which the two values of a span have become -1 and 1, of one for all
        planes or of one for each. A channel that is absent is background, or 0 without any."""
        if len(spans) == 1:
            return _scaled(image, spans[0])
        planes = []
        for plane, span in zip(image, spans, strict=True):
            planes.append(_scaled(plane, span))
        return np.nan_to_num(np.stack(planes), nan=self.absent_value)

    @property
    def absent_value(self) -> float:
        """The scaled value of a channel that is absent: that of a background, or the middle."""
        return -1.0 if self.flat_background else 0.0

    def fewer_channels(self, lacking: Bools, rng: np.random.Generator) -> Bools | None:
        """Return which planes [C] an image lacks when it loses some channels more, at random, but
        not all; None if it has one channel only."""
        starts = np.cumsum((0, *self.planes))
        present = [number for number in range(len(self.planes)) if not lacking[starts[number]]]
        if len(present) < 2:
            return None
        after = lacking.copy()
        for number in rng.permutation(present)[: rng.integers(1, len(present))]:
            after[starts[number] : starts[number + 1]] = True
        return after

    def _learned_spans(self) -> tuple[Range, ...]:
        """Return the ranges that were learned: one for all planes, or one for each."""
        if self.named is None:
            return (self.range,)
        spans: list[Range] = []
        for span, count in zip(self.ranges, self.planes, strict=True):
            spans += [span] * count
        return tuple(spans)

    def _own_spans(self, values: Floats) -> tuple[Range, ...]:
        """Return the ranges of an image's own values [C, n]: one for all planes, or one for each,
        the same for the planes of one channel."""
        span_of = deviations_of if self.config.intensity == "zscore" else range_of
        if self.named is None:
            return (span_of(values),)
        spans: list[Range] = []
        for count in self._planes(len(values)):
            spans += [span_of(values[len(spans) : len(spans) + count])] * count
        return tuple(spans)

    def _planes(self, count: int) -> tuple[int, ...]:
        """Return how many planes each channel of an image with `count` of them has, one each where
        that is not learned yet; () for an image of one file."""
        if self.named is None:
            return ()
        return self.planes if sum(self.planes) == count else (1,) * count

    def shown_range(self, of: Whole = None) -> Range | None:
        """Return the native values that are seen as -1 and 1, in every image or in the volume `of`;
        None where each image has its own, or each channel."""
        if self.named is not None:
            return None
        if isinstance(of, PreparedVolume):
            low, high = self.range
            return of.span or (low * of.native_unit, high * of.native_unit)
        if self.config.window is not None:
            return self._windows()[0]
        return None if self.config.intensity in OWN else self.range

    def _found_inside(self, image: Floats, region: Bools) -> Bools:
        """Return the foreground of an image inside its region; the region if nothing is left."""
        found = self._foreground(image) & region
        return found if found.any() else region

    def _foreground(self, image: Floats) -> Bools:
        """Return the foreground [H, W] of an image [C, H, W], of all of its channels together."""
        return foreground(comparable(image) if self.named else image)

    def _apply_slice(self, image: Floats, of: PreparedVolume, number: int) -> tuple[Floats, Bools]:
        image = np.minimum(image, of.highest)
        inside = np.ones(image.shape[1:], bool)
        if of.supplied or self.flat_background:
            inside = of.foreground[number]

        if self.named is None:
            spans: Sequence[Range] = (self.shown_range(of) or self.range,)
        else:
            spans = of.spans or self._learned_spans()
        scaled = self._scaled(image, spans)
        return self._resampled(scaled, inside, of.geometry)

    def _resampled(self, scaled: Floats, inside: Bools, geometry: Geometry) -> tuple[Floats, Bools]:
        """Return a slice with even rows and columns, in the spacing asked for, if one is;
        `Model.decode_slice` brings maps back."""
        for axis in (1, 2):
            scaled, inside = geometry.evened(scaled, axis), geometry.evened(inside, axis)
        spacing = self.config.spacing
        if not spacing:
            return scaled, inside

        _, row_distance, column_distance = geometry.even_spacing
        height = max(MIN_SIDE, round(inside.shape[0] * row_distance / spacing))
        width = max(MIN_SIDE, round(inside.shape[1] * column_distance / spacing))
        resized = resize(inside[None].astype(np.float32), height, width)[0]
        return resize(scaled, height, width), resized >= 0.5

    def _windows(self) -> list[Range]:
        """Return the lowest and highest value of each window asked for: one, or one for each
        channel."""
        ranges: list[Range] = []
        pairs = np.reshape(np.asarray(self.config.window, np.float64), (-1, 2))
        for level, width in pairs.tolist():
            ranges.append((level - width / 2, level + width / 2))
        return ranges

    def _window_spans(self, count: int) -> tuple[Range, ...]:
        """Return the ranges of the windows asked for: one for all planes, or one for each of
        `count` planes, the same for the planes of one channel."""
        windows = self._windows()
        if self.named is None:
            return (windows[0],)
        spans: list[Range] = []
        for window, planes in zip(windows, self._planes(count), strict=True):
            spans += [window] * planes
        return tuple(spans)

    # -- volumes -------------------------------------------------------------------------------

    def find_tools(self) -> None:
        """Find what prepares brains, for a model that is to be trained; ConfigError if something is
        missing."""
        if self.config.brain.wanted:
            self.tools = tools_for(self.config.brain)

    def find_same_tools(self) -> None:
        """Find what prepares brains as for training; ConfigError if something is missing."""
        if self.config.brain.wanted:
            self.tools = tools_here(self.config.brain, self.tools)

    def prepare_brain(self, volume: Volume, given: Bools | None) -> PreparedBrain:
        """Return a volume prepared as the brain that `config` asks for; `given` [I, J, K] says
        where it is. ImageError if a step fails."""
        return prepare(volume, self.config.brain, self.tools, given)

    def prepare(self, volume: Volume, supplied: Bools | None = None) -> PreparedVolume:
        """Slice a volume, and find its foreground and its range of values.

        `supplied` [I, J, K] takes the place of the foreground. ImageError if no slice can be
        scored.
        """
        geometry = volume.geometry(self.axis)
        if self.dims == 3 or geometry.uneven_axis != 0:
            geometry.check_aligned()
        slices = geometry.to_slices(volume.voxels)
        _check_slices(slices, geometry)
        slices = self._without_padding(slices, hounsfield=has_fixed_units(volume))

        if supplied is not None:
            inside = np.ascontiguousarray(geometry.to_slices(supplied))
        elif self.config.foreground == "all":
            inside = np.ones(slices.shape[1:], bool)
        else:
            inside = volume_foreground(comparable(slices) if self.named else slices)
        if self.config.bias:
            slices = remove_bias(slices, inside, self.config.bias, geometry.spacing)

        filled = inside.sum((1, 2))
        if not filled.any():
            raise ImageError("no foreground")
        scored = filled >= max(1, self.config.least_foreground * filled.max())
        prepared = PreparedVolume(
            volume,
            geometry,
            slices,
            inside,
            span=None,
            scored=scored,
            unseen=np.zeros_like(scored),
            supplied=supplied is not None,
            planes=self._planes(len(slices)),
        )
        prepared = self._with_range(prepared)

        # A model of images expects the foreground as it is found in them.
        if supplied is None and self.flat_background and not self.of_volumes:
            for number in prepared.numbers:
                inside[number] = self._foreground(np.minimum(slices[:, number], prepared.highest))
        if self.trait_limits and self.config.refuse_unseen:
            return self._without_unseen(prepared)
        return prepared

    def prepare_pictures(self, source: Volume, supplied: Bools | None = None) -> PreparedVolume:
        """Return the frames of a file that are images of their own, of which all are to be scored.
        Each counts inside the region of interest and the foreground `supplied` [H, W]; ImageError
        if that is nowhere."""
        geometry = source.geometry(FRAMES)
        _check_slices(source.voxels, geometry)
        count, *shape = geometry.sides

        region = self.region((shape[0], shape[1]), supplied)
        inside = np.ones(shape, bool) if region is None else region.inside
        return PreparedVolume(
            source,
            geometry,
            source.voxels,
            np.repeat(inside[None], count, 0),
            span=None,
            scored=np.ones(count, bool),
            unseen=np.zeros(count, bool),
            region=region,
        )

    def _without_padding(self, slices: Floats, *, hounsfield: bool) -> Floats:
        """Return slices [C, D, H, W] with air in place of padding, found in each channel alone."""
        if self.named is None:
            return padding_as_air(slices, hounsfield=hounsfield)
        planes = []
        for plane, is_absent in zip(slices, absent(slices), strict=True):
            known = plane if is_absent else padding_as_air(plane[None], hounsfield=hounsfield)[0]
            planes.append(known)
        return np.stack(planes)

    def depth(self, geometry: Geometry) -> int:
        """Return how many slices a volume that is modelled in three dimensions has in the spacing
        asked for."""
        count, distance = geometry.even_sides[0], geometry.even_spacing[0]
        if not self.config.spacing:
            return count
        return max(1, round(count * distance / self.config.spacing))

    def _with_range(self, of: PreparedVolume) -> PreparedVolume:
        """Return the volume with the values that become -1 and 1."""
        if self.config.exported:
            percentile, exported = self.config.exported
            highest = self._highest_exported(of.slices, percentile)
            return replace(of, native_unit=highest / exported, highest=highest)

        if self.config.window is not None:
            spans = self._window_spans(len(of.slices))
            return replace(of, span=spans[0]) if self.named is None else replace(of, spans=spans)
        fixed = has_fixed_units(of.source) if self.fixed_units is None else self.fixed_units
        own = self.config.intensity in OWN or (self.config.intensity == "auto" and not fixed)
        if not own:
            return of
        spans = self._own_spans(volume_values(of.slices, of.foreground))
        return replace(of, span=spans[0]) if self.named is None else replace(of, spans=spans)

    def _highest_exported(self, slices: Floats, percentile: float) -> float:
        """Return the native value that became the highest one of the images made of a volume."""
        above = self.config.exported_above
        voxels = slices if above is None else slices[slices > above]
        highest = float(np.percentile(voxels, percentile)) if voxels.size else 0.0
        if highest <= 0:
            raise ImageError(f"no voxels to scale by, above {0 if above is None else above:g}")
        return highest

    def _without_unseen(self, of: PreparedVolume) -> PreparedVolume:
        """Return the volume without the slices that are unlike any the model has learned from;
        ImageError if none is left."""
        found = [traits_of(*self.apply(of.slices[:, n], of, n)) for n in of.numbers]
        traits = np.array([(each.share, each.brightness) for each in found])
        low, high = np.array(self.trait_limits).T
        unseen = np.zeros_like(of.scored)
        unseen[of.numbers] = ((traits < low) | (traits > high)).any(1)

        if unseen.sum() == of.scored.sum():
            share, brightness = np.median(traits, axis=0)
            raise ImageError(
                f"no slice is like those the model has learned from: {share:.0%} foreground of "
                f"brightness {brightness:.2f}, the model has seen {low[0]:.0%} to {high[0]:.0%} of "
                f"{low[1]:.2f} to {high[1]:.2f}; if volumes are scaled otherwise than its images "
                "were, train with exported or intensity=dataset"
            )
        return replace(of, scored=of.scored & ~unseen, unseen=unseen)


def has_fixed_units(volume: Volume) -> bool:
    """Return whether values mean the same in every volume of this kind."""
    return volume.modality in FIXED_UNITS


def _scaled(image: Floats, span: Range) -> Floats:
    """Return an image in which the two values of `span` have become -1 and 1."""
    low, high = span
    scaled: Floats = np.clip((image - low) * (2 / (high - low)) - 1, -CLIP, CLIP).astype(np.float32)
    return scaled


def _check_slices(slices: Floats, geometry: Geometry) -> None:
    """Raise ImageError if slices are too small, or a volume has one value only."""
    _, height, width = geometry.even_sides
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"{geometry.plane} slices of {width} × {height} pixels; "
            f"{MIN_SIDE} × {MIN_SIDE} are needed"
        )
    low = np.nanmin(slices)  # a channel that is absent is NaN
    if low == np.nanmax(slices):
        raise ImageError(f"all voxels have the same value, {float(low):g}")
