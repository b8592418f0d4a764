"""Listen: score every series that a scanner sends, or that appears in a folder, and push its
results.

receiver or watched folder → inbox → ledger → score → push
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from anodetect.commands.score import score
from anodetect.commands.stopping import until_stopped
from anodetect.engines.arrivals import Arrivals, Outcome
from anodetect.engines.folder import WatchedFolder
from anodetect.engines.line import kept_engine
from anodetect.errors import ConfigError
from anodetect.files import is_below
from anodetect.model.devices import check_device
from anodetect.output.formats import check_formats
from anodetect.pacs.archive import Archive, ArchiveError
from anodetect.pacs.connection import check_extra, connect
from anodetect.pacs.inbox import Inbox, Limits
from anodetect.pacs.nodes import Own, address_of
from anodetect.pacs.push import push
from anodetect.record import directories, runs
from anodetect.record.journal import is_finished
from anodetect.record.ledger import Ledger
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.types import Reporter, Silent
from anodetect.words import amount

PAUSE = 0.25  # seconds between two looks at what arrived
QUIET = 30.0
HEATMAPS = ("dicom", "png")


@dataclass(frozen=True)
class ListenResult:
    """The work of a node since its start: numbers of jobs by what became of them, of those that
    wait to be scored or delivered, of objects that were refused, by the reason, and of those that
    had come before; and why jobs failed, each by its number."""

    finished: int
    failed: int
    waiting: int
    repeated: int
    refused: dict[str, int]
    failures: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return what `pacs listen --json` prints."""
        return asdict(self) | {"failures": list(self.failures)}

    def text(self) -> str:
        """Return it in words."""
        finished = amount(self.finished, "job")
        text = f"{finished} finished, {self.failed} failed, {self.waiting} waiting"
        refused = amount(sum(self.refused.values()), "object")
        text = f"{text}; {refused} refused, {self.repeated} had come before"
        return "\n".join([text, *self.failures])


