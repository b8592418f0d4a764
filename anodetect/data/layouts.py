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
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from anodetect.data import doubts, names, split_tables
from anodetect.data.annotations import is_annotation
from anodetect.data.channels import Channels
from anodetect.data.named_images import Found, Image, is_subject, look
from anodetect.data.records import ANOMALOUS, NORMAL, Dataset, Record
from anodetect.data.split import position
from anodetect.data.truth_files import NNUNET_IMAGES
from anodetect.data.walk import Walked
from anodetect.errors import DataError, nearest
from anodetect.files import path_text
from anodetect.words import first_of

TEST_SHARE = 0.2  # of normals, where a layout has no test part
BESIDE = "images beside the parts of the data set"
OTHER_SEQUENCES = "images of other modalities or MR sequences"
UNUSED = "anomalous images of the validation part"


def recognise(
    root: Path,
    walked: Walked,
    said_normal: Collection[str] = (),
    channels: Channels | None = None,
) -> Dataset:
    """Return the data set that a folder is. With `channels` the files of a study are one record.

    `said_normal` are the names of folders, kinds, modalities or MR sequences that hold normals;
    then nothing else is learned from. Raises DataError if there is nothing of such a name.
    """
    said = frozenset(name.casefold() for name in said_normal)
    found = look(root, walked, said, channels)
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


def _stated(found: Found, said: frozenset[str]) -> Dataset:
    """Return the data set of a folder of which the user says what is normal."""
    chosen = [image for image in found.images if image.is_called(said)]
    if said & {image.sequence for image in chosen}:  # then parts of other names do not count
        chosen = [image for image in chosen if not _is_part_of_name(image, said)]
    sequences = {image.sequence for image in chosen if said & set(image.sequence.split())}
    sequences |= said & {image.sequence for image in chosen}
    if sequences:  # folders are patients then, unless their names mean something
        chosen = [_of_its_sequence(image) for image in chosen]
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
        other_kind = has_test and image.part == "test" and image.kind != ""
        anomalous = image.is_anomalous or (other_kind and image.meaning != "normal")
        records.append(image.known("test", ANOMALOUS if anomalous else None))
    layout = f"as said, {', '.join(sorted(said))} is normal"
    return found.dataset(records, layout, own_split=own_split)


def _of_its_sequence(image: Image) -> Image:
    """Return an image whose kind is its sequence, unless its folder's name means something."""
    return image if image.meaning else replace(image, kind=image.sequence)


def _is_part_of_name(image: Image, said: frozenset[str]) -> bool:
    """Return whether a word of an image's sequence was said, but not the whole."""
    return image.sequence not in said and bool(said & set(image.sequence.split()))


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
    if not found.images or not all(is_subject(image) for image in found.images):
        return None
    return _by_sequence(found, "BIDS")


def _by_sequence(found: Found, layout: str) -> Dataset:
    """Return the data set of images whose kinds are modalities or MR sequences; several are not
    mixed."""
    counts = Counter(image.sequence for image in found.images)
    records = []
    for image in found.images:
        records.append(replace(image.record, kind=image.sequence, masks=image.masks))
    return found.dataset(records, layout, doubt=doubts.of_several(counts))


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
        if not own or names.meaning(own[0]) not in ("", "mask"):  # a product may be a mask
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
        f"several data sets: {first_of(categories)}; name one of them, "
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
            label = NORMAL if image.is_normal else None
            label = ANOMALOUS if anomalous and not image.is_normal else label
            records.append(replace(image.known("test", label), group=_group(image)))
        else:
            label = NORMAL if image.is_normal else None
            label = ANOMALOUS if image.is_anomalous else label
            records.append(replace(image.known("train", label), group=_group(image)))

    learned = [image for image in found.images if image.part in ("train", "validation")]
    learned = [image for image in learned if not (image.part == "validation" and has_normal)]
    doubt = doubts.of_kinds(learned, "train") or doubts.of_numbers(found.images)
    doubt = doubt or doubts.of_contents(learned)
    return found.dataset(records, "train and test parts", doubt=doubt)


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
    layout = "normal and anomalous images with masks"
    return found.dataset(records, layout, doubt=doubts.of_parts(found.images), own_split=True)


def _plain(found: Found) -> Dataset:
    """Return the data set of a folder of images, with the doubt that its names leave."""
    sequences = Counter(image.sequence for image in found.images if image.sequence)
    if len(sequences) > 1:
        return _by_sequence(found, "several modalities or MR sequences")

    kinds = {image.kind: image.meaning for image in found.images}
    doubt = doubts.of_kinds(found.images, "")
    if not any(kinds.values()):
        doubt = doubts.of_name(found.root) or doubts.of_file_names(found.images)
    doubt = doubt or doubts.of_numbers(found.images) or doubts.of_parts(found.images)
    doubt = doubt or doubts.of_marks(found.images)
    doubt = doubt or doubts.of_contents(found.images)
    if set(kinds.values()) == {"normal", "anomalous"}:
        labels = {kind: ANOMALOUS for kind, meaning in kinds.items() if meaning == "anomalous"}
        records = _split_by_hash(found.images, labels)
        return found.dataset(records, "normal and anomalous images", doubt=doubt, own_split=True)

    records = []
    for image in found.images:
        label = NORMAL if set(kinds.values()) == {"normal"} else None
        if label is None and any(is_annotation(path) for path in image.masks):
            label = ANOMALOUS  # a mask may mark anything, an outline what is to be found
        known = label is not None or bool(image.masks)
        record = replace(image.record, label=label, masks=image.masks) if known else image.record
        records.append(record)
    folders = len({image.file.folders for image in found.images})
    layout = "a folder of images" if folders < 2 else f"images in {folders} folders"
    return found.dataset(records, layout, doubt=doubt)


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
