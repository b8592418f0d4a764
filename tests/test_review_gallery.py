"""The gallery: what the browser may fetch, and that a verdict says what was shown."""

import io
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import score_folders
import score_volumes

from anodetect.errors import ConfigError, RunError
from anodetect.record import directories, marks, reviews
from anodetect.record.marks import Shown
from apps.review import gallery, receipts, routes, session, shelves, tickets
from apps.review.case_list import ROW_HEIGHT
from apps.review.gallery import Given
from apps.review.shelves import Shelf
from apps.review.store import Store

COUNT = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return score_folders.write(tmp_path_factory.mktemp("gallery"), COUNT, height=300, width=700)


def opened(folder, reviewer="Ada"):
    """A session as the page opens it, without Streamlit."""
    scores = session._read_scores.__wrapped__(folder, 0)
    store = Store(folder, scores.directory.audit.verdicts_start)
    written = store.read()
    return session.ReviewSession(scores, store, written, reviews.in_force(written), reviewer)


@pytest.fixture
def folder(made, tmp_path):
    out = shutil.copytree(made, tmp_path / "scores")
    return out


@pytest.fixture
def shelf(folder):
    now = opened(folder)
    found = Shelf(now, now.directory.rows, blind=False)
    shelves.put("shelf", found)
    return found


def proof_of(ticket):
    """What the browser gets along with a thumbnail."""
    request = SimpleNamespace(path_params={"shelf": "shelf", "ticket": ticket})
    answer = routes._thumbnail(request)
    assert answer.media_type == "image/jpeg"
    return answer.headers[routes.PROOF]


def test_items_are_those_of_the_list_and_hidden_ones_say_nothing(shelf):
    first, *_, last = shelves.items("shelf", 0, 1000)
    assert first.label == "part-000.png" and first.flagged and first.facts.startswith("p 0.0")
    assert last.label == f"part-{COUNT - 1:03}.png" and not last.flagged
    assert [each.label for each in shelves.items("shelf", 28, 50)] == [
        "part-028.png",
        "part-029.png",
    ]
    shelves.put("blind", Shelf(shelf.session, shelf.rows, blind=True))
    hidden = shelves.items("blind", 0, 2)
    assert [each.label for each in hidden] == ["Case 1", "Case 2"]
    assert {(each.facts, each.flagged, each.verdict) for each in hidden} == {("", False, "")}
    assert hidden[0].ticket != first.ticket
    with pytest.raises(RunError, match="no such list"):
        shelves.items("guessed", 0, 10)
    with pytest.raises(RunError, match="no such"):
        shelves.picture("shelf", "guessed")


@pytest.mark.parametrize("large", [False, True])
def test_a_thumbnail_is_the_image_made_small_whatever_its_size(shelf, monkeypatch, large):
    monkeypatch.setattr(shelves.thumbnails, "LARGEST", 100 if large else 2**22)
    item = shelves.items("shelf", 3, 1)[0]
    shelves._pictures.clear()
    with Image.open(io.BytesIO(shelves.picture("shelf", item.ticket))) as small:
        assert small.format == "JPEG" and max(small.size) <= shelves.SIDE
        assert small.size[0] > 240 and abs(small.size[0] / small.size[1] - 7 / 3) < 0.02
        shown = np.asarray(small.convert("L").resize((700, 300)), float)
    assert np.corrcoef(shown.ravel(), score_folders.image_of(3, 300, 700).ravel())[0, 1] > 0.98


def test_every_verdict_is_a_record_that_says_thumbnail(shelf, folder):
    for n, item in enumerate(shelves.items("shelf", 0, 3)):
        sent = Given(str(n), item.ticket, "normal", proof_of(item.ticket))
        assert gallery.record(shelf, sent).receipt.text == f"normal, record {n + 1}"
    found = reviews.read(folder / reviews.FILE)
    assert [each.path for each in found] == [f"part-00{n}.png" for n in range(3)]
    assert {each.shown for each in found} == {"thumbnail"}
    head = directories.read(folder).audit.head
    assert list(reviews.broken(found, head)) == []
    undone = gallery.record(shelf, Given("u", "", "undo"))
    assert undone.receipt.text == "took back normal on part-002.png, record 4"


