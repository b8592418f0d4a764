"""The few types that all modules share: NumPy arrays in, NumPy arrays out, no torch.

Shapes: N images, C channels, H rows, W columns; with `--dims 3` N patches of volumes, which have D
slices before H and W. A larger score is more anomalous, everywhere.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Seeds = NDArray[np.uint64]
State = dict[str, NDArray[Any]]
Encoded = tuple[Floats, Bools]  # an image [c, h, w] on its way to a detector, and where it counts


@dataclass(frozen=True)
class Batch:
    """Images as a detector sees them: float32 [N, C, H, W], about -1 to 1, and `foreground`
    [N, H, W], True where pixels count. Patches of volumes are [N, C, D, H, W] and [N, D, H, W].

    For training the arrays may be memory maps, so that a detector reads only the rows it indexes.
    `kinds` [N] says to which of the normal kinds 0 … K−1 an image belongs, −1 for none of them or
    where that is not known; it is None if there are not several kinds. `absent` [N, C] says which
    channels an image lacks, whose values mean nothing; None if no image lacks any.
    """

    images: Floats
    foreground: Bools
    kinds: NDArray[np.int64] | None = None
    absent: Bools | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> "Batch":
        kinds = None if self.kinds is None else self.kinds[rows]
        absent = None if self.absent is None else self.absent[rows]
        return Batch(self.images[rows], self.foreground[rows], kinds, absent)

    @property
    def channel_weights(self) -> Floats:
        """The weight of each channel in a mean over channels [N, C]: 0 if it is absent, and 1 where
        none is. Their mean is 1."""
        if self.absent is None:
            return np.ones(self.images.shape[:2], np.float32)
        present = ~self.absent
        share: Floats = (present / present.mean(1, keepdims=True)).astype(np.float32)
        return share

    def parts(self, size: int) -> Iterator[tuple[slice, "Batch"]]:
        """Yield up to `size` images at a time, with their rows."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self[rows]


@dataclass(frozen=True)
class Scores:
    """Image scores [N], heatmaps [N, H, W] on the detector's grid, and reconstructions
    [N, C, H, W] or None. Of patches of volumes, heatmaps are [N, D, H, W].

    Heatmaps are 0 where there is nothing, as outside the foreground, and positive elsewhere.
    """

    image: Floats
    heatmap: Floats
    reconstruction: Floats | None = None


@dataclass(frozen=True)
class Samples:
    """Images that a model made, [N, C, H, W] as the detector sees them, and the states on the way
    there, `chain` [T, N, C, H, W]. The first state is where the chain started, the last one is
    `images`. `between` [S, C, H, W] are images from starts between two others, if there are any."""

    images: Floats
    chain: Floats
    between: Floats | None = None


@dataclass(frozen=True)
class PlantedCopies:
    """Copies of tune images with a defect planted in each, to make choices with.

    Row n of every copy is the tune image in row `of`[n], with another defect in each copy. `of` is
    in ascending order. The foreground is that of the clean image: a defect does not change what
    counts. `kinds` of a copy are the kinds of its defects, or None if they are not known.
    """

    copies: tuple[Batch, ...]
    of: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.of)

    def kinds(self) -> NDArray[np.int64] | None:
        """Return the kind of each defect, [copies, N]; None if they are not known."""
        kinds = []
        for copy in self.copies:
            if copy.kinds is None:
                return None
            kinds.append(copy.kinds)
        return np.stack(kinds)

    def among(self, rows: NDArray[np.int64]) -> "PlantedCopies":
        """Return the copies for one who has only these rows of tune, in ascending order."""
        _, own, places = np.intersect1d(self.of, rows, return_indices=True)
        copies = []
        for copy in self.copies:
            copies.append(copy if len(own) == len(self.of) else copy[own])
        return PlantedCopies(tuple(copies), places)


@dataclass(frozen=True)
class TrainContext:
    """The circumstances of a training.

    `budget` is in seconds from the call of `fit`, None for no limit. `log` appends one flat entry
    to train.jsonl. `progress` takes (done, total, loss) and draws the bar. `workdir` holds the
    checkpoint; with `resume` training continues from it.

    `planted` returns copies of tune images with planted defects, which are made when they are first
    asked for; None where there are none, and then no choice can be made with them.

    `anomalies` are known anomalous images, a few, for a detector that learns from them; None
    without any.

    With `few` there are few images, and those to tune on are those to fit on.
    """

    seed: int
    device: str
    workdir: Path
    budget: float | None = None
    resume: bool = False
    log: Callable[[Mapping[str, Any]], None] = lambda entry: None
    progress: Callable[[int, int, float], None] = lambda done, total, loss: None
    planted: Callable[[], PlantedCopies | None] = lambda: None
    anomalies: Batch | None = None
    few: bool = False


