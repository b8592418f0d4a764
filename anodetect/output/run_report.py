"""One self-contained HTML file about a run: its model card, its detection limit, its training, and
its components and odd normals."""

from dataclasses import dataclass
from pathlib import Path

from anodetect.files import write_atomic
from anodetect.output import figures
from anodetect.output.report import environment
from anodetect.record import runs
from anodetect.record.components import read_components
from anodetect.record.model_card import LIMIT_HEADING
from anodetect.record.objects import text_of
from anodetect.record.odd import read_odd
from anodetect.record.runs import Run
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.limit import detection_limit


@dataclass(frozen=True)
class MadeImages:
    """Images that a model makes, as one PNG in base 64; if it is "", `reason` says why. With
    `between` the last row of the picture are images of starts between two others."""

    picture: str
    reason: str
    between: bool = False


def write(run: Run, made: MadeImages | None = None) -> Path:
    """Write report.html into a run's directory and return its path; see `html`."""
    write_atomic(run.path / "report.html", html(run, made))
    return run.path / "report.html"


def html(run: Run, made: MadeImages | None = None) -> str:
    """Return the report, with the images that the model makes if they are given; RunError if what
    lies beside the model was altered."""
    planted, limit = run.header.facts.planted, None
    if planted is not None:
        limit = detection_limit(planted, run.calibration, DEFAULT_FAR)
    card = text_of(run.path / "model_card.md")
    page = environment().get_template("run.html.j2")
    text: str = page.render(
        header=run.header,
        model_sha256=run.model_sha256,
        card=card.partition(LIMIT_HEADING)[0].rstrip(),
        limit=limit,
        training=figures.training(runs.curves(run.path)),
        odd=read_odd(run.path),
        components=read_components(run.path),
        made=made,
    )

    return text
