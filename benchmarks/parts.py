"""Whether energies of learned parts find defects: COMET on made-up images.

    python -m benchmarks.parts [--parts 3] [--steps 1500] [--seed 0] [--out PICTURE.png]

An encoder makes k vectors z of an image x, and one network has the energy of an image given any of
them. What these say of x is where a descent on the sum of energies leads from noise (COMET, Du et
al., NeurIPS 2021):

    x_t+1 = x_t − λ ∇ Σ_k E(x_t, z_k),   t = 0 … T−1

Encoder, energy and λ are learned through all T steps by |x − x_T|². A map of part k is the local
energy of x given z_k, and that of all together |x − x_T|. Shown is how well each of them tells
images with a defect from images without; a row is the mean of its highest 2 %. Correlated parts
have learned the same: the last figure is that of the descents on one energy alone.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from anodetect.data import synthetic
from anodetect.types import Floats
from benchmarks import common

SIDE, TRAIN, TEST, BATCH = 32, 400, 100, 16
VALUES, WIDTH = 16, 32  # of a vector z, and channels of the networks
DESCENT = 10  # steps T
TOP = 0.02
SHOWN = 6  # images of the picture


class Parts(nn.Module):
    """An encoder into `parts` vectors, and an energy at every place of an image given a vector."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.places: Tensor
        self.parts = parts
        self.encoder = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(WIDTH * (SIDE // 8) ** 2, parts * VALUES),
        )
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs, WIDTH, 5, padding=2) for inputs in (3, WIDTH, WIDTH)
        )
        self.given = nn.ModuleList(nn.Linear(VALUES, 2 * WIDTH) for _ in self.layers)
        self.last = nn.Conv2d(WIDTH, 1, 1)
        self.log_rate = nn.Parameter(torch.tensor(0.0))
        line = torch.linspace(-1, 1, SIDE)
        self.register_buffer("places", torch.stack(torch.meshgrid(line, line, indexing="ij"))[None])

    def encode(self, x: Tensor) -> Tensor:
        """Return the vectors [N, parts, VALUES] of images [N, 1, H, W]."""
        vectors: Tensor = self.encoder(x).reshape(len(x), self.parts, VALUES)
        return vectors

    def local_energy(self, x: Tensor, z: Tensor) -> Tensor:
        """Return E [N, H, W] of images given a vector [N, VALUES] each."""
        h = torch.cat([x, self.places.expand(len(x), -1, -1, -1)], 1)  # rows and columns, too
        for layer, given in zip(self.layers, self.given, strict=True):
            scale, shift = given(z)[:, :, None, None].chunk(2, 1)
            h = nn.functional.silu(layer(h) * (1 + scale) + shift)
        energy: Tensor = self.last(h)[:, 0].square()
        return energy

    def descend(self, x: Tensor, vectors: Tensor, *, learning: bool) -> Tensor:
        """Return where the descent on the energies of some vectors [N, k, VALUES] leads from x."""
        for _ in range(DESCENT):
            x = x if learning and x.requires_grad else x.detach().requires_grad_(True)
            energy = torch.stack([self.local_energy(x, z) for z in vectors.unbind(1)]).sum()
            (slope,) = torch.autograd.grad(energy, x, create_graph=learning)
            x = x - self.log_rate.exp() * slope
        return x if learning else x.detach()


def noise(count: int, seed: int) -> Tensor:
    """Return where descents begin."""
    rng = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(count, 1, SIDE, SIDE, generator=rng)


def images(count: int, *, defects: bool, seed: int) -> Tensor:
    """Return made-up images of shade, stripes and grain, from −1 to 1."""
    pixels, _ = synthetic.images(count, size=SIDE, defects=defects, seed=seed)
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1)


def trained(parts: int, steps: int, seed: int) -> Parts:
    """Return the networks after so many steps."""
    torch.manual_seed(seed)
    net, data = Parts(parts), images(TRAIN, defects=False, seed=seed)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for step in range(steps):
        x = data[torch.randint(TRAIN, (BATCH,))]
        made = net.descend(noise(BATCH, seed * steps + step), net.encode(x), learning=True)
        loss = (made - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: {loss.item():.4f}", flush=True)
    return net.eval().requires_grad_(False)


def maps_of(net: Parts, x: Tensor) -> dict[str, Tensor]:
    """Return the map [N, H, W] of each part, and that of all together."""
    vectors = net.encode(x)
    found = {}
    for number, z in enumerate(vectors.unbind(1), 1):
        found[f"part {number}"] = net.local_energy(x, z)
    restored = net.descend(noise(len(x), 0), vectors, learning=False)
    found["all together"] = (x - restored)[:, 0].abs()
    return found


def peaks(maps: Tensor) -> Floats:
    """Return the mean of the highest values of each map."""
    values = maps.flatten(1)
    found: Floats = values.topk(max(1, round(TOP * values.shape[1]))).values.mean(1).numpy()
    return found


def alone(net: Parts, x: Tensor) -> list[Tensor]:
    """Return where the descent on the energy of each part alone leads, [N, 1, H, W] each."""
    vectors, start = net.encode(x), noise(len(x), 0)
    return [
        net.descend(start, vectors[:, number : number + 1], learning=False)
        for number in range(net.parts)
    ]


def picture(net: Parts, x: Tensor) -> Image.Image:
    """Return a row for each image: itself, what all parts make of it, and what each alone does."""
    together = net.descend(noise(len(x), 0), net.encode(x), learning=False)
    columns = torch.cat([x, together, *alone(net, x)], 1)
    rows = columns.permute(0, 2, 1, 3).reshape(len(x) * SIDE, -1)
    grey: NDArray[np.uint8] = ((rows.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    return Image.fromarray(grey).resize(
        (4 * grey.shape[1], 4 * grey.shape[0]), Image.Resampling.NEAREST
    )


def main() -> None:
    """Print how well maps tell defects, and how much parts are alike."""
    parser = common.parser(__doc__)
    parser.add_argument("--parts", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    net = trained(arguments.parts, arguments.steps, arguments.seed)
    normal = images(TEST, defects=False, seed=1000 + arguments.seed)
    odd = images(TEST, defects=True, seed=2000 + arguments.seed)
    labels = np.repeat([0, 1], TEST)
    of_odd = maps_of(net, odd)
    for name, maps in maps_of(net, normal).items():
        found = np.concatenate([peaks(maps), peaks(of_odd[name])])
        print(f"{name:<14}{roc_auc_score(labels, found):.3f}")

    for one, other in itertools.combinations(alone(net, normal), 2):
        pair = np.corrcoef(one.flatten().numpy(), other.flatten().numpy())
        print(f"correlation of two parts alone  {pair[0, 1]:.2f}")
    if arguments.out:
        picture(net, torch.cat([normal[: SHOWN // 2], odd[: SHOWN // 2]])).save(arguments.out)


if __name__ == "__main__":
    main()
