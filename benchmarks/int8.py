"""The U-Net of `anoddpm` on pixels in 8 bits, with ONNX Runtime, against what `score` does.

    python -m benchmarks.int8 RUN DATA [--all] [--turns 10] [--json]

RUN is an `anoddpm` on pixels, or an ensemble with one. Its convolutions get weights of 8 bits for
each channel, and activations of 8 bits with the ranges of 64 normal images of DATA's train part;
the first and the last one stay as they are, unless with --all. Printed are the image AUROC of that
model or member on DATA's labelled images with either network, the correlation of both scores, the
largest difference of heatmaps (a share of the highest value), and the milliseconds of one core of a
pass of 16 images, medians of turns. It needs the extra `onnx`.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anodetect.data import cards
from anodetect.data.records import Record
from anodetect.detectors.anoddpm import AnoDDPM
from anodetect.generative import diffusion
from anodetect.imaging.representations import Expert
from anodetect.model.loading import LoadedImage, load
from anodetect.model.model import Model
from anodetect.nn.inference import autocast
from anodetect.record import runs
from anodetect.stats.metrics import auroc
from anodetect.types import Batch, Floats, image_seeds
from benchmarks import common

CALIBRATED_ON = 64  # images
ROWS = 16  # of a batch


class Eightbit(nn.Module):
    """Computes an ONNX file on one thread in place of a network."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        inputs = {"x": x.float().contiguous().numpy(), "t": t.numpy()}
        return torch.from_numpy(self.session.run(None, inputs)[0])


def member(model: Model) -> Expert:
    """Return the `anoddpm` with a U-Net that a model is or has; StopIteration if there is none."""
    experts = getattr(model.detector, "experts", ())
    alone = Expert(model.representation, model.detector)
    return next(
        each
        for each in (*experts, alone)
        if isinstance(each.detector, AnoDDPM) and each.detector.config.network == "unet"
    )


def seen(model: Model, expert: Expert, records: Sequence[Record]) -> tuple[Batch, list[int]]:
    """Return what a member sees of the images that can be read, and their labels."""
    images, inside, labels = [], [], []
    for record in records:
        loaded = load(record, model.preprocess)
        if not isinstance(loaded, LoadedImage):
            continue
        scaled = model.framed(*model.preprocess.apply(loaded.image, loaded.of, 0))
        ((image, foreground),) = expert.encode_each([scaled])
        images.append(image)
        inside.append(foreground)
        labels.append(record.label or 0)
    return Batch(np.stack(images), np.stack(inside)), labels


class Normals:
    """Yields noised images and their steps, as a `CalibrationDataReader` does."""

    def __init__(self, detector: AnoDDPM, images: Floats) -> None:
        self.inputs = self._inputs(detector, images)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.inputs, None)

    @staticmethod
    def _inputs(detector: AnoDDPM, images: Floats) -> Iterator[dict[str, Any]]:
        for first in range(0, len(images) - ROWS + 1, ROWS):
            x = torch.from_numpy(images[first : first + ROWS])
            for step in detector.config.lambdas:
                t = diffusion.steps_for(x, step)
                a = diffusion.alpha_bar(detector.denoiser.schedule, t, x.dim())
                yield {"x": (a.sqrt() * x).numpy(), "t": t.numpy()}


def in_eight_bits(
    detector: AnoDDPM, normal: Floats, folder: Path, *, all_of_them: bool
) -> Eightbit:
    """Return the network of a detector with convolutions in 8 bits: all, or without the first and
    the last."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    x = torch.from_numpy(normal[:ROWS])
    plain, quantised = folder / "plain.onnx", folder / "quantised.onnx"
    net, names = detector.denoiser.net, {"input_names": ["x", "t"], "output_names": ["y"]}
    inputs = (x, diffusion.steps_for(x, 1))
    torch.onnx.export(net, inputs, str(plain), dynamo=False, **names)  # type: ignore[arg-type]
    nodes = [node.name for node in onnx.load(str(plain)).graph.node if node.op_type == "Conv"]
    quantize_static(
        plain,
        quantised,
        Normals(detector, normal),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=[] if all_of_them else [nodes[0], nodes[-1]],
    )
    return Eightbit(quantised)


@torch.no_grad()
def milliseconds(nets: dict[str, nn.Module], x: Tensor, turns: int) -> dict[str, float]:
    """Return the milliseconds of one core of a pass of each network, medians of turns."""
    t = diffusion.steps_for(x, 10)
    times: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(turns):
        for name, net in nets.items():
            start = time.process_time()
            with autocast(x.device):
                net(x, t)
            times[name].append((time.process_time() - start) * 1e3)
    return {f"milliseconds, {name}": round(median(each), 1) for name, each in times.items()}


def compared(run: Path, data: str, turns: int, *, all_of_them: bool) -> dict[str, Any]:
    """Return AUROCs, differences and times of both networks."""
    torch.set_num_threads(1)
    model, dataset = Model.load(runs.read(run), "cpu"), cards.open_data(data)
    expert = member(model)
    detector = expert.detector
    assert isinstance(detector, AnoDDPM)
    batch, labels = seen(model, expert, dataset.labelled())
    training = [each for each in dataset.records if each.split == "train" and not each.label]
    normal, _ = seen(model, expert, training[:CALIBRATED_ON])

    net, seeds = detector.denoiser.net, image_seeds(list(batch.images))
    with tempfile.TemporaryDirectory() as folder:
        made = in_eight_bits(detector, normal.images, Path(folder), all_of_them=all_of_them)
        nets = {"now": net, "8 bits": made}
    result, found = milliseconds(nets, torch.from_numpy(batch.images[:ROWS]), turns), {}
    for name, each in nets.items():
        detector.denoiser.net = each
        found[name] = detector.score(batch, seeds=seeds)
        scores = found[name].image.astype(np.float64)
        result[f"AUROC, {name}"] = round(auroc(np.array(labels), scores), 4)

    one, other = found.values()
    difference = np.abs(one.heatmap - other.heatmap).max() / one.heatmap.max()
    return result | {
        "images": len(labels),
        "correlation of scores": round(float(np.corrcoef(one.image, other.image)[0, 1]), 5),
        "largest difference of heatmaps": round(float(difference), 4),
    }


def main() -> None:
    parser: argparse.ArgumentParser = common.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data")
    parser.add_argument("--all", action="store_true", help="also the first and the last")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = compared(arguments.run, arguments.data, arguments.turns, all_of_them=arguments.all)
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
