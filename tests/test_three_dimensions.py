"""`--dims 3`: volumes as patches of voxels, from single functions to whole runs on tiny volumes."""

import math
import os
import signal
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

import anodetect
from anodetect.commands.rescore import rescore
from anodetect.config import Pooling, build
from anodetect.data.records import Record
from anodetect.detectors import detector_class
from anodetect.errors import ConfigError, DataError, Interrupted
from anodetect.generative import noise
from anodetect.imaging import tiling
from anodetect.imaging.heatmaps import counted, pool, smooth
from anodetect.imaging.tiling import TilingConfig
from anodetect.model.loading import load
from anodetect.model.model import Model
from anodetect.model.settings import resolve
from anodetect.nn.augment import Augment, augmented
from anodetect.nn.unet import VolumeUNet
from anodetect.record import directories, runs
from anodetect.record.runs import read as read_run
from anodetect.types import Batch, Scores, TrainContext, image_seeds

SIDES = (8, 32, 32)
PLAIN = {"rotation": 0, "scale": 0, "flip": 0}
TINY = {
    "widths": [16, 32],
    "training": {"steps": 80, "learning_rate": 2e-3, "augment": PLAIN},
    "pooling": {"smooth": 1.0},
}


# -- Noise -----------------------------------------------------------------------------------------


def test_noise_has_unit_variance_and_the_correlation_of_its_spectrum():
    """Against the inverse transform of S(f) ∝ max(f, 4)^(−3 + 2·log₂ .8), f in cycles a side; white
    noise has none."""
    fields = noise.octave_noise(
        [noise.generator(seed) for seed in range(40)], 2, (8, 32, 32)
    ).double()
    assert fields.shape == (40, 2, 8, 32, 32)
    assert torch.allclose(
        fields.mean((2, 3, 4)), torch.zeros(40, 2, dtype=torch.float64), atol=1e-5
    )
    assert torch.allclose(fields.std((2, 3, 4)), torch.ones(40, 2, dtype=torch.float64), atol=1e-4)
    cycles = np.meshgrid(
        *(np.minimum(np.arange(n), n - np.arange(n)) for n in (8, 32, 32)), indexing="ij"
    )
    spectrum = np.maximum(np.sqrt(sum(c.astype(float) ** 2 for c in cycles)), 4) ** (
        -3 + 2 * math.log2(0.8)
    )
    spectrum[0, 0, 0] = 0  # each field has mean 0
    correlation = np.fft.ifftn(spectrum).real
    correlation /= correlation[0, 0, 0]
    for shift in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 4), (0, 4, 4), (2, 0, 0), (1, 4, 0)]:
        found = (fields * fields.roll(shift, (2, 3, 4))).mean()
        assert float(found) == pytest.approx(correlation[shift], abs=0.02), shift
    assert correlation[0, 0, 1] > 0.7
    assert correlation[1, 0, 0] == pytest.approx(
        correlation[0, 0, 4], abs=0.1
    )  # of a patch it is the same share


def test_noise_is_seeded_per_patch():
    one = noise.octave_noise([noise.generator(7)], 1, SIDES)[0]
    assert torch.equal(
        noise.octave_noise([noise.generator(3), noise.generator(7)], 1, SIDES)[1], one
    )


# -- Network, maps and patches ---------------------------------------------------------------------


def test_the_stem_folds_voxels_losslessly_and_keeps_thin_axes():
    net = VolumeUNet(2, 2, [16, 32], stem=(1, 4, 4))
    seen = []

    def identity(x, t):
        seen.append(x)
        return x

    net.net.forward = identity
    x = torch.randn(3, 2, 8, 16, 24)
    assert torch.equal(net(x, torch.zeros(3, dtype=torch.long)), x)
    assert seen[0].shape == (3, 2 * 16, 8, 4, 6)
    assert torch.equal(seen[0][1, :16, 5, 2, 3], x[1, 0, 5, 8:12, 12:16].flatten())


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_gradients_in_bfloat16_are_those_in_float32(depth):
    """On some grids oneDNN's are not; there the network has to stay in float32."""
    torch.manual_seed(0)
    net = VolumeUNet(1, 1, [16, 16], stem=(1, 2, 2))
    torch.nn.init.normal_(
        net.net.out[2].conv.weight, std=0.1
    )  # zeros would let no gradient through
    x, t = torch.randn(4, 1, depth, 16, 16), torch.arange(4)
    gradients = []
    for halved in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            (net(x, t) - x).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.05


