"""What arrives and is scored once: the ledger, the inbox and the loop, without a network."""

import io
import itertools
import time

import numpy as np
import pytest
from pydicom.uid import ComprehensiveSRStorage
from test_dicom import instance

import anodetect
from anodetect.engines import arrivals
from anodetect.engines.arrivals import Arrivals, Arrived, Outcome
from anodetect.engines.folder import ClosedFiles, WatchedFolder
from anodetect.engines.line import kept_engine
from anodetect.errors import AnodetectError, DataError, DiskFullError, ImageError, RunError
from anodetect.pacs.inbox import Inbox, Limits
from anodetect.pacs.instances import instance_of, is_uid
from anodetect.record import directories
from anodetect.record.ledger import Ledger
from anodetect.record.lines import LineFile
from anodetect.types import Silent

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.*")
STUDY, SERIES = "1.2.3", "1.2.3.4"


def made(number=0, **tags):
    """An object of the series as bytes."""
    dataset = instance(np.full((4, 4), number, np.int16), number=number, **tags)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def inbox_at(folder, **options):
    return Inbox(folder / "incoming", lambda series: (), **({"quiet": 0.0} | options))


# -- Objects ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "..", "1..2", ".1", "1.", "1/2", "../1", "1.2\n", "1" * 65, "1.2a", "١.٢", "1\0"]
)
def test_no_other_text_is_a_uid(text):
    assert not is_uid(text)


def test_names_of_files_are_uids_only(tmp_path):
    inbox = inbox_at(tmp_path)
    inbox.add(made())
    for tags in (
        {"SOPInstanceUID": "../../../evil"},
        {"SeriesInstanceUID": "/tmp/evil"},
        {"StudyInstanceUID": "Tagged^Jane"},
        {"SeriesInstanceUID": ""},
    ):
        with pytest.raises(ImageError, match="no UID"):
            inbox.add(made(1, **tags))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent.name for path in files] == [SERIES]
    assert "Jane" not in str(inbox.refused)


def test_what_is_no_image_is_refused_and_counted(tmp_path):
    inbox = inbox_at(tmp_path, limits=Limits(object_bytes=5000))
    content = made()
    odd = [b"", b"no DICOM", content[:200], made(SOPClassUID=ComprehensiveSRStorage)]
    for each in [*odd, content + bytes(5000)]:
        with pytest.raises(ImageError):
            inbox.add(each)
    assert sum(inbox.refused.values()) == len(odd) + 1
    assert not inbox.finished()


def test_numbers_are_bounded(tmp_path):
    inbox = inbox_at(tmp_path, limits=Limits(objects=2, series=1))
    inbox.add(made(0))
    inbox.add(made(1))
    with pytest.raises(ImageError, match="too many objects"):
        inbox.add(made(2))
    with pytest.raises(ImageError, match="too many series"):
        inbox.add(made(3, SeriesInstanceUID="1.2.3.9"))
    full = inbox_at(tmp_path, limits=Limits(free_bytes=2**62))
    with pytest.raises(RunError):
        full.add(made(4))
    assert full.refused == {"no room on the disk": 1}


def test_a_series_is_whole_after_a_while_or_when_all_came(tmp_path):
    inbox = inbox_at(tmp_path, quiet=0.4)
    inbox.add(made(0))
    assert not inbox.finished()
    time.sleep(0.45)
    assert inbox.finished() == [Arrived(SERIES, 1, None)]

    asked = []

    def ask(study, series):
        asked.append((study, series))
        return 2

    counted = inbox_at(tmp_path / "b", quiet=1000 / 0.2 * 1e-4, ask=ask)  # settled after 0.1 s
    counted.add(made(0))
    time.sleep(0.15)
    assert not counted.finished()
    counted.add(made(1))
    time.sleep(0.15)
    assert counted.finished() == [Arrived(SERIES, 2, 2)]
    assert asked == [(STUDY, SERIES)] * 2


def test_an_object_says_how_many_there_are(tmp_path):
    content = made(NumberOfSeriesRelatedInstances=1)
    assert instance_of(content).expected == 1
    inbox = inbox_at(tmp_path, quiet=0.5)
    inbox.add(content)
    time.sleep(0.12)
    assert inbox.finished() == [Arrived(SERIES, 1, 1)]


