"""Decisions as tables: the columns p_value, q_value, flagged and threshold, and what is to be said
about them. No torch."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from anodetect.record.rows import LITTLE_FOREGROUND, OK, UNSEEN, GroupRow, ScoreRow, schema_of
from anodetect.stats import decision
from anodetect.stats.calibration import Calibration, Doubles
from anodetect.stats.decision import Rule
from anodetect.stats.group_size import comparison, volume_comparison
from anodetect.types import Bools
from anodetect.words import amount

# Groups with this many times as many, or as few, images as calibration groups cannot be compared.
SIZE_RATIO = 1.5


def decide(
    rows: pa.Table,
    calibration: Calibration,
    rule: Rule,
    *,
    slices: pa.Table | None = None,
    by_size: bool = True,
) -> tuple[pa.Table, pa.Table, float]:
    """Return a table of ScoreRow with the decisions filled in, a table of GroupRow, and the
    threshold of images. `slices` is the table of SliceRow where there are volumes. Without
    calibration images nothing is decided: the columns are null. Not `by_size`, groups are compared
    as release 0.2 did."""
    scored = is_ok(rows)
    named = rows.select(["path", "group"])
    group_numbers, names = _coded(named if scored.all() else named.filter(pa.array(scored)))
    found = decision.decide(
        numbers(rows["score"])[scored],
        is_volume(rows)[scored],
        group_numbers,
        len(names),
        calibration,
        rule,
        slices=None if slices is None else _slice_counts(rows["path"], slices)[scored],
        by_size=by_size,
    )

    columns: dict[str, Doubles | Bools] = {
        "p_value": found.p_values,
        "q_value": found.q_values,
        "flagged": found.flags,
        "threshold": found.thresholds,
    }
    of_groups, decided = found.groups, bool(calibration.groups)
    undecided = np.full(len(names), not decided)
    groups = pa.table(
        [
            names,
            of_groups.images,
            of_groups.scores,
            pa.array(of_groups.p_values, mask=undecided),
            pa.array(of_groups.q_values, mask=undecided),
            pa.array(of_groups.flags, mask=undecided),
        ],
        schema=schema_of(GroupRow),
    )
    rows = _filled(rows, scored, columns) if decided else _emptied(rows, columns)
    return rows, groups, found.threshold


def _coded(rows: pa.Table) -> tuple[NDArray[np.integer], pa.ChunkedArray]:
    """Return the number of each row's group [n], and the names of the groups, in the order in which
    they are first named. Where each row is a group of its own no name is looked up."""
    paths, groups = rows["path"], rows["group"]
    if groups.equals(paths) and is_increasing(paths):
        return np.arange(len(rows)), groups
    coded = pc.dictionary_encode(pa.chunked_array(groups, pa.string()).combine_chunks())
    return np.asarray(coded.indices), pa.chunked_array([coded.dictionary])


def is_increasing(names: pa.ChunkedArray) -> bool:
    """Return whether each of the names comes after the one before."""
    return bool(pc.all(pc.less(names[:-1], names[1:])).as_py() is not False)


def _slice_counts(paths: pa.ChunkedArray, slices: pa.Table) -> NDArray[np.int64]:
    """Return how many slices with a score each path has [n]."""
    counts, found = scored_slices(slices), np.zeros(len(paths), np.int64)
    if counts:
        found[:] = [counts[path] for path in paths.to_pylist()]
    return found


def decide_slices(slices: pa.Table, calibration: Calibration, rule: Rule) -> pa.Table:
    """Return a table of SliceRow with p_value and flagged filled in where there is a score; null
    everywhere without calibration images."""
    if not calibration.groups:
        return _emptied(slices, ("p_value", "flagged"))
    scored = np.asarray(pc.is_valid(slices["score"]), bool)
    p, flags = decision.decide_slices(numbers(slices["score"])[scored], calibration, rule)
    return _filled(slices, scored, {"p_value": p, "flagged": flags})


def _filled(table: pa.Table, where: Bools, columns: Mapping[str, Doubles | Bools]) -> pa.Table:
    """Return the table with these columns. Their values stand in the rows `where`; other rows are
    null."""
    for name, values in columns.items():
        every = np.zeros(len(where), values.dtype)
        every[where] = values
        table = _with_column(table, name, pa.array(every, mask=~where))
    return table


def _with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """Return the table with this column, in the place of one of the same name if there is one."""
    place = table.schema.get_field_index(name)
    if place < 0:
        return table.append_column(name, column)
    return table.set_column(place, table.schema.field(place), column)


def _emptied(table: pa.Table, names: Iterable[str]) -> pa.Table:
    """Return the table with null in all rows of the columns `names`."""
    for name in names:
        kind = schema_of(ScoreRow).field(name).type
        table = _with_column(table, name, pa.nulls(len(table), kind))
    return table


def is_ok(rows: pa.Table) -> Bools:
    """Return which rows have a score [n]."""
    return np.asarray(pc.equal(rows["status"], OK), bool)


def is_volume(rows: pa.Table) -> Bools:
    """Return which rows are volumes [n]."""
    return numbers(rows["depth"]) > 0


def scored_slices(slices: pa.Table) -> Counter[str]:
    """Return how many slices of each volume have a score, by its path."""
    return Counter(slices["path"].filter(pc.is_valid(slices["score"])).to_pylist())


def numbers(column: pa.ChunkedArray) -> Doubles:
    """Return a column's values [n], NaN where there is none."""
    return np.asarray(column.cast(pa.float64()).fill_null(np.nan))


