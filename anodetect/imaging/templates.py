"""The template of brains that nilearn carries in its wheel: MNI152, T1-weighted, without skull."""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from anodetect.data.volumes import decode_nifti
from anodetect.errors import ConfigError
from anodetect.imaging.grids import Grid, cubes, sampled, smoothed
from anodetect.types import Bools, Floats

FILE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
NAME = "MNI152"
INSTALL = "pip install 'anodetect[registration]'"


@dataclass(frozen=True)
class Template:
    """A brain of average shape: voxels [I, J, K], 0 outside, and the SHA-256 of its file."""

    voxels: Floats
    grid: Grid
    sha256: str

    @property
    def inside(self) -> Bools:
        """Where the brain is [I, J, K]."""
        return np.asarray(self.voxels > 0.05 * self.voxels.max())


def template_file() -> Path:
    """Return the template's file; ConfigError if nilearn is not installed, or has none there.
    Nilearn is not imported, which takes seconds, and nothing is downloaded."""
    found = find_spec("nilearn")
    places = [] if found is None else list(found.submodule_search_locations or [])
    for place in places:
        if Path(place, FILE).is_file():
            return Path(place, FILE)
    raise ConfigError(f"brain.registration needs the template in nilearn: {INSTALL}")


@lru_cache(4)
def template_of(side: float) -> Template:
    """Return the template in cubes of `side` mm."""
    content = template_file().read_bytes()
    volume = decode_nifti(content)
    i, j, k = volume.voxels.shape[1:]
    own = Grid((i, j, k), volume.affine)

    grid = cubes(own, side)
    voxels = sampled(smoothed(volume.voxels[0], own.spacing, side), own, grid)
    return Template(voxels, grid, sha256(content).hexdigest())
