"""Small changes of images: does the detector still tell normal images from anomalous ones?

    python -m benchmarks.robustness BENCH [--images 60] [--budgets 1,2,4,8] [--json]

BENCH is the directory of an `anodetect benchmark` of data cards; its runs of seed 0 are looked at.
Each column is the image AUROC of up to so many normal and anomalous test images each, after one
change that is made alike in all of them. `PGD k` is an attack with budget k: each value that the
detector is given may move by k/255 of the range of intensities, and ten steps of projected gradient
ascent (Madry et al., 2018) make normal images look anomalous and anomalous ones normal. Gradients
are those of the image's score, as the run's one pass has it; of an ensemble, those of the members'
scores as a product of experts, and of `ncsn`, which has no such pass, those of its maps before they
are standardised. An AUROC of 0 is a complete success of the attack. `vq` has no gradients, and is
not attacked.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from anodetect.data import cards
from anodetect.detectors.ensemble import Ensemble
from anodetect.detectors.ncsn import NCSN
from anodetect.errors import ImageError
from anodetect.generative import diffusion, scores
from anodetect.imaging.features import Features, averaged_over, on_finest_grid
from anodetect.imaging.pixels import Pixels
from anodetect.imaging.representations import Representation
from anodetect.model.model import Model
from anodetect.nn.single_pass import Pass
from anodetect.record import runs
from anodetect.types import Detector, Encoded, Floats, OnePass
from benchmarks import common
from benchmarks.sanity import auroc, some
from benchmarks.sanity import scores as image_scores

BUDGETS = "1,2,4,8"  # of the attack, in 255ths of the range; "" for none
STEPS = 10  # of the attack
TOP = 0.02  # of the values of a map, whose mean is attacked
TINY = 1e-12

Objective = Callable[[Tensor], Tensor]  # a prepared image [1, C, H, W] → a scalar
Change = Callable[[Floats, float, np.random.Generator], Floats]  # of an image with its range


# -- Changes of images -----------------------------------------------------------------------------


def noisy(image: Floats, span: float, rng: np.random.Generator) -> Floats:
    """Return an image with Gaussian noise of 5 % of the range."""
    noise = rng.standard_normal(image.shape).astype(np.float32)
    return image + np.float32(0.05 * span) * noise


def blurred(image: Floats, span: float, rng: np.random.Generator) -> Floats:
    """Return an image blurred by a Gaussian of 1/128 of its longer side."""
    sigma = max(image.shape[1:]) / 128
    smooth: Floats = ndimage.gaussian_filter(image, (0, sigma, sigma))
    return smooth


def brighter(image: Floats, span: float, rng: np.random.Generator) -> Floats:
    """Return an image that is brighter by 10 % of the range."""
    return image + np.float32(0.1 * span)


def compressed(image: Floats, span: float, rng: np.random.Generator) -> Floats:
    """Return an image after JPEG compression with quality 50, each channel by itself."""
    low = image.min()
    restored = []
    for channel in image:
        grey = np.clip((channel - low) / span * 255, 0, 255).round().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(grey).save(file, "JPEG", quality=50)
        restored.append(np.asarray(Image.open(file), np.float32) / 255 * span + low)
    return np.stack(restored).astype(np.float32)


def shifted(image: Floats, span: float, rng: np.random.Generator) -> Floats:
    """Return an image moved by 3 % of its sides, its edges repeated."""
    distances = (0, image.shape[1] * 0.03, image.shape[2] * 0.03)
    moved: Floats = ndimage.shift(image, distances, order=1, mode="nearest")
    return moved


CHANGES: dict[str, Change] = {
    "noise": noisy,
    "blur": blurred,
    "brightness": brighter,
    "JPEG": compressed,
    "shift": shifted,
}


# -- Attacks ---------------------------------------------------------------------------------------


def objective_of(
    detector: Detector, representation: Representation, channels: int
) -> Objective | None:
    """Return what is attacked, a function of a prepared image [1, C, H, W] that rises with its
    score; None where there are no gradients."""
    if isinstance(detector, Ensemble):
        return product_of_experts(detector, channels)
    encode = encoder_of(representation)
    if encode is None:
        return None
    if isinstance(detector, NCSN):
        return lambda x: sizes_of_scores(detector, encode(x))
    if not isinstance(detector, OnePass):
        return None
    score: Pass = detector.one_pass(representation.shape_of(channels))
    return lambda x: score(encode(x))[0][0]


def product_of_experts(ensemble: Ensemble, channels: int) -> Objective | None:
    """Return the weighted sum of the logarithms of members' scores; None if one has no gradients,
    or sees some of the channels."""
    objectives = []
    for expert, weight in zip(ensemble.experts, ensemble.weights, strict=True):
        own = objective_of(expert.detector, expert.representation, channels)
        if weight > 0 and (own is None or expert.planes is not None):
            return None
        if weight > 0 and own is not None:
            objectives.append((weight, own))

    def joined(x: Tensor) -> Tensor:
        total = torch.zeros(())
        for weight, own in objectives:
            total = total + weight * own(x).clamp_min(TINY).log()
        return total

    return joined


def sizes_of_scores(detector: NCSN, x: Tensor) -> Tensor:
    """Return the mean of the highest values of σ‖s(x, σ)‖, summed over the levels of noise."""
    total = torch.zeros_like(x[:, 0])
    for number, sigma in enumerate(detector.sigmas, 1):
        score = scores.denoiser_score(detector.net, x, diffusion.steps_for(x, number))
        total = total + sigma * score.square().sum(1).clamp_min(TINY).sqrt()
    return total.flatten().topk(max(1, round(TOP * total.numel()))).values.mean()


def encoder_of(representation: Representation) -> Callable[[Tensor], Tensor] | None:
    """Return the function with gradients from prepared images to what the detector is given. It
    takes larger images, too, as an ensemble's members do."""
    if isinstance(representation, Pixels):
        return lambda x: on_side(x, representation.config.size)
    if not isinstance(representation, Features):
        return None

    mean = torch.from_numpy(representation.mean)[:, None, None]
    deviation = torch.from_numpy(representation.deviation)[:, None, None]
    side = representation.config.neighbours

    def encode(x: Tensor) -> Tensor:
        seen = on_side(x, representation.side).expand(-1, 3, -1, -1)
        averaged = [averaged_over(layer, side) for layer in representation.backbone.net(seen)]
        return (on_finest_grid(averaged) - mean) / deviation

    return encode


