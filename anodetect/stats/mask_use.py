"""Which anomalous images have a mask that pixels can be measured with, and what is wrong with the
others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anodetect.types import Bools
from anodetect.words import amount, first_of

MaskState = Literal["used", "missing", "empty", "wrong"]
SHOWN = 3  # names in a sentence
LARGE = 0.9  # share of an image; a mask that marks more is rarely right


@dataclass(frozen=True)
class MaskUse:
    """The number of masks that were `used`, and the names of the images without one (`missing`),
    with one that marks nothing (`empty`), or that cannot be read or does not fit (`wrong`).

    `large` names those of the used ones that mark more than LARGE of the image: it may be inverted.
    `lossy` counts those of a format that compresses with loss.
    """

    used: int = 0
    missing: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    lossy: int = 0
    large: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """The number of images that were to be measured."""
        return self.used + len(self.missing) + len(self.empty) + len(self.wrong)

    @property
    def in_part(self) -> bool:
        """True if some images have a mask, but not every one has a mask that was used."""
        return self.used < self.total and len(self.missing) < self.total

    def statement(self, shown: int = 0) -> str:
        """Return in words over which images pixels were measured and why not over the others, with
        the first names, as many as are `shown`, of each kind."""
        images = amount(self.total, "anomalous image")
        if len(self.missing) == self.total:
            return f"no pixel metrics: none of {images} has a mask"

        parts = [f"pixel metrics over {self.used} of {images}"]
        for names, one, many in (
            (self.missing, "has no mask", "have no mask"),
            (self.empty, "has a mask that marks nothing", "have masks that mark nothing"),
            (
                self.wrong,
                "has a mask that cannot be read or does not fit",
                "have masks that cannot be read or do not fit",
            ),
        ):
            if names:
                parts.append(amount(len(names), one, many) + _listed(names, shown))
        if self.large:
            masks = amount(len(self.large), "mask marks", "masks mark")
            parts.append(
                f"{masks} more than {LARGE:.0%} of the image and may be inverted"
                + _listed(self.large, shown)
            )
        if self.lossy:
            masks = amount(self.lossy, "mask was", "masks were")
            parts.append(f"{masks} compressed with loss: pixels brighter than the middle count")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return the counts, the statement, and the names by what is wrong with their masks."""
        return {
            "used": self.used,
            "missing": len(self.missing),
            "empty": len(self.empty),
            "wrong": len(self.wrong),
            "large": len(self.large),
            "lossy": self.lossy,
            "statement": self.statement(),
            "images": {
                "missing": list(self.missing),
                "empty": list(self.empty),
                "wrong": list(self.wrong),
                "large": list(self.large),
            },
        }


@dataclass(frozen=True)
class SeenMask:
    """Outcomes for the mask of one image."""

    name: str
    state: MaskState
    lossy: bool
    large: bool = False


def use_of(seen: Sequence[SeenMask]) -> MaskUse:
    """Return the masks of all images together, their names in order."""

    def names(state: MaskState) -> tuple[str, ...]:
        return tuple(sorted(mask.name for mask in seen if mask.state == state))

    return MaskUse(
        used=len(names("used")),
        missing=names("missing"),
        empty=names("empty"),
        wrong=names("wrong"),
        large=tuple(sorted(mask.name for mask in seen if mask.large)),
        lossy=sum(mask.lossy for mask in seen),
    )


def is_large(mask: Bools | None, label: int) -> bool:
    """Return whether the mask of an anomalous image marks more than LARGE of it."""
    return label == 1 and mask is not None and float(mask.mean()) > LARGE


def from_json(content: Mapping[str, Any] | None) -> MaskUse | None:
    """Return what `as_json` wrote; None for None, which older records have."""
    if content is None:
        return None
    images = content["images"]
    return MaskUse(
        used=int(content["used"]),
        missing=tuple(images["missing"]),
        empty=tuple(images["empty"]),
        wrong=tuple(images["wrong"]),
        large=tuple(images.get("large", ())),
        lossy=int(content["lossy"]),
    )


def _listed(names: Sequence[str], shown: int) -> str:
    """Return the first names in brackets, and how many more there are; "" if none are shown."""
    return f" ({first_of(names, shown)})" if shown else ""
