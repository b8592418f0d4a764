"""The odd normals of a run, odd.json: fit images that are hardest to explain from the others."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from anodetect.files import write_atomic
from anodetect.record.objects import object_of
from anodetect.words import amount

ODD_FILE = "odd.json"


@dataclass(frozen=True)
class OddImage:
    """An image in the list of odd normals, or the slice `slice` of a volume.

    `rank` counts from 1. `score` says how hard it is to explain: 1 is the typical image. `picture`
    is a JPEG in base 64, "" for none. `left_out` says that nothing was learned from it.
    """

    rank: int
    path: str
    slice: int | None
    group: str
    score: float
    picture: str = ""
    left_out: bool = False


@dataclass(frozen=True)
class OddNormals:
    """The beginning of the list of odd normals.

    `seen_as` names the representation that images were compared in. `looked_at` of `fit_images`
    were compared.
    """

    seen_as: str
    looked_at: int
    fit_images: int
    images: tuple[OddImage, ...]

    @property
    def left_out(self) -> int:
        """The number of images that nothing was learned from."""
        return sum(image.left_out for image in self.images)

    def sentence(self) -> str:
        """Return the first images in a sentence."""
        first = []
        for image in self.images[:3]:
            place = "" if image.slice is None else f" slice {image.slice}"
            first.append(f"{image.path}{place} ({image.score:.2g} ×)")
        some = f"; {amount(self.left_out, 'was', 'were')} left out" if self.left_out else ""
        if self.looked_at < self.fit_images:
            some += f"; {self.looked_at} of {self.fit_images} images were compared"
        return (
            f"odd normals: hardest to explain from the others are {', '.join(first)} the typical "
            f"one, as {self.seen_as}{some}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the list as `train --json` prints it, without pictures."""
        content = asdict(self)
        for image in content["images"]:
            del image["picture"]
        content["images"] = list(content["images"])
        return content


def write_odd(workdir: Path, odd: OddNormals) -> None:
    """Write odd.json into the directory of a run."""
    write_atomic(workdir / ODD_FILE, json.dumps(asdict(odd), indent=1) + "\n")


def read_odd(run: Path) -> OddNormals | None:
    """Return the odd normals of a run, None if it has no list; RunError if it cannot be read."""
    file = run / ODD_FILE
    if not file.is_file():
        return None
    return object_of(file, TypeAdapter(OddNormals))


def with_left_out(odd: OddNormals, count: int) -> OddNormals:
    """Return the list with its first `count` images left out."""
    images = tuple(replace(image, left_out=image.rank <= count) for image in odd.images)
    return replace(odd, images=images)