def test_what_came_before_is_found_again_and_taken_once(tmp_path):
    content = made(0)
    inbox_at(tmp_path).add(content)
    (tmp_path / "incoming" / SERIES / ".writing.left").write_bytes(b"by a killed process")
    inbox = inbox_at(tmp_path)
    inbox.add(content)
    assert inbox.repeated == 1
    assert inbox.finished() == [Arrived(SERIES, 1, None)]
    inbox.take(SERIES, tmp_path / "files", ())
    inbox.take(SERIES, tmp_path / "files", ())
    assert len(list((tmp_path / "files").iterdir())) == 1
    assert not inbox.finished()


def test_a_file_is_taken_when_it_no_longer_changes(tmp_path):
    watched, taken = tmp_path / "watched", []
    watched.mkdir()
    (tmp_path / "secret").write_bytes(b"elsewhere")
    (watched / "link").symlink_to(tmp_path / "secret")
    folder = WatchedFolder(watched, lambda file: taken.append(file.read_bytes()))
    (watched / "a").write_bytes(b"half")
    folder.look()
    (watched / "a").write_bytes(b"half and half")
    folder.look()
    assert not taken
    for _ in range(3):
        folder.look()
    assert taken == [b"half and half"]
    (watched / "a").unlink()
    folder.look()
    assert not folder.done  # or a day of images would stay in memory


def test_what_a_disk_held_that_was_away_is_not_taken_again(tmp_path):
    watched, taken = tmp_path / "watched", []
    watched.mkdir()
    (watched / "a").write_bytes(b"a")
    folder = WatchedFolder(watched, lambda file: taken.append(file.name))
    for _ in range(2):
        folder.look()
    for empty in (False, True):
        watched.rename(tmp_path / "away")
        if empty:
            watched.mkdir()
        for _ in range(2):
            folder.look()
        if empty:
            watched.rmdir()
        (tmp_path / "away").rename(watched)
        (watched / f"new{empty}").write_bytes(b"b")
        for _ in range(2):
            folder.look()
    assert taken == ["a", "newFalse", "newTrue"]


def test_a_file_that_is_closed_or_moved_is_taken_at_once(tmp_path):
    taken = []
    folder = WatchedFolder(tmp_path, lambda file: taken.append(file.read_bytes()))
    with ClosedFiles(tmp_path) as closed:
        if closed.handle < 0:
            pytest.skip("this system does not tell when files are closed")
        with (tmp_path / "slow").open("wb") as stream:
            stream.write(b"half")
            stream.flush()
            assert not closed.wait(0.05)
            stream.write(b" and half")
        (tmp_path / ".moved").write_bytes(b"whole")
        (tmp_path / ".moved").rename(tmp_path / "moved")
        found = closed.wait(1.0)
        assert {file.name for file in found} >= {"slow", "moved"}
        for _ in range(2):
            for file in [*found, tmp_path / "gone"]:
                folder.closed(file)
    assert taken == [b"half and half", b"whole"]
    for _ in range(3):
        folder.look()
    assert len(taken) == 2


# -- Jobs ------------------------------------------------------------------------------------------


def test_half_a_line_is_cut_off(tmp_path):
    def is_number(line):
        return line.strip().isdigit()

    file = tmp_path / "lines"
    for left, kept in ((b"1\n2", [b"1\n"]), (b"1\n2\nx\n3\n", [b"1\n", b"2\n"]), (b"", [])):
        file.write_bytes(left)
        with LineFile(file, is_number) as lines:
            assert list(lines.lines()) == kept
            lines.append([b"7"])
        assert file.read_bytes() == b"".join(kept) + b"7\n"


class Given:
    """A source of folders with one file each."""

    def __init__(self, names):
        self.names, self.taken = list(names), []

    def finished(self):
        return [Arrived(name, 1) for name in self.names]

    def take(self, source, target, earlier):
        if target.is_dir():
            return
        if source in self.names:
            self.names.remove(source)
        target.mkdir(parents=True)
        (target / "file").write_text(source)
        self.taken.append((source, len(earlier)))


def states(ledger):
    return [job.state for job in ledger.jobs.values()]


