"""Report: write report.html again, that of a score directory or that of a run."""

from pathlib import Path

from anodetect.files import path_or_none
from anodetect.output import report as score_report
from anodetect.record import runs, signatures
from anodetect.record.checkpoint import MODEL_FILE
from anodetect.record.partial import only_writer


def report(path: Path | str, *, sign: Path | str | None = None) -> Path:
    """Write the report.html of a score directory, with the verdicts that there are now, or of a
    run, and return its path.

    `sign` is a file with an Ed25519 private key, by which the note of a score directory's report is
    signed. RunError if there is nothing to report, or if another process writes there.
    """
    path, sign = Path(path), path_or_none(sign)
    key = signatures.private_key(sign) if sign else None
    with only_writer(path):
        if not (path / MODEL_FILE).is_file():
            return score_report.write(path, key)

        from anodetect.commands.sample import made_by  # only this needs a detector
        from anodetect.output import run_report

        run = runs.read(path)
        return run_report.write(run, made_by(run))
