"""Check that a score directory is what was written: hashes, chain, decisions, model, signature,
reviews. No torch.

Whoever can write a directory can also write a new chain: without a copy of the head kept elsewhere
(`head`) or a signature by a key that is trusted (`key`), a directory is at best internally
consistent, not authenticated.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from anodetect.errors import AnodetectError, ConfigError, RunError
from anodetect.files import leads_out, sha256_of, write_atomic
from anodetect.record import channel_files, directories, reviews
from anodetect.record.audit import Audit
from anodetect.record.chain import START, chain_values, head_of, row_hash
from anodetect.record.checkpoint import MODEL_FILE
from anodetect.record.decisions import decide, decide_slices, numbers
from anodetect.record.directories import ScoreDirectory
from anodetect.record.rows import OutputRow, rows_of
from anodetect.stats.calibration import DEFAULT_FAR

SIGNATURE = "signature.json"
UNCHECKABLE = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    pa.ArrowException,
    AnodetectError,
)


@dataclass(frozen=True)
class Verdict:
    """The problems of a score directory, notes on what is worth knowing, and whether it is
    `authenticated` by a head that was kept elsewhere or by a trusted key."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    authenticated: bool
    rows: int
    head: str

    @property
    def intact(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return what `verify --json` prints."""
        return {"intact": self.intact} | asdict(self)


def verify(
    path: Path, *, head: str | None = None, key: Path | None = None, run: Path | None = None
) -> Verdict:
    """Recompute everything a score directory says of itself; RunError if it is no finished score
    directory.

    `head` is the head as it was kept elsewhere, `key` the public key (PEM) that must have signed
    it, `run` the place of the run, if it was moved.
    """
    try:
        scored = directories.read(path)
    except RunError as error:
        if not (path / directories.AUDIT_FILE).is_file():
            raise
        return Verdict((f"it cannot be checked: {error}",), (), False, 0, "")

    audit, notes = scored.audit, _unlisted_files(scored)
    if not audit.calibration.groups:
        notes.append(audit.calibration.statement(audit.rule.rate))
    problems = [*record_problems(scored), *_model(audit, run, notes)]
    if head is not None and head.lower() != audit.head:
        problems.append(
            f"the head is {audit.head}, not the one that was kept: the record was replaced"
        )
    trusted = _public_key(key) if key else None
    problems += _signature(path, audit.head, trusted, notes)
    wrong, known = reviews.verify(path, audit.head, scored.rows)
    problems += wrong
    notes += known

    authenticated = not problems and (head is not None or trusted is not None)
    return Verdict(tuple(problems), tuple(notes), authenticated, len(scored.rows), audit.head)


def record_problems(scored: ScoreDirectory) -> list[str]:
    """Return what is wrong with rows, decisions, tables, outputs and head, whatever the model and
    the signature."""
    problems: list[str] = []
    for check in (_rows, _channels, _decisions, _tables, _outputs, _head):
        try:
            problems += check(scored)
        except UNCHECKABLE as error:
            problems.append(
                f"it cannot be checked: something is missing or of another kind ({error!r})"
            )
    return problems


def _unlisted_files(scored: ScoreDirectory) -> list[str]:
    """Return a note about files in the directory that are no part of the record."""
    try:
        listed = {*scored.audit.tables, *scored.outputs["name"].to_pylist()}
    except AnodetectError:
        return []  # the check of outputs says why
    extra = [name for name in directories.files(scored.path) if name not in listed]
    if not extra:
        return []
    return [f"{len(extra)} files are not part of the record, the first: {extra[0]}"]


def _head(scored: ScoreDirectory) -> Iterator[str]:
    if head_of(directories.audit_content(scored.path)) != scored.audit.head:
        yield "audit.json was changed: its contents do not give its head"


def _tables(scored: ScoreDirectory) -> Iterator[str]:
    for name, digest in scored.audit.tables.items():
        yield from _file_problems(scored.path, name, digest)


def _outputs(scored: ScoreDirectory) -> Iterator[str]:
    for row in rows_of(scored.outputs, OutputRow):
        yield from _file_problems(scored.path, row.name, row.sha256)


def _file_problems(path: Path, name: str, digest: str) -> Iterator[str]:
    if leads_out(name):
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

    hashes = {row.path: row_hash(row) for row in scored.rows}
    for number, link in enumerate(links, start=1):
        if link.path not in hashes:
            yield f"record {number} ({link.path}) is missing from scores.parquet"
            return
        if hashes[link.path] != link.row:
            yield f"record {number} ({link.path}) was changed"
            return

    written = {link.path for link in links}
    for row in scored.rows:
        if row.path not in written:
            yield f"{row.path} was added to scores.parquet"
            return
    if [row.path for row in scored.rows] != [link.path for link in links]:
        yield "the records are not in the order they were written in"

    value = START
    values = chain_values(link.row for link in links)
    for number, (link, value) in enumerate(zip(links, values, strict=True), start=1):
        if value != link.chain:
            yield f"the chain breaks at record {number} ({link.path})"
            return
    if value != scored.audit.chain or len(links) != scored.audit.rows:
        yield "the chain does not end where audit.json says it does"


def _channels(scored: ScoreDirectory) -> Iterator[str]:
    """Yield the first row whose hash is not that of the hashes of its channels."""
    for row in scored.rows:
        channels = channel_files.from_text(row.channels)
        if channels and channel_files.joint_sha256(channels) != row.sha256:
            yield f"{row.path}: its SHA-256 is not that of its channels"
            return


def _decisions(scored: ScoreDirectory) -> Iterator[str]:
    """Yield what is wrong with p-values, q-values, flags and counts: they must be those that scores
    and calibration give."""
    calibration, rule = scored.audit.calibration, scored.audit.rule
    again, groups_again, _ = decide(scored.table, calibration, rule)
    columns: tuple[str, ...] = ("p_value", "q_value", "flagged")
    if calibration.groups:  # older releases have a threshold without calibration images
        columns = (*columns, "threshold")
    place = _first_difference(scored.table, again, columns)
    if place is not None:
        name = again["path"][place]
        yield f"record {place + 1} ({name}): its decision does not follow from its score"

    groups = directories.group_table(scored.path)
    place = 0
    if groups["group"].to_pylist() == groups_again["group"].to_pylist():
        columns = ("images", "score", "p_value", "q_value", "flagged")
        place = _first_difference(groups, groups_again, columns)
    if place is not None:
        yield "the groups do not follow from the scores"

    slices = directories.slice_table(scored.path)
    again = decide_slices(slices, calibration, rule)
    place = _first_difference(slices, again, ("p_value", "flagged"))
    if place is not None:
        name, number = again["path"][place], again["slice"][place]
        yield f"slice {number} of {name}: its decision does not follow from its score"

    expected = calibration.mask_rule(scored.audit.far or DEFAULT_FAR)
    if not expected.is_like(scored.audit.mask_rule):
        yield "the rule of masks does not follow from the calibration"

    if dict(Counter(row.status for row in scored.rows)) != scored.audit.counts:
        yield "the counts in audit.json are not those of the rows"


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


def _model(audit: Audit, run: Path | None, notes: list[str]) -> Iterator[str]:
    file = (run or Path(audit.run_path)) / MODEL_FILE
    if not file.is_file():
        notes.append(f"the model was not checked: no {file}; --run says where it is")
    elif sha256_of(file) != audit.model_sha256:
        yield f"the model was changed: {file} is not the one that scored"


# -- Signatures ------------------------------------------------------------------------------------


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 private key from a PEM file without a password (`openssl genpkey -algorithm
    ed25519 -out key.pem`); ConfigError if it is none."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: no usable private key ({error})") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{path}: not an Ed25519 key; make one with openssl genpkey -algorithm ed25519"
        )
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    """Read an Ed25519 public key from a PEM file; ConfigError if it is none."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: no usable public key ({error})") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: not an Ed25519 public key")
    return key


