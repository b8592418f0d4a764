"""Where checkpoints lie on this machine: folders, and the cache of the hub of Hugging Face."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from anodetect.errors import ConfigError, one_line
from anodetect.files import sha256_of, write_atomic

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
NOT_STATED = "not stated"
LOCK = "anodetect.json"  # in the hub's cache: what `anodetect backbone get` has fetched


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json and weights. `revision` is that of the hub, "" of other folders;
    `pinned` is what was noted when it was fetched."""

    name: str
    folder: Path
    revision: str
    pinned: Mapping[str, Any]


def hub_cache() -> Path:
    """Return the folder of the hub's cache: $HF_HUB_CACHE, $HF_HOME/hub or
    ~/.cache/huggingface/hub."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def read_lock() -> dict[str, dict[str, Any]]:
    """Return what was noted of the backbones that were fetched, by their names."""
    file = hub_cache() / LOCK
    try:
        content: dict[str, dict[str, Any]] = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file}: not readable ({one_line(error)}); remove it and get anew"
        ) from None
    return content


def find_checkpoint(name: str) -> Checkpoint:
    """Return the checkpoint of a folder or of a name on the hub; ConfigError if it is not here."""
    if Path(name, "config.json").is_file():
        return Checkpoint(name, Path(name), "", {})
    if Path(name).is_dir():
        raise ConfigError(f"backbone {name}: the folder has no config.json")
    if not HUB_NAME.fullmatch(name):
        raise ConfigError(f"backbone {name}: no such folder, and no name of the hub")

    pinned = read_lock().get(name, {})
    entry = hub_cache() / f"models--{name.replace('/', '--')}"
    revision = str(pinned.get("revision", ""))
    if not revision and (entry / "refs" / "main").is_file():
        revision = (entry / "refs" / "main").read_text("utf-8").strip()
    folder = entry / "snapshots" / revision
    if not revision or not (folder / "config.json").is_file():
        raise ConfigError(
            f"backbone {name}: not on this machine; `anodetect backbone get {name}` fetches it"
        )
    return Checkpoint(name, folder, revision, pinned)


def weights_sha256(folder: Path) -> str:
    """Return the hash of a checkpoint's weights: that of the file, or that of the hashes of several
    files in the order of their names. ConfigError if there are none as safetensors."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ConfigError(f"backbone {folder}: no model.safetensors, and pickles are not read")
    if len(files) == 1:
        return sha256_of(files[0])
    return sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()


def note_fetched(name: str, facts: Mapping[str, Any]) -> None:
    """Note revision, hash, licence and pretraining data of a backbone that was fetched."""
    content = json.dumps(read_lock() | {name: dict(facts)}, indent=2, sort_keys=True)
    write_atomic(hub_cache() / LOCK, content + "\n")


def card_facts(text: str) -> tuple[str, str]:
    """Return licence and data sets that the head of a model card names, "" for what it does not."""
    match = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    head = match[1] if match else ""
    licence = re.search(r"^license:[ \t]*(\S+)", head, re.MULTILINE)
    listed = re.search(r"^datasets:[ \t]*((?:\n[ \t]*- .+)+|\[.*\]|\S+)", head, re.MULTILINE)
    names = re.findall(r"[^\s\[\],-][^\s\[\],]*", listed[1]) if listed else []
    return licence[1] if licence else "", ", ".join(names)
