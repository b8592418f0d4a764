"""Files of DICOM that are written of DICOM sources.

Of a volume: a Parametric Map of floats, a Segmentation of what exceeds the threshold, and a
Structured Report (TID 1500). They lie in the source's frame of reference, have its planes,
reference its instances, and name the algorithm and the model. Of an image, such as a radiograph: a
Secondary Capture with the heatmap over it, and a Structured Report with outlines; of a file whose
frames are images a capture of the frames with findings, one report, and where frames have places a
Parametric Map.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from anodetect.data.dicom import Series, in_space
from anodetect.errors import RunError
from anodetect.output.about import About
from anodetect.output.dicom.findings import FINDINGS, find_findings
from anodetect.output.dicom.parametric_map import parametric_map
from anodetect.output.dicom.secondary_capture import secondary_capture
from anodetect.output.dicom.segmentation import marked_segmentation, segmentation
from anodetect.output.dicom.source import (
    SourceHeaders,
    image_header,
    refer_to_frames,
    source_headers,
)
from anodetect.output.dicom.structured_report import (
    Outline,
    report_of_image,
    report_of_volume,
)
from anodetect.output.formats import Kind, OutputFiles
from anodetect.output.images import ImageMap
from anodetect.output.pictures import Picture, overlay
from anodetect.output.regions import find_regions
from anodetect.output.volumes import VolumeMap
from anodetect.record.rows import Region
from anodetect.types import Bools


def write_volume(shown: VolumeMap, files: OutputFiles) -> None:
    """Write the heatmap as a Parametric Map, the regions that count as a Segmentation, and the
    decision with the findings as a Structured Report; nothing of a volume that is no DICOM series.
    RunError if its headers lack what they need."""
    volume, about = shown.volume, shown.about
    if not isinstance(volume.source.origin, Series):
        return
    if volume.is_pictures:
        _write_frames(shown, volume.source.origin, files)
        return

    with _checked_headers():
        source = source_headers(volume.source.origin, about.pseudonym)
        numbered, found = find_findings(shown.heatmap, shown.mask, volume)
        if about.decision is None or not about.decision.flagged:
            found = []
        values = volume.geometry.to_source(shown.heatmap)
        regions = volume.geometry.to_source(numbered)

        heatmap = parametric_map(values, source, about.model)
        mask = segmentation(regions, found, source, about.model)
        report = report_of_volume(found, mask, heatmap.dataset, source, about)
        if source.references:
            for dataset in (heatmap.dataset, mask, report):
                refer_to_frames(dataset, source.references)
    with files.open("map") as file:
        heatmap.save(file)
    _save({"mask": mask, "report": report}, files)


def marked_file(inside: Bools, series: Series, pseudonym: str) -> Dataset:
    """Return what reviewers marked of a series, [I, J, K] in the order of the source, as a
    Segmentation. RunError if its headers lack what they need."""
    with _checked_headers():
        source = source_headers(series, pseudonym)
        dataset = marked_segmentation(inside, source)
        if source.references:
            refer_to_frames(dataset, source.references)
    return dataset


def write_image(shown: ImageMap, files: OutputFiles) -> None:
    """Write the image with its heatmap as a Secondary Capture, and the decision with the outlines
    of findings as a Structured Report; nothing of an image whose file is not DICOM. RunError if its
    header lacks what they need."""
    if shown.header is None:
        return
    about, regions = shown.about, list[Region]()
    if about.decision is not None and about.decision.flagged:
        regions = find_regions(shown.heatmap, shown.rule)[:FINDINGS]
    picture = overlay(shown.image, shown.heatmap, shown.scale, shown.window)
    source = image_header(shown.header, about.pseudonym)
    _save(_image_files([picture], [Outline(region) for region in regions], source, about), files)


def _write_frames(shown: VolumeMap, series: Series, files: OutputFiles) -> None:
    """Write the files of frames that are images, and where these lie in space as the slices of one
    volume do a Parametric Map."""
    datasets, placed = _files_of_frames(shown, series), in_space(series)
    if placed is not None:
        order = [series.numbers.index(number) for number in placed.numbers]
        with _checked_headers():
            source = source_headers(placed, shown.about.pseudonym)
            heatmap = parametric_map(shown.heatmap[order], source, shown.about.model)
            refer_to_frames(heatmap.dataset, source.references)
        with files.open("map") as file:
            heatmap.save(file)
    _save(datasets, files)


def _files_of_frames(shown: VolumeMap, series: Series) -> dict[Kind, Dataset]:
    """Return the capture and the report of frames that are images: of a flagged file those with the
    FINDINGS strongest regions, else the most anomalous one. Both refer to these frames."""
    about, outlines = shown.about, list[Outline]()
    if about.decision is not None and about.decision.flagged:
        for heatmap, number in zip(shown.heatmap, series.numbers, strict=True):
            regions = find_regions(heatmap, shown.rule)
            outlines += [Outline(region, number + 1) for region in regions]
    outlines = sorted(outlines, key=lambda outline: -outline.region.score)[:FINDINGS]

    highest = int(np.argmax([np.nanmax(heatmap) for heatmap in shown.heatmap]))
    places = {number + 1: place for place, number in enumerate(series.numbers)}
    frames = sorted({outline.frame for outline in outlines if outline.frame is not None})
    frames = frames or [series.numbers[highest] + 1]
    pictures = []
    for frame in frames:
        image, heatmap = shown.volume.slices[:, places[frame]], shown.heatmap[places[frame]]
        pictures.append(overlay(image, heatmap, shown.scale, shown.window))
    source = image_header(series.headers[highest], about.pseudonym)
    return _image_files(pictures, outlines, source, about, frames)


def _image_files(
    pictures: Sequence[Picture],
    outlines: Sequence[Outline],
    source: SourceHeaders,
    about: About,
    frames: Sequence[int] = (),
) -> dict[Kind, Dataset]:
    """Return the Secondary Capture of an image, or of some of its frames, and the Structured
    Report."""
    with _checked_headers():
        capture = secondary_capture(pictures, source, about.model, frames)
        report = report_of_image(outlines, capture, source, about)
    return {"picture": capture, "report": report}


def _save(datasets: Mapping[Kind, Dataset], files: OutputFiles) -> None:
    for kind, dataset in datasets.items():
        with files.open(kind) as file:
            dataset.save_as(file, enforce_file_format=True)


@contextmanager
def _checked_headers() -> Iterator[None]:
    """Raise RunError for an attribute that a source should have and that is missing or wrong. The
    words of libraries may quote it, and reasons land in tables that leave the house."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        name = getattr(error, "name", None) or (error.args[0] if error.args else "")
        if isinstance(name, str) and tag_for_keyword(name) is not None:
            raise RunError(f"its header lacks {name}") from None
        raise RunError(f"its header is not as DICOM has it ({type(error).__name__})") from None
