"""Translation between Gaussians, whose answer is known, and between two lights of a scene."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import anodetect
from anodetect.commands.train import outcome_lines
from anodetect.data import synthetic
from anodetect.detectors.translate import LINE, NETWORK
from anodetect.errors import ConfigError, DataError
from anodetect.generative import diffusion
from anodetect.generative.scores import flow, flow_steps
from anodetect.generative.translation import LinearPart, Translator
from anodetect.model.settings import create_detector
from anodetect.types import Batch, PlantedCopies, TrainContext, image_seeds

SCHEDULE = diffusion.linear_schedule()
SLOPE, OFFSET, REST = -0.8, 0.2, 0.1  # y = SLOPE · s + OFFSET + REST · noise
SPREAD = 0.3  # of s, whose mean is 0
TINY = {
    "widths": [32],
    "sampler_steps": 4,
    "training": {"steps": 50, "learning_rate": 2e-3, "augment": {"scale": 0, "shift": 0}},
}


def denoised(xt, t, mean, variance):
    """The exact denoiser of a Gaussian."""
    a = SCHEDULE[t][:, None, None, None]
    return mean + a.sqrt() * variance / (a * variance + 1 - a) * (xt - a.sqrt() * mean)


class Gaussian(nn.Module):
    """The exact denoiser of images of independent Gaussian values."""

    schedule, start = SCHEDULE, None

    def __init__(self, mean, variance):
        super().__init__()
        self.mean, self.variance = mean, variance

    def forward(self, xt, t):
        return denoised(xt, t, self.mean, self.variance)

    def output_scale(self, t, dims=4):
        return (1 - SCHEDULE[t][:, None, None, None]).sqrt()


class GivenSource(Gaussian):
    """The exact denoiser of y where the first channel is s."""

    def __init__(self):
        super().__init__(0.0, REST**2)

    def forward(self, xt, t):
        source, target = xt[:, :1], xt[:, 1:]
        mean = SLOPE * source + OFFSET
        return torch.cat([source, denoised(target, t, mean, self.variance)], 1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_target_is_drawn_from_what_its_source_leaves_open():
    """The targets of one source have the conditional mean and variance of the pair."""
    net = Translator(lambda channels: GivenSource(), paired=True, trained_to=1000)
    source = SPREAD * normal(1, 1, 2, 2)
    sources, noise = source.expand(3000, -1, -1, -1), normal(3000, 1, 2, 2, seed=1)
    made = net.translate(sources, noise, steps=500)
    mean = SLOPE * source[0] + OFFSET
    assert torch.allclose(made.mean(0), mean, atol=4 * REST / 3000**0.5)
    assert made.std(0).mean().item() == pytest.approx(REST, rel=0.1)
    without_noise = net.translate(source, torch.zeros_like(source), steps=5)
    assert torch.allclose(without_noise[0], mean, atol=0.01)  # in few steps, too


def test_two_models_of_gaussians_translate_deviation_by_deviation():
    """The k-th deviation of a source becomes that of a target."""
    models = iter([Gaussian(0.4, 0.2**2), Gaussian(-0.1, 0.5**2)])  # of targets, of sources
    net = Translator(lambda channels: next(models), paired=False, trained_to=1000)
    deviations = torch.linspace(-2, 2, 9).reshape(-1, 1, 1, 1)
    made = net.translate(-0.1 + 0.5 * deviations, torch.zeros(9, 1, 1, 1), steps=20)
    assert torch.allclose(made, 0.4 + 0.2 * deviations, atol=0.01)


def test_the_flow_down_takes_back_the_flow_up():
    exact, x = Gaussian(0.7, 0.25), normal(5, 1, 3, 3)
    steps = flow_steps(800, 60)
    noisy = flow(exact, x, steps[::-1])
    assert not torch.allclose(noisy, x, atol=0.3)
    assert torch.allclose(flow(exact, noisy, steps), x, atol=0.01)


def test_steps_of_a_flow_are_closer_where_noise_is_small():
    assert flow_steps(961, 10) == [961, 784, 625, 484, 361, 256, 169, 100, 49, 16, 1]


@pytest.mark.parametrize("paired", [True, False])
def test_the_loss_is_lowest_for_the_exact_denoisers(paired):
    source = SPREAD * normal(400, 1, 4, 4)
    target = SLOPE * source + OFFSET + REST * normal(400, 1, 4, 4, seed=1)
    variance = (SLOPE * SPREAD) ** 2 + REST**2

    def loss(shift):
        exact = GivenSource() if paired else Gaussian(OFFSET, variance)
        models = [exact, Gaussian(0.0, SPREAD**2)]
        for model in models:  # wrong by `shift`
            model.register_forward_hook(lambda module, given, out: out + shift)
        made = iter(models)
        net = Translator(lambda channels: next(made), paired=paired, trained_to=1000)
        return net.loss(source, target, [torch.Generator().manual_seed(n) for n in range(400)])

    assert loss(0.0) < min(loss(0.05), loss(-0.05))


def test_the_linear_part_is_a_line_by_least_squares():
    source = 0.4 + SPREAD * normal(5, 1, 8, 8)
    target = SLOPE * source + OFFSET + REST * normal(5, 1, 8, 8, seed=1)
    pairs = batch(torch.cat([source, target], 1).numpy())
    slope, offset = np.polyfit(source.flatten(), target.flatten(), 1)

    part = LinearPart.learn(pairs, paired=True)
    left = (target - slope * source - offset).numpy()
    rest = part.rest(source, target)
    assert np.allclose(rest, left / left.std(), atol=1e-4)
    assert torch.allclose(part.target(source, rest), target, atol=1e-6)

    without = LinearPart.learn(pairs, paired=False)
    assert without.slope == 0
    for channel in (without.source(source), without.rest(source, target)):
        assert torch.allclose(channel.mean(), torch.zeros(()), atol=1e-5)
        assert torch.allclose(channel.std(correction=0), torch.ones(()), atol=1e-5)


def fitted(images, folder, tune=None, **settings):
    detector = create_detector("translate", TINY | settings)
    tune = batch(images[:16]) if tune is None else tune
    detector.fit(batch(images), tune, context=TrainContext(0, "cpu", folder))
    return detector


def batch(images):
    return Batch(images.astype(np.float32), np.ones((len(images), *images.shape[2:]), bool))


# -- A pair that no line explains ------------------------------------------------------------------

CELL = 4  # pixels of a side of the squares that have one value in a source
FOLDED = {
    "widths": [32],
    "stem": CELL,
    "sampler_steps": 4,
    "training": TINY["training"] | {"steps": 200, "warmup": 10, "ema": 0.99},
}


def folded(count, *, odd=False, seed=0):
    """Return images [N, 2, 16, 16] of a source s, Gaussian with deviation 0.5, and the target
    s² + REST · noise, which is not correlated with it, and s² itself [N, 1, 16, 16].

    In images that are `odd` one square has the target of another source.
    """
    rng = np.random.default_rng([seed, odd])
    cells = 0.5 * rng.normal(size=(count, 1, 4, 4))
    expected = cells**2
    shown = expected.copy()
    if odd:
        for image in shown[:, 0]:
            row, column = rng.integers(4, size=2)
            here = image[row, column]
            while abs(image[row, column] - here) < 0.4:
                image[row, column] = 0.25 * rng.normal() ** 2
    pairs = np.concatenate([cells, shown, expected], 1).repeat(CELL, 2).repeat(CELL, 3)
    pairs[:, 1] += REST * rng.normal(size=pairs[:, 1].shape)
    return pairs[:, :2], pairs[:, 2:]


@pytest.fixture(scope="module")
def of_folded(tmp_path_factory):
    """Return a translation of folded images that has learned, and one that has hardly begun."""
    detectors = []
    for steps in (FOLDED["training"]["steps"], 1):
        training = FOLDED["training"] | {"steps": steps}
        folder = tmp_path_factory.mktemp("folded")
        detectors.append(fitted(folded(150)[0], folder, **FOLDED | {"training": training}))
    return detectors


def test_training_approaches_the_conditional_mean_where_no_line_does(of_folded):
    """The root mean square distance of the reconstruction from s²; a line has its deviation."""
    images, expected = folded(40, seed=5)
    errors = []
    for detector in of_folded:
        made = detector.score(batch(images), seeds=image_seeds(list(images)))
        assert np.array_equal(made.reconstruction[:, 0], batch(images).images[:, 0])
        errors.append(np.sqrt(np.square(made.reconstruction[:, 1:] - expected).mean()))
    trained, untrained = errors
    assert untrained > 0.9 * expected.std()
    assert trained < 0.6 * untrained


def test_training_finds_targets_that_no_line_tells_from_others(of_folded):
    clean, odd = folded(40, seed=5)[0], folded(40, odd=True, seed=5)[0]
    found = []
    for detector in of_folded:
        both = np.concatenate([clean, odd])
        scores = detector.score(batch(both), seeds=image_seeds(list(both)))
        found.append(roc_auc_score([0] * 40 + [1] * 40, scores.image))
    trained, untrained = found
    assert trained > 0.9
    assert untrained < 0.75


def test_the_setting_says_which_channel_is_translated(tmp_path):
    images, expected = folded(100)
    swapped = images[:, ::-1].copy()
    detector = fitted(swapped, tmp_path, **FOLDED | {"source": 1, "target": 0})
    made = detector.score(batch(swapped[:20]), seeds=image_seeds(list(swapped[:20])))
    assert np.array_equal(made.reconstruction[:, 1], batch(swapped[:20]).images[:, 1])
    error = made.reconstruction[:, 0] - expected[:20, 0]
    assert np.sqrt(np.square(error).mean()) < 0.6 * expected.std()


def lights(count, *, defects=False, seed=0):
    pictures, _ = synthetic.two_lights(count, size=32, defects=defects, seed=seed)
    return pictures / 127.5 - 1


def auroc(detector):
    clean, odd = lights(32, seed=5), lights(32, defects=True, seed=6)
    images = np.concatenate([clean, odd])
    scores = detector.score(batch(images), seeds=image_seeds(list(images)))
    return roc_auc_score([0] * 32 + [1] * 32, scores.image)


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    return fitted(lights(150), tmp_path_factory.mktemp("paired"))


def test_what_one_light_shows_is_found(paired):
    brightness = create_detector("intensity", {})
    assert auroc(brightness) < 0.65
    assert auroc(paired) > 0.9


def test_two_models_need_no_pairs(tmp_path):
    """The lights of a training image are of different scenes."""
    images = lights(150)
    images[:, 1] = np.roll(images[:, 1], 1, 0)
    tune = batch(lights(16, seed=1))
    settings = {"paired": False, "sampler_steps": 3}
    few = TINY["training"] | {"steps": 20}
    assert auroc(fitted(images, tmp_path, tune, training=few, **settings)) > 0.6


def test_defects_for_choices_are_planted_in_the_target_only(paired):
    tune, copy = lights(6, seed=1), lights(3, seed=2)
    planted = PlantedCopies((batch(copy),), np.array([0, 2, 5]))
    (seen,) = paired._with_clean_source(planted, batch(tune)).copies
    assert np.array_equal(seen.images[:, 0], batch(tune).images[[0, 2, 5], 0])
    assert np.array_equal(seen.images[:, 1:], batch(copy).images[:, 1:])
    assert paired._with_clean_source(None, batch(tune)) is None


def test_draws_without_pairs_are_refused():
    with pytest.raises(ConfigError, match="draws: nothing is drawn without pairs"):
        create_detector("translate", TINY | {"paired": False, "draws": 4})


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="needs 16 images to learn from, there are 15"):
        fitted(lights(15), tmp_path)


def test_grey_images_are_refused_before_any_training(synthetic_folder, tmp_path):
    with pytest.raises(ConfigError, match="needs images with 2 channels or more"):
        anodetect.train(str(synthetic_folder), "translate", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- The line that training begins with ------------------------------------------------------------


def planted_in(tune):
    """Copies of all images with a bright or a dark square in both channels."""
    copies = []
    for corner, value in ((4, 0.9), (16, -0.9)):
        images = tune.copy()
        images[:, :2, corner : corner + 6, 8:14] = value
        copies.append(batch(images))
    return PlantedCopies(tuple(copies), np.arange(len(tune)))


@pytest.mark.parametrize("with_defects", [True, False])
def test_training_cannot_end_worse_than_the_line_it_began_with(with_defects, tmp_path):
    """A few steps without pairs make a translation worse than equal means and deviations."""
    images, tune, entries = lights(150), lights(16, seed=1), []
    images[:, 1] = np.roll(images[:, 1], 1, 0)
    few = TINY["training"] | {"steps": 20}
    settings = {"paired": False, "sampler_steps": 3, "training": few}
    detector = create_detector("translate", TINY | settings)
    planted = planted_in(tune) if with_defects else None
    context = TrainContext(0, "cpu", tmp_path, log=entries.append, planted=lambda: planted)
    detector.fit(batch(images), batch(tune), context=context)

    (missed,) = [entry for entry in entries if "missed_by_line" in entry]
    assert missed["missed_by_network"] > 1.2 * missed["missed_by_line"]
    assert detector.standardizer.used() == {LINE}
    assert auroc(detector) > 0.9
    (said,) = outcome_lines(entries)
    assert "the line that training began with" in said


def test_without_a_step_of_training_the_line_counts(tmp_path):
    detector = create_detector("translate", TINY)
    pairs = lights(40)
    context = TrainContext(0, "cpu", tmp_path, budget=0.01)
    detector.fit(batch(pairs), batch(pairs[:16]), context=context)
    assert detector.standardizer.used() == {LINE}
    line = LinearPart.learn(batch(pairs), paired=True)
    made = detector.score(batch(pairs[:3]), seeds=image_seeds(list(pairs[:3])))
    source = batch(pairs[:3]).images[:, :1]
    expected = line.target_mean + line.slope * (source - line.source_mean)
    assert np.allclose(made.reconstruction[:, 1:2], expected, atol=1e-5)
    assert np.array_equal(made.reconstruction[:, :1], source)


@pytest.mark.parametrize(("wrong", "used"), [(0.02, NETWORK), (0.5, LINE)])
def test_networks_count_where_they_miss_less_than_the_line(wrong, used, monkeypatch, tmp_path):
    """The target is the square of the source, which no line is."""
    source = SPREAD * normal(24, 1, 16, 16).numpy()
    pairs = batch(np.concatenate([source, source**2], 1))
    detector = create_detector("translate", TINY)
    detector.linear = line = LinearPart.learn(pairs, paired=True)

    def exact_but_for(unit_source, seeds):
        s = line.source_mean + line.source_scale * unit_source
        return line.rest(s, s.square() + wrong)

    monkeypatch.setattr(detector, "_translated", exact_but_for)
    context = TrainContext(0, "cpu", tmp_path)
    detector.standardizer.options = detector._options(pairs, 1, context)
    detector.standardizer.learn(
        lambda part, seeds: detector._residuals(part, seeds)[0], pairs, context
    )
    made = detector.score(pairs, seeds=image_seeds(list(pairs.images)))
    assert detector.standardizer.used() == {used}
    expected = source**2 + wrong
    if used == LINE:
        expected = line.target_mean + line.slope * (source - line.source_mean)
    assert np.allclose(made.reconstruction[:, 1:], expected, atol=1e-4)


def test_a_trained_network_approaches_the_conditional_mean(tmp_path):
    """The line that counts here is left aside."""
    source = SPREAD * normal(96, 1, 16, 16).numpy()
    target = SLOPE * source + OFFSET + REST * normal(96, 1, 16, 16, seed=1).numpy()
    pairs = np.concatenate([source, target], 1)
    detector = fitted(pairs[:80], tmp_path, draws=8, sampler_steps=2)
    new = batch(pairs[80:])
    _, translated = detector._residuals(new, image_seeds(list(new.images)))
    error = translated[:, [NETWORK]] - (SLOPE * source[80:] + OFFSET)
    assert np.sqrt(np.square(error).mean()) < 0.6 * REST
