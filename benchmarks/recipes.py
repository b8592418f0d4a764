"""Ways to train and read the denoiser of features, compared on cells that may be defective.

    python -m benchmarks.recipes [KIND...] [--steps 300] [--seeds 3] [--out FILE.json]

KIND is `mono` or `poly`, by default both. Normal cells against those with a defect probability of
1/3 and 2/3, which are in no test part: recipes may be chosen on them. All rows have the same images
and the same number of steps; differences to "as it is" are paired over images, the scores of each
seed compared with those of the same seed.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from anodetect.config import build
from anodetect.detectors.anoddpm import ON_FEATURES, AnoDDPM, AnoDDPMConfig
from anodetect.generative import denoiser, diffusion
from anodetect.imaging.features import Features, FeaturesConfig
from anodetect.imaging.intensities import sample_of
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.nn.mlp import Block, LocationMLP
from anodetect.nn.training import TrainingBatch
from anodetect.types import Batch, TrainContext
from benchmarks import common
from benchmarks.planted import batch_of, doubtful_cells

COUNTS = 150, 40, 150, 150  # cells to fit and tune, normal and doubtful ones, at most
SIDE = 160  # pixels, as the network of the features sees cells
BANK, NEAREST, MOST = 2000, 5, 4.0  # places that tell how rare one is, and the most it may count
RESAMPLES = 1000


@dataclass(frozen=True)
class Row:
    """The AUROC of a recipe on cells of one kind, the mean over seeds, and its difference to the
    denoiser as it is, with a 95 % interval over images."""

    kind: str
    recipe: str
    auroc: float
    lowest: float
    highest: float
    difference: float
    low: float
    high: float


# -- Recipes ---------------------------------------------------------------------------------------


class Rare(AnoDDPM):
    """Places count in training by how far they are from others: by inverse density."""

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        rng = np.random.default_rng(context.seed)
        places = fit.images.transpose(0, 2, 3, 1).reshape(-1, fit.images.shape[1])
        self.bank = torch.from_numpy(places[rng.choice(len(places), BANK, replace=False)])
        super().fit(fit, tune, context=context)

    def _loss(self, net: denoiser.Denoiser, batch: TrainingBatch) -> Tensor:
        noisy = denoiser.draw_noise(batch, self.config, self.noise, self.config.crop)
        x0, noise, t = noisy
        places = x0.flatten(2).transpose(1, 2).reshape(-1, x0.shape[1])
        nearest = torch.cdist(places, self.bank).topk(NEAREST + 1, largest=False).values[:, 1:]
        weights = (nearest.mean(1) / nearest.mean()).clamp(max=MOST)
        predicted = net(diffusion.diffuse(x0, noise, t, net.schedule), t)
        error = ((predicted - x0) / net.output_scale(t)).square().mean(1)
        return (error * weights.reshape(error.shape)).mean()


class Orthogonalised(torch.optim.AdamW):
    """Muon (Jordan et al., 2024) for the matrices inside the network, AdamW for the rest."""

    def __init__(self, parameters: Iterator[nn.Parameter], *args: Any, **options: Any) -> None:
        every = list(parameters)
        square = [each for each in every if each.dim() == 2 and each.shape[0] == each.shape[1]]
        taken = set(map(id, square))
        super().__init__([each for each in every if id(each) not in taken], *args, **options)
        self.muon = torch.optim.Muon(square, adjust_lr_fn="match_rms_adamw")

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.muon.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        for group in self.muon.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        self.muon.step()
        return super().step(closure)


class PlacedMLP(LocationMLP):
    """The network is told where in the image a location lies."""

    def __init__(self, inputs: int, outputs: int, width: int, *, blocks: int) -> None:
        super().__init__(inputs, outputs, width, blocks=blocks)
        self.first = Placed(self.first, width)  # type: ignore[assignment]


class Placed(nn.Module):
    """A layer, plus what is learned for each place of a grid that is never cut."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.places = nn.Parameter(torch.zeros(1, (SIDE // 8) ** 2, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) + self.places
        return out


class ContextMLP(LocationMLP):
    """Each block also sees the neighbours of a location, further away in each."""

    def __init__(self, inputs: int, outputs: int, width: int, *, blocks: int) -> None:
        super().__init__(inputs, outputs, width, blocks=blocks)
        self.blocks = nn.ModuleList(Neighbours(width, 2**number) for number in range(blocks))


class Neighbours(Block):
    """A block whose input is a 3 × 3 convolution of each channel by itself."""

    def __init__(self, width: int, apart: int) -> None:
        super().__init__(width)
        self.around = nn.Conv2d(width, width, 3, padding=apart, dilation=apart, groups=width)

    def forward(self, h: Tensor) -> Tensor:
        side = round(h.shape[1] ** 0.5)
        grid = h.transpose(1, 2).reshape(len(h), -1, side, side)
        return super().forward(h + self.around(grid).flatten(2).transpose(1, 2))


