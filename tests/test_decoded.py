"""A training decodes each file once, or twice if its scratch space is full, and learns the same."""

import time
from collections import Counter
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

import anodetect
from anodetect.commands import train as training
from anodetect.data import readers, synthetic
from anodetect.data.records import Record
from anodetect.data.volumes import Volume
from anodetect.detectors.pca import PCA
from anodetect.imaging.representations import features_installed
from anodetect.model import decoded as decoded_module
from anodetect.model.decoded import Decoded, DecodedFiles
from anodetect.model.loading import Failed
from anodetect.model.read_ahead import read_ahead
from anodetect.record import runs

RNG = np.random.default_rng(0)
needs_weights = pytest.mark.skipif(
    not features_installed(), reason="the extra `features` is not installed"
)


def bits(array):
    return array.view(np.int32 if array.dtype == np.float32 else np.uint8).tolist()


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        (RNG.integers(0, 256, (3, 9, 8)), np.uint8),
        (RNG.integers(0, 60_000, (1, 9, 8)), np.uint16),
        (RNG.integers(-1024, 3000, (1, 9, 8)), np.int16),
        (RNG.integers(-(10**6), 10**6, (1, 9, 8)), np.float32),
        (RNG.normal(size=(1, 9, 8)), np.float32),
        (np.array([[[0.0, -0.0]]]), np.float32),  # the sign of zero is part of an image's hash
    ],
)
def test_images_come_back_bit_for_bit_in_the_least_space(tmp_path, values, stored):
    image = values.astype(np.float32)
    with DecodedFiles(tmp_path) as scratch:
        scratch.put("a", Decoded("hash", image))
        back = scratch.get("a")
        assert scratch.size == image.size * np.dtype(stored).itemsize
        assert scratch.get("b") is None
    assert back.sha256 == "hash"
    assert back.content.dtype == np.float32
    assert bits(back.content) == bits(image)


@pytest.mark.parametrize("order", ["C", "F"])
def test_volumes_come_back_with_their_place_and_foreground(tmp_path, order):
    voxels = np.asarray(RNG.normal(size=(5, 6, 7)), np.float32, order=order)[None]
    affine = np.diag([1.0, 2, 3, 1])
    volume = Volume(voxels, affine, modality="CT", origin="what only writers of maps need")
    foreground = voxels[0] > 0
    with DecodedFiles(tmp_path) as scratch:
        scratch.put("a", Decoded("hash", volume, foreground))
        back = scratch.get("a")
    assert np.array_equal(back.content.voxels, voxels)
    # Slices are cut as fast as before.
    assert back.content.voxels.strides[1:] == voxels.strides[1:]
    assert np.array_equal(back.foreground, foreground)
    assert replace(back.content, voxels=0, affine=0) == replace(
        volume, voxels=0, affine=0, origin=None
    )
    assert np.array_equal(back.content.affine, affine)


def test_what_does_not_fit_is_not_kept_unless_it_is_needed_again(tmp_path):
    image = RNG.normal(size=(1, 10, 10)).astype(np.float32)
    with DecodedFiles(tmp_path, limit=2 * image.nbytes) as scratch:
        for name in "abc":
            scratch.put(name, Decoded(name, image))
        assert [scratch.get(name) is not None for name in "abcd"] == [True, True, False, False]
        scratch.keep_only(["d"])
        for name in "cd":
            scratch.put(name, Decoded(name, image))
        assert [scratch.get(name) is not None for name in "abcd"] == [True, True, False, True]


