"""Inspect: what a folder holds, and what each of its images would be used for."""

import html
from base64 import b64encode
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from rich.table import Table

from anodetect.commands.channels import wanted_channels
from anodetect.commands.fold_plan import (
    CalibrationPlan,
    count_of,
    other_use,
    plan_lines,
    use_in_folds,
)
from anodetect.commands.texts import drawn
from anodetect.data import cards, split
from anodetect.data.channels import Channels
from anodetect.data.manifest import is_manifest
from anodetect.data.named_images import MASKS
from anodetect.data.patients import line_of_notes, warning_of
from anodetect.data.reading import AS_IT_IS, Reading
from anodetect.data.records import ANOMALOUS, Dataset, PassedOver, Record
from anodetect.data.scan import counted, reasons
from anodetect.data.series import uneven_slices
from anodetect.data.volume_headers import note_of_record
from anodetect.detectors import RECOMMENDED
from anodetect.errors import ConfigError, DataError
from anodetect.files import printable, relative_text, write_atomic
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.imaging.tiling import refuse_large_tile
from anodetect.model.input_facts import InputFacts, facts_of
from anodetect.model.loading import Failed, LoadedImage, LoadedVolume, load
from anodetect.output.pictures import contrast, grey, png
from anodetect.words import amount, first_of

LOOKED_AT = 5  # files of a folder that are opened
SHOWN = 40  # rows that are printed
NAMED = 5  # volumes with uneven slices of a row that are printed
THUMBNAILS = 3  # pictures of a folder on the page
SIDE = 160  # of a picture, in pixels
LEARN, CALIBRATE, TEST, UNCLEAR = "learn", "calibrate", "test", "unclear"
BOTH = "learn and calibrate"  # in folds
MASK = "mask"
KNOWN = "learn as anomalous"
IN_TRAIN = "passed over: anomalous, in the train part"


@dataclass(frozen=True)
class FolderRow:
    """The files of one folder and kind that are used for the same: how many there are, how many
    of them were opened, and what those are like. `masks` have a mask. Texts list what was found,
    "" where a format does not say it. `uneven` names every volume whose slices do not lie evenly,
    and says how they lie."""

    folder: str
    kind: str
    use: str
    count: int
    masks: int = 0
    looked_at: int = 0
    sizes: str = ""
    channels: str = ""
    bits: str = ""
    modality: str = ""
    views: str = ""
    plane: str = ""
    spacing: str = ""
    uneven: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Inspection:
    """The content of a folder. `doubt` says why nothing would be learned from it, "" if it would
    be; `passed_over` has the number of files by reason, `summary` the most important in words."""

    data: str
    layout: str
    doubt: str
    rows: tuple[FolderRow, ...]
    passed_over: Mapping[str, int]
    summary: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `data inspect --json` prints."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows]}


def inspect(
    data: str,
    *,
    follow_symlinks: bool = False,
    kind_normal: Collection[str] = (),
    known_anomalies: bool = False,
    reading: Reading = AS_IT_IS,
    channels: str | None = None,
    allow_missing: bool = False,
    page: Path | None = None,
    plan: CalibrationPlan | None = None,
) -> Inspection:
    """Return what a folder, file or card holds; a few files of each folder are opened, and read
    as `reading` says.

    With `page` an HTML page with pictures from every folder is written there. With
    `known_anomalies` those of a manifest would be learned from. `channels` are several files of
    each image, as for `train`. The parts that images would have in a training are those before
    copies and unreadable files are known: in one with the default detector, or with the arguments
    `plan`, of which the summary then says what they would calibrate with, and what they could
    promise.
    """
    dataset = cards.open_data(
        data,
        follow_symlinks=follow_symlinks,
        kind_normal=kind_normal,
        known_anomalies=known_anomalies,
        channels=wanted_channels(channels, allow_missing=allow_missing),
    )
    by_place: dict[tuple[str, str, str], list[Record]] = {}
    folds = 0
    planned: list[str] = []
    if not dataset.doubt:
        folds = count_of(plan or CalibrationPlan(RECOMMENDED), dataset)
        planned = other_use(dataset) if plan is None else plan_lines(plan, dataset)
    uses = uses_of(dataset, folds)
    for record in dataset.records:
        folder = str(PurePosixPath(record.id).parent)
        by_place.setdefault((folder, record.kind, uses[record.id]), []).append(record)

    rows, pictures = [], []
    notes: dict[str, str] = {}  # of volumes that were read
    learned: list[InputFacts] = []
    for (folder, kind, use), records in by_place.items():
        row, images, facts = _row(folder, kind, use, records, reading, dataset.channels, notes)
        learned += facts if use in (LEARN, CALIBRATE, BOTH) else []
        rows.append(row)
        pictures.append(images)
    if plan is not None:
        planned += _tile_line(plan.tile, learned)
    rows += [_passed_over_row(each) for each in dataset.passed_over]
    inspection = Inspection(
        data=dataset.name,
        layout=dataset.layout,
        doubt=dataset.doubt,
        rows=tuple(rows),
        passed_over=dict(reasons(dataset.passed_over)),  # asdict spoils a Counter
        summary=(
            *summary(dataset, folds),
            *_missing_line(dataset),
            *planned,
            *_uneven_line(rows),
            *_note_line(dataset, notes),
        ),
    )
    if page is not None:
        write_atomic(page, _page(inspection, pictures))
    return inspection


