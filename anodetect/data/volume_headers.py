"""Headers of volumes, read without their voxels."""

import math
from pathlib import Path

import nrrd

from anodetect.data.channels import joined_notes
from anodetect.data.nifti_forms import note_of_forms
from anodetect.data.nrrd_files import nrrd_space
from anodetect.data.records import Record

BY_NIBABEL = (".nii", ".nii.gz", ".hdr", ".mgh", ".mgz")
BY_PYNRRD = (".nrrd", ".nhdr")


def volumes_in(path: Path) -> int | None:
    """Return how many volumes a file's header names; None if it cannot be read or the file is of
    another format."""
    name = path.name.lower()
    try:
        if name.endswith(BY_NIBABEL):
            import nibabel as nib  # takes a while, and images do not need it

            return math.prod(int(side) for side in nib.load(path).shape[3:])
        if name.endswith(BY_PYNRRD):
            header = nrrd.read_header(str(path))
            axes, _ = nrrd_space(header, [1.0, 1.0, 1.0])
            sizes = [int(size) for size in header["sizes"]]
            return math.prod(size for axis, size in enumerate(sizes) if axis not in axes)
    except Exception:  # decoding the file will say what is wrong with it
        return None
    return None


def note_of_record(record: Record) -> str:
    """Return what `note_of_header` does of a record's file, or of each of its channels."""
    if not record.channels:
        return note_of_header(record.path)
    notes = {}
    for channel in record.channels:
        notes[channel.name] = note_of_header(channel.path) if channel.path else ""
    return joined_notes(notes)


def note_of_header(path: Path) -> str:
    """Return what is to be known of where a file's voxels lie, as `Volume.note` says it; "" if
    nothing is, or if the header cannot be read."""
    if not path.name.lower().endswith(BY_NIBABEL):
        return ""
    try:
        import nibabel as nib

        header = nib.load(path).header
        return note_of_forms(header) if isinstance(header, nib.Nifti1Header) else ""
    except Exception:  # decoding the file will say what is wrong with it
        return ""
