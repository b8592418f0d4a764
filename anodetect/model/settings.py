"""The full configuration of a model from what the user gave, and detectors made from it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from anodetect.config import Config, build, merge
from anodetect.detectors import RENAMED, detector_class, entry_named
from anodetect.errors import ConfigError, nearest
from anodetect.imaging.preprocess import PreprocessConfig
from anodetect.imaging.representations import (
    Expert,
    create_representation,
    representation_config,
)
from anodetect.imaging.tiling import TilingConfig
from anodetect.types import Detector

SECTIONS = ("preprocess", "tiling", "representation", "detector")


def resolve(detector: str, representation: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of all sections with defaults filled in, as JSON can hold it.

    `values` has sections, and keys without a section, which go to the section that knows them.
    `representation` "auto" stands for the detector's first. Raises ConfigError for whatever is
    unknown or does not go together.
    """
    dims = dims_of(values)
    cls = detector_class(detector, dims)
    representation = _suitable(detector, representation, dims)
    classes: dict[str, type[Config]] = {
        "preprocess": PreprocessConfig,
        "tiling": TilingConfig,
        "representation": representation_config(representation),
        "detector": cls.Config,
    }

    values = dict(values)
    preset = _preset(cls, values.pop("preset", None))
    given = _by_section(values, classes)
    _check_dims(dims, given)

    defaults = merge(cls.defaults.get(representation, {}), preset)
    tile = given["tiling"].get("tile")
    if tile:  # tiles are not shrunk unless a size is asked for
        defaults = merge(defaults, {"representation": {"size": tile}})

    sections: dict[str, Any] = {}
    for name in SECTIONS:
        values = merge(defaults.get(name, {}), given[name])
        sections[name] = build(classes[name], values, name)
    if entry_named(detector).has_members:
        settings = _member_settings(sections["detector"], tile)
        sections["detector"] = sections["detector"].model_copy(update={"settings": settings})
    return {name: section.model_dump(mode="json") for name, section in sections.items()}


def create_detector(name: str, settings: Mapping[str, Any], dims: int = 2) -> Detector:
    """Return the detector of this name with these settings; one with members can make them.

    One of an older release becomes the one that took its place, and scores as before.
    """
    if name in RENAMED:
        settings = {**RENAMED[name].settings, **settings}
    cls = detector_class(name, dims)
    config = build(cls.Config, settings, "detector")
    has_members = entry_named(name).has_members
    detector: Detector = cls(config, _create_expert) if has_members else cls(config)
    return detector


