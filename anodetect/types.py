"""The few types everything else speaks: NumPy arrays in, NumPy arrays out, no torch.

Shapes: N images, C channels, H rows, W columns; with `--dims 3` N patches of volumes, which have D
slices before H and W. Larger score = more anomalous, everywhere.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Seeds = NDArray[np.uint64]
State = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Batch:
    """Images as a detector sees them: float32 [N, C, H, W], about [-1, 1], and where they count [N,
    H, W]; or patches of volumes [N, C, D, H, W] and [N, D, H, W].

    For training the arrays may be memory maps, so that a detector reads only the rows it indexes,
    and `kinds` [N] says which of the normal kinds 0 … K−1 an image is of, −1 for none of them; None
    where there is only one.
    """

    images: Floats
    foreground: Bools
    kinds: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> "Batch":
        kinds = None if self.kinds is None else self.kinds[rows]
        return Batch(self.images[rows], self.foreground[rows], kinds)

    def parts(self, size: int) -> Iterator[tuple[slice, "Batch"]]:
        """Up to `size` images at a time, with their rows."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self[rows]


@dataclass(frozen=True)
class Scores:
    """Image scores [N], heatmaps [N, H, W] on the detector's grid, and reconstructions [N, C, H, W]
    or None; of patches of volumes heatmaps [N, D, H, W].

    Heatmaps are 0 where there is nothing, as outside the foreground, and positive elsewhere.
    """

    image: Floats
    heatmap: Floats
    reconstruction: Floats | None = None


@dataclass(frozen=True)
class TrainContext:
    """What a detector is given beside the data.

    `budget` is in seconds, counted from the call of `fit`, None for no limit. `log` takes one flat
    record and appends it to train.jsonl. `progress` takes (done, total, loss) and draws the bar.
    `workdir` holds the checkpoint; with `resume` training continues from it.
    """

    seed: int
    device: str
    workdir: Path
    budget: float | None = None
    resume: bool = False
    log: Callable[[Mapping[str, Any]], None] = lambda record: None
    progress: Callable[[int, int, float], None] = lambda done, total, loss: None


class Reporter(Protocol):
    """Where the pipeline tells what it does; the command line draws bars."""

    def say(self, text: str) -> None:
        """A line worth reading."""

    def warn(self, text: str) -> None:
        """Something that degrades the result."""

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total`; the first call of a task opens its bar, done = total closes it."""


class Silent:
    """A reporter that tells nothing."""

    def say(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        pass


class Detector(Protocol):
    """A way of learning what normal looks like and of scoring departures from it."""

    config: Any

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Learn from normal images; choose and standardise on `tune`. Both are frozen after."""

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Score images. All randomness comes from `seeds` [N], one per image."""

    def state(self) -> State:
        """Everything learned, as named arrays."""

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose `state` this was."""


@dataclass(frozen=True)
class Expert:
    """A detector with the representation it works on, as a member of an ensemble."""

    representation: Any
    detector: Any

    def encode(self, image: Floats, foreground: Bools) -> tuple[Floats, Bools]:
        """What the detector sees of a scaled image [C, H, W] with foreground [H, W]."""
        seen: tuple[Floats, Bools] = self.representation.encode(image, foreground)
        return seen


def image_seeds(images: Sequence[Floats], numbers: Iterable[int | None] = repeat(None)) -> Seeds:
    """One seed per image from its decoded content and, of a volume's slice, its number, so that a
    score never depends on position in a batch or on company."""
    from hashlib import sha256

    def seed(image: Floats, number: int | None) -> int:
        what = repr(image.shape if number is None else (image.shape, number))
        digest = sha256(what.encode() + np.ascontiguousarray(image).tobytes()).digest()
        return int.from_bytes(digest[:8], "little")

    return np.array([seed(*each) for each in zip(images, numbers, strict=False)], dtype=np.uint64)