def loop(ledger, source, score=None, deliver=None, stopping=lambda: False):
    def scored(files, scores):
        return Outcome(1, 0, None)

    return Arrivals(ledger, source, score or scored, deliver, stopping, Silent())


@pytest.mark.parametrize("dies_at", range(1, 12))
def test_a_death_at_any_line_loses_and_doubles_nothing(tmp_path, dies_at):
    """The process dies right after the line `dies_at` of the ledger is written, and is started
    again."""

    class Killed(BaseException):
        pass

    done = []

    def score(files, scores):
        name = (files / "file").read_text()
        if not scores.exists():
            done.append(("scored", name))
            scores.mkdir()
        return Outcome(1, 0, 1)

    def deliver(scores):
        mark = scores / "pushed"
        if not mark.exists():
            done.append(("delivered", (scores.parent / "files" / "file").read_text()))
            mark.touch()
        return "delivered"

    source = Given(["1.1", "1.2", "1.3"])
    with pytest.MonkeyPatch.context() as patch:
        lines = itertools.count(1)
        append = LineFile.append

        def dying(self, added):
            append(self, added)
            if next(lines) == dies_at:
                raise Killed

        patch.setattr(LineFile, "append", dying)
        with pytest.raises(Killed), Ledger(tmp_path) as ledger:
            loop(ledger, source, score, deliver).step()

    with Ledger(tmp_path) as ledger:
        again = loop(ledger, source, score, deliver)
        again.recover()
        again.step()
        assert states(ledger) == ["delivered"] * 3
    expected = [(what, f"1.{number}") for number in (1, 2, 3) for what in ("scored", "delivered")]
    assert sorted(done) == sorted(expected)


def test_what_kills_the_process_every_time_is_given_up(tmp_path):
    class Killed(BaseException):
        pass

    def score(files, scores):
        raise Killed

    source = Given(["1.1"])
    for _ in range(arrivals.ATTEMPTS):
        with pytest.raises(Killed), Ledger(tmp_path) as ledger:
            loop(ledger, source, score).step()
    with Ledger(tmp_path) as ledger:
        loop(ledger, source, score).step()
        assert states(ledger) == ["failed"]


def test_results_wait_while_nobody_takes_them(tmp_path, monkeypatch):
    answers = [AnodetectError("not there"), AnodetectError("not there"), None]
    monkeypatch.setattr(arrivals, "FIRST_DELAY", 0.05)

    def deliver(scores):
        answer = answers.pop(0)
        if answer:
            raise answer
        return "taken"

    with Ledger(tmp_path) as ledger:
        work = loop(ledger, Given(["1.1"]), deliver=deliver)
        work.step()
        work.step()
        assert states(ledger) == ["scored"] and len(answers) == 2  # too early for another try
        for _ in range(2):
            time.sleep(0.12)
            work.step()
        assert states(ledger) == ["delivered"]


def steps_until_done(work, most=50):
    """Let a loop work until there is nothing left to do; return how often it was called."""
    for number in range(1, most + 1):
        work.step()
        if not list(work.ledger.open_jobs()):
            return number
        time.sleep(0.01)
    raise AssertionError("it took too long")