def with_backbones(config: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """Return a configuration in which backbones and files of networks have the names that `places`
    has for theirs, those of an ensemble's members, too."""
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            changed[key] = with_backbones(value, places)
        else:
            named = key in ("backbone", "file")
            changed[key] = places.get(value, value) if named else value
    return changed


def _create_expert(member: str, settings: Mapping[str, Any]) -> Expert:
    """Return the member that is called detector/representation or detector, with "@" and the name
    of a channel if it sees that one only."""
    detector, representation, _ = parts_of_member(member)
    representation = representation or entry_named(detector).representations[0]
    start, stop = settings.get("planes") or (0, 0)
    return Expert(
        create_representation(representation, settings.get("representation", {})),
        create_detector(detector, settings.get("detector", {})),
        (start, stop) if stop else None,
    )


def parts_of_member(member: str) -> tuple[str, str, str]:
    """Return the detector, the representation and the channel that a member's name has, "" for what
    it does not have."""
    name, _, channel = member.partition("@")
    detector, _, representation = name.partition("/")
    return detector, representation, channel


def with_planes(
    config: Mapping[str, Any], names: Sequence[str], planes: Sequence[int]
) -> dict[str, Any]:
    """Return a configuration in which members that see one channel know which `planes` that are, of
    channels that have so many each; ConfigError if there is no such channel."""
    detector = dict(config["detector"])
    if "members" not in detector:
        return dict(config)
    ends = np.cumsum((0, *planes)).tolist()
    places = {name: ends[number : number + 2] for number, name in enumerate(names)}

    settings = {}
    for member in detector["members"]:
        settings[member] = dict(detector["settings"][member])
        *_, channel = parts_of_member(member)
        if channel and channel not in places:
            raise ConfigError(
                f"detector.members: no channel {channel!r}; {nearest(channel, names)}"
            )
        if channel:
            settings[member]["planes"] = places[channel]
    return {**config, "detector": detector | {"settings": settings}}


def dims_of(values: Mapping[str, Any]) -> int:
    """Return the number of dimensions of tiling; its section checks the value itself later."""
    section = values.get("tiling", {})
    of_section = section.get("dims") if isinstance(section, Mapping) else None
    return 3 if 3 in (values.get("dims"), of_section) else 2


def _suitable(detector: str, representation: str, dims: int) -> str:
    """Return the representation's name, the first of the detector's for "auto"; ConfigError if the
    detector does not work on it."""
    suitable = entry_named(detector).representations if dims == 2 else ("pixels",)
    if representation == "auto":
        return suitable[0]

    representation_config(representation)  # refuses an unknown name
    if representation not in suitable:
        where = " with --dims 3" if dims == 3 else ""
        raise ConfigError(f"{detector} works on {' and '.join(suitable)} only{where}")
    return representation


def _by_section(
    values: Mapping[str, Any], classes: Mapping[str, type[Config]]
) -> dict[str, dict[str, Any]]:
    """Return the values by section; ConfigError if no section knows a key."""
    given: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for key, value in values.items():
        if key in SECTIONS:
            if not isinstance(value, Mapping):
                raise ConfigError(f"[{key}] is a section, not a value")
            given[key] = merge(given[key], value)
            continue

        homes = [name for name in SECTIONS if key in classes[name].model_fields]
        if not homes:
            known = list(SECTIONS)
            for name in SECTIONS:
                known += classes[name].model_fields
            raise ConfigError(f"unknown key {key!r}; {nearest(key, known)}")
        given[homes[-1]] = merge(given[homes[-1]], {key: value})
    return given


def _check_dims(dims: int, given: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigError if a setting belongs to the other number of dimensions, or to tiles where
    there are none."""
    if dims == 2 and "patch" in given["tiling"]:
        raise ConfigError("patch is of volumes in three dimensions; add --dims 3")
    if dims == 2 and "overlap" in given["tiling"] and "tile" not in given["tiling"]:
        raise ConfigError("overlap is of tiles; add --tile and their side in pixels")
    if dims == 3 and given["tiling"].get("tile"):
        raise ConfigError(
            "--tile is of images and slices; with --dims 3 --set 'patch=[16, 64, 64]' is what it is"
        )
    if dims == 3 and given["representation"]:
        raise ConfigError(
            f"--dims 3 takes voxels as they are; leave out {', '.join(given['representation'])}"
        )


def _preset(cls: Any, name: str | None) -> Mapping[str, Any]:
    """Return the values of a detector's preset; ConfigError if it has none of this name."""
    presets: Mapping[str, Any] = getattr(cls, "presets", {})
    if name is not None and name not in presets:
        raise ConfigError(f"{cls.__name__} has no preset {name!r}; {nearest(name, presets)}")
    return {} if name is None else presets[name]


def _member_settings(config: Any, tile: int | None) -> dict[str, Any]:
    """Return the settings of all members with the defaults filled in."""
    _check_members(config.settings, config.members)
    settings = {}
    for member in config.members:
        detector, representation, _ = parts_of_member(member)
        if entry_named(detector).has_members:
            raise ConfigError(
                f"detector.members: {detector} has members of its own; name those instead"
            )
        if entry_named(detector).signed:
            raise ConfigError(
                f"detector.members: scores of {detector} may be below 0, and an ensemble joins "
                "logarithms of scores; score with both and compare p-values"
            )
        asked = config.settings.get(member, {}) | ({"tiling": {"tile": tile}} if tile else {})
        planes = asked.pop("planes", None)
        whole = resolve(detector, representation or "auto", asked)
        settings[member] = {section: whole[section] for section in ("representation", "detector")}
        if planes:
            settings[member]["planes"] = planes
    return settings


def _check_members(settings: Mapping[str, Any], members: Iterable[str]) -> None:
    """Raise ConfigError if there are settings for what is no member."""
    unknown = set(settings) - set(members)
    if unknown:
        name = min(unknown)
        raise ConfigError(f"detector.settings: no member {name!r}; {nearest(name, members)}")
