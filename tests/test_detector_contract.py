"""The promises every detector keeps, for every entry of DETECTORS, on a small synthetic set."""

import atexit
import tempfile
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from anodetect.config import build
from anodetect.data import synthetic
from anodetect.detectors import DETECTORS, detector_class
from anodetect.errors import ConfigError
from anodetect.imaging.planted import draw_defect, plant
from anodetect.imaging.representations import check_state
from anodetect.model.settings import create_detector, resolve
from anodetect.nn.batching import small_batches
from anodetect.nn.unet import UNet
from anodetect.types import Batch, OnePass, PlantedCopies, Sampler, TrainContext, image_seeds

QUICK = {"learning_rate": 1e-3, "augment": {"rotation": 0, "scale": 0, "shift": 0, "flip": 0}}
TINY = {
    "anoddpm": {
        "widths": [16, 32],
        "components": 40,
        "training": {"steps": 40} | QUICK,
        "lambdas": [5, 10],
        "stem": 4,
    },
    "ebm": {
        "widths": [16, 32],
        "stem": 4,
        "training": QUICK | {"steps": 55, "learning_rate": 2e-3},
        "levels": [240],
        "scales": [0],
        "pretraining": 0.9,
    },
    "ncsn": {
        "widths": [16, 32],
        "stem": 4,
        "training": QUICK | {"steps": 100, "learning_rate": 2e-3},
    },
    "jem": {
        "width": 32,
        "blocks": 1,
        "stem": 2,
        "labels": "position",
        "training": {"steps": 300} | QUICK,
    },
    "vq": {
        "codes": 32,
        "code_values": 8,
        "width": 32,
        "blocks": 1,
        "stem": 4,
        "widths": [16, 32],
        "training": {"steps": 150} | QUICK,
    },
    "rbm": {"hidden": 16, "places": 16, "training": {"steps": 60} | QUICK},
    "rbm-features": {
        "window": 1,
        "stride": 1,
        "hidden": 16,
        "places": 16,
        "training": {"steps": 60} | QUICK,
    },
    "nce": {"window": 4, "width": 32, "blocks": 1, "places": 16, "training": {"steps": 60} | QUICK},
    "nce-features": {
        "window": 1,
        "stride": 1,
        "width": 32,
        "blocks": 1,
        "places": 16,
        "training": {"steps": 60} | QUICK,
    },
    "gan": {
        "width": 32,
        "blocks": 2,
        "stem": 4,
        "critic_stem": 2,
        "training": {"steps": 200} | QUICK,
    },
    "ebm-features": {
        "network": "mlp",
        "widths": [32],
        "crop": 16,
        "start": "linear",
        "noise": "gaussian",
        "local": 0.0,
        "trained_to": 350,
        "levels": [100],
        "scales": [0.0],
        "pretraining": 0.8,
        "training": {"steps": 60} | QUICK,
    },
    "ncsn-features": {
        "network": "mlp",
        "widths": [32],
        "crop": 16,
        "start": "linear",
        "scale": 0.0,
        "training": {"steps": 60} | QUICK,
    },
    "translate": {
        "widths": [32],
        "sampler_steps": 4,
        "training": {"steps": 80} | QUICK | {"learning_rate": 2e-3},
    },
    "ensemble": {
        "members": ["pca/pixels", "dae/pixels"],
        "settings": {
            "pca/pixels": {"representation": {"size": 32}, "detector": {"components": 30}},
            "dae/pixels": {
                "representation": {"size": 32},
                "detector": {"widths": [16, 32], "training": {"steps": 120}},
            },
        },
    },
    "dae": {"widths": [16, 32], "training": {"steps": 120}},
    "pca": {"components": 30},
    "pca-features": {"subspace": "places"},
    "padim": {"channels": 20},
    "patchcore": {"memory": 1000, "candidates": 4000},
    "intensity": {},
    "classifier": {"grid": 4},  # of the file that `make` adds
}
# Fails by design, and its module says so.
BLIND = {
    "intensity": {"constant", "blurred"},
    "dae": {"blurred"},
    "pca-features": {"constant", "blurred", "inverted"},
    "rbm-features": {"constant"},
    "classifier": {"constant", "blurred"},
    "nce-features": {"constant"},
    "translate": {"constant", "blurred"},
}
# A detector that is another one on features has promises of its own there.
ON_FEATURES = {f"{name}-features": name for name in ("pca", "rbm", "nce", "ebm", "ncsn")}
NAMES: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # in TINY, of detectors that were made
# Told from normal ones, but not well after so few steps, and its module says so. How well `ebm`
# notices a blur depends on the last bits of its weights: AUROC .82, .88 and .94 with three seeds.
HARD = {"ebm": {"inverted", "blurred"}}
SIZE = 32
BFLOAT = 2e-2  # networks score in bfloat16 where the hardware has it, and in float32 as one pass


