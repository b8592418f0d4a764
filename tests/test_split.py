from pathlib import Path

import pytest

from anodetect.data import split
from anodetect.data.records import Record
from anodetect.errors import DataError


def records(groups):
    return [
        Record(id=f"{n}.png", path=Path(f"{n}.png"), group=group) for n, group in enumerate(groups)
    ]


def names(part):
    return {record.group for record in part}


@pytest.mark.parametrize("sizes", [[1] * 100, [7] * 30, [1, 2, 3, 40, 5, 6, 7] * 3, [5] * 4])
def test_groups_stay_whole_and_shares_are_near(sizes):
    given = records([f"g{g}" for g, size in enumerate(sizes) for _ in range(size)])
    roles = split.assign(given)
    parts = (roles.fit, roles.tune, roles.calibrate)
    assert sorted(r.id for part in parts for r in part) == sorted(r.id for r in given)
    assert not (names(roles.fit) & names(roles.tune) or names(roles.fit) & names(roles.calibrate))
    assert not names(roles.tune) & names(roles.calibrate)
    assert all(parts)
    largest = max(sizes)
    assert abs(len(roles.tune) - 0.1 * len(given)) <= largest
    assert abs(len(roles.calibrate) - 0.2 * len(given)) <= largest


def test_split_does_not_depend_on_order():
    given = records([f"g{n}" for n in range(50)])
    assert names(split.assign(given).tune) == names(split.assign(given[::-1]).tune)


@pytest.mark.parametrize(("groups", "calibrated"), [(2, True), (1, False)])
def test_few_groups_say_what_is_given_up(groups, calibrated):
    roles = split.assign(records([f"g{n % groups}" for n in range(30)]))
    assert "dropped" in roles.dropped
    assert bool(roles.calibrate) == calibrated
    assert roles.tune == []


def test_groups_of_known_anomalies_are_only_fitted_on():
    given = records([f"g{n // 2}" for n in range(60)])
    usual = split.assign(given)
    wanted = names(usual.tune[:1]) | names(usual.calibrate[:1]) | names(usual.fit[:1])
    roles = split.assign(given, to_fit=wanted)
    assert wanted <= names(roles.fit)
    assert sorted(r.id for r in (*roles.fit, *roles.tune, *roles.calibrate)) == sorted(
        r.id for r in given
    )
    assert abs(len(roles.tune) - 6) <= 2
    assert abs(len(roles.calibrate) - 12) <= 2


def test_groups_of_known_anomalies_leave_some_to_calibrate_with():
    given = records([f"g{n % 4}" for n in range(40)])
    roles = split.assign(given, to_fit={"g0", "g1"})
    assert names(roles.fit) == {"g0", "g1"}
    assert (len(roles.tune), len(roles.calibrate)) == (10, 10)
    with pytest.raises(DataError, match="3 of 4 groups have to be fitted on"):
        split.assign(given, to_fit={"g0", "g1", "g2"})


def test_too_few_normals_are_refused():
    with pytest.raises(DataError, match="at least 20"):
        split.assign(records([str(n) for n in range(19)]))


def test_copies_join_groups():
    given = records(["a", "b", "c", "d"])
    merged, copies = split.merge_duplicates(given, ["1", "2", "1", "3"])
    assert copies == 1
    assert merged[0].group == merged[2].group
    assert len(names(merged)) == 3


def test_leaks_are_refused_by_name():
    train, test = records(["a", "b"]), [Record(id="t.png", path=Path("t.png"), group="c")]
    hashes = {"0.png": "x", "1.png": "y", "t.png": "z"}
    split.refuse_leaks(train, test, hashes, {})
    with pytest.raises(DataError, match=r"t\.png in test has the same bytes as 1\.png"):
        split.refuse_leaks(train, test, hashes | {"t.png": "y"}, {})
    pixels = {"1.png": "p", "0.png": "q", "t.png": "p"}
    with pytest.raises(DataError, match=r"t\.png in test has the same pixels as 1\.png"):
        split.refuse_leaks(train, test, hashes, pixels)
    with pytest.raises(DataError, match="group 'a'"):
        split.refuse_leaks(train, [Record(id="t.png", path=Path("t.png"), group="a")], hashes, {})


def test_a_large_group_stays_in_fit_or_is_refused():
    for naming in range(12):
        roles = split.assign(records([f"a{naming}"] * 18 + [f"b{naming}", f"c{naming}"]))
        assert len(roles.fit) == 18
    with pytest.raises(DataError, match="left to fit"):
        split.assign(records(["a"] * 10 + ["b"] * 10 + ["c"] * 10))
