"""What a run finds in whole volumes with known lesions, and what scoring volumes costs.

    python -m benchmarks.volumes RUN --data FOLDER [--listed FOLDER] [--json]
    python -m benchmarks.volumes RUN --speed [--json]

Quality, on <name>_flair.nii.gz beside <name>_mask.nii.gz: AUROC of slices (anomalous: any lesion
voxel), average precision and Dice of voxels over all volumes together, at the calibrated pixel
threshold, and lesions found at one false positive per volume on average. Slices that are not scored
count as the most normal ones; the same follows for scored slices alone, and how many lesion voxels
the slices hold that are outside what the model has seen. Nothing is chosen on these volumes.
`--listed`: also on those slices alone that a folder has as images <name>_<slice>.png.

Speed: synthetic volumes of 256 × 256 × 150 in 16 bits, from the disk to the score directory with
all default outputs, two in one process and six as the command line does it, with a process for each
core; against the bare model on all cores on the same slices (read and prepared before the clock
starts, nothing written), or in three dimensions on the same volume (read), three times in turns,
medians. The clock starts when models are loaded. Memory is what a fresh process that scores two
such volumes holds at its peak beyond one that scores a volume of 4 slices, as multiples of the
volume as float32.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

import anodetect
from anodetect.data import readers
from anodetect.data.scan import Record
from anodetect.imaging.preprocess import Prepared
from anodetect.imaging.resize import resize
from anodetect.model.loading import load
from anodetect.model.model import Model
from anodetect.model.scoring import score_records
from anodetect.record import runs
from anodetect.stats import metrics
from anodetect.stats.calibration import clopper_pearson
from anodetect.types import Bools, Floats, Silent

SHAPE, REPEATS, MANY = (256, 256, 150), 3, 6
FAR = 0.05


@dataclass(frozen=True)
class Found:
    """Of a volume: score [D] and flag [D] of each slice, which are scored [D] and which are outside
    what the model has seen [D], heatmap, truth and scaled intensity [D, H, W]."""

    name: str
    scores: NDArray[np.float64]
    flags: Bools
    scored: Bools
    unseen: Bools
    heatmap: Floats
    mask: Bools
    intensity: Floats

    def part(self, numbers: list[int]) -> "Found":
        arrays = (
            self.scores,
            self.flags,
            self.scored,
            self.unseen,
            self.heatmap,
            self.mask,
            self.intensity,
        )
        return Found(self.name, *(array[numbers] for array in arrays))


def find(run: runs.Run, folder: Path) -> Iterator[Found]:
    """Score each volume."""
    names = sorted(
        path.name.removesuffix("_flair.nii.gz") for path in folder.glob("*_flair.nii.gz")
    )
    items = [Record(name, folder / f"{name}_flair.nii.gz", group=name) for name in names]
    for scored in score_records(Model.load(run, "auto"), items, Silent()):
        name, volume = scored.loaded.record.id, scored.loaded.volume
        assert volume is not None and scored.heatmap is not None and scored.slices is not None, (
            scored.loaded.error
        )
        scores = np.zeros(len(scored.heatmap))
        scores[scored.slices.numbers] = scored.slices.scores
        mask = readers.volume_mask(folder / f"{name}_mask.nii.gz", volume.volume, volume.geometry)
        intensity = (volume.slices[0] / np.percentile(volume.slices, 99.5)).astype(np.float32)
        flags = scores > run.calibration.threshold(FAR)
        yield Found(
            name,
            scores,
            flags,
            volume.scored,
            volume.unseen,
            np.nan_to_num(scored.heatmap),
            mask,
            intensity,
        )


def measures(volumes: Sequence[Found], threshold: float) -> dict[str, Any]:
    """Slices and voxels against the truth, all volumes together."""
    counts, intensities = metrics.PixelCounts(), metrics.PixelCounts()
    for volume in volumes:
        counts.add(volume.heatmap, volume.mask, volume.name)
        intensities.add(volume.intensity, volume.mask, volume.name)
    truth = np.concatenate([volume.mask.any((1, 2)) for volume in volumes]).astype(np.int64)
    scores, flags = (
        np.concatenate([getattr(volume, name) for volume in volumes])
        for name in ("scores", "flags")
    )
    groups = [volume.name for volume in volumes for _ in volume.scores]
    auroc = metrics.image_metrics(truth, scores, groups)["auroc"]
    curves = counts.curves()
    values = curves.measure()
    return {
        "slices": len(truth),
        "with a lesion": int(truth.sum()),
        "AUROC": round(auroc.value, 3),
        "its interval": auroc.note or f"{auroc.low:.3f}–{auroc.high:.3f}",
        "flagged with a lesion": round(float(flags[truth == 1].mean()), 3),
        "flagged without": round(float(flags[truth == 0].mean()), 3),
        "voxel AP": round(values["ap"], 3),
        "voxel AP of intensity": round(intensities.curves().measure()["ap"], 3),
        "Dice at the calibrated threshold": round(curves.dice_at(threshold), 3),
        "best Dice (threshold chosen with the truth)": round(values["dice_best"], 3),
    }


def quality(run: runs.Run, folder: Path, listed: Path | None) -> dict[str, Any]:
    """Measures of whole volumes, and of the listed slices alone."""
    volumes = list(find(run, folder))
    threshold = run.calibration.pixel_threshold(FAR)
    found, there, _ = metrics.lesion_sensitivity(
        [v.heatmap for v in volumes], [v.mask for v in volumes]
    )
    low, high = clopper_pearson(found, there)
    result = measures(volumes, threshold) | {
        "lesions found at 1 false positive per volume": f"{found} of {there} ({low:.2f}–{high:.2f})"
    }
    lost = sum(int(v.mask[v.unseen].sum()) for v in volumes)
    parts = measures([v.part(np.flatnonzero(v.scored).tolist()) for v in volumes], threshold)
    result |= {
        "slices outside what the model has seen": int(sum(v.unseen.sum() for v in volumes)),
        "lesion voxels in them": f"{lost} of {sum(int(v.mask.sum()) for v in volumes)}",
        **{f"scored slices: {name}": value for name, value in parts.items()},
    }
    if listed:
        numbers = {
            v.name: sorted(int(p.stem[-2:]) for p in listed.rglob(f"{v.name}_[0-9][0-9].png"))
            for v in volumes
        }
        parts = measures([v.part(numbers[v.name]) for v in volumes], threshold)
        result |= {f"listed slices: {name}": value for name, value in parts.items()}
    return result


def synthetic(path: Path, depth: int, seed: int = 0) -> None:
    """A head-like volume of 16 bits."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(
        *(np.linspace(-1, 1, side) for side in (*SHAPE[:2], depth)), indexing="ij", sparse=True
    )
    inside = (axes[0] / 0.8) ** 2 + (axes[1] / 0.9) ** 2 + (axes[2] * 0.8) ** 2 < 1
    coarse = rng.normal(size=(32, 32)).astype(np.float32)
    texture: Floats = resize(coarse[None], *SHAPE[:2])[0]
    array = np.where(
        inside, 1000 + 100 * texture[..., None] + 30 * rng.normal(size=inside.shape), 20
    )
    nib.save(nib.Nifti1Image(array.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def peak(run: Path, paths: list[Path], out: Path) -> float:
    """Peak memory in MB of a process that scores volumes."""
    command = [
        sys.executable,
        "-m",
        "anodetect.cli",
        "score",
        str(run),
        *map(str, paths),
        "--out",
        str(out),
        "--json",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["peak_memory_mb"])


def bare_model(model: Model, volume: Prepared) -> Callable[[], object]:
    """What scores a volume without reading or writing anything."""
    if model.tiling.dims == 3:
        return lambda: model.score_volume(volume)
    images = [np.ascontiguousarray(volume.slices[:, n]) for n in volume.numbers]
    encoded = [model.encode(i, volume, n) for i, n in zip(images, volume.numbers, strict=True)]
    chunks = [slice(start, start + model.batch) for start in range(0, len(images), model.batch)]
    return lambda: [model.score(images[c], encoded[c], volume.numbers[c].tolist()) for c in chunks]


def speed(path: Path) -> dict[str, Any]:
    """Seconds for a volume, and memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = [folder / f"{number}.nii.gz" for number in range(MANY)]
        for number, file in enumerate(paths):
            synthetic(file, SHAPE[2], seed=number)
        synthetic(folder / "few.nii.gz", 4)
        model = Model.load(runs.read(path), "auto")
        loaded = load(Record("0", paths[0]), model.preprocess, model.encode)
        assert loaded.volume is not None, loaded.error
        score = bare_model(model, loaded.volume)
        ways = {
            "two in one process": (paths[:2], 1),
            f"{MANY} on all cores": (paths, None),
        }
        taken: dict[str, list[float]] = {name: [] for name in ("bare model", *ways)}
        for turn in range(REPEATS):
            begun = time.monotonic()
            score()
            taken["bare model"].append(time.monotonic() - begun)
            for number, (name, (files, workers)) in enumerate(ways.items()):
                result = anodetect.score(
                    path, [str(file) for file in files], folder / f"{turn}{number}", workers=workers
                )
                taken[name].append((result["seconds"] - result["seconds_to_first"]) / len(files))
        few = peak(path, [folder / "few.nii.gz"], folder / "few")
        many = peak(path, paths[:2], folder / "many")
    bare, *middle = (median(seconds) for seconds in taken.values())
    told: dict[str, Any] = {
        "slices scored": len(loaded.volume.numbers),
        "bare model, seconds a volume": round(bare, 2),
    }
    for name, seconds in zip(ways, middle, strict=True):
        told[f"score, {name}, seconds a volume"] = round(seconds, 2)
        told[f"score, {name}, against the bare model"] = round(seconds / bare, 2)
    return told | {
        "peak MB, a volume of 4 slices": round(few),
        "peak MB, two volumes": round(many),
        "difference in volumes of float32": round((many - few) * 1e6 / (4 * np.prod(SHAPE)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--listed", type=Path)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    if arguments.data:
        result = quality(runs.read(arguments.run), arguments.data, arguments.listed)
    result |= speed(arguments.run) if arguments.speed else {}
    print(
        json.dumps(result)
        if arguments.json
        else "\n".join(f"{name:>48}  {value}" for name, value in result.items())
    )


if __name__ == "__main__":
    main()
