"""Features that were computed before, in files that may be deleted at any time.

They lie in the user's cache folder, or in the one that $ANODETECT_CACHE names; "off" keeps none.
$ANODETECT_CACHE_GB limits their size. A file is the SHA-256 of what follows, and the layers as
safetensors. Its name is the hash of all that the features depend on, so that none is ever taken for
those of another image or network.
"""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import platformdirs
import safetensors.torch
from torch import Tensor

from anodetect.errors import ConfigError, RunError
from anodetect.files import WRITING, walk, write_atomic

FOLDER, SIZE, OFF = "ANODETECT_CACHE", "ANODETECT_CACHE_GB", "off"
DEFAULT_GB = 4.0
KEPT = 0.9  # of the limit, when the oldest files have been deleted
DIGEST = 32  # bytes

logger = logging.getLogger(__name__)


class FeatureCache:
    """The layers of images in files, at most `limit` bytes of them."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.held: int | None = None  # bytes; None before it was looked at
        self.usable = True

    def get(self, key: str) -> list[Tensor] | None:
        """Return the layers [c, h, w] that were put under a key; None if there are none, or if the
        file is damaged, which is said."""
        file = self._file(key)
        try:
            content = file.read_bytes()
        except OSError:
            return None
        if sha256(content[DIGEST:]).digest() != content[:DIGEST]:
            logger.warning("%s: cached features are damaged, and computed anew", file)
            file.unlink(missing_ok=True)
            return None
        layers = safetensors.torch.load(content[DIGEST:])
        return [layers[str(number)] for number in range(len(layers))]

    def put(self, key: str, layers: Sequence[Tensor]) -> None:
        """Keep layers [c, h, w] under a key. Where nothing can be written, nothing more is kept,
        which is said once."""
        if not self.usable:
            return
        named = {str(number): layer.contiguous() for number, layer in enumerate(layers)}
        payload = safetensors.torch.save(named)
        try:
            if self.held is None:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.held = sum(size for _, _, size in self._files())
            content = sha256(payload).digest() + payload
            write_atomic(self._file(key), content, durable=False)
            self.held += len(content)
            if self.held > self.limit:
                self._delete_oldest()
        except (OSError, RunError) as error:
            self.usable = False
            logger.warning("features are not cached: %s", error)

    def _delete_oldest(self) -> None:
        """Delete the oldest files until there is room again; other processes may do the same."""
        found = self._files()
        self.held = sum(size for _, _, size in found)
        for _, file, size in sorted(found):
            if self.held <= KEPT * self.limit:
                break
            file.unlink(missing_ok=True)
            self.held -= size

    def _files(self) -> list[tuple[int, Path, int]]:
        """Return time, path and bytes of all files that are complete."""
        found = []
        for file in walk(self.folder):
            if not file.name.startswith(WRITING):
                with suppress(FileNotFoundError):  # another process has deleted it
                    facts = file.stat()
                    found.append((facts.st_mtime_ns, file, facts.st_size))
        return found

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / key


def open_cache() -> FeatureCache | None:
    """Return the cache of this user, None if it is switched off; ConfigError if its size is no
    number."""
    place = os.environ.get(FOLDER, "")
    if place.lower() == OFF:
        return None
    text = os.environ.get(SIZE, str(DEFAULT_GB))
    try:
        limit = int(float(text) * 1e9)
    except ValueError:
        raise ConfigError(f"{SIZE}={text}: a number of gigabytes is expected") from None
    return FeatureCache(Path(place) if place else user_folder("features"), limit)


def user_folder(kind: str) -> Path:
    """Return the folder for a kind of things, such as "features", in $XDG_CACHE_HOME/anodetect or
    ~/.cache/anodetect on Linux, in its like elsewhere."""
    if sys.platform == "darwin":  # where platformdirs would follow $XDG_CACHE_HOME
        return Path.home() / "Library" / "Caches" / "anodetect" / kind
    return platformdirs.user_cache_path("anodetect", appauthor=False) / kind
