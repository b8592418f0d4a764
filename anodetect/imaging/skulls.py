"""Programs that cut brains out of heads: HD-BET and SynthStrip, as they are found on PATH.

A program reads a NIfTI of the volume and writes one. Where that is not zero is the brain.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anodetect.data.geometry import FLIP_XY
from anodetect.data.volumes import Volume, decode_nifti, same_grid
from anodetect.errors import ConfigError, ImageError
from anodetect.types import Bools

# What follows the program's name. HD-BET writes the brain, and SynthStrip a mask. What is given to
# them has values above 0 everywhere, so that both are read alike.
TOOLS = {
    "hd-bet": ("-i", "{image}", "-o", "{brain}", "-device", "cpu"),
    "mri_synthstrip": ("-i", "{image}", "-m", "{brain}"),
}
THRESHOLD = "threshold"  # in place of a program
LONGEST = 3600  # seconds that a program may take for a volume
QUICK = 60  # and to state its version


@dataclass(frozen=True)
class SkullTool:
    """The tool that cuts brains out: a program with its version, or THRESHOLD. `trained` is the
    version with which a model was trained, "" if it is the same."""

    name: str
    version: str = ""
    trained: str = ""

    def state(self) -> dict[str, str]:
        """Return the tool for JSON."""
        return {"name": self.name, "version": self.version}

    def described(self) -> str:
        """Return the tool in words."""
        if not self.version:
            return self.name
        other = f"; the model was trained with {self.trained}" if self.trained else ""
        return f"{self.name} ({self.version}{other})"


def find_tool(wanted: str) -> SkullTool:
    """Return the program of this name; for "auto" the first of TOOLS that is on PATH, the threshold
    if none is. ConfigError if it is not there."""
    if wanted == "auto":
        present = [name for name in TOOLS if shutil.which(name)]
        wanted = present[0] if present else THRESHOLD
    if wanted == THRESHOLD:
        return SkullTool(THRESHOLD)
    program = shutil.which(wanted)
    if program is None:
        raise ConfigError(
            f"brain.skull={wanted}: {wanted} is not on PATH; install it, or take "
            f"--set brain.skull={THRESHOLD}"
        )

    return SkullTool(wanted, _version(Path(program)))


def tool_here(learned_with: SkullTool) -> SkullTool:
    """Return the program here that a model was trained with; ConfigError if it is not on PATH."""
    name, trained = learned_with.name, learned_with.version
    if name == THRESHOLD:
        return learned_with
    if shutil.which(name) is None:
        raise ConfigError(
            f"the model was trained on brains that {learned_with.described()} cut out, and {name} "
            "is not on PATH; install it here"
        )
    found = find_tool(name)
    return found if found.version == trained else replace(found, trained=trained)


def brain_in(volume: Volume, tool: SkullTool) -> Bools:
    """Return where a program finds the brain [I, J, K]; ImageError if it fails, or what it writes
    is no mask of this volume."""
    with tempfile.TemporaryDirectory() as folder:
        image, brain = Path(folder, "head.nii.gz"), Path(folder, "brain.nii.gz")
        _write(volume, image)
        arguments = [part.format(image=image, brain=brain) for part in TOOLS[tool.name]]
        _run(tool.name, arguments)
        if not brain.is_file():
            raise ImageError(f"{tool.name} wrote no brain; try it on this file alone")
        content = brain.read_bytes()

    try:
        found = decode_nifti(content, holes=True)
    except Exception:  # whatever nibabel raises on what is no NIfTI
        raise ImageError(f"{tool.name} wrote a file that is no NIfTI") from None
    if not same_grid(found, volume):
        raise ImageError(f"{tool.name} wrote a brain on another grid than the volume's")
    inside = np.asarray(found.voxels[0] != 0)
    if not inside.any():
        raise ImageError(f"{tool.name} found no brain")
    return inside


def _write(volume: Volume, path: Path) -> None:
    """Write a volume as NIfTI, its values raised so that the lowest is 1."""
    import nibabel as nib  # takes a while, and images do not need it

    voxels = volume.voxels[0]
    image = nib.Nifti1Image(voxels - voxels.min() + 1, FLIP_XY @ volume.affine)
    image.set_sform(FLIP_XY @ volume.affine, 1)
    image.set_qform(FLIP_XY @ volume.affine, 1, strip_shears=True)
    nib.save(image, path)


def _run(name: str, arguments: Sequence[str]) -> None:
    """Run a program; ImageError if it fails. What it prints is not shown: it may quote a header."""
    program = shutil.which(name)
    if program is None:
        raise ImageError(f"{name} is no longer on PATH")
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, check=False, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        raise ImageError(f"{name} did not end within {LONGEST // 60} minutes") from None
    except OSError as error:
        raise ImageError(f"{name} cannot be started ({error.strerror})") from None

    if done.returncode:
        raise ImageError(f"{name} ended with code {done.returncode}; try it on this file alone")


def _version(program: Path) -> str:
    """Return what a program says of its version, or the beginning of its file's SHA-256."""
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            check=False,
            timeout=QUICK,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        )
        lines = done.stdout.decode("utf-8", "replace").split("\n")
        if done.returncode == 0 and lines[0].strip():
            return lines[0].strip()[:60]
    except (OSError, subprocess.TimeoutExpired):
        pass
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    return f"no version stated, file {digest[:12]}"