@dataclass(frozen=True)
class Recipe:
    """Settings that are not the usual ones, of the detector and of its training, and classes."""

    detector: type[AnoDDPM] = AnoDDPM
    network: type[LocationMLP] = LocationMLP
    optimizer: type[torch.optim.AdamW] = torch.optim.AdamW
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def trained(self, steps: int, seed: int, fit: Batch, tune: Batch) -> AnoDDPM:
        """Return the detector after so many steps."""
        settings: dict[str, Any] = deepcopy(ON_FEATURES)
        settings["training"] |= {"steps": steps, **self.training}
        detector = self.detector(build(AnoDDPMConfig, {**settings, **self.settings}, "recipe"))
        with (
            patch.object(denoiser, "LocationMLP", self.network),
            patch.object(torch.optim, "AdamW", self.optimizer),
            tempfile.TemporaryDirectory() as folder,
        ):
            detector.fit(fit, tune, context=TrainContext(seed, "cpu", Path(folder)))
        return detector


WHOLE = {"crop": 0}
FLOW = {"mode": "latent", "lambdas": (350,)}  # the last step of training
RECIPES = {
    "as it is": Recipe(),
    "start alone": Recipe(training={"steps": 1, "learning_rate": 1e-12}),
    "rare places count more": Recipe(Rare),
    "orthogonalised steps": Recipe(optimizer=Orthogonalised),
    "whole grids": Recipe(settings=WHOLE),
    "places are told": Recipe(network=PlacedMLP, settings=WHOLE),
    "neighbours are seen": Recipe(network=ContextMLP, settings=WHOLE),
    "noise of the flow, two steps": Recipe(settings=FLOW | {"sampler_steps": 2}),
    "noise of the flow, three steps": Recipe(settings=FLOW | {"sampler_steps": 3}),
    "noise of the flow, five steps": Recipe(settings=FLOW | {"sampler_steps": 5}),
    "noise of the flow to 150": Recipe(settings=FLOW | {"sampler_steps": 2, "lambdas": (150,)}),
}


# -- Rows ------------------------------------------------------------------------------------------


def seen(kind: str) -> list[Batch]:
    """Return cells to fit and tune, normal and doubtful ones, as features."""
    images = doubtful_cells(kind, np.random.default_rng(0), COUNTS)
    preprocess = Preprocess(PreprocessConfig())
    preprocess.learn(map(sample_of, images.fit))
    features = Features(FeaturesConfig(size=SIDE, neighbours=3))
    features.without_cache()
    scaled = [preprocess.apply(image) for image in images.fit]
    features.learn(scaled)
    parts = [images.tune, images.normal, images.anomalous]
    others = [[preprocess.apply(image) for image in part] for part in parts]
    return [batch_of(features, part) for part in (scaled, *others)]


def scores(detector: AnoDDPM, batches: list[Batch]) -> NDArray[np.float64]:
    """Return the scores of images, one batch after the other."""
    found = []
    for batch in batches:
        found.append(detector.score(batch, seeds=np.zeros(len(batch), np.uint64)).image)
    return np.concatenate(found).astype(np.float64)


def row(
    kind: str,
    recipe: str,
    labels: NDArray[np.int64],
    found: NDArray[np.float64],
    usual: NDArray[np.float64],
) -> Row:
    """Return the row of a recipe with scores [seeds, images], beside those of the usual one."""

    def aurocs(scored: NDArray[np.float64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.array([roc_auc_score(labels[drawn], own[drawn]) for own in scored])

    everything = np.arange(len(labels))
    own = aurocs(found, everything)
    rng = np.random.default_rng(0)
    normal, odd = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    differences = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rng.choice(normal, len(normal)), rng.choice(odd, len(odd))])
        differences.append((aurocs(found, drawn) - aurocs(usual, drawn)).mean())
    low, high = np.percentile(differences, (2.5, 97.5))
    difference = float((own - aurocs(usual, everything)).mean())
    auroc, lowest, highest = float(own.mean()), float(own.min()), float(own.max())
    return Row(kind, recipe, auroc, lowest, highest, difference, float(low), float(high))


def shown(row: Row) -> str:
    """Return a row as a line."""
    between = f"{row.auroc:.4f} ({row.lowest:.4f} to {row.highest:.4f})"
    gain = f"{row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}]"
    return f"{row.kind:<8}{row.recipe:<28}{between:<28}{gain}"


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON."""
    text = json.dumps([asdict(each) for each in rows], indent=1)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Print a row for each recipe and kind of cells."""
    parser = common.parser(__doc__)
    parser.add_argument("kinds", nargs="*", default=["mono", "poly"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=RECIPES)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    rows = []
    for kind in arguments.kinds:
        fit, tune, *tested = seen(kind)
        labels = np.repeat([0, 1], [len(batch) for batch in tested])
        usual: NDArray[np.float64] | None = None
        for recipe in arguments.recipes:
            found = []
            for seed in range(arguments.seeds):
                detector = RECIPES[recipe].trained(arguments.steps, seed, fit, tune)
                found.append(scores(detector, tested))
            usual = np.stack(found) if usual is None else usual
            rows.append(row(kind, recipe, labels, np.stack(found), usual))
            print(shown(rows[-1]), flush=True)
    if arguments.out:
        write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
