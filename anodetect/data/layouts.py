"""Layouts of folders: what names say of which images are normal, and where masks are.

A folder is read in the first of these ways that fits:

- parts: `train` and `test` (or `test_public`, `validation` …) with folders of kinds (MVTec AD and
  its kin, BTAD, BMAD, chest X-rays with NORMAL and PNEUMONIA).
- classes: folders of normal and of anomalous images, which have masks (VisA, Real-IAD, magnetic
  tile). Some normals are kept for tests, by a fixed hash of their names.
- nnU-Net and BIDS, whose names say whose image it is, but not which is normal.
- several data sets beside each other.
- a folder of images. Its sub-folders may be patients, lots or dates.

Nothing is learned from a folder whose names leave in doubt what is normal.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anodetect.data import dicom, formats, names, split_tables
from anodetect.data.annotation_files import Annotated, find_annotations
from anodetect.data.annotations import is_annotation
from anodetect.data.records import ANOMALOUS, NORMAL, Dataset, Record
from anodetect.data.series import records_of
from anodetect.data.split import position
from anodetect.data.truth_files import (
    NNUNET_IMAGES,
    Masks,
    NamedFile,
    is_mask_named,
    named_file,
    paired_masks,
)
from anodetect.data.walk import Walked, unreadable
from anodetect.errors import DataError, nearest
from anodetect.files import path_text

TEST_SHARE = 0.2  # of normals, where a layout has no test part
SEVERAL = 5  # names that a message lists
MASKS = "masks and segmentations"
ANNOTATIONS = "annotations"
BESIDE = "images beside the parts of the data set"
POINTS = "depth and points beside colours"
DERIVATIVES = "derivatives of a BIDS data set"
OTHER_SEQUENCES = "images of other modalities or MR sequences"
CHANNELS = "further channels of nnU-Net's images"
UNUSED = "anomalous images of the validation part"
WHAT_TO_DO = "name what is normal with --kind-normal NAME, or list the images in a manifest.csv"


@dataclass(frozen=True)
class Image:
    """An image and what names say of it: its part of the data set, its kind and what that means,
    and the MR sequence or the modality. `masks` are those that belong to it by their names."""

    record: Record
    file: NamedFile
    part: str
    kind: str
    meaning: str
    sequence: str
    masks: tuple[Path, ...]

    def is_called(self, said: Collection[str]) -> bool:
        """Return whether one of these names, in lower case, is that of the image's folder, kind or
        sequence."""
        own = {folder.casefold() for folder in self.file.folders}
        own |= {self.kind.casefold(), self.sequence}
        return bool(own & set(said))

    @property
    def is_anomalous(self) -> bool:
        """True if the image's kind or a mask says that it is anomalous."""
        return self.meaning == "anomalous" or (bool(self.masks) and self.meaning != "normal")

    def known(self, split: str, label: int | None) -> Record:
        """Return the record with what is known of it. Normals have no mask."""
        kind = self.kind if self.meaning or label is not None else ""
        masks = () if label == NORMAL else self.masks
        return replace(self.record, split=split, label=label, kind=kind, masks=masks)


@dataclass(frozen=True)
class Found:
    """The images below a root, and what was passed over."""

    root: Path
    images: tuple[Image, ...]
    walked: Walked

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
        for path in image.record.files or (image.record.path,):
            self.walked.passed_over.add(path_text(path.relative_to(self.root)), reason)


def recognise(root: Path, walked: Walked, said_normal: Collection[str] = ()) -> Dataset:
    """Return the data set that a folder is.

    `said_normal` are the names of folders, kinds, modalities or MR sequences that hold normals;
    then nothing else is learned from. Raises DataError if there is nothing of such a name.
    """
    said = frozenset(name.casefold() for name in said_normal)
    found = _look(root, walked, said)
    if said:
        return _stated(found, said)
    layouts: tuple[Callable[[Found], Dataset | None], ...] = (
        _tabled, _bids, _nnunet, _categories, _parts, _classes,
    )  # fmt: skip
    for read in layouts:
        dataset = read(found)
        if dataset is not None:
            return dataset
    return _plain(found)


