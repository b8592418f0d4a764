"""Score images with a file that `anodetect export` wrote. Needs NumPy and ONNX Runtime, no torch.

    python onnx_reader.py model.onnx IMAGE...      score, p-value and flag of each image
    python onnx_reader.py model.onnx --check [FOLDER]   the comparison with the run, once more

Images are `.npy` arrays, [H, W] or [C, H, W] as they were decoded, or whatever Pillow reads if it
is installed. `--check` compares with the scores that the run gave: on the images in FOLDER, which
are known by their hashes, or on made ones if the file was compared on such. Copy this file to where
you need it; it imports nothing of anodetect.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

PREFIX = "anodetect."
FORMAT = 1
APART = 16  # from this factor on ranges of types are different ones


@dataclass(frozen=True)
class Result:
    """The score of an image, its p-value, whether it is flagged, and its heatmap [H, W]."""

    score: float
    p_value: float
    flagged: bool
    heatmap: NDArray[np.float32]


class Exported:
    """A file that `anodetect export` wrote. `about` is what it says of itself."""

    def __init__(self, file: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        stored = self.session.get_modelmeta().custom_metadata_map
        self.about: dict[str, Any] = {}
        for key, text in stored.items():
            if key.startswith(PREFIX):
                self.about[key.removeprefix(PREFIX)] = json.loads(text)
        if self.about.get("format") != FORMAT:
            raise SystemExit(f"{file}: not a file of `anodetect export`, or of a newer release")

    def score(self, image: NDArray[np.float32]) -> Result:
        """Return what the model says of an image [C, H, W] in the values of its training images."""
        score, p_value, heatmap = self.session.run(None, {"image": image[None]})
        p = float(p_value[0])
        return Result(float(score[0]), p, p <= self.about["calibration"]["far"], heatmap)

    def prepared(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return decoded pixels, [H, W] or [C, H, W], as `score` takes them."""
        sample_type = str(pixels.dtype)
        image = np.atleast_3d(pixels.T).T.astype(np.float32)
        wanted = self.about["input"]["channels"]
        if len(image) == 1 and wanted == 3:
            image = np.repeat(image, 3, axis=0)
        elif len(image) == 3 and wanted == 1 and (image == image[:1]).all():
            image = image[:1]
        if len(image) != wanted:
            raise SystemExit(f"{len(image)} channels, but the model has learned from {wanted}")
        return np.ascontiguousarray(image * np.float32(self._factor(sample_type)))

    def _factor(self, sample_type: str) -> float:
        """Return what values of a type are multiplied by; SystemExit for a type of which the model
        cannot tell it."""
        known = self.about["input"]
        reference, factors = known["sample_type"], known["factors"]
        if not reference or sample_type in factors:
            return float(factors.get(sample_type, 1.0))
        apart = _full_scale(reference) / _full_scale(sample_type)
        if 1 / APART < apart < APART:
            return 1.0
        raise SystemExit(f"{sample_type} values, but the model has learned from {reference} ones")

    def check(self, folder: Path | None) -> float:
        """Return the largest difference of scores from those of the run, as a share of them."""
        comparison = self.about["comparison"]
        scores = {each["image"]: each["score"] for each in comparison["compared"]}
        if comparison["images"] == "made":
            images = self._made_images(len(scores))
        elif folder is not None:
            images = self._images_in(folder, set(scores))
        else:
            raise SystemExit(f"compared on {comparison['images']}: name the folder of its images")

        differences = []
        for name, image in images:
            found = self.score(image).score
            differences.append(abs(found - scores[name]) / max(abs(scores[name]), 1e-12))
        if not differences:
            raise SystemExit("none of the images that were compared is there")
        print(f"{len(differences)} of {len(scores)} images compared")
        return max(differences)

    def _made_images(self, count: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
        known = self.about["input"]
        for number in range(count):
            yield str(number), made_image(number, known["channels"], *known["range"])

    def _images_in(self, folder: Path, wanted: set[str]) -> Iterator[tuple[str, Any]]:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                if digest in wanted:
                    yield digest, self.prepared(read_pixels(file))


def made_image(number: int, channels: int, low: float, high: float) -> NDArray[np.float32]:
    """Return an image [C, H, W] of coarse and fine noise, always the same one for a number."""
    rng = np.random.default_rng(number)
    height, width = rng.integers(48, 320, 2)
    coarse, fine = rng.random((channels, 8, 8)), rng.random((channels, height, width))
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    share = 0.75 * coarse[:, rows][:, :, columns] + 0.25 * fine
    return (low + (high - low) * share).astype(np.float32)


def read_pixels(file: Path) -> NDArray[Any]:
    """Return the pixels of a file, [H, W] or [C, H, W]."""
    if file.suffix == ".npy":
        pixels: NDArray[Any] = np.load(file, allow_pickle=False)
        return pixels
    from PIL import Image  # only for files that are no arrays

    with Image.open(file) as image:
        plain = image.convert("RGB") if image.mode in ("P", "RGBA", "CMYK", "YCbCr") else image
        found = np.asarray(plain)
    return found if found.ndim == 2 else found.transpose(2, 0, 1)


def _full_scale(sample_type: str) -> float:
    """Return the highest value of a type; of floats 1."""
    dtype = np.dtype(sample_type)
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0


def main() -> None:
    """Score the images that the command line names, or compare."""
    parser = argparse.ArgumentParser(description="Score images with an exported model.")
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--check", action="store_true", help="compare with the run's scores")
    given = parser.parse_intermixed_args()

    exported = Exported(given.model)
    if given.check:
        difference = exported.check(given.images[0] if given.images else None)
        tolerance = exported.about["comparison"]["tolerance"]
        print(f"largest difference {difference:.1e}, tolerance {tolerance:g}")
        sys.exit(not difference <= tolerance)
    for file in given.images:
        result = exported.score(exported.prepared(read_pixels(file)))
        flag = "flagged" if result.flagged else "not flagged"
        print(f"{file}: score {result.score:.6g}, p {result.p_value:.4f}, {flag}")


if __name__ == "__main__":
    main()
