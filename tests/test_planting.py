"""Planted copies of tune images as a detector sees them: they differ from the clean ones by their
defect alone, whatever lies between a file and a detector."""

import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from anodetect.data import cards
from anodetect.data.records import Record
from anodetect.imaging.intensities import sample_of
from anodetect.imaging.sample_types import SampleTypes
from anodetect.imaging.tiling import TilingConfig
from anodetect.model.encoding import encode_all
from anodetect.model.loading import Reader, slice_records
from anodetect.model.model import Model
from anodetect.model.planting import LEAST_PLANTED, Planting, limits_in, spread
from anodetect.model.settings import resolve

SIDE = 64


def model_of(records, *, size=SIDE, **sections):
    """Return a model of pixels whose preprocessing has learned from images."""
    config = resolve("pca", "pixels", {"size": size})
    for name, values in sections.items():
        config[name] = config[name] | values
    model = Model.create("pca", "pixels", config)
    reader = Reader(model.preprocess)
    if records:
        model.preprocess.learn([sample_of(reader.read(record).image) for record in records])
    return model


def tune_and_copies(model, records, folder, seed=3, **options):
    reader = Reader(model.preprocess, model.prepare)
    tune, starts = encode_all(model, reader.read, records, folder / "tune", seed, kinds=[""])
    planting = Planting(model, records, starts, folder, seed=seed, **{"budget": None} | options)
    return tune, planting


def check(tune, copies):
    """Copies are the clean image but for a part of it, and have its foreground."""
    changed = []
    for copy in copies.copies:
        clean = tune[copies.of]
        assert np.array_equal(copy.foreground, clean.foreground)
        difference = (copy.images != clean.images).any(1)
        assert not difference[~clean.foreground].any()
        changed.append(difference.mean((1, 2)))
    changed = np.array(changed)
    assert (changed < 0.6).all()
    assert (changed > 0).mean() > 0.9  # a blurred or filled part of even brightness is no defect
    assert len(np.unique(changed)) > 10
    return changed


@pytest.fixture
def records(synthetic_folder):
    return cards.open_data(str(synthetic_folder)).training()[:20]


def test_copies_are_clean_images_with_a_defect_each(records, tmp_path):
    tune, planting = tune_and_copies(model_of(records), records, tmp_path)
    assert not list(tmp_path.glob("planted*"))  # nobody has asked for them
    copies = planting.copies()
    assert copies is planting.copies()
    assert len(copies.copies) == 3
    assert copies.of.tolist() == list(range(20))
    check(tune, copies)


def test_the_same_defects_are_planted_whatever_the_detector_sees(records, tmp_path):
    """Fine and coarse pixels of an image change at the same places."""
    maps = []
    for size in (64, 32):
        folder = tmp_path / str(size)
        folder.mkdir()
        tune, planting = tune_and_copies(model_of(records, size=size), records, folder)
        copies = planting.copies()
        difference = (copies.copies[0].images - tune.images[copies.of])[:, 0]
        maps.append(difference.reshape(20, 32, size // 32, 32, size // 32).mean((2, 4)))
    fine, coarse = maps
    assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.9


def test_with_tiles_a_defect_lies_in_a_tile_that_is_seen(records, tmp_path):
    model = model_of(records, tiling={"tile": 32}, representation={"size": 32})
    tune, planting = tune_and_copies(model, records, tmp_path)
    assert len(tune) > 3 * len(records)
    copies = planting.copies()
    starts = planting.starts
    assert (np.searchsorted(starts, copies.of, "right") - 1).tolist() == list(range(20))
    assert len(set(copies.of - starts)) > 1  # not always the first tile
    check(tune, copies)


def test_the_foreground_is_that_of_the_clean_image(tmp_path):
    rng = np.random.default_rng(0)
    rows, columns = np.indices((SIDE, SIDE))
    disc = np.hypot(rows - 30, columns - 34) < 22
    records = []
    for number in range(8):
        pixels = np.where(disc, rng.integers(100, 160, disc.shape), 0).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        records.append(Record(str(number), tmp_path / f"{number}.png"))
    model = model_of(records)
    assert model.preprocess.flat_background
    tune, planting = tune_and_copies(model, records, tmp_path)
    assert 0.2 < tune.foreground.mean() < 0.5
    check(tune, planting.copies())


def test_values_stay_what_the_files_type_can_hold(records):
    model = model_of(records)
    loaded = Reader(model.preprocess).read(records[0])
    assert loaded.sample_type == "uint8"
    assert limits_in(model.preprocess, loaded).high == 255
    model.preprocess.sample_types = SampleTypes("uint16", {"uint8": 257.0, "uint16": 1.0})
    limits = limits_in(model.preprocess, loaded)
    assert (limits.low, limits.high, limits.step) == (0, 65535, 257)


def test_slices_of_volumes_are_planted_in(tmp_path):
    rng = np.random.default_rng(0)
    model, records = None, []
    for number in range(2):
        voxels = rng.normal(100, 10, (40, 40, 12)).astype(np.float32)
        path = tmp_path / f"{number}.nii"
        nib.save(nib.Nifti1Image(voxels, np.diag([1, 1, 3, 1])), path)
        whole = Record(path.name, path)
        model = model or model_of([], size=40, preprocess={"foreground": "all", "axis": "axial"})
        model.preprocess.of_volumes = True
        records += slice_records(Reader(model.preprocess).read(whole))
    tune, planting = tune_and_copies(model, records, tmp_path)
    copies = planting.copies()
    assert len(copies) == len(records) == 24
    check(tune, copies)


def test_volumes_in_three_dimensions_have_no_copies(records, tmp_path):
    model = model_of(records)
    model.tiling = TilingConfig(dims=3)
    planting = Planting(model, records, np.arange(20), tmp_path, seed=0, budget=None)
    assert planting.copies() is None


def test_little_time_means_fewer_images_evenly_spread(records, tmp_path, monkeypatch):
    model = model_of(records)
    tune, planting = tune_and_copies(model, records, tmp_path, budget=2.0)
    prepare = model.prepare_scaled

    def slow(*scaled):
        time.sleep(0.01)
        return prepare(*scaled)

    monkeypatch.setattr(model, "prepare_scaled", slow)
    copies = planting.copies()
    assert copies.of.tolist() == spread(20, LEAST_PLANTED).tolist()
    check(tune, copies)


def test_training_makes_choices_with_planted_copies(anoddpm_run):
    log = Path(anoddpm_run, "train.jsonl").read_text().splitlines()
    chosen = [json.loads(line) for line in log if "pixel_error" in line]
    names = [name for name in chosen[0] if name.startswith("planted_auroc")]
    assert len(names) == 12
    assert all(0.3 < chosen[0][name] <= 1 for name in names)
