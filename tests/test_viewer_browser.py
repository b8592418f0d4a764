"""The viewer in the distribution's Chromium, with mouse and keyboard, from a real server."""

import re
import shutil

import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

import in_chromium
import score_folders
from playwright.sync_api import expect

from anodetect.output import judged
from anodetect.record import directories, marks, reviews
from apps.review import loading, routes
from benchmarks.review import browser, served

pytestmark = in_chromium.VIEWER
PAINTED = "#viewer[data-painted=true]"
IDLE = "[data-test-script-state=notRunning]"


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return score_folders.write(tmp_path_factory.mktemp("viewer"), 12)


@pytest.fixture(scope="module")
def ranked(scores):
    """The rows as the worklist has them."""
    return directories.read(scores).rows


@pytest.fixture(scope="module")
def address(scores):
    with served([scores]) as found:
        yield found


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture
def visit(chromium, address):
    """Open the app under a reviewer's name, and note the requests and errors of the page."""
    contexts = []

    def open_page(reviewer, address=address):
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.requests, page.errors = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(f"{address}?reviewer={reviewer}")
        page.wait_for_selector(PAINTED, timeout=60_000)
        page.wait_for_selector("[data-test-script-state=notRunning]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()


def on_screen(page, row):
    """Wait until the case of a row is painted."""
    expect(page.locator(f"{PAINTED}[data-case='{row.path}']")).to_have_count(1)


def kept(scores, reviewer):
    found = reviews.read(scores / reviews.FILE) if (scores / reviews.FILE).is_file() else []
    return [review for review in found if review.reviewer == reviewer]


def test_keys_move_and_judge_and_no_request_leaves(visit, address, scores, ranked):
    page = visit("Ada")
    on_screen(page, ranked[0])
    expect(page.locator("#viewer .panel:visible")).to_have_count(3)
    page.keyboard.press("n")
    on_screen(page, ranked[1])
    page.keyboard.press("p")
    on_screen(page, ranked[0])

    for number, key in enumerate("1234"):
        on_screen(page, ranked[number])
        page.keyboard.press(key)
    on_screen(page, ranked[4])
    expect(page.locator("#viewer .receipt")).to_have_text("Saved: bad image, record 4")
    found = [(review.path, review.verdict) for review in kept(scores, "Ada")]
    verdicts = ["normal", "anomalous", "unsure", "bad image"]
    assert found == [(row.path, verdict) for row, verdict in zip(ranked, verdicts, strict=False)]

    page.keyboard.press("z")
    on_screen(page, ranked[3])
    expect(page.locator("#viewer .receipt")).to_contain_text(
        f"took back bad image on {ranked[3].path}"
    )
    head = directories.read(scores).audit.head
    assert list(reviews.broken(reviews.read(scores / reviews.FILE), head)) == []
    assert page.errors == []
    own = (f"{address}/", f"{address.replace('http', 'ws')}/", "blob:", "data:")
    assert [url for url in page.requests if not url.startswith(own)] == []


def test_a_key_before_the_image_is_there_is_refused(visit, scores, ranked):
    page = visit("Fay")
    # Tiles that do not come keep the next case unpainted.
    page.route("**/viewer/**", lambda route: None)
    for _ in range(4):
        page.keyboard.press("n")  # beyond what was fetched before
    expect(page.locator("#viewer")).to_have_attribute("data-painted", "false")
    page.evaluate("""() => { const make = AudioContext.prototype.createOscillator; window.tones = 0;
        AudioContext.prototype.createOscillator =
            function () { window.tones++; return make.apply(this); }; }""")
    page.keyboard.press("2")
    expect(page.locator("#viewer [role=alert]")).to_contain_text("Not recorded")
    assert page.evaluate("window.tones") == 1
    assert kept(scores, "Fay") == []


# Kinds of elements that can have the focus; the test below uses one of each.
FOCUSED = """() => [...new Set([...document.querySelectorAll("input, select, textarea, button, " +
  "summary, canvas[tabindex], [contenteditable=true], [role=slider], [role=combobox]")]
  .map((each) => each.getAttribute("role") || each.type || each.localName))].sort()"""
KINDS = {"button", "combobox", "radio", "range", "select-one", "switch", "text", "checkbox"}
KINDS |= {"canvas", "summary", "submit"}


def test_no_widget_keeps_the_keys_of_the_case(visit):
    page = visit("")

    def next_case(used, wait=200):
        page.wait_for_timeout(wait)
        before = page.locator("#viewer").get_attribute("data-case")
        page.keyboard.press("n")
        page.wait_for_timeout(100)
        after = page.locator("#viewer").get_attribute("data-case")
        assert after != before, f"{used} kept the key"
        page.keyboard.press("p")
        page.wait_for_timeout(100)

    name = page.get_by_label("Your name, for the record")
    name.fill("Joy")
    name.press("Enter")
    next_case("the name", wait=0)
    expect(name).to_have_value("Joy")
    page.wait_for_selector("[data-test-script-state=notRunning]", state="attached")

    page.get_by_label("Score directory").click()
    page.get_by_role("option").first.click()
    next_case("a choice")
    page.get_by_role("button", name="Sort and filter").click()
    next_case("the filters")
    page.get_by_label("Sort by").click()
    page.get_by_role("option", name="score").click()
    next_case("the order")
    page.get_by_label("My verdict").click()
    page.keyboard.press("Escape")
    next_case("a choice of several")
    page.get_by_text("all", exact=True).last.click()
    next_case("a radio button")
    page.get_by_label("Search cases").fill("part")
    page.get_by_label("Search cases").press("Enter")
    next_case("the search", wait=0)
    assert set(page.evaluate(FOCUSED)) <= KINDS
    page.keyboard.press("Escape")
    expect(page.get_by_label("Search cases")).to_have_count(0)

    page.get_by_text("To know").first.click()
    next_case("a strip that opens")
    table = page.locator("[data-testid=stDataFrame]").first
    table.click(position={"x": 120, "y": 60})
    page.wait_for_selector("[data-test-script-state=notRunning]", state="attached")
    next_case("the list")
    page.get_by_label("Colours").focus()
    page.get_by_label("Colours").select_option("viridis")
    next_case("the colours")
    page.get_by_label("Heatmap's opacity, %").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    next_case("the opacity")
    comment = page.locator("#viewer input[type=text]")
    comment.click()
    comment.press_sequentially("n1")
    expect(comment).to_have_value("n1")
    page.locator("#viewer .panel").first.click()
    next_case("the comment")


def test_verdicts_outlive_a_new_start_of_the_app(visit, scores, ranked, address):
    """The app ends while verdicts are on their way, and is started again."""
    own = int(address.rpartition(":")[2]) + 1
    with served([scores], port=own):
        page = visit("Kay", f"http://127.0.0.1:{own}")
        page.keyboard.press("n")
        on_screen(page, ranked[1])
        page.keyboard.press("2")
        expect(page.locator("#viewer .receipt")).to_contain_text("Saved")
        on_screen(page, ranked[2])
    page.keyboard.press("1")
    on_screen(page, ranked[3])
    expect(page.locator("#viewer .receipt")).to_contain_text("Saving 1")
    with served([scores], port=own):
        expect(page.locator("#viewer .receipt")).to_contain_text("Saved")
        on_screen(page, ranked[3])
    found = [(review.path, review.verdict) for review in kept(scores, "Kay")]
    assert found == [(ranked[1].path, "anomalous"), (ranked[2].path, "normal")]


def test_the_pointer_tells_the_value_of_its_pixel_in_every_panel(visit, scores, ranked):
    page = visit("Dora")
    case = loading.load(directories.read(scores), ranked[0])
    intensity, anomaly = case.image[0, 12, 41], float(f"{case.heatmap[12, 41]:.4g}")
    height, width = case.image.shape[1:]
    for panel in page.locator("#viewer .panel").all():
        box = panel.bounding_box()
        side = min(box["width"] / width, box["height"] / height)  # screen pixels of a pixel
        left = box["x"] + (box["width"] - side * width) / 2
        top = box["y"] + (box["height"] - side * height) / 2
        text = f"x 41, y 12 · intensity {intensity:g} · anomaly {anomaly:g}"
        for _ in range(100):  # the panels may still be finding their size
            page.mouse.move(left + 41.4 * side, top + 12.5 * side)
            page.mouse.move(left + 41.5 * side, top + 12.5 * side)
            if page.locator("#viewer output").text_content() == text:
                break
            page.wait_for_timeout(100)
        expect(page.locator("#viewer output")).to_have_text(text)

    page.keyboard.press("n")  # the pointer stays
    on_screen(page, ranked[1])
    case = loading.load(directories.read(scores), ranked[1])
    intensity, anomaly = case.image[0, 12, 41], float(f"{case.heatmap[12, 41]:.4g}")
    text = f"x 41, y 12 · intensity {intensity:g} · anomaly {anomaly:g}"
    expect(page.locator("#viewer output")).to_have_text(text)


def test_the_next_unjudged_case_by_its_key_from_other_pages(visit, ranked):
    page = visit("Juno")
    on_screen(page, ranked[0])
    for name, after in (("Summary", 1), ("Compare", 2), ("Batches", 3)):
        page.get_by_text(name, exact=True).first.click()
        page.wait_for_selector("#viewer", state="detached")
        page.wait_for_selector(IDLE, state="attached")
        page.keyboard.press("j")
        on_screen(page, ranked[after])
    page.get_by_text("Gallery", exact=True).first.click()
    page.wait_for_selector("#gallery .cell")
    page.wait_for_selector(IDLE, state="attached")
    page.keyboard.press("j")
    on_screen(page, ranked[4])
    assert not page.errors


def test_two_scorings_have_room_on_a_narrow_screen(chromium, scores, tmp_path):
    other = shutil.copytree(scores, tmp_path / "other")
    with served([scores, other]) as address:
        page = chromium.new_page(viewport={"width": 820, "height": 1180})
        page.goto(f"{address}?page=Compare")
        page.locator(".st-key-compare_which").get_by_text("all", exact=True).click()
        pictures = page.locator(".st-key-pair .js-plotly-plot image")
        expect(pictures).to_have_count(2)
        page.wait_for_selector(IDLE, state="attached")
        for box in (each.bounding_box() for each in pictures.all()):
            assert min(box["width"], box["height"]) >= 240
        plots = page.locator(".st-key-pair .js-plotly-plot").all()
        for plot in plots:  # the numbers beside a picture are whole
            left = plot.bounding_box()["x"]
            for label in plot.locator(".ytick text").all():
                assert label.bounding_box()["x"] >= left
        page.close()


def test_a_receipt_loses_the_name_of_a_case_that_is_hidden_later(visit, ranked):
    page = visit("Rita")
    on_screen(page, ranked[0])
    page.keyboard.press("1")
    on_screen(page, ranked[1])
    page.keyboard.press("z")
    receipt = page.locator("#viewer .receipt")
    expect(receipt).to_contain_text(f"took back normal on {ranked[0].path}")
    page.get_by_text("Blind until judged").click()
    expect(receipt).to_have_text(re.compile(r"Saved: took back normal, record \d+"))
    gone = "name => !document.documentElement.outerHTML.includes(name)"
    page.wait_for_function(gone, arg=ranked[0].path, timeout=60_000)


def test_a_box_and_a_comment_go_with_the_verdict_of_their_case(visit, scores, ranked):
    page = visit("Cyd")
    page.keyboard.press("b")
    box = page.locator("#viewer .panel").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 40, box["y"] + box["height"] / 2 + 30, steps=4)
    page.mouse.up()
    expect(page.locator("#viewer .region")).to_contain_text("kept with the verdict")
    page.locator("#viewer input[type=text]").fill("scratch 1")
    page.keyboard.press("Enter")

    page.keyboard.press("n")  # neither goes to another case, nor is lost
    on_screen(page, ranked[1])
    expect(page.locator("#viewer input[type=text]")).to_have_value("")
    expect(page.locator("#viewer .region")).to_have_text("")
    page.keyboard.press("p")
    on_screen(page, ranked[0])
    page.keyboard.press("2")
    expect(page.locator("#viewer .receipt")).to_contain_text("Saved")
    review = kept(scores, "Cyd")[0]
    assert (review.path, review.comment) == (ranked[0].path, "scratch 1")
    x, y, w, h = map(int, review.region.split(","))
    assert 20 <= x <= 40 and 20 <= y <= 40 and w > h >= 2