def spelled(changes):
    """Return the name of changed settings in the name of a case, None for other parameters."""
    if isinstance(changes, dict):
        return ",".join(f"{key}={value}" for key, value in changes.items())
    return None


TRAINED_BY_STEPS = [name for name in TINY if "training" in TINY[name]]
# Seconds of training, where its end is tested. Two of them and the time of scoring are kept back.
BUDGETS = dict.fromkeys(TRAINED_BY_STEPS, 5.0) | {"ncsn": 6.0, "ncsn-features": 6.0}


def batch(count, channels=1, size=SIZE, **options):
    pixels, _ = synthetic.images(count, size=size, channels=channels, **options)
    return Batch(pixels.astype(np.float32) / 127.5 - 1, np.ones((count, size, size), bool))


def context(folder, **options):
    folder.mkdir(parents=True, exist_ok=True)
    return TrainContext(**{"seed": 0, "device": "cpu", "workdir": folder} | options)


def make(name, **changes):
    if name == "classifier":
        changes = {"file": tiny_classifier()} | changes
    detector = create_detector(ON_FEATURES.get(name, name), TINY[name] | changes)
    NAMES[detector] = name
    return detector


@cache
def tiny_classifier():
    """Return the path of a classifier in an ONNX file."""
    for module in ("onnx", "onnxruntime"):
        pytest.importorskip(module, reason="the extra `onnx` is not installed")
    from onnx_models import knows_patches

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return str(knows_patches(Path(folder.name, "classifier.onnx")))


def name_of(detector):
    """Return the name in TINY of a detector, that of its class if it was not made of TINY."""
    return NAMES.get(detector, type(detector).__name__.lower())


def trained(name, folder, channels=1, size=SIZE, **options):
    return fitted(make(name), folder, channels, size, **options)


def hurried(name, folder, channels=1, size=SIZE):
    """Return a detector after a few steps, for what does not depend on what it has learned."""
    return fitted(make(name, **shortened(TINY[name])), folder, channels, size, copies=1)


def shortened(values):
    """Return the settings with ten steps of training, also for the members of an ensemble."""
    short = dict(values)
    for key, value in values.items():
        if isinstance(value, dict):
            short[key] = shortened(value)
        elif key == "steps":
            short[key] = 10
    return short


def fitted(detector, folder, channels=1, size=SIZE, copies=3, **options):
    name = name_of(detector)
    tune = batch(12, channels, size, seed=1)
    defective = tuple(seen(name, each) for each in planted(tune, copies))
    options = {"planted": lambda: PlantedCopies(defective, np.arange(12))} | options
    fit, tune = seen(name, batch(48, channels, size)), seen(name, tune)
    detector.fit(fit, tune, context=context(folder, **options))
    return detector


def planted(tune, copies):
    """Yield copies of images with a defect in each, as training makes them."""
    for copy in range(copies):
        images = tune.images.copy()
        for row, (image, inside) in enumerate(zip(tune.images, tune.foreground, strict=True)):
            seed = copy * len(images) + row
            images[row] = plant(image, inside, draw_defect(seed), seed=seed).image
        yield Batch(images, tune.foreground)


def seen(name, images):
    """Return images; for detectors of features, the pixels around each as its features, and for
    those of several channels grey images in two lights."""
    if DETECTORS.get(name, DETECTORS["pca"]).least_channels > images.images.shape[1]:
        return Batch(in_two_lights(images.images), images.foreground)
    if name not in ON_FEATURES and "pixels" in DETECTORS[name].representations:
        return images
    around = F.unfold(F.pad(torch.from_numpy(images.images), (2, 2, 2, 2), mode="reflect"), 5)
    return Batch(
        around.reshape(len(images), -1, *images.images.shape[2:]).numpy(), images.foreground
    )


def in_two_lights(images):
    """Return grey images [N, 1, H, W] as [N, 2, H, W]: first a negative in which nothing is darker
    than normal images' brightest places are, so that bright defects are hardly seen in it."""
    return np.concatenate([-0.8 * np.minimum(images, 0.15), images], 1)


