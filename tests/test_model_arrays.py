"""Arrays of a model file that do not fit the configuration are refused before an image is read."""

import shutil

import numpy as np
import pytest

from anodetect.detectors.padim import PaDiM, PaDiMConfig
from anodetect.detectors.patchcore import PatchCore, PatchCoreConfig
from anodetect.errors import RunError
from anodetect.imaging.quiet import QuietLimits
from anodetect.imaging.standardise import MapStandardizer, Patterns, Recipe, StandardizerConfig
from anodetect.model.model import Model
from anodetect.model.settings import create_detector
from anodetect.record import checkpoint, runs

MEAN, BASIS = "detector.mean", "detector.basis"


def float32(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (MEAN, lambda array: array[:-1]),
        (MEAN, lambda array: array.astype(np.float64)),
        (MEAN, lambda array: array[None]),
        (MEAN, None),
        (BASIS, lambda array: array.T),
        (BASIS, lambda array: array[:0]),
        ("both", lambda array: array[..., : array.shape[-1] // 2]),  # which fit each other
    ],
)
def test_arrays_of_other_images_are_one_line(pca_run, tmp_path, name, change):
    run = shutil.copytree(pca_run, tmp_path / "run")
    arrays, header = checkpoint.read(run / "model.safetensors")
    for each in (MEAN, BASIS) if name == "both" else (name,):
        arrays[each] = arrays[each] if change is None else change(arrays[each])
        if change is None:
            del arrays[each]
    checkpoint.write(run / "model.safetensors", arrays, header)
    with pytest.raises(RunError, match="not a usable model") as caught:
        Model.load(runs.read(run), "cpu")
    assert "\n" not in str(caught.value)


PADIM = {"channels": np.array([0, 2]), "mean": float32(6, 2), "whitening": float32(6, 3)}
SHAPE = (3, 2, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": np.array([0, 3])},
        {"channels": np.array([-1, 2])},
        {"channels": np.array([0.0, 2.0])},
        {"mean": float32(4, 2), "whitening": float32(4, 3)},
        {"mean": float32(6, 3)},
        {"whitening": float32(1, 3)},  # which NumPy would spread over all places
    ],
)
def test_gaussians_of_other_places_are_refused(changes):
    detector = PaDiM(PaDiMConfig())
    detector.load_state(PADIM, device="cpu")
    detector.check_state(SHAPE)
    with pytest.raises(ValueError, match=r"mean|whitening|channels"):
        detector.load_state(PADIM | changes, device="cpu")
        detector.check_state(SHAPE)


def test_a_memory_of_other_channels_is_refused():
    detector = PatchCore(PatchCoreConfig())
    detector.load_state({"memory": float32(5, 3)}, device="cpu")
    detector.check_state(SHAPE)
    with pytest.raises(ValueError, match=r"memory is float32 \[5, 3\], where .* \[…, 4\]"):
        detector.check_state((4, 2, 3))


@pytest.mark.parametrize(
    ("recipe", "patterns"),
    [
        (Recipe([0], float32(1, 3, 3), None), None),
        (Recipe([0], float32(2, 2, 3), None), None),
        (Recipe([7], float32(1, 1, 1), None), None),
        (Recipe([0], float32(1, 1, 1), float32(1, 1)), None),
        (Recipe([0], float32(1, 1, 1), None), Patterns(float32(5, 4), float32(1, 5))),
        (Recipe([0], float32(1, 1, 1), None), Patterns(float32(5, 3), float32(1, 4))),
    ],
)
def test_what_was_learned_of_other_maps_is_refused(recipe, patterns):
    standardizer = MapStandardizer(StandardizerConfig(), {"one": (0,)})
    standardizer.quiet = QuietLimits(0.0, 1.0, 1.0, 0.0)
    standardizer.recipe = Recipe([0], float32(1, 2, 3), None)
    standardizer.check_state(SHAPE)
    standardizer.recipe, standardizer.patterns = recipe, patterns
    with pytest.raises(ValueError, match=r"error|patterns"):
        standardizer.check_state(SHAPE)


def test_an_ensemble_has_as_many_weights_as_members():
    members = {"members": ["intensity/pixels", "pca/pixels"]}
    detector = create_detector("ensemble", members)
    detector.weights = (1.0,)
    with pytest.raises(ValueError, match="1 weights"):
        detector.check_state((1, 64, 64))
