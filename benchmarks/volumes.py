"""The lesions a run finds in whole volumes with known ones, and the cost of scoring volumes.

    python -m benchmarks.volumes RUN --data FOLDER [--listed FOLDER] [--json]
    python -m benchmarks.volumes RUN --speed [--json]

Quality is measured on <name>_flair.nii.gz beside <name>_mask.nii.gz: the AUROC of slices, which are
anomalous with any lesion voxel; average precision of voxels over all volumes together; and lesions
found at one false positive per volume on average. Masks by the run's rule, and by the threshold of
pixels that older releases had, are compared: Dice, lesions, false regions per volume, and slices in
which a mask marks anything.
Slices that are not scored count as the most normal ones. The same follows for scored slices alone,
and the number of lesion voxels in slices outside what the model has seen. Nothing is chosen on
these volumes. `--listed` measures also on those slices alone that a folder has as images
<name>_<slice>.png.

Speed is measured on synthetic volumes of 256 × 256 × 150 in 16 bits, from the disk to the score
directory with all default outputs: two in one process, and six as the command line does it, with a
process for each core. They are compared with the bare model on all cores on the same slices (read
and prepared before the clock starts, nothing written), or in three dimensions on the same volume
(read): medians of three turns. The clock starts when models are loaded. Memory is that of a fresh
process at its peak which scores two such volumes, beyond that of one which scores a volume of 4
slices, in multiples of the volume as float32.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

import anodetect
from anodetect.data import readers
from anodetect.data.records import Record
from anodetect.imaging.preprocess import PreparedVolume
from anodetect.imaging.resize import resize
from anodetect.model.loading import LoadedVolume, load
from anodetect.model.model import Model
from anodetect.model.scoring import ScoredVolume, score_records
from anodetect.record import runs
from anodetect.stats import metrics
from anodetect.stats.calibration import clopper_pearson
from anodetect.stats.lesions import compare, dice_of, lesion_metrics
from anodetect.stats.mask_rule import MaskRule, pixel_rule
from anodetect.types import Bools, Floats, Silent
from benchmarks import common

SHAPE, REPEATS, MANY = (256, 256, 150), 3, 6
FAR = 0.05


@dataclass(frozen=True)
class Found:
    """The results of a volume of D slices.

    `scores`, `flags`, `scored` (which slices are scored) and `unseen` (which are outside what the
    model has seen) are [D]; `heatmap`, `mask` and scaled `intensity` are [D, H, W].
    """

    name: str
    scores: NDArray[np.float64]
    flags: Bools
    scored: Bools
    unseen: Bools
    heatmap: Floats
    mask: Bools
    intensity: Floats

    def part(self, numbers: Sequence[int]) -> "Found":
        """Return the results of these slices alone."""
        arrays = {}
        for field in fields(self):
            if field.name != "name":
                arrays[field.name] = getattr(self, field.name)[list(numbers)]
        return replace(self, **arrays)


def find(run: runs.Run, folder: Path) -> Iterator[Found]:
    """Score each volume."""
    items = []
    for path in sorted(folder.glob("*_flair.nii.gz")):
        name = path.name.removesuffix("_flair.nii.gz")
        items.append(Record(name, path, group=name))

    for scored in score_records(Model.load(run, "auto"), items, Silent(), in_source=True):
        assert isinstance(scored, ScoredVolume), scored
        name, volume = scored.record.id, scored.loaded.volume
        scores = np.zeros(len(scored.heatmap))
        scores[scored.slices.numbers] = scored.slices.scores
        mask = folder / f"{name}_mask.nii.gz"
        yield Found(
            name=name,
            scores=scores,
            flags=scores > run.calibration.threshold(FAR),
            scored=volume.scored,
            unseen=volume.unseen,
            heatmap=np.nan_to_num(scored.heatmap),
            mask=readers.volume_mask(mask, volume.source, volume.geometry),
            intensity=(volume.slices[0] / np.percentile(volume.slices, 99.5)).astype(np.float32),
        )


def mask_measures(volumes: Sequence[Found], rule: MaskRule) -> dict[str, Any]:
    """Return how masks by a rule compare with the truth, all volumes together."""
    compared = []
    marked, truth = [], []
    for volume in volumes:
        compared.append(compare(volume.heatmap, volume.mask, rule, volume.name, is_volume=True))
        marked.append(rule.mask(volume.heatmap).any((1, 2)))
        truth.append(volume.mask.any((1, 2)))
    found = lesion_metrics(compared, rule)
    assert found is not None
    in_mask, with_lesion = np.concatenate(marked), np.concatenate(truth)
    (at_one,) = (each.value for each in found.sensitivities if each.false_regions == 1)
    sizes = [
        f"{each.name} {each.found}/{each.lesions} Dice {each.dice:.3f}" for each in found.sizes
    ]
    return {
        "rule": str(rule.as_json()),
        "Dice": round(dice_of(compared), 3),
        "false regions per volume": round(found.false_regions, 2),
        "lesions found": f"{found.found} of {found.lesions}",
        "lesions found at 1 false region per volume": round(at_one, 3),
        "mean sensitivity at 1/8 to 8": round(found.mean_sensitivity, 3),
        "lesions by size": ", ".join(sizes),
        "slices with a lesion that are marked": round(float(in_mask[with_lesion].mean()), 3),
        "slices without one that are marked": round(float(in_mask[~with_lesion].mean()), 3),
    }


def measures(volumes: Sequence[Found]) -> dict[str, Any]:
    """Return measures of slices and voxels against the truth, all volumes together."""
    counts, intensities = metrics.PixelCounts(), metrics.PixelCounts()
    truth_parts, groups = [], []
    for volume in volumes:
        counts.add(volume.heatmap, volume.mask, volume.name)
        intensities.add(volume.intensity, volume.mask, volume.name)
        truth_parts.append(volume.mask.any((1, 2)))
        groups += [volume.name] * len(volume.scores)

    truth = np.concatenate(truth_parts).astype(np.int64)
    scores = np.concatenate([volume.scores for volume in volumes])
    flags = np.concatenate([volume.flags for volume in volumes])
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
        "best Dice (threshold chosen with the truth)": round(values["dice_best"], 3),
    }


def quality(run: runs.Run, folder: Path, listed: Path | None) -> dict[str, Any]:
    """Return measures of whole volumes, and of the listed slices alone."""
    volumes = list(find(run, folder))
    result = measures(volumes)
    rules = {
        "regions": run.calibration.mask_rule(FAR),
        "pixels": pixel_rule(run.calibration.pixel_threshold(FAR)),
    }
    for rule_name, rule in rules.items():
        for name, value in mask_measures(volumes, rule).items():
            result[f"masks by {rule_name}: {name}"] = value

    masks = [volume.mask for volume in volumes]
    found, total, _ = metrics.lesion_sensitivity([volume.heatmap for volume in volumes], masks)
    low, high = clopper_pearson(found, total)
    lesions = f"{found} of {total} ({low:.2f}–{high:.2f})"
    result["lesions found at 1 false positive per volume"] = lesions

    unseen = sum(int(volume.unseen.sum()) for volume in volumes)
    lost = sum(int(volume.mask[volume.unseen].sum()) for volume in volumes)
    result["slices outside what the model has seen"] = unseen
    result["lesion voxels in them"] = f"{lost} of {sum(int(mask.sum()) for mask in masks)}"

    parts = {
        "scored slices": [volume.part(np.flatnonzero(volume.scored).tolist()) for volume in volumes]
    }
    if listed:
        parts["listed slices"] = [
            volume.part(listed_slices(listed, volume.name)) for volume in volumes
        ]
    for part, some in parts.items():
        for name, value in measures(some).items():
            result[f"{part}: {name}"] = value
    return result


def listed_slices(folder: Path, name: str) -> list[int]:
    """Return the numbers of the slices of a volume that a folder has as images."""
    return sorted(int(path.stem[-2:]) for path in folder.rglob(f"{name}_[0-9][0-9].png"))


def synthetic(path: Path, depth: int, seed: int = 0) -> None:
    """Write a volume of 16 bits that looks like a head."""
    rng = np.random.default_rng(seed)
    sides = [np.linspace(-1, 1, side) for side in (*SHAPE[:2], depth)]
    x, y, z = np.meshgrid(*sides, indexing="ij", sparse=True)
    inside = (x / 0.8) ** 2 + (y / 0.9) ** 2 + (z * 0.8) ** 2 < 1

    coarse = rng.normal(size=(32, 32)).astype(np.float32)
    texture: Floats = resize(coarse[None], *SHAPE[:2])[0]
    brain = 1000 + 100 * texture[..., None] + 30 * rng.normal(size=inside.shape)
    array = np.where(inside, brain, 20).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def peak(run: Path, paths: list[Path], out: Path) -> float:
    """Return the peak memory in MB of a process that scores volumes."""
    command = [sys.executable, "-m", "anodetect.cli", "score", str(run), *map(str, paths)]
    command += ["--out", str(out), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["peak_memory_mb"])


def bare_model(model: Model, volume: PreparedVolume) -> Callable[[], object]:
    """Return a function that scores a volume without reading or writing anything."""
    if model.tiling.dims == 3:
        return lambda: model.score_volume(volume)

    images, prepared = [], []
    for number in volume.numbers:
        image = np.ascontiguousarray(volume.slices[:, number])
        images.append(image)
        prepared.append(model.prepare(image, volume, number))

    def score() -> None:
        for start in range(0, len(images), model.batch_size):
            chunk = slice(start, start + model.batch_size)
            model.score(images[chunk], prepared[chunk], volume.numbers[chunk].tolist())

    return score


def speed(path: Path) -> dict[str, Any]:
    """Return seconds for a volume, and memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = [folder / f"{number}.nii.gz" for number in range(MANY)]
        for number, file in enumerate(paths):
            synthetic(file, SHAPE[2], seed=number)
        synthetic(folder / "few.nii.gz", 4)

        model = Model.load(runs.read(path), "auto")
        loaded = load(Record("0", paths[0]), model.preprocess, model.prepare)
        assert isinstance(loaded, LoadedVolume), loaded
        score = bare_model(model, loaded.volume)
        seconds = timed(path, score, paths, folder)
        few = peak(path, [folder / "few.nii.gz"], folder / "few")
        many = peak(path, paths[:2], folder / "many")

    bare = seconds.pop("bare model")
    result: dict[str, Any] = {
        "slices scored": len(loaded.volume.numbers),
        "bare model, seconds a volume": round(bare, 2),
    }
    for name, value in seconds.items():
        result[f"score, {name}, seconds a volume"] = round(value, 2)
        result[f"score, {name}, against the bare model"] = round(value / bare, 2)
    return result | {
        "peak MB, a volume of 4 slices": round(few),
        "peak MB, two volumes": round(many),
        "difference in volumes of float32": round((many - few) * 1e6 / (4 * np.prod(SHAPE)), 1),
    }


def timed(
    run: Path, score: Callable[[], object], paths: Sequence[Path], folder: Path
) -> dict[str, float]:
    """Return the median seconds a volume of the bare model, `score`, and of the command's ways."""
    ways = {"two in one process": (paths[:2], 1), f"{MANY} on all cores": (paths, None)}
    taken: dict[str, list[float]] = {"bare model": []}
    for turn in range(REPEATS):
        start = time.monotonic()
        score()
        taken["bare model"].append(time.monotonic() - start)

        for name, (files, workers) in ways.items():
            out = folder / f"{turn} {name}"
            result = anodetect.score(run, [str(file) for file in files], out, workers=workers)
            seconds = result.seconds - result.seconds_to_first
            taken.setdefault(name, []).append(seconds / len(files))
    return {name: median(values) for name, values in taken.items()}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--listed", type=Path)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    result: dict[str, Any] = {}
    if arguments.data:
        result |= quality(runs.read(arguments.run), arguments.data, arguments.listed)
    if arguments.speed:
        result |= speed(arguments.run)
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
