"""The values that pictures of an image or volume show black and white."""

from typing import TYPE_CHECKING

from anodetect.imaging.preprocess import Preprocess
from anodetect.model.loading import LoadedImage, LoadedVolume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from anodetect.data.dicom_window import Window


def display_window(
    preprocess: Preprocess, loaded: LoadedImage | LoadedVolume, header: "Dataset | None" = None
) -> "Window | None":
    """Return the window of pictures in native units: the one that was asked for in training, else
    that of the DICOM file, with `header` for an image, else the range that the model sees; None for
    an image whose range is its own, and for several channels, which have units of their own."""
    if preprocess.named is not None:
        return None
    if preprocess.config.window is None:
        stated = _stated(loaded, header)
        if stated is not None:
            return stated
    if isinstance(loaded, LoadedVolume) and not loaded.volume.is_pictures:
        return preprocess.shown_range(loaded.volume)
    return preprocess.shown_range()


def _stated(loaded: LoadedImage | LoadedVolume, header: "Dataset | None") -> "Window | None":
    """Return the window that a DICOM file states."""
    if isinstance(loaded, LoadedImage) and header is None:
        return None
    from anodetect.data.dicom_window import window_of, window_of_volume  # with pydicom

    if isinstance(loaded, LoadedImage):
        return window_of(header)
    return window_of_volume(loaded.volume.source)