# -- What names say of each file -------------------------------------------------------------------


def _look(root: Path, walked: Walked, said: frozenset[str]) -> Found:
    """Tell images from masks, and note what names say of each image."""
    masks, files = _without_masks(_without_points(root, walked))
    by_image, annotated = Masks(masks), _annotated(root, files, walked)
    for mask in masks:
        walked.passed_over.add(path_text(mask.path.relative_to(root)), MASKS)

    images = []
    for record in records_of(root, [file.path for file in files], walked.passed_over):
        file = named_file(root, record.path)
        kind, meaning = _kind(file, said)
        truth = by_image.of(file) or annotated.of.get(record.path, ())
        images.append(Image(record, file, file.part, kind, meaning, _sequence(record, file), truth))
    found = Found(root, tuple(images), walked)
    return replace(found, images=tuple(_without_copies(found)))


def _annotated(root: Path, files: Sequence[NamedFile], walked: Walked) -> Annotated:
    """Return which annotation files mark which images, and count these files."""
    found = find_annotations(root, files, walked.annotations)
    walked.problems += found.unclear
    for path in walked.annotations:
        reason = ANNOTATIONS if path in found.used else unreadable(path)
        walked.passed_over.add(path_text(path.relative_to(root)), reason)
    return found


def _without_copies(found: Found) -> list[Image]:
    """Return the images without those that BIDS derives from others, and without further channels
    of nnU-Net; what BIDS calls a subject, or a folder with several sequences, is a group."""
    is_bids = any(_is_subject(image) for image in found.images)
    is_nnunet = any(image.file.folders[:1] == (NNUNET_IMAGES[0],) for image in found.images)
    sequences = {image.sequence for image in found.images if image.sequence}

    kept = []
    for image in found.images:
        stem = image.file.stem
        if is_bids and not _is_subject(image):
            found.pass_over(image, DERIVATIVES)
        elif is_bids:
            record = replace(image.record, group=path_text(image.file.folders[0]))
            kept.append(replace(image, record=record, sequence=stem.rpartition("_")[2].casefold()))
        elif is_nnunet and re.search(r"_\d{4}$", stem) and not stem.endswith("_0000"):
            found.pass_over(image, CHANNELS)
        elif len(sequences) > 1 and image.file.folders and image.record.group == image.record.id:
            group = path_text("/".join(image.file.folders))
            kept.append(replace(image, record=replace(image.record, group=group)))
        else:
            kept.append(image)
    return kept


def _is_subject(image: Image) -> bool:
    """Return whether an image lies in a subject's folder of a BIDS data set."""
    return bool(image.file.folders) and image.file.folders[0].startswith("sub-")


def _without_points(root: Path, walked: Walked) -> list[NamedFile]:
    """Return all files but those with depth or points in folders beside one of colours."""
    files = [named_file(root, path) for path in walked.files]
    coloured = {file.folders[:-1] for file in files if file.folders[-1:] == ("rgb",)}
    kept = []
    for file in files:
        if file.folders[-1:] in (("xyz",), ("depth",), ("z",)) and file.folders[:-1] in coloured:
            walked.passed_over.add(path_text(file.path.relative_to(root)), POINTS)
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

    masks: list[NamedFile] = []
    others: list[NamedFile] = []
    for file in files:
        masked = is_mask_named(file, stems[file.folders])
        (masks if masked else others).append(file)
    paired = paired_masks(others)
    masks += [file for file in others if file.path in paired]
    return masks, [file for file in others if file.path not in paired]


def _kind(file: NamedFile, said: Collection[str]) -> tuple[str, str]:
    """Return the folder that says of which kind an image is, and what that means: the first one
    that means something, else the first one that is no part of the data set."""
    others = []
    for folder in file.folders:
        meaning = names.meaning(folder)
        if folder.casefold() in said:
            return path_text(folder), "normal"
        if meaning in ("normal", "anomalous"):
            return path_text(folder), meaning
        if not meaning:
            others.append(folder)
    return (path_text(others[0]) if others else ""), ""


