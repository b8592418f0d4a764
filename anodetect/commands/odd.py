"""Odd normals in a training: listed by every one, left out on request."""

from dataclasses import replace

from anodetect.data.split import FEWEST, MINIMUM, Roles
from anodetect.errors import ConfigError, DataError
from anodetect.model.decoded import DecodedFiles
from anodetect.model.fitting import Training, fit_model
from anodetect.model.model import Model
from anodetect.model.odd import OddSearch
from anodetect.record.odd import OddNormals, with_left_out
from anodetect.types import Reporter

SECONDS = 30.0  # that a search takes at most beside a training, and
SHARE = 0.1  # at most this share of its budget


def fit_and_look(
    model: Model,
    roles: Roles,
    training: Training,
    scratch: DecodedFiles,
    representation: str,
    reporter: Reporter,
) -> OddNormals | None:
    """Fit a model and return the odd normals among its fit images; None if they are of one group.

    The search uses the features that the detector is fitted on, or encodes images itself for
    SECONDS or SHARE of the budget, whichever is less.
    """
    search = OddSearch(model, roles.fit, scratch, seed=training.seed, device=training.device)
    if search.takes_batch(representation):
        fit_model(model, roles, training, scratch, reporter, search.look_at)
        return search.found

    limit = SECONDS if training.budget is None else min(SECONDS, SHARE * training.budget)
    search.read(limit)
    fit_model(model, roles, training, scratch, reporter)
    return search.found


def leave_out_odd(
    model: Model,
    roles: Roles,
    scratch: DecodedFiles,
    wanted: float,
    *,
    seed: int,
    device: str,
    few: bool,
) -> tuple[Roles, OddNormals]:
    """Return the roles without the oddest fit images, and the list of odd normals.

    `wanted` is a number of images, or below 1 a share of the fit images. Images of other parts
    stay, so that a promise holds for normals as they come. ConfigError for a number that is none or
    for volumes; DataError if too few images would be left, or if they are all of one group.
    """
    if any(record.slice is not None for record in roles.fit) or model.tiling.dims == 3:
        raise ConfigError("--drop-odd leaves out images; take odd volumes out of the data instead")
    count = _count(wanted, len(roles.fit))
    left = len(roles.fit) - count
    total = left + len(roles.tune) + len(roles.calibrate)
    if left < len(roles.fit) / 2 or total < (FEWEST if few else MINIMUM):
        raise DataError(
            f"--drop-odd {wanted:g} would leave {left} of {len(roles.fit)} images to fit; at least "
            f"half of them and {FEWEST if few else MINIMUM} normal images in all have to stay"
        )

    search = OddSearch(model, roles.fit, scratch, seed=seed, device=device)
    search.read(None, listed=count)
    if search.found is None:
        raise DataError("--drop-odd: all images are of one group, with no other to compare")
    odd = with_left_out(search.found, count)
    names = {image.path for image in odd.images if image.left_out}
    return replace(roles, fit=[each for each in roles.fit if each.id not in names]), odd


def _count(wanted: float, fit_images: int) -> int:
    """Return how many of so many images a number or a share is."""
    is_share, is_number = 0 < wanted < 1, wanted >= 1 and float(wanted).is_integer()
    if not (is_share or is_number):
        raise ConfigError(
            f"--drop-odd {wanted:g}: a number of images, or a share below 1, is expected"
        )
    return int(wanted) if is_number else max(1, round(wanted * fit_images))
