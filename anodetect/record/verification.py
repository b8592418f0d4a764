"""Check that a score directory is what was written: record, verdicts and report, each by itself.
No torch.

Whoever can write a directory can also write a new chain: without a copy of the head kept elsewhere
(`head`) or a signature by a key that is trusted (`key`), a record is at best consistent, not
authenticated. A head stands for the record alone: verdicts and the report have ends, notes and
signatures of their own.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pyarrow import compute as pc

from anodetect.errors import AnodetectError, RunError
from anodetect.files import is_below, leads_out, path_text, sha256_of
from anodetect.record import channel_files, directories, reports, reviews, signatures
from anodetect.record.audit import Audit
from anodetect.record.chain import GAP, START, head_of, next_value, row_hash
from anodetect.record.checkpoint import MODEL_FILE
from anodetect.record.decisions import decide, decide_slices, numbers
from anodetect.record.directories import StoredRows
from anodetect.record.keeping import ALL, not_kept
from anodetect.record.parts import Part, part_of
from anodetect.record.rows import ChainRow, OutputRow, ScoreRow, rows_of
from anodetect.record.signatures import SIGNATURE, SignedHead
from anodetect.record.spool import hashes_of, places_among, repeated_numbers
from anodetect.record.tables import Rows, parts_of
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.words import amount, first_of

UNCHECKABLE = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    OverflowError,
    pa.ArrowException,
    AnodetectError,
)
# The columns that decisions are compared by; they alone are in memory of all rows.
DECIDED = (
    "path", "group", "score", "status", "depth", "p_value", "q_value", "flagged", "threshold",
)  # fmt: skip
AT_ONCE = 2**12  # names of files that are looked up at a time

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """What is known of a score directory: of its `record`, of the `verdicts` of reviewers and of
    the `report`, each by itself.

    `not_looked_at` says what the answer does not cover, and `notes` what else is worth knowing.
    `run`, `root` and `ended` say what the record is of, as it says itself: the run that scored, the
    folder of the images, and when it was complete. `signer` is the public key that signed it, ""
    for none. `verdict_count` and `verdict_end` are the number of reviews and the hash that their
    chain ends with. `row` is the path of the row that alone was checked, and `numbers` are
    those of several ("A:B"); both are "" if all were.
    """

    record: Part
    verdicts: Part
    report: Part
    not_looked_at: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rows: int = 0
    head: str = ""
    run: str = ""
    root: str = ""
    ended: str = ""
    signer: str = ""
    verdict_count: int = 0
    verdict_end: str = ""
    row: str = ""
    numbers: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        return self.record.problems + self.verdicts.problems + self.report.problems

    @property
    def intact(self) -> bool:
        return not self.problems

    @property
    def authenticated(self) -> bool:
        """True where the record is authenticated, and nothing beside it is broken."""
        return self.intact and self.record.state == "authenticated"

    def as_json(self) -> dict[str, Any]:
        """Return what `verify --json` prints."""
        own = {
            "intact": self.intact,
            "authenticated": self.authenticated,
            "problems": list(self.problems),
        }
        return own | asdict(self)


def verify(
    path: Path,
    *,
    head: str | None = None,
    key: Path | None = None,
    run: Path | None = None,
    kept_reviews: str | None = None,
) -> Verdict:
    """Recompute everything a score directory says of itself; RunError if it is no finished score
    directory.

    `head` is the head as it was kept elsewhere, `key` the public key (PEM) that must have signed
    it, `run` the place of the run, if it was moved, `kept_reviews` the end of the chain of verdicts
    as it was kept elsewhere.
    """
    trusted = signatures.public_key(key) if key else None
    try:
        scored = directories.opened(path)
    except RunError as error:
        if not (path / directories.AUDIT_FILE).is_file():
            raise
        return unreadable(error)

    audit = scored.audit
    not_looked_at = [
        images_not_read(audit.root),
        *_unlisted_files(scored),
        *_not_kept(scored),
    ]
    problems = [*record_problems(scored), *model_problems(audit, run, not_looked_at)]
    verdict = against(path, audit, problems, head, trusted)
    reviewed = reviews.verify(path, audit, scored.each(), kept=kept_reviews, trusted=trusted)
    return replace(
        verdict,
        verdicts=reviewed.part,
        report=reports.verify(path, audit.head, trusted),
        not_looked_at=tuple(not_looked_at),
        rows=scored.count,
        verdict_count=reviewed.count,
        verdict_end=reviewed.end,
    )


def against(
    path: Path,
    audit: Audit,
    problems: list[str],
    head: str | None,
    trusted: Ed25519PublicKey | None,
) -> Verdict:
    """Return the verdict on a record with these problems, compared with the head that was kept and
    with the trusted key, where there are such; it does not cover verdicts and report."""
    notes = []
    if not audit.calibration.groups:
        notes.append(audit.calibration.statement(audit.rule.rate))
    for each in audit.erased:
        rows = amount(sum(each.rows.values()), "row")
        verdicts = amount(each.reviews, "verdict")
        notes.append(
            f"{rows} and {verdicts} were erased on {each.time}; the head before was {each.head}"
        )
    before = {each.head for each in audit.erased}
    if head is not None and head.lower() not in {audit.head, *before}:
        problems.append(
            f"the head is {audit.head}, not the one that was kept: the record was replaced"
        )
    signed = _signature(path, problems)
    problems += _signature_problems(signed, audit.head, trusted)

    nothing = Part("not covered", "not looked at")
    return Verdict(
        record=_record_part(
            problems,
            signed,
            by_head=head is not None and head.lower() == audit.head,
            by_key=trusted is not None,
        ),
        verdicts=nothing,
        report=nothing,
        notes=tuple(notes),
        rows=audit.rows - audit.erased_rows().total(),
        head=audit.head,
        run=audit.run_path or audit.run,
        root=audit.root,
        ended=audit.ended,
        signer=signed.public_key if signed else "",
    )


def images_not_read(root: str) -> str:
    """Return the sentence that no image in the folder that was scored was looked at."""
    return (
        f"the images below {root or 'an unknown folder'} were not read: --rescore K scores some of "
        "them again"
    )


def unreadable(error: RunError) -> Verdict:
    """Return what is known of a directory whose record cannot be read."""
    unknown = Part("not covered", "the record cannot be read")
    return Verdict(part_of([f"it cannot be checked: {error}"], "broken", ""), unknown, unknown)


def _record_part(
    problems: list[str], signed: SignedHead | None, *, by_head: bool, by_key: bool
) -> Part:
    """Return the state of the record, and what it rests on."""
    if by_head or by_key:
        by = [f"signed by {signed.public_key}"] if by_key and signed else []
        return part_of(
            problems, "authenticated", " and ".join([*["the head that was kept"] * by_head, *by])
        )
    why = "no head that was kept (--head) and no key (--key) were given"
    if signed:
        why = (
            f"signed by {signed.public_key}, which was not checked against one you trust (--key), "
            "and no head that was kept (--head) was given"
        )

    return part_of(problems, "consistent", why)


def record_problems(scored: StoredRows) -> list[str]:
    """Return what is wrong with rows, decisions, tables, outputs and head, whatever the model and
    the signature."""
    checks = (_rows, _channels, _decisions, _tables, _outputs, _head)
    return found_by(checks, scored)


def found_by(checks: Iterable[Callable[[T], Iterable[str]]], checked: T) -> list[str]:
    """Return what checks find wrong with a record, also that one cannot be made."""
    problems: list[str] = []
    for check in checks:
        try:
            problems += check(checked)
        except UNCHECKABLE as error:
            problems.append(
                f"it cannot be checked: something is missing or of another kind ({error!r})"
            )
    return problems


def _not_kept(scored: StoredRows) -> Iterator[str]:
    """Yield that some files have no maps, where that was asked for."""
    if scored.audit.keep == ALL:
        return
    try:
        count = sum(not_kept(part, scored.audit) for part in scored.parts())
    except UNCHECKABLE:
        return  # the checks of rows and of decisions say why
    if count:
        yield (
            f"maps, masks and outlines of {amount(count, 'file')}: they were not kept (--keep "
            f"{scored.audit.keep}); anodetect maps makes them again"
        )


def _unlisted_files(scored: StoredRows) -> list[str]:
    """Return a sentence about files in the directory that are no part of the record."""
    try:
        listed = _name_hashes(scored.stored_outputs) + hashes_of(scored.audit.tables)
    except AnodetectError:
        return []  # the check of outputs says why
    found, extra = directories.files(scored.path), list[str]()
    known = np.sort(np.array(listed))
    while names := list(islice(found, AT_ONCE)):
        places = places_among(np.array(hashes_of(names)), known)
        extra += [names[number] for number in np.flatnonzero(places < 0)]
    extra.sort()
    if not extra:
        return []
    count = amount(len(extra), "file is", "files are")
    return [f"{count} not part of the record: {first_of([path_text(name) for name in extra])}"]


def _head(scored: StoredRows) -> Iterator[str]:
    return head_problems(scored.path, scored.audit)


def head_problems(path: Path, audit: Audit) -> Iterator[str]:
    """Yield that audit.json does not give its head, if that is so."""
    if head_of(directories.audit_content(path)) != audit.head:
        yield "audit.json was changed: its contents do not give its head"


def _tables(scored: StoredRows) -> Iterator[str]:
    for name, digest in scored.audit.tables.items():
        yield from file_problems(scored.path, name, digest)


def _outputs(scored: StoredRows) -> Iterator[str]:
    outputs, names = scored.stored_outputs, set[str]()
    several = repeated_numbers(_name_hashes(outputs))
    for part in parts_of(outputs):
        for row in rows_of(part, OutputRow):
            if hash(row.name) in several:
                if row.name in names:
                    yield f"{row.name} is in outputs.parquet twice"
                names.add(row.name)
            yield from file_problems(scored.path, row.name, row.sha256)


def _name_hashes(outputs: Rows) -> "array[int]":
    """Return the hash of the name of each output, which takes a tenth of the memory."""
    hashes = array("q")
    for part in parts_of(outputs):
        hashes.extend(hashes_of(part["name"].to_pylist()))
    return hashes


def file_problems(path: Path, name: str, digest: str) -> Iterator[str]:
    """Yield what is wrong with a file of the record."""
    if leads_out(name) or not is_below(path / name, path):
        yield f"{name} is not an output: it leads out of the directory"
    elif not (path / name).is_file():
        yield f"{name} is missing"
    elif sha256_of(path / name) != digest:
        yield f"{name} was changed"


def _rows(scored: StoredRows) -> Iterator[str]:
    """Yield what is wrong with the first record that does not hold."""
    try:
        end = _end_of(_links(scored))
    except RunError as error:
        yield str(error)
        return
    follow = scored.in_order and _rows_follow(scored)
    if not follow and (changed := _first_changed(scored)):
        yield changed
        return

    if end.gaps != scored.audit.erased_rows().total():
        yield f"{amount(end.gaps, 'row is', 'rows are')} erased, which audit.json does not say"
    if not follow and not _is_as_linked(scored):
        yield "the records are not in the order they were written in"
    if end.broken:
        yield end.broken
    elif end.value != scored.audit.chain or end.count != scored.audit.rows:
        yield "the chain does not end where audit.json says it does"


def _links(scored: StoredRows) -> Iterator[ChainRow]:
    """Yield the links of all rows; RunError if they cannot be read."""
    for part in scored.links.parts():
        yield from rows_of(part, ChainRow)


def _kept_links(scored: StoredRows) -> Iterator[ChainRow]:
    """Yield the links of rows that were not erased."""
    return (link for link in _links(scored) if link.path != GAP)


def _rows_follow(scored: StoredRows) -> bool:
    """Return whether rows and links that were not erased have the same paths and hashes, one after
    the other. Of each file the rows of a part are in memory."""
    for row, link in zip_longest(scored.each(), _kept_links(scored)):
        if row is None or link is None or row.path != link.path or row_hash(row) != link.row:
            return False
    return True


def _is_as_linked(scored: StoredRows) -> bool:
    """Return whether rows and links that were not erased have the same paths, one after the
    other."""
    for row, link in zip_longest(scored.each(), _kept_links(scored)):
        if row is None or link is None or row.path != link.path:
            return False
    return True


@dataclass(frozen=True)
class _End:
    """The last value of a chain, how many links it has and how many of them are of rows that were
    erased, and where it breaks first, "" if it does not."""

    value: str
    count: int
    gaps: int
    broken: str


def _end_of(links: Iterator[ChainRow]) -> _End:
    """Follow a chain to its end."""
    value, number, gaps, broken = START, 0, 0, ""
    for number, link in enumerate(links, start=1):
        value = next_value(value, link.row)
        gaps += link.path == GAP
        if value != link.chain and not broken:
            broken = f"the chain breaks at record {number} ({link.path})"
    return _End(value, number, gaps, broken)


def _first_changed(scored: StoredRows) -> str:
    """Return the first row that is not that of the chain, is missing or was added; "" for none. The
    hashes of all rows are in memory."""
    hashes, written = dict[str, str](), set[str]()
    for row in scored.each():
        if row.path in hashes:
            return f"{row.path} is in scores.parquet twice"
        hashes[row.path] = row_hash(row)

    for number, link in enumerate(_links(scored), start=1):
        written.add(link.path)
        if link.path == GAP:
            continue
        if link.path not in hashes:
            return f"record {number} ({link.path}) is missing from scores.parquet"
        if hashes[link.path] != link.row:
            return f"record {number} ({link.path}) was changed"

    added = (path for path in hashes if path not in written)
    return next((f"{path} was added to scores.parquet" for path in added), "")


def _channels(scored: StoredRows) -> Iterator[str]:
    for part in scored.parts():
        several = part.filter(pc.not_equal(part["channels"], ""))
        for problem in channel_problems(rows_of(several, ScoreRow)):
            yield problem
            return


def channel_problems(rows: Iterable[ScoreRow]) -> Iterator[str]:
    """Yield the first row whose hash is not that of the hashes of its channels."""
    for row in rows:
        channels = channel_files.from_text(row.channels)
        if channels and channel_files.joint_sha256(channels) != row.sha256:
            yield f"{row.path}: its SHA-256 is not that of its channels"
            return


def _decisions(scored: StoredRows) -> Iterator[str]:
    """Yield what is wrong with p-values, q-values, flags and counts: they must be those that scores
    and calibration give."""
    calibration, rule = scored.audit.calibration, scored.audit.rule
    slices, rows = directories.slice_table(scored.path), scored.columns(DECIDED)
    again, groups_again, _ = decide(rows, calibration, rule, slices=slices)
    before = decide(rows, calibration, rule, by_size=False)[1]
    columns = _decided(scored.audit)
    if calibration.groups:  # older releases have a threshold without calibration images
        columns = (*columns, *("threshold",) * ("flagged" in columns))
    place = _first_difference(rows, again, columns)
    if place is not None:
        name = again["path"][place]
        yield f"record {place + 1} ({name}): its decision does not follow from its score"

    groups = directories.group_table(scored.path)
    place = 0
    if groups["group"].to_pylist() == groups_again["group"].to_pylist():
        columns = ("images", "score", *_decided(scored.audit))
        place = _first_difference(groups, groups_again, columns)
        if place is not None:  # release 0.2 did not look at sizes
            place = _first_difference(groups, before, columns)
    if place is not None:
        yield "the groups do not follow from the scores"

    again = decide_slices(slices, calibration, rule)
    place = _first_difference(slices, again, ("p_value", "flagged"))
    if place is not None:
        name, number = again["path"][place], again["slice"][place]
        yield f"slice {number} of {name}: its decision does not follow from its score"

    expected = calibration.mask_rule(scored.audit.far or DEFAULT_FAR)
    if not expected.is_like(scored.audit.mask_rule):
        yield "the rule of masks does not follow from the calibration"

    counts = scored.audit.erased_rows()
    for each in pc.value_counts(rows["status"]).to_pylist():
        counts[each["values"]] += each["counts"]
    if dict(counts) != scored.audit.counts:
        yield "the counts in audit.json are not those of the rows"


def _decided(audit: Audit) -> tuple[str, ...]:
    """Return the columns that follow from scores and calibration. Of a record that was thinned,
    those that hang on all of its rows cannot be recomputed."""
    if not audit.erased:
        return "p_value", "q_value", "flagged"
    return ("p_value",) if audit.rule.by_fdr else ("p_value", "flagged")


def _first_difference(table: pa.Table, other: pa.Table, columns: Sequence[str]) -> int | None:
    """Return the number of the first row in which a column is not the same, None if there is none.

    Numbers may differ in their last bits. Where `other` has nothing, `flagged` may be False, as
    older releases have it.
    """
    places = []
    for name in columns:
        first, second = numbers(table[name]), numbers(other[name])
        same = np.isclose(first, second, equal_nan=True)
        same |= np.isnan(second) & (first == 0)
        places += np.flatnonzero(~same)[:1].tolist()
    return min(places, default=None)


def model_problems(audit: Audit, run: Path | None, not_looked_at: list[str]) -> Iterator[str]:
    """Yield that the model is not the one that scored, or add to `not_looked_at` that it is not
    there."""
    file = (run or Path(audit.run_path)) / MODEL_FILE
    if not file.is_file():
        not_looked_at.append(f"the model was not checked: no {file}; --run says where it is")
    elif sha256_of(file) != audit.model_sha256:
        yield f"the model was changed: {file} is not the one that scored"


# -- Signatures ------------------------------------------------------------------------------------


def _signature(path: Path, problems: list[str]) -> SignedHead | None:
    """Return what signature.json says; None if there is none, or if it cannot be read, which is
    added to the problems."""
    try:
        return signatures.read(path)
    except RunError:
        problems.append(f"{SIGNATURE} cannot be read")
        return None


def _signature_problems(
    signed: SignedHead | None, head: str, trusted: Ed25519PublicKey | None
) -> Iterator[str]:
    """Yield what is wrong with the signature of a record with this head, if there is one, or if a
    trusted key is given."""
    if signed is None:
        if trusted:
            yield "there is no signature"
    elif signed.head != head:
        yield f"the signature does not fit the head: it was made for another record, {signed.head}"
    elif not signed.signs(head, trusted):
        yield (
            "the signature is not that of the key"
            if trusted
            else "the signature does not fit the head"
        )