def test_all_slices_of_a_patch_are_turned_and_mirrored_alike():
    patch = torch.rand(2, 1, 4, 16, 16)
    config = Augment(rotation=30, scale=0.2, shift=0.1, flip=0.5)
    together = augmented(patch, [noise.generator(1), noise.generator(2)], config)
    slices = [
        augmented(patch[:, :, n], [noise.generator(1), noise.generator(2)], config)
        for n in range(4)
    ]
    assert torch.allclose(together, torch.stack(slices, 2), atol=1e-6)


def test_maps_of_volumes_are_smoothed_along_every_axis_and_pooled_over_all_voxels():
    rng = np.random.default_rng(0)
    maps, inside = rng.random((2, 6, 12, 12), np.float32), np.ones((2, 6, 12, 12), bool)
    inside[1, :, :4] = False
    found = smooth(maps, inside, (0.5, 2, 2))
    assert np.allclose(found[0], ndimage.gaussian_filter(maps[0], (0.5, 2, 2)), atol=1e-6)
    assert (found[1, :, :4] == 0).all()
    core = counted(inside, 1)
    assert not core[1, :, 4].any()
    assert core[1, 0, 5].all()  # the rim is in the plane of slices
    assert pool(maps, inside, Pooling(top=0.01, erode=0))[0] == pytest.approx(
        np.sort(maps[0].ravel())[-9:].mean()
    )


def local_contrast(batch, seeds):
    maps = ndimage.gaussian_filter(np.abs(batch.images), (0, 0, 1, 2, 2), mode="constant")[:, 0]
    return Scores(maps.max((1, 2, 3)), maps * batch.foreground)


def heatmap(image, foreground=None, detect=local_contrast, patch=SIDES):
    inside = np.ones(image.shape[1:], bool) if foreground is None else foreground
    return tiling.volume_heatmap(
        image, inside, TilingConfig(dims=3, patch=patch), seed=1, detect=detect
    )


@pytest.mark.parametrize("shape", [(19, 70, 45), (3, 20, 50)])
def test_a_detector_that_looks_at_single_voxels_sees_the_whole_volume(shape):
    image = np.random.default_rng(0).random((1, *shape), np.float32)

    def voxelwise(batch, seeds):
        return Scores(batch.images.max((1, 2, 3, 4)), batch.images[:, 0] * batch.foreground)

    assert np.allclose(heatmap(image, detect=voxelwise), image[0], atol=1e-6)
    inside = np.zeros(shape, bool)
    inside[:, 5:15] = True
    assert np.allclose(heatmap(image, inside, voxelwise), np.where(inside, image[0], 0), atol=1e-6)


def test_patches_have_seeds_of_their_own_and_empty_ones_are_not_looked_at():
    seen = {}

    def detect(batch, seeds):
        assert batch.foreground.any((1, 2, 3)).all()
        seen.update(
            zip(batch.images[:, 0, 0, 0, 0].tolist(), seeds.tolist(), strict=True)
        )  # by the patch's place
        return local_contrast(batch, seeds)

    image = np.arange(20 * 64 * 64, dtype=np.float32).reshape(1, 20, 64, 64)
    heatmap(image, detect=detect)
    first = dict(seen)
    assert len(set(first.values())) == len(first) == 3 * 3 * 3
    half = np.zeros(image.shape[1:], bool)
    half[:, :, 60:] = True
    seen.clear()
    heatmap(image, half, detect)
    assert len(seen) == 3 * 3
    assert seen.items() < first.items()  # what is not looked at does not move other patches' seeds


def test_random_patches_lie_inside_and_avoid_background():
    image = np.arange(16 * 64 * 64, dtype=np.float32).reshape(1, 16, 64, 64)
    inside = np.zeros(image.shape[1:], bool)
    inside[:, 40:] = True
    crops = tiling.random_crops(
        image, inside, TilingConfig(dims=3, patch=SIDES), 9, np.random.default_rng(0)
    )
    assert len(crops) == 9
    for patch, foreground in crops:
        assert patch.shape == (1, *SIDES)
        assert foreground.mean() >= tiling.EMPTY
        d, h, w = np.unravel_index(int(patch[0, 0, 0, 0]), image.shape[1:])
        assert np.array_equal(patch, image[:, d : d + 8, h : h + 32, w : w + 32])
        assert np.array_equal(foreground, inside[d : d + 8, h : h + 32, w : w + 32])


