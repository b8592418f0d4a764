"""Memory that a large series takes, in multiples of its voxels as float32: beside what is kept, no
more copies at a time than are needed."""

import time
import tracemalloc
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from test_dicom import instance, series

from anodetect.data.records import Record
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.model import read_ahead
from anodetect.model.loading import LoadedVolume, load
from anodetect.output.about import About
from anodetect.output.formats import write_files
from anodetect.output.volumes import VolumeMap
from anodetect.stats.mask_rule import pixel_rule

SHAPE = (12, 320, 320)
SIZE = 4 * np.prod(SHAPE)  # bytes
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:pydicom.*", "ignore::UserWarning:highdicom.*"
)


@contextmanager
def peak():
    """The most memory taken at a time, in multiples of SIZE beyond what is taken already."""
    found = SimpleNamespace(multiple=0.0)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    yield found
    found.multiple = (tracemalloc.get_traced_memory()[1] - before) / SIZE
    tracemalloc.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CT with padding outside a circle, and one bright block."""
    folder, rng = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    y, x = np.mgrid[-1:1:320j, -1:1:320j]
    for number in range(SHAPE[0]):
        values = np.where(np.hypot(x, y) < 0.7, 40 + 20 * rng.normal(size=x.shape), -1000)
        values[150:170, 150:170], values[np.hypot(x, y) > 1] = 900, -2000
        tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0}
        made = instance(values.round().astype(np.int16), number=number, **tags)
        made.save_as(folder / f"{number:02}.dcm", enforce_file_format=True)
    return folder


def read(folder):
    return load(series(folder), Preprocess(PreprocessConfig()))


def test_reading_takes_few_copies(folder):
    with peak() as found:
        loaded = read(folder)
    assert isinstance(loaded, LoadedVolume), loaded
    assert found.multiple < 3.5  # voxels, voxels without padding, masks, and one slice or file


@pytest.mark.parametrize("name", ["nifti", "mask", "dicom"])
def test_writing_takes_no_copy_of_the_map(folder, tmp_path, name):
    volume = read(folder).volume
    heatmap = (volume.slices[0] / 900).clip(0).astype(np.float32)
    shown = VolumeMap(heatmap, volume, (0, 1), pixel_rule(0.5), about=About("patient-1", "0" * 64))
    write_files(tmp_path / "first", [name], "volume", shown)  # what is imported stays
    with peak() as found:
        write_files(tmp_path / "x", [name], "volume", shown)
    assert found.multiple < {"nifti": 0.2, "mask": 0.8, "dicom": 2}[name]


@pytest.mark.parametrize("large", [True, False])
def test_a_large_volume_is_gone_before_the_next_one_is_read(monkeypatch, large):
    """Smaller ones are read ahead."""
    monkeypatch.setattr(read_ahead, "fills_memory", lambda record: True)
    limit = read_ahead.PIXELS_AHEAD
    shape = SimpleNamespace(size=limit + 1 if large else 1)
    made, alive = [], []

    def read(record):
        alive.append(len([each for each in made if each() is not None]))
        volume = LoadedVolume(record, "", SimpleNamespace(slices=shape))
        made.append(weakref.ref(volume))
        return volume

    records = [Record(str(number), "x") for number in range(4)]
    seen = []
    for chunk in read_ahead.in_chunks(read_ahead.read_ahead(read, records, depth=2), 16):
        while chunk:
            volume = chunk.pop(0)
            time.sleep(0.1)  # as a model takes
            seen.append(volume.record.id)
            del volume
    assert seen == ["0", "1", "2", "3"]
    assert (max(alive) == 0) is large