def _sequence(record: Record, file: NamedFile) -> str:
    """Return a DICOM file's modality, or the MR sequence that ends a volume's name, in lower case;
    "" if there is neither. Digital and computed radiographs are alike."""
    if record.modality:
        return "cr" if record.modality in dicom.PROJECTIONS else record.modality.casefold()
    found = formats.format_named(file.path.name)
    end = names.words(file.stem)[-1:]
    if found is None or found.content != "volume" or not end:
        return ""
    return end[0] if end[0] in names.SEQUENCES else ""


# -- Layouts ---------------------------------------------------------------------------------------


def _stated(found: Found, said: frozenset[str]) -> Dataset:
    """Return the data set of a folder of which the user says what is normal."""
    chosen = [image for image in found.images if image.is_called(said)]
    sequences = {image.sequence for image in chosen if image.sequence in said}
    others = []
    for image in found.images:
        if sequences and image.sequence not in sequences:
            found.pass_over(image, OTHER_SEQUENCES)
        elif not image.is_called(said):
            others.append(image)
    if not chosen:
        known = {folder for image in found.images for folder in image.file.folders}
        known |= {image.sequence for image in found.images if image.sequence}
        name = ", ".join(sorted(said))
        raise DataError(f"{found.root}: nothing here is called {name}; {nearest(name, known)}")

    has_test = any(image.part == "test" for image in chosen)
    own_split = not has_test and any(image.is_anomalous for image in others)
    records = []
    for image in chosen:
        split = "test" if image.part == "test" else "train"
        if own_split:
            split = _own_split(image)
        records.append(replace(image.known(split, NORMAL), group=_group(image)))
    for image in others:
        records.append(image.known("test", ANOMALOUS if image.is_anomalous else None))
    layout = f"as said, {', '.join(sorted(said))} is normal"
    return found.dataset(records, layout, own_split=own_split)


def _tabled(found: Found) -> Dataset | None:
    """Return the data set that a table beside it splits, as for VisA and Real-IAD; None without
    one."""
    table = split_tables.find(found.root)
    if table is None:
        return None

    records = []
    for image in found.images:
        entry = table.entries.get(image.record.id)
        if entry is None:
            found.pass_over(image, f"images that {table.name} does not list")
            continue
        masks = () if entry.label == NORMAL else image.masks
        records.append(
            replace(
                image.record,
                split=entry.split,
                label=entry.label,
                kind=entry.kind,
                group=_group(image),
                masks=masks,
            )
        )
    return found.dataset(records, f"{table.layout}, split by {table.name}") if records else None


def _bids(found: Found) -> Dataset | None:
    """Return the data set of a BIDS folder: what ends a name is its kind."""
    if not found.images or not all(_is_subject(image) for image in found.images):
        return None
    return _by_sequence(found, "BIDS")


def _by_sequence(found: Found, layout: str) -> Dataset:
    """Return the data set of images whose kinds are modalities or MR sequences; several are not
    mixed."""
    counts = Counter(image.sequence for image in found.images)
    records = []
    for image in found.images:
        records.append(replace(image.record, kind=image.sequence, masks=image.masks))
    return found.dataset(records, layout, doubt=_several(counts))


def _nnunet(found: Found) -> Dataset | None:
    """Return the data set of an nnU-Net folder."""
    if not any(image.file.folders[:1] == (NNUNET_IMAGES[0],) for image in found.images):
        return None

    records = []
    for image in found.images:
        if image.file.folders[:1] not in [(name,) for name in NNUNET_IMAGES]:
            found.pass_over(image, BESIDE)
            continue
        split = "test" if image.file.folders[0] == NNUNET_IMAGES[1] else "train"
        records.append(replace(image.record, split=split, masks=image.masks))
    doubt = "nnU-Net's layout does not say which images are normal; if all are, say "
    doubt += f"--kind-normal {NNUNET_IMAGES[0]}, else list them in a manifest.csv"
    return found.dataset(records, "nnU-Net", doubt=doubt)


