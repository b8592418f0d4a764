"""Preparation of brains before a model sees them: bias field, skull, registration, grid of cubes.

`prepare` makes of a volume another one on a grid of its own, and `returned` brings a map on that
grid back to the voxels of the first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from anodetect.config import Config
from anodetect.data.geometry import Affine
from anodetect.data.volumes import FIXED_UNITS, Volume
from anodetect.errors import ConfigError, ImageError
from anodetect.imaging import registration
from anodetect.imaging.foreground import volume_foreground
from anodetect.imaging.grids import Grid, cubes, sampled, sampled_map, sampled_mask, smoothed
from anodetect.imaging.padding import padding_as_air
from anodetect.imaging.skulls import THRESHOLD, SkullTool, brain_in, find_tool, tool_here
from anodetect.imaging.templates import template_of
from anodetect.types import Bools, Floats

TEMPLATE_SIDE = 1.0  # mm: the voxels of the template
COMPARED_SIDE = 2.0  # mm: the finest cubes with which a registration compares


class BrainConfig(Config):
    """The preparation of brains, of volumes only; none by default."""

    bias: Literal["none", "n4"] = Field(
        default="none",
        description="Whether N4 removes slow changes of brightness from heads (extra "
        "`registration`), before all else.",
    )
    skull: Literal["none", "auto", "hd-bet", "mri_synthstrip", "threshold"] = Field(
        default="none",
        description="What cuts the brain out, outside of which a model sees nothing: a program on "
        "PATH, 'auto' for the first of them that is there, or 'threshold' for the whole head above "
        "a threshold, with its skull; a manifest's column 'foreground' goes before it.",
    )
    registration: Literal["none", "rigid", "affine"] = Field(
        default="none",
        description="How volumes are brought onto the template MNI152 of nilearn (extra "
        "`registration`), by the millimetres of their headers; maps are brought back.",
    )
    spacing: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="The millimetres between the voxels, in all directions, onto which brains are "
        "resampled; 0 keeps the volume's own, or after a registration the template's, 1 mm.",
    )

    @property
    def wanted(self) -> bool:
        """True if anything is to be done."""
        return self != BrainConfig()

    @property
    def template_side(self) -> float:
        """The millimetres between voxels after a registration."""
        return self.spacing or TEMPLATE_SIDE


@dataclass(frozen=True)
class Tools:
    """The tools that prepare the brains of a run: the one that cuts them out, and the SHA-256 of
    the template; None and "" where that is not done."""

    skull: SkullTool | None = None
    template: str = ""

    def state(self) -> dict[str, Any]:
        """Return the tools for JSON."""
        skull = None if self.skull is None else self.skull.state()
        return {"skull": skull, "template": self.template}


@dataclass(frozen=True)
class PreparedBrain:
    """A brain as a model sees it, made from `native`.

    `inside` [I, J, K] is where the brain is on the grid of `volume`, None where nothing has cut it
    out. `to_native` takes the millimetres of `volume` to those of `native`. `steps` say in words
    what was done.
    """

    native: Volume
    volume: Volume
    inside: Bools | None
    to_native: Affine
    steps: tuple[str, ...]

    @property
    def to_prepared(self) -> Affine:
        """The matrix from the millimetres of `native` to those of `volume`."""
        return np.asarray(np.linalg.inv(self.to_native), np.float64)

    def described(self) -> str:
        """Return what was done in one line."""
        return "; ".join(self.steps)

    def without_native(self) -> "PreparedBrain":
        """Return the brain without the voxels of its source, which only writers need."""
        shape = self.native.voxels.shape
        nothing = np.broadcast_to(np.float32(0), shape)
        return replace(self, native=replace(self.native, voxels=nothing, origin=None))


def tools_for(config: BrainConfig) -> Tools:
    """Return what prepares brains here; ConfigError if something that is needed is missing."""
    registers = config.registration != "none"
    if registers or config.bias != "none":
        registration.check_installed(template=registers)
    skull = None if config.skull == "none" else find_tool(config.skull)
    template = template_of(config.template_side).sha256 if registers else ""
    return Tools(skull, template)


def tools_of(state: Mapping[str, Any] | None) -> Tools:
    """Return the tools whose `state` this was; those of no preparation for None."""
    if state is None:
        return Tools()
    skull = state["skull"]
    return Tools(None if skull is None else SkullTool(**skull), str(state["template"]))


def tools_here(config: BrainConfig, learned_with: Tools) -> Tools:
    """Return what prepares brains here as they were for training; ConfigError if something is
    missing, or the template is another one."""
    present = tools_for(config.model_copy(update={"skull": "none"}))
    if present.template != learned_with.template:
        raise ConfigError(
            "the template in nilearn is not the one that the model's brains were registered to; "
            "install the version of nilearn that the run's environment.json names"
        )
    skull = learned_with.skull
    return replace(present, skull=None if skull is None else tool_here(skull))


def prepare(
    volume: Volume, config: BrainConfig, tools: Tools, given: Bools | None = None
) -> PreparedBrain:
    """Return a volume as `config` asks for it; `given` [I, J, K] says where the brain is, before
    all tools. ImageError if a step fails, or the volume is of a kind that cannot be prepared."""
    check_kind(volume, config)
    if given is not None and not given.any():
        raise ImageError("its foreground is empty; it should say where the brain is")
    i, j, k = volume.voxels.shape[1:]
    own, steps = Grid((i, j, k), volume.affine), list[str]()
    hounsfield = volume.modality in FIXED_UNITS
    voxels = padding_as_air(volume.voxels, hounsfield=hounsfield)[0]

    if config.bias == "n4":
        voxels, said = registration.without_bias(voxels, own, _head(volume, voxels, given))
        steps.append(said)

    inside = given
    if config.skull != "none":
        inside, said = _brain(replace(volume, voxels=voxels[None]), tools.skull, given)
        steps.append(f"{said}, {inside.sum() * _litres(own):.2f} l")
        voxels = np.where(inside, voxels, voxels[inside].min())

    grid, to_native = own, np.eye(4)
    if config.registration != "none":
        compared = template_of(max(config.template_side, COMPARED_SIDE))
        head = _head(volume, voxels, inside)
        found = registration.register(voxels, own, head, compared, config.registration)
        grid, to_native = template_of(config.template_side).grid, found.to_volume
        steps.append(found.described())
    elif config.spacing:
        grid = cubes(own, config.spacing)
    if grid is not own:
        voxels, inside = _resampled(voxels, inside, own, grid, to_native)
        if inside is not None and config.skull != "none":
            voxels = np.where(inside, voxels, voxels.min())
        steps.append(f"{' × '.join(map(str, grid.shape))} voxels of {grid.spacing[0]:g} mm")

    prepared = replace(volume, voxels=voxels[None], affine=grid.affine, origin=None)
    return PreparedBrain(volume, prepared, inside, to_native, tuple(steps))


def check_kind(volume: Volume, config: BrainConfig) -> None:
    """Raise ImageError for a volume that cannot be prepared."""
    if volume.is_pictures:
        raise ImageError("frames that are images, but the model's preparation is one of brains")
    if len(volume.voxels) > 1:
        raise ImageError("a volume in colours, but the model's preparation is one of brains")
    if volume.places is not None:
        raise ImageError(
            "its slices are not evenly spaced, and a brain is prepared on an even grid; resample "
            "it first"
        )
    if config.bias == "n4" and volume.modality in FIXED_UNITS:
        raise ImageError(f"a {volume.modality}, which has no bias field; train without brain.bias")


def returned(heatmap: Floats, brain: PreparedBrain, *, nearest: bool = False) -> Floats:
    """Return a map [I, J, K] of a prepared brain in the voxels of its source [I, J, K]: linear
    between voxels, or the values of the nearest ones. NaN beyond the map, and where it is NaN."""
    prepared, own = _grid(brain.volume), _grid(brain.native)
    return sampled_map(heatmap, prepared, own, brain.to_prepared, nearest=nearest)


def returned_mask(mask: Bools, brain: PreparedBrain) -> Bools:
    """Return a mask [I, J, K] of a prepared brain in the voxels of its source."""
    return sampled_mask(mask, _grid(brain.volume), _grid(brain.native), brain.to_prepared)


def _grid(volume: Volume) -> Grid:
    i, j, k = volume.voxels.shape[1:]
    return Grid((i, j, k), volume.affine)


def _litres(grid: Grid) -> float:
    """Return the volume of a voxel in litres."""
    return float(abs(np.linalg.det(grid.affine[:3, :3]))) / 1e6


def _head(volume: Volume, voxels: Floats, inside: Bools | None) -> Bools:
    """Return where a head is [I, J, K]: where it is known to be, else above a threshold."""
    if inside is not None:
        return inside
    geometry = volume.geometry("axial")
    found = volume_foreground(geometry.to_slices(voxels[None]))
    return np.ascontiguousarray(geometry.to_source(found))


def _brain(volume: Volume, tool: SkullTool | None, given: Bools | None) -> tuple[Bools, str]:
    """Return where the brain is [I, J, K], and in words who says so; ImageError if a program finds
    none."""
    if given is not None:
        return given, "brain: the given foreground"
    if tool is None or tool.name == THRESHOLD:
        return _head(volume, volume.voxels[0], None), "brain: threshold, the head with its skull"
    return brain_in(volume, tool), f"brain: {tool.described()}"


def _resampled(
    voxels: Floats, inside: Bools | None, own: Grid, grid: Grid, to_native: Affine
) -> tuple[Floats, Bools | None]:
    """Return voxels and brain on another grid; beyond the volume is its lowest value. ImageError if
    the brain is not in the grid."""
    side = float(grid.spacing[0])
    lowest = float(voxels.min())
    found = sampled(smoothed(voxels, own.spacing, side), own, grid, to_native, fill=lowest)
    if inside is None:
        return found, None
    mask = sampled_mask(inside, own, grid, to_native)
    if not mask.any():
        raise ImageError(f"nothing of the brain is left in voxels of {side:g} mm")
    return found, mask