def uses_of(dataset: Dataset, folds: int = 0) -> dict[str, str]:
    """Return what each record would be used for in a training with so many folds, by its id."""
    uses = {}
    known = {record.id for record in dataset.anomalies()}
    for record in dataset.records:
        if record.split == "test":
            uses[record.id] = TEST
        elif record.label == ANOMALOUS:
            uses[record.id] = KNOWN if record.id in known else IN_TRAIN
        else:
            uses[record.id] = UNCLEAR if dataset.doubt else LEARN
    if dataset.doubt:
        return uses

    groups = {record.group for record in dataset.anomalies()}
    if folds:
        both = [record.id for record in dataset.training() if record.group not in groups]
        return uses | dict.fromkeys(both, BOTH)
    try:
        roles = split.assign(dataset.training(), to_fit=groups)
    except DataError:  # too few: training will say so
        return uses
    return uses | {record.id: CALIBRATE for record in roles.calibrate}


def summary(dataset: Dataset, folds: int = 0, *, learns: bool = True) -> list[str]:
    """Return in a few lines what was found and what it would be used for, normals in so many
    folds; without `learns` they are to calibrate with."""
    uses = Counter(uses_of(dataset, folds).values())
    lines = [f"{dataset.name}: {dataset.layout}"]
    if dataset.doubt:
        lines.append(f"nothing is learned from it: {dataset.doubt}")
    else:
        total = uses[LEARN] + uses[CALIBRATE] + uses[BOTH]
        use = f"{uses[LEARN]} to learn from and {uses[CALIBRATE]} to calibrate with"
        if folds:
            use = use_in_folds(folds)
        if not learns:
            use = "all to calibrate with"
        images = amount(total, "image")
        lines.append(f"normal: {images}{_kinds(dataset)}, {use}{_masked(dataset)}")

    if uses[KNOWN]:
        lines.append(f"known anomalies: {amount(uses[KNOWN], 'image')}, learned from as such")
    tested = [record for record in dataset.records if record.split == "test"]
    anomalous = [record for record in tested if record.label == ANOMALOUS]
    if tested:
        masked = sum(bool(record.masks) for record in anomalous)
        lines.append(
            f"kept for tests: {amount(len(tested), 'image')}, {len(anomalous)} of them anomalous "
            f"({masked} with masks)"
        )
    passed_over = reasons(dataset.passed_over)
    if uses[IN_TRAIN]:
        passed_over["anomalous images in the train part"] = uses[IN_TRAIN]
    if passed_over:
        lines.append(f"passed over: {counted(passed_over)}")
    if unnamed := warning_of(record.group for record in dataset.records):
        lines.append(unnamed)
    if dataset.problems:
        first = dataset.problems[0]
        lines.append(f"not looked into: {len(dataset.problems)}; {first.name}: {first.reason}")
    return lines