def _categories(found: Found) -> Dataset | None:
    """Return the images of a folder that holds several data sets, none of which is to be taken for
    a part of the others; None if it does not."""
    depth = _common_depth(found.images)
    by_folder: dict[tuple[str, ...], list[Image]] = {}
    for image in found.images:
        folders = image.file.folders
        own = folders[depth : depth + 1]
        if not own or names.meaning(own[0]):
            return None
        by_folder.setdefault(folders[: depth + 1], []).append(image)

    categories = []
    for folders, images in by_folder.items():
        meanings = {image.meaning for image in images}
        if any(image.part for image in images) or {"normal", "anomalous"} <= meanings:
            categories.append(path_text("/".join(folders)))
    if len(categories) < 2:
        return None
    doubt = (
        f"several data sets: {_listed(categories)}; name one of them, "
        "or train one run for each with --each"
    )
    records = [image.record for image in found.images]
    return found.dataset(records, "several data sets", doubt=doubt, categories=categories)


def _common_depth(images: Sequence[Image]) -> int:
    """Return how many folders all images have in common that mean nothing."""
    if not images:
        return 0
    depth = 0
    for level in zip(*(image.file.folders for image in images), strict=False):
        if len(set(level)) > 1 or names.meaning(level[0]):
            break
        depth += 1
    return depth


def _parts(found: Found) -> Dataset | None:
    """Return the data set of a folder with a train or test part; None if it has none."""
    if not any(image.part in ("train", "test") for image in found.images):
        return None
    has_normal = any(image.meaning == "normal" and image.part for image in found.images)

    records = []
    for image in found.images:
        anomalous = image.is_anomalous or (has_normal and image.kind != "" and not image.meaning)
        if not image.part:
            found.pass_over(image, BESIDE)
        elif image.part == "validation" and anomalous:
            found.pass_over(image, UNUSED)
        elif image.part == "test":
            label = ANOMALOUS if anomalous else NORMAL if image.meaning == "normal" else None
            records.append(replace(image.known("test", label), group=_group(image)))
        else:
            label = NORMAL if image.meaning == "normal" else None
            label = ANOMALOUS if image.is_anomalous else label
            records.append(replace(image.known("train", label), group=_group(image)))

    learned = [image for image in found.images if image.part in ("train", "validation")]
    learned = [image for image in learned if not (image.part == "validation" and has_normal)]
    return found.dataset(records, "train and test parts", doubt=_doubt_of_kinds(learned, "train"))


def _classes(found: Found) -> Dataset | None:
    """Return the data set of a folder with normal and anomalous images and masks of those; None if
    that is not evident."""
    meanings = {image.meaning for image in found.images}
    others = [image for image in found.images if image.meaning != "normal"]
    if "normal" not in meanings or not others:
        return None

    masked = Counter(image.kind for image in others if image.masks)
    counts = Counter(image.kind for image in others)
    unknown = {image.kind for image in others if not image.meaning}
    if not masked or any(2 * masked[kind] < counts[kind] for kind in unknown):
        return None
    records = _split_by_hash(found.images, dict.fromkeys(counts, ANOMALOUS))
    return found.dataset(records, "normal and anomalous images with masks", own_split=True)


def _plain(found: Found) -> Dataset:
    """Return the data set of a folder of images, with the doubt that its names leave."""
    sequences = Counter(image.sequence for image in found.images if image.sequence)
    if len(sequences) > 1:
        return _by_sequence(found, "several modalities or MR sequences")

    kinds = {image.kind: image.meaning for image in found.images}
    doubt = _doubt_of_kinds(found.images, "")
    if not doubt and not any(kinds.values()):
        doubt = _doubt_of_name(found.root) or _doubt_of_numbers(kinds)
    if set(kinds.values()) == {"normal", "anomalous"}:
        labels = {kind: ANOMALOUS for kind, meaning in kinds.items() if meaning == "anomalous"}
        records = _split_by_hash(found.images, labels)
        return found.dataset(records, "normal and anomalous images", doubt=doubt, own_split=True)

    records = []
    for image in found.images:
        label = NORMAL if set(kinds.values()) == {"normal"} else None
        if label is None and any(is_annotation(path) for path in image.masks):
            label = ANOMALOUS  # a mask may mark anything, an outline what is to be found
        records.append(replace(image.record, label=label, masks=image.masks))
    folders = len({image.file.folders for image in found.images})
    layout = "a folder of images" if folders < 2 else f"images in {folders} folders"
    return found.dataset(records, layout, doubt=doubt)


