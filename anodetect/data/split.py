"""The uses of normal images: fit, tune, calibrate. Whole groups, by a fixed hash, never
overlapping."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain

import numpy as np

from anodetect.data.records import Record
from anodetect.errors import DataError
from anodetect.words import amount

MINIMUM = 20  # images, below which nothing can be promised
FEWEST = 2  # with `few`
TUNE_SHARE, CALIBRATE_SHARE = 0.1, 0.2
FOLDS = 5  # where nothing has to be trained, unless another number is asked for
FEWEST_FOLDS = 3
FEW = (
    f"fewer than {MINIMUM} normal images, too few normals for a promise: all are used to fit, and "
    "scores carry no p-values, flags or thresholds (give them later with `anodetect calibrate`)"
)
ONE_GROUP = (
    "all images belong to one group: the calibrate and tune parts are dropped, "
    "so scores carry no p-values (give them later with `anodetect calibrate`) "
    "and standardisation is learned on the images trained on"
)
TWO_GROUPS = (
    "only two groups: the tune part is dropped, "
    "so standardisation is learned on the images trained on"
)


@dataclass(frozen=True)
class Roles:
    """Records by use. `dropped` says which part is missing because there are too few groups, and
    what that costs; "" where none is. `anomalies` are known ones to learn from, not normals.

    With `folds` the records to calibrate with are also to fit and to tune: each of them is scored
    by the model of the fold that has its group to calibrate, and has not learned from it.
    """

    fit: list[Record]
    tune: list[Record]
    calibrate: list[Record]
    dropped: str = ""
    anomalies: list[Record] = field(default_factory=list)
    folds: tuple["Roles", ...] = ()

    def fold_of(self) -> dict[str, int]:
        """Return by the name of each group the fold, from 1, that has it to calibrate."""
        numbers = {}
        for number, fold in enumerate(self.folds, start=1):
            for record in fold.calibrate:
                numbers[record.group] = number
        return numbers


def position(name: str, salt: str = "anodetect") -> float:
    """Return a fixed place in [0, 1) for a name, the same on every machine and for every seed."""
    return int.from_bytes(sha256(f"{salt}\0{name}".encode()).digest()[:8], "big") / 2**64


def assign(records: Sequence[Record], *, few: bool = False, to_fit: Collection[str] = ()) -> Roles:
    """Split normals about 70/10/20 by images, whole groups in the order of their hash.

    The groups `to_fit` are learned from and nothing else. With `few` all are there to fit if there
    are fewer than MINIMUM. DataError if there are fewer without `few`, fewer than FEWEST, if a few
    groups hold most of them, or if there are fewer than two groups beside those `to_fit`.
    """
    if len(records) < (FEWEST if few else MINIMUM):
        hint = "" if few else "; --allow-few takes a detector that needs no training"
        raise DataError(
            f"{_normals(records)} too few; at least {FEWEST if few else MINIMUM} are needed, some "
            f"hundreds are good{hint}"
        )
    if len(records) < MINIMUM:
        return Roles(list(records), [], [], dropped=FEW)

    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    names = sorted(groups, key=position)
    order = [groups[name] for name in names if name not in to_fit]
    fit = [groups[name] for name in names if name in to_fit]
    if fit and len(order) < 2:
        total = amount(len(groups), "group")
        raise DataError(
            f"{amount(len(fit), f'of {total} has', f'of {total} have')} to be fitted on, as known "
            "anomalies are of them; at least two others are needed, to tune and to calibrate with"
        )
    if len(groups) == 1:
        return Roles(list(records), [], [], dropped=ONE_GROUP)
    if len(groups) == 2:
        small, large = sorted(order, key=len)
        return Roles(large, [], small, dropped=TWO_GROUPS)

    rest = 0 if fit else 1  # groups in `order` that have to be left to fit
    tune = _take(order, TUNE_SHARE * len(records), leave=rest + 1)
    calibrate = _take(order, CALIBRATE_SHARE * len(records), leave=rest)
    learned_from = list(chain.from_iterable([*order, *fit]))
    if len(learned_from) < len(records) / 2:
        raise DataError(
            f"only {len(learned_from)} of {len(records)} images are left to fit: "
            "a few groups hold most of them; add groups or take single images as groups"
        )
    return Roles(learned_from, tune, calibrate)


def usual_folds(records: Sequence[Record], to_fit: Collection[str] = ()) -> int:
    """Return into how many folds normals are cut where that costs little: FOLDS; 0 if there are
    fewer than MINIMUM or too few groups, or if one group holds more than a third of them."""
    sizes = Counter(record.group for record in records)
    free = len(sizes) - len(set(to_fit) & set(sizes))
    if len(records) < MINIMUM or free < max(FOLDS, FEWEST_FOLDS):
        return 0
    return FOLDS if max(sizes.values()) <= len(records) / 3 else 0


def assign_folds(records: Sequence[Record], count: int, *, to_fit: Collection[str] = ()) -> Roles:
    """Return normals to fit (about seven eighths) and to tune (an eighth), which are all to
    calibrate with in `count` folds.

    Whole groups go in the order of their hash to the fold with the fewest images. The rest of a
    fold is split as all are. The groups `to_fit` are fitted on and nothing else. DataError if there
    are fewer records than MINIMUM, fewer groups than folds, or if a fold leaves too little to learn
    from.
    """
    if len(records) < MINIMUM:
        raise DataError(f"{_normals(records)} too few for --folds; see --allow-few")
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    fixed = [groups[name] for name in sorted(groups, key=position) if name in to_fit]
    order = [groups[name] for name in sorted(groups, key=position) if name not in to_fit]
    if count < FEWEST_FOLDS or count > len(order):
        raise DataError(
            f"--folds {count}: a number from {FEWEST_FOLDS} to that of the groups of normals, "
            f"{len(order)}, is expected"
        )

    parts: list[list[list[Record]]] = [[] for _ in range(count)]
    for group in order:
        smallest = min(parts, key=lambda part: sum(map(len, part)))
        smallest.append(group)
    folds = []
    for part in parts:
        rest = [group for group in order if group not in part]
        learned = _fit_and_tune([*rest, *fixed], len(fixed))
        fold = replace(learned, calibrate=list(chain.from_iterable(part)))
        if len(fold.fit) < len(records) / 2:
            raise DataError(
                f"--folds {count}: one fold leaves {len(fold.fit)} of {len(records)} images to "
                "fit, as a few groups hold most of them; take more folds, or --folds 0"
            )
        folds.append(fold)
    kept = _fit_and_tune([*order, *fixed], len(fixed))
    return replace(kept, calibrate=list(chain.from_iterable(order)), folds=tuple(folds))


def _normals(records: Sequence[Record]) -> str:
    """Return the number of records with its noun and verb."""
    return amount(len(records), "normal image is", "normal images are")


def _fit_and_tune(groups: Sequence[list[Record]], fixed: int) -> Roles:
    """Return the records of groups to fit and to tune; the last `fixed` groups are to fit."""
    free = list(groups[: len(groups) - fixed])
    count = sum(map(len, groups))
    tune = _take(free, TUNE_SHARE / (1 - CALIBRATE_SHARE) * count, leave=0 if fixed else 1)
    return Roles(list(chain.from_iterable([*free, *groups[len(groups) - fixed :]])), tune, [])


def _take(order: list[list[Record]], wanted: float, leave: int) -> list[Record]:
    """Move whole groups out of `order` until about `wanted` records are taken: at least one group,
    and none that overshoots by more than half of itself unless there is no smaller one."""
    taken: list[Record] = []
    for group in list(order):
        if len(order) > leave and len(taken) + len(group) / 2 <= wanted:
            order.remove(group)
            taken += group

    if not taken:
        smallest = min(order, key=len)
        order.remove(smallest)
        taken += smallest
    return taken


def merge_duplicates(records: Sequence[Record], hashes: Sequence[str]) -> tuple[list[Record], int]:
    """Return the records with those of the same pixels (`hashes`, one for each record) in one
    group, so that no copy crosses a split, and how many copies there are."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # A graph whose nodes are groups and contents; each record joins its group with its content.
    groups: dict[str, int] = {}
    contents: dict[str, int] = {}
    of_group, of_content = [], []
    for record, content in zip(records, hashes, strict=True):
        of_group.append(groups.setdefault(record.group, len(groups)))
        of_content.append(contents.setdefault(content, len(contents)))
    size = len(groups) + len(contents)
    edges = (of_group, np.add(of_content, len(groups)))
    graph = coo_array((np.ones(len(records), np.int64), edges), shape=(size, size))
    _, component = connected_components(graph, directed=False)

    # All groups of a component take the name of its first one.
    first: dict[int, str] = {}
    for name, index in groups.items():
        first.setdefault(component[index], name)
    merged = []
    for record, index in zip(records, of_group, strict=True):
        merged.append(replace(record, group=first[component[index]]))
    return merged, len({record.id for record in records}) - len(contents)


def refuse_leaks(
    train: Sequence[Record],
    test: Sequence[Record],
    hashes: Mapping[str, str],
    pixels: Mapping[str, str],
) -> None:
    """Raise DataError if a group, the same bytes or the same pixels (`hashes` and `pixels`: record
    id → hash) stand on both sides."""
    train_groups = {record.group: record.id for record in train}
    train_bytes = {hashes[record.id]: record.id for record in train if record.id in hashes}
    train_pixels = {pixels[record.id]: record.id for record in train if record.id in pixels}

    for record in test:
        if record.group in train_groups:
            other = train_groups[record.group]
            raise DataError(
                f"group {record.group!r} is in train ({other}) and in test ({record.id}); "
                "move it to one side"
            )
        same_bytes = train_bytes.get(hashes.get(record.id, ""))
        same_pixels = train_pixels.get(pixels.get(record.id, ""))
        if same_bytes or same_pixels:
            what = "bytes" if same_bytes else "pixels"
            raise DataError(
                f"leak: {record.id} in test has the same {what} as {same_bytes or same_pixels} in "
                "train; remove one of them"
            )
