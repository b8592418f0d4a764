"""Images that a model makes itself: the chains against known distributions, and the command."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import spatial, stats
from test_cli import call

from anodetect.commands.sample import film, made_by, sample
from anodetect.commands.train import train
from anodetect.data import synthetic
from anodetect.detectors import ensemble
from anodetect.detectors.ensemble import Ensemble, EnsembleConfig
from anodetect.errors import ConfigError, ImageError
from anodetect.generative import diffusion
from anodetect.generative.prior import GaussianPrior
from anodetect.generative.samples import arc, chain_generators
from anodetect.imaging.pixels import Pixels, PixelsConfig
from anodetect.imaging.representations import Expert
from anodetect.imaging.tiling import TilingConfig
from anodetect.model.model import Model
from anodetect.model.sampling import make_images, makers
from anodetect.output import run_report
from anodetect.record import runs
from anodetect.types import Samples, Silent

TINY = {"widths": [16], "stem": 8, "components": 20, "training": {"steps": 3}}


# -- Chains ----------------------------------------------------------------------------------------


def test_what_an_exact_denoiser_settles_on_is_likely_and_forgets_the_start():
    """The denoiser is that of N(2, 0.5²); chains start far away, on both sides."""
    schedule = diffusion.linear_schedule()

    def denoise(xt, t):
        a = diffusion.alpha_bar(schedule, t)
        gain = a.sqrt() * 0.25 / (a * 0.25 + 1 - a)
        return 2 + gain * (xt - a.sqrt() * 2)

    ends = []
    for first in (-5.0, 9.0):
        rng = torch.Generator().manual_seed(0)
        start = torch.full((4000, 1, 1, 1), first)
        levels = [250] * 5 + [200, 100, 50, 10]
        states = list(
            diffusion.settle(
                denoise,
                start,
                lambda rng=rng, start=start: torch.randn(start.shape, generator=rng),
                schedule,
                levels,
            )
        )
        assert len(states) == len(levels)
        ends.append(states[-1].flatten().numpy())
    assert ends[0].mean() == pytest.approx(2, abs=0.02)
    assert np.allclose(*ends, atol=0.02)
    assert 0.02 < ends[0].std() < 0.5  # less variety than the data has, but some

    spread = {}
    for draws in (1, 16):
        (settled,) = diffusion.settle(
            denoise,
            start,
            lambda: torch.randn(start.shape, generator=rng),
            schedule,
            [250],
            draws,
        )
        spread[draws] = float(settled.std())
    assert spread[16] == pytest.approx(spread[1] / 4, rel=0.1)


def test_images_of_the_gaussian_model_have_its_moments():
    prior = GaussianPrior(2, 4)
    prior.mean.copy_(torch.tensor([1.0, -1.0, 0.0, 2.0]))
    prior.basis.copy_(
        torch.linalg.qr(torch.randn(4, 2, generator=torch.Generator().manual_seed(1)))[0].T
    )
    prior.variance.copy_(torch.tensor([4.0, 1.0]))
    prior.rest.copy_(torch.tensor([0.25, 1.0]))
    drawn = prior.draw(chain_generators(0, 20_000), (1, 2, 2)).flatten(1).numpy()

    basis = prior.basis.numpy()
    covariance = basis.T @ np.diag([3.75, 0.75]) @ basis + 0.25 * np.eye(4)
    assert np.allclose(drawn.mean(0), prior.mean.numpy(), atol=0.06)
    assert np.allclose(np.cov(drawn.T), covariance, atol=0.12)


def test_a_chains_generator_does_not_depend_on_how_many_there_are():
    few, many = chain_generators(7, 2), chain_generators(7, 5)
    for first, second in zip(few, many, strict=False):
        assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))
    drawn = [torch.rand(200, generator=each).numpy() for each in chain_generators(7, 2)]
    assert abs(stats.pearsonr(*drawn).statistic) < 0.25


def test_a_film_strip_shows_the_first_state_and_the_last():
    levels = np.linspace(-1, 1, 13, dtype=np.float32)
    chain = np.broadcast_to(levels[:, None, None, None, None], (13, 2, 1, 16, 16))
    picture = film(Samples(chain[-1], chain))
    assert picture[:, 0].max() == 255  # the gap between the rows
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[-1, -1].tolist() == [255, 255, 255]


def test_points_on_an_arc_are_those_of_scipy():
    rng = torch.Generator().manual_seed(0)
    ends = torch.randn(2, 3, 2, 2, generator=rng, dtype=torch.float64)
    ends = ends / ends.flatten(1).norm(dim=1)[:, None, None, None]
    expected = spatial.geometric_slerp(*ends.flatten(1).numpy(), np.linspace(0, 1, 7))
    assert np.allclose(arc(*ends, 7).flatten(1).numpy(), expected, atol=1e-6)


def test_on_an_arc_noise_keeps_its_deviation_and_equal_ends_stay():
    first, last = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(arc(first, last, 5)[[0, -1]], torch.stack([first, last]), atol=1e-5)
    assert torch.allclose(arc(first, last, 5).std((1, 2, 3)), torch.ones(5), atol=0.05)
    assert torch.allclose(arc(first, first, 3), first.expand(3, -1, -1, -1), atol=1e-3)


def test_a_film_strip_ends_with_the_images_between_two_starts():
    chain = np.full((13, 2, 1, 16, 16), -1, np.float32)
    between = np.broadcast_to(np.linspace(-1, 1, 8, dtype=np.float32), (16, 16, 8))
    between = between.transpose(2, 0, 1)[:, None]
    alone, picture = film(Samples(chain[-1], chain)), film(Samples(chain[-1], chain, between))
    assert np.array_equal(picture[: len(alone)], alone)
    assert picture.shape[1] == alone.shape[1]
    last = picture[-1, ::132, 0].astype(int)  # one value of each panel
    assert last.tolist() == sorted(set(last))
    assert (last[0], last[-1]) == (0, 255)


# -- The command -----------------------------------------------------------------------------------


def trained(folder, detector, settings):
    """Return a run on pixels of made-up images."""
    synthetic.write(folder / "data", train=30, test=2, size=48)
    values = {"detector": settings, "representation": {"size": 32}}
    train(str(folder / "data"), detector, folder / "run", representation="pixels", values=values)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("sample"), "anoddpm", TINY)


def test_images_and_their_chains_are_written(run, tmp_path):
    result = sample(run, tmp_path / "out", count=3)
    assert result.files == ("sample001.png", "sample002.png", "sample003.png", "chains.png")
    with Image.open(tmp_path / "out" / "sample001.png") as image:
        assert image.size == (32, 32)
    again = sample(run, tmp_path / "again", count=3)
    other = sample(run, tmp_path / "other", count=3, seed=1)
    first, same, different = (
        (each.out / "sample002.png").read_bytes() for each in (result, again, other)
    )
    assert first == same
    assert first != different
    with pytest.raises(ConfigError, match="exists already"):
        sample(run, tmp_path / "out")


def test_chains_begin_at_an_image(run, tmp_path):
    dark = tmp_path / "dark.png"
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(dark)
    sample(run, tmp_path / "out", count=1, start=dark)
    with Image.open(tmp_path / "out" / "chains.png") as picture:
        assert np.asarray(picture)[:100, :100].mean() < 30

    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png"):
        sample(run, tmp_path / "none", start=text)
    assert not (tmp_path / "none").exists()


def test_the_report_of_a_run_shows_them(run):
    read = runs.read(run)
    page = run_report.html(read, made_by(read))
    assert "What the model takes for normal" in page
    assert page.count("data:image/png;base64,") == 1
    assert "What the model takes for normal" not in run_report.html(read)


def test_a_detector_that_makes_none_says_which_do(tmp_path):
    synthetic.write(tmp_path / "data", train=24, test=2, size=48)
    train(str(tmp_path / "data"), "pca", tmp_path / "run", representation="pixels")
    with pytest.raises(ConfigError, match=r"those that do are anoddpm, ebm, ncsn, vq, rbm, gan$"):
        sample(tmp_path / "run", tmp_path / "out")
    read = runs.read(tmp_path / "run")
    assert "those that do are" in run_report.html(read, made_by(read))


@pytest.mark.parametrize(("weights", "lost"), [((0.0, 1.0), 1), ((0.5, 0.5), 0)])
def test_training_says_where_the_member_that_makes_images_does_not_count(
    weights, lost, tmp_path, monkeypatch
):
    monkeypatch.setattr(ensemble, "proportional_weights", lambda auroc, kept: weights)
    synthetic.write(tmp_path / "data", train=30, test=2, size=48)
    members = ["anoddpm/pixels", "pca/pixels"]
    settings = {members[0]: {"detector": TINY, "representation": {"size": 32}}}
    said = []
    reporter = Silent()
    reporter.say = said.append
    train(
        str(tmp_path / "data"),
        "ensemble",
        tmp_path / "run",
        values={"members": members, "settings": settings},
        reporter=reporter,
    )
    lines = [line for line in said if "does not count" in line]
    assert len(lines) == lost
    assert all("--detector anoddpm --representation pixels" in line for line in lines)


def test_these_detectors_make_images():
    assert makers() == ["anoddpm", "ebm", "ncsn", "vq", "rbm", "gan"]


EBM = {"widths": [16], "stem": 8, "training": {"steps": 3}}
STEP = 132  # pixels from one panel of a film strip to the next


def panel(picture, row, column):
    """Return a panel of a film strip in one channel, 128 pixels square."""
    return picture[STEP * row :, STEP * column :, 0][:128, :128].astype(int)


def as_shown(image):
    """Return an image [1, h, w] of values from -1 to 1 as a panel of a film strip has it."""
    grey = np.clip((image[0] + 1) * 127.5, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((128, 128), Image.Resampling.BILINEAR), int)


def read_picture(file):
    with Image.open(file) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def ebm_run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("ebm"), "ebm", EBM)


def test_the_command_shows_images_between_two_starts(ebm_run, tmp_path, capfd, monkeypatch):
    """The last row is what the model makes of an arc from one start to another."""
    options = "--out", tmp_path / "out", "--count", 2, "--seed", 5, "--json"
    code, out, err = call(capfd, monkeypatch, "sample", ebm_run, *options)
    assert code == 0, err
    files = ["sample001.png", "sample002.png", "chains.png"]
    assert json.loads(out) == {"images": 2, "out": str(tmp_path / "out"), "files": files}

    picture = read_picture(tmp_path / "out" / "chains.png")
    assert picture.shape == (3 * STEP - 4, 8 * STEP - 4, 3)
    detector = Model.load(runs.read(ebm_run), "cpu").detector
    made = detector.sample(2, seed=5)
    for row in range(2):
        assert np.allclose(panel(picture, row, 0), as_shown(made.chain[0, row]), atol=1)
        assert np.allclose(panel(picture, row, 7), as_shown(made.images[row]), atol=1)
    between = detector.interpolate(8, seed=5)
    for column, image in enumerate(between):
        assert np.allclose(panel(picture, 2, column), as_shown(image), atol=1)
    apart = [np.square(image - between[0]).mean() for image in between]
    assert 0 == apart[0] < min(apart[1:])
    assert apart[1] < apart[7]

    sample(ebm_run, tmp_path / "other", count=2, seed=6)
    other = read_picture(tmp_path / "other" / "chains.png")
    assert not np.array_equal(panel(other, 2, 0), panel(picture, 2, 0))
    assert made_by(runs.read(ebm_run)).between


def test_there_is_nothing_between_two_starts_where_one_is_given(ebm_run, tmp_path):
    image = tmp_path / "image.png"
    Image.fromarray(np.full((48, 48), 90, np.uint8)).save(image)
    sample(ebm_run, tmp_path / "out", count=2, start=image)
    assert read_picture(tmp_path / "out" / "chains.png").shape[0] == 2 * STEP - 4


@pytest.mark.parametrize(
    ("weights", "member", "rows"),
    [((0.0, 1.0), "ebm/pixels", 3), ((0.4, 0.6), "anoddpm/pixels", 2)],
)
def test_the_first_member_that_counts_makes_the_images(
    weights, member, rows, tmp_path, monkeypatch
):
    """Weights are stored with the run, and a member that counts nothing is not."""
    monkeypatch.setattr(Ensemble, "_choose_weights", lambda *of_members: weights)
    monkeypatch.setattr("anodetect.model.odd.features_installed", lambda: False)
    synthetic.write(tmp_path / "data", train=30, test=2, size=48)
    sides = {"anoddpm/pixels": 16, "ebm/pixels": 32}
    settings = {
        "anoddpm/pixels": {"representation": {"size": 16}, "detector": TINY},
        "ebm/pixels": {"representation": {"size": 32}, "detector": EBM},
    }
    values = {"size": 32, "members": list(settings), "settings": settings}
    train(str(tmp_path / "data"), "ensemble", tmp_path / "run", values=values)

    sample(tmp_path / "run", tmp_path / "out", count=2)
    detector = Model.load(runs.read(tmp_path / "run"), "cpu").detector
    assert detector.weights == pytest.approx(weights)
    maker = detector.experts[list(settings).index(member)].detector
    for number, image in enumerate(maker.sample(2, seed=0).images, 1):
        found = read_picture(tmp_path / "out" / f"sample00{number}.png")[:, :, 0].astype(int)
        assert found.shape == (sides[member], sides[member])
        assert np.allclose(found, np.clip((image[0] + 1) * 127.5, 0, 255), atol=1.01)
    assert read_picture(tmp_path / "out" / "chains.png").shape[0] == rows * STEP - 4
    assert made_by(runs.read(tmp_path / "run")).between == (rows == 3)


@dataclass
class Grey:
    """A detector whose images are all of one value."""

    value: float

    def sample(self, count, *, seed, start=None):
        chain = np.full((2, count, 1, 4, 4), self.value, np.float32)
        return Samples(chain[-1], chain)


class SeenAsFeatures:
    """A representation whose images cannot be looked at."""


@pytest.mark.parametrize(
    ("weights", "value"),
    [
        ((0.5, 0.5, 0.0), 2.0),
        ((0.5, 0.0, 0.5), 3.0),
        ((0.0, 0.2, 0.8), 2.0),
        ((1.0, 0.0, 0.0), None),
    ],
)
def test_a_member_of_pixels_makes_the_images(weights, value):
    seen = iter([SeenAsFeatures(), Pixels(PixelsConfig(size=32)), Pixels(PixelsConfig(size=32))])
    values = iter([1.0, 2.0, 3.0])
    config = EnsembleConfig(members=("a/features", "b/pixels", "c/pixels"))
    detector = Ensemble(config, lambda name, settings: Expert(next(seen), Grey(next(values))))
    detector.weights = weights
    model = Model(None, TilingConfig(), None, detector)
    if value is None:
        with pytest.raises(ConfigError, match="features, which cannot be looked at"):
            make_images(model, 2, seed=0)
    else:
        assert (make_images(model, 2, seed=0).images == value).all()