def _kinds(dataset: Dataset) -> str:
    """Return the first kinds of what is learned from, in brackets; "" without any."""
    kinds = Counter(record.kind for record in dataset.training() if record.kind)
    named = [f"{kind} {count}" for kind, count in kinds.most_common(3)]
    return f" ({', '.join(named)})" if named else ""


def _masked(dataset: Dataset) -> str:
    """Return a warning if images to learn from have masks, which may mark anomalies."""
    masked = sum(bool(record.masks) for record in dataset.training())
    if not masked:
        return ""
    one = "of them has a mask: if it marks an anomaly, the image is not normal"
    many = "of them have masks: if these mark anomalies, the images are not normal"
    return f"; {amount(masked, one, many)}"


def _passed_over_row(found: PassedOver) -> FolderRow:
    """Return the row of files that are not looked at."""
    use = MASK if found.reason == MASKS else f"passed over: {found.reason}"
    return FolderRow(folder=found.folder, kind="", use=use, count=found.count)


def _row(
    folder: str,
    kind: str,
    use: str,
    records: Sequence[Record],
    reading: Reading,
    channels: Channels | None,
    notes: dict[str, str],
) -> tuple[FolderRow, list[LoadedImage], list[InputFacts]]:
    """Open some files of a folder; return its row, images to show, and what the files are like.
    What is to be known of volumes is added to `notes` by their ids."""
    facts: list[InputFacts] = []
    images: list[LoadedImage] = []
    opened: dict[str, str] = {}
    problem = ""
    step = max(1, len(records) // LOOKED_AT)
    chosen = records[::step][:LOOKED_AT]
    preprocess = Preprocess(PreprocessConfig(**asdict(reading)))
    preprocess.named = channels

    for record in chosen:
        loaded = load(record, preprocess)
        if isinstance(loaded, Failed):
            problem = problem or f"{record.id}: {loaded.error}"
        if isinstance(loaded, LoadedImage | LoadedVolume):
            facts.append(facts_of(loaded))
        if isinstance(loaded, LoadedImage):
            images.append(loaded)
        if isinstance(loaded, LoadedVolume):
            opened[record.id] = loaded.volume.source.unevenness
            notes[record.id] = loaded.volume.source.note
    row = FolderRow(
        folder=folder,
        kind=kind,
        use=use,
        count=len(records),
        masks=sum(bool(record.masks) for record in records),
        looked_at=len(chosen),
        sizes=_values("×".join(map(str, each.size)) for each in facts),
        channels=_values(str(each.channels) for each in facts),
        bits=_values(str(each.bits or "") for each in facts),
        modality=_values(each.modality for each in facts),
        views=_values(_view(record) for record in records),
        plane=_values(each.plane for each in facts),
        spacing=_values("×".join(f"{mm:.3g}" for mm in each.spacing) for each in facts),
        uneven=_uneven(records, opened),
        problem=problem,
    )
    return row, images[:THUMBNAILS], facts


def _tile_line(tile: int, learned: Iterable[InputFacts]) -> list[str]:
    """Return one line if `train` would refuse tiles as too large for images like those that were
    opened, else []."""
    sizes = [facts.size for facts in learned]
    if any(len(size) != 2 for size in sizes):
        return []
    try:
        refuse_large_tile(tile, chain.from_iterable(sizes))
    except ConfigError as error:
        return [f"train would refuse it: {error}"]
    return []


def _uneven(records: Iterable[Record], opened: Mapping[str, str]) -> tuple[str, ...]:
    """Return the volumes whose slices do not lie evenly, each with how they lie. `opened` has that
    of volumes that were read; of others headers say it."""
    notes = []
    for record in records:
        note = opened[record.id] if record.id in opened else uneven_slices(record)
        if note:
            notes.append(f"{record.id}: {note}")
    return tuple(notes)


def _uneven_line(rows: Iterable[FolderRow]) -> list[str]:
    """Return one line that says how many volumes have uneven slices, [] if none has."""
    names: list[str] = []
    for row in rows:
        names += row.uneven
    volumes = amount(len(names), "volume")
    return [f"slices not evenly spaced: {volumes}; {names[0]}"] if names else []


def _note_line(dataset: Dataset, opened: Mapping[str, str]) -> list[str]:
    """Return one line that says how many volumes have a note, [] if none has. `opened` has those of
    volumes that were read; of others headers say what they can."""
    notes: dict[str, str] = {}
    for record in dataset.records:
        known = record.id in opened
        found = opened[record.id] if known else note_of_record(record)
        notes[record.id] = "; ".join(filter(None, (record.note, found)))
    noted = line_of_notes(notes)
    return [noted] if noted else []


def _missing_line(dataset: Dataset) -> list[str]:
    """Return one line that says which files of a manifest are not there, [] if all are."""
    if not is_manifest(dataset.layout):
        return []
    missing = []
    for record in dataset.records:
        named = [record.path, *record.masks, record.foreground]
        named += [channel.path for channel in record.channels]
        for path in dict.fromkeys(named):
            if path is not None and not path.exists():
                missing.append(relative_text(path, dataset.root))
    if not missing:
        return []
    files = amount(len(missing), "file")
    return [f"missing: {files} that {dataset.layout} lists: {first_of(missing)}"]


def _view(record: Record) -> str:
    """Return a radiograph's view and side, such as "CC R"; "" where they are not said."""
    return f"{record.extra.get('view', '')} {record.extra.get('laterality', '')}".strip()


def _values(values: Iterable[str]) -> str:
    """Return the different values that are not "", the first three of them."""
    found = [value for value in dict.fromkeys(values) if value]
    return ", ".join(found[:3]) + (" …" if len(found) > 3 else "")


def inspection_text(inspection: Inspection) -> str:
    """Return what `data inspect` prints."""
    grid = Table(box=None, pad_edge=False)
    for name in ("folder", "kind", "use", "images", "masks", "size", "ch", "bits", "modality"):
        grid.add_column(name, overflow="fold")
    grid.add_column("plane, mm")
    for row in inspection.rows[:SHOWN]:
        place = f"{row.plane} {row.spacing}".strip()
        cells = (row.kind, row.use, str(row.count), str(row.masks or ""), row.sizes)
        modality = f"{row.modality} {row.views}".strip()
        grid.add_row(row.folder, *cells, row.channels, row.bits, modality, place)

    lines = [line.replace("\n", "\\n") for line in inspection.summary]
    lines += ["", drawn(grid)]
    if len(inspection.rows) > SHOWN:
        lines.append(f"… and {len(inspection.rows) - SHOWN} more; --json lists all")
    for row in inspection.rows:
        lines += [f"uneven slices: {note}" for note in row.uneven[:NAMED]]
        if len(row.uneven) > NAMED:
            lines.append(f"… and {len(row.uneven) - NAMED} more in {row.folder}; --json lists all")
    lines += [f"cannot be read: {row.problem}" for row in inspection.rows if row.problem]
    lines.append(f"Of each row at most {LOOKED_AT} files were opened.")
    return "\n".join(lines)


def _page(inspection: Inspection, pictures: Sequence[Sequence[LoadedImage]]) -> str:
    """Return a page with the summary and, for every row, some of its images."""
    parts = ["<!doctype html><meta charset='utf-8'><title>anodetect: what a folder holds</title>"]
    parts.append("<style>body{font:16px sans-serif;margin:2rem}img{margin-right:4px}</style>")
    parts += [f"<p>{html.escape(printable(line))}</p>" for line in inspection.summary]
    for row, images in zip(inspection.rows, pictures, strict=False):  # none of what is passed over
        title = f"{row.folder} · {row.kind or 'no kind'} · {row.use} · {row.count}"
        parts.append(f"<h2>{html.escape(printable(title))}</h2>")
        for loaded in images:
            parts.append(_picture(loaded))
    return "\n".join(parts)


def _picture(loaded: LoadedImage) -> str:
    """Return an image in its own contrast as an HTML element."""
    image = loaded.leading
    step = max(1, max(image.shape[1:]) // SIDE)
    small = image[:, ::step, ::step]
    source = b64encode(png(grey(small, contrast(small)))).decode()
    name = html.escape(printable(loaded.record.id))
    return f"<img alt='{name}' title='{name}' src='data:image/png;base64,{source}'>"
