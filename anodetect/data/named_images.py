"""The images of a folder, and what names and pixels say of each: its part, its kind, its masks.

Masks, depth maps, small copies and what programs derive from images are told from them here, and
passed over with a reason.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anodetect.data import dicom_head, formats, names, readers
from anodetect.data.annotation_files import Annotated, find_annotations
from anodetect.data.annotations import is_annotation
from anodetect.data.channels import Channels
from anodetect.data.converted import SIDECARS, Converted, converted, sidecar_of
from anodetect.data.evidence import are_drawn, drawings, paired_masks
from anodetect.data.records import NORMAL, Dataset, Problem, Record, is_volume
from anodetect.data.series import records_of
from anodetect.data.studies import find_channel, studies_of
from anodetect.data.truth_files import (
    NNUNET_IMAGES,
    PARTS,
    Masks,
    NamedFile,
    folders_with_images,
    is_mask_named,
    masks_beside,
    named_file,
)
from anodetect.data.walk import Walked, unreadable
from anodetect.errors import ImageError
from anodetect.files import path_text

MASKS = "masks and segmentations"
ANNOTATIONS = "annotations"
POINTS = "depth and points beside colours"
DEPTHS = ("xyz", "depth", "z")  # folders beside one of colours
DERIVED = "derived images beside original ones"
CLASH = "correct one of them, or list what is normal in a manifest.csv"
DERIVATIVES = "derivatives of a BIDS data set"
CHANNELS = "further channels of nnU-Net's images"
OF_NO_CHANNEL = "files that fit no pattern of --channels"


@dataclass(frozen=True, slots=True)
class Image:
    """An image and what names say of it: its part of the data set, its kind and what that means,
    and the MR sequence or the modality. `masks` are those that belong to it by their names, and
    `marked` says that one of them marks something. With `unmarked` annotations list the image and
    mark others only. `quantity` and `echo` tell apart what one series holds, such as magnitude and
    phase."""

    record: Record
    file: NamedFile
    part: str
    kind: str
    meaning: str
    sequence: str
    masks: tuple[Path, ...]
    marked: bool
    unmarked: bool
    quantity: str = ""
    echo: str = ""

    def is_called(self, said: Collection[str]) -> bool:
        """Return whether one of these names, in lower case, is that of the image's folder, kind or
        sequence."""
        own = {folder.casefold() for folder in self.file.folders}
        own |= {self.kind.casefold(), self.sequence, *self.sequence.split()}
        return bool(own & set(said))

    @property
    def is_anomalous(self) -> bool:
        """True if the image's kind or a mask says that it is anomalous."""
        return self.meaning == "anomalous" or (self.marked and self.meaning != "normal")

    @property
    def is_normal(self) -> bool:
        """True if the image's kind says that it is normal, or, without a kind, its mask or its
        annotation marks nothing."""
        blank = self.unmarked or bool(self.masks)
        blank = blank and not self.marked
        return self.meaning == "normal" or (blank and not self.kind)

    def known(self, split: str, label: int | None) -> Record:
        """Return the record with what is known of it. Normals have no mask."""
        kind = self.kind if self.meaning or label is not None else ""
        masks = () if label == NORMAL else self.masks
        return replace(self.record, split=split, label=label, kind=kind, masks=masks)


@dataclass(frozen=True)
class Found:
    """The images below a root, and what was passed over. `clash` says where a name and a
    description beside it contradict each other, "" if none do."""

    root: Path
    images: tuple[Image, ...]
    walked: Walked
    clash: str = ""

    def dataset(
        self,
        records: Iterable[Record],
        layout: str,
        *,
        doubt: str = "",
        categories: Sequence[str] = (),
        own_split: bool = False,
    ) -> Dataset:
        """Return the data set of these records."""
        doubt = self.clash or doubt
        return Dataset(
            name=path_text(self.root.name),
            root=self.root,
            records=tuple(records),
            problems=tuple(self.walked.problems),
            passed_over=self.walked.passed_over.all(),
            layout=layout,
            doubt=f"{self.root}: {doubt}" if doubt else "",
            categories=tuple(categories),
            own_split=own_split,
        )

    def pass_over(self, image: Image, reason: str) -> None:
        """Count an image that is not looked at."""
        for path in image.record.all_files():
            self.walked.passed_over.add(path_text(path.relative_to(self.root)), reason)


