"""Networks in ONNX files, run by ONNX Runtime: one input of images, one output of logits.

What is run has the hash that was noted, so weights have to lie in the file itself. Nothing in an
ONNX file is code of its own; files that may hold pickles are refused.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anodetect.errors import ConfigError, one_line
from anodetect.nn.batching import in_micro_batches
from anodetect.types import Floats

INSTALL_ONNX = "pip install 'anodetect[onnx]'"
EXPORT = (
    "write it with torch.onnx.export(net.eval(), torch.zeros(1, 3, 224, 224), 'net.onnx', "
    "external_data=False), with the shape of your images"
)
PICKLES = (".pt", ".pt2", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
ZIP = b"PK\x03\x04"  # how files of torch.save and torch.export.save begin
ELSEWHERE = b"\x08location\x12"  # in a file whose weights lie in another one
MICRO_BATCH = 16  # images, where the file leaves it open
CHANNELS = (1, 3)


@dataclass(frozen=True)
class ImageInput:
    """The input of a network: images [N, C, H, W], or [N, H, W, C] if `channels_last`.

    `height` and `width` are None where any will do, `batch` where any number of images will.
    """

    name: str
    channels: int
    batch: int | None
    height: int | None
    width: int | None
    channels_last: bool


def read_onnx(path: Path, expected: str = "") -> bytes:
    """Return the content of an ONNX file; ConfigError if there is none, if it is of a kind that
    holds pickles, if its weights lie in another file, or if another SHA-256 is expected."""
    if path.suffix.lower() in PICKLES:
        raise ConfigError(f"file {path}: it may hold a pickle, which is never read; {EXPORT}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"file {path}: {error.strerror or 'not readable'}") from None

    if content.startswith(ZIP):
        raise ConfigError(f"file {path}: not an ONNX file, it may hold pickles; {EXPORT}")
    if ELSEWHERE in content:
        raise ConfigError(f"file {path}: its weights lie in another file; {EXPORT}")

    digest = sha256(content).hexdigest()
    if expected and digest != expected:
        raise ConfigError(
            f"file {path}: SHA-256 {digest[:12]}…, and {expected[:12]}… is expected: restore the "
            "file that the run was trained with, or train anew"
        )
    return content


class OnnxNetwork:
    """The network of an ONNX file. `device` is "cpu" or "cuda"; without a GPU build of ONNX Runtime
    it runs on the CPU.

    ConfigError if the file cannot be run, or has not one input of float32 images and an output.
    """

    def __init__(self, path: Path, sha256: str = "", output: str = "") -> None:
        check_runtime()
        self.path = path
        self.device = "cpu"
        self._content = read_onnx(path, sha256)
        self._session = lru_cache(maxsize=1)(self._opened)

        session = self._session(torch.get_num_threads(), self.device)
        self.input = self._image_input(session.get_inputs())
        self.output = self._output_named(output, [each.name for each in session.get_outputs()])

    def __call__(self, images: Floats) -> Floats:
        """Return the output [N, ...] for images [N, C, H, W]; ConfigError if it cannot be
        computed."""
        size = self.input.batch or MICRO_BATCH
        (values,) = in_micro_batches(self._run, images, size=size)
        return values

    def _run(self, images: Floats) -> tuple[Floats]:
        if self.input.channels_last:
            images = images.transpose(0, 2, 3, 1)
        # Results depend on the number of threads in their last bits, and torch's is the one set.
        session = self._session(torch.get_num_threads(), self.device)
        feed = {self.input.name: np.ascontiguousarray(images, np.float32)}
        try:
            (values,) = session.run([self.output], feed)
        except Exception as error:  # of classes that share no other base
            raise ConfigError(
                f"file {self.path}: fails on images of shape {list(images.shape)} "
                f"({one_line(error)})"
            ) from None
        shape = getattr(values, "shape", None)  # a list of tables has none
        if not shape or shape[0] != len(images):
            raise ConfigError(
                f"file {self.path}: output {self.output!r} has not one row for each image (shape "
                f"{shape} for {len(images)} images)"
            )
        return (np.asarray(values, np.float32),)

    def _opened(self, threads: int, device: str) -> Any:
        """Return a session that computes on so many threads."""
        return session_of(self._content, self.path, threads, device)

    def _image_input(self, inputs: Sequence[Any]) -> ImageInput:
        """Return the one input; ConfigError if there are several, or if it takes no images."""
        if len(inputs) != 1:
            names = ", ".join(each.name for each in inputs)
            raise ConfigError(f"file {self.path}: one input is expected, it has {names or 'none'}")
        (only,) = inputs
        where = f"file {self.path}: input {only.name!r}"
        if only.type != "tensor(float)":
            raise ConfigError(f"{where} takes {only.type}; float32 images are expected")

        shape = [size if isinstance(size, int) else None for size in only.shape]
        for axis in (1, 3):
            if len(shape) == 4 and shape[axis] in CHANNELS:
                channels = shape.pop(axis) or 0
                batch, height, width = shape
                return ImageInput(only.name, channels, batch, height, width, axis == 3)
        raise ConfigError(
            f"{where} has shape {only.shape}; images are [N, C, H, W] or [N, H, W, C] with 1 or 3 "
            "channels"
        )

    def _output_named(self, wanted: str, names: Sequence[str]) -> str:
        """Return the name of the output to take; ConfigError if it is not evident or not there."""
        if wanted and wanted not in names:
            raise ConfigError(
                f"file {self.path}: no output {wanted!r}; there are {', '.join(names)}"
            )
        if not wanted and len(names) > 1:
            raise ConfigError(
                f"file {self.path}: several outputs, {', '.join(names)}; --set output=NAME says "
                "which has the logits"
            )
        return wanted or names[0]


def check_runtime() -> None:
    """Raise ConfigError if the extra `onnx` is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError(f"ONNX files need ONNX Runtime: {INSTALL_ONNX}")


def session_of(content: bytes, path: Path, threads: int, device: str = "cpu") -> Any:
    """Return a session of ONNX Runtime that computes on so many threads; ConfigError if the content
    of the file `path` cannot be run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # nothing is printed, errors are raised
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers(device))
    except Exception as error:  # of classes that share no other base
        raise ConfigError(f"file {path}: not a usable ONNX file ({one_line(error)})") from None


def providers(device: str) -> list[str]:
    """Return where ONNX Runtime computes for a device."""
    import onnxruntime

    wanted = ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        wanted.insert(0, "CUDAExecutionProvider")
    return wanted
