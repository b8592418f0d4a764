"""Backbones: which there are, and fetching one from the hub of Hugging Face."""

import importlib.util
import os
from dataclasses import asdict, dataclass
from typing import Any

from anodetect.errors import ConfigError, DataError, one_line
from anodetect.imaging.backbones.places import (
    HUB_NAME,
    NOT_STATED,
    hub_cache,
    note_fetched,
    read_lock,
    weights_sha256,
)
from anodetect.imaging.backbones.table import BACKBONES, is_installed
from anodetect.types import Reporter

WEIGHTS = "model"  # the beginning of the names of the files of weights
INDEX = "model.safetensors.index.json"  # of weights in several files
OTHERS = ("config.json", "preprocessor_config.json", "README.md")
ANSWERS = {  # of the hub, by their status
    401: "there is none of this name, or it needs a login (HF_TOKEN)",
    403: "its page on the hub asks for consent first",
    404: "there is none of this name or revision",
}


@dataclass(frozen=True)
class Known:
    """A backbone that can be named. `here` says whether it can be used on this machine."""

    name: str
    here: bool
    revision: str
    licence: str
    pretraining: str
    sha256: str


@dataclass(frozen=True)
class Offer:
    """A backbone on the hub, before anything of it is fetched; `size` is in bytes."""

    name: str
    revision: str
    licence: str
    pretraining: str
    size: int
    files: tuple[str, ...]

    def text(self) -> str:
        """Return size, licence and data in one line."""
        return (
            f"{self.name} at {self.revision[:12]}: {self.size / 1e6:.1f} MB, "
            f"licence {self.licence}, pretrained on {self.pretraining}"
        )


def listing() -> list[Known]:
    """Return the backbones of the table, and those that were fetched."""
    found = []
    for name, each in BACKBONES.items():
        outline, wheel = each.outline, each.wheel
        about = (wheel.version, outline.licence, outline.pretraining, wheel.sha256)
        found.append(Known(name, is_installed(name), *about))
    for name, noted in sorted(read_lock().items()):
        entry = hub_cache() / f"models--{name.replace('/', '--')}"
        here = (entry / "snapshots" / noted["revision"] / "config.json").is_file()
        about = (noted["revision"], noted["licence"], noted["pretraining"], noted["sha256"])
        found.append(Known(name, here, *about))
    return found


def listing_text(listed: list[Known]) -> str:
    """Return one line for each backbone."""
    lines = []
    for each in listed:
        here = "" if each.here else "; not on this machine"
        lines.append(f"{each.name:<28} {each.licence}; {each.pretraining}{here}")
    return "\n".join(lines)


def offer(name: str, revision: str) -> Offer:
    """Return what the hub has under this name; nothing of it is fetched yet.

    ConfigError if the extra is missing, if there is none, or if it has no weights as safetensors;
    DataError if the hub cannot be reached.
    """
    hub = _hub(name)
    try:
        info = hub.HfApi(endpoint=_endpoint()).model_info(
            name, revision=revision, files_metadata=True
        )
    except hub.errors.HfHubHTTPError as error:
        raise ConfigError(f"backbone {name}: {_answer(error)}") from None
    except OSError as error:
        raise DataError(f"the hub cannot be reached: {_answer(error)}") from None

    files, size, has_weights = [], 0, False
    for file in info.siblings or ():
        found: str = file.rfilename
        weights = found.startswith(WEIGHTS) and found.endswith(".safetensors")
        has_weights |= weights
        if weights or found in OTHERS or found == INDEX:
            files.append(found)
            size += file.size or 0
    if not has_weights or "config.json" not in files:
        raise ConfigError(
            f"backbone {name}: no config.json with model.safetensors there; pickles are not read"
        )

    card = info.card_data.to_dict() if info.card_data else {}
    data = card.get("datasets") or NOT_STATED
    pretraining = data if isinstance(data, str) else ", ".join(data)
    licence = str(card.get("license") or NOT_STATED)
    return Offer(name, str(info.sha), licence, pretraining, size, tuple(files))


def fetch(offered: Offer, reporter: Reporter) -> Known:
    """Fetch a backbone into the hub's cache, and note its revision and the hash of its weights.

    ConfigError if it was fetched before and its weights were others at the same revision; DataError
    if the hub cannot be reached.
    """
    hub, before = _hub(offered.name), read_lock().get(offered.name, {})
    path = ""
    for done, file in enumerate(offered.files):
        reporter.progress("get", done, len(offered.files), file)
        try:
            path = hub.hf_hub_download(
                offered.name,
                file,
                revision=offered.revision,
                cache_dir=hub_cache(),
                endpoint=_endpoint(),
            )
        except (OSError, ValueError) as error:
            raise DataError(f"backbone {offered.name}: {_answer(error)}") from None
    reporter.progress("get", len(offered.files), len(offered.files))

    entry = hub_cache() / f"models--{offered.name.replace('/', '--')}"
    digest = weights_sha256(entry / "snapshots" / offered.revision)
    if before.get("revision") == offered.revision and before["sha256"] != digest:
        raise ConfigError(f"backbone {offered.name}: {path} has another hash than before")
    known = Known(
        name=offered.name,
        here=True,
        revision=offered.revision,
        licence=offered.licence,
        pretraining=offered.pretraining,
        sha256=digest,
    )
    noted = asdict(known) | {"bytes": offered.size}
    del noted["name"], noted["here"]
    note_fetched(offered.name, noted)
    return known


def _hub(name: str) -> Any:
    """Return the hub's library; ConfigError if it is not installed, or if the name is none."""
    if not HUB_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of the hub such as facebook/dinov2-small")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ConfigError(f"backbone {name}: pip install 'anodetect[backbones]'")
    import huggingface_hub
    import huggingface_hub.errors

    return huggingface_hub


def _endpoint() -> str | None:
    """Return the address of the hub, None for the usual one."""
    return os.environ.get("HF_ENDPOINT") or None


def _answer(error: Exception) -> str:
    """Return in a few words why the hub gave nothing."""
    response = getattr(error, "response", None)
    if response is None:
        return one_line(error)
    status = int(response.status_code)
    return ANSWERS.get(status, f"the hub answers with status {status}")
