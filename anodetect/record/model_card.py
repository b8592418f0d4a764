"""The model card: the facts of a run for a reader, as Markdown."""

from anodetect.files import as_code
from anodetect.imaging.backbones.table import DIGITS, EMBEDDED
from anodetect.record.runs import RunHeader
from anodetect.stats.calibration import DEFAULT_FAR, Calibration
from anodetect.stats.limit import detection_limit, limit_table
from anodetect.words import amount

LIMIT_HEADING = "## Detection limit"  # of the card's last part


def model_card(header: RunHeader, calibration: Calibration) -> str:
    """Return the text of model_card.md for the run with this header and calibration."""
    facts, preprocess = header.facts, header.preprocess
    low, high = preprocess["range"]
    steps = ""
    if facts.steps:
        steps = f", {amount(facts.steps, 'step')}, ended by {facts.stopped_by}"
    odd = ""
    if facts.odd_left_out:
        images = amount(facts.odd_left_out, "image")
        odd = (
            f"\n- Left out of fit by --drop-odd: {images}, the hardest to "
            "explain from the others; calibration images stayed as they are"
        )
    known = ""
    if facts.known_anomalies:
        known = (
            f"\n- Known anomalies: {amount(facts.known_anomalies, 'image')}, learned from as such "
            "(--known-anomalies); none of them is among\n  the normals to fit, tune or calibrate"
        )
    in_folds = ""
    if calibration.folds is not None:
        in_folds = f" in {calibration.n_folds} folds, those to fit and to tune among them"
    foreground = "above the flat background" if preprocess["flat_background"] else "every pixel"
    return f"""# {header.detector} on {as_code(header.data)}

An anomaly detector trained on normal images{" and known anomalies" if known else " only"}. A \
larger score means: less like the normals it has seen.
It says nothing about why, and it is not a medical device.

- Detector: `{header.detector}` on `{header.sees}`, seed {facts.seed}; \
trained {facts.trained_at}
- Data: {as_code(header.data)}: {amount(facts.fit_images, "image")} to fit,
  {facts.tune_images} to tune, {len(calibration.scores)} to calibrate \
({amount(calibration.n_groups, "group")}){in_folds}; which ones, with their hashes: `manifest.csv`
- Training: {facts.train_seconds:.1f} s{steps}
- Given up: {facts.dropped or "nothing"}{odd}{known}
- Images: {amount(preprocess["channels"], "channel")}; values {low:g} to {high:g} become -1 to 1; \
foreground:
  {foreground}{_brain_line(header)}{_backbone_lines(header)}
- False alarms: {calibration.statement(DEFAULT_FAR)}
- Masks: {calibration.mask_statement(DEFAULT_FAR)}
{_limit_text(header, calibration)}"""


def _limit_text(header: RunHeader, calibration: Calibration) -> str:
    """Return the detection limit for the model card, "" where nothing was planted."""
    if header.facts.planted is None:
        return ""
    limit = detection_limit(header.facts.planted, calibration, DEFAULT_FAR)
    if not limit.rows:
        return f"\n{limit.statement()}\n"
    return f"""
{LIMIT_HEADING}

{limit.statement()}
Measured with defects planted in normal tune images, which are not real ones: the share found, by \
size (share of the shorter side of an image or tile) and contrast (share of the range of an \
image's values). Shares are made to rise with size and contrast; in brackets are the counts.

{limit_table(limit)}
"""


def _brain_line(header: RunHeader) -> str:
    """Return the line of the model card on the preparation of brains, "" without one."""
    tools = header.preprocess.get("brain")
    if tools is None:
        return ""
    settings = header.config["preprocess"]["brain"]
    asked = ", ".join(f"{name} {value}" for name, value in settings.items())
    skull = tools["skull"] or {"name": "nothing", "version": ""}
    cut_out_by = f"{skull['name']} {skull['version']}".rstrip()
    template = f"; template SHA-256 `{tools['template']}`" if tools["template"] else ""
    return (
        f"\n- Brains: {asked}; cut out by {cut_out_by}{template}; what was done to each: "
        "`manifest.csv`"
    )


def _backbone_lines(header: RunHeader) -> str:
    """Return the lines of the model card on the networks whose features are modelled."""
    lines = ""
    for each in header.backbones or ():
        revision = f" ({each.revision})" if each.revision else ""
        layers = f", layers {list(each.layers)}" if each.layers else ", as a whole"
        lines += (
            f"\n- Backbone: `{each.name}`{revision}{layers}; licence "
            f"{each.licence};\n  pretrained on {each.pretraining}; weights SHA-256 `{each.sha256}`"
        )
        if each.embedded:
            lines += (
                f";\n  embedded: a copy lies in `{EMBEDDED}/{each.embedded[:DIGITS]}`, so the "
                f"licence of these weights ({each.licence})\n  applies to whoever passes the run on"
            )

    return lines