def test_no_verdict_on_a_thumbnail_that_was_not_painted(shelf, folder):
    ticket, other = [item.ticket for item in shelves.items("shelf", 5, 2)]
    for painted in ("", "guessed", ticket, proof_of(other)):
        with pytest.raises(RunError, match="not on the screen"):
            gallery.record(shelf, Given("1", ticket, "normal", painted))
    with pytest.raises(ConfigError, match="no verdict"):
        gallery.record(shelf, Given("1", ticket, "fine", proof_of(ticket)))
    assert opened(folder).reviews == []


def test_what_is_sent_again_after_a_new_start_is_recorded_once(shelf, folder, monkeypatch):
    """The server ends between records and their receipts; the browser sends them again."""
    state = {"open": ""}
    monkeypatch.setattr(gallery, "st", SimpleNamespace(session_state=state))
    monkeypatch.setattr("apps.review.drafts.st", SimpleNamespace(session_state=state))
    items = shelves.items("shelf", 0, 3)
    sent = [
        Given(f"v{n}", item.ticket, "normal", proof_of(item.ticket)) for n, item in enumerate(items)
    ]
    sent.append(Given("u", "", "undo"))
    for start in range(2):
        monkeypatch.setattr(receipts, "_done", {})
        office = tickets.Office()
        office.ticket(shelf.session.directory, shelf.rows[0], hidden=False)
        for module in (gallery, shelves):
            monkeypatch.setattr(module, "OFFICE", office)
        shelves.put(f"shelf of start {start}", shelf)
        gallery._receive(f"shelf of start {start}", gallery.Message(1, "", sent))
        said = [each.text for each in receipts.receipts_of(shelf.session, blind=shelf.blind)]
        assert said[:2] == ["normal, record 1", "normal, record 2"]
        assert said[3] == "took back normal on part-002.png, record 4"
    found = [(each.verdict, each.id) for each in reviews.read(folder / reviews.FILE)]
    assert found == [("normal", "v0"), ("normal", "v1"), ("normal", "v2"), ("withdrawn", "u")]


def test_a_verdict_keeps_the_regions_and_the_comment_on_record(shelf, folder, monkeypatch):
    row, store = shelf.rows[0], shelf.session.store
    shown = [Shown(row.path, row.sha256, painted=True)]
    store.add(row, "Ada", "anomalous", shown, comment="a scratch", region="1,2,3,4")
    again = Shelf(opened(folder), shelf.rows, blind=False)
    shelves.put("shelf", again)
    ticket = shelves.items("shelf", 0, 1)[0].ticket
    gallery.record(again, Given("1", ticket, "unsure", proof_of(ticket)))
    last = reviews.read(folder / reviews.FILE)[-1]
    assert (last.verdict, last.comment, last.region) == ("unsure", "a scratch", "1,2,3,4")


def test_what_was_shown_tells_thumbnails_from_pictures():
    one = Shown("a", "1", "axial", 3, painted=True, thumbnail=True)
    two = Shown("a", "1", "axial", 4, painted=True)
    assert marks.shown_text([one]) == "thumbnail of axial 3"
    assert marks.shown_text([one, two]) == "axial 4; thumbnail of axial 3"
    image = Shown("a", "1", painted=True, thumbnail=True)
    assert marks.shown_text([image, Shown("a", "1", thumbnail=True)]) == "thumbnail"


