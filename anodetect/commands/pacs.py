"""Pacs: to and from a DICOM archive, and a node that scores what a scanner sends."""

from collections.abc import Iterable
from datetime import date
from pathlib import Path

from anodetect.errors import ConfigError
from anodetect.pacs.connection import check_extra, connect
from anodetect.pacs.nodes import Own, Retrieve, Tls, address_of, check_title
from anodetect.pacs.pull import PullResult, Wanted, read_patients
from anodetect.pacs.pull import pull as pull_series
from anodetect.pacs.push import PushResult, pushable
from anodetect.pacs.push import push as push_results
from anodetect.types import Reporter, Silent
from anodetect.words import amount


def pull(
    archive: str,
    out: Path,
    *,
    modality: str = "",
    description: str = "",
    since: str = "",
    until: str = "",
    patients: Path | None = None,
    own: Own | None = None,
    reporter: Reporter | None = None,
) -> PullResult:
    """Fetch series of the archive at this address into the folder `out`, as `pacs.pull` says.

    `since` and `until` are days like 2026-01-31, `patients` is a file of patient IDs, one a line.
    ConfigError before anything is asked for what cannot be meant.
    """
    wanted = Wanted(
        modality=modality.strip().upper(),
        description=description.strip(),
        since=_day(since, "--since"),
        until=_day(until, "--until"),
        patients=read_patients(patients) if patients else (),
    )
    if wanted.since and wanted.until and wanted.since > wanted.until:
        raise ConfigError("--since lies after --until")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is not a folder")
    connection = connect(address_of(archive), own or Own())
    try:
        return pull_series(connection, wanted, out, reporter or Silent())
    finally:
        connection.close()


def push(
    directory: Path, archive: str, *, own: Own | None = None, reporter: Reporter | None = None
) -> PushResult:
    """Send the DICOM objects of a score directory to the archive at this address, as `pacs.push`
    says."""
    check_extra()
    address = address_of(archive)
    pushable(directory)  # before anything is contacted
    connection = connect(address, own or Own())
    try:
        return push_results(connection, directory, reporter or Silent())
    finally:
        connection.close()


def own_side(
    title: str = Own.title,
    host: str = Own.host,
    port: int = Own.port,
    retrieve: str = Own.retrieve,
    tls: Iterable[Path | None] = (),
) -> Own:
    """Return this side of connections; `tls` are certificate, key and authorities. ConfigError for
    what cannot be meant."""
    if retrieve not in ("get", "move"):
        raise ConfigError(f"--retrieve {retrieve}: get or move is expected")
    how: Retrieve = "move" if retrieve == "move" else "get"
    files = Tls(*tls)
    files.check()
    return Own(check_title(title), host, port, how, files)


def pulled_text(result: PullResult) -> str:
    """Return what `pull` returns, as text."""
    fetched = amount(result.fetched, "object")
    text = f"{result.series} series, {fetched} fetched, {result.present} there before"
    if result.incomplete:
        missing = amount(result.missing, "object")
        text += f"; {result.incomplete} series incomplete, {missing} missing"
    return f"{text}: {result.out}"


def pushed_text(result: PushResult) -> str:
    """Return what `push` returns, as lines of text."""
    counts = f"{amount(result.pushed, 'object')} taken, {result.before} there before"
    return "\n".join([f"{counts}, {len(result.failures)} not taken", *result.failures])


def _day(text: str, option: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise ConfigError(f"{option} {text}: a day like 2026-01-31 is expected") from None
