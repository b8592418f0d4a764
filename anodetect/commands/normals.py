"""The readable normal images of a data set, with which training and calibration begin."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from anodetect.data import readers, split
from anodetect.data.content_hash import content_hash
from anodetect.data.patients import line_of_notes, warning_of
from anodetect.data.reading import Reading
from anodetect.data.records import Dataset, Record, fills_memory
from anodetect.errors import ConfigError, DataError, ImageError
from anodetect.imaging.intensities import ImageSample, sample_of, sample_of_channels
from anodetect.imaging.preprocess import Preprocess, has_fixed_units
from anodetect.imaging.sample_types import are_apart
from anodetect.model.decoded import DecodedFiles
from anodetect.model.input_facts import InputFacts, facts_of
from anodetect.model.loading import Failed, LoadedImage, LoadedVolume, Reader, slice_records
from anodetect.model.read_ahead import read_ahead
from anodetect.model.seen import Seen
from anodetect.types import Reporter
from anodetect.words import amount

DECODERS = 2  # threads that decode test images, each with one in memory


@dataclass(frozen=True)
class LeftOut:
    """A file that was not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Normals:
    """The normals of a data set, and with them known `anomalies` if these are to be learned from.

    `records` are those to use: of a volume one for each slice to learn from, in three dimensions
    one. `hashes` has the SHA-256 of every file by its record's id, also of test files, and `pixels`
    that of its decoded content. `prepared` says of each brain how it was prepared.
    """

    records: list[Record]
    hashes: dict[str, str]
    pixels: dict[str, str]
    left_out: list[LeftOut]
    anomalies: list[Record] = field(default_factory=list)
    prepared: Mapping[str, str] = field(default_factory=dict)


class Samples:
    """Samples of values, from which a model learns what becomes -1 and 1, and facts of files."""

    def __init__(self) -> None:
        self._by_id: dict[str, list[ImageSample]] = {}
        self._facts: dict[str, InputFacts] = {}

    def add(self, loaded: LoadedImage | LoadedVolume) -> None:
        """Take a sample of an image, or one of each slice of a volume that is to be scored."""
        planes = [channel.planes for channel in loaded.channels]
        if isinstance(loaded, LoadedImage) and planes:
            samples = [sample_of_channels(loaded.image, planes, loaded.region)]
        elif isinstance(loaded, LoadedImage):
            samples = [sample_of(loaded.image, loaded.sample_type, loaded.region)]
        else:
            slices, region = loaded.volume.slices, loaded.volume.region
            samples = []
            for number in loaded.volume.numbers:
                image = slices[:, number]
                if planes:
                    samples.append(sample_of_channels(image, planes))
                else:
                    samples.append(sample_of(image, region=region))
        self._by_id[loaded.record.id] = samples
        self._facts[loaded.record.id] = facts_of(loaded)

    def seen(self, records: Iterable[Record]) -> Seen:
        """Return what the files are like that records belong to."""
        return Seen.of(self._facts[name] for name in dict.fromkeys(each.id for each in records))

    def named(self, records: Iterable[Record]) -> dict[str, ImageSample]:
        """Return the samples of images by their records' ids; of volumes none."""
        found = {}
        for name in dict.fromkeys(record.id for record in records):
            if len(self._by_id[name]) == 1:
                found[name] = self._by_id[name][0]
        return found

    def of(self, records: Iterable[Record]) -> list[ImageSample]:
        """Return the samples of the files that records belong to."""
        samples: list[ImageSample] = []
        for name in dict.fromkeys(record.id for record in records):
            samples += self._by_id[name]
        return samples