def look(
    root: Path, walked: Walked, said: frozenset[str], channels: Channels | None = None
) -> Found:
    """Tell images from masks, and note what names say of each image. With `channels` the files of a
    study are one image."""
    masks, files = _without_masks(_without_points(root, walked, channels))
    drawn = drawings(files) if channels is None else set()
    marks = [file for file in files if file.path in drawn]
    files = [file for file in files if file.path not in drawn]
    by_image, annotated = Masks(masks, marks), _annotated(root, files, walked)
    for mask in [*masks, *marks]:
        walked.passed_over.add(path_text(mask.path.relative_to(root)), MASKS)

    unmarked = annotated.unmarked()
    by_path = {file.path: file for file in files}
    known = converted(files)
    del files
    images = []
    for found_record in records_of(root, by_path, walked.passed_over):
        file = by_path[found_record.path]
        about = known.get(file.path, Converted(quantity=found_record.quantity))
        record = _described(found_record, about)
        kind, meaning = _kind(file, said)
        truth = by_image.of(file) or annotated.of.get(record.path, ())
        marked = any(meaning or _marks(path) for path in truth)
        sequence = _sequence(record, file) or about.sequence
        listed = record.path in unmarked
        image = Image(record, file, file.part, kind, meaning, sequence, truth, marked, listed)
        images.append(replace(image, quantity=about.quantity, echo=about.echo))
    del by_path
    images = _in_parts(images)
    clash = next((about.clash for about in known.values() if about.clash), "")
    found = Found(root, tuple(images), walked, clash and f"{clash}; {CLASH}")
    found = replace(found, images=tuple(_without_converted(found, known)))
    if channels is not None:
        found = replace(found, images=tuple(_joined(found, channels)))
        return replace(found, images=tuple(_without_copies(found)))
    return replace(found, images=tuple(_told_apart(_without_copies(found))))


def _in_parts(images: list[Image]) -> list[Image]:
    """Return images with their parts. Names such as `test_good` name one only where others name a
    train part, and then what means anomalous and is of no part is to test with."""
    has_train = any(image.part == "train" for image in images)
    if all(image.part == image.file.own_part for image in images):
        return images

    told = []
    for image in images:
        part = image.part if has_train else image.file.own_part
        if has_train and not part and image.meaning == "anomalous":
            part = "test"
        told.append(replace(image, part=part))
    return told


def _described(record: Record, about: Converted) -> Record:
    """Return a record with what is known of it from its conversion."""
    record = replace(record, quantity=about.quantity)
    if about.study:
        record = replace(record, study=about.study)
    alone = record.group == record.id
    return replace(record, group=path_text(about.patient)) if about.patient and alone else record


def _without_converted(found: Found, known: Mapping[Path, Converted]) -> list[Image]:
    """Return the images without converted volumes that are not to be learned from, such as
    localizers, or derived ones where their patient or folder has original ones."""

    def place(image: Image) -> str:
        own = image.record.group != image.record.id
        return image.record.group if own else "/".join(image.file.folders)

    nothing, kept = Converted(), []
    originals = set()
    for image in found.images:
        about = known.get(image.record.path, Converted(derived=True))
        if not about.derived and not about.no_image:
            originals.add(place(image))
    for image in found.images:
        about = known.get(image.record.path, nothing)
        if about.no_image:
            found.pass_over(image, about.no_image)
        elif about.derived and place(image) in originals:
            found.pass_over(image, DERIVED)
        else:
            kept.append(image)
    return kept


def _told_apart(images: Iterable[Image]) -> list[Image]:
    """Return images in whose sequence the quantity and the echo are named, where others of the same
    sequence are another quantity or echo."""
    images = list(images)
    quantities: dict[str, set[str]] = {}
    echoes: dict[str, set[str]] = {}
    for image in images:
        quantities.setdefault(image.sequence, set()).add(image.quantity or "magnitude")
        echoes.setdefault(image.sequence, set()).add(image.echo or "e1")

    named = []
    for image in images:
        if not image.record.files and not is_volume(image.record):
            named.append(image)
            continue
        words = [image.sequence]
        if echoes[image.sequence] != {"e1"}:
            words.append(image.echo or "e1")
        if quantities[image.sequence] != {"magnitude"}:
            words.append(image.quantity or "magnitude")
        named.append(replace(image, sequence=" ".join(words).strip()))
    return named