def sign(path: Path, head: str, key: Ed25519PrivateKey) -> None:
    """Write signature.json, which holds the head and its signature."""
    signature = {
        "algorithm": "Ed25519",
        "head": head,
        "public_key": key.public_key().public_bytes_raw().hex(),
        "signature": key.sign(head.encode()).hex(),
    }
    write_atomic(path / SIGNATURE, json.dumps(signature, indent=2) + "\n")


def _signature(
    path: Path, head: str, trusted: Ed25519PublicKey | None, notes: list[str]
) -> Iterator[str]:
    """Yield what is wrong with signature.json, if there is one, or if a trusted key is given."""
    file = path / SIGNATURE
    if not file.is_file():
        if trusted:
            yield "there is no signature"
        return

    try:
        content = json.loads(file.read_text("utf-8"))
        signer = Ed25519PublicKey.from_public_bytes(bytes.fromhex(content["public_key"]))
        (trusted or signer).verify(bytes.fromhex(content["signature"]), head.encode())
    except (OSError, ValueError, KeyError, TypeError):
        yield f"{SIGNATURE} cannot be read"
    except InvalidSignature:
        if trusted:
            yield "the signature is not that of the key"
        else:
            yield "the signature does not fit the head"
    else:
        if not trusted:
            notes.append(
                f"signed by the key {content['public_key']}, which was not checked against one you "
                "trust (--key)"
            )
