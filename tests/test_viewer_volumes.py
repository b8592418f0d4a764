"""Volumes in the viewer, in the distribution's Chromium, from a real server."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("streamlit", reason="the extra `app` is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

import in_chromium
import score_volumes
from playwright.sync_api import expect

from anodetect.record import reviews
from benchmarks.review import browser, served

pytestmark = in_chromium.VIEWER


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return score_volumes.write(tmp_path_factory.mktemp("viewer"), joined=[1])


@pytest.fixture
def page(scores):
    with served([scores]) as address, browser() as chromium:
        opened = chromium.new_page(viewport={"width": 1280, "height": 1000})
        opened.errors = []
        opened.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.goto(f"{address}?reviewer=Ada")
        opened.wait_for_selector("#viewer[data-painted=true]", timeout=120_000)
        yield opened


def on_screen(page, case, plane, number):
    """Wait until a slice, by its number in the source, is painted."""
    slice_of = f"[data-case='{case}'][data-plane={plane}][data-slice='{number}']"
    expect(page.locator(f"#viewer[data-painted=true]{slice_of}")).to_have_count(1)


def middle(locator, x=0.5, y=0.5):
    box = locator.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def marked(page):
    """The slices that the strip marks at its upper edge, and in which colour."""
    pixels = page.evaluate(
        """() => {
          const strip = document.querySelector("#viewer .slices canvas");
          const width = strip.width, high = strip.height / 32;
          return [...Array(14).keys()].map((n) => [...strip.getContext("2d").getImageData(
            Math.floor((n + 0.2) / 14 * width), high, 1, 1).data]);
        }"""
    )
    return [(n, tuple(colour[:3])) for n, colour in enumerate(pixels) if colour[3] > 250]


def test_slices_planes_profile_and_region_up_to_the_record(page, scores):
    name, panels = "head-0.nii.gz", page.locator("#viewer .panel:visible")
    on_screen(page, name, "axial", 5)  # the one with the highest score
    expect(panels).to_have_count(3)
    page.keyboard.press("ArrowDown")
    on_screen(page, name, "axial", 6)
    page.mouse.move(*middle(panels.first))
    for number in (7, 8):
        page.mouse.wheel(0, 120)
        on_screen(page, name, "axial", number)
    page.keyboard.press("ArrowUp")
    on_screen(page, name, "axial", 7)

    # The middle of a panel lies on the corner of four voxels, just beyond it in one of them.
    x, y = middle(panels.first)
    page.mouse.move(x + 2, y + 2)
    value = score_volumes.voxels_of(0)[24, 15, 7]
    output = page.locator("#viewer output")
    expect(output).to_contain_text(f"x 24, y 16 · intensity {value} · anomaly 0.05385")
    expect(output).to_contain_text("voxel 24, 15, 7 · 14.0 mm L, 0.0 mm P, 15.0 mm S")

    page.keyboard.press("b")
    page.mouse.down()
    page.mouse.move(*middle(panels.first, 0.6, 0.6), steps=3)
    page.mouse.up()
    expect(page.locator("#viewer .region")).to_contain_text("region axial 7: ")
    expect(page.locator("#viewer .slices")).to_contain_text("regions drawn: axial 8")
    assert marked(page) == [(7, (255, 212, 0))]
    page.keyboard.press("Control+z")
    assert marked(page) == []
    page.keyboard.press("b")
    page.mouse.move(x + 2, y + 2)
    page.mouse.down()
    page.mouse.move(*middle(panels.first, 0.6, 0.6), steps=3)
    page.mouse.up()
    page.keyboard.press("Escape")

    profile = page.locator("#viewer .slices canvas")
    page.mouse.click(*middle(profile, 2.5 / 14))
    on_screen(page, name, "axial", 2)
    page.get_by_label("Planes", exact=True).select_option("three planes")
    expect(page.locator("#viewer[data-painted=true]")).to_have_count(1)
    page.mouse.move(*middle(panels.nth(2), 0.5, 0.7))
    page.keyboard.press("ArrowDown")  # in the plane under the pointer
    on_screen(page, name, "sagittal", 25)
    page.mouse.click(*middle(panels.nth(1), 0.5, 0.2))  # coronal: the third row of 14
    expect(page.locator("#viewer .slices .slice")).to_contain_text("axial, slice 12 of 14, 35 mm S")
    expect(page.locator("#viewer[data-painted=true]")).to_have_count(1)

    page.keyboard.press("2")
    on_screen(page, "head-1.nii.gz", "coronal", 15)  # its middle, in the plane touched last
    expect(page.locator("#viewer .receipt")).to_contain_text("Saved: anomalous, record 1")
    (kept,) = reviews.read(scores / reviews.FILE)
    shown = dict(part.split(" ", 1) for part in kept.shown.split("; "))
    assert shown.keys() == {"axial", "coronal", "sagittal"}
    assert shown["axial"] == "2,5-8,11"  # neither what was jumped over nor the next case
    place, _, box = kept.region.partition(": ")
    x, y, width, height = map(int, box.split(","))
    # Rows of the source run the other way: the region lies before its middle.
    assert place == "axial 7" and x == 24 and y + height == 16 and width > 1 and height > 1
    assert page.errors == []

    first = panels.first.screenshot()
    page.get_by_label("Window").select_option("bone")
    page.wait_for_timeout(300)
    assert panels.first.screenshot() != first

    page.keyboard.press("p")  # as it was left
    expect(page.locator(f"#viewer[data-case='{name}'][data-painted=true]")).to_have_count(1)
    expect(page.locator("#viewer .region")).to_contain_text(kept.region)

    slice_text = page.locator("#viewer .slices .slice")
    expect(slice_text).to_contain_text("axial, slice 12 of 14")
    # Streamlit writes the address as well, with the voxel of before, as long as the page runs.
    page.wait_for_selector("[data-test-script-state=notRunning]", state="attached")
    page.wait_for_timeout(1000)  # the address is written once nothing moves
    page.wait_for_function("new URLSearchParams(location.search).get('voxel') === '24,15,11'")
    page.reload()
    expect(page.locator(f"#viewer[data-case='{name}'][data-painted=true]")).to_have_count(1)
    expect(slice_text).to_contain_text("slice 12 of 14")
    channels_one_by_one_and_together(page)


def colours(page):
    """How much red, green and blue is in the middle of the first panel."""
    shot = page.locator("#viewer .panel:visible").first.screenshot()
    picture = np.asarray(Image.open(BytesIO(shot)).convert("RGB"), float)
    height, width = picture.shape[:2]
    return picture[height // 3 : height // 2, width // 3 : width // 2].mean((0, 1))


def channels_one_by_one_and_together(page):
    """The second volume has two files: its voxels, and the negative of them."""
    expect(page.get_by_label("Channel", exact=True)).to_be_hidden()
    page.keyboard.press("n")
    on_screen(page, "head-1.nii.gz", "axial", 5)
    output = page.locator("#viewer output")
    channel = page.get_by_label("Channel", exact=True)
    value = score_volumes.voxels_of(1)[24, 15, 5]
    for name, shown in (("plain", value), ("negative", -value)):
        channel.select_option(name)
        x, y = middle(page.locator("#viewer .panel:visible").first)
        page.mouse.move(x + 3, y + 2)
        page.mouse.move(x + 2, y + 2)
        expect(output).to_contain_text(f"x 24, y 16 · {name} {shown} · anomaly")

    channel.select_option("false colour")
    page.get_by_label("Window").select_option("full range")
    page.wait_for_timeout(300)
    red, green, blue = colours(page)
    assert red > green + 40 and blue < 5 and abs(red + green - 255) < 15, (red, green, blue)
    page.get_by_label("Channel in red").select_option("nothing")
    page.get_by_label("Channel in blue").select_option("plain")
    page.wait_for_timeout(300)
    assert np.allclose(colours(page), [0, green, red], atol=3)
    assert page.errors == []
