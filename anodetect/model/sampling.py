"""Images that a trained model makes itself, as a picture of what it takes for normal."""

from collections.abc import Iterator
from dataclasses import replace

from anodetect.detectors import DETECTORS, detector_class
from anodetect.detectors.ensemble import Ensemble
from anodetect.errors import ConfigError
from anodetect.imaging.pixels import Pixels
from anodetect.imaging.representations import Representation
from anodetect.model.loading import LoadedImage
from anodetect.model.model import Model
from anodetect.types import Detector, Floats, Interpolator, Sampler, Samples

BETWEEN = 8  # images from starts between two others


def make_images(
    model: Model, count: int, *, seed: int, start: LoadedImage | None = None
) -> Samples:
    """Return images that a model makes, scaled to about -1 to 1.

    With `start` chains begin at that image; without, there are also images from starts between two
    others, if the model can make them. Of an ensemble the first member makes them that can.
    ConfigError if none can, or if what the model makes cannot be looked at.
    """
    if model.tiling.tile or model.tiling.dims == 3:
        raise ConfigError("a model of tiles or patches makes no whole images")
    representation, sampler = _sampler(model)
    made = sampler.sample(count, seed=seed, start=_seen(model, representation, start))
    if start is None and isinstance(sampler, Interpolator):
        made = replace(made, between=sampler.interpolate(BETWEEN, seed=seed))
    return made


def _sampler(model: Model) -> tuple[Representation, Sampler]:
    """Return the first detector that makes images of pixels, and how it sees them."""
    makes_features = False
    for representation, detector in _detectors(model):
        if isinstance(detector, Sampler):
            if isinstance(representation, Pixels):
                return representation, detector
            makes_features = True
    if makes_features:
        raise ConfigError(
            "the model makes features, which cannot be looked at; train it with "
            "--representation pixels"
        )
    raise ConfigError(f"the detector makes no images; those that do are {', '.join(makers())}")


def images_lost(model: Model) -> str | None:
    """Return in words that an ensemble makes no images, as the member that would does not count,
    and what to do; None where it makes some, or has no such member."""
    detector = model.detector
    if not isinstance(detector, Ensemble) or model.tiling.tile or model.tiling.dims == 3:
        return None
    if any(_makes_images(*each) for each in _detectors(model)):
        return None

    for name, expert in zip(detector.config.members, detector.experts, strict=True):
        if _makes_images(expert.representation, expert.detector):
            return (
                f"{name} does not count, so `anodetect sample` and the report show no images; for "
                f"these train with --detector {name.partition('/')[0]} --representation pixels"
            )
    return None


def _makes_images(representation: Representation, detector: Detector) -> bool:
    """Return True for a detector that makes images, and sees pixels."""
    return isinstance(detector, Sampler) and isinstance(representation, Pixels)


def _detectors(model: Model) -> Iterator[tuple[Representation, Detector]]:
    """Yield the detector, or the members of an ensemble that count, each with its
    representation."""
    detector = model.detector
    if not isinstance(detector, Ensemble):
        yield model.representation, detector
        return
    for expert, weight in zip(detector.experts, detector.weights, strict=True):
        if weight > 0:
            yield expert.representation, expert.detector


def makers() -> list[str]:
    """Return the names of the detectors that make images."""
    return [name for name in DETECTORS if issubclass(detector_class(name), Sampler)]


def _seen(model: Model, representation: Representation, start: LoadedImage | None) -> Floats | None:
    """Return an image as the detector sees it."""
    if start is None:
        return None
    image, inside = model.preprocess.apply(start.image, start.of)
    framed = model.framed(image, inside)
    ((seen, _),) = representation.represent([representation.prepare(*framed)])
    return seen
