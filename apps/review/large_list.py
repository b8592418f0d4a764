"""The worklist of a large table: the same order and filters as in worklist.py, over columns."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from anodetect.stats.agreement import Judgements, disagreement

from .catalogue import Catalogue, Listed, Mask, Places
from .worklist import Filter, Order

NAMED = ("path", "group", "study", "kind")  # the columns that a search looks through


def blind_order(catalogue: Catalogue, head: str) -> Places:
    """Return all places in an order that is the same for everyone and says nothing of the rows."""
    seed = int.from_bytes(sha256(head.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).permutation(catalogue.count).astype(np.int32)


def ordered(catalogue: Catalogue, order: Order) -> Places:
    """Return all places in this order; ties by their places, which are in the order of the paths.
    That by disagreement needs the verdicts, and is by score here."""
    if order == "name":
        return np.arange(catalogue.count, dtype=np.int32)
    score = catalogue.numbers("score")
    if order == "nearness to threshold":
        distance = np.abs(score - catalogue.numbers("threshold"))
        return np.argsort(distance, kind="stable").astype(np.int32)

    by_score = np.argsort(-score, kind="stable").astype(np.int32)
    if order in ("score", "disagreement"):
        return by_score
    share = catalogue.numbers("q_value" if order == "q-value" else "p_value")[by_score]
    share[np.isnan(share)] = np.inf
    if (share[1:] >= share[:-1]).all():  # as in every batch of images alone
        return by_score
    return by_score[np.argsort(share, kind="stable")]


def by_disagreement(places: Places, catalogue: Catalogue, judgements: Judgements) -> Places:
    """Return places in order with those on which readers differ first, the most differing first."""
    differing = {path: disagreement(judged) for path, judged in judgements.items()}
    known = catalogue.places([path for path, share in differing.items() if share > 0])
    shares = {place: differing[path] for path, place in known.items()}
    if not shares:
        return places
    is_first = np.isin(places, list(shares))
    first = sorted(places[is_first].tolist(), key=lambda place: -shares[place])
    return np.concatenate([np.array(first, np.int32), places[~is_first]])


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


def listed(catalogue: Catalogue, order: Places, fits: Mask | None) -> Listed:
    """Return the rows in this order that fit."""
    return Listed(catalogue, order if fits is None else order[fits[order]])


def _at(catalogue: Catalogue, paths: Sequence[str]) -> Mask:
    fits = np.zeros(catalogue.count, np.bool_)
    fits[list(catalogue.places(paths).values())] = True
    return fits


def _one_of(catalogue: Catalogue, name: str, wanted: Sequence[str]) -> Mask:
    """Return which rows have one of these texts in a column; a missing one is ""."""
    fits, values = np.empty(catalogue.count, np.bool_), pa.array(wanted, pa.string())
    for start, batch in catalogue.parts([name]):
        found = pc.is_in(pc.fill_null(batch[name], ""), value_set=values)
        fits[start : start + len(batch)] = found.to_numpy(zero_copy_only=False)
    return fits


def _with_text(catalogue: Catalogue, sought: str) -> Mask:
    """Return which rows have a text in one of NAMED, in upper or lower case."""
    fits = np.zeros(catalogue.count, np.bool_)
    names = [name for name in NAMED if name in catalogue.names]
    for start, batch in catalogue.parts(names):
        part = fits[start : start + len(batch)]
        for name in names:
            found = pc.match_substring(pc.fill_null(batch[name], ""), sought, ignore_case=True)
            part |= found.to_numpy(zero_copy_only=False)
    return fits


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
