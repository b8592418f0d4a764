"""Training on fewer normals than a promise needs: a train-free detector on features, fitted on all
of them, without calibration."""

import tempfile
from dataclasses import replace
from pathlib import Path

from anodetect.data.split import Roles
from anodetect.detectors import DETECTORS, entry_named
from anodetect.errors import ConfigError, DataError
from anodetect.model.colour_scale import colour_scale
from anodetect.model.decoded import DecodedFiles
from anodetect.model.fitting import Training, fit_model
from anodetect.model.model import Model
from anodetect.model.scoring import Scored, score_records
from anodetect.types import Silent
from anodetect.words import amount

FEWEST_OF_CHANNELS = 4  # images, half of which has two halves


def representation_of_few(detector: str, representation: str) -> str:
    """Return the representation that a detector gets with few normals, which is features.

    ConfigError if another one is asked for, or if the detector has to be trained or cannot see
    features.
    """
    entry = entry_named(detector)
    if not entry.for_few or "features" not in entry.representations:
        suitable = []
        for name, each in DETECTORS.items():
            if each.for_few and "features" in each.representations:
                suitable.append(name)
        raise ConfigError(
            f"--allow-few: {detector} cannot learn from so few images; take {' or '.join(suitable)}"
        )
    if representation not in ("auto", "features"):
        raise ConfigError(
            f"--allow-few: few images tell too little of {representation}; leave out "
            "--representation, and the detector sees features"
        )
    return "features"


def scale_of_few(
    model: Model, roles: Roles, training: Training, scratch: DecodedFiles
) -> tuple[float, float]:
    """Return the colour scale learned from each half of the fit images as a model of the other half
    sees it; DataError if there are too few of several channels.

    A model that has all of them in its memory errs nowhere on them. The model is fitted on the way,
    so it has to be fitted anew afterwards.
    """
    if model.preprocess.named is not None and len(roles.fit) < FEWEST_OF_CHANNELS:
        raise DataError(
            f"{amount(len(roles.fit), 'normal image is', 'normal images are')} too few for several "
            f"channels; at least {FEWEST_OF_CHANNELS} are needed"
        )
    halves = roles.fit[::2], roles.fit[1::2]
    scored: list[Scored] = []
    for own, other in (halves, halves[::-1]):
        with tempfile.TemporaryDirectory(dir=training.workdir) as folder:
            apart = replace(training, workdir=Path(folder))
            fit_model(model, Roles(list(own), [], []), apart, scratch, Silent())
        scored += score_records(model, other, Silent(), "scale", scratch=scratch)
    return colour_scale(scored)