def _joined(found: Found, channels: Channels) -> list[Image]:
    """Return an image for each study, whose files are its channels; a study that cannot be one is a
    problem, and other files are passed over."""
    is_bids = any(is_subject(image) for image in found.images)
    by_id: dict[str, Image] = {}
    candidates = []
    for image in found.images:
        if is_bids and not is_subject(image):
            found.pass_over(image, DERIVATIVES)
            continue
        candidate = find_channel(image.file, image.record, channels)
        if candidate is None:
            found.pass_over(image, OF_NO_CHANNEL)
        else:
            candidates.append(candidate)
            by_id[image.record.id] = image

    joined = []
    for study in studies_of(candidates, channels):
        if study.problem:
            found.walked.problems.append(Problem(study.files[0].record.id, study.problem))
        else:
            together = [by_id[candidate.record.id] for candidate in study.files]
            joined.append(_as_one(study.record(channels), together))
    return joined


def _as_one(record: Record, together: Sequence[Image]) -> Image:
    """Return the images of one study as one image: the first, with the masks of all."""
    first = together[0]
    masks: dict[Path, None] = {}
    for image in together:
        masks.update(dict.fromkeys(image.masks))
    return replace(
        first,
        record=record,
        sequence="",
        masks=tuple(masks),
        marked=any(image.marked for image in together),
        unmarked=any(image.unmarked for image in together),
    )


def _marks(path: Path) -> bool:
    """Return whether a mask marks anything; True of a volume's and of one that cannot be read."""
    found = formats.format_named(path.name)
    if is_annotation(path) or found is None or found.content != "image":
        return True
    try:
        return bool(readers.read_mask(path).any())
    except ImageError:
        return True


def _annotated(root: Path, files: Sequence[NamedFile], walked: Walked) -> Annotated:
    """Return which annotation files mark which images, and count these files."""
    found = find_annotations(root, files, walked.annotations)
    walked.problems += found.unclear
    described = set()
    for file in files:
        if sidecar_of(file):
            described.add(file.path.with_name(f"{file.stem}.json"))
    for path in walked.annotations:
        reason = ANNOTATIONS if path in found.used else unreadable(path)
        if path in described:
            reason = SIDECARS
        walked.passed_over.add(path_text(path.relative_to(root)), reason)
    return found


def _without_copies(found: Found) -> list[Image]:
    """Return the images without those that BIDS derives from others, and without further channels
    of nnU-Net; what BIDS calls a subject, or a folder with several sequences, is a group."""
    is_bids = any(is_subject(image) for image in found.images)
    is_nnunet = any(image.file.folders[:1] == (NNUNET_IMAGES[0],) for image in found.images)
    in_folder: dict[tuple[str, ...], set[str]] = {}
    for image in found.images:
        in_folder.setdefault(image.file.folders, set()).add(image.sequence)

    kept = []
    for image in found.images:
        stem = image.file.stem
        if is_bids and not is_subject(image):
            found.pass_over(image, DERIVATIVES)
        elif is_bids:
            group = path_text(_subject(image))
            record = replace(image.record, group=group, study=_session(image))
            sequence = "" if record.channels else stem.rpartition("_")[2].casefold()
            kept.append(replace(image, record=record, sequence=sequence))
        elif image.record.channels:
            kept.append(image)
        elif is_nnunet and re.search(r"_\d{4}$", stem) and not stem.endswith("_0000"):
            found.pass_over(image, CHANNELS)
        elif _is_case(image, in_folder):
            group = path_text("/".join(image.file.folders))
            kept.append(replace(image, record=replace(image.record, group=group)))
        else:
            kept.append(image)
    return kept


def _is_case(image: Image, in_folder: Mapping[tuple[str, ...], set[str]]) -> bool:
    """Return whether an image's folder holds several sequences, and so one patient."""
    folders = image.file.folders
    return bool(folders) and len(in_folder[folders]) > 1 and image.record.group == image.record.id


def is_subject(image: Image) -> bool:
    """Return whether an image lies in a subject's folder of a BIDS data set."""
    return bool(_subject(image))


def _subject(image: Image) -> str:
    """Return the subject in whose folder an image lies, "" if in none or below derivatives."""
    for folder in image.file.folders:
        if folder in ("derivatives", "sourcedata", "code"):
            return ""
        if folder.startswith("sub-"):
            return folder
    return ""


