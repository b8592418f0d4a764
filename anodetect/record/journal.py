"""The write-ahead file of a scoring: what is finished survives a crash, and is not done twice.

`journal.jsonl` in the score directory holds a line with the options of the scoring, then a line
for every finished file (`JournalEntry`), appended and flushed to the disk a batch at a time. When
the journal is opened again, all from the first line on that is not whole, or not what a scoring
writes, is cut off and done again. The file is removed when the directory is complete.

With a key every batch ends with a line `{"signature": …}` over all bytes before it, and what comes
after the last one that the key has made is done again: who can write the directory cannot put
results into a record that will be signed.
"""

import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import Timeout

from anodetect.config import canonical, without_nan
from anodetect.data.listing import Listing
from anodetect.data.records import Record
from anodetect.errors import RunError
from anodetect.files import WRITING, leads_out, sha256_of, walk
from anodetect.record import directories
from anodetect.record.lines import LineFile
from anodetect.record.partial import LOCK, lock_of
from anodetect.record.rows import OK, JournalEntry, OutputRow, entry_from_json, entry_to_json
from anodetect.record.signatures import Signature, signature_of
from anodetect.record.spool import repeated_numbers

OPTIONS, SIGNATURE = "options", "signature"  # the keys of the first line, and of those that sign
HASH = re.compile("[0-9a-f]{64}")


def is_finished(path: Path) -> bool:
    """Return whether a scoring has written all of its score directory."""
    return (path / directories.AUDIT_FILE).exists() and not (path / directories.JOURNAL).exists()


def refuse_finished(path: Path) -> None:
    """Raise RunError if a scoring has written all of its score directory."""
    if is_finished(path):
        raise RunError(f"{path}: this scoring is finished; choose another --out")