def test_an_archive_that_takes_nothing_is_given_up_until_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(arrivals, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(arrivals, "DELIVERIES", 4)
    tried = []

    def refuse(scores):
        tried.append(scores)
        raise AnodetectError("refused with status 0x0122")

    with Ledger(tmp_path) as ledger:
        steps_until_done(loop(ledger, Given(["1.1", "1.2"]), deliver=refuse))
        assert states(ledger) == ["failed"] * 2
        assert ledger.jobs[1].note == "refused with status 0x0122 (tried 4 times)"
    assert len(tried) == 8

    scored = []
    with Ledger(tmp_path) as ledger:  # without an archive there is nothing to take up
        work = loop(ledger, Given([]), score=lambda *where: scored.append(where))
        work.recover()
        assert states(ledger) == ["failed"] * 2
    with Ledger(tmp_path) as ledger:
        work = loop(ledger, Given([]), score=work.score, deliver=lambda scores: "taken")
        work.recover()
        assert steps_until_done(work) == 1
        assert states(ledger) == ["delivered"] * 2
    assert scored == []


def test_scoring_that_fails_is_tried_again_while_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(arrivals, "FIRST_DELAY", 0.001)
    order = []

    def score(files, scores):
        name = (files / "file").read_text()
        order.append(name)
        if name == "1.1" and order.count(name) < arrivals.SCORINGS:
            raise OSError("the disk was away")
        if name == "1.2":
            raise AnodetectError("the device is busy")
        return Outcome(1, 0, None)

    with Ledger(tmp_path) as ledger:
        steps_until_done(loop(ledger, Given(["1.1", "1.2", "1.3"]), score))
        assert states(ledger) == ["delivered", "failed", "delivered"]
        assert ledger.jobs[2].note == "the device is busy (tried 3 times)"
    assert order[:3] == ["1.1", "1.2", "1.3"]
    assert [order.count(name) for name in ("1.1", "1.2", "1.3")] == [3, 3, 1]

    with Ledger(tmp_path) as ledger:  # scoring that failed stays so
        work = loop(ledger, Given([]), score, deliver=lambda scores: "taken")
        work.recover()
        assert states(ledger) == ["delivered", "failed", "delivered"]


def test_tries_are_ever_further_apart(tmp_path, monkeypatch):
    now, waited = [0.0], []

    def refuse(scores):
        waited.append(now[0])
        raise AnodetectError("refused")

    monkeypatch.setattr(arrivals.time, "monotonic", lambda: now[0])
    with Ledger(tmp_path) as ledger:
        work = loop(ledger, Given(["1.1"]), deliver=refuse)
        for second in range(2000):
            now[0] = float(second)
            work.step()
    assert np.diff(waited).tolist() == [5, 10, 20, 40, 80, 160] + [300] * 5


def test_reasons_of_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr(arrivals, "SCORINGS", 1)
    errors = [
        DataError("nothing to score"), ValueError("Tagged^Jane"), Outcome(0, 2, None, "too odd"),
    ]  # fmt: skip

    def score(files, scores):
        error = errors.pop(0)
        if isinstance(error, Exception):
            raise error
        return error

    with Ledger(tmp_path) as ledger:
        loop(ledger, Given(["1.1", "1.2", "1.3"]), score).step()
        notes = [job.note for job in ledger.jobs.values()]
    assert notes == ["nothing to score", "unforeseen: ValueError (tried 1 times)", "too odd"]


def test_a_full_disk_fails_no_job(tmp_path):
    def score(files, scores):
        raise DiskFullError("no room")

    with Ledger(tmp_path) as ledger:
        work = loop(ledger, Given(["1.1"]), score)
        for _ in range(arrivals.ATTEMPTS + 1):
            work.step()
        assert states(ledger) == ["waiting"]


def test_a_series_that_grows_is_scored_again_as_a_whole(tmp_path):
    with Ledger(tmp_path) as ledger:
        inbox = Inbox(tmp_path / "incoming", ledger.earlier, quiet=0)
        work = loop(ledger, inbox)
        first = made(0)
        inbox.add(first)
        work.step()
        inbox.add(first)  # came before: nothing new
        work.step()
        assert inbox.repeated == 1 and len(ledger.jobs) == 1
        inbox.add(made(1))
        work.step()
        counts = [len(list(ledger.files_of(job).iterdir())) for job in ledger.jobs.values()]
    assert counts == [1, 2]


def test_a_model_that_is_kept_scores_the_same(pca_run, synthetic_folder, tmp_path):
    images = sorted((synthetic_folder / "test").rglob("*.png"))[:6]
    engine = kept_engine()
    tables = []
    for number, how in enumerate((engine, engine, "local")):
        out = tmp_path / str(number)
        given = [str(image) for image in (images[:3] if number == 0 else images)]
        anodetect.score(pca_run, given, out, heatmaps=[], engine=how)
        tables.append({row.path: row.score for row in directories.read(out).rows})
    assert len(tables[1]) == 6
    assert tables[1] == tables[2]


def test_a_folder_has_one_node(tmp_path):
    with Ledger(tmp_path), pytest.raises(RunError, match="another process"), Ledger(tmp_path):
        pass
