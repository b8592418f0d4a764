"""Planted defects: where they lie, how large and how strong they are."""

import numpy as np
import pytest
from scipy import ndimage

from anodetect.imaging.planted import (
    ANY_VALUE,
    CONTRASTS,
    KINDS,
    REPLACED,
    SIZES,
    Defect,
    draw_defect,
    limits_of,
    plant,
)

BRIGHTENED = ("scratch", "blob", "lesion", "shift")


def texture(side=128, channels=1, *, low=60, high=180, seed=0):
    """Return a smooth texture [C, H, W] of whole numbers between two values."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(channels, side, side + 32)), (0, 2, 2))
    noise = (noise - noise.min()) / np.ptp(noise)
    return np.rint(low + (high - low) * noise).astype(np.float32)


def disc(image):
    rows, columns = np.indices(image.shape[1:])
    return np.hypot(rows - 60, columns - 70) < 40


def extent(mask):
    """Return the longest distance between two marked pixels."""
    places = np.argwhere(mask)
    return np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)).max() + 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_lies_in_the_foreground_and_is_reproducible(kind, channels):
    image = texture(channels=channels)
    before, inside = image.copy(), disc(image)
    other = texture(channels=channels, seed=5), np.ones(image.shape[1:], bool)
    for seed in range(6):
        made = plant(image, inside, Defect(kind, 0.2, 0.4), seed=seed, other=other)
        again = plant(image, inside, Defect(kind, 0.2, 0.4), seed=seed, other=other)
        changed = (made.image != image).any(0)
        assert np.array_equal(made.image, again.image)
        assert made.image.dtype == np.float32
        assert made.mask.any()
        assert changed[made.mask].mean() > 0.5
        assert not changed[~inside].any()
        assert not made.mask[~inside].any()
    assert np.array_equal(image, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.02, 0.1, 0.3])
def test_a_defect_is_as_large_as_asked_for(kind, size):
    image = texture(side=256)
    found = []
    for seed in range(12):
        inside = np.zeros(image.shape[1:], bool)
        inside[100:150, 100:150] = True  # so that none is cut off by the border
        everywhere = np.ones_like(inside)
        at_middle = plant(image, inside, Defect(kind, size, 0.5), seed=seed)
        anywhere = plant(image, everywhere, Defect(kind, size, 0.5), seed=seed)
        assert at_middle.mask.sum() <= anywhere.mask.size
        found.append(extent(anywhere.mask))
    assert 0.65 * size * 256 - 1 <= np.median(found) <= 1.35 * size * 256 + 2


@pytest.mark.parametrize("kind", BRIGHTENED)
@pytest.mark.parametrize("contrast", [0.05, 0.4])
def test_values_change_by_the_contrast_in_both_directions(kind, contrast):
    image = texture()
    low, high = np.percentile(image, (1, 99.5))
    signs = set()
    for seed in range(12):
        made = plant(image, np.ones(image.shape[1:], bool), Defect(kind, 0.2, contrast), seed=seed)
        difference = (made.image - image)[0]
        peak = difference.ravel()[abs(difference).argmax()]
        assert abs(peak) == pytest.approx(contrast * (high - low), rel=0.1)
        assert made.change <= contrast * 1.1
        signs.add(np.sign(peak))
    assert signs == {-1, 1}


@pytest.mark.parametrize("kind", REPLACED)
def test_replaced_parts_change_by_no_more_than_the_contrast(kind):
    image = texture()
    everywhere = np.ones(image.shape[1:], bool)
    changes = {}
    for contrast in (0.05, 0.8):
        planted = [plant(image, everywhere, Defect(kind, 0.2, contrast), seed=n) for n in range(8)]
        changes[contrast] = np.array([each.change for each in planted])
        assert (changes[contrast] < 1.3 * contrast).all()
    assert changes[0.8].mean() > 2 * changes[0.05].mean() or kind == "blur"


def test_a_swapped_patch_is_of_the_other_image():
    image, other = texture(), texture(seed=3) + 1000
    source = other, np.ones(other.shape[1:], bool)
    made = plant(image, disc(image), Defect("swap", 0.2, 100.0), seed=1, other=source)
    middle = ndimage.binary_erosion(made.mask, iterations=2)  # at the edge both are mixed
    assert middle.sum() > 50
    assert np.isin(made.image[0][middle], other).all()
    unfit = np.zeros((3, 4, 4), np.float32), np.ones((4, 4), bool)
    own = plant(image, disc(image), Defect("swap", 0.2, 100.0), seed=1, other=unfit)
    assert own.image.max() <= image.max()


@pytest.mark.parametrize(("sample_type", "top"), [("uint8", 255), ("uint16", 65535)])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_numbers_stay_what_their_type_allows(kind, sample_type, top):
    image = texture(low=0, high=top)
    limits = limits_of(sample_type)
    for seed in range(4):
        inside = np.ones(image.shape[1:], bool)
        made = plant(image, inside, Defect(kind, 0.3, 0.8), seed=seed, limits=limits)
        assert made.image.min() >= 0
        assert made.image.max() <= top
        assert np.array_equal(made.image, np.rint(made.image))


def test_values_multiplied_by_a_factor_stay_multiples_of_it():
    image = 257 * texture(low=0, high=255)
    made = plant(
        image, disc(image), Defect("blob", 0.3, 0.5), seed=2, limits=limits_of("uint8", 257)
    )
    assert made.image.max() <= 65535
    assert np.array_equal(made.image % 257, np.zeros_like(image))


def test_floats_have_no_upper_limit_but_none_is_below_the_lowest():
    assert limits_of("float32") == limits_of("") == ANY_VALUE
    image = texture() / 1000
    for seed in range(20):
        made = plant(image, disc(image), Defect("shift", 0.3, 0.8), seed=seed)
        assert made.image.min() >= image.min()


def test_where_there_is_no_room_the_other_direction_is_taken():
    bright, dark = texture(low=230, high=255), texture(low=0, high=25)
    limits = limits_of("uint8")
    for seed in range(8):
        for image, sign in ((bright, -1), (dark, 1)):
            stretched = image.copy()
            stretched[:, :20] = np.linspace(0, 255, 20)[None, :, None]  # a range of 255
            inside = np.zeros(image.shape[1:], bool)
            inside[20:] = True
            inside[:20, :80] = True
            made = plant(stretched, inside, Defect("shift", 0.1, 0.6), seed=seed, limits=limits)
            there = made.mask.copy()
            there[:20] = False
            if there.any():
                assert np.sign((made.image - stretched)[0][there].sum()) == sign


def test_grey_stays_grey_and_colour_may_be_tinted():
    grey, colour = np.repeat(texture(), 3, 0), texture(channels=3)
    tinted = 0
    for seed in range(24):
        defect = draw_defect(seed)
        made = plant(grey, disc(grey), defect, seed=seed).image
        assert np.array_equal(made[0], made[1])
        assert np.array_equal(made[0], made[2])
        changes = plant(colour, disc(colour), Defect("shift", 0.2, 0.5), seed=seed)
        by_channel = (changes.image - colour)[:, changes.mask].mean(1)
        tinted += np.ptp(by_channel) > 1
    assert 4 <= tinted <= 20


def test_defects_are_drawn_from_all_kinds_sizes_and_contrasts():
    drawn = [draw_defect(seed) for seed in range(400)]
    assert drawn == [draw_defect(seed) for seed in range(400)]
    assert {each.kind for each in drawn} == set(KINDS)
    assert {draw_defect(seed, ("blob", "swap")).kind for seed in range(20)} == {"blob", "swap"}
    for values, (low, high) in (
        ([each.size for each in drawn], SIZES),
        ([each.contrast for each in drawn], CONTRASTS),
    ):
        assert low <= min(values) < 1.2 * low
        assert 0.8 * high < max(values) <= high
        assert np.median(values) == pytest.approx(np.sqrt(low * high), rel=0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_empty_and_constant_images_are_no_hindrance(kind):
    flat = np.full((1, 9, 7), 5, np.float32)
    nowhere = np.zeros((9, 7), bool)
    for size in (0.01, 0.3):
        made = plant(flat, nowhere, Defect(kind, size, 0.5), seed=0)
        assert np.isfinite(made.image).all()
        assert made.mask.any()
