"""The kinds of images that a model has learned from, so that others are noticed.

A score is a false-alarm probability only for images like those of the calibration. What differs is
said in an image's row; what cannot be judged at all, such as a CT by a model of MR, is refused.
"""

from collections.abc import Iterable
from typing import NamedTuple

from anodetect.config import Config
from anodetect.data.dicom_head import PROJECTIONS
from anodetect.model.input_facts import InputFacts

MOST = 30  # different texts that are kept of one kind; with more, none is told to be new
SPACING, SIZE, ASPECT = 1.5, 2.0, 1.25  # factors beyond what was seen that are worth a word
Span = tuple[float, float]


class Difference(NamedTuple):
    """In which respects an image differs from what a model has seen: why it cannot be judged, ""
    if it can, and what is worth knowing."""

    refused: str
    notes: tuple[str, ...]


class Seen(Config):
    """Properties of the images a model learned from. Texts are sorted; () where none is known, or
    where there are more than MOST. Spans are the least and the greatest value."""

    modalities: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    makers: tuple[str, ...] = ()
    planes: tuple[str, ...] = ()
    channels: tuple[int, ...] = ()
    bits: tuple[int, ...] = ()
    sizes: tuple[Span, ...] = ()
    aspects: tuple[Span, ...] = ()
    spacings: tuple[Span, ...] = ()

    @classmethod
    def of(cls, images: Iterable[InputFacts]) -> "Seen":
        """Return what these images are like."""
        images = list(images)
        return cls(
            modalities=_texts(image.modality for image in images),
            descriptions=_texts(image.description for image in images),
            makers=_texts(image.maker for image in images),
            planes=_texts(image.plane for image in images),
            channels=tuple(sorted({image.channels for image in images})),
            bits=tuple(sorted({image.bits for image in images if image.bits})),
            sizes=_spans([image.size for image in images]),
            aspects=_spans([(_aspect(image),) for image in images]),
            spacings=_spans([image.spacing for image in images]),
        )

    def refusal(self, modality: str) -> str:
        """Return why an image of a modality cannot be judged, "" if it can."""
        if not modality or not self.modalities or _among(modality, self.modalities):
            return ""
        return (
            f"{_with_article(modality)} image, and the model has seen "
            f"{' and '.join(self.modalities)}; --accept-different scores it all the same"
        )

    def difference(self, image: InputFacts) -> Difference:
        """Return in which respects an image differs from what was seen."""
        notes = []
        for what, value, known in (
            ("series", image.description, self.descriptions),
            ("maker", image.maker, self.makers),
            ("plane", image.plane, self.planes),
        ):
            if value and known and value not in known:
                notes.append(f"{what} {value}, seen: {', '.join(known[:3])}")
        if image.bits and self.bits and image.bits not in self.bits:
            notes.append(f"{image.bits} bits, seen: {', '.join(map(str, self.bits))}")

        notes += _beyond("size", image.size, self.sizes, SIZE, "")
        notes += _beyond("spacing", image.spacing, self.spacings, SPACING, " mm")
        notes += _beyond("aspect ratio", (_aspect(image),), self.aspects, ASPECT, "")
        return Difference(self.refusal(image.modality), tuple(notes))


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    found = sorted({value for value in values if value})
    return tuple(found) if len(found) <= MOST else ()


def _spans(rows: list[tuple[float, ...]]) -> tuple[Span, ...]:
    """Return the least and the greatest value in each place of rows of equal length; () if the
    lengths differ, as those of images and volumes."""
    if len({len(row) for row in rows}) != 1:
        return ()
    return tuple((float(min(column)), float(max(column))) for column in zip(*rows, strict=True))


def _beyond(
    what: str, values: tuple[float, ...], seen: tuple[Span, ...], factor: float, unit: str
) -> list[str]:
    """Return a note if a value lies further outside its span than by a factor."""
    if len(values) != len(seen):
        return []
    for value, (low, high) in zip(values, seen, strict=True):
        if not low / factor <= value <= high * factor:
            shown = "×".join(map(_number, values))
            spans = "×".join(_span_text(span) for span in seen)
            return [f"{what} {shown}{unit}, seen: {spans}{unit}"]
    return []


def _span_text(span: Span) -> str:
    low, high = map(_number, span)
    return low if low == high else f"{low}–{high}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _aspect(image: InputFacts) -> float:
    """Return an image's width divided by its height."""
    return image.size[0] / image.size[1]


def _among(modality: str, known: tuple[str, ...]) -> bool:
    if modality in PROJECTIONS:
        return any(each in known for each in PROJECTIONS)
    return modality in known


def _with_article(modality: str) -> str:
    """Return a modality with the article that its first letter is read with."""
    return f"{'an' if modality[0] in 'AEFHILMNORSX' else 'a'} {modality}"
