"""Facts of a file beside the values of its pixels: modality, size, plane, spacing, maker."""

from dataclasses import dataclass

import numpy as np

from anodetect.data import dicom_head, formats, names
from anodetect.imaging.intensities import to_channels
from anodetect.model.loading import LoadedImage, LoadedVolume
from anodetect.types import Floats


@dataclass(frozen=True)
class InputFacts:
    """Facts of an image or volume; "" and () where its format does not say it.

    `channels` is 3 only if there are colours. `description` has the words of a DICOM series'
    description, or the MR sequence at the end of a file's name. `spacing` is in millimetres between
    columns, between rows and between slices, and `size` in pixels in the same order. `bits` are
    those of whole numbers that have no units of their own, else 0.
    """

    modality: str
    description: str
    maker: str
    plane: str
    spacing: tuple[float, ...]
    size: tuple[int, ...]
    channels: int
    bits: int = 0


def modality_of(loaded: LoadedImage | LoadedVolume) -> str:
    """Return the modality of an image, a slice or a volume, "" if its format does not say it. Only
    of a DICOM file that is no volume the header is read again."""
    volume = loaded.volume if isinstance(loaded, LoadedVolume) else loaded.cut_from
    if volume is not None and volume.source.modality:
        return volume.source.modality
    return dicom_head.headline(loaded.record.path).modality if loaded.record.files else ""


def facts_of(loaded: LoadedImage | LoadedVolume) -> InputFacts:
    """Return what is known of an image or volume. Of DICOM the header is read again."""
    record = loaded.record
    modality, description, maker = "", "", ""
    if record.files:
        header = dicom_head.headline(record.path)
        modality, description, maker = header.modality, header.description, header.maker
    if record.channels:
        description = " ".join(channel.name for channel in record.channels)
    elif not description:
        suffix = formats.suffix_of(record.path.name)
        end = names.words(record.path.name[: -len(suffix) or None])[-1:]
        description = end[0] if end and end[0] in names.SEQUENCES else ""
    description = " ".join(word for word in (description, record.quantity) if word)

    if isinstance(loaded, LoadedImage):
        _, height, width = loaded.image.shape
        channels = len(loaded.image) if record.channels else _colours(loaded.image)
        bits = _bits(loaded.sample_type)
        return InputFacts(modality, description, maker, "", (), (width, height), channels, bits)
    source, geometry = loaded.native, loaded.volume.geometry
    if loaded.brain is not None:
        geometry = source.geometry(geometry.plane)
    depth, height, width = geometry.sides
    if loaded.volume.is_pictures:
        channels = 3 if to_channels(loaded.volume.slices, 1) is None else 1
        return InputFacts(modality, description, maker, "", (), (width, height), channels)
    return InputFacts(
        modality=modality or source.modality,
        description=description,
        maker=maker,
        plane=geometry.plane,
        spacing=tuple(geometry.spacing[::-1]),
        size=(width, height, depth),
        channels=len(source.voxels),
    )


def _colours(image: Floats) -> int:
    """Return 3 for an image that is coloured, else 1."""
    return 3 if to_channels(image, 1) is None else 1


def _bits(sample_type: str) -> int:
    """Return how many bits a type of whole numbers has; 0 for others."""
    is_integer = bool(sample_type) and np.issubdtype(np.dtype(sample_type), np.integer)
    return np.iinfo(sample_type).bits if is_integer else 0
