import numpy as np
import pytest
import torch
from scipy import ndimage

from anodetect.config import Pooling, build, parse_assignments
from anodetect.data import synthetic
from anodetect.detectors.ebm import EBMConfig
from anodetect.errors import ConfigError, ImageError
from anodetect.imaging import foreground, segments
from anodetect.imaging.heatmaps import block_means, counted, finish, pool, smooth
from anodetect.imaging.intensities import sample_of
from anodetect.imaging.pixels import Pixels, PixelsConfig
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.nn.filters import gaussian_blur

RNG = np.random.default_rng(0)


def disc(size=64, radius=24, background=0.0):
    rows, columns = np.indices((size, size)) - size / 2
    inside = rows**2 + columns**2 < radius**2
    return np.where(inside, 100 + 20 * RNG.normal(size=(size, size)), background).astype(
        np.float32
    )[None], inside


def test_flat_background_is_found_and_kept_out():
    image, inside = disc()
    assert foreground.has_flat_background(image)
    assert (foreground.foreground(image) == inside).mean() > 0.98
    learned = Preprocess(PreprocessConfig())
    learned.learn([sample_of(image)])
    assert learned.flat_background
    scaled, found = learned.apply(image)
    assert scaled[:, found].mean() == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("seed", range(20))
def test_the_fast_foreground_is_scipys_and_numpys(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((3, *rng.integers(1, 20, 2))) < rng.uniform(0.3, 0.95)
    for plane, opened in zip(mask, foreground._opened(mask), strict=True):
        np.testing.assert_array_equal(opened, ndimage.binary_opening(plane))
        np.testing.assert_array_equal(segments.filled(plane), ndimage.binary_fill_holes(plane))
        parts, _ = ndimage.label(plane)
        if plane.any():
            largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
            np.testing.assert_array_equal(segments.largest_part(plane), largest)
            found = segments.largest_filled(plane)
            np.testing.assert_array_equal(found, ndimage.binary_fill_holes(largest))
    values = rng.normal(size=mask.shape).astype(np.float32)
    percents = (0.0, *rng.uniform(0, 100, 2), 100.0)
    np.testing.assert_allclose(
        foreground.quantiles(values, percents), np.percentile(values, percents), rtol=1e-5
    )


def ordered_quantile(values, percent):
    """The formula, by ordering all values."""
    ordered, place = np.sort(values, axis=None), percent / 100 * (values.size - 1)
    low, high = ordered[[int(place), min(int(place) + 1, values.size - 1)]].astype(float)
    return low + (high - low) * (place - int(place))


@pytest.mark.parametrize("seed", range(12))
def test_a_foreground_is_bit_for_bit_that_of_the_plain_formulas(seed):
    """High quantiles order few values only; most images are whole numbers with many equal ones."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(1 + 2 * (seed % 2), *rng.integers(60, 200, 2)))
    image = (40 * ndimage.gaussian_filter(values, (0, 4, 4))).astype(np.float32)
    image = np.maximum(image.round() if seed % 3 else image, seed % 4 - 2)
    for percent in (99.5, 98.0, 60.0):
        expected = ordered_quantile(image, percent)
        assert foreground.quantiles(image, (percent,)) == [expected]
        assert foreground.quantiles(np.full_like(image, 3), (percent,)) == [3.0]

    low = float(image.min())
    level = low + foreground.FLAT_LEVEL * (ordered_quantile(image, foreground.HIGH) - low)
    parts, count = ndimage.label(ndimage.binary_opening((image > level).any(0)))
    assert count
    largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    found = foreground.foreground(image)
    np.testing.assert_array_equal(found, ndimage.binary_fill_holes(largest))


def test_quantiles_of_values_that_are_not_numbers_are_those_of_all_values():
    values = RNG.normal(size=9000).astype(np.float32)
    values[:50] = np.nan
    assert np.isnan(foreground.quantiles(values, (99.9,))).all()
    assert foreground.quantiles(values, (99.0,)) == [ordered_quantile(values, 99.0)]


def test_textures_have_no_background():
    texture = RNG.normal(size=(1, 32, 32)).astype(np.float32)
    learned = Preprocess(PreprocessConfig())
    learned.learn([sample_of(texture)])
    assert not learned.flat_background
    assert learned.apply(texture)[1].all()


def test_range_is_frozen_and_brightness_keeps_its_meaning():
    learned = Preprocess(PreprocessConfig())
    images = [RNG.uniform(1000, 3000, (1, 32, 32)).astype(np.float32) for _ in range(4)]
    learned.learn(map(sample_of, images))
    dark, bright = (
        learned.apply(np.full((1, 16, 16), v, np.float32))[0].mean() for v in (1200, 2800)
    )
    assert dark < -0.5 < 0.5 < bright
    restored = Preprocess(PreprocessConfig())
    restored.load_state(learned.state())
    assert restored.state() == learned.state()


def test_per_image_scaling_removes_gain_and_offset():
    learned = Preprocess(PreprocessConfig(intensity="image"))
    image = RNG.uniform(0, 1, (1, 32, 32)).astype(np.float32)
    learned.learn([sample_of(image)])
    assert np.allclose(learned.apply(image)[0], learned.apply(image * 500 + 77)[0], atol=1e-4)


def test_colour_in_a_grey_model_is_refused_but_grey_as_rgb_is_fine():
    learned = Preprocess(PreprocessConfig())
    grey = RNG.uniform(0, 1, (1, 16, 16)).astype(np.float32)
    learned.learn([sample_of(np.repeat(grey, 3, 0))])
    assert learned.channels == 1
    assert learned.apply(np.repeat(grey, 3, 0))[0].shape == (1, 16, 16)
    with pytest.raises(ImageError, match="colour"):
        learned.apply(RNG.uniform(0, 1, (3, 16, 16)).astype(np.float32))


def test_constant_images_do_not_divide_by_zero():
    learned = Preprocess(PreprocessConfig())
    learned.learn([sample_of(np.full((1, 16, 16), 7, np.float32))])
    assert np.isfinite(learned.apply(np.full((1, 16, 16), 7, np.float32))[0]).all()


def test_grid_and_back_puts_a_spot_where_it_was():
    pixels = Pixels(PixelsConfig(size=32))
    image = np.zeros((1, 96, 200), np.float32)
    image[0, 60:70, 150:160] = 1
    grid, _ = pixels.prepare(image, np.ones((96, 200), bool))
    back = pixels.decode(grid[0], (96, 200))
    assert back.shape == (96, 200)
    row, column = np.unravel_index(back.argmax(), back.shape)
    assert 58 <= row < 72
    assert 146 <= column < 164
    with pytest.raises(ConfigError, match="size"):
        build(PixelsConfig, {"size": 4}, "representation")


def test_smoothing_does_not_leak_over_the_foreground():
    maps, inside = np.zeros((1, 20, 20), np.float32), np.ones((1, 20, 20), bool)
    inside[:, :, 10:] = False
    maps[:, :, 10:] = 1000
    maps[:, :, :10] = 1
    out = smooth(maps, inside, 2.0)
    assert np.allclose(out[:, :, :10], 1, atol=1e-4)
    assert (out[:, :, 10:] == 0).all()


def test_pooling_is_the_mean_of_the_highest_share():
    values = np.arange(100, dtype=np.float32).reshape(1, 10, 10)
    everywhere = np.ones((1, 10, 10), bool)
    assert pool(values, everywhere, Pooling(top=0.1, erode=0))[0] == pytest.approx(
        np.arange(90, 100).mean()
    )
    assert pool(values, everywhere, Pooling(top=1e-9, erode=0))[0] == 99


def test_the_rim_of_the_foreground_does_not_count_but_the_image_border_does():
    inside = np.zeros((1, 12, 12), bool)
    inside[0, :6] = True
    core = counted(inside, 1)
    assert core[0, 0].all()
    assert not core[0, 5].any()
    thin = np.zeros((1, 12, 12), bool)
    thin[0, 5] = True
    assert np.array_equal(counted(thin, 2), thin)
    assert finish(np.ones((1, 12, 12), np.float32), np.zeros((1, 12, 12), bool), Pooling())[
        0
    ].shape == (1,)


def test_a_table_changes_only_the_keys_it_names():
    config = build(
        EBMConfig,
        {"training": {"steps": 7, "augment": {"flip": 0.0}}, "pooling": {"top": 0.1}},
        "ebm",
    )
    default = EBMConfig()
    augment = default.training.augment.model_copy(update={"flip": 0.0})
    assert config.training == default.training.model_copy(update={"steps": 7, "augment": augment})
    assert config.pooling == default.pooling.model_copy(update={"top": 0.1})


def test_synthetic_masks_cover_what_was_planted():
    clean, empty = synthetic.images(5, defects=False)
    defective, masks = synthetic.images(5, defects=True)
    assert not empty.any()
    assert masks.any((1, 2)).all()
    inside = np.array([image[0][mask].mean() for image, mask in zip(defective, masks, strict=True)])
    outside = np.array(
        [image[0][~mask].mean() for image, mask in zip(defective, masks, strict=True)]
    )
    assert (inside > outside + 30).all()
    assert clean.dtype == np.uint8


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("a=1e-4", {"a": 1e-4}),
        ("a.b=[1, 2]", {"a": {"b": [1, 2]}}),
        ("a=ddim", {"a": "ddim"}),
        ("a=true", {"a": True}),
    ],
)
def test_assignments(assignment, expected):
    assert parse_assignments([assignment]) == expected


def test_a_relative_score_is_the_peak_over_a_power_of_the_median():
    maps = np.random.default_rng(0).uniform(1, 2, (3, 20, 20)).astype(np.float32)
    maps[:, :2, :4] = [[[8]], [[9]], [[10]]]
    inside = np.ones(maps.shape, bool)
    peak = pool(maps, inside, Pooling(erode=0))
    assert peak == pytest.approx([8, 9, 10])
    relative = pool(maps, inside, Pooling(erode=0, relative=0.5))
    assert relative == pytest.approx(peak / np.sqrt(np.median(maps.reshape(3, -1), axis=1)))
    assert np.isfinite(pool(np.zeros_like(maps), inside, Pooling(relative=1.0))).all()


@pytest.mark.parametrize("sigma", [0.7, 3.0])
def test_blur_is_scipys_gaussian(sigma):
    image = np.random.default_rng(0).normal(size=(2, 1, 30, 40)).astype(np.float32)
    expected = ndimage.gaussian_filter(image, (0, 0, sigma, sigma), mode="nearest", truncate=3)
    assert np.allclose(gaussian_blur(torch.from_numpy(image), sigma).numpy(), expected, atol=1e-5)


def test_block_means():
    maps = np.arange(32, dtype=np.float32).reshape(1, 4, 8)
    assert np.array_equal(block_means(maps, 4), [[[13.5, 17.5]]])