def test_a_full_disk_is_no_failure(tmp_path, monkeypatch):
    def full(self, array):
        raise OSError("No space left on device")

    monkeypatch.setattr(DecodedFiles, "_append", full)
    with DecodedFiles(tmp_path) as scratch:
        scratch.put("a", Decoded("hash", np.zeros((1, 8, 8), np.float32)))
        assert scratch.get("a") is None


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoded") / "tiles"
    synthetic.write(folder, train=40, test=4, size=64)
    return folder


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Volumes of ellipsoids, with a foreground that the manifest names."""
    folder = tmp_path_factory.mktemp("decoded") / "volumes"
    folder.mkdir()
    columns, rows, planes = np.ogrid[-1:1:20j, -1:1:18j, -1:1:8j]
    inside = columns**2 + rows**2 + planes**2 < 0.8
    lines = ["path,group,foreground"]
    for number in range(8):
        voxels = inside * (300 + 60 * RNG.normal(size=inside.shape))
        for name, values in (("v", voxels), ("f", inside)):
            image = nib.Nifti1Image(values.astype(np.int16), np.diag([1, 1, 3, 1]))
            nib.save(image, folder / f"{name}{number}.nii.gz")
        lines.append(f"v{number}.nii.gz,p{number},f{number}.nii.gz")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def decodings(monkeypatch):
    """How often each file was decoded."""
    counts, real = Counter(), readers.Source.content

    def content(self, component=None):
        counts[self.record.id] += 1
        return real(self, component)

    monkeypatch.setattr(readers.Source, "content", content)
    return counts


def learned(path):
    """Everything a run has learned: weights, calibration, preprocessing and colour scale."""
    run = runs.read(path)
    arrays = [*run.state.values(), run.calibration.scores, run.calibration.peaks]
    keys = ("preprocess", "representation_state", "scale")
    return [array.tobytes() for array in arrays], [getattr(run.header, key) for key in keys]


@pytest.mark.parametrize(
    ("data", "detector", "values", "files"),
    [
        ("images", "pca", {"components": 5}, 40),
        pytest.param("images", "patchcore", {"size": 64, "memory": 100}, 40, marks=needs_weights),
        ("images", "pca", {"tile": 32, "components": 5}, 40),
        ("volumes", "pca", {"size": 16, "components": 5}, 16),
    ],
)
def test_files_are_decoded_once_or_where_scratch_is_full_a_few_times(
    data, detector, values, files, request, decodings, tmp_path, monkeypatch
):
    folder = request.getfixturevalue(data)
    anodetect.train(str(folder), detector, tmp_path / "once", values=values)
    trained_on = [name for name in decodings if not name.startswith("test/")]
    assert len(trained_on) == files
    assert set(decodings.values()) == {1}  # also of test files, which must be no copies

    decodings.clear()
    monkeypatch.setattr(training, "SCRATCH", 1)
    anodetect.train(str(folder), detector, tmp_path / "twice", values=values)
    fit = {row.path for row in runs.read_manifest(tmp_path / "twice") if row.role == "fit"}
    for name in trained_on:
        of = name.replace("f", "v", 1)  # a volume's foreground is read with it
        if {name, of} & fit and detector != "patchcore":
            # Once more to look for odd ones, and those that are shown for their pictures.
            assert 2 < decodings[name] <= 6
        else:
            assert decodings[name] == 2
    assert {count for name, count in decodings.items() if name not in trained_on} <= {1}
    assert learned(tmp_path / "once") == learned(tmp_path / "twice")


def test_slices_of_two_volumes_are_never_read_at_once(tmp_path):
    """Otherwise threads that overtake each other read both volumes twice."""
    slices = [
        replace(Record(tmp_path / name, name, name), slice=number)
        for name in ("a", "b", "c")
        for number in range(9)
    ]
    reading, pairs = [], []

    def slowly(record):
        reading.append(record.id)
        time.sleep(0.002 * (record.slice % 3))
        pairs.append(set(reading))
        reading.remove(record.id)
        return Failed(record, "", "")

    done = [loaded.record for loaded in read_ahead(slowly, slices)]
    assert done == slices
    assert all(len(ids) == 1 for ids in pairs)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_scratch_is_removed_when_a_training_ends_early(images, tmp_path, monkeypatch, error):
    opened, real = [], decoded_module.tempfile.TemporaryFile

    def temporary_file(**options):
        opened.append(real(**options))
        assert options["dir"] == tmp_path / "new"  # the disk of the run, which is begun there
        return opened[-1]

    def fit(self, *batches, context):
        raise error

    monkeypatch.setattr(decoded_module.tempfile, "TemporaryFile", temporary_file)
    monkeypatch.setattr(PCA, "fit", fit)
    with pytest.raises(error):
        anodetect.train(str(images), "pca", tmp_path / "new" / "run")
    assert [file.closed for file in opened] == [True]
    names = sorted(path.name for path in (tmp_path / "new" / "run.partial").iterdir())
    assert names == [".lock", "fingerprint", "train.jsonl"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run.partial"]
