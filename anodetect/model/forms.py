"""The form in which a detector is trained: on pixels, on features, or on both as an ensemble.

With `--representation auto` a detector that works on both gets both: each becomes a member of an
ensemble, and planted defects on tune images decide what either counts. What suits images is thus
decided by what the trained members find.

Images that show a shape before a flat background are the exception: there pixels are taken, and
have the whole budget. On brain MRI planted defects mislead: by them features find more (AUROC .62
against .58), of real tumours they find much less (.73 against .90). Planted noise and blur, which
only features see, are not what lesions look like.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from anodetect.config import merge
from anodetect.detectors import Entry, entry_named
from anodetect.errors import ConfigError
from anodetect.imaging.backbones.table import INSTALL_FEATURES
from anodetect.imaging.features import DEFAULT_SIZE
from anodetect.imaging.representations import LEAST_FEATURE_SIZE, features_installed
from anodetect.model.settings import dims_of, resolve

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


def form_of(detector: str, representation: str, values: Mapping[str, Any]) -> Form:
    """Return the form that a detector is to be trained in; `representation` may be "auto".

    Settings that only one representation knows decide for that one. ConfigError if a name or a
    setting is wrong.
    """
    entry = entry_named(detector)
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
    tiling = values.get("tiling", {})
    tile = values.get("tile") or (tiling.get("tile") if isinstance(tiling, Mapping) else None)
    if isinstance(tile, int) and 0 < tile < LEAST_FEATURE_SIZE:
        return f"choose a --tile of at least {LEAST_FEATURE_SIZE}"
    return ""


def _both(detector: str, found: Mapping[str, Form]) -> Form:
    """Return the ensemble of a detector's forms, which share preprocessing and tiling."""
    members = {}
    sides = []
    for name, form in sorted(found.items()):  # features first: they need the least time
        members[f"{detector}/{name}"] = {
            "representation": form.config["representation"],
            "detector": form.config["detector"],
        }
        size = form.config["representation"]["size"]
        sides.append(size if isinstance(size, int) else DEFAULT_SIZE)

    first = next(iter(found.values())).config
    tiling = {key: value for key, value in first["tiling"].items() if key != "patch"}
    shared = {
        "preprocess": first["preprocess"],
        "tiling": tiling,
        "representation": {"size": max(sides)},
    }
    own = {"detector": {"members": list(members), "settings": members}}
    config = resolve(ENSEMBLE, "pixels", merge(shared, own))
    note = f"{detector} on pixels and on features: planted defects decide what each of them counts"
    note_for_shapes = "pixels, as images show a shape before a flat background"
    for_shapes = replace(found["pixels"], notes=(note_for_shapes,))
    return Form(ENSEMBLE, "pixels", config, notes=(note,), for_shapes=for_shapes)
