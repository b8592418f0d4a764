"""The form in which a detector is trained: on pixels, on features, or on both as an ensemble.

With `--representation auto` a detector that works on both gets both: each becomes a member of an
ensemble, and planted defects on tune images decide what either counts. What suits images is thus
decided by what the trained members find.

Images that show a shape before a flat background are the exception: there pixels are taken, and
have the whole budget. On brain MRI planted defects mislead: by them features find more (AUROC .62
against .58), of real tumours they find much less (.73 against .90). Planted noise and blur, which
only features see, are not what lesions look like.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anodetect.config import merge
from anodetect.data.channels import Channels
from anodetect.detectors import DETECTORS, Entry, entry_named
from anodetect.errors import ConfigError
from anodetect.imaging.backbones.table import INSTALL_FEATURES
from anodetect.imaging.features import DEFAULT_SIZE
from anodetect.imaging.representations import LEAST_FEATURE_SIZE, features_installed
from anodetect.imaging.tiling import tile_of
from anodetect.model.settings import dims_of, parts_of_member, resolve

ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Form:
    """A detector with the name of its representation and the full configuration of both.

    `notes` say in words what the automatic choice did, and `warnings` what it lacks.
    `for_shapes` is the form to take instead where images show shapes before a flat background.
    """

    detector: str
    representation: str
    config: dict[str, Any]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    for_shapes: "Form | None" = None


def form_of(
    detector: str,
    representation: str,
    values: Mapping[str, Any],
    channels: Channels | None = None,
) -> Form:
    """Return the form that a detector is to be trained in; `representation` may be "auto".

    Settings that only one representation knows decide for that one. `channels` are those of images
    that have several files. ConfigError if a name or a setting is wrong.
    """
    entry = entry_named(detector)
    if channels is not None:
        return _of_channels(detector, entry, representation, values, channels)
    if representation != "auto" or not _is_open(entry, values):
        return _single(detector, entry, representation, values)

    hindrance = _hindrance(values)
    if hindrance:
        first = _single(detector, entry, "auto", values)
        note = f"only {first.representation} are looked at, not features: {hindrance}"
        return Form(first.detector, first.representation, first.config, warnings=(note,))

    found: dict[str, Form] = {}
    errors: list[ConfigError] = []
    for name in entry.representations:
        try:
            found[name] = _single(detector, entry, name, values)
        except ConfigError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    if errors:
        (only,) = found.values()
        note = f"{only.representation}, which alone know these settings"
        return Form(only.detector, only.representation, only.config, notes=(note,))
    return _both(detector, found)


def _of_channels(
    detector: str,
    entry: Entry,
    representation: str,
    values: Mapping[str, Any],
    channels: Channels,
) -> Form:
    """Return the form of images whose channels are several files: pixels of all of them together,
    features of each alone, or both."""
    if entry.has_members:
        form = _single(detector, entry, representation, values)
        _check_members(form.config["detector"]["members"], channels)
        return form

    seen = _seen_of_channels(entry, representation, values)
    if "pixels" in seen:
        _check_leaves_out(detector, channels)
    found = {name: _single(detector, entry, name, values) for name in seen}
    return found["pixels"] if seen == ["pixels"] else _both(detector, found, channels.names)


def _seen_of_channels(entry: Entry, representation: str, values: Mapping[str, Any]) -> list[str]:
    """Return the representations that are modelled of several channels."""
    if representation != "auto":
        return [representation]
    if "pixels" not in entry.representations:
        return ["features"]
    if not _is_open(entry, values) or _hindrance(values):
        return ["pixels"]
    return ["features", "pixels"]


def _check_members(members: Sequence[str], channels: Channels) -> None:
    """Raise ConfigError if a member of an ensemble sees features of all channels, or cannot leave
    one out that is absent."""
    for member in members:
        detector, representation, channel = parts_of_member(member)
        if not channel and representation == "features":
            raise ConfigError(
                f"detector.members: features are of one channel; {member}@{channels.names[0]}"
            )
        if not channel:
            _check_leaves_out(detector, channels)


def _check_leaves_out(detector: str, channels: Channels) -> None:
    """Raise ConfigError if channels may be absent, and a detector's map would show it."""
    if channels.allow_missing and not entry_named(detector).leaves_out:
        suitable = ", ".join(name for name in DETECTORS if DETECTORS[name].leaves_out)
        raise ConfigError(
            f"--allow-missing: {detector} sees all channels of a pixel at once, and cannot leave "
            f"one out; take {suitable}, or --representation features where {detector} has it"
        )


def _single(detector: str, entry: Entry, representation: str, values: Mapping[str, Any]) -> Form:
    config = resolve(detector, representation, values)
    if representation == "auto":
        representation = "pixels" if dims_of(values) == 3 else entry.representations[0]
    return Form(detector, representation, config)


def _is_open(entry: Entry, values: Mapping[str, Any]) -> bool:
    """Return whether there are several representations to compare. Presets are for the first."""
    if len(entry.representations) == 1 or entry.first_only:
        return False
    return "preset" not in values and dims_of(values) == 2


def _hindrance(values: Mapping[str, Any]) -> str:
    """Return what keeps images from becoming features, "" if nothing does."""
    if not features_installed():
        return INSTALL_FEATURES
    if 0 < tile_of(values) < LEAST_FEATURE_SIZE:
        return f"choose a --tile of at least {LEAST_FEATURE_SIZE}"
    return ""


def _both(detector: str, found: Mapping[str, Form], channels: Sequence[str] = ()) -> Form:
    """Return the ensemble of a detector's forms, which share preprocessing and tiling. Features are
    of each of `channels` alone."""
    members = {}
    sides = []
    for name, form in sorted(found.items()):  # features first: they need the least time
        own = {
            "representation": form.config["representation"],
            "detector": form.config["detector"],
        }
        for member in _member_names(detector, name, channels):
            members[member] = own
        size = form.config["representation"]["size"]
        sides.append(size if isinstance(size, int) else DEFAULT_SIZE)

    first = next(iter(found.values())).config
    tiling = {key: value for key, value in first["tiling"].items() if key != "patch"}
    shared = {
        "preprocess": first["preprocess"],
        "tiling": tiling,
        "representation": {"size": max(sides)},
    }
    joined = {"members": list(members), "settings": members}
    config = resolve(ENSEMBLE, "pixels", merge(shared, {"detector": joined}))
    if "pixels" not in found:
        seen = ", ".join(channels)
        note = f"{detector} on features of each of {seen}: planted defects decide what each counts"
        return Form(ENSEMBLE, "pixels", config, notes=(note,))
    note = f"{detector} on pixels and on features: planted defects decide what each of them counts"
    for_shapes = None
    if entry_named(detector).restores_shapes:
        note_for_shapes = "pixels, as images show a shape before a flat background"
        for_shapes = replace(found["pixels"], notes=(note_for_shapes,))
    return Form(ENSEMBLE, "pixels", config, notes=(note,), for_shapes=for_shapes)


def _member_names(detector: str, representation: str, channels: Sequence[str]) -> list[str]:
    """Return the names of the members that see this of images."""
    name = f"{detector}/{representation}"
    if representation == "pixels" or not channels:
        return [name]
    return [f"{name}@{channel}" for channel in channels]
