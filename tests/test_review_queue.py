"""Order, filters, agreement and what-if, against closed forms and libraries."""

from dataclasses import replace
from hashlib import sha256
from math import isnan, nan

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, roc_curve

pytest.importorskip("sqlalchemy", reason="the extra `app` is not installed")

from anodetect.data.geometry import FRAMES, along
from anodetect.errors import DataError
from anodetect.record import marks
from anodetect.record.decisions import decide
from anodetect.record.reviews import Review, first_blind, in_force
from anodetect.record.rows import GroupRow, ScoreRow, rows_of, to_table
from anodetect.stats import agreement
from anodetect.stats.agreement import Rate
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import Rule
from apps.review import export, outcome, regions, worklist
from apps.review.worklist import Filter


def row(path, score=None, p_value=None, **more):
    base = {
        "path": path,
        "score": score,
        "p_value": p_value,
        "flagged": False,
        "threshold": 0.5,
        "group": path,
        "kind": "",
        "model_sha256": "",
        "status": "failed" if score is None else "ok",
    }
    return ScoreRow(**base | more)


def review(path, reviewer, verdict, number=1):
    return Review(
        "h", number, "", reviewer, verdict, "", "", False, None, path, "", "", None, None, None, ""
    )


def judged(**verdicts):
    """judged(a="Ada:normal Ben:unsure") → judgements on "a"."""
    return {
        path: {
            name: review(path, name, verdict)
            for name, verdict in (each.split(":") for each in given.split())
        }
        for path, given in verdicts.items()
    }


ROWS = [
    row("a", 0.9, 0.1, flagged=True, group="P1", kind="crack"),
    row("b", 0.95, 0.1, flagged=True, group="P1", kind="blob"),
    row("c", 0.52, 0.3, group="P2", kind="good"),
    row("d", 0.1, 0.8, group="P2", kind="good"),
    row("e"),
]


def paths(order="p-value", judgements=None, reviewer="Ada", blind=False, **keep):
    found = worklist.worklist(
        ROWS, judgements or {}, order=order, keep=Filter(**keep), reviewer=reviewer, blind=blind
    )
    return "".join(each.path for each in found)


def test_orders():
    assert paths("p-value") == "bacde"  # equal p-values by score, no p-value last
    assert paths("score") == "bacde"
    assert paths("nearness to threshold") == "cadbe"
    assert paths("name") == "abcde"
    both = judged(d="Ada:normal Ben:anomalous", c="Ada:normal Ben:normal")
    assert paths("disagreement", both) == "dbace"


def test_values_that_are_no_numbers_come_last():
    rows = [row("x", 0.1, nan), row("y", 0.2, nan), row("z", 0.3, 0.9)]
    found = worklist.worklist(rows, {}, order="p-value", keep=Filter(), reviewer="")
    assert [each.path for each in found] == ["z", "y", "x"]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"status": frozenset(["failed"])}, "e"),
        ({"groups": frozenset(["P2"])}, "cd"),
        ({"kinds": frozenset(["crack", "blob"])}, "ba"),
        ({"flagged": True}, "ba"),
        ({"flagged": False}, "cde"),
        ({"search": " CRA "}, "a"),
        ({"search": "p2"}, "cd"),
        ({"reviewed": "by me"}, "ad"),
        ({"reviewed": "not by me"}, "bce"),
        ({"reviewed": "by nobody"}, "ce"),
        ({"reviewed": "by others only"}, "b"),
        ({"verdicts": frozenset(["normal"])}, "d"),
        ({"flagged": True, "kinds": frozenset(["blob"])}, "b"),
    ],
)
def test_filters(keep, expected):
    assert (
        paths(judgements=judged(a="Ada:anomalous", d="Ada:normal", b="Ben:normal"), **keep)
        == expected
    )


def test_a_blind_list_gives_nothing_away():
    order = "".join(sorted("abcde", key=lambda path: sha256(path.encode()).digest()))
    assert order not in ("bacde", "abcde")
    for orders in worklist.ORDERS:
        assert paths(orders, judged(a="Ben:normal Cyd:anomalous"), blind=True) == order
    assert paths(blind=True, flagged=True, kinds=frozenset(["crack"])) == order
    assert paths(blind=True, search="crack") == order
    assert set(paths(blind=True, groups=frozenset(["P1"]))) == set("ab")


def test_stepping_stays_within_the_list():
    assert worklist.neighbour(["a", "b", "c"], "b", 1) == "c"
    assert worklist.neighbour(["a", "b", "c"], "c", 1) == "c"
    assert worklist.neighbour(["a", "b", "c"], "a", -1) == "a"
    assert worklist.neighbour(["a", "b", "c"], "gone", 1) == "a"
    assert worklist.neighbour([], "a", 1) == ""


