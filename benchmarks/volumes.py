"""What a run finds in whole volumes with known lesions, and what scoring volumes costs.

    python benchmarks/volumes.py RUN --data FOLDER [--json]     <name>_flair.nii.gz beside <name>_mask.nii.gz
    python benchmarks/volumes.py RUN --speed [--json]

Quality: AUROC of slices (anomalous: any lesion voxel), average precision and Dice of voxels over all volumes together,
at the run's calibrated pixel threshold, and lesions found at one false positive per volume on average. Slices that are
not scored count as the most normal ones. Nothing is chosen on these volumes.

Speed: a synthetic volume of 256 × 256 × 150 in 16 bits, from the disk to the score directory with all default outputs,
against the bare model on the same slices (read and prepared before the clock starts, nothing written), three times in
turns, medians. Memory is what a fresh process that scores three such volumes holds at its peak beyond one that scores a
volume of 4 slices, as multiples of the volume as float32.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np

from anodetect import metrics, runs, scoring
from anodetect.calibration import clopper_pearson
from anodetect.data import readers
from anodetect.data.scan import Record
from anodetect.model import Model, load, score_records
from anodetect.representations.pixels import resize
from anodetect.types import Floats, Silent

SHAPE, REPEATS = (256, 256, 150), 3


def quality(run: runs.Run, folder: Path) -> dict[str, Any]:
    """Measures against the masks."""
    names = sorted(path.name.removesuffix("_flair.nii.gz") for path in folder.glob("*_flair.nii.gz"))
    items = [Record(name, folder / f"{name}_flair.nii.gz", group=name) for name in names]
    threshold = run.calibration.pixel_threshold(0.05)
    counts, heatmaps, masks = metrics.PixelCounts(), [], []
    labels, scores, flags, groups, intensity = [], [], [], [], metrics.PixelCounts()
    for scored in score_records(Model.load(run, "auto"), items, Silent()):
        volume, heatmap = scored.loaded.volume, scored.heatmap
        assert volume is not None and heatmap is not None and scored.slices is not None, scored.loaded.error
        mask = readers.volume_mask(folder / f"{scored.loaded.record.id}_mask.nii.gz", volume.volume, volume.geometry)
        slices = np.zeros(len(mask))
        slices[scored.slices.numbers] = scored.slices.scores
        labels += mask.any((1, 2)).astype(int).tolist()
        scores += slices.tolist()
        flags += (slices > run.calibration.threshold(0.05)).tolist()
        groups += [scored.loaded.record.id] * len(mask)
        counts.add(np.nan_to_num(heatmap), mask, scored.loaded.record.id)
        low, high = volume.span or (0.0, 1.0)
        intensity.add(((volume.slices[0] - low) / (high - low)).astype(np.float32), mask, scored.loaded.record.id)
        heatmaps.append(heatmap)
        masks.append(mask)
    curves = counts.curves()
    found, there, _ = metrics.lesion_sensitivity(heatmaps, masks)
    truth, above = np.array(labels), np.array(flags)
    slice_auroc = metrics.image_metrics(truth, np.array(scores), groups)["auroc"]
    return {
        "volumes": len(names),
        "slices": len(labels),
        "slices with a lesion": int(truth.sum()),
        "slice AUROC": round(slice_auroc.value, 3),
        "interval": slice_auroc.note or f"{slice_auroc.low:.3f}–{slice_auroc.high:.3f}",
        "slices with a lesion flagged": round(float(above[truth == 1].mean()), 3),
        "slices without flagged": round(float(above[truth == 0].mean()), 3),
        "voxel AP": round(curves.measure()["ap"], 3),
        "voxel AP of intensity": round(intensity.curves().measure()["ap"], 3),
        "Dice at the calibrated threshold": round(curves.dice_at(threshold), 3),
        "best Dice (the threshold chosen with the truth)": round(curves.measure()["dice_best"], 3),
        "lesions found at 1 false positive per volume": f"{found} of {there}",
        "interval of their share": "{:.2f}–{:.2f}".format(*clopper_pearson(found, there)),
    }


def synthetic(path: Path, depth: int) -> None:
    """A head-like volume of 16 bits."""
    rng = np.random.default_rng(depth)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in (*SHAPE[:2], depth)), indexing="ij", sparse=True)
    inside = (axes[0] / 0.8) ** 2 + (axes[1] / 0.9) ** 2 + (axes[2] * 0.8) ** 2 < 1
    coarse = rng.normal(size=(32, 32)).astype(np.float32)
    texture: Floats = resize(coarse[None], *SHAPE[:2])[0]
    array = np.where(inside, 1000 + 100 * texture[..., None] + 30 * rng.normal(size=inside.shape), 20)
    nib.save(nib.Nifti1Image(array.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def peak(run: Path, paths: list[Path], out: Path) -> float:
    """Peak memory in MB of a process that scores volumes."""
    command = [sys.executable, "-m", "anodetect.cli", "score", str(run), *map(str, paths), "--out", str(out), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["peak_memory_mb"])


def speed(path: Path) -> dict[str, Any]:
    """Seconds for a volume, and memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, depth in (("a.nii.gz", SHAPE[2]), ("b.nii.gz", SHAPE[2]), ("c.nii.gz", SHAPE[2]), ("few.nii.gz", 4)):
            synthetic(folder / name, depth)
        model = Model.load(runs.read(path), "auto")
        loaded = load(Record("a", folder / "a.nii.gz"), model)
        assert loaded.volume is not None
        images = [np.ascontiguousarray(loaded.volume.slices[:, n]) for n in loaded.volume.numbers]
        encoded = [model.encode(i, loaded.volume, n) for i, n in zip(images, loaded.volume.numbers, strict=True)]
        bare, whole = [], []
        for turn in range(REPEATS):
            begun = time.monotonic()
            for start in range(0, len(images), model.batch):
                chunk = slice(start, start + model.batch)
                model.score(images[chunk], encoded[chunk], loaded.volume.numbers[chunk].tolist())
            bare.append(time.monotonic() - begun)
            out = folder / f"out{turn}"
            result = scoring.score(path, [str(folder / name) for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz")], out)
            whole.append((result["seconds"] - result["seconds_to_first"]) / 3)
        few = peak(path, [folder / "few.nii.gz"], folder / "few")
        many = peak(path, [folder / name for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz")], folder / "many")
    return {
        "slices scored": len(images),
        "bare model, seconds a volume": round(median(bare), 2),
        "score, seconds a volume": round(median(whole), 2),
        "score against the bare model": round(median(whole) / median(bare), 2),
        "peak MB, a volume of 4 slices": round(few),
        "peak MB, three volumes": round(many),
        "difference in volumes of float32": round((many - few) * 1e6 / (4 * np.prod(SHAPE)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, Any] = quality(runs.read(arguments.run), arguments.data) if arguments.data else {}
    result |= speed(arguments.run) if arguments.speed else {}
    print(json.dumps(result) if arguments.json else "\n".join(f"{name:>48}  {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
