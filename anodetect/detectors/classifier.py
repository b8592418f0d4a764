"""Classifier: is this image something that a classifier of yours knows?

    free_energy   S = F(x) = −T log Σ_y exp(f(x)[y] / T)     Liu et al., "Energy-based
                  out-of-distribution detection", NeurIPS 2020
    max_softmax   S = 1 − max_y p(y | x)                     Hendrycks & Gimpel, ICLR 2017
    gradient      S = ‖∂F/∂x‖₂                               the approximate mass of Grathwohl et
                  al., "Your classifier is secretly an energy based model", ICLR 2020, section 5

f(x) [K] are the logits of a trained classifier of K classes, which is used as it is: an ONNX file,
or from Python a callable. Nothing is learned but the mean of the fit images. The image score is S
itself; the free energy may be below 0. Larger = more anomalous.

The map is found by occlusion: each square of a grid is replaced by the mean of the fit images, and
is worth as much as S falls by that. With `gradient` it is the norm of the gradient in each square.
A callable is differentiated by autograd. ONNX Runtime has no derivatives: there they are
differences along random directions u within each square, drawn from the image's seed,

    ‖∂F/∂x‖² ≈ Σ_squares mean_u ((F(x + εu) − F(x − εu)) / 2ε)²,   u ~ N(0, I)

Fails on all that its classes do not hang on: a classifier ignores what does not help to tell them
apart, small defects above all, and may be certain of constant and blurred images, even of inverted
ones and noise. A map is coarse, and empty where no single square matters. `gradient` is for
classifiers that were trained as energies: that of a plain one is often larger on what it knows
(AUROC .26 on the digits of examples/classifier.py; `free_energy` .98). Cost: nothing to train;
1 + grid² passes of the classifier an image, with `gradient` 2 · directions · grid² of a file and
one, there and back, of a callable.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from anodetect.config import Config
from anodetect.errors import ConfigError, DataError, ImageError
from anodetect.generative.classifiers import free_energy, softmax_doubt
from anodetect.generative.langevin import energy_and_gradient
from anodetect.imaging.arrays import array_in, check_array
from anodetect.imaging.backbones.places import NOT_STATED
from anodetect.imaging.backbones.table import BackboneFacts
from anodetect.imaging.resize import resize
from anodetect.nn.batching import in_micro_batches
from anodetect.nn.inference import pick_device, to_tensor
from anodetect.nn.onnx_file import OnnxNetwork, providers, read_onnx
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext
from anodetect.words import amount

MICRO_BATCH = 16
STEP = 0.02  # ε, of grey values from −1 to 1
BEYOND_NOTED, BEYOND_REFUSED = 0.01, 0.9  # shares of values that lie outside the window
Network = Callable[[Tensor], Tensor]  # images [N, C, H, W] → logits [N, K]


class ClassifierConfig(Config):
    """The classifier, what it takes and gives, and how an image is scored by it."""

    file: str = Field(
        default="",
        description="The classifier: an ONNX file with one input of images, [N, C, H, W] or "
        "[N, H, W, C], and the logits [N, K] as its output. It has to be given.",
    )
    sha256: str = Field(
        default="",
        description="The hash that the file must have; training fills it in.",
    )
    output: str = Field(
        default="", description="The name of the output with the logits, if there are several."
    )
    score: Literal["free_energy", "max_softmax", "gradient"] = Field(
        default="free_energy",
        description="The score of an image: the free energy of the logits, 1 less the highest "
        "softmax probability, or the size of the free energy's gradient.",
    )
    temperature: PositiveFloat = Field(
        default=1.0, description="The temperature T that logits are divided by."
    )
    values: tuple[float, float] = Field(
        default=(0.0, 1.0),
        description="The values that black and white have in the classifier's input before `mean` "
        "is subtracted: `[0, 255]` where it takes bytes as they are. Black and white are the ends "
        "of `preprocess.window`.",
    )
    mean: tuple[float, ...] = Field(
        default=(0.0,),
        min_length=1,
        description="The mean that is subtracted, one for all channels of the input or one each.",
    )
    deviation: tuple[PositiveFloat, ...] = Field(
        default=(1.0,),
        min_length=1,
        description="The deviation that is divided by then, one for all channels or one each.",
    )
    order: Literal["rgb", "bgr"] = Field(
        default="rgb", description="The order of the input's colour channels."
    )
    classes: tuple[str, ...] = Field(
        default=(),
        description="The names of the classes in the order of the logits, as `kind` has them in "
        "a manifest; with them `evaluate` measures how reliable the classifier is.",
    )
    grid: int = Field(
        default=8,
        ge=1,
        le=64,
        description="The number of squares along a side of the map; scoring takes a pass of the "
        "classifier for each.",
    )
    directions: PositiveInt = Field(
        default=2,
        description="The number of random directions in each square of the map, with the score "
        "`gradient` of a file.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_hash(cls, values: Any) -> Any:
        """Note the hash of the file; ConfigError if it is not the one expected."""
        if not isinstance(values, Mapping):
            return values
        file, expected = values.get("file"), values.get("sha256", "")
        if not file or not isinstance(file, str) or not isinstance(expected, str):
            return values
        return {**values, "sha256": sha256(read_onnx(Path(file), expected)).hexdigest()}


class Classifier:
    """A user's own classifier as a detector.

    From Python `network` may be a callable in place of the file. It takes images [N, C, H, W] on
    the detector's grid, scaled as the settings say, on the device of the training, and returns
    logits [N, K] that autograd can differentiate. A run does not hold it.
    """

    Config = ClassifierConfig
    # 8-bit images as they are: a classifier expects grey values to mean what they always mean.
    defaults: ClassVar[dict[str, Any]] = {
        "pixels": {
            "preprocess": {"window": [127.5, 255.0], "foreground": "all"},
            "representation": {"size": 224},
        }
    }

    def __init__(self, config: ClassifierConfig, network: Network | None = None) -> None:
        if bool(config.file) == (network is not None):
            raise ConfigError(
                "classifier: which one? --set file=PATH names an ONNX file, and from Python "
                "`network` a callable; one of the two"
            )
        self.config, self.network = config, network
        self.device = torch.device("cpu")
        self.onnx: OnnxNetwork | None = None
        if config.file:
            self.onnx = OnnxNetwork(Path(config.file), config.sha256, config.output)
        self.mean_image = np.zeros((0, 0, 0), np.float32)  # of fit, on the classifier's grid

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of the logits; empty if they are not known."""
        return self.config.classes

    def source(self) -> BackboneFacts | None:
        """Return what a run notes of the file; None of a callable."""
        if self.onnx is None:
            return None
        return BackboneFacts(
            name=self.config.file,
            revision="",
            layers=(),
            licence=NOT_STATED,
            pretraining=NOT_STATED,
            sha256=self.config.sha256,
        )

    # -- Learning ----------------------------------------------------------------------------------

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Learn the mean of the fit images, and see that the classifier can take them."""
        self._use(context.device)
        channels, *sides = fit.images.shape[1:]
        self.check(fit.images.shape[1:])
        if self.onnx is not None and self.onnx.input.channels < channels:
            raise DataError(
                f"file {self.config.file}: takes grey images, and these are coloured; convert them "
                "as you did for its training"
            )

        total, beyond = 0.0, 0.0
        for _, part in fit.parts(MICRO_BATCH):
            total = total + self._seen(part.images).sum(0, dtype=np.float64)
            beyond += float((np.abs(part.images) > 1 + 1e-4).mean()) * len(part) / len(fit)
        self.mean_image = np.asarray(total / len(fit), np.float32)

        context.log({"images": len(fit)})
        for note in (*self._notes(sides), *_notes_of_window(beyond)):
            context.log({"note": note})

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if the classifier does not return logits of at least two classes for
        images of this shape, [C, H, W], or if the settings do not fit it."""
        channels, height, width = self._input_shape(shape)
        for name, values in (("mean", self.config.mean), ("deviation", self.config.deviation)):
            if len(values) not in (1, channels):
                own = amount(len(values), "value")
                raise ConfigError(
                    f"detector.{name}: {own}, but the classifier's input has "
                    f"{amount(channels, 'channel')}"
                )
        if self.config.grid > min(height, width):
            raise ConfigError(
                f"detector.grid: {self.config.grid} squares along a side, but the classifier sees "
                f"images of {height} × {width} pixels"
            )
        if isinstance(self.network, nn.Module) and self.network.training:
            raise ConfigError("the network is in training mode; call its eval() first")

        noise = np.random.default_rng(0).uniform(-1, 1, (1, channels, height, width))
        trial = np.concatenate([np.zeros_like(noise), noise]).astype(np.float32)
        with torch.no_grad():
            self._check_logits(self._outputs(to_tensor(trial, self.device)))

    def _check_logits(self, logits: Tensor) -> None:
        """Raise ConfigError if the output for two images is not one of logits [2, K]."""
        where = f"file {self.config.file}" if self.onnx else "the network"
        shape = list(logits.shape)
        if len(shape) != 2 or shape[0] != 2 or shape[1] < 2:
            raise ConfigError(
                f"{where}: its output for 2 images has shape {shape}; logits [2, K] of at least "
                "two classes are expected"
            )
        if not logits.isfinite().all():
            raise ConfigError(f"{where}: its output for a grey and a noisy image is not finite")
        if (logits >= 0).all() and (logits.sum(1) - 1).abs().max() < 1e-3:
            raise ConfigError(
                f"{where}: its output is probabilities; take the logits, before the softmax"
            )
        if self.classes and len(self.classes) != shape[1]:
            raise ConfigError(
                f"detector.classes: {amount(len(self.classes), 'name')}, but the classifier has "
                f"{shape[1]} classes"
            )

    def _notes(self, sides: Sequence[int]) -> list[str]:
        """Return in words what makes the result worse, or slower, than it could be."""
        notes, own = [], list(self._input_shape((1, *sides)))[1:]
        if own != list(sides):
            notes.append(
                f"images of {sides[0]} × {sides[1]} are resampled once more, to the classifier's "
                f"{own[0]} × {own[1]}; --set size={max(own)} is nearer to it"
            )
        if self.onnx is not None and self.device.type not in ("cpu", self._provided()):
            notes.append("ONNX Runtime has no GPU here, so the classifier runs on the CPU")
        return notes

    def _provided(self) -> str:
        return "cuda" if len(providers(self.device.type)) > 1 else "cpu"

    # -- The classifier ----------------------------------------------------------------------------

    def logits(self, images: Floats) -> Floats:
        """Return the logits [N, K] of images on the detector's grid [N, C, H, W]; ImageError if
        they are not finite."""
        seen = self._seen(images)
        (values,) = in_micro_batches(self._some_logits, seen, size=MICRO_BATCH)
        return values

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Return softmax probabilities [N, K] at the temperature of the settings."""
        scaled = torch.from_numpy(logits).double() / self.config.temperature
        values: NDArray[np.float64] = scaled.softmax(1).numpy()
        return values

    @torch.no_grad()
    def _some_logits(self, seen: Floats) -> tuple[Floats]:
        return (self._logits(to_tensor(seen, self.device)).cpu().numpy(),)

    def _input_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the shape [c, h, w] in which the classifier sees images [C, H, W]."""
        channels, height, width = shape
        if self.onnx is None:
            return channels, height, width
        own = self.onnx.input
        return own.channels, own.height or height, own.width or width

    def _seen(self, images: Floats) -> Floats:
        """Return images [N, C, H, W] with the classifier's number of channels and on its grid,
        [N, c, h, w], still from −1 to 1."""
        channels, height, width = self._input_shape(images.shape[1:])
        seen = []
        for image in images:
            seen.append(resize(np.clip(image, -1, 1), height, width))
        return np.broadcast_to(np.stack(seen), (len(images), channels, height, width))

    def _logits(self, seen: Tensor) -> Tensor:
        """Return the logits [N, K] of images [N, c, h, w] from −1 to 1; ImageError if they are not
        finite."""
        logits = self._outputs(seen)
        if not logits.isfinite().all():
            raise ImageError("the classifier's output for this image is not finite")
        return logits

    def _outputs(self, seen: Tensor) -> Tensor:
        """Return what the classifier makes of images [N, c, h, w] from −1 to 1."""
        config = self.config
        low, high = config.values
        inputs = low + (seen + 1) / 2 * (high - low)
        if config.order == "bgr":
            inputs = inputs.flip(1)
        mean = torch.tensor(config.mean, device=seen.device)[:, None, None]
        deviation = torch.tensor(config.deviation, device=seen.device)[:, None, None]
        inputs = (inputs - mean) / deviation

        if self.network is not None:
            return self.network(inputs).float()
        assert self.onnx is not None
        return torch.from_numpy(self.onnx(inputs.cpu().numpy())).to(seen.device)

    def _energy(self, seen: Tensor) -> Tensor:
        """Return the energies [N] of images [N, c, h, w], of which S is one or the gradient."""
        logits = self._logits(seen)
        if self.config.score == "max_softmax":
            return softmax_doubt(logits, self.config.temperature)
        return free_energy(logits, self.config.temperature)

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores, and maps of what each square of the grid adds to them."""
        seen = self._seen(batch.images)
        if self.config.score != "gradient":
            found = [self._occluded(image) for image in seen]
        elif self.network is None:
            found = []
            for image, seed in zip(seen, seeds, strict=True):
                found.append(self._differenced(image, int(seed)))
        else:
            found = self._differentiated(seen)

        sides = batch.images.shape[2:]
        scores = np.array([score for score, _ in found], np.float32)
        maps = np.stack([resize(squares[None], *sides)[0] for _, squares in found])
        return Scores(scores, np.where(batch.foreground, maps, 0).astype(np.float32))

    def _occluded(self, image: Floats) -> tuple[float, Floats]:
        """Return S of an image [c, h, w], and by how much it falls without each square, [g, g]."""

        def energies(squares: NDArray[np.int64]) -> tuple[Floats]:
            copies = np.repeat(image[None], len(squares), 0)
            for copy, square in zip(copies, squares.tolist(), strict=True):
                if square >= 0:  # −1 stands for the image as it is
                    inside = self._square(square, image.shape)
                    copy[inside] = self.mean_image[inside]
            return (self._energies(copies),)

        (found,) = in_micro_batches(energies, self._numbers(-1), size=MICRO_BATCH)
        fall = np.maximum(found[0] - found[1:], 0)
        return float(found[0]), fall.reshape(self.config.grid, -1)

    def _differenced(self, image: Floats, seed: int) -> tuple[float, Floats]:
        """Return ‖∂F/∂x‖ of an image [c, h, w] by differences, and that of each square, [g, g]."""
        count = self.config.directions
        rng = np.random.default_rng(seed)
        directions = STEP * rng.standard_normal((count, *image.shape), np.float32)

        def slopes(squares: NDArray[np.int64]) -> tuple[Floats]:
            steps = np.zeros((len(squares), *image.shape), np.float32)
            for step, number in zip(steps, squares.tolist(), strict=True):
                inside = self._square(number // count, image.shape)
                step[inside] = directions[number % count][inside]
            ahead, behind = self._energies(image + steps), self._energies(image - steps)
            return ((ahead - behind) / (2 * STEP),)

        numbers = np.arange(self.config.grid**2 * count)
        (found,) = in_micro_batches(slopes, numbers, size=MICRO_BATCH)
        squares = np.square(found).reshape(-1, count).mean(1)
        return float(np.sqrt(squares.sum())), np.sqrt(squares).reshape(self.config.grid, -1)

    def _differentiated(self, seen: Floats) -> list[tuple[float, Floats]]:
        """Return ‖∂F/∂x‖ of images [N, c, h, w] by autograd, and that of each square, [g, g]."""

        def gradients(images: Floats) -> tuple[Floats]:
            found = energy_and_gradient(self._energy, to_tensor(images, self.device))
            return (found.gradient.cpu().numpy(),)

        (gradient,) = in_micro_batches(gradients, seen, size=MICRO_BATCH)
        results = []
        for each in gradient:
            norms = []
            for number in self._numbers(0):
                norms.append(np.linalg.norm(each[self._square(int(number), each.shape)]))
            squares = np.array(norms, np.float32).reshape(self.config.grid, -1)
            results.append((float(np.linalg.norm(each)), squares))
        return results

    @torch.no_grad()
    def _energies(self, seen: Floats) -> Floats:
        values: Floats = self._energy(to_tensor(seen, self.device)).float().cpu().numpy()
        return values

    def _numbers(self, first: int) -> NDArray[np.int64]:
        return np.arange(first, self.config.grid**2)

    def _square(self, number: int, shape: Sequence[int]) -> tuple[slice, ...]:
        """Return where a square of the grid lies in images [c, h, w]."""
        grid, (_, height, width) = self.config.grid, shape
        row, column = divmod(number, grid)
        rows = slice(row * height // grid, (row + 1) * height // grid)
        columns = slice(column * width // grid, (column + 1) * width // grid)
        return slice(None), rows, columns

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the mean of the fit images; the classifier itself lies in its file."""
        return {"mean_image": self.mean_image}

    def load_state(self, state: State, *, device: str) -> None:
        """Take over the mean of the fit images."""
        self._use(device)
        self.mean_image = array_in(state, "mean_image", (None, None, None))

    def check_state(self, shape: Sequence[int]) -> None:
        """Raise ValueError if the mean image is not as the classifier sees images."""
        check_array("mean_image", self.mean_image, self._input_shape(shape))

    def _use(self, device: str) -> None:
        self.device = pick_device(device)
        if self.onnx is not None:
            self.onnx.device = self.device.type


def _notes_of_window(beyond: float) -> list[str]:
    """Return in words which share of the values lies outside the window; DataError if nearly all
    do."""
    if beyond > BEYOND_REFUSED:
        raise DataError(
            f"{beyond:.0%} of all values lie outside preprocess.window, by default that of 8-bit "
            "images; --set 'window=[level, width]' names yours, for 16 bits [32767.5, 65535]"
        )
    if beyond > BEYOND_NOTED:
        return [
            f"{beyond:.0%} of all values lie outside preprocess.window and are clipped; "
            "--set 'window=[level, width]' names another one"
        ]
    return []
