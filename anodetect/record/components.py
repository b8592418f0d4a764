"""The components of a run's fit images, components.json: clusters that a detector found among them,
such as mixed products or mixed scanners."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from anodetect.files import write_atomic
from anodetect.record.objects import object_of
from anodetect.words import amount

COMPONENTS_FILE = "components.json"
EXAMPLES = 3  # names that are kept of each component


@dataclass(frozen=True)
class Cluster:
    """A cluster of so many fit images, and the names of its first ones."""

    images: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Components:
    """The clusters of the fit images, and how many images are `outside` all of them."""

    clusters: tuple[Cluster, ...]
    outside: int

    def sentence(self) -> str:
        """Return the components in a sentence."""
        found = []
        for each in self.clusters:
            more = ", …" if each.images > len(each.examples) else ""
            found.append(f"{amount(each.images, 'image')} ({', '.join(each.examples)}{more})")
        outside = f"; {amount(self.outside, 'image')} in none of them" if self.outside else ""
        return f"components of the fit images: {' · '.join(found)}{outside}"

    def as_json(self) -> dict[str, Any]:
        """Return the components as `train --json` prints them."""
        clusters = [asdict(each) | {"examples": list(each.examples)} for each in self.clusters]
        return {"clusters": clusters, "outside": self.outside}


def write_components(workdir: Path, components: Components) -> None:
    """Write components.json into the directory of a run."""
    text = json.dumps(components.as_json(), indent=1) + "\n"
    write_atomic(workdir / COMPONENTS_FILE, text)


def read_components(run: Path) -> Components | None:
    """Return the components of a run, None if it has none; RunError if they cannot be read."""
    file = run / COMPONENTS_FILE
    if not file.is_file():
        return None
    return object_of(file, TypeAdapter(Components))


def named_components(numbers: NDArray[np.int64], names: Sequence[str]) -> Components:
    """Return the components of images with these names.

    `numbers` has the cluster of each image, or the same number of them for each image, as of its
    tiles: it is then in the one that most of them are in. It is −1 outside all clusters.
    """
    of_image = np.empty(len(names), np.int64)
    for row, own in enumerate(numbers.reshape(len(names), -1)):
        of_image[row] = np.bincount(own + 1).argmax() - 1

    clusters = []
    for number in range(int(numbers.max()) + 1):
        (rows,) = np.nonzero(of_image == number)
        examples = tuple(names[row] for row in rows[:EXAMPLES])
        clusters.append(Cluster(len(rows), examples))
    return Components(tuple(clusters), int((of_image < 0).sum()))
