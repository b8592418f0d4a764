"""The worklist of a large table: the same order and filters as in worklist.py, over columns."""

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from anodetect.stats.agreement import Judgements, disagreement

from .catalogue import Catalogue, Mask, Places, Ranking, complete
from .worklist import Filter, Order

Numbers = NDArray[np.float64]
MOST = 1  # different texts of a column that may be left out
FOREMOST = 200_000  # rows that are sorted at once; the others are once somebody asks for them
NAMED = ("path", "group", "study", "kind")  # the columns that a search looks through


def blind_order(catalogue: Catalogue, head: str) -> Places:
    """Return all places in an order that is the same for everyone and says nothing of the rows."""
    seed = int.from_bytes(sha256(head.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).permutation(catalogue.count).astype(np.int32)


def ordered(catalogue: Catalogue, name: Order, fits: Mask | None = None) -> Ranking:
    """Return the places of the rows that fit, or all, in the order of this name; ties by their
    places, which are in the order of the paths. That by disagreement needs the verdicts, and is by
    score here."""
    places = np.arange(catalogue.count, dtype=np.int32)
    if fits is not None:
        places = places[fits]
    if name == "name":
        return complete(places)

    def keys() -> tuple[Numbers, Numbers]:
        first, second = _keys(catalogue, name)
        return (first, second) if fits is None else (first[fits], second[fits])

    def whole() -> Places:
        first, second = keys()
        return places[np.lexsort((second, first))]

    return Ranking(places[_foremost(*keys())], len(places), whole)


def _keys(catalogue: Catalogue, name: Order) -> tuple[Numbers, Numbers]:
    """Return what rows are sorted by, and what those are sorted by that are equal in it, both
    rising, with NaN last."""
    score = -catalogue.numbers("score")
    if name in ("score", "disagreement"):
        return score, score
    if name == "nearness to threshold":
        distance = np.abs(score + catalogue.numbers("threshold"))
        return distance, distance
    return catalogue.numbers("q_value" if name == "q-value" else "p_value"), score


def _foremost(first: Numbers, second: Numbers) -> NDArray[np.intp]:
    """Return the indices of the FOREMOST smallest values, and of those that equal the last of them,
    in order: the beginning of the order of all."""
    if len(first) <= FOREMOST:
        return np.lexsort((second, first))
    last = np.partition(first, FOREMOST)[FOREMOST]
    found = np.flatnonzero((first <= last) | np.isnan(last))
    return found[np.lexsort((second[found], first[found]))]


def by_disagreement(order: Ranking, catalogue: Catalogue, judgements: Judgements) -> Ranking:
    """Return places in order with those on which readers differ first, the most differing first."""
    differing = {path: disagreement(judged) for path, judged in judgements.items()}
    known = catalogue.places([path for path, share in differing.items() if share > 0])
    shares = {place: differing[path] for path, place in known.items()}
    if not shares:
        return order
    places = order.all()
    is_first = np.isin(places, list(shares))
    first = sorted(places[is_first].tolist(), key=lambda place: -shares[place])
    return complete(np.concatenate([np.array(first, np.int32), places[~is_first]]))


def fitting(
    catalogue: Catalogue, judgements: Judgements, keep: Filter, reviewer: str
) -> Mask | None:
    """Return which rows meet every condition, [rows]; None where there is no condition."""
    if keep == Filter():
        return None
    fits = np.ones(catalogue.count, np.bool_)
    if keep.paths:
        fits &= _at(catalogue, list(keep.paths))
    if keep.verdicts or keep.reviewed != "all":
        fits &= _judged_so(catalogue, judgements, keep, reviewer)

    for name, wanted in (("status", keep.status), ("group", keep.groups), ("kind", keep.kinds)):
        if wanted:
            fits &= _one_of(catalogue, name, sorted(wanted))
    if keep.flagged is not None:
        for start, batch in catalogue.parts(["flagged"]):
            flagged = pc.fill_null(batch["flagged"], False).to_numpy(zero_copy_only=False)
            fits[start : start + len(batch)] &= flagged == keep.flagged
    if sought := keep.search.strip():
        fits &= _with_text(catalogue, sought)
    return fits


def _at(catalogue: Catalogue, paths: Sequence[str]) -> Mask:
    fits = np.zeros(catalogue.count, np.bool_)
    fits[list(catalogue.places(paths).values())] = True
    return fits


def _one_of(catalogue: Catalogue, name: str, wanted: Sequence[str]) -> Mask:
    """Return which rows have one of these texts in a column; a missing one is ""."""
    fits, values = np.empty(catalogue.count, np.bool_), pa.array(wanted, pa.string())
    for start, batch in catalogue.parts([name]):
        found = _passing(batch[name], partial(pc.is_in, value_set=values))
        fits[start : start + len(batch)] = found
    return fits


def _with_text(catalogue: Catalogue, sought: str) -> Mask:
    """Return which rows have a text in one of NAMED, in upper or lower case."""
    fits = np.zeros(catalogue.count, np.bool_)
    # A column without any text has none to look through.
    names = [name for name in NAMED if catalogue.different(name, MOST) != ("",)]
    test = partial(pc.match_substring, pattern=sought, ignore_case=True)
    for start, batch in catalogue.parts(names):
        for name in names:
            fits[start : start + len(batch)] |= _passing(batch[name], test)
    return fits


def _passing(column: pa.Array, test: Callable[[pa.Array], pa.Array]) -> Mask:
    """Return which texts of a column pass a test; a missing one is ""."""
    if not isinstance(column, pa.DictionaryArray):
        passed = test(pc.fill_null(column, ""))
        return np.asarray(passed.to_numpy(zero_copy_only=False), np.bool_)
    texts = pa.concat_arrays([column.dictionary, pa.array([""], pa.string())])
    passed = np.asarray(test(texts).to_numpy(zero_copy_only=False), np.bool_)
    places = pc.fill_null(column.indices, len(column.dictionary))
    return np.asarray(passed[places.to_numpy(zero_copy_only=False)])


def _judged_so(
    catalogue: Catalogue, judgements: Judgements, keep: Filter, reviewer: str
) -> NDArray[np.bool_]:
    """Return which rows meet the conditions on their verdicts."""
    mine = {path: judged[reviewer] for path, judged in judgements.items() if reviewer in judged}
    if keep.verdicts:
        mine = {path: own for path, own in mine.items() if own.verdict in keep.verdicts}
    by_me = _at(catalogue, list(mine))
    if keep.verdicts and keep.reviewed in ("all", "by me"):
        return by_me
    by_anybody = _at(catalogue, [path for path, judged in judgements.items() if judged])
    if keep.verdicts:  # and not by me
        return np.zeros_like(by_me)
    return {
        "by me": by_me,
        "not by me": ~by_me,
        "by others only": by_anybody & ~by_me,
        "by nobody": ~by_anybody,
    }[keep.reviewed]
