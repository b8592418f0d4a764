"""Every setting of a detector: what it means, which values it takes and what it is by default."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from anodetect.config import Config, fields_of
from anodetect.detectors import detector_class, entry_named
from anodetect.imaging.preprocess import PreprocessConfig
from anodetect.imaging.representations import representation_config
from anodetect.imaging.tiling import TilingConfig
from anodetect.model.settings import resolve

SECTIONS = ("detector", "representation", "tiling", "preprocess")  # in the order of the list
VOLUMES = "dims 3"  # the use of a detector on whole volumes, beside those on a representation


@dataclass(frozen=True)
class Setting:
    """One setting, with the key that `--set` takes and the range of its values in words.

    `defaults` has an entry for each use of the detector that has this setting: "pixels", "features"
    or "dims 3".
    """

    key: str
    meaning: str
    range: str
    defaults: Mapping[str, Any]


@dataclass(frozen=True)
class DetectorSettings:
    """A detector's uses ("pixels", "features", "dims 3"), presets, and all settings in the order of
    the sections."""

    uses: tuple[str, ...]
    presets: tuple[str, ...]
    settings: tuple[Setting, ...]


def settings_of(name: str) -> DetectorSettings:
    """Return all settings of a detector; ConfigError if there is no such detector."""
    presets = tuple(getattr(detector_class(name), "presets", {}))
    entry = entry_named(name)
    uses = entry.representations + ((VOLUMES,) if entry.volume_target else ())

    # A key may mean something else in another use: then it is another setting.
    defaults: dict[tuple[str, str, str], dict[str, Any]] = {}
    for use in uses:
        resolved = _resolved(name, use)
        for section, config in section_configs(name, use).items():
            for key, field in fields_of(config, f"{section}."):
                identity = key, field.description or "", range_text(_schema(field))
                defaults.setdefault(identity, {})[use] = _default(resolved, key, field)

    settings = [Setting(*identity, values) for identity, values in defaults.items()]
    settings.sort(key=lambda setting: SECTIONS.index(setting.key.partition(".")[0]))
    return DetectorSettings(uses, presets, tuple(settings))


def section_configs(name: str, use: str) -> dict[str, type[Config]]:
    """Return the configuration class of each section for one use of a detector."""
    detector = detector_class(name, 3 if use == VOLUMES else 2)
    representation = representation_config("pixels" if use == VOLUMES else use)
    return {
        "preprocess": PreprocessConfig,
        "tiling": TilingConfig,
        "representation": representation,
        "detector": detector.Config,
    }


def range_text(schema: Mapping[str, Any]) -> str:
    """Return in words which values a JSON schema allows."""
    if "anyOf" in schema:
        return " or ".join(range_text(each) for each in schema["anyOf"])
    if "enum" in schema:
        *others, last = map(str, schema["enum"])
        return f"{', '.join(others)} or {last}"
    if "const" in schema:
        return str(schema["const"])

    kind = schema.get("type")
    if kind in ("integer", "number"):
        word = "whole number" if kind == "integer" else "number"
        return f"{word} {_limits(schema)}".rstrip()
    if kind == "array":
        return _list_text(schema)
    words = {"boolean": "true or false", "string": "text", "object": "table", "null": "none"}
    return words[str(kind)]


def _list_text(schema: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        each = dict.fromkeys(range_text(item) for item in schema["prefixItems"])
        return f"list of {len(schema['prefixItems'])}: {' and '.join(each)}"
    least = f" of at least {schema['minItems']}" if "minItems" in schema else ""
    return f"list{least}: {range_text(schema['items'])}"


def _limits(schema: Mapping[str, Any]) -> str:
    """Return the range of a number, "" if it has none."""
    if "minimum" in schema and "maximum" in schema:
        return f"from {schema['minimum']:g} to {schema['maximum']:g}"
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    return ", ".join(f"{word} {schema[key]:g}" for key, word in words.items() if key in schema)


def _schema(field: FieldInfo) -> Mapping[str, Any]:
    """Return the JSON schema of a field, with the limits that stand beside its type."""
    annotation: Any = field.annotation
    for limit in field.metadata:
        annotation = Annotated[annotation, limit]
    return TypeAdapter(annotation).json_schema()


def _resolved(name: str, use: str) -> dict[str, Any]:
    if use == VOLUMES:
        return resolve(name, "auto", {"dims": 3})
    return resolve(name, use, {})


def _default(resolved: Mapping[str, Any], key: str, field: FieldInfo) -> Any:
    """Return the value at a key with dots. A table counts as empty: an ensemble fills its own with
    all settings of its members."""
    value: Any = resolved
    for part in key.split("."):
        value = value[part]
    return field.get_default(call_default_factory=True) if isinstance(value, dict) else value


def default_texts(defaults: Mapping[str, Any], uses: Sequence[str]) -> list[str]:
    """Return each different default of a setting in words, with the uses of the detector it is for
    unless it is for all."""
    uses_of: dict[str, list[str]] = {}
    for use, value in defaults.items():
        text = "none" if value is None else json.dumps(value)
        uses_of.setdefault(text, []).append(use)
    return [
        text if len(some) == len(uses) else f"{text} ({', '.join(some)})"
        for text, some in uses_of.items()
    ]