@dataclass
class _Planes:
    """The plane and the units that the volumes of a data set have in common, which of them have
    uneven slices, and what is to be known of each."""

    first_of: dict[str, str] = field(default_factory=dict)  # plane → the first volume in it
    fixed_units: bool = True
    uneven: list[str] = field(default_factory=list)  # each with how its slices lie
    notes: dict[str, str] = field(default_factory=dict)  # by ids, "" where there is none

    def add(self, loaded: LoadedVolume) -> None:
        self.first_of.setdefault(loaded.volume.geometry.plane, loaded.record.id)
        self.fixed_units &= has_fixed_units(loaded.volume.source)
        if loaded.volume.source.unevenness:
            self.uneven.append(f"{loaded.record.id}: {loaded.volume.source.unevenness}")
        self.notes[loaded.record.id] = loaded.note

    def warn(self, reporter: Reporter) -> None:
        """Say how many volumes have uneven slices, and how many have a note."""
        if self.uneven:
            volumes = amount(len(self.uneven), "volume has", "volumes have")
            reporter.warn(
                f"{volumes} slices that are not evenly spaced; the first: {self.uneven[0]}"
            )
        if noted := line_of_notes(self.notes):
            reporter.warn(noted)

    def set_on(self, preprocess: Preprocess) -> None:
        """Make the common plane and units those of `preprocess`, if there are volumes."""
        if len(self.first_of) > 1:
            found = ", ".join(f"{plane} ({name})" for plane, name in self.first_of.items())
            raise DataError(
                f"volumes have their finest pixels in different planes: {found}; "
                "choose one with --axis"
            )
        if not self.first_of:
            return

        (preprocess.axis,) = self.first_of
        preprocess.of_volumes, preprocess.fixed_units = True, self.fixed_units


@dataclass
class _ChannelTypes:
    """Counts of the files of each channel, by the type in which their samples are stored."""

    of: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, loaded: LoadedImage | LoadedVolume) -> None:
        for channel in loaded.channels:
            if channel.sample_type:
                self.of.setdefault(channel.name, Counter())[channel.sample_type] += 1

    def warn(self, reporter: Reporter) -> None:
        """Say which channels have types of different ranges, which nothing brings together."""
        for name, types in self.of.items():
            if are_apart(types):
                found = [f"{count} files of {each}" for each, count in sorted(types.items())]
                reporter.warn(
                    f"channel {name}: {' and '.join(found)}; values are taken as they are, so save "
                    "all in one type if they do not mean the same"
                )


def usable_normals(
    dataset: Dataset,
    preprocess: Preprocess,
    dims: int,
    reporter: Reporter,
    scratch: DecodedFiles | None = None,
    samples: Samples | None = None,
) -> Normals:
    """Read all normals of a data set and return those that can be used.

    Copies of an image are merged into one group, and of few images they are left out. The plane
    that volumes are sliced along becomes that of `preprocess`, which also learns whether all
    volumes have fixed units. What is decoded goes into `scratch` and `samples`. Raises DataError if
    a group, the same bytes or the same pixels are also among the test files that the data set
    names, if volumes lie in different planes, if nothing can be read, or if all images are the
    same.
    """
    normals = dataset.training()
    left_out = [LeftOut(each.name, each.reason) for each in dataset.problems]
    usable: list[Record] = []
    hashes: dict[str, str] = {}
    pixels: dict[str, str] = {}
    prepared: dict[str, str] = {}
    planes, types = _Planes(), _ChannelTypes()

    reader = Reader(preprocess, scratch=scratch)
    for done, loaded in enumerate(read_ahead(reader.read, normals), start=1):
        if isinstance(loaded, Failed):
            left_out.append(LeftOut(loaded.record.id, loaded.error))
        if isinstance(loaded, LoadedVolume) and not loaded.volume.is_pictures:
            _refuse_exported(loaded, preprocess)
            planes.add(loaded)
            prepared[loaded.record.id] = loaded.prepared
        if isinstance(loaded, LoadedImage | LoadedVolume):
            usable += slice_records(loaded, dims)
            types.add(loaded)
            hashes[loaded.record.id] = loaded.sha256
            pixels[loaded.record.id] = loaded.pixels
            if samples is not None:
                samples.add(loaded)
        reporter.progress("read", done, len(normals))

    planes.set_on(preprocess)
    planes.warn(reporter)
    types.warn(reporter)
    _compare_with_test(dataset, hashes, pixels, preprocess.config.reading, reporter)
    usable = _without_leaks(dataset, usable, hashes, pixels, reporter)
    if not normals and dataset.records:
        images = amount(len(dataset.records), "image")
        raise DataError(
            f"{dataset.root}: nothing to learn from; of its {images} each is anomalous or of the "
            "test part"
        )
    if not usable:
        reason = f"; the first: {left_out[0].path}: {left_out[0].reason}" if left_out else ""
        raise DataError(f"{dataset.root}: no readable normal image among {len(normals)}{reason}")

    usable = _without_too_many_copies(dataset, usable, pixels, reporter)
    if unnamed := warning_of(record.group for record in normals):
        reporter.warn(unnamed)
    warn_of(left_out, reporter)
    return Normals(usable, hashes, pixels, left_out, prepared=prepared)