def on_side(x: Tensor, side: int) -> Tensor:
    """Return images [N, C, H, W] on a square grid."""
    if x.shape[-2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True)


def attacked(objective: Objective, image: Floats, budget: float, towards: int, seed: int) -> Floats:
    """Return a prepared image [C, H, W] within `budget` of what it was, its score raised
    (`towards` 1) or lowered (−1)."""
    original = torch.from_numpy(image)[None]
    rng = torch.Generator().manual_seed(seed)
    change = budget * (2 * torch.rand(original.shape, generator=rng) - 1)

    for _ in range(STEPS):
        change.requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(original + change), change)
        change = change.detach() + towards * 2.5 * budget / STEPS * gradient.sign()
        change = change.clamp(-budget, budget)
    result: Floats = (original + change)[0].numpy()
    return result


# -- The table -------------------------------------------------------------------------------------


def scores_of_prepared(model: Model, images: Sequence[Floats], given: Sequence[Encoded]) -> Floats:
    """Return image scores of prepared images; `images` are those they were made of."""
    found = []
    for start in range(0, len(given), model.batch_size):
        part = slice(start, start + model.batch_size)
        found.append(model.score(images[part], given[part]).image)
    values: Floats = np.concatenate(found)
    return values


def attacks(
    model: Model, normal: Sequence[Floats], odd: Sequence[Floats], budgets: Sequence[int]
) -> dict[str, float]:
    """Return the AUROC after attacks of each budget; nothing where there are no gradients."""
    channels = len(model.prepare(normal[0])[0])
    objective = objective_of(model.detector, model.representation, channels)
    if objective is None or model.tiling.tile or not budgets:
        return {}

    model.without_cache()
    result = {}
    for budget in budgets:
        values = []
        for images, towards in ((normal, 1), (odd, -1)):
            given = []
            for number, image in enumerate(images):
                prepared, inside = model.prepare(image)
                moved = attacked(objective, prepared, budget * 2 / 255, towards, number)
                given.append((moved, inside))
            values.append(scores_of_prepared(model, images, given).tolist())
        result[f"PGD {budget}"] = auroc(*values)
    return result


def readable(model: Model, images: Sequence[Floats]) -> list[Floats]:
    """Return the images that the model does not refuse."""
    kept = []
    for image in images:
        try:
            model.prepare(image)
        except ImageError:
            continue
        kept.append(image)
    return kept


def measured(
    path: Path, normal: Sequence[Floats], odd: Sequence[Floats], budgets: Sequence[int]
) -> dict[str, float]:
    """Return the AUROC of a run on images as they are, and after each change and attack."""
    model = Model.load(runs.read(path), "cpu")
    normal, odd = readable(model, normal), readable(model, odd)
    result = {"as it is": auroc(image_scores(model, normal), image_scores(model, odd))}

    span = float(max(image.max() for image in normal) - min(image.min() for image in normal))
    for name, change in CHANGES.items():
        rng = np.random.default_rng(0)
        changed = []
        for images in (normal, odd):
            changed.append(image_scores(model, [change(image, span, rng) for image in images]))
        result[name] = auroc(*changed)
    return result | attacks(model, normal, odd, budgets)


def test_images(name: str, most: int) -> tuple[list[Floats], list[Floats]]:
    """Return normal and anomalous test images of a data set, so many of each at most."""
    labelled = cards.open_data(name).labelled()
    normal = some([record for record in labelled if record.label == 0], most)
    return normal, some([record for record in labelled if record.label == 1], most)


def as_row(title: Sequence[str], found: Mapping[str, float], columns: Sequence[str]) -> str:
    cells = list(title)
    for column in columns:
        cells.append(f"{found[column]:.3f}" if column in found else "–")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("bench", type=Path)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--budgets", default=BUDGETS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    budgets = [int(budget) for budget in arguments.budgets.split(",") if budget]
    columns = ["as it is", *CHANGES, *(f"PGD {budget}" for budget in budgets)]
    if not arguments.json:
        print(f"| data set | detector | sees | {' | '.join(columns)} |")
        print("|---|---|---|" + "---|" * len(columns))

    images: dict[str, tuple[list[Floats], list[Floats]]] = {}
    result = {}
    for path in sorted((arguments.bench / "runs").iterdir()):
        if not path.is_dir() or not path.name.endswith("-0"):
            continue
        facts = runs.facts(path)
        if facts.data not in images:
            images[facts.data] = test_images(facts.data, arguments.images)
        found = measured(path, *images[facts.data], budgets)
        result[path.name] = found
        if not arguments.json:
            detector = path.name.rsplit("-", 2)[1]  # of an ensemble, what it was made of
            title = [facts.data, f"`{detector}`", facts.representation]
            print(as_row(title, found, columns), flush=True)
    if arguments.json:
        common.show(result, as_json=True)


if __name__ == "__main__":
    main()