def test_a_volume_is_shown_and_recorded_by_its_highest_slice_or_the_middle_one(tmp_path):
    folder = score_volumes.write(tmp_path)
    now = opened(folder)
    row = now.directory.rows[0]
    slices = now.scores.slices[row.path]
    highest = max(slices, key=lambda each: each.score or 0.0)
    for blind, expected in ((True, slices[len(slices) // 2]), (False, highest)):
        shelf = Shelf(now, now.directory.rows, blind)
        shelves.put("shelf", shelf)
        ticket = shelves.items("shelf", 0, 1)[0].ticket
        with Image.open(io.BytesIO(shelves.picture("shelf", ticket))) as small:
            assert small.format == "JPEG"
        gallery.record(shelf, Given(f"{blind}", ticket, "normal", proof_of(ticket)))
        last = reviews.read(folder / reviews.FILE)[-1]
        assert last.shown == f"thumbnail of {expected.axis} {expected.slice}"
        assert last.blind == blind


# -- In the browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    pytest.importorskip("playwright", reason="playwright is not installed")
    if shutil.which("chromium") is None or not (routes.BUNDLE / "gallery.js").is_file():
        pytest.skip("no chromium, or the viewer is not built")
    from benchmarks.review import browser, served

    out = shutil.copytree(made, tmp_path_factory.mktemp("browser") / "scores")
    with served([out]) as address, browser() as chromium:
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        found = context.new_page()
        found.set_default_timeout(120_000)
        found.scores = out
        found.goto(f"{address}?reviewer=Ada&view=Gallery&flagged=no")
        found.wait_for_selector(".cell[data-painted=true]")
        yield found


@pytest.mark.timeout(300)
def test_several_are_selected_judged_and_the_address_leads_back(page):
    from playwright.sync_api import expect

    expect.set_options(timeout=120_000)
    boxes = [cell.bounding_box() for cell in page.locator(".cell .picture").all()]
    assert min(box["width"] for box in boxes) >= 240 and len(boxes) < COUNT
    page.locator(".cell").nth(0).click()
    page.locator(".cell").nth(2).click(modifiers=["Shift"])
    expect(page.locator("#gallery [role=status]").first).to_contain_text("3 selected")
    page.keyboard.press("2")
    expect(page.locator("#gallery .receipt")).to_have_text("Saved: anomalous, record 3")
    found = reviews.read(page.scores / reviews.FILE)
    assert [(each.path, each.verdict) for each in found] == [
        (f"part-00{n}.png", "anomalous") for n in (2, 3, 4)
    ]

    page.keyboard.press("1")
    expect(page.locator("#gallery [role=alert]")).to_have_text("Select a picture first.")
    page.locator(".cell").nth(4).dblclick()
    expect(page.locator("#viewer[data-case='part-006.png']")).to_have_count(1)
    page.wait_for_url(re.compile("case=part-006.png"))
    assert "flagged=no" in page.url and "view=Gallery" not in page.url
    page.reload()
    expect(page.locator("#viewer[data-painted=true][data-case='part-006.png']")).to_have_count(1)
    page.keyboard.press("j")
    expect(page.locator("#viewer[data-case='part-007.png']")).to_have_count(1)
    page.wait_for_url(re.compile("case=part-007.png"))

    # The picture of a line stands beside the list while the pointer is there.
    page.wait_for_selector("[data-test-script-state=notRunning]", state="attached")
    page.wait_for_timeout(2000)  # the list is drawn anew, and moves
    table = page.locator("[class*=st-key-list-] .dvn-scroller").first
    table.scroll_into_view_if_needed()
    box, peek, seen = table.bounding_box(), page.locator("#peek"), set()
    for line in (2.5, 3.5):
        page.mouse.move(box["x"] + 60, box["y"] + ROW_HEIGHT * line)
        expect(peek).to_be_visible()
        expect(peek).to_have_attribute("data-painted", "true")
        beside = peek.bounding_box()
        assert beside["width"] >= 240 and beside["height"] >= 240
        assert beside["x"] >= box["x"] + box["width"]
        seen.add(peek.get_attribute("data-ticket"))
    assert len(seen) == 2
    page.mouse.move(box["x"] + 700, box["y"])
    expect(peek).to_be_hidden()
