"""The note of report.html: what it was when it was written, of which record, with which verdicts.

    report.json   beside report.html; written by `score`, `merge` and `report` alone

The head of a record cannot stand for a report, which names that head and may be written again when
there are verdicts. So the report has a note of its own, which may be signed.
"""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import TypeAdapter

from anodetect.errors import RunError
from anodetect.files import sha256_of, write_atomic
from anodetect.record.objects import object_of
from anodetect.record.parts import Part, part_of
from anodetect.record.signatures import Signature, signature_of

REPORT, NOTE = "report.html", "report.json"


@dataclass(frozen=True, kw_only=True)
class ReportNote(Signature):
    """The content of report.json: the `head` of the record, the hash with which the `verdicts` that
    are shown end, and the SHA-256 of the page. The signature is that of `text`."""

    head: str
    verdicts: str
    sha256: str
    written: str

    @property
    def text(self) -> str:
        return f"report {self.head} {self.verdicts} {self.sha256} {self.written}"


def write(
    folder: Path, page: str, *, head: str, verdicts: str, key: Ed25519PrivateKey | None = None
) -> Path:
    """Write report.html and its note, signed with `key` if there is one; return the page's path."""
    file = folder / REPORT
    write_atomic(file, page)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    note = ReportNote(head=head, verdicts=verdicts, sha256=sha256_of(file), written=now)
    if key is not None:
        note = replace(note, **asdict(signature_of(note.text, key)))
    write_atomic(folder / NOTE, json.dumps(asdict(note), indent=2) + "\n")
    return file


def verify(folder: Path, head: str, trusted: Ed25519PublicKey | None) -> Part:
    """Return what is known of the report of the record with this head."""
    try:
        note = read(folder)
    except RunError as error:
        return part_of([str(error)], "broken", "")
    present = (folder / REPORT).is_file()
    if note is None:
        why = "nothing says what it was when it was written" if present else f"there is no {REPORT}"
        return Part("not covered", why)

    problems = []
    if not present:
        problems.append(f"{REPORT} is missing")
    elif sha256_of(folder / REPORT) != note.sha256:
        problems.append(f"{REPORT} was changed; anodetect report writes it again")
    if note.head != head:
        problems.append(f"{REPORT} was written of another record, {note.head}")
    if note.signature and not note.signs(note.text, trusted):
        problems.append(f"the signature in {NOTE} is not that of {_signer(trusted)}")

    signed = bool(note.signature and trusted)
    why = f"as it was written on {note.written}, its note is not signed"
    if note.signature:
        why = f"written on {note.written}, signed by {note.public_key}"
    return part_of(problems, "authenticated" if signed else "consistent", why)


def _signer(trusted: Ed25519PublicKey | None) -> str:
    return "the key" if trusted else "the key that it names"


def read(folder: Path) -> ReportNote | None:
    """Return the note of a report; None if there is none. RunError if it cannot be read."""
    file = folder / NOTE
    return object_of(file, _ADAPTER) if file.exists() else None


_ADAPTER = TypeAdapter(ReportNote)
