"""Is this a digit that my classifier knows? It has learned 0 to 7; 8 and 9 it has never seen.

    python examples/classifier.py --out DIR [--seed N]

A small network learns scikit-learn's digits, is written to an ONNX file, and becomes a detector.
Printed are the AUROC of known digits against unknown ones for each of its scores, and how reliable
its probabilities are. classifier.png shows both.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import anodetect
from anodetect.commands.results import EvaluateResult
from anodetect.output.drawing import Figure, in_own_style
from anodetect.stats.reliability import Reliability

KNOWN = 8  # classes: the digits below
SIDE = 16
SCORES = ("free_energy", "max_softmax", "gradient")
BLUE, RED, INK = "#1f5f99", "#c8324a", "#222b36"


@dataclass(frozen=True)
class Digits:
    """Pictures of digits, uint8 [N, 16, 16], with what each shows, [N]."""

    pictures: NDArray[np.uint8]
    shown: NDArray[np.int64]

    def __getitem__(self, rows: NDArray[Any]) -> "Digits":
        return Digits(self.pictures[rows], self.shown[rows])


def digits(seed: int) -> tuple[Digits, Digits, Digits]:
    """Return known digits to train the classifier on, known ones to calibrate with, and both known
    and unknown ones to test."""
    data = load_digits()
    pictures = np.round(data.images * 255 / 16).astype(np.uint8)
    everything = Digits(pictures.repeat(2, 1).repeat(2, 2), data.target)
    order = np.random.default_rng(seed).permutation(len(data.target))
    known = order[data.target[order] < KNOWN]
    unknown = order[data.target[order] >= KNOWN]

    half, three_quarters = len(known) // 2, 3 * len(known) // 4
    tested = np.concatenate([known[three_quarters:], unknown])
    return everything[known[:half]], everything[known[half:three_quarters]], everything[tested]


def trained(training: Digits, seed: int) -> MLPClassifier:
    """Return a classifier of pictures [N, 256] from 0 to 1."""
    net = MLPClassifier((64,), alpha=0.1, max_iter=400, random_state=seed)
    return net.fit(training.pictures.reshape(-1, SIDE**2) / 255, training.shown)


def write_onnx(net: MLPClassifier, file: Path) -> None:
    """Write the network, up to its logits, for images [N, 1, 16, 16] from 0 to 1."""
    nodes, constants = [helper.make_node("Flatten", ["images"], ["layer0"])], []
    for number, (weight, bias) in enumerate(zip(net.coefs_, net.intercepts_, strict=True)):
        last = number == len(net.coefs_) - 1
        names = [f"layer{number}", f"weight{number}", f"bias{number}"]
        constants.append(numpy_helper.from_array(weight.astype(np.float32), names[1]))
        constants.append(numpy_helper.from_array(bias.astype(np.float32), names[2]))
        nodes.append(helper.make_node("Gemm", names, ["logits" if last else f"sum{number}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"sum{number}"], [f"layer{number + 1}"]))

    shape = ["N", 1, SIDE, SIDE]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", KNOWN])
    graph = helper.make_graph(nodes, "digits", [images], [logits], constants)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(file))


def write_data(calibrating: Digits, tested: Digits, folder: Path) -> None:
    """Write pictures and a manifest in which a digit is a kind, and an unknown one anomalous."""
    folder.mkdir(parents=True)
    lines = ["path,split,label,kind"]
    for split, part in (("train", calibrating), ("test", tested)):
        for number, (picture, shown) in enumerate(zip(part.pictures, part.shown, strict=True)):
            name = f"{split}{number:04d}.png"
            Image.fromarray(picture).save(folder / name)
            lines.append(f"{name},{split},{int(shown >= KNOWN)},{shown}")
    (folder / "manifest.csv").write_text("\n".join([*lines, ""]))


def measured(file: Path, data: Path, run: Path, score: str) -> EvaluateResult:
    """Make a run of the classifier with one of its scores, and evaluate it."""
    values = {
        "file": str(file),
        "score": score,
        "size": SIDE,
        "classes": [str(digit) for digit in range(KNOWN)],
    }
    anodetect.train(str(data), "classifier", run, values=values)
    return anodetect.evaluate(run, str(data))


@in_own_style
def draw(reliability: Reliability, scores: NDArray[np.float64], labels: NDArray[np.int64]) -> Any:
    """Return a figure of the reliability diagram, and of free energies by label."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    filled = [each for each in reliability.bins if each.count]
    left.plot([0, 1], [0, 1], ":", color=INK, linewidth=1, label="as sure as right")
    left.bar(
        [each.confidence for each in filled],
        [each.accuracy for each in filled],
        0.07,
        color=BLUE,
        label="correct",
    )
    for each in filled:
        left.text(each.confidence, each.accuracy, str(each.count), ha="center", va="bottom")
    left.set(
        xlabel="confidence of known digits, with their number",
        ylabel="share that is correct",
        xlim=(0, 1.05),
        ylim=(0, 1.3),
    )
    left.set_title(f"reliability: ECE {reliability.ece:.3f}", fontsize=10)
    left.legend(frameon=False, fontsize=9, loc="upper left")

    edges = np.linspace(scores.min(), scores.max(), 40)
    right.hist(scores[labels == 0], edges, color=BLUE, alpha=0.7, label="0 to 7, known")
    right.hist(scores[labels == 1], edges, color=RED, alpha=0.7, label="8 and 9, unknown")
    right.set(xlabel="free energy", ylabel="digits")
    right.legend(frameon=False, fontsize=9, loc="upper right")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the classifier, measure each of its scores, and write everything to a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)

    training, calibrating, tested = digits(given.seed)
    data, file = given.out / "digits", given.out / "digits.onnx"
    write_data(calibrating, tested, data)
    write_onnx(trained(training, given.seed), file)

    results = {}
    for score in SCORES:
        results[score] = measured(file, data, given.out / score, score)
        auroc = results[score].whole.image["auroc"]
        print(f"{score}: AUROC {auroc.value:.3f} [{auroc.low:.3f}, {auroc.high:.3f}]")
    found = results[SCORES[0]].classifier
    assert found is not None
    whole = found.reliability
    print(
        f"{whole.count} known digits: accuracy {whole.accuracy:.3f}, ECE {whole.ece:.3f}, best "
        f"calibrated at temperature {found.temperature:.2f}"
    )

    anodetect.score(given.out / SCORES[0], [str(data)], given.out / "scores", heatmaps=())
    table = pq.read_table(given.out / "scores" / "scores.parquet")
    figure = draw(whole, table["score"].to_numpy(), table["label"].to_numpy().astype(np.int64))
    figure.savefig(given.out / "classifier.png", dpi=110)
    print(given.out / "classifier.png")


if __name__ == "__main__":
    main()