def test_blind_shows_a_number_and_the_image_alone_until_judged(visit, scores):
    page = visit("Eve")
    page.get_by_text("Blind until judged").click()
    expect(page.locator(PAINTED)).to_have_attribute("data-case", re.compile(r"^\d+$"))
    expect(page.locator("#viewer .panel:visible")).to_have_count(1)

    def in_the_middle():
        box = page.locator("#viewer .panel").first.bounding_box()
        for shift in (2, 0):
            page.mouse.move(box["x"] + box["width"] / 2 + shift, box["y"] + box["height"] / 2)
        page.wait_for_timeout(300)
        return [int(n) for n in re.findall(r"\b[xy] (\d+)", page.locator("output").inner_text())]

    box = page.locator("#viewer .panel").first.bounding_box()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.7 * box["height"])
    for _ in range(4):
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(150)
    page.wait_for_timeout(500)
    before = in_the_middle()
    assert max(before) > 36  # not the middle of the image
    page.keyboard.press("1")
    expect(page.locator("#viewer .panel:visible")).to_have_count(3)
    page.wait_for_timeout(1000)
    assert max(abs(a - b) for a, b in zip(in_the_middle(), before, strict=True)) <= 2
    (review,) = kept(scores, "Eve")
    expect(page.locator(PAINTED)).to_have_attribute("data-case", review.path)
    assert review.blind


