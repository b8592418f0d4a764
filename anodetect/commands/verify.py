"""Verify: check a score directory, and score some of its files again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anodetect.errors import AnodetectError, ConfigError
from anodetect.files import path_or_none
from anodetect.model.devices import check_device
from anodetect.record import directories, one_row, verification
from anodetect.record.parts import part_of
from anodetect.record.verification import Verdict
from anodetect.words import amount


def verify(
    path: Path | str,
    *,
    head: str | None = None,
    key: Path | str | None = None,
    run: Path | str | None = None,
    rescore: int = 0,
    data: Path | str | None = None,
    device: str = "auto",
    reviews: str | None = None,
    row: str | None = None,
    rows: str | None = None,
) -> Verdict:
    """Check that a score directory is what was written, and score `rescore` of its files again.

    `head` is the head as it was kept elsewhere, `key` the public key (PEM) that must have signed
    it, `reviews` the end of the chain of verdicts as it was kept elsewhere. `run` and `data` say
    where the run and the images are, if they were moved; only in `data` masks are read, and
    metrics of pixels measured again. With `row`, the path of one file, its row and what was written
    for it are checked alone, with `rows`, "A:B", those with numbers from A to B. RunError if it is
    no finished score directory, ConfigError for an unknown device, and for rows that are not there.
    """
    path, key, run, data = Path(path), path_or_none(key), path_or_none(run), path_or_none(data)
    check_device(device)
    if row is not None or rows is not None:
        if rescore or reviews is not None or data is not None or (row and rows):
            raise ConfigError(
                "--row and --rows check rows alone: leave out --rescore, --reviews and --data, and "
                "name one of the two"
            )
        if row is not None:
            return one_row.verify_row(path, row, head=head, key=key, run=run)
        return one_row.verify_rows(path, rows or "", head=head, key=key, run=run)

    verdict = verification.verify(path, head=head, key=key, run=run, kept_reviews=reviews)
    if verdict.record.state != "broken":
        verdict = _with_all_recomputed(verdict, path, run, data)
    if not rescore or not verdict.rows:
        return verdict

    from anodetect.commands.rescore import rescore as score_again  # only this needs a detector

    try:
        found = score_again(path, rescore, run_path=run, root=data, device=device)
    except AnodetectError as error:
        found = [f"nothing was scored again: {error}"]
    if found:
        return _broken(verdict, found)
    unread = verification.images_not_read(verdict.root)
    rest = [text for text in verdict.not_looked_at if text != unread]
    if rescore < verdict.rows:
        of = f"of {verdict.rows} images"
        images = amount(rescore, f"{of} was", f"{of} were")
        rest.insert(0, f"{images} scored again, the others not read")
    return replace(verdict, not_looked_at=tuple(rest))


def _with_all_recomputed(
    verdict: Verdict, path: Path, run: Path | None, data: Path | None
) -> Verdict:
    """Return the verdict on a record whose hashes hold, with what its rows, maps and run give, and
    the masks in `data`."""
    from anodetect.commands.recompute import recompute  # with all that `score` concludes with

    found = recompute(directories.opened(path), run, data)
    not_looked_at = (*verdict.not_looked_at, *found.not_looked_at)
    verdict = replace(verdict, not_looked_at=not_looked_at)
    return _broken(verdict, found.problems) if found.problems else verdict


def _broken(verdict: Verdict, problems: Sequence[str]) -> Verdict:
    """Return the verdict with more problems of the record."""
    record = part_of([*verdict.record.problems, *problems], "broken", "")
    return replace(verdict, record=record)
