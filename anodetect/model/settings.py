"""The full configuration from what was asked for and each section's defaults, and detectors made of
it."""

from collections.abc import Mapping
from typing import Any

from anodetect.config import build, merge
from anodetect.detectors import DETECTORS, detector_class
from anodetect.errors import ConfigError, nearest
from anodetect.imaging.preprocess import PreprocessConfig
from anodetect.imaging.representations import representation_class
from anodetect.imaging.tiling import TilingConfig
from anodetect.types import Expert

SECTIONS = ("preprocess", "tiling", "representation", "detector")


def resolve(detector: str, representation: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of all sections with defaults filled in; keys without a section go where they
    exist.

    `representation` "auto" stands for the detector's first.
    """
    dims = _dims(values)
    cls = detector_class(detector, dims)
    suitable = DETECTORS[detector].representations if dims == 2 else ("pixels",)
    if representation == "auto":
        representation = suitable[0]
    seen = representation_class(representation)
    if representation not in suitable:
        raise ConfigError(
            f"{detector} works on {' and '.join(suitable)} only{' with --dims 3' if dims == 3 else ''}"
        )
    classes = {
        "preprocess": PreprocessConfig,
        "tiling": TilingConfig,
        "representation": seen.Config,
        "detector": cls.Config,
    }
    given: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    values = dict(values)
    preset = _preset(cls, values.pop("preset", None))
    for key, value in values.items():
        if key in SECTIONS:
            if not isinstance(value, Mapping):
                raise ConfigError(f"[{key}] is a section, not a value")
            given[key] = merge(given[key], value)
            continue
        homes = [name for name in SECTIONS if key in classes[name].model_fields]
        if not homes:
            known = [
                *SECTIONS,
                *(field for name in SECTIONS for field in classes[name].model_fields),
            ]
            raise ConfigError(f"unknown key {key!r}; {nearest(key, known)}")
        given[homes[-1]] = merge(given[homes[-1]], {key: value})
    _check_dims(dims, given)
    defaults = merge(cls.defaults.get(representation, {}), preset)
    if tile := given["tiling"].get("tile"):  # tiles are not shrunk unless a size is asked for
        defaults = merge(defaults, {"representation": {"size": tile}})
    sections = {name: merge(defaults.get(name, {}), given[name]) for name in SECTIONS}
    built = {name: build(classes[name], sections[name], name) for name in SECTIONS}
    if "members" in cls.Config.model_fields:
        built["detector"] = built["detector"].model_copy(
            update={"settings": _members(built["detector"], tile)}
        )
    return {name: built[name].model_dump(mode="json") for name in SECTIONS}


def _members(config: Any, tile: int | None) -> dict[str, Any]:
    """An ensemble's settings with the defaults of its members filled in."""
    unknown = set(config.settings) - set(config.members)
    if unknown:
        name = min(unknown)
        raise ConfigError(f"detector.settings: no member {name!r}; {nearest(name, config.members)}")
    settings = {}
    for member in config.members:
        detector, _, representation = member.partition("/")
        if detector == "ensemble":
            raise ConfigError(
                "detector.members: an ensemble in an ensemble says nothing new; name its members"
            )
        asked = config.settings.get(member, {}) | ({"tiling": {"tile": tile}} if tile else {})
        whole = resolve(detector, representation or "auto", asked)
        settings[member] = {section: whole[section] for section in ("representation", "detector")}
    return settings


def create_detector(name: str, settings: Mapping[str, Any], dims: int = 2) -> Any:
    """The detector of this name with these settings; an ensemble can make its members."""
    cls = detector_class(name, dims)
    config = build(cls.Config, settings, "detector")
    return cls(config, _expert) if "members" in cls.Config.model_fields else cls(config)


def _expert(member: str, settings: Mapping[str, Any]) -> Expert:
    detector, _, representation = member.partition("/")
    seen = representation_class(representation or DETECTORS[detector].representations[0])
    config = build(seen.Config, settings.get("representation", {}), "representation")
    return Expert(seen(config), create_detector(detector, settings.get("detector", {})))


def _dims(values: Mapping[str, Any]) -> int:
    """Of tiling; a value that is no number of dimensions is left to the section's own check."""
    section = values.get("tiling", {})
    return (
        3
        if 3 in (values.get("dims"), section.get("dims") if isinstance(section, Mapping) else None)
        else 2
    )


def _check_dims(dims: int, given: Mapping[str, Mapping[str, Any]]) -> None:
    """ConfigError if a setting belongs to the other number of dimensions."""
    if dims == 2 and "patch" in given["tiling"]:
        raise ConfigError("patch is of volumes in three dimensions; add --dims 3")
    if dims == 3 and given["tiling"].get("tile"):
        raise ConfigError(
            "--tile is of images and slices; with --dims 3 --set 'patch=[16, 64, 64]' is what it is"
        )
    if dims == 3 and given["representation"]:
        raise ConfigError(
            f"--dims 3 takes voxels as they are; leave out {', '.join(given['representation'])}"
        )


def _preset(cls: Any, name: str | None) -> Mapping[str, Any]:
    presets: Mapping[str, Any] = getattr(cls, "presets", {})
    if name is not None and name not in presets:
        raise ConfigError(f"{cls.__name__} has no preset {name!r}; {nearest(name, presets)}")
    return {} if name is None else presets[name]