# -- The detector's promises -----------------------------------------------------------------------


def patches(count, channels=1, seed=0, blob=False, sides=SIDES):
    """Smooth textures; in the middle of each a `blob` of another brightness."""
    rng = np.random.default_rng(seed)
    images = ndimage.gaussian_filter(
        rng.normal(size=(count, channels, *sides)), (0, 0, 1, 3, 3), mode="wrap"
    )
    images = (0.4 * images / images.std()).astype(np.float32)
    if blob:
        images[:, :, 3:6, 12:19, 12:19] += 0.8 * rng.choice([-1, 1], (count, 1, 1, 1, 1))
    return Batch(images, np.ones((count, *sides), bool))


def make(**changes):
    cls = detector_class("anoddpm", dims=3)
    return cls(build(cls.Config, TINY | changes, "anoddpm"))


def context(folder, **options):
    folder.mkdir(parents=True, exist_ok=True)
    return TrainContext(**{"seed": 0, "device": "cpu", "workdir": folder} | options)


def fitted(folder, channels=1, sides=SIDES, steps=3, **changes):
    training = TINY["training"] | {"steps": steps}
    detector = make(**{"training": training} | changes)
    fit, tune = (patches(n, channels, seed, sides=sides) for n, seed in ((24, 0), (12, 1)))
    detector.fit(fit, tune, context=context(folder))
    return detector


def score(detector, batch):
    return detector.score(batch, seeds=image_seeds(list(batch.images)))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("patches"), steps=80)


def test_blobs_score_above_clean_patches_where_they_are(detector):
    clean, odd = (
        score(detector, patches(10, seed=5)),
        score(detector, patches(10, seed=6, blob=True)),
    )
    assert roc_auc_score([0] * 10 + [1] * 10, [*clean.image, *odd.image]) > 0.9
    inside = odd.heatmap[:, 3:6, 12:19, 12:19].mean()
    assert inside > 3 * odd.heatmap.mean()


@pytest.mark.parametrize("kind", ["constant", "blurred"])  # mere noise may pass, as its module says
def test_patches_unlike_any_normal_score_above_clean_ones(detector, kind):
    clean = patches(10, seed=5)
    flat = np.full_like(clean.images, -0.5)
    odd = flat if kind == "constant" else ndimage.gaussian_filter(clean.images, (0, 0, 2, 4, 4))
    values = [*score(detector, clean).image, *score(detector, Batch(odd, clean.foreground)).image]
    assert roc_auc_score([0] * 10 + [1] * 10, values) > 0.9


def test_scores_are_of_content_not_of_company_and_nothing_is_left_behind(detector):
    batch = patches(6, seed=3)
    before = batch.images.copy()
    together = score(detector, batch)
    assert together.heatmap.shape == (6, *SIDES)
    assert together.heatmap.dtype == np.float32
    assert np.isfinite(together.heatmap).all()
    assert (together.heatmap >= 0).all()
    assert np.array_equal(batch.images, before)
    backward = score(detector, batch[np.arange(6)[::-1]])
    assert np.allclose(backward.image[::-1], together.image, rtol=1e-5, atol=0)
    assert np.allclose(
        score(detector, batch[np.array([5])]).image, together.image[5:], rtol=1e-5, atol=0
    )
    assert all(p.grad is None for p in detector.denoiser.parameters())


def test_a_stored_detector_scores_the_same_bits(detector):
    batch = patches(5, seed=4)
    again = make()
    again.load_state({name: array.copy() for name, array in detector.state().items()}, device="cpu")
    first, second = score(detector, batch), score(again, batch)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.heatmap, second.heatmap)


