"""Whether the values of a DICOM series' images mean the same in all of them: refused where they
evidently do not, and said where nothing makes sure that they do.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pydicom.dataset import Dataset

from anodetect.data.dicom_frames import Frame, functional_groups
from anodetect.data.dicom_pixels import is_rescaled
from anodetect.data.volumes import FIXED_UNITS
from anodetect.errors import ImageError
from anodetect.types import Floats
from anodetect.words import amount

LEAST_DENSE = -200.0  # Hounsfield units; some of what a CT shows is less dense: air, lung or fat


def check_scaled_alike(headers: Iterable[Dataset]) -> None:
    """Raise ImageError if some images of a series say how stored values become native ones, and
    others do not: their values cannot be compared."""
    scaled, count = 0, 0
    is_scale = False  # and not the values as they are
    for header in headers:
        groups = functional_groups(header)
        for group in groups if any(map(is_rescaled, groups)) else [header]:
            count += 1
            scaled += bool(group.get("ModalityLUTSequence")) or is_rescaled(group)
            is_scale |= _is_scale(group)
    if is_scale and scaled < count:
        of = f"of {count} images"
        raise ImageError(
            f"{amount(count - scaled, f'{of} lacks', f'{of} lack')} RescaleSlope and "
            "RescaleIntercept, which the others have; correct their headers"
        )


def check_hounsfield(header: Dataset, voxels: Floats) -> None:
    """Raise ImageError if a CT neither says how values become Hounsfield units nor has any of
    air."""
    rescaled = any(map(is_rescaled, (header, *functional_groups(header))))
    if not rescaled and not header.get("ModalityLUTSequence") and voxels.min() > LEAST_DENSE:
        raise ImageError(
            "a CT without RescaleSlope and RescaleIntercept whose values are no Hounsfield units "
            f"(from {voxels.min():g} to {voxels.max():g}); correct the header"
        )


def note_of_units(headers: Sequence[Dataset], places: Sequence[Frame]) -> str:
    """Return why values of a volume's frames, which lie in the files of these headers, may not be
    comparable; "" if nothing speaks against it.

    The units that they name may differ. Or files store other numbers of bits, and neither a scale
    nor a unit says what their values mean.
    """
    units, are_scaled = set[str](), False
    for group, header in _groups_of(headers, places):
        own = str(
            group.get("RescaleType") or header.get("RescaleType") or header.get("Units") or ""
        )
        units.add(own.strip().upper())
        are_scaled |= _is_scale(group)
    named = units - {""}
    if len(named) > 1:
        return (
            f"its images have values of {len(named)} units (RescaleType, Units); those of "
            "different slices may not be comparable"
        )

    modality = headers[places[0].file].get("Modality")
    bits = Counter(int(headers[place.file].get("BitsStored") or 0) for place in places)
    if len(bits) == 1 or named or are_scaled or modality in FIXED_UNITS:
        return ""
    counts = " and ".join(
        f"{count} images of {depth} bits" for depth, count in sorted(bits.items())
    )
    return (
        f"{counts} in one series, and no scale or unit says that their values mean the same; if "
        "they do not, store all with the same bits"
    )


def _groups_of(
    headers: Sequence[Dataset], places: Iterable[Frame]
) -> Iterator[tuple[Dataset, Dataset]]:
    """Yield for each frame the attributes that scale its values, and the header of its file."""
    by_file: dict[int, list[Dataset]] = {}
    for place in places:
        header = headers[place.file]
        if place.file not in by_file:
            groups = functional_groups(header)
            by_file[place.file] = groups if any(map(is_rescaled, groups)) else []
        groups = by_file[place.file]
        yield (groups[place.number] if groups else header), header


def _is_scale(group: Dataset) -> bool:
    """Return whether stored values become other ones."""
    if group.get("ModalityLUTSequence"):
        return True
    return is_rescaled(group) and (group.RescaleSlope, group.RescaleIntercept) != (1, 0)
