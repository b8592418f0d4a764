"""Where a labelled image or volume is anomalous, as its mask says."""

from anodetect.data import readers
from anodetect.data.geometry import Geometry
from anodetect.data.scan import Record
from anodetect.data.volumes import Volume
from anodetect.errors import ImageError
from anodetect.types import Bools


def read_truth(
    record: Record, shape: tuple[int, ...], grid: tuple[Volume, Geometry] | None = None
) -> Bools | None:
    """Return a record's mask, bool [H, W], True where anomalous; None if it has no mask.

    With `grid`, a volume and its geometry, the mask is a volume and is returned as [D, H, W] in the
    order of the slices. Raises ImageError if the mask cannot be read or has another `shape`.
    """
    if record.mask is None:
        return None
    mask = readers.volume_mask(record.mask, *grid) if grid else readers.read_mask(record.mask)
    if mask.shape != shape:
        raise ImageError(f"its size {mask.shape} is not the image's {shape}")
    return mask
