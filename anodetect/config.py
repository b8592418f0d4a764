"""Configuration: frozen pydantic models, read from TOML and `key=value`, written as JSON.

An unknown key is an error.
"""

import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from anodetect.errors import ConfigError, nearest, one_line


class Config(BaseModel):
    """The base of every configuration: immutable, without unknown keys and infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Pooling(Config):
    """The pooling of a map to an image score: it is smoothed, and the mean of the highest share of
    its foreground pixels is taken."""

    smooth: float = Field(
        default=1.0,
        ge=0,
        le=64,
        description="The standard deviation of the Gaussian that smooths a map before it is "
        "pooled, in pixels of the detector's grid; 0 leaves the map as it is.",
    )
    top: float = Field(
        default=0.02,
        gt=0,
        le=1,
        description="The share of the foreground's pixels whose mean is the image score: those "
        "with the highest values; 1 takes the mean of all.",
    )
    erode: int = Field(
        default=1,
        ge=0,
        le=64,
        description="The width of the rim of the foreground that does not count for the image "
        "score, in pixels of the detector's grid.",
    )
    relative: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="The power of the map's median by which the image score is divided: above 0, "
        "an image whose map is high everywhere needs a higher peak to stand out.",
    )


C = TypeVar("C", bound=Config)


def build(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Return `values` as a configuration of type `cls`.

    A table among `values` changes the keys it names; its other keys keep the default of `cls`. The
    first problem becomes a ConfigError in one line, which starts with `where` and for an unknown
    key names the nearest one.
    """
    tables = {}
    for name in values:
        field = cls.model_fields.get(name)
        if field is not None and isinstance(field.default, Config):
            tables[name] = field.default.model_dump()

    try:
        return cls.model_validate(merge(tables, values))
    except ValidationError as error:
        reason = _reason(cls, error)
    raise ConfigError(f"{where}: {reason}")


def refuse_idle(config: Config, names: Sequence[str], reason: str) -> None:
    """Raise ConfigError if one of these settings of a detector is not at its default, although it
    has no effect beside the others, for this `reason`."""
    for name in names:
        if getattr(config, name) != type(config).model_fields[name].default:
            raise ConfigError(f"detector.{name}: {reason}")


def _reason(cls: type[Config], error: ValidationError) -> str:
    """Return the first problem in words; an unknown key comes before wrong values."""
    problems = error.errors()
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    first = (unknown or problems)[0]
    key = ".".join(str(part) for part in first["loc"])
    if unknown:
        return f"unknown key {key!r}; {nearest(key, known_keys(cls))}"
    return f"{key}: {first['msg'].lower()} (got {first['input']!r:.80})"


def fields_of(cls: type[Config], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field of a configuration with its key, nested ones with dots."""
    for name, field in cls.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Config):
            yield from fields_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def known_keys(cls: type[Config]) -> list[str]:
    """Return all keys of a configuration, nested ones with dots."""
    return [key for key, _ in fields_of(cls)]


def read_toml(path: Path) -> dict[str, Any]:
    """Return the contents of a TOML file; ConfigError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None


def read_values(
    file: Path | None, assignments: Sequence[str], sections: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return settings as one tree: those of a TOML file, over them `assignments` ("key=value"),
    over them `sections`, of which values that are None are left out."""
    values = merge(read_toml(file) if file else {}, parse_assignments(assignments))
    for name, section in sections.items():
        given = {key: value for key, value in section.items() if value is not None}
        if given:
            values = merge(values, {name: given})
    return values


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Return assignments as one tree: ["a.b=1", "c=text"] → {"a": {"b": 1}, "c": "text"}.

    A value is TOML if it can be read as such, else a string. Raises ConfigError for what is no
    assignment and for a key below one that has a value.
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {assignment!r}: expected key=value")

        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {assignment!r}: {parent!r} already has a value")
        node[leaf] = _toml_value(text)
    return tree


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` written over it, table by table."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def canonical(values: Any) -> bytes:
    """Return the one JSON spelling of `values`, for hashing."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def canonical_parts(values: Any) -> Iterator[bytes]:
    """Yield `canonical` in small parts, for values too large to be spelled at once."""
    encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    for part in encoder.iterencode(values):
        yield part.encode()


def without_nan(value: Any) -> Any:
    """Return a value with every NaN and infinity replaced by None, in tables of any depth: JSON has
    neither."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