def test_noise_at_scoring_comes_from_each_patchs_seed(tmp_path):
    detector, batch = fitted(tmp_path, draws=2), patches(3, seed=3)
    seeds = image_seeds(list(batch.images))
    together = detector.score(batch, seeds=seeds)
    assert np.array_equal(detector.score(batch, seeds=seeds).image, together.image)
    assert np.allclose(
        detector.score(batch[2:3], seeds=seeds[2:3]).image, together.image[2:], rtol=1e-5, atol=0
    )
    assert not np.array_equal(
        detector.score(batch, seeds=seeds + np.uint64(1)).image, together.image
    )


@pytest.mark.parametrize(
    ("channels", "sides", "stem"), [(3, SIDES, (1, 4, 4)), (1, (4, 16, 24), (2, 2, 2))]
)
def test_channels_sides_and_stems(tmp_path, channels, sides, stem):
    detector = fitted(tmp_path, channels, sides, stem=stem)
    found = score(detector, patches(2, channels, sides=sides))
    assert found.heatmap.shape == (2, *sides)
    assert np.isfinite(found.image).all()


def test_same_seed_same_weights(tmp_path):
    one, other = (fitted(tmp_path / name).state() for name in ("a", "b"))
    assert all(np.array_equal(array, other[name]) for name, array in one.items())


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    whole = fitted(tmp_path / "whole", steps=6).state()
    detector = make(training=TINY["training"] | {"steps": 6})
    real, calls = detector._loss, []

    def stops(net, draw):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(net, draw)

    monkeypatch.setattr(detector, "_loss", stops)
    with pytest.raises(Interrupted, match="--resume"):
        detector.fit(patches(24), patches(12, seed=1), context=context(tmp_path / "parts"))
    again = make(training=TINY["training"] | {"steps": 6})
    again.fit(patches(24), patches(12, seed=1), context=context(tmp_path / "parts", resume=True))
    assert all(np.array_equal(array, whole[name]) for name, array in again.state().items())


def test_the_budget_is_respected_and_recorded(tmp_path):
    log = []
    detector = make(training=TINY["training"] | {"steps": 10**6})
    begun = time.monotonic()
    detector.fit(
        patches(24), patches(12, seed=1), context=context(tmp_path, budget=5.0, log=log.append)
    )
    assert time.monotonic() - begun < 5.0 * 1.1
    assert log[-1]["stopped_by"] == "budget"


# -- The whole way ---------------------------------------------------------------------------------

SHAPE = (12, 40, 44)  # slices, rows, columns of axial slices, 4 mm apart
LESION = np.s_[5:7, 18:22, 16:20]
AFFINE = np.array(
    [[-1.0, 0, 0, 22], [0, -1, 0, 20], [0, 0, 4, -24], [0, 0, 0, 1]]
)  # RAS+ of [columns, rows, slices]
VALUES = {"dims": 3, "patch": list(SIDES)} | TINY


def head(rng, lesion=None, bright=100.0):
    """[D, H, W]: an ellipsoid with texture before a dark background."""
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
    inside = (axes[0] * 0.7) ** 2 + (axes[1] / 0.8) ** 2 + (axes[2] / 0.7) ** 2 < 1
    volume = np.where(
        inside, bright + 8 * rng.normal(size=SHAPE), 3 * np.abs(rng.normal(size=SHAPE))
    )
    if lesion is not None:
        volume[lesion] += 0.9 * bright
    return volume.clip(0).astype(np.float32)