def test_opacity_colours_and_contours_ask_the_server_for_no_page(visit):
    page = visit("Ned")
    expect(page.locator("[data-test-script-state=notRunning]")).to_have_count(1)
    page.evaluate("""() => { window.runs = 0; new MutationObserver(() => window.runs++).observe(
        document.querySelector("[data-test-script-state]"),
        {attributeFilter: ["data-test-script-state"]}); }""")
    picture, seen = page.locator("#viewer .panel").nth(1), []
    seen.append(picture.screenshot())
    page.keyboard.press("o")
    page.wait_for_timeout(300)
    seen.append(picture.screenshot())
    page.keyboard.press("o")
    page.get_by_label("Colours").select_option("viridis")
    page.wait_for_timeout(300)
    seen.append(picture.screenshot())
    page.get_by_label("Contours").check()
    page.wait_for_timeout(1000)  # the outlines are fetched
    seen.append(picture.screenshot())
    assert len(set(seen)) == 4
    assert page.evaluate("window.runs") == 0


def test_the_wheel_zooms_all_panels_and_the_next_case_keeps_the_place(visit, ranked):
    page = visit("Ivy")
    output = page.locator("#viewer output")
    boxes = [panel.bounding_box() for panel in page.locator("#viewer .panel").all()]

    def values(box, x, y):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        expect(output).to_contain_text("x ")
        return output.inner_text().partition(" · ")[0]

    before = values(boxes[0], 0.1, 0.5)
    page.mouse.move(boxes[0]["x"] + 0.7 * boxes[0]["width"], boxes[0]["y"] + 100)
    for _ in range(5):
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(100)
    page.wait_for_timeout(500)
    near = values(boxes[0], 0.1, 0.5)
    assert near != before
    assert values(boxes[2], 0.1, 0.5) == near
    page.keyboard.press("n")
    on_screen(page, ranked[1])
    values(boxes[0], 0.5, 0.5)
    assert values(boxes[0], 0.1, 0.5) == near


