"""A representation and a detector that cost nothing, so that all else can be measured.

They are named `null`, and are known as long as this module is imported. The map of an image is one
of a few that are made beforehand: smooth noise as a detector has on normal images, with a bump that
counts as a region for images whose first pixel is white. The score is a number from the content.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

import numpy as np
import tifffile
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

import anodetect
from anodetect.config import Config, Pooling
from anodetect.data import synthetic
from anodetect.detectors import DETECTORS, Entry
from anodetect.imaging.representations import REPRESENTATIONS, Panels
from anodetect.imaging.resize import resize
from anodetect.types import Batch, Bools, Encoded, Floats, Scores, Seeds, State, TrainContext

GRID = 64  # pixels a side that the detector sees
FINE = 128  # pixels a side of the noise in maps, as of a detector on pixels
FIELDS = 4  # different maps
NORMALS = 60  # images to train on
DRAWN = 100  # different images

# -- What costs nothing ----------------------------------------------------------------------------


@cache
def maps(height: int, width: int) -> Floats:
    """Return maps of this size [2 × FIELDS, H, W]: smooth noise, then the same with a bump."""
    rng = np.random.default_rng(0)
    noise = np.abs(ndimage.gaussian_filter(rng.normal(size=(FIELDS, FINE, FINE)), (0, 2, 2)))
    rows, columns = np.mgrid[:FINE, :FINE] / FINE - 0.5
    bump = np.exp(-((rows / 0.08) ** 2 + (columns / 0.05) ** 2))
    fine = np.concatenate([noise, noise + bump]).astype(np.float32)
    return resize(fine, height, width)


class NullConfig(Config):
    """Nothing but what every detector has."""

    pooling: Pooling = Pooling()


class Null:
    """A detector that looks at one pixel."""

    Config = NullConfig
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: NullConfig) -> None:
        self.config = config

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Do nothing."""

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return maps that were made beforehand, and scores from the seeds; both are high for
        images whose first pixel is white."""
        white = batch.images[:, 0, 0, 0] > 0
        places = (seeds % np.uint64(FIELDS)).astype(int) + FIELDS * white
        scores = white + (seeds >> np.uint64(32)) / 2.0**32
        return Scores(scores.astype(np.float32), maps(GRID, GRID)[places])

    def state(self) -> State:
        """Return no arrays."""
        return {}

    def load_state(self, state: State, *, device: str) -> None:
        """Do nothing."""


class NoSettings(Config):
    """No settings."""


class NullRepresentation:
    """Every n-th pixel; maps come back as they were made for the image's size."""

    Config = NoSettings
    shape = (3, GRID, GRID)

    def __init__(self, config: NoSettings) -> None:
        self.places = {float(each[0, 0]): place for place, each in enumerate(maps(GRID, GRID))}

    def shape_of(self, channels: int) -> tuple[int, int, int]:
        """Return the shape of images with so many channels on the grid."""
        return channels, GRID, GRID

    def source(self) -> None:
        """No network is used."""

    def without_cache(self) -> None:
        """Nothing is kept."""

    def run_on(self, device: str) -> None:
        """Nothing is computed on a device."""

    def learn(self, images: Iterable[tuple[Floats, Bools]]) -> None:
        """There is nothing to learn."""

    def prepare(self, image: Floats, foreground: Bools) -> Encoded:
        """Return every n-th pixel of an image [C, H, W] and of its foreground [H, W]."""
        height, width = foreground.shape
        rows, columns = (np.arange(GRID) * side // GRID for side in (height, width))
        return image[:, rows[:, None], columns], foreground[rows[:, None], columns]

    def represent(self, prepared: Iterable[Encoded]) -> Iterator[Encoded]:
        """Yield what was prepared as it is."""
        yield from prepared

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """Return the map that was made for this size."""
        return maps(*shape)[self.places[float(heatmap[0, 0])]]

    def panels(
        self, image: Floats, encoded: Floats, heatmap: Floats, reconstruction: Floats | None
    ) -> Panels:
        """Return what the detector saw."""
        return Panels(encoded, heatmap, reconstruction)

    def state(self) -> dict[str, list[float]]:
        """Return nothing."""
        return {}

    def load_state(self, state: Mapping[str, ArrayLike]) -> None:
        """There is nothing to load."""


DETECTORS["null"] = Entry(
    "benchmarks.null:Null", "Nothing.", "none", "nothing", representations=("null",)
)
REPRESENTATIONS["null"] = "benchmarks.null:NullRepresentation"

# -- Images ----------------------------------------------------------------------------------------


def picture(number: int, side: int, *, white: bool) -> NDArray[np.uint8]:
    """Return a textured disc before a black background [side, side]."""
    values = synthetic.images(1, size=side, seed=number)[0][0, 0].copy()
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    values[rows**2 + columns**2 > 0.2] = 0
    values[0, 0] = 255 * white
    return values


def write_png(path: Path, values: NDArray[np.uint8]) -> None:
    """Write an image of 8 bits."""
    Image.fromarray(values).save(path.with_suffix(".png"))


def write_tiff(path: Path, values: NDArray[np.uint8]) -> None:
    """Write an image with grain of 16 bits, without compression."""
    tifffile.imwrite(path.with_suffix(".tiff"), _deeper(values, 200))


def write_dicom(path: Path, values: NDArray[np.uint8]) -> None:
    """Write a radiograph with grain of 12 bits, without compression."""
    pixels, header = _deeper(values, 15), Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    header.SOPClassUID = DigitalXRayImageStorageForPresentation
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.StudyInstanceUID, header.SeriesInstanceUID = generate_uid(), generate_uid()
    header.Modality, header.PatientID = "DX", path.stem
    header.PhotometricInterpretation, header.SamplesPerPixel = "MONOCHROME2", 1
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation = 0
    header.Rows, header.Columns = pixels.shape
    header.PixelData = pixels.tobytes()
    header.save_as(path.with_suffix(".dcm"), enforce_file_format=True)


def _deeper(values: NDArray[np.uint8], factor: int) -> NDArray[np.uint16]:
    """Return values times a factor, with grain where they are not black."""
    grain = np.random.default_rng(0).integers(0, factor, values.shape)
    return (values.astype(np.uint16) * factor + grain * (values > 0)).astype(np.uint16)


@dataclass(frozen=True)
class Kind:
    """Images that are scored: their side in pixels, and the function that writes one."""

    side: int
    write: Callable[[Path, NDArray[np.uint8]], None]


KINDS = {
    "256² 8-bit PNG": Kind(256, write_png),
    "1024² 16-bit TIFF": Kind(1024, write_tiff),
    "512² DICOM": Kind(512, write_dicom),
}


def write_images(folder: Path, kind: Kind, count: int, *, white: bool) -> None:
    """Write so many images; `white` ones have a region in their map. From DRAWN on they are others
    that are shifted."""
    folder.mkdir(parents=True)
    drawn: list[NDArray[np.uint8]] = []
    for number in range(count):
        if number < DRAWN:
            drawn.append(picture(number + 10**6 * white, kind.side, white=white))
        values = np.roll(drawn[number % DRAWN][1:], number // DRAWN, 1)
        kind.write(folder / f"{number:06}", np.concatenate([drawn[number % DRAWN][:1], values]))


def trained(kind: Kind, scratch: Path) -> Path:
    """Return a run of the null detector, made with images of this kind."""
    write_images(scratch / "normal", kind, NORMALS, white=False)
    anodetect.train(str(scratch / "normal"), "null", scratch / "run")
    return scratch / "run"


# -- Stages ----------------------------------------------------------------------------------------

# Where time goes: the name of a stage, and the functions that are it, "module:name".
STAGES = {
    "list the folder": ("anodetect.commands.score:collect",),
    "load the model": ("anodetect.engines.worker:Model.load",),
    "read and hash": ("anodetect.data.readers:read_source",),
    "decode": ("anodetect.data.readers:Source.content",),
    "hash pixels": ("anodetect.model.loading:content_hash",),
    "foreground and range": ("anodetect.imaging.preprocess:Preprocess.apply",),
    "seeds": ("anodetect.model.model:image_seeds",),
    "batches and model": ("anodetect.model.model:Model.score",),
    "map to the image": ("anodetect.model.scoring:native_map",),
    "facts": ("anodetect.engines.worker:facts_of",),
    "header and window": (
        "anodetect.engines.worker:Worker._header",
        "anodetect.engines.worker:display_window",
    ),
    "write tiff": ("anodetect.output.images:write_map",),
    "write overlay": ("anodetect.output.images:write_jpeg", "anodetect.output.images:write_png"),
    "write mask": ("anodetect.output.images:write_mask",),
    "regions": ("anodetect.engines.worker:find_regions",),
    "pictures of cases": ("anodetect.output.cases:Cases.draw_image",),
    "rows": ("anodetect.engines.worker:Worker._entry", "anodetect.commands.score:Progress.add"),
    "journal": ("anodetect.record.journal:Journal.append",),
    "tables and statistics": ("anodetect.commands.score:finish",),
    "report": ("anodetect.output.report:write",),
}
# Done once, whatever the number of images.
ONCE = ("load the model", "report")


@dataclass
class Clock:
    """CPU seconds of each stage, of all threads; what is called inside counts for itself."""

    seconds: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    inner: threading.local = field(default_factory=threading.local)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with a clock around it."""

        def call(*arguments: Any, **options: Any) -> Any:
            outer = getattr(self.inner, "seconds", 0.0)
            self.inner.seconds = 0.0
            start = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                took = time.thread_time() - start
                with self.lock:
                    own = self.seconds.get(stage, 0.0) + took - self.inner.seconds
                    self.seconds[stage] = own
                self.inner.seconds = outer + took

        return call


@contextmanager
def clocked() -> Iterator[Clock]:
    """Time all stages of what this process does meanwhile."""
    clock, before = Clock(), []
    for stage, names in STAGES.items():
        for name in names:
            module, _, path = name.partition(":")
            *owners, attribute = path.split(".")
            owner = resolve_name(":".join([module, *owners]))
            original = vars(owner)[attribute]
            before.append((owner, attribute, original))
            setattr(owner, attribute, _wrapped(clock, stage, original))
    try:
        yield clock
    finally:
        for owner, attribute, original in before:
            setattr(owner, attribute, original)


def _wrapped(clock: Clock, stage: str, original: Any) -> Any:
    if isinstance(original, classmethod):
        return classmethod(clock.timed(stage, original.__func__))
    return clock.timed(stage, original)


def stages(kind: Kind, count: int, formats: tuple[str, ...]) -> dict[str, float]:
    """Return the milliseconds of one core that an image takes in each stage of scoring `count`
    images in one process."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        run = trained(kind, scratch)
        write_images(scratch / "images", kind, count, white=True)
        paths = [str(scratch / "images")]
        anodetect.score(run, paths, scratch / "warm", heatmaps=formats, workers=1)

        with clocked() as clock:
            start = time.process_time()
            anodetect.score(run, paths, scratch / "out", heatmaps=formats, workers=1)
            total = time.process_time() - start

    found = {stage: clock.seconds.get(stage, 0.0) for stage in STAGES}
    found["rest"] = total - sum(found.values())
    for stage in ONCE:
        del found[stage]
    return {stage: 1000 * seconds / count for stage, seconds in found.items() if seconds}