def _session(image: Image) -> str:
    """Return the session of BIDS in whose folder an image lies, "" if in none."""
    for folder in image.file.folders:
        if folder.startswith("ses-"):
            return path_text(folder)
    return ""


def _without_points(root: Path, walked: Walked, channels: Channels | None) -> list[NamedFile]:
    """Return all files but depth and points beside pictures in colour, and small copies. With
    `channels` depth and points may be one of them."""
    files = [named_file(root, path) for path in walked.files]
    coloured, stems = set(), set()
    for file in files:
        stems.add((file.folders, file.stem.casefold()))
        if file.folders and file.folders[-1].casefold() == "rgb":
            coloured.add(file.folders[:-1])

    kept = []
    for file in files:
        folder = file.folders[-1].casefold() if file.folders else ""
        *others, end = names.words(file.stem) or [""]
        before = file.stem.casefold()[: -len(end) or None].rstrip("-_. ")
        where = path_text(file.path.relative_to(root))

        is_depth = folder in DEPTHS and file.folders[:-1] in coloured
        if others and end in names.SMALL and (file.folders, before) in stems:
            walked.passed_over.add(where, "thumbnails")
        elif channels is None and (is_depth or (others and end in names.POINTS)):
            walked.passed_over.add(where, POINTS)
        else:
            kept.append(file)
    return kept


def _without_masks(
    files: Sequence[NamedFile],
) -> tuple[list[NamedFile], list[NamedFile]]:
    """Return the files that are masks by their names or beside an image of the same name, and the
    others."""
    stems: dict[tuple[str, ...], set[str]] = {}
    for file in files:
        stems.setdefault(file.folders, set()).add(file.stem.casefold())

    with_images = folders_with_images(files)
    masks: list[NamedFile] = []
    others: list[NamedFile] = []
    for file in files:
        masked = is_mask_named(file, stems[file.folders], with_images)
        (masks if masked else others).append(file)
    for beside in masks_beside(others):
        if are_drawn([file.path for file in beside]):
            masks += beside
            drawn = {file.path for file in beside}
            others = [file for file in others if file.path not in drawn]
    paired = paired_masks(others)
    masks += [file for file in others if file.path in paired]
    return masks, [file for file in others if file.path not in paired]


def _kind(file: NamedFile, said: Collection[str]) -> tuple[str, str]:
    """Return the folder that says of which kind an image is, and what that means.

    Folders below a part of the data set count, or all if there is no part. It is the first one that
    means anomalous, else the first that means normal, else the first that is nothing else.
    """
    folders = _below_part(file.folders)
    for folder in folders:
        if folder.casefold() in said:
            return path_text(folder), "normal"
    for wanted in ("anomalous", "normal", ""):
        for folder in folders:
            if names.meaning(folder) == wanted:
                return path_text(names.part_and_kind(folder)[1]), wanted
    return "", ""


def _below_part(folders: Sequence[str]) -> Sequence[str]:
    """Return the folders below the last one that is a part of a data set, with it if its name holds
    a kind as well; all if none is."""
    for number in reversed(range(len(folders))):
        if names.part_and_kind(folders[number])[0]:
            return folders[number:]
        if names.meaning(folders[number]) in PARTS:
            return folders[number + 1 :]
    return folders


def _sequence(record: Record, file: NamedFile) -> str:
    """Return in lower case which modality or MR sequence an image is of, "" if that is not known.

    That is what a DICOM header says, for MR with the sequence in the series' description, or what a
    volume's name or folder says. Digital and computed radiographs are alike.
    """
    if record.modality in dicom_head.PROJECTIONS:
        return "cr"
    if record.modality:
        sequence = _sequence_in(record.description) if record.modality == "MR" else ""
        return f"{record.modality.casefold()} {sequence}".strip()

    found = formats.format_named(file.path.name)
    if found is None or found.content != "volume":
        return ""
    return _sequence_in(file.stem) or _sequence_in(" ".join(file.folders[-1:]))


def _sequence_in(name: str) -> str:
    """Return the last word of a name that is a modality or an MR sequence, "" if none is."""
    found = [word for word in names.words(name) if word in names.SEQUENCES]
    return found[-1] if found else ""