def _refuse_exported(loaded: LoadedVolume, preprocess: Preprocess) -> None:
    """Raise ConfigError for a volume if settings say how images were made of volumes."""
    if preprocess.config.exported:
        raise ConfigError(
            f"exported says how images were made of volumes, but {loaded.record.id} is a volume; "
            "leave it out"
        )


def _without_too_many_copies(
    dataset: Dataset, usable: list[Record], pixels: Mapping[str, str], reporter: Reporter
) -> list[Record]:
    """Return the usable normals with those of the same pixels in one group, of fewer different ones
    than `split.MINIMUM` each once; DataError if all are one."""
    usable, copies = split.merge_duplicates(usable, [pixels[record.id] for record in usable])
    if not copies:
        return usable
    if len(usable) == copies + 1:
        raise DataError(f"{dataset.root}: all {len(usable)} normal images are one, pixel by pixel")

    first: dict[str, str] = {}
    for record in usable:
        first.setdefault(pixels[record.id], record.id)
    different = [record for record in usable if first[pixels[record.id]] == record.id]
    are_few = len(different) < split.MINIMUM
    what = "so few images count once each" if are_few else "copies stay on one side of the split"
    images = amount(copies, "image is an exact copy", "images are exact copies")
    reporter.warn(f"{images} of others, pixel by pixel; {what}")
    return different if are_few else usable


def warn_of(left_out: Sequence[LeftOut], reporter: Reporter) -> None:
    """Say which files were left out."""
    for each in left_out:
        reporter.warn(f"left out: {each.path}: {each.reason}")


def warn_of_scaled(notes: Iterable[str], reporter: Reporter) -> None:
    """Say how many images were scaled, from the note of each, "" for those that were not."""
    for note, count in Counter(note for note in notes if note).items():
        reporter.warn(f"{amount(count, 'image')}: {note}")


def _without_leaks(
    dataset: Dataset,
    usable: list[Record],
    hashes: Mapping[str, str],
    pixels: Mapping[str, str],
    reporter: Reporter,
) -> list[Record]:
    """Return the usable normals of which no copy is in the test part. DataError if there is one,
    unless the test part is a choice of ours."""
    testing = tested(dataset)
    if dataset.own_split:
        names = {pixels[record.id]: record.id for record in testing if record.id in pixels}
        copies = {each.id: names[pixels[each.id]] for each in usable if pixels[each.id] in names}
        usable = [record for record in usable if record.id not in copies]
        for first, other in list(copies.items())[:1]:
            images = amount(len(copies), "normal image has", "normal images have")
            reporter.warn(
                f"{images} exactly the pixels of images kept for testing, as {first} those of "
                f"{other}: left out"
            )
    split.refuse_leaks(usable, testing, hashes, pixels)

    return usable


def tested(dataset: Dataset) -> list[Record]:
    """Return the records of the test part."""
    return [record for record in dataset.records if record.split == "test"]


def _compare_with_test(
    dataset: Dataset,
    hashes: dict[str, str],
    pixels: dict[str, str],
    reading: Reading,
    reporter: Reporter,
) -> None:
    """Add the hashes of test files to `hashes` and `pixels`."""
    testing = tested(dataset)
    one_by_one = any(fills_memory(record) for record in testing)
    with ThreadPoolExecutor(1 if one_by_one else DECODERS) as pool:
        found = pool.map(partial(_hashes_of, reading=reading), testing)
        for done, (record, (sha256, content)) in enumerate(zip(testing, found, strict=True), 1):
            reporter.progress("compare with the test part", done, len(testing))
            if sha256:
                hashes[record.id] = sha256
            if content:
                pixels[record.id] = content


def _hashes_of(record: Record, reading: Reading) -> tuple[str, str]:
    """Return the hashes of a file's bytes and pixels, "" for what cannot be read: it cannot leak,
    and scoring it will say why."""
    sha256 = ""
    try:
        source = readers.read_source(record)
        sha256 = source.sha256
        found = source.content(reading)
        return sha256, content_hash(found.pixels, found.sample_type)
    except ImageError:
        return sha256, ""
