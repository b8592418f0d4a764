"""Check that a score directory is what was written: record, verdicts and report, each by itself.
No torch.

Whoever can write a directory can also write a new chain: without a copy of the head kept elsewhere
(`head`) or a signature by a key that is trusted (`key`), a record is at best consistent, not
authenticated. A head stands for the record alone: verdicts and the report have ends, notes and
signatures of their own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from anodetect.errors import AnodetectError, RunError
from anodetect.files import is_below, leads_out, path_text, sha256_of
from anodetect.record import channel_files, directories, reports, reviews, signatures
from anodetect.record.audit import Audit
from anodetect.record.chain import GAP, START, chain_values, head_of, row_hash
from anodetect.record.checkpoint import MODEL_FILE
from anodetect.record.decisions import decide, decide_slices, numbers
from anodetect.record.directories import ScoreDirectory
from anodetect.record.keeping import not_kept
from anodetect.record.parts import Part, part_of
from anodetect.record.rows import ChainRow, OutputRow, ScoreRow, rows_of
from anodetect.record.signatures import SIGNATURE, SignedHead
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

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """What is known of a score directory: of its `record`, of the `verdicts` of reviewers and of
    the `report`, each by itself.

    `not_looked_at` says what the answer does not cover, and `notes` what else is worth knowing.
    `run`, `root` and `ended` say what the record is of, as it says itself: the run that scored, the
    folder of the images, and when it was complete. `signer` is the public key that signed it, ""
    for none. `verdict_count` and `verdict_end` are the number of reviews and the hash that their
    chain ends with. `row` is the path of the row that alone was checked, "" if all were.
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
        scored = directories.read(path)
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
    reviewed = reviews.verify(path, audit, scored.rows, kept=kept_reviews, trusted=trusted)
    return replace(
        verdict,
        verdicts=reviewed.part,
        report=reports.verify(path, audit.head, trusted),
        not_looked_at=tuple(not_looked_at),
        rows=len(scored.rows),
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


def record_problems(scored: ScoreDirectory) -> list[str]:
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


def _not_kept(scored: ScoreDirectory) -> Iterator[str]:
    """Yield that some files have no maps, where that was asked for."""
    try:
        count = not_kept(scored.table, scored.audit)
    except UNCHECKABLE:
        return  # the checks of rows and of decisions say why
    if count:
        yield (
            f"maps, masks and outlines of {amount(count, 'file')}: they were not kept (--keep "
            f"{scored.audit.keep}); anodetect maps makes them again"
        )


def _unlisted_files(scored: ScoreDirectory) -> list[str]:
    """Return a sentence about files in the directory that are no part of the record."""
    try:
        listed = {*scored.audit.tables, *scored.outputs["name"].to_pylist()}
    except AnodetectError:
        return []  # the check of outputs says why
    extra = [name for name in directories.files(scored.path) if name not in listed]
    if not extra:
        return []
    count = amount(len(extra), "file is", "files are")
    return [f"{count} not part of the record: {first_of([path_text(name) for name in extra])}"]


def _head(scored: ScoreDirectory) -> Iterator[str]:
    return head_problems(scored.path, scored.audit)


def head_problems(path: Path, audit: Audit) -> Iterator[str]:
    """Yield that audit.json does not give its head, if that is so."""
    if head_of(directories.audit_content(path)) != audit.head:
        yield "audit.json was changed: its contents do not give its head"


def _tables(scored: ScoreDirectory) -> Iterator[str]:
    for name, digest in scored.audit.tables.items():
        yield from file_problems(scored.path, name, digest)


def _outputs(scored: ScoreDirectory) -> Iterator[str]:
    names = set[str]()
    for row in rows_of(scored.outputs, OutputRow):
        if row.name in names:
            yield f"{row.name} is in outputs.parquet twice"
        names.add(row.name)
        yield from file_problems(scored.path, row.name, row.sha256)


def file_problems(path: Path, name: str, digest: str) -> Iterator[str]:
    """Yield what is wrong with a file of the record."""
    if leads_out(name) or not is_below(path / name, path):
        yield f"{name} is not an output: it leads out of the directory"
    elif not (path / name).is_file():
        yield f"{name} is missing"
    elif sha256_of(path / name) != digest:
        yield f"{name} was changed"


def _rows(scored: ScoreDirectory) -> Iterator[str]:
    """Yield what is wrong with the first record that does not hold."""
    try:
        links = directories.read_chain(scored.path)
    except RunError as error:
        yield str(error)
        return
    changed = _first_changed(scored.rows, links)
    if changed:
        yield changed
        return

    kept = [link.path for link in links if link.path != GAP]
    erased = len(links) - len(kept)
    if erased != scored.audit.erased_rows().total():
        yield f"{amount(erased, 'row is', 'rows are')} erased, which audit.json does not say"
    if [row.path for row in scored.rows] != kept:
        yield "the records are not in the order they were written in"

    value = START
    values = chain_values(link.row for link in links)
    for number, (link, value) in enumerate(zip(links, values, strict=True), start=1):
        if value != link.chain:
            yield f"the chain breaks at record {number} ({link.path})"
            return
    if value != scored.audit.chain or len(links) != scored.audit.rows:
        yield "the chain does not end where audit.json says it does"


def _first_changed(rows: Sequence[ScoreRow], links: Sequence[ChainRow]) -> str:
    """Return the first row that is not that of the chain, is missing or was added; "" for none."""
    hashes = dict[str, str]()
    for row in rows:
        if row.path in hashes:
            return f"{row.path} is in scores.parquet twice"
        hashes[row.path] = row_hash(row)

    for number, link in enumerate(links, start=1):
        if link.path == GAP:
            continue
        if link.path not in hashes:
            return f"record {number} ({link.path}) is missing from scores.parquet"
        if hashes[link.path] != link.row:
            return f"record {number} ({link.path}) was changed"

    written = {link.path for link in links}
    for row in rows:
        if row.path not in written:
            return f"{row.path} was added to scores.parquet"
    return ""


def _channels(scored: ScoreDirectory) -> Iterator[str]:
    return channel_problems(scored.rows)


def channel_problems(rows: Iterable[ScoreRow]) -> Iterator[str]:
    """Yield the first row whose hash is not that of the hashes of its channels."""
    for row in rows:
        channels = channel_files.from_text(row.channels)
        if channels and channel_files.joint_sha256(channels) != row.sha256:
            yield f"{row.path}: its SHA-256 is not that of its channels"
            return


def _decisions(scored: ScoreDirectory) -> Iterator[str]:
    """Yield what is wrong with p-values, q-values, flags and counts: they must be those that scores
    and calibration give."""
    calibration, rule = scored.audit.calibration, scored.audit.rule
    slices = directories.slice_table(scored.path)
    again, groups_again, _ = decide(scored.table, calibration, rule, slices=slices)
    before = decide(scored.table, calibration, rule, by_size=False)[1]
    columns = _decided(scored.audit)
    if calibration.groups:  # older releases have a threshold without calibration images
        columns = (*columns, *("threshold",) * ("flagged" in columns))
    place = _first_difference(scored.table, again, columns)
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

    counts = Counter(row.status for row in scored.rows) + scored.audit.erased_rows()
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