def spot(page, x, y):
    """Return where the middle of an image's pixel is on the screen, in the first panel."""
    box = page.locator("#viewer .panel").first.bounding_box()
    side = min(box["width"], box["height"]) / 64  # screen pixels of a pixel
    left = box["x"] + (box["width"] - 64 * side) / 2 + (x + 0.5) * side
    return left, box["y"] + (box["height"] - 64 * side) / 2 + (y + 0.5) * side


def drag(page, *points):
    """Drag along pixels of the image."""
    page.mouse.move(*spot(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*spot(page, *point), steps=4)
    page.mouse.up()


def test_brush_polygon_and_eraser_mark_pixels_of_the_source(visit, scores, ranked):
    page = visit("Uma")
    region = page.locator("#viewer .region")
    for _ in range(100):  # the panels may still be finding their size
        page.mouse.move(*spot(page, 41, 12))
        page.mouse.move(*spot(page, 41, 13))
        if page.locator("#viewer output").inner_text().startswith("x 41, y 13 "):
            break
        page.wait_for_timeout(100)
    page.keyboard.press("d")
    drag(page, (12, 40), (30, 40), (30, 52))
    expect(region).to_contain_text("kept with the verdict")
    page.keyboard.press("e")
    for _ in range(20):
        page.keyboard.press("[")  # the smallest brush erases a pixel
    page.mouse.click(*spot(page, 20, 40))
    page.keyboard.press("g")
    for corner in ((40, 8), (60, 8), (60, 30)):
        page.mouse.click(*spot(page, *corner))
    page.keyboard.press("Enter")
    expect(region).to_contain_text("2 regions")
    page.keyboard.press("b")
    drag(page, (2, 2), (9, 6))
    expect(region).to_contain_text("3 regions")
    page.keyboard.press("Control+z")
    expect(region).to_contain_text("2 regions")
    page.keyboard.press("2")
    on_screen(page, ranked[1])
    expect(page.locator("#viewer")).to_have_attribute("data-tool", "box")  # it stays
    expect(page.locator("#viewer .receipt")).to_contain_text("Saved")

    (review,) = kept(scores, "Uma")
    mask = judged.mask_of(marks.parse(review.region), (64, 64))
    assert mask[40, 12] and mask[40, 28] and mask[51, 30] and not mask[40, 20]
    assert mask[39:42, 19:22].sum() == 8  # one pixel was erased, in the middle of the stroke
    assert mask[15, 55] and not mask[25, 45] and not mask[4, 5] and not mask[55, 10]
    page.reload()
    page.wait_for_selector(PAINTED)
    expect(page.locator("#viewer")).to_have_attribute("data-tool", "box")


def test_fingers_zoom_and_mark_on_a_narrow_screen(chromium, address, scores, ranked):
    context = chromium.new_context(viewport={"width": 820, "height": 1180}, has_touch=True)
    page = context.new_page()
    page.goto(f"{address}?reviewer=Tam")
    page.wait_for_selector(PAINTED, timeout=60_000)
    visible = [
        panel.bounding_box()
        for panel in page.locator("#viewer .panel:visible").all()
        if panel.bounding_box()["x"] >= 0
    ]
    assert visible and min(box["width"] for box in visible) >= 240
    for control in page.locator("#viewer button:visible, #viewer select:visible").all():
        assert control.bounding_box()["height"] >= 44
    page.get_by_role("button", name="Box").tap()
    box = visible[0]
    touches = page.context.new_cdp_session(page)

    def touch(kind, *points):
        touches.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y, "id": n} for n, (x, y) in points]},
        )

    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    sizes = []
    for _ in range(2):
        touch("touchStart", (0, (x - 20, y - 20)))
        touch("touchMove", (0, (x + 20, y + 20)))
        touch("touchEnd")
        expect(page.locator("#viewer .region")).to_contain_text("kept with the verdict")
        text = page.locator("#viewer .region").get_attribute("title")
        sizes.append(int(text.split("; ")[-1].split(",")[2]))
        touch("touchStart", (0, (x - 30, y)), (1, (x + 30, y)))  # with two fingers it zooms
        for step in range(1, 7):
            touch("touchMove", (0, (x - 30 - 10 * step, y)), (1, (x + 30 + 10 * step, y)))
        touch("touchEnd")
        page.wait_for_timeout(300)
    assert sizes[1] <= sizes[0] / 2
    assert page.locator("#viewer .region").get_attribute("title").count(";") == 1
    page.get_by_role("button", name="Anomalous").tap()
    expect(page.locator("#viewer .receipt")).to_contain_text("Saved")
    assert len(kept(scores, "Tam")) == 1
    context.close()


# Draws twice before the module is there, as an eager page does; the module notes what it is given.
TWICE = """async (script) => {
  const module = URL.createObjectURL(new Blob([script], {type: "text/javascript"}));
  const {default: draw} = await import(module);
  draw("older");
  draw("latest");
  await new Promise((done) => setTimeout(done, 500));
  draw("later");
  await new Promise((done) => setTimeout(done, 100));
  return globalThis.given;
}"""


def test_of_drawings_before_the_viewer_is_there_the_latest_counts(chromium):
    page = chromium.new_page()
    page.route(
        "http://viewer.test/", lambda route: route.fulfill(body="", content_type="text/html")
    )
    page.route(
        "**/viewer/bundle/viewer.js*",
        lambda route: route.fulfill(
            body="globalThis.given = [];"
            "export default function (component) { globalThis.given.push(component); }",
            content_type="text/javascript",
        ),
    )
    page.goto("http://viewer.test/")
    assert page.evaluate(TWICE, routes.script("viewer")) == ["latest", "later"]
    page.close()