def score(detector, images):
    return detector.score(seen(name_of(detector), images), seeds=image_seeds(list(images.images)))


@pytest.fixture(scope="module", params=TINY)
def detector(request, tmp_path_factory):
    """Return a trained detector. It is trained when its first case runs."""
    return trained(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def of_clean(detector):
    """Return the detector's scores of 20 clean images."""
    return score(detector, batch(20, seed=5)).image


def test_every_detector_has_a_tiny_config():
    assert set(TINY) == set(DETECTORS) | set(ON_FEATURES)


def test_planted_defects_score_above_clean_images(detector):
    clean, defects = (
        score(detector, batch(30, seed=5)),
        score(detector, batch(30, seed=6, defects=True)),
    )
    labels = [0] * 30 + [1] * 30
    assert roc_auc_score(labels, [*clean.image, *defects.image]) > 0.9


@pytest.mark.parametrize("kind", ["constant", "blurred", "inverted", "noise"])
def test_images_unlike_any_normal_score_above_clean_ones(detector, of_clean, kind):
    clean = batch(20, seed=5)
    rng = np.random.default_rng(0)
    odd = {
        "constant": np.full_like(clean.images, -0.5),
        "blurred": ndimage.gaussian_filter(clean.images, (0, 0, 4, 4)),
        "inverted": -clean.images,
        "noise": rng.uniform(-1, 1, clean.images.shape).astype(np.float32),
    }[kind]
    values = [*of_clean, *score(detector, Batch(odd, clean.foreground)).image]
    auroc = roc_auc_score([0] * 20 + [1] * 20, values)
    if kind in HARD.get(name_of(detector), ()):
        assert auroc > 0.6
        return
    assert (auroc < 0.9) == (kind in BLIND.get(name_of(detector), ()))


def test_shapes_are_right_values_finite_and_the_input_untouched(detector):
    images = batch(5)
    before = images.images.copy()
    scores = score(detector, images)
    assert scores.image.shape == (5,)
    assert scores.heatmap.shape == (5, SIZE, SIZE)
    assert scores.heatmap.dtype == np.float32
    expected = seen(name_of(detector), images).images.shape
    assert scores.reconstruction is None or scores.reconstruction.shape == expected
    assert np.isfinite(scores.image).all()
    assert np.isfinite(scores.heatmap).all()
    assert (scores.heatmap >= 0).all()
    assert np.array_equal(images.images, before)


def test_scores_do_not_depend_on_company_or_order(detector):
    images = batch(21, seed=7)
    together = score(detector, images)
    order = np.random.default_rng(0).permutation(21)
    shuffled = score(detector, images[order])
    assert np.allclose(shuffled.image, together.image[order], rtol=1e-5, atol=0)
    for n in (0, 20):
        alone = score(detector, images[np.array([n])])
        assert np.allclose(alone.image, together.image[n : n + 1], rtol=1e-5, atol=0)
        assert np.allclose(alone.heatmap[0], together.heatmap[n], rtol=1e-4, atol=1e-6)


def test_a_batch_that_is_not_filled_up_scores_alike(detector):
    images = batch(3, seed=7, defects=True)
    full = score(detector, images)
    for row in range(len(images)):
        with small_batches():
            alone = score(detector, images[np.array([row])])
        assert np.allclose(alone.image, full.image[row], rtol=1e-4, atol=0)  # as between machines
        highest = full.heatmap[row].max()
        assert np.allclose(alone.heatmap[0], full.heatmap[row], rtol=0, atol=1e-4 * highest)


def test_one_pass_of_tensors_scores_as_the_detector_does(detector):
    entry = DETECTORS[ON_FEATURES.get(name_of(detector), name_of(detector))]
    assert isinstance(detector, OnePass) == (not entry.several_passes)
    if entry.several_passes:
        pytest.skip(entry.several_passes)
    images = seen(name_of(detector), batch(3, seed=7, defects=True))
    expected = detector.score(images, seeds=image_seeds(list(images.images)))
    score_one = detector.one_pass(images.images.shape[1:])
    for row, image in enumerate(images.images):
        found, heatmap = score_one(torch.from_numpy(image[None]))
        assert np.allclose(found, expected.image[row], rtol=BFLOAT, atol=0)
        highest = expected.heatmap[row].max()
        assert np.allclose(heatmap[0], expected.heatmap[row], rtol=0, atol=BFLOAT * highest)


@pytest.mark.usefixtures("two_threads")
def test_scoring_twice_and_after_reloading_is_bit_equal(detector):
    images = batch(9, seed=7)
    first, second = score(detector, images), score(detector, images)
    assert np.array_equal(first.image, second.image)
    other = make(name_of(detector))
    other.load_state({name: array.copy() for name, array in detector.state().items()}, device="cpu")
    check_state(other, seen(name_of(detector), images).images.shape[1:])
    reloaded = score(other, images)
    assert np.array_equal(first.image, reloaded.image)
    assert np.array_equal(first.heatmap, reloaded.heatmap)


@pytest.mark.usefixtures("two_threads")
def test_same_seed_gives_the_same_weights(detector, tmp_path):
    first, again = (hurried(name_of(detector), tmp_path / part) for part in ("first", "again"))
    for name, array in first.state().items():
        assert np.array_equal(array, again.state()[name]), name


def test_images_that_a_model_makes_depend_on_the_seed_and_the_chain(detector):
    if not isinstance(detector, Sampler):
        pytest.skip("makes no images")
    made, again = (detector.sample(count, seed=3) for count in (3, 2))
    assert np.array_equal(made.images, made.chain[-1])
    assert made.chain.shape[1:] == made.images.shape
    assert np.isfinite(made.chain).all()
    # A chain's course depends on the seed and its number alone, but for the last bits.
    assert np.allclose(made.images[:2], again.images, atol=1e-3)
    assert not np.allclose(made.images[0], made.images[1], atol=1e-3)
    assert not np.allclose(made.images, detector.sample(3, seed=4).images, atol=1e-3)


def test_chains_begin_at_the_image_that_is_given(detector):
    if not isinstance(detector, Sampler):
        pytest.skip("makes no images")
    images = seen(name_of(detector), batch(2, seed=5)).images
    first, second = (detector.sample(2, seed=3, start=image).chain[0] for image in images)
    assert ((first - second) * (images[0] - images[1])).sum() > 0


def test_works_without_gradients_and_leaves_none_behind(detector):
    images = batch(3)
    expected = score(detector, images)
    networks = [value for value in vars(detector).values() if isinstance(value, torch.nn.Module)]
    with torch.no_grad():
        assert np.array_equal(score(detector, images).image, expected.image)
    for network in networks:
        network.requires_grad_(True)  # or it could not be left with a gradient
    score(detector, images)
    assert all(p.grad is None for network in networks for p in network.parameters())
    for network in networks:
        network.requires_grad_(False)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 48), (4, 32)])