class Journal:
    """The journal of the score directory `path`; a context manager that holds the directory's lock.

    `options` must be the same for a scoring to go on. RunError if the directory is locked or
    finished, if it was started with other options, or if it exists and `resume` is False. With
    `key` each batch is signed, and only what the key has signed is taken over. `has` says whether
    an output is where it was written, if that is not the directory. `ignored` are the paths of
    files that are finished, but not to be scored.
    """

    def __init__(
        self,
        path: Path,
        options: Mapping[str, Any],
        *,
        resume: bool,
        key: Ed25519PrivateKey | None = None,
        has: Callable[[OutputRow], bool] | None = None,
    ) -> None:
        self.path, self.options, self.resume = path, without_nan(options), resume
        self.key, self.digest = key, sha256()
        self.has = has or self._is_whole
        self.ignored: set[str] = set()
        self.file = path / directories.JOURNAL
        self.lock = lock_of(path)
        self.lines = LineFile(self.file, is_line)
        self.paths = array("q")  # the hash of the path of each entry

    def __enter__(self) -> "Journal":
        exists = (self.path / LOCK).exists()
        if not exists:
            directories.prepare(self.path)
        try:
            self.lock.acquire()
        except Timeout:
            raise RunError(f"{self.path}: another process is writing here") from None
        except OSError as error:
            raise RunError(f"{self.path}: cannot be locked ({error.strerror})") from None

        try:
            if exists and not self.resume:
                directories.prepare(self.path, allowed=(LOCK,))
            self._open()
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.lines.close()
        self.lock.release()

    def _open(self) -> None:
        # A record beside its journal is complete, but perhaps not signed: all that comes after
        # scoring is done again.
        refuse_finished(self.path)
        for file in walk(self.path):
            if file.name.startswith(WRITING):  # by a process that was killed
                file.unlink()

        options = _options_of(next(self.lines.lines(), b""))
        if options is None:
            self.file.unlink(missing_ok=True)
        else:
            self._check(options)
        self._take_over()
        self.lines.open()
        self.paths = array("q", (hash(entry.row.path) for entry in self._all_entries()))
        try:
            if options is None:
                self._write([canonical({OPTIONS: self.options})])
        except RunError:
            self.lines.close()
            raise

    def _take_over(self) -> None:
        """Hash what the journal has; with a key cut off all behind the last signature by it."""
        place = end = 0
        digest = self.digest.copy()
        for number, line in enumerate(self.lines.lines()):
            is_kept = (
                number == 0 or self.key is None or _is_signed(line, digest.hexdigest(), self.key)
            )
            digest.update(line)
            place += len(line)
            if is_kept:
                end, self.digest = place, digest.copy()
        if end < place:
            os.truncate(self.file, end)

    def check(self) -> None:
        """Raise RunError if the scoring that was interrupted here was started with other options.
        Nothing is written."""
        options = _options_of(next(self.lines.lines(), b""))
        if options is not None:
            self._check(options)

    def _check(self, options: Mapping[str, Any]) -> None:
        """Raise RunError if a scoring was started with other options."""
        if canonical(options) != canonical(self.options):
            every = sorted(self.options.keys() | options.keys())
            changed = [key for key in every if options.get(key) != self.options.get(key)]
            raise RunError(
                f"{self.path} was started with another {', '.join(changed)}; go on with the "
                "same, or move it away"
            )

    def resumed(self, records: Mapping[str, Record] | Listing) -> Iterator[JournalEntry]:
        """Yield what needs not be done again: entries without an error of these records, whose
        files are as they were written. After a power failure files may be missing, empty or cut
        off. What is finished of other files, which are not in the folder, is ignored from now
        on."""
        for entry in self.entries():
            record = records.get(entry.row.path)
            if record is None:
                self.ignored.add(entry.row.path)
            elif self._is_of(entry, record) and all(map(self.has, entry.outputs)):
                yield entry

    def _is_of(self, entry: JournalEntry, record: Record) -> bool:
        """Return whether an entry without an error says of a record what is known of it, was scored
        by the model of this scoring, and has the hash of its pixels, which older releases did not
        write and which copies are found by."""
        row = entry.row
        known = (record.group, record.label, record.kind, record.extra.get("acquired", ""))
        said = (row.group, row.label, row.kind, row.acquired)
        model = self.options.get("model_sha256", row.model_sha256)
        is_hashed = row.status != OK or bool(row.pixels_sha256)
        return not row.error and said == known and row.model_sha256 == model and is_hashed

    def _is_whole(self, output: OutputRow) -> bool:
        file = self.path / output.name
        return file.is_file() and sha256_of(file) == output.sha256

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Add finished files; when this returns they are on the disk."""
        lines = [entry_to_json(entry) for entry in entries]
        if lines and self.key is not None:
            digest = self.digest.copy()
            for line in lines:
                digest.update(line + b"\n")
            signature = signature_of(f"journal {digest.hexdigest()}", self.key).signature
            lines.append(canonical({SIGNATURE: signature}))
        self._write(lines)
        self.paths.extend(hash(entry.row.path) for entry in entries)

    def _write(self, lines: Sequence[bytes]) -> None:
        self.lines.append(lines)
        for line in lines:
            self.digest.update(line + b"\n")

    def entries(self) -> Iterator[JournalEntry]:
        """Yield everything finished that is not ignored, one entry at a time; of a file that was
        scored again the last entry counts."""
        outdated = self._outdated()
        for number, entry in enumerate(self._all_entries()):
            if number not in outdated and entry.row.path not in self.ignored:
                yield entry

    def _outdated(self) -> set[int]:
        """Return the numbers of the entries of files that were scored again later."""
        several, last = repeated_numbers(self.paths), dict[str, int]()
        outdated = set[int]()
        if not several:
            return outdated
        for number, entry in enumerate(self._all_entries()):
            if self.paths[number] in several:
                if entry.row.path in last:
                    outdated.add(last[entry.row.path])
                last[entry.row.path] = number
        return outdated

    def _all_entries(self) -> Iterator[JournalEntry]:
        for line in self.lines.all_lines():
            entry = _entry_of(line)
            if entry is not None:
                yield entry

    def remove(self) -> None:
        """Take the journal and the lock away: the directory is complete."""
        self.file.unlink()
        (self.path / LOCK).unlink(missing_ok=True)


def _options_of(line: bytes) -> dict[str, Any] | None:
    """Return the options that the first line of a journal holds; None if it is none."""
    try:
        options = json.loads(line)[OPTIONS]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return options if isinstance(options, dict) else None


def is_line(line: bytes) -> bool:
    """Return whether a line is one of those that a journal has."""
    if _entry_of(line) is not None or _options_of(line) is not None:
        return True
    return bool(_signature_of(line))


def _entry_of(line: bytes) -> JournalEntry | None:
    """Return the entry that a line holds; None if it holds none, or one that no scoring writes."""
    try:
        entry = entry_from_json(line)
    except ValueError:
        return None
    return entry if _is_sound(entry) else None


def _is_sound(entry: JournalEntry) -> bool:
    """Return whether the values of an entry fit each other, and the tables they go to."""
    row = entry.row
    if (row.status == OK) != (row.score is not None):
        return False
    if row.score is not None and not isfinite(row.score):
        return False
    numbers = [row.width or 0, row.height or 0, row.depth or 0, entry.threads]
    numbers += [each.slice for each in entry.slices]
    if row.label not in (None, 0, 1) or not all(0 <= each < 2**31 for each in numbers):
        return False

    hashes = [each.sha256 for each in entry.outputs]
    hashes += [each for each in (row.sha256, row.pixels_sha256, row.truth_sha256) if each]
    names = [row.heatmap, *(each.name for each in entry.outputs)]
    paths = {each.path for each in entry.outputs} | {each.path for each in entry.slices}
    sizes_fit = all(HASH.fullmatch(each) for each in hashes) and not any(map(leads_out, names))
    return sizes_fit and paths <= {row.path} and isfinite(entry.seconds)


def _signature_of(line: bytes) -> str:
    """Return the signature that a line holds, "" for none."""
    try:
        signature = json.loads(line)[SIGNATURE]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return signature if isinstance(signature, str) else ""


def _is_signed(line: bytes, digest: str, key: Ed25519PrivateKey) -> bool:
    """Return whether a line holds the key's signature over all before it, of which this is the
    SHA-256."""
    signature = Signature(signature=_signature_of(line))
    return signature.signs(f"journal {digest}", key.public_key())
