"""The review app as a person uses it: a real server, the distribution's Chromium, mouse and
keyboard."""

import shutil

import pyarrow.csv
import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

import in_chromium
from playwright.sync_api import Error, expect

import anodetect
from anodetect.data import synthetic
from anodetect.record import directories, reviews, verification
from apps.review.case_list import ROW_HEIGHT
from benchmarks.review import PAINTED, browser, served

VERDICTS = 10  # by each of two who judge at once
HEAD = 35  # pixels of a table's head
pytestmark = in_chromium.VIEWER


@pytest.fixture(scope="module")
def scores(pca_run, synthetic_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("browser") / "scores"
    anodetect.score(pca_run, [str(synthetic_folder)], out, far=0.2)
    return out


@pytest.fixture(scope="module")
def address(scores):
    with served([scores]) as found:
        yield found


@pytest.fixture(scope="module")
def started():
    with browser() as found:
        yield found


@pytest.fixture
def chromium(started):
    """The browser; its pages are closed after the test."""
    yield started
    for context in started.contexts:
        context.close()


def visit(chromium, address, reviewer):
    """A new session with a browser profile of its own, its name given."""
    page = chromium.new_context(
        viewport={"width": 1280, "height": 900}, accept_downloads=True
    ).new_page()
    page.goto(address)
    drawn(page)
    name = page.get_by_label("Your name, for the record")
    name.fill(reviewer)
    name.press("Enter")
    expect(page.get_by_role("button", name="Normal")).to_be_enabled()
    drawn(page)
    name.blur()  # where the page is slow, what does it on Enter is not there yet
    return page


def drawn(page):
    """Wait until the page shows what was asked for."""
    page.wait_for_selector("[data-test-script-state=notRunning]", state="attached", timeout=60_000)
    if page.locator("#viewer").count():
        page.wait_for_selector(PAINTED, timeout=60_000)


def reviewed(page, count, total=40):
    """Wait until the page shows how many images are judged, and the next image."""
    expect(page.get_by_text(f"{count} of {total} judged by you")).to_be_visible()
    drawn(page)


def test_from_opening_to_a_verified_export(chromium, address, scores, tmp_path):
    page = visit(chromium, address, "Ada")

    page.get_by_role("button", name="Sort and filter").click()
    page.get_by_label("Search cases").fill("defect")
    page.get_by_label("Search cases").press("Enter")
    expect(page.get_by_text("20 cases listed")).to_be_visible()
    page.keyboard.press("Escape")

    page.get_by_text("Threshold", exact=True).click()
    flagged = page.get_by_test_id("stMetric").filter(has_text="flagged").first
    expect(flagged).to_contain_text("of 40")
    before = flagged.inner_text()
    page.get_by_role("slider", name="False-alarm rate, %").press("End")
    expect(flagged).not_to_have_text(before)
    assert not (scores / "scores.parquet").stat().st_mtime > (scores / "audit.json").stat().st_mtime

    page.get_by_text("Cases", exact=True).click()
    expect(
        page.get_by_text("20 cases listed")
    ).to_be_visible()  # the filter is still that of before
    drawn(page)
    for done, key in enumerate("12342", start=1):
        page.keyboard.press(key)
        reviewed(page, done)
    page.keyboard.press("n")
    expect(page.get_by_text("(7 of 20)")).to_be_visible()
    page.keyboard.press("?")
    expect(page.locator("#viewer .problem")).to_contain_text("Z undo")

    expect(page.locator("#viewer .receipt")).to_contain_text("record 5")
    page.reload()
    reviewed(page, 5)  # the address kept the name, the directory the verdicts
    page.get_by_text("Summary", exact=True).click()
    expect(page.get_by_text("5 records, unbroken")).to_be_visible()
    for kind in ("CSV", "Parquet", "HTML report"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Export {kind}").click()
        download.value.save_as(tmp_path / kind)
    exported = pyarrow.csv.read_csv(tmp_path / "CSV").column("verdict").to_pylist()
    assert exported == ["normal", "anomalous", "unsure", "bad image", "anomalous"]
    assert "anomalous" in (tmp_path / "HTML report").read_text("utf-8")
    assert verification.verify(scores).intact


def test_two_at_once_lose_nothing(chromium, pca_run, tmp_path):
    """VERDICTS verdicts each as fast as the page takes them.

    Without the lock of its writers the store loses a verdict among the first three of each, so that
    three times as many show it.
    """
    synthetic.write(tmp_path / "in", train=1, test=VERDICTS // 2, size=64)
    out = tmp_path / "scores"
    anodetect.score(pca_run, [str(tmp_path / "in/test")], out, far=0.2)
    with served([out]) as address:
        pages = {name: visit(chromium, address, name) for name in ("Ada", "Ben")}
        for done in range(1, VERDICTS + 1):
            for page in pages.values():
                page.keyboard.press("1" if done % 2 else "2")
            for page in pages.values():
                reviewed(page, done, VERDICTS)
    kept = reviews.read(out / reviews.FILE)
    ranked = sorted(directories.read(out).rows, key=lambda row: (row.p_value, -row.score, row.path))
    for name in pages:
        mine = [review for review in kept if review.reviewer == name]
        assert [review.path for review in mine] == [row.path for row in ranked]
        assert [review.verdict for review in mine] == ["normal", "anomalous"] * (VERDICTS // 2)
    assert len(kept) == 2 * VERDICTS and verification.verify(out).intact


def test_a_key_held_down_judges_nothing_that_was_not_seen(chromium, address, scores):
    page = visit(chromium, address, "Fay")
    page.evaluate("""() => {
        const options = {key: "1", bubbles: true, composed: true};
        for (let n = 0; n < 20; n++) {
            const repeat = n > 0;
            document.body.dispatchEvent(new KeyboardEvent("keydown", {...options, repeat}));
        }
    }""")
    reviewed(page, 1)
    page.keyboard.press("2")
    reviewed(page, 2)
    kept = reviews.read(scores / reviews.FILE)
    verdicts = [review.verdict for review in kept if review.reviewer == "Fay"]
    assert verdicts == ["normal", "anomalous"]


def test_a_click_in_the_list_opens_an_image_also_after_keys_and_twice_on_one_place(
    chromium, address
):
    page = visit(chromium, address, "Gil")
    page.get_by_test_id("stDataFrame").scroll_into_view_if_needed()
    table = page.get_by_test_id("stDataFrame").bounding_box()

    def click_line(number):
        page.mouse.click(table["x"] + 90, table["y"] + (number - 0.5) * ROW_HEIGHT + HEAD)

    page.keyboard.press("n")
    expect(page.get_by_text("(2 of 40)")).to_be_visible()
    drawn(page)
    click_line(5)
    expect(page.get_by_text("(5 of 40)")).to_be_visible()
    drawn(page)
    page.keyboard.press("p")
    expect(page.get_by_text("(4 of 40)")).to_be_visible()
    drawn(page)
    click_line(5)
    expect(page.get_by_text("(5 of 40)")).to_be_visible()


CONTROLS = {
    "button",
    "textbox",
    "checkbox",
    "radio",
    "switch",
    "slider",
    "combobox",
    "spinbutton",
    "listbox",
    "link",
}


def nameless(page):
    """How many controls the browser tells assistive technology of, and those of them it has no name
    for."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in tree if not node["ignored"] and node["role"]["value"] in CONTROLS]
    return len(controls), [node for node in controls if not node["name"]["value"].strip()]


@pytest.fixture(scope="module")
def working(scores, pca_run, tmp_path_factory):
    """The app with a folder to train and score in."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(pca_run, root / "run")
    with served([scores], "--root", str(root)) as found:
        yield found


PAGES = {
    "Cases": "Previous",
    "Threshold": "Truth from",
    "Summary": "Export CSV",
    "Train": "Model card of",
}


def test_pages_load_from_nowhere_else(chromium, working):
    answers, refused = [], []
    page = chromium.new_page()
    page.on("response", lambda answer: answers.append(answer))  # noqa: PLW0108
    page.on("console", lambda said: refused.append(said.text) if "Policy" in said.text else None)
    page.goto(working)
    drawn(page)
    for name, shown in PAGES.items():
        page.get_by_text(name, exact=True).first.click()
        expect(page.get_by_text(shown).first).to_be_visible()
        drawn(page)
    assert refused == []
    for answer in answers:
        if answer.url.startswith("http"):
            assert answer.url.startswith(working)
            assert answer.headers["x-frame-options"] == "SAMEORIGIN", answer.url
            policy = answer.headers["content-security-policy"]
            assert "default-src 'self';" in policy and "frame-ancestors 'self'" in policy

    with pytest.raises(Error, match="Failed to fetch"):
        page.evaluate("fetch('http://localhost:9/', {mode: 'no-cors'})")
    assert any("connect-src" in text or "default-src" in text for text in refused)


def test_every_control_has_an_accessible_name(chromium, working):
    page = visit(chromium, working, "Eve")
    for name, shown in PAGES.items():
        page.get_by_text(name, exact=True).first.click()
        expect(page.get_by_text(shown).first).to_be_visible()
        if name == "Cases":
            page.get_by_role("button", name="Sort and filter").click()
            expect(page.get_by_label("Search cases")).to_be_visible()
        drawn(page)
        count, without = nameless(page)
        assert count > 5 and without == [], name
        page.keyboard.press("Escape")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_at_200_percent_nothing_is_cut_off(chromium, working, theme):
    """Twice as large in a window of 1280 pixels is what a window of 640 shows: all can be reached
    by scrolling down."""
    context = chromium.new_context(
        viewport={"width": 640, "height": 450}, device_scale_factor=2, color_scheme=theme
    )
    page = context.new_page()
    page.goto(working)
    page.wait_for_selector(PAINTED, timeout=60_000)
    for name, shown in PAGES.items():
        if name != "Cases":
            page.get_by_role("button", name="Expand sidebar").click()
            page.get_by_text(name, exact=True).first.click()
            page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()
        expect(page.get_by_text(shown).first).to_be_visible()
        wide = page.get_by_test_id("stMain").evaluate(
            "(main) => main.scrollWidth - main.clientWidth"
        )
        assert wide <= 0, name