# -- Doubts ----------------------------------------------------------------------------------------


def _doubt_of_kinds(images: Sequence[Image], part: str) -> str:
    """Return why it is not evident which of these images are normal, "" if it is: a name means
    anomalous and none normal, or normal names stand beside unknown ones.

    In the train part anomalous images beside normal ones are no doubt: they are not learned from.
    """
    named: dict[str, list[str]] = {"normal": [], "anomalous": [], "": []}
    counts = Counter((image.meaning, image.kind or ".") for image in images)
    for (meaning, kind), count in sorted(counts.items()):
        named[meaning].append(f"{kind} ({count})")
    normal, anomalous, unknown = named["normal"], named["anomalous"], named[""]

    where = f"in {part}, " if part else ""
    if normal and unknown:
        return (
            f"{where}{_listed(unknown)} stands beside {_listed(normal)}, and nothing says whether "
            f"it is normal; {WHAT_TO_DO}"
        )
    if anomalous and not (part and normal):
        return f"{where}{_listed(anomalous)} means anomalous; {WHAT_TO_DO}"
    return ""


def _doubt_of_name(root: Path) -> str:
    """Return the doubt that a folder's own name leaves."""
    meaning = names.meaning(root.absolute().name)
    if meaning == "anomalous":
        return f"the name {root.absolute().name!r} means anomalous; {WHAT_TO_DO}"
    if meaning == "mask":
        return f"the name {root.absolute().name!r} means masks, not images; {WHAT_TO_DO}"
    return ""


def _doubt_of_numbers(kinds: Collection[str]) -> str:
    """Return the doubt that folders 0 and 1 leave, which look like labels."""
    if set(kinds) != {"0", "1"}:
        return ""
    return f"folders 0 and 1 look like labels, normal and anomalous; {WHAT_TO_DO}"


def _several(kinds: Counter[str]) -> str:
    """Return the doubt that several kinds of volumes leave, "" if there is one kind."""
    if len(kinds) < 2:
        return ""
    listed = _listed([f"{kind} ({count})" for kind, count in sorted(kinds.items())])
    return f"several kinds of images: {listed}; choose one with --kind-normal {min(kinds)}"


def _listed(parts: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(parts) - SEVERAL} more" if len(parts) > SEVERAL else ""
    return ", ".join(parts[:SEVERAL]) + more


# -- Records ---------------------------------------------------------------------------------------


def _split_by_hash(images: Sequence[Image], labels: dict[str, int]) -> list[Record]:
    """Return records of which kinds with a label are tested with, and of the others, normals, a
    share of the groups."""
    records = []
    for image in images:
        label = labels.get(image.kind, NORMAL)
        split = "test" if label == ANOMALOUS else _own_split(image)
        records.append(replace(image.known(split, label), group=_group(image)))
    return records


def _own_split(image: Image) -> str:
    """Return the part of a normal image by a fixed hash of its group."""
    return "test" if position(_group(image), "test") < TEST_SHARE else "train"


def _group(image: Image) -> str:
    """Return an image's group: by their names, several pictures of one object are one group."""
    if image.record.group != image.record.id:
        return image.record.group  # a patient, by the header
    folders = "/".join(image.file.folders)
    if image.file.folders and re.fullmatch(r"S\d{3,}", image.file.folders[-1]):
        return path_text(folders)  # Real-IAD: a sample in several views
    lights = re.fullmatch(r"(\d+)_(regular|overexposed|underexposed|shift(_\d+)?)", image.file.stem)
    if lights:
        return path_text(f"{folders}/{lights[1]}")  # MVTec AD 2: an object in several lights
    return image.record.group
