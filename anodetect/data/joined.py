"""Volumes or images that are the channels of one study, in one array on the grid of the first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from anodetect.data.channels import joined_notes
from anodetect.data.regrid import on_grid_of
from anodetect.data.volumes import Volume
from anodetect.errors import ImageError
from anodetect.types import Floats

EDGE = 0.5  # voxels beyond the middle of the outermost ones that still belong to a volume


@dataclass(frozen=True)
class Joined:
    """The channels of a study in one array: an image [C, H, W] or a volume [C, I, J, K].

    `planes` counts the planes of each channel along the first axis: three of a colour image, else
    one. A channel that is absent is NaN everywhere. `notes` say how each was brought to the grid
    of the first, "" if it lay on it.
    """

    pixels: Floats | Volume
    planes: tuple[int, ...]
    notes: tuple[str, ...]


def join(names: Sequence[str], found: Sequence[Floats | Volume | None]) -> Joined:
    """Return the channels of a study, None for those that are absent, as one image or volume.

    ImageError if images differ in size, if volumes do not lie in the same place, or if there are
    images and volumes.
    """
    first = next(number for number, pixels in enumerate(found) if pixels is not None)
    leader = found[first]
    arrays: list[Floats | None] = []
    notes = []
    for number, pixels in enumerate(found):
        array, note = None, ""
        if pixels is not None:
            try:
                array, note = _on_grid(pixels, leader, names[first])
            except ImageError as error:
                raise ImageError(f"{names[number]}: {error}") from None
        arrays.append(array)
        notes.append(note)

    grid = next(array for array in arrays if array is not None).shape[1:]
    absent = np.full((1, *grid), np.nan, np.float32)
    filled = [absent if array is None else array for array in arrays]
    whole = np.concatenate(filled)
    planes = tuple(len(array) for array in filled)
    if isinstance(leader, Volume):
        volume = _as_leader(leader, whole, dict(zip(names, found, strict=True)))
        return Joined(volume, planes, tuple(notes))
    return Joined(whole, planes, tuple(notes))


def _as_leader(
    leader: Volume, voxels: Floats, found: Mapping[str, Floats | Volume | None]
) -> Volume:
    """Return the voxels of all channels as one volume in the place of the leader. It has the
    modality that all have, and says what is to be known of each."""
    kinds, notes = set[str](), dict[str, str]()
    for name, pixels in found.items():
        if isinstance(pixels, Volume):
            kinds.add(pixels.modality)
            notes[name] = pixels.note
    modality = leader.modality if len(kinds) == 1 else ""
    return replace(leader, voxels=voxels, modality=modality, note=joined_notes(notes))


def _on_grid(
    pixels: Floats | Volume, leader: Floats | Volume | None, name: str
) -> tuple[Floats, str]:
    """Return the planes of a channel [1 or 3, ...] on the grid of the leader, which is called
    `name`, and in words how they came there."""
    if not isinstance(pixels, Volume) and not isinstance(leader, Volume):
        assert leader is not None
        if pixels.shape[1:] != leader.shape[1:]:
            (height, width), (high, wide) = pixels.shape[1:], leader.shape[1:]
            raise ImageError(
                f"{width}×{height} pixels, but {name} has {wide}×{high}; bring them to one size, "
                "pixel on pixel"
            )
        return _without_equal(pixels), ""
    if not isinstance(pixels, Volume) or not isinstance(leader, Volume):
        raise ImageError(f"one of {name} and it is an image, the other a volume")

    if pixels.places is not None or leader.places is not None:
        return _with_same_places(pixels, leader, name), ""
    same = on_grid_of(pixels, leader)
    if same is not None:
        return _without_equal(same.voxels), ""
    voxels, share = resampled(pixels, leader)
    return _without_equal(
        voxels
    ), f"resampled to the grid of {name}, {share:.0%} of which it covers"


def _with_same_places(volume: Volume, leader: Volume, name: str) -> Floats:
    """Return the planes of a volume whose slices lie where those of the leader do, though not at
    even distances; ImageError if they lie elsewhere."""
    one, other = volume.places, leader.places
    alike = one is not None and other is not None and one.shape == other.shape
    alike = alike and volume.voxels.shape[1:] == leader.voxels.shape[1:]
    if one is None or other is None or not alike or not np.allclose(one, other, atol=0.01):
        raise ImageError(
            f"its slices or those of {name} are not evenly spaced, and lie in other places; bring "
            "both to one grid"
        )
    if not np.allclose(volume.affine, leader.affine, atol=0.01):
        raise ImageError(f"its rows and columns lie in other places than those of {name}")
    return _without_equal(volume.voxels)


def resampled(volume: Volume, grid: Volume) -> tuple[Floats, float]:
    """Return a volume's voxels on another's grid [C, I, J, K], and the share of that which it
    covers.

    Values are interpolated linearly between the eight nearest voxels, by world coordinates. Beyond
    the volume each channel has the lowest of its values. ImageError if they have nothing in common.
    """
    to_own = np.linalg.solve(volume.affine, grid.affine)  # from an index of the grid to the own
    shape = grid.voxels.shape[1:]
    covered = np.ones(shape, bool)
    axes = [np.arange(side, dtype=np.float64) for side in shape]
    for row, side in zip(to_own[:3], volume.voxels.shape[1:], strict=True):
        place = row[3] + row[0] * axes[0][:, None, None] + row[1] * axes[1][:, None]
        place = place + row[2] * axes[2]
        covered &= (place >= -EDGE) & (place <= side - 1 + EDGE)
    if not covered.any():
        raise ImageError("it lies elsewhere in the patient, and has no voxel in common")

    channels = []
    for channel in volume.voxels:
        values = ndimage.affine_transform(
            np.asarray(channel, np.float32),
            to_own[:3, :3],
            to_own[:3, 3],
            output_shape=shape,
            order=1,
            mode="nearest",
        )
        channels.append(np.where(covered, values, channel.min()).astype(np.float32))
    return np.stack(channels), float(covered.mean())


def _without_equal(planes: Floats) -> Floats:
    """Return one plane of a grey image or volume that is stored in three, else all."""
    if len(planes) > 1 and all(np.array_equal(planes[0], plane) for plane in planes[1:]):
        return planes[:1]
    return planes