def test_after_a_verdict_comes_the_next_image_without_one():
    given = judged(b="Ada:normal", c="Ben:normal")
    assert worklist.next_to_judge("abcd", "a", given, "Ada") == "c"
    assert worklist.next_to_judge("abcd", "d", given, "Ada") == "a"
    assert worklist.next_to_judge("abcd", "a", given, "Ben") == "b"
    assert worklist.next_to_judge("ab", "a", judged(a="Ada:normal", b="Ada:normal"), "Ada") == "a"


def test_disagreement_is_the_share_of_differing_pairs():
    assert agreement.disagreement({}) == agreement.disagreement(judged(a="A:normal")["a"]) == 0
    assert agreement.disagreement(judged(a="A:normal B:normal")["a"]) == 0
    assert agreement.disagreement(judged(a="A:normal B:unsure")["a"]) == 1
    assert agreement.disagreement(judged(a="A:normal B:normal C:unsure")["a"]) == pytest.approx(
        2 / 3
    )


def test_kappa_is_that_of_the_library_and_of_the_textbook():
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert agreement.cohens_kappa(pairs) == pytest.approx(0.4)
    rng = np.random.default_rng(0)
    first, second = rng.choice(["normal", "anomalous", "unsure"], (2, 200))
    assert agreement.cohens_kappa(list(zip(first, second, strict=True))) == pytest.approx(
        cohen_kappa_score(first, second)
    )
    assert isnan(agreement.cohens_kappa([])) and isnan(agreement.cohens_kappa([("a", "a")] * 3))


def test_agreement_counts_only_images_both_judged():
    given = judged(a="Ada:normal Ben:normal", b="Ada:normal Ben:unsure", c="Ada:normal")
    (found,) = agreement.agreements(given, {})
    assert (found.readers, found.images, found.agreed) == (("Ada", "Ben"), 2, 1)
    assert found.first is None


def test_kappa_of_first_blind_verdicts_ignores_what_readers_said_once_they_had_seen_others():
    """Ada takes over each of Ben's verdicts and takes one of her own back, so that the last ones
    agree on everything. One more case both saw before they judged it blind."""
    own, ben = "NNNNNNAAAA", "NNNAAAAAAA"
    names = {"N": "normal", "A": "anomalous"}
    chain = []
    for place, (first, other) in enumerate(zip(own, ben, strict=True)):
        for reader, verdict, blind in (
            ("Ada", first, True), ("Ben", other, True), ("Ada", other, False)
        ):  # fmt: skip
            given = review(f"{place}", reader, names[verdict], len(chain) + 1)
            chain.append(replace(given, blind=blind))
    for reader in ("Ada", "Ben"):  # one not blind at first, though blind later
        for blind in (False, True):
            given = review("seen", reader, "normal", len(chain) + 1)
            chain.append(replace(given, blind=blind))
    withdrawn = review("0", "Ada", "withdrawn", len(chain) + 1)
    chain.append(replace(withdrawn, withdraws=10))

    (found,) = agreement.agreements(in_force(chain), first_blind(chain))
    assert (found.images, found.agreed, found.kappa) == (11, 11, 1)
    expected = cohen_kappa_score(list(own), list(ben))
    assert (found.first.images, found.first.agreed) == (10, 7)
    assert found.first.kappa == pytest.approx(expected) and 0.3 < expected < 0.5


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("A:normal", 0),
        ("A:anomalous B:anomalous C:normal", 1),
        ("A:anomalous B:normal", None),
        ("A:unsure", None),
        ("A:unsure B:anomalous", 1),
    ],
)
def test_consensus_is_the_majority_of_those_who_say(given, expected):
    assert agreement.consensus(judged(a=given)["a"]) == expected


def test_summary():
    given = judged(
        a="Ada:anomalous Ben:anomalous",
        b="Ada:normal",
        c="Ada:normal Ben:unsure",
        gone="Ada:normal",
    )
    found = agreement.summary({row.path: row.flagged for row in ROWS}, given, given)
    assert (found.images, found.reviewed) == (5, 3)
    assert found.by_reviewer == {"Ada": 3, "Ben": 2}
    assert found.verdicts == {"anomalous": 2, "normal": 2, "unsure": 1}
    assert found.disagreements == ("c",)
    assert [pair.first.images for pair in found.agreements] == [2]
    assert found.precision == Rate(1, 2)  # all that are flagged