def listen(
    run: Path,
    out: Path,
    *,
    to: str = "",
    watch: Path | None = None,
    quiet: float = QUIET,
    count: bool = False,
    allowed: Sequence[str] = (),
    own: Own | None = None,
    heatmaps: Sequence[str] = HEATMAPS,
    keep_identifiers: bool = False,
    far: float | None = None,
    device: str = "auto",
    limits: Limits | None = None,
    command: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> ListenResult:
    """Score what arrives by the run, until SIGTERM or Ctrl-C; all of it stays in the folder `out`.

    Series come by C-STORE, or with `watch` from a folder. Each is whole when nothing new came for
    `quiet` seconds, or with `count` when all came that the archive `to` has of it. Its results are
    pushed there, if it is given; they then carry the identifiers of their scans, and else only with
    `keep_identifiers`. `allowed` are the AE titles that may send. A second call with the
    same `out` goes on where the first one was. ConfigError and RunError before anything is taken
    for what cannot be meant.
    """
    reporter, own, limits = reporter or Silent(), own or Own(), limits or Limits()
    check_extra()
    check_formats(heatmaps)
    check_device(device)
    if count and not to:
        raise ConfigError("--count asks the archive of --to, which is not given")
    if watch is not None and is_below(out, watch):
        raise ConfigError(f"{out} lies in the watched folder {watch}; choose another --out")
    runs.read(run).calibration.level(
        DEFAULT_FAR if far is None else far
    )  # refuses an impossible rate
    scorer = _scorer(run, heatmaps, far, device, keep_identifiers or bool(to), command)

    with ExitStack() as stack:
        archive = connect(address_of(to), own) if to else None
        if archive is not None:
            stack.callback(archive.close)
        stop = stack.enter_context(until_stopped())
        ledger = stack.enter_context(Ledger(out))
        ask = _counter(archive) if archive is not None and count else None
        inbox = Inbox(out / "incoming", ledger.earlier, quiet=quiet, ask=ask, limits=limits)
        deliver = None if archive is None else _deliverer(archive, reporter)
        arrivals = Arrivals(ledger, inbox, scorer, deliver, stop.is_set, reporter)
        arrivals.recover()
        done_before = _states(ledger)

        look = _open(stack, inbox, own, allowed, watch, limits, reporter)
        said = Said(inbox, reporter)
        while not stop.is_set():
            look()
            arrivals.step()
            said.say_new()
            stop.wait(PAUSE)
        reporter.say("stopping; what has arrived stays, and the same command goes on with it")
    return _result(ledger, inbox, done_before)


def _open(
    stack: ExitStack,
    inbox: Inbox,
    own: Own,
    allowed: Sequence[str],
    watch: Path | None,
    limits: Limits,
    reporter: Reporter,
) -> Callable[[], None]:
    """Let objects arrive, and return what is to be called again and again for it."""
    if watch is not None:
        folder = WatchedFolder(watch, lambda file: _add(inbox, file, limits.object_bytes))
        reporter.say(f"watching {watch}")
        return folder.look

    from anodetect.pacs.receiver import receiving

    port = stack.enter_context(receiving(inbox.add, own, allowed, limits.object_bytes))
    secure = " by TLS" if own.tls.cert else ""
    reporter.say(f"listening as {own.title} on {own.host}:{port}{secure}")
    return lambda: None


def _add(inbox: Inbox, file: Path, limit: int) -> None:
    """Hand the content of a file to an inbox, no more of it than is needed to see that it is too
    large."""
    with file.open("rb") as stream:
        inbox.add(stream.read(limit + 1))


# -- What is done with a series --------------------------------------------------------------------


def _scorer(
    run: Path,
    heatmaps: Sequence[str],
    far: float | None,
    device: str,
    keep_identifiers: bool,
    command: Sequence[str],
) -> Callable[[Path, Path], Outcome]:
    """Return what scores a folder. The model stays loaded."""
    engine = kept_engine()

    def score_one(files: Path, out: Path) -> Outcome:
        if not is_finished(out):
            score(
                run,
                [str(files)],
                out,
                far=far,
                heatmaps=heatmaps,
                keep_identifiers=keep_identifiers,
                resume=True,
                device=device,
                engine=engine,
                command=command,
            )
        return outcome_of(out)

    return score_one


def outcome_of(out: Path) -> Outcome:
    """Return what a finished score directory says."""
    rows = directories.read(out).rows
    scored = [row for row in rows if row.score is not None]
    reasons = [row.error for row in rows if row.error]
    decided = [row.flagged for row in scored if row.flagged is not None]
    return Outcome(
        scored=len(scored),
        failed=len(rows) - len(scored),
        flagged=sum(decided) if decided else None,
        reason=reasons[0] if reasons else "",
    )


def _deliverer(archive: Archive, reporter: Reporter) -> Callable[[Path], str]:
    """Return what pushes a score directory; ArchiveError if not all of it was taken."""

    def deliver(scores: Path) -> str:
        result = push(archive, scores, Silent())
        if result.failures:
            objects = amount(len(result.failures), "object was", "objects were")
            reason = result.failures[0].partition(": ")[2]
            raise ArchiveError(f"{objects} not taken: {reason}")
        return f"{amount(result.pushed + result.before, 'object')} in the archive"

    return deliver


def _counter(archive: Archive) -> Callable[[str, str], int | None]:
    """Return what asks an archive how many objects a series has."""

    def ask(study: str, series: str) -> int | None:
        try:
            return len(archive.instances(study, series)) or None
        except ArchiveError:  # then only time tells
            return None

    return ask


# -- What is said ----------------------------------------------------------------------------------


class Said:
    """Says what was refused: the first of a kind, and again when there are ten times as many."""

    def __init__(self, inbox: Inbox, reporter: Reporter) -> None:
        self.inbox, self.reporter = inbox, reporter
        self.next: dict[str, int] = {}

    def say_new(self) -> None:
        with self.inbox.lock:
            refused = dict(self.inbox.refused)
        for reason, count in refused.items():
            if count >= self.next.get(reason, 1):
                self.reporter.warn(f"objects refused: {reason} ({count} so far)")
                self.next[reason] = 10 * count


def _states(ledger: Ledger) -> dict[int, str]:
    return {number: job.state for number, job in ledger.jobs.items()}


def _result(ledger: Ledger, inbox: Inbox, before: dict[int, str]) -> ListenResult:
    """Return what was done since the states of jobs were as `before`."""
    states, failures = [], []
    for number, state in _states(ledger).items():
        if before.get(number) == state:
            continue
        states.append(state)
        if state == "failed":
            failures.append(f"job {number}: {ledger.jobs[number].note}")

    return ListenResult(
        finished=states.count("delivered"),
        failed=states.count("failed"),
        waiting=sum(1 for _ in ledger.open_jobs()),
        repeated=inbox.repeated,
        refused=dict(inbox.refused),
        failures=tuple(failures),
    )