def test_channels_and_sizes(detector, tmp_path, channels, size):
    if channels > 3 and name_of(detector) == "classifier":
        pytest.skip("a file takes as many channels as it was trained on")
    other = hurried(name_of(detector), tmp_path, channels, size)
    assert score(other, batch(2, channels, size)).heatmap.shape == (2, size, size)


@pytest.mark.parametrize("name", [name for name in DETECTORS if DETECTORS[name].least_channels > 1])
def test_images_of_too_few_channels_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="images have 1 channel"):
        make(name).fit(batch(48), batch(12, seed=1), context=context(tmp_path))


@pytest.mark.usefixtures("time_of_this_process")
@pytest.mark.parametrize("name", TRAINED_BY_STEPS)
def test_budget_is_respected_and_recorded(name, tmp_path):
    records, cls = [], detector_class(ON_FEATURES.get(name, name))
    detector = cls(build(cls.Config, TINY[name] | {"training": {"steps": 10**6}}, name))
    fit, tune = seen(name, batch(48)), seen(name, batch(12, seed=1))
    begun = time.monotonic()
    detector.fit(fit, tune, context=context(tmp_path, budget=BUDGETS[name], log=records.append))
    assert time.monotonic() - begun < BUDGETS[name] * 1.1
    assert records[-1]["stopped_by"] == "budget"