# -- Caveats ---------------------------------------------------------------------------------------


def volume_caveats(
    volumes: Mapping[str, str],
    slices: pa.Table,
    calibration: Calibration,
    rate: float,
    prepared: Collection[str] = (),
) -> list[str]:
    """Return what is to be known of volumes, given by path with their groups: slices that were not
    scored, and decisions that cannot be made or are worth less than they seem. Those of them that
    were `prepared` have other slices in the table than a model has seen and was calibrated with."""
    found = []
    reasons = Counter(slices["unscored"].to_pylist())
    for reason in (LITTLE_FOREGROUND, UNSEEN):
        if reasons[reason]:
            of = f"of {amount(len(slices), 'slice')}"
            those = amount(reasons[reason], f"{of} was", f"{of} were")
            found.append(f"{those} not scored (NaN): {reason}")
    groups = calibration.n_groups
    if not volumes or not groups:
        return found

    if calibration.level(rate) != "group":
        found.append(
            f"no volume or patient can be flagged at {rate:g}: "
            f"{amount(groups, 'calibration group reaches', 'calibration groups reach')} "
            f"p-values of {1 / (groups + 1):.3f}; slices are flagged one by one"
        )
    found += _several_volumes(volumes, slices, calibration, rate)
    seen = [path for path in volumes if path not in prepared]
    if not seen:
        return found
    scored = scored_slices(slices)
    usual = _images_a_group(calibration)
    count = float(np.median([scored[path] for path in seen]))
    if not usual / SIZE_RATIO <= count <= usual * SIZE_RATIO:
        own, others = amount(count, "scored slice"), amount(usual, "image")
        found.append(
            f"volumes have {own}, calibration groups {others}: a volume's highest score is "
            "compared with that of a group of another size; calibrate on volumes like these"
        )
    return found


def _several_volumes(
    volumes: Mapping[str, str], slices: pa.Table, calibration: Calibration, rate: float
) -> Iterator[str]:
    """Yield how many groups have several volumes that are compared one by one."""
    sizes, scored = list(Counter(calibration.groups).values()), scored_slices(slices)
    by_group: dict[str, list[int]] = {}
    for path, group in volumes.items():
        by_group.setdefault(group, []).append(scored[path])

    bounded = []
    for counts in by_group.values():
        how = volume_comparison(len(counts), sum(counts), sizes, rate)
        if how.parts > 1:
            bounded.append(how)
    if bounded:
        finest = max(how.finest for how in bounded)
        patients = amount(len(bounded), "patient has", "patients have")
        yield (
            f"{patients} several volumes, and too few calibration groups as many slices: their "
            "p-values are as many times that of their highest volume, an upper bound, of which the "
            f"smallest is {min(1.0, finest):.3f}; calibrate on groups like these"
        )


def group_caveats(groups: pa.Table, calibration: Calibration, rate: float) -> list[str]:
    """Return what is to be known of groups of images, a table of GroupRow, at a false-alarm
    rate."""
    if not calibration.groups or not len(groups):
        return []
    usual, count = _images_a_group(calibration), float(np.median(numbers(groups["images"])))
    sizes = list(Counter(calibration.groups).values())
    how = comparison(math.ceil(count), sizes, rate)
    if how.parts == 1 and (how.finest <= rate or count <= usual):
        return []

    own, compared = amount(count, "image"), amount(how.images, "image")
    return [
        f"groups have {own}, calibration groups {usual:g}: p-values of such groups are {how.parts} "
        f"times those of {compared}, an upper bound, of which the smallest is {how.finest:.3f}; "
        "calibrate on groups like these"
    ]


def _images_a_group(calibration: Calibration) -> float:
    """Return how many images a calibration group has, in the median."""
    return float(np.median(list(Counter(calibration.groups).values())))