def test_precision_has_an_interval_only_where_the_judged_say_something_of_the_rest():
    """The highest half of 200 flags is always anomalous, the other half never."""
    flagged = [f"{place:03}" for place in range(200)]

    def judgements(places, *, blind):
        found = {}
        for place in places:
            verdict = "anomalous" if place < 100 else "normal"
            given = review(flagged[place], "Ada", verdict)
            found[flagged[place]] = {"Ada": replace(given, blind=blind)}
        return found

    first = agreement.precision_of(flagged, judgements(range(20), blind=False))
    assert first == Rate(20, 20, chosen=True) and isnan(first.interval[0])
    everything = agreement.precision_of(flagged, judgements(range(200), blind=False))
    assert everything == Rate(100, 200)

    covered = 0
    for seed in range(300):
        drawn = np.random.default_rng(seed).choice(200, 20, replace=False)
        mixed = judgements(range(20), blind=False) | judgements(drawn, blind=True)
        low, high = agreement.precision_of(flagged, mixed).interval
        covered += low <= 0.5 <= high
    assert covered >= 0.95 * 300 - 2 * np.sqrt(300 * 0.95 * 0.05)


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (3, 10), (10, 10), (37, 412)])
def test_intervals_are_clopper_and_pearsons(hits, total):
    known = stats.binomtest(hits, total).proportion_ci(method="exact")
    assert Rate(hits, total).interval == pytest.approx((known.low, known.high))
    assert Rate(0, 0).interval == (0, 1) and isnan(Rate(0, 0).value)


@pytest.mark.parametrize("far", [0.05, 0.1, 0.25])
def test_a_moved_threshold_flags_what_scoring_at_it_would(far):
    rng = np.random.default_rng(1)
    calibration = Calibration(
        rng.normal(size=60), np.zeros(60), tuple(str(n % 30) for n in range(60))
    )
    rows = [
        row(str(n), float(s), label=int(n % 3 == 0)) for n, s in enumerate(rng.normal(0.7, 1, 200))
    ]
    rows.append(row("failed"))
    decided, _, threshold = decide(to_table(rows, ScoreRow), calibration, Rule(far))
    again = list(rows_of(decided, ScoreRow))
    found = outcome.outcome_at(rows, outcome.truths(rows, {}, "labels"), calibration, far)
    assert (found.flagged, found.scored, found.threshold) == (
        sum(bool(r.flagged) for r in again),
        200,
        threshold,
    )
    for truth, flag in found.confusion:
        expected = sum(r.label == truth and bool(r.flagged) == flag for r in again[:-1])
        assert found.confusion[truth, flag] == expected > 0
    assert found.sensitivity == Rate(found.confusion[1, True], 67)
    assert found.false_alarms == Rate(found.confusion[0, True], 133)
    assert found.precision == Rate(found.confusion[1, True], found.flagged)


def test_without_calibration_images_nothing_is_flagged():
    none = Calibration(np.array([]), np.array([]), ())
    found = outcome.outcome_at(ROWS, outcome.truths(ROWS, {}, "verdicts"), none, 0.05)
    assert (found.flagged, found.precision) == (0, Rate(0, 0))


def test_the_bench_decides_on_volumes_as_the_record_does():
    rng = np.random.default_rng(3)
    calibration = Calibration(
        rng.normal(size=200), np.zeros(200), tuple(str(n % 40) for n in range(200))
    )
    rows = [row(str(n), float(s), label=0, depth=20) for n, s in enumerate(rng.normal(1.5, 1, 100))]
    decided, _, _ = decide(to_table(rows, ScoreRow), calibration, Rule(0.05))
    again = list(rows_of(decided, ScoreRow))
    found = outcome.outcome_at(rows, outcome.truths(rows, {}, "labels"), calibration, 0.05)
    assert (found.flagged, found.threshold) == (
        sum(r.flagged for r in again),
        again[0].threshold,
    )
    assert found.flagged < int((calibration.p_values([r.score for r in rows], 0.05) <= 0.05).sum())


def test_the_roc_is_that_of_the_library():
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(0, 2, 100), rng.normal(size=100).round(1)
    rows = [row(str(n), float(s)) for n, s in enumerate(scores)]
    curve = outcome.roc(rows, labels.tolist())
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert curve.false_alarms == pytest.approx(fpr)
    assert curve.sensitivity == pytest.approx(tpr)
    assert outcome.roc(rows, [1] * 100) is None and outcome.roc(rows, [None] * 100) is None


def test_a_table_of_all_records_also_of_none():
    found = export.reviews_table([review("a", "Ada", "normal"), review("b", "Ben", "unsure", 2)])
    assert found.column("number").to_pylist() == [1, 2] and found.column(
        "reviewer"
    ).to_pylist() == ["Ada", "Ben"]
    assert export.reviews_table([]).schema == found.schema


