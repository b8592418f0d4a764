"""Verify: check a score directory, and score some of its files again."""

from dataclasses import replace
from pathlib import Path

from anodetect.errors import AnodetectError
from anodetect.files import path_or_none
from anodetect.model.devices import check_device
from anodetect.record import verification
from anodetect.record.verification import Verdict


def verify(
    path: Path | str,
    *,
    head: str | None = None,
    key: Path | str | None = None,
    run: Path | str | None = None,
    rescore: int = 0,
    data: Path | str | None = None,
    device: str = "auto",
) -> Verdict:
    """Check that a score directory is what was written, and score `rescore` of its files again.

    `head` is the head as it was kept elsewhere, `key` the public key (PEM) that must have signed
    it. `run` and `data` say where the run and the images are, if they were moved. RunError if it is
    no finished score directory, ConfigError for an unknown device.
    """
    path, key, run, data = Path(path), path_or_none(key), path_or_none(run), path_or_none(data)
    check_device(device)
    verdict = verification.verify(path, head=head, key=key, run=run)
    if not rescore or not verdict.rows:
        return verdict

    from anodetect.commands.rescore import rescore as score_again  # only this needs a detector

    try:
        found = score_again(path, rescore, run_path=run, root=data, device=device)
    except AnodetectError as error:
        found = [f"nothing was scored again: {error}"]
    problems = (*verdict.problems, *found)
    authenticated = verdict.authenticated and not problems
    return replace(verdict, problems=problems, authenticated=authenticated)