@pytest.mark.parametrize(
    "changes",
    [
        {"draws": 2},
        {"prior": "on", "relative": "on"},
        {"prediction": "epsilon"},
        {"noise": "gaussian", "draws": 1},
        {"noise": "coarse"},
        {"mode": "chain", "draws": 1},
        {"mode": "chain", "sampler": "ancestral", "draws": 1},
        {"mode": "latent", "sampler_steps": 3},
        {"pixel_error": "on"},
        {"unit_variance": False, "pixel_error": "off"},
        {"crop": 16, "stem": 4},
        {"local": 0.0, "residual": "squared", "attention": 1},
        {"network": "mlp", "widths": [16], "blocks": 2, "crop": 16, "prior": "off"},
    ],
    ids=spelled,
)
def test_every_variant_of_anoddpm_keeps_seeds_and_company(changes, tmp_path):
    detector = make("anoddpm", training={"steps": 4}, **changes)
    detector.fit(batch(40), batch(12, seed=1), context=context(tmp_path))
    images = batch(18, seed=3)
    together = score(detector, images)
    assert np.isfinite(together.image).all()
    assert np.allclose(
        score(detector, images[np.array([17])]).image, together.image[17:], rtol=1e-5, atol=0
    )
    if changes.get("draws"):
        other = detector.score(images, seeds=image_seeds(list(images.images)) + np.uint64(1))
        assert not np.array_equal(other.image, together.image)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ebm", {"chain": "replay", "pretraining": 0.0, "buffer": 4}),
        ("ebm", {"chain": "short-run", "pretraining": 0.5, "informative": False}),
        ("ebm", {"score": "reconstruction", "score_steps": 3}),
        ("ebm", {"score": "inversion", "score_steps": 2, "iterations": 3, "levels": [10]}),
        ("ebm", {"score": "inpaint", "score_steps": 3}),
        ("ebm", {"coarse_to_fine": 2, "chain": "replay", "pretraining": 0.0}),
        (
            "ebm",
            {
                "network": "mlp",
                "widths": [16],
                "blocks": 2,
                "crop": 16,
                "score": "inversion",
                "iterations": 2,
            }
            | {"score_steps": 2, "levels": [10]},
        ),
        ("jem", {"chain": "replay", "labels": "position", "pretraining": 0.0, "buffer": 2}),
        ("jem", {"objective": "contrastive", "score": "class", "labels": "transformation"}),
        ("jem", {"score": "gradient", "chain": "short-run"}),
        ("jem", {"score": "class", "labels": "position", "pixel_error": "on"}),
        ("rbm", {"layers": 2, "window": 5, "stride": 3}),
        ("rbm", {"layers": 2, "joint": True, "pretraining": 0.5}),
        ("rbm", {"layers": 3, "chain": "data", "gibbs_steps": 2}),
        ("nce", {"noise": "gaussian", "window": 5, "stride": 3, "noise_draws": 3}),
    ],
    ids=spelled,
)
def test_every_variant_of_an_energy_keeps_seeds_and_company(name, changes, tmp_path):
    detector = make(name, **{"training": {"steps": 4}} | changes)
    detector.fit(batch(40), batch(12, seed=1), context=context(tmp_path))
    images = batch(18, seed=3)
    together = score(detector, images)
    assert np.isfinite(together.image).all()
    assert np.allclose(
        score(detector, images[np.array([17])]).image, together.image[17:], rtol=1e-5, atol=0
    )
    other = detector.score(images, seeds=image_seeds(list(images.images)) + np.uint64(1))
    assert np.array_equal(other.image, together.image) == (
        changes.get("score") not in ("reconstruction", "inversion")
    )


def test_maps_of_rising_defects_rise_with_pca():
    """A stronger defect never scores lower: checked on the detector with a closed form."""
    detector = detector_class("pca")(build(detector_class("pca").Config, {"components": 5}, "pca"))
    detector.fit(batch(48), batch(12, seed=1), context=TrainContext(0, "cpu", None))
    clean = batch(1, seed=4)
    values = []
    for strength in (0.0, 0.3, 0.6, 1.2):
        images = clean.images.copy()
        images[:, :, 10:14, 10:14] += strength
        values.append(float(score(detector, Batch(images, clean.foreground)).image[0]))
    assert all(low < high for low, high in pairwise(values))


def test_the_reference_preset_of_anoddpm_is_the_papers():
    config = resolve("anoddpm", "pixels", {"preset": "reference", "training": {"steps": 7}})
    assert config["representation"]["size"] == 256
    detector = config["detector"]
    assert (detector["prediction"], detector["lambdas"], detector["trained_to"]) == (
        "epsilon",
        [250],
        800,
    )
    assert detector["training"]["steps"] == 7  # one's own settings win
    with torch.device("meta"):
        net = UNet(
            1, 1, detector["widths"], stem=detector["stem"], blocks=detector["blocks"], attention=3
        )
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(131e6, rel=0.1)
    with pytest.raises(ConfigError, match="no preset 'referense'; did you mean 'reference'"):
        resolve("anoddpm", "pixels", {"preset": "referense"})