def test_regions_lie_within_the_image():
    image = replace(row("a", 0.5), width=10, height=10)
    for text, normal in (
        (" 1, 2,3,4 ", "1,2,3,4"),
        ("  ", ""),
        ("0,0 10,0  10,10", "0,0 10,0 10,10"),
        ("1,2,3,4;5,6,1,1 ", "1,2,3,4; 5,6,1,1"),
    ):
        assert marks.to_text(regions.parse(text, image)) == normal
    wrong = [
        "1,2,3",
        "a,b,c,d",
        "1,2,3,4,5",
        "1.5,2,3,4",
        "-1,2,3,4",
        "1,2,0,4",
        "8,2,3,4",
        "1,8,3,4",
        "1,2 3,4",
        "axial 1: 1,2,3,4",
        "somewhere: 1,2,3,4",
    ]
    for text in [*wrong, "0,0 11,0 1,1", "0,0 1,-1 1,1", "0,0 1 1,1"]:
        with pytest.raises(DataError):
            regions.parse(text, image)


VOLUME = (9, 11, 13)  # voxels of the source
TURNED = np.array([[0, 0, 2, 5], [-1, 0, 0, 6], [0, -3, 0, 7], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("affine", [np.diag([1.0, 2, 3, 1]), np.diag([-1.0, -2, 3, 1]), TURNED])
def test_a_region_of_a_slice_is_kept_in_the_pixels_of_the_source(plane, affine):
    """A box around a few voxels as a slice shows them is a box around the same voxels of the
    source, and its corners in millimetres are those that the affine gives."""
    geometry = along(VOLUME, affine, plane)
    shown = np.zeros(geometry.sides, bool)
    shown[2, 3:5, 1:7] = True
    place = marks.place_of(plane, marks.source_number(geometry, 2))

    mark = marks.turned(marks.box(1, 3, 6, 2, place), geometry)
    (again,) = regions.parse_volume(str(mark), {plane: geometry})
    assert marks.turned(again, geometry) == marks.box(1, 3, 6, 2, place)
    inside = np.zeros(VOLUME, bool)
    depth, rows, columns = geometry.axes
    (left, top), (right, bottom) = mark.corners[0], mark.corners[2]
    index = [slice(None)] * 3
    index[depth] = slice(place.slice, place.slice + 1)
    index[rows], index[columns] = slice(top, bottom), slice(left, right)
    inside[tuple(index)] = True
    assert (geometry.to_slices(inside) == shown).all()

    corner = np.zeros(4)
    corner[depth], corner[rows], corner[columns], corner[3] = place.slice, top - 0.5, left - 0.5, 1
    expected = tuple((affine @ corner)[:3].round(2))
    found = regions.volume_millimetres([mark], {plane: geometry}).split(" ")
    assert expected in [tuple(map(float, point.split(","))) for point in found]
    assert len(found) == 4


def test_a_region_of_a_volume_names_a_slice_that_there_is():
    geometries = {"axial": along(VOLUME, np.eye(4), "axial")}
    (found,) = regions.parse_volume("axial 4: 1,2,3,4", geometries)
    assert str(found) == "axial 4: 1,2,3,4"
    for text in ("axial 13: 1,2,3,4", "coronal 1: 1,2,3,4", "axial x: 1,2,3,4", "1,2,3,4"):
        with pytest.raises(DataError):
            regions.parse_volume(text, geometries)


def test_frames_have_no_place_in_the_patient():
    geometries = {FRAMES: along(VOLUME, np.eye(4), FRAMES)}
    found = regions.parse_volume("frames 3: 1,2,3,4", geometries)
    assert str(found[0]) == "frames 3: 1,2,3,4"
    assert regions.volume_millimetres(found, geometries) == ""


def test_groups_stand_where_their_first_image_does():
    group = GroupRow(group="P1", images=2, score=1.0, p_value=0.2, q_value=0.2, flagged=True)
    recorded = {"P1": group}
    listed = worklist.worklist(
        ROWS, {}, order="nearness to threshold", keep=Filter(), reviewer="Ada"
    )
    found = worklist.grouped(listed, recorded, judged(b="Ada:normal", c="Ben:normal"), "Ada")
    assert [(group.name, "".join(row.path for row in group.rows)) for group in found] == [
        ("P2", "cd"), ("P1", "ab"), ("e", "e")
    ]  # fmt: skip
    assert [(group.p_value, group.flagged, group.judged) for group in found] == [
        (None, False, 0), (0.2, True, 1), (None, False, 0)
    ]  # fmt: skip


def test_the_images_of_a_patient_are_listed_study_by_study():
    rows = [
        row(name, group="P1", study=study) for name, study in zip("abcde", "21122", strict=True)
    ]
    rows += [row("f", group="P2", study="3"), row("g", group="P2", study="")]
    one, other = worklist.grouped(rows, {}, {}, "Ada")
    assert "".join(each.path for each in one.rows) == "adebc"
    assert one.studies == ("2", "1") and other.studies == ()
    together = worklist.Groups([one, other])
    assert "".join(each.path for each in together.rows) == "adebcfg" and together[1] == other
    assert [together.place_of(path) for path in "bgz"] == [0, 1, 0]
    keep = Filter(search="3")
    assert [each.path for each in worklist.filtered(rows, {}, keep, "Ada")] == ["f"]