class Reporter(Protocol):
    """Shows messages and progress; that of the command line draws bars."""

    def say(self, text: str) -> None:
        """Show a line of text."""

    def warn(self, text: str) -> None:
        """Show a line about something that makes the result worse."""

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` are done. The first call of a task opens its bar, and the one
        with done = total closes it."""


class Silent:
    """A reporter that shows nothing."""

    def say(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        pass


class Detector(Protocol):
    """A method that learns from normal images and scores how far others depart from them."""

    config: Any

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Learn from the normal images of `fit`; make choices and standardise on those of `tune`.
        Nothing changes afterwards."""

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return the scores of images. All randomness comes from `seeds` [N], one for each."""

    def state(self) -> State:
        """Return all that was learned, as named arrays."""

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector that returned this `state`."""


@runtime_checkable
class ShapeChecker(Protocol):
    """A detector that does not work on images of every shape."""

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if it cannot learn from images of this shape, [C, H, W], or patches of
        volumes, [C, D, H, W]."""


@runtime_checkable
class StateChecker(Protocol):
    """A part of a model whose arrays are of images of one shape."""

    def check_state(self, shape: Sequence[int]) -> None:
        """Raise ValueError if the arrays that were loaded do not fit what it will see, of this
        shape [c, h, w]."""


@runtime_checkable
class KindChecker(Protocol):
    """A detector that may need normal images of several kinds."""

    def check_kinds(self, count: int) -> None:
        """Raise DataError if it cannot learn from normal images of so many named kinds."""


@runtime_checkable
class AnomalyChecker(Protocol):
    """A detector that has settings for known anomalies."""

    def check_anomalies(self, *, known: bool) -> None:
        """Raise ConfigError if a setting has no effect where anomalies are `known`, or are not."""


@runtime_checkable
class Clusterer(Protocol):
    """A detector that may look for clusters among the images that it learns from."""

    def clusters(self) -> NDArray[np.int64] | None:
        """Return the cluster of each fit image [N], from 0, largest first, and −1 for none; None if
        it has not looked for any in this process."""


@runtime_checkable
class Sampler(Protocol):
    """A detector whose model makes images."""

    def sample(self, count: int, *, seed: int, start: Floats | None = None) -> Samples:
        """Return so many images, or what becomes of `start` [C, H, W] in so many chains.

        All randomness comes from `seed`. A chain has a dozen states or so, evenly spread.
        """


@runtime_checkable
class OnePass(Protocol):
    """A detector that scores an image in one pass of operations on tensors."""

    def one_pass(self, shape: Sequence[int]) -> Any:
        """Return the `nn.single_pass.Pass` of images of this shape [C, H, W] whose every pixel
        counts; ConfigError if its settings need more than that."""


@runtime_checkable
class Interpolator(Protocol):
    """A detector whose model makes an image of each start, without further noise."""

    def interpolate(self, count: int, *, seed: int) -> Floats:
        """Return the images [count, C, H, W] of starts from one random start to another one."""


@runtime_checkable
class HasClasses(Protocol):
    """A detector that tells normal images of several classes apart."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty if they are not known."""

    def logits(self, images: Floats) -> Floats:
        """Return the logits [N, K] of images [N, C, H, W]."""

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Return the probabilities of the classes [N, K] that belong to logits [N, K]."""


def image_seeds(
    images: Sequence[Floats],
    numbers: Iterable[int | None] = repeat(None),
    digests: Iterable[bytes | None] = repeat(None),
) -> Seeds:
    """Return a seed for each image, from its content and, for a volume's slice, its number.

    A score never depends on the position in a batch or on the other images in it. `digests` are
    those of `content_digest`, where they are known.
    """
    seeds = []
    for image, number, known in zip(images, numbers, digests, strict=False):
        digest = content_digest(image, number) if known is None else known
        seeds.append(int.from_bytes(digest[:8], "little"))
    return np.array(seeds, dtype=np.uint64)


def content_digest(image: Floats, number: int | None = None) -> bytes:
    """Return the SHA-256 of an image's shape and values, and of the number of a volume's slice."""
    shape = repr(image.shape if number is None else (image.shape, number))
    digest = sha256(shape.encode())
    for place in np.ndindex(image.shape[:-2]):  # a volume in another order is not copied as a whole
        digest.update(np.ascontiguousarray(image[place]).data)
    return digest.digest()