def write_patients(folder, count, *, lesion=None, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        volume = head(rng, lesion, bright=50.0 * (1 + number % 3))
        nib.save(
            nib.Nifti1Image(volume.transpose(2, 1, 0), AFFINE), folder / f"p{number:02}.nii.gz"
        )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_patients(tmp_path_factory.mktemp("volumes") / "normal", 24)
    out = tmp_path_factory.mktemp("runs") / "volumes"
    anodetect.train(str(folder), "anoddpm", out, values=VALUES)
    return out


@pytest.fixture(scope="module")
def scored(run, tmp_path_factory):
    folder = write_patients(tmp_path_factory.mktemp("new") / "new", 2, seed=1)
    write_patients(folder / "ill", 2, lesion=LESION, seed=2)
    out = tmp_path_factory.mktemp("scores") / "s"
    anodetect.score(run, [str(folder)], out, far=0.2)
    return folder, out


def test_a_volume_counts_once_and_its_slices_calibrate(run):
    facts, calibration = runs.facts(run), read_run(run).calibration
    training = facts.training
    assert training.fit_images + training.tune_images + calibration.n_groups == 24
    assert len(calibration.scores) == SHAPE[0] * calibration.n_groups
    assert facts.config["tiling"]["dims"] == 3
    assert facts.representation == "pixels"


def test_lesions_are_found_where_they_are(scored):
    folder, out = scored
    rows = {row.path: row for row in directories.read(out).rows}
    ill, well = (
        [row for path, row in rows.items() if path.startswith("ill/") == sick]
        for sick in (True, False)
    )
    assert min(row.score for row in ill) > max(row.score for row in well)
    assert all(row.flagged for row in ill)
    for row in ill:
        found = nib.load(out / row.heatmap)
        assert np.array_equal(found.affine, nib.load(folder / row.path).affine)
        i, j, k = np.unravel_index(np.nanargmax(found.get_fdata()), found.shape)
        assert 5 <= k < 7
        assert 17 <= j < 23
        assert 15 <= i < 21
        profile = [each for each in directories.read_slices(out) if each.path == row.path]
        assert row.score == max(each.score for each in profile)
        assert max(profile, key=lambda each: each.score).slice in (5, 6)


def test_a_volume_is_compared_with_the_highest_score_of_each_calibration_patient(run, scored):
    calibration = read_run(run).calibration
    highest = {}
    for value, group in zip(calibration.scores, calibration.groups, strict=True):
        highest[group] = max(value, highest.get(group, -np.inf))
    for row in directories.read(scored[1]).rows:
        expected = (1 + sum(value >= row.score for value in highest.values())) / (len(highest) + 1)
        assert row.p_value == pytest.approx(expected)
    assert anodetect.verify(scored[1]).intact
    assert rescore(scored[1], 4) == []


@pytest.mark.parametrize("codes", ["RAS", "PIR", "SLA"])
def test_a_lesion_comes_back_in_the_same_voxels_of_a_turned_file(run, scored, tmp_path, codes):
    folder, out = scored
    source = nib.load(folder / "ill/p00.nii.gz")
    turn = ornt_transform(io_orientation(source.affine), axcodes2ornt(codes))
    array = apply_orientation(source.get_fdata(dtype=np.float32), turn)
    turned = nib.Nifti1Image(array, source.affine @ inv_ornt_aff(turn, source.shape))
    nib.save(turned, tmp_path / "t.nii")
    anodetect.score(run, [str(tmp_path / "t.nii")], tmp_path / "s", far=0.2)
    found = nib.load(next((tmp_path / "s/heatmaps").glob("*_heatmap.nii")))
    straight = nib.load(out / "heatmaps/ill/p00.nii.gz_heatmap.nii").get_fdata(dtype=np.float32)
    assert np.allclose(found.affine, turned.affine)
    assert np.array_equal(
        found.get_fdata(dtype=np.float32), apply_orientation(straight, turn), equal_nan=True
    )


def test_slices_without_enough_foreground_are_nan(run, tmp_path):
    volume = head(np.random.default_rng(4), LESION)
    volume[:2], volume[:2, 18:24, 20:26] = 1, 100
    nib.save(nib.Nifti1Image(volume.transpose(2, 1, 0), AFFINE), tmp_path / "a.nii")
    anodetect.score(run, [str(tmp_path / "a.nii")], tmp_path / "s", far=0.2)
    values = nib.load(tmp_path / "s/heatmaps/a.nii_heatmap.nii").get_fdata()
    assert np.isnan(values[:, :, :2]).all()
    assert np.isfinite(values[:, :, 2:]).all()
    profile = [row.score for row in directories.read_slices(tmp_path / "s")]
    assert [value is None for value in profile] == [True] * 2 + [False] * 10
    assert int(np.argmax(profile[2:])) + 2 in (5, 6)
    model = Model.load(read_run(run), "cpu")
    prepared = load(Record("a", tmp_path / "a.nii"), model.preprocess, model.prepare).volume
    _, inside = model.encode_volume(prepared)
    assert prepared.foreground[0].any()
    assert not inside[:2].any()  # nor do they count for their neighbours
    assert np.array_equal(inside[2:], prepared.foreground[2:])


def test_maps_of_resampled_slices_come_back_in_the_source_grid(tmp_path):
    folder = write_patients(tmp_path / "normal", 20)
    quick = {"spacing": 1.25, "training": TINY["training"] | {"steps": 2}}
    anodetect.train(str(folder), "anoddpm", tmp_path / "run", values=VALUES | quick)
    anodetect.score(tmp_path / "run", [str(folder / "p00.nii.gz")], tmp_path / "s", far=0.2)
    assert nib.load(tmp_path / "s/heatmaps/p00.nii.gz_heatmap.nii").shape == (44, 40, 12)


@pytest.mark.parametrize("spacing", [0.0, 2.0, 8.0])
def test_volumes_come_to_the_spacing_asked_for_and_maps_back_to_theirs(tmp_path, spacing):
    """4 mm slices of 1 mm pixels become as many voxels as lie in them; slabs keep their place."""
    volume = head(np.random.default_rng(0), np.s_[4:6, 8:32, 10:34])
    nib.save(nib.Nifti1Image(volume.transpose(2, 1, 0), AFFINE), tmp_path / "a.nii")
    config = resolve("anoddpm", "auto", VALUES | {"spacing": spacing, "foreground": "all"})
    model = Model.create("anoddpm", "pixels", config)
    model.detector.score = lambda batch, seeds: Scores(
        batch.images.max((1, 2, 3, 4)), batch.images[:, 0] + 2
    )
    loaded = load(Record("a", tmp_path / "a.nii"), model.preprocess, model.prepare)
    scaled, inside = model.encode_volume(loaded.volume)
    sides = {0.0: SHAPE, 2.0: (24, 20, 22), 8.0: (6, 8, 8)}[spacing]  # at least 8 pixels
    assert scaled.shape == (1, *sides) and inside.shape == sides
    scores, heatmap = model.score_volume(loaded.volume)
    assert heatmap.shape == SHAPE and len(scores) == len(loaded.volume.numbers)
    means = heatmap[:, 12:28, 14:30].mean((1, 2))
    assert set(np.argsort(means)[-2:]) == {4, 5}
    assert {int(n) for n in loaded.volume.numbers[np.argsort(scores)[-2:]]} == {4, 5}


def test_images_are_refused_in_one_line(run, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(tmp_path / "a.png")
    result = anodetect.score(run, [str(tmp_path / "a.png")], tmp_path / "s", far=0.2)
    assert result.failed == 1
    assert "an image, but the model was trained on volumes" in next(iter(result.reasons))
    with pytest.raises(ConfigError, match=r"--dims 3 is for volumes, and a\.png is an image"):
        anodetect.train(str(tmp_path), "anoddpm", tmp_path / "run", values=VALUES)


def test_each_volume_counts_as_one_normal(run, tmp_path):
    folder = write_patients(tmp_path / "few", 19)
    with pytest.raises(DataError, match="19 normal volumes are too few for --dims 3: at least 20"):
        anodetect.train(str(folder), "anoddpm", tmp_path / "run", values=VALUES)
    with pytest.raises(DataError, match="19 normal volumes are too few to calibrate"):
        anodetect.calibrate(run, str(folder), tmp_path / "again")


@pytest.mark.parametrize(
    ("detector", "representation", "values", "message"),
    [
        ("pca", "auto", {"dims": 3}, "pca has no form for --dims 3; anoddpm has"),
        ("anoddpm", "features", {"dims": 3}, "anoddpm works on pixels only with --dims 3"),
        ("anoddpm", "auto", {"dims": 3, "tile": 64}, "with --dims 3"),
        ("anoddpm", "auto", {"dims": 3, "size": 64}, "leave out size"),
        ("anoddpm", "auto", {"patch": [16, 64, 64]}, "add --dims 3"),
        ("anoddpm", "auto", {"dims": 4}, "tiling: dims"),
        ("anoddpm", "auto", {"tiling": {"dims": 3}, "noise": "simplex"}, "unknown key 'noise'"),
    ],
)
def test_what_does_not_go_together_is_refused(detector, representation, values, message):
    with pytest.raises(ConfigError, match=message):
        resolve(detector, representation, values)


def test_patches_must_fit_the_network(tmp_path):
    with pytest.raises(
        ConfigError, match=r"tiling.patch: 4 × 20 × 32 are not multiples of 2 × 8 × 8"
    ):
        fitted(tmp_path, sides=(4, 20, 32))
