"""The score directory as docs/formats.md specifies it: a verifier of a stranger's, attacks, the
heatmap column, and directories of format 2."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from math import isfinite
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tifffile
from interruptions import interrupted_after

import anodetect
from anodetect.commands.rescore import rescore
from anodetect.errors import RunError
from anodetect.files import sha256_of
from anodetect.output import formats, report
from anodetect.record import directories, verification
from anodetect.record.marks import Shown
from anodetect.record.rows import OutputRow, ScoreRow, rows_of, to_table

FAR = 0.2
OLD = Path(__file__).with_name("data") / "scores-format-2"
OLD_HEAD = "f33179c740c802374bc1a46f7d3556d7db9e69bbf294870ba3b235f7c0ef392b"


@pytest.fixture(scope="module")
def scored(pca_run, synthetic_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("formats") / "scores"
    anodetect.score(
        pca_run, [str(synthetic_folder)], out, far=FAR, heatmaps=("png", "tiff", "regions")
    )
    return out


@pytest.fixture
def copy(scored, tmp_path):
    return shutil.copytree(scored, tmp_path / "copy")


# -- A verifier of a stranger's --------------------------------------------------------------------


def digest(file):
    return sha256(file.read_bytes()).hexdigest()


def canonical(value):
    """JSON as docs/formats.md says, without json.dumps' defaults for NaN."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{canonical(k)}:{canonical(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float) and not isfinite(value):
        return "null"
    return json.dumps(value)


def stranger(folder):
    """The head of a score directory by nothing but docs/formats.md; an assertion fails where
    something does not hold."""
    audit = json.loads((folder / "audit.json").read_text())
    assert audit["format"] == 3
    value, links = sha256(b"").hexdigest(), pq.read_table(folder / "chain.parquet").to_pylist()
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    assert len(rows) == len(links) == audit["rows"]
    for row, link in zip(rows, links, strict=True):
        for name in ("differs", "channels", "study", "prepared", "pixels_sha256", "truth_sha256"):
            if row[name] == "":
                del row[name]
        own = sha256(canonical(row).encode("ascii")).hexdigest()
        value = sha256((value + own).encode("ascii")).hexdigest()
        assert link == {"path": row["path"], "row": own, "chain": value}
    assert value == audit["chain"]
    for name, expected in audit["tables"].items():
        assert digest(folder / name) == expected
    for output in pq.read_table(folder / "outputs.parquet").to_pylist():
        assert digest(folder / output["name"]) == output["sha256"]
    head = audit.pop("head")
    assert sha256((value + canonical(audit)).encode("ascii")).hexdigest() == head
    return head


def test_a_stranger_can_write_a_verifier(scored, tmp_path):
    assert stranger(scored) == verification.verify(scored).head
    kept = {
        "audit.json",
        "report.html",
        "report.json",
        *json.loads((scored / "audit.json").read_text())["tables"],
    }
    others = {
        file.relative_to(scored).as_posix() for file in scored.rglob("*") if file.is_file()
    } - kept
    assert {row.name for row in rows_of(directories.read(scored).outputs, OutputRow)} == others
    table = directories.read_tables(scored).scores
    odd = [
        replace(row, score=float("nan"), p_value=1e-7, threshold=float("inf"), kind='é"\n')
        for row in rows_of(table, ScoreRow)
    ]
    directories.write(
        tmp_path, directories.read(scored).audit, directories.Tables(to_table(odd, ScoreRow))
    )
    assert stranger(tmp_path) == directories.read(tmp_path).audit.head


def test_outputs_say_what_they_are_of(scored):
    outputs = list(rows_of(directories.read(scored).outputs, OutputRow))
    assert [output.name for output in outputs] == sorted(output.name for output in outputs)
    rows = directories.read(scored).rows
    for row in rows:
        own = {output.kind: output.name for output in outputs if output.path == row.path}
        assert own["tiff"] == row.heatmap
        assert own["png"] == row.heatmap.replace(".tiff", ".png")
    assert {output.kind for output in outputs} == {"tiff", "png", "case", "regions", "bootstrap"}
    shown = {output.path for output in outputs if output.kind == "case"}
    assert shown <= {row.path for row in rows}
    assert shown == {*directories.read(scored).audit.cases.highest} | {
        *directories.read(scored).audit.cases.borderline
    }


# -- Attacks ---------------------------------------------------------------------------------------


def edit(file, change):
    """Write a Parquet table whose rows `change` has changed."""
    table = pq.read_table(file)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), file)


def other_hash(rows):
    return [rows[0] | {"sha256": "0" * 64}, *rows[1:]]


def without_first(rows):
    return rows[1:]


def other_flag(rows):
    return [rows[0] | {"flagged": not rows[0]["flagged"]}, *rows[1:]]


def other_group(rows):
    return [rows[0] | {"group": "somebody else"}, *rows[1:]]


def test_a_changed_hash_in_the_outputs_is_noticed(copy):
    name = directories.read(copy).outputs["name"][0].as_py()
    edit(copy / "outputs.parquet", other_hash)
    problems = verification.verify(copy).problems
    assert problems == ("outputs.parquet was changed", f"{name} was changed")


def test_an_output_taken_off_the_list_is_noticed(copy):
    name = directories.read(copy).outputs["name"][0].as_py()
    edit(copy / "outputs.parquet", without_first)
    verdict = verification.verify(copy)
    assert verdict.problems == ("outputs.parquet was changed",)
    assert f"1 file is not part of the record: {name}" in verdict.not_looked_at


def test_a_file_that_was_added_is_noted(copy):
    (copy / "heatmaps/later.tiff").write_bytes(b"x")
    verdict = verification.verify(copy)
    assert verdict.intact
    assert "1 file is not part of the record: heatmaps/later.tiff" in verdict.not_looked_at


@pytest.mark.parametrize("change", [other_flag, other_group, without_first])
def test_changed_groups_are_noticed(copy, change):
    edit(copy / "groups.parquet", change)
    problems = verification.verify(copy).problems
    assert problems == (
        "the groups do not follow from the scores",
        "groups.parquet was changed",
    )
    with pytest.raises(RunError, match=r"groups\.parquet changed or missing"):
        directories.read_as_written(copy)


@pytest.mark.parametrize(
    "name",
    [
        "scores.parquet",
        "scores.csv",
        "groups.parquet",
        "groups.csv",
        "timings.parquet",
        "chain.parquet",
        "outputs.parquet",
    ],
)
def test_every_table_is_under_the_head(copy, name):
    """With its hash in audit.json changed too, the head does not fit."""
    audit = json.loads((copy / "audit.json").read_text())
    assert set(audit["tables"]) >= {name}
    (copy / "audit.json").write_text(
        json.dumps(audit | {"tables": audit["tables"] | {name: "0" * 64}})
    )
    assert verification.verify(copy).problems == (
        f"{name} was changed",
        "audit.json was changed: its contents do not give its head",
    )
    audit["tables"].pop(name)
    (copy / "audit.json").write_text(json.dumps(audit))
    assert "audit.json was changed: its contents do not give its head" in (
        verification.verify(copy).problems
    )
    with pytest.raises(RunError, match=r"audit\.json changed or missing"):
        directories.read_as_written(copy)


@pytest.mark.parametrize("name", ["outputs.parquet", "groups.parquet", "chain.parquet"])
def test_a_table_that_is_gone_or_none_is_named(copy, name):
    (copy / name).write_bytes(b"PAR1")
    problems = verification.verify(copy).problems
    assert f"{name} was changed" in problems
    assert any("not a readable score directory" in problem for problem in problems)
    (copy / name).unlink()
    assert f"{name} is missing" in verification.verify(copy).problems


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("far", "0.05", "far: input should be a valid number"),
        ("scale", [0.0], "scale.1: field required"),
        ("cases", {"highest": "a"}, "cases.highest: input should be a valid array"),
        ("calibration", {"scores": [1.0]}, "calibration: value error, it lacks 'peaks'"),
        ("evaluation", {"image": {}}, "evaluation: value error, it lacks 'pixel'"),
    ],
)
def test_an_audit_of_other_types_is_refused_with_the_place(copy, key, value, problem):
    audit = json.loads((copy / "audit.json").read_text())
    (copy / "audit.json").write_text(json.dumps(audit | {key: value}))
    with pytest.raises(RunError) as caught:
        directories.read(copy)
    assert problem in str(caught.value)
    del audit[key], audit["statement"]
    (copy / "audit.json").write_text(json.dumps(audit))
    with pytest.raises(RunError, match=r"audit\.json lacks .*statement"):
        directories.read(copy)


def test_what_audit_json_says_comes_back(scored):
    from anodetect.record import audit as audits

    content = directories.audit_content(scored)
    assert audits.to_json(audits.from_json(content)) == content
    scale = audits.from_json(content | {"scale": [0, 2]}).scale
    assert scale == (0.0, 2.0)
    assert all(isinstance(value, float) for value in scale)


# -- The heatmap column ----------------------------------------------------------------------------


def test_the_heatmap_is_the_float_map_whatever_is_asked_for_first(
    scored, pca_run, synthetic_folder, tmp_path
):
    rows = directories.read(scored).rows
    assert all(row.heatmap.endswith("_heatmap.tiff") for row in rows)
    assert tifffile.imread(scored / rows[0].heatmap).dtype == "float32"
    result = anodetect.score(
        pca_run, [str(synthetic_folder)], tmp_path / "s", far=FAR, heatmaps=("png",)
    )
    assert {row.heatmap for row in directories.read(tmp_path / "s").rows} == {""}
    assert {row.kind for row in rows_of(directories.read(tmp_path / "s").outputs, OutputRow)} == {
        "png",
        "case",
        "bootstrap",
    }
    assert result.evaluation.as_json() == directories.read(scored).audit.evaluation.as_json()


def test_pixels_are_measured_again_from_the_float_maps_after_an_interruption(
    pca_run, synthetic_folder, scored, tmp_path, monkeypatch
):
    from anodetect.engines import worker

    options = {"far": FAR, "heatmaps": ("png", "tiff", "regions")}
    real = interrupted_after(monkeypatch, 38)
    with pytest.raises(anodetect.AnodetectError, match="--resume"):
        anodetect.score(pca_run, [str(synthetic_folder)], tmp_path / "s", **options)
    monkeypatch.setattr(worker, "score_records", real)
    result = anodetect.score(
        pca_run, [str(synthetic_folder)], tmp_path / "s", resume=True, **options
    )
    assert result.evaluation.pixel is not None
    assert result.failures == ()
    assert result.evaluation.as_json() == directories.read(scored).audit.evaluation.as_json()


def test_the_app_has_the_heatmap_of_images_scored_as_png_and_tiff(scored):
    pytest.importorskip("sqlalchemy", reason="the extra `app` is not installed")
    from apps.review import loading

    directory = directories.read(scored)
    case = loading.load(directory, directory.rows[0])
    assert (case.heatmap == tifffile.imread(scored / directory.rows[0].heatmap)).all()
    assert case.notes == ()


# -- Format 2 --------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(OLD, tmp_path / "old")


def test_a_directory_from_before_the_first_release_is_refused(old):
    audit = json.loads((old / "audit.json").read_text())
    (old / "audit.json").write_text(json.dumps(audit | {"format": 1}))
    with pytest.raises(RunError, match="a version before the first release; score anew"):
        directories.read(old)


def test_a_directory_of_format_2_is_read(old):
    directory = directories.read_as_written(old)
    audit = directory.audit
    assert (audit.format, audit.rows, audit.far, audit.shard) == (2, 3, 0.2, "1/1")
    assert audit.evaluation.n_anomalous == 1
    assert audit.drift.batch.fires
    assert [(row.path, row.status, row.is_volume) for row in directory.rows] == [
        ("1.png", "ok", False),
        ("broken.png", "failed", False),
        ("head.nii", "ok", True),
    ]
    assert directory.output_hash(directory.rows[0].heatmap) == sha256_of(
        old / directory.rows[0].heatmap
    )
    assert [(group.group, group.flagged) for group in directories.read_groups(old)] == [
        ("=lot", True),
        ("head", True),
    ]
    assert {row.path for row in directories.read_slices(old)} == {"head.nii"}
    assert [row.path for row in directories.read_timings(old)] == [
        row.path for row in directory.rows
    ]


def test_a_directory_of_format_2_is_verified(old):
    verdict = verification.verify(old, head=OLD_HEAD)
    assert verdict.problems == ()
    assert verdict.authenticated
    assert not verdict.notes
    assert [text.partition(":")[0] for text in verdict.not_looked_at][-1] == (
        "the model was not checked"
    )


@pytest.mark.parametrize(
    ("name", "also"),
    [
        ("heatmaps/1.png_heatmap.tiff", ()),
        ("regions.json", ()),
        ("scores.csv", ()),
        ("timings.parquet", ()),
        ("groups.csv", ("the groups do not follow from the scores",)),
    ],
)
def test_a_changed_file_of_format_2_is_named(old, name, also):
    content = (old / name).read_bytes()
    (old / name).write_bytes(content.replace(b"true", b"false", 1) if also else content + b" ")
    assert verification.verify(old).problems == (*also, f"{name} was changed")
    (old / name).unlink()
    assert f"{name} is missing" in verification.verify(old).problems


def test_tables_of_format_3_planted_in_a_directory_of_format_2_count_for_nothing(old):
    (old / "heatmaps/1.png_heatmap.tiff").write_bytes(b"another")
    rows = [
        OutputRow(name=row.name, path="", kind="", sha256=sha256_of(old / row.name))
        for row in rows_of(directories.read(old).outputs, OutputRow)
    ]
    pq.write_table(to_table(rows, OutputRow), old / "outputs.parquet")
    groups = directories.group_table(old)
    place = groups.schema.get_field_index("flagged")
    planted = groups.set_column(place, "flagged", pc.invert(groups["flagged"]))
    pq.write_table(planted, old / "groups.parquet")
    verdict = verification.verify(old)
    assert verdict.problems == ("heatmaps/1.png_heatmap.tiff was changed",)
    planted = "2 files are not part of the record: groups.parquet, outputs.parquet"
    assert planted in verdict.not_looked_at
    assert all(group.flagged for group in directories.read_groups(old))


def test_a_directory_of_format_2_is_reported_reviewed_and_not_merged(old, tmp_path):
    assert "1.png" in report.write(old).read_text()
    assert verification.verify(old).problems == ()
    refusal = r"is of format 2, and only parts of format 3 .* with release 0\.1\.0"
    with pytest.raises(RunError, match=refusal):
        anodetect.merge([old], tmp_path / "merged")
    with pytest.raises(RunError, match="no such run directory"):
        rescore(old, 1)
    pytest.importorskip("sqlalchemy", reason="the extra `app` is not installed")
    from apps.review.store import Store

    row = directories.read(old).rows[0]
    shown = [Shown(row.path, row.sha256, painted=True)]
    review = Store(old, OLD_HEAD).add(row, "Ada", "anomalous", shown)
    verdict = verification.verify(old)
    assert verdict.problems == ()
    assert verdict.verdicts.why == f"1 review; their chain ends with {review.hash}"
    assert "Ada" in report.write(old).read_text()


@pytest.mark.parametrize(("version", "text"), [(1, "score anew"), (4, "update anodetect")])
def test_other_formats_are_refused(old, version, text):
    audit = json.loads((old / "audit.json").read_text())
    (old / "audit.json").write_text(json.dumps(audit | {"format": version}))
    with pytest.raises(RunError, match=text):
        directories.read(old)


# -- Formats of maps -------------------------------------------------------------------------------


@pytest.mark.parametrize("names", formats.DEFAULTS, ids=["now", "before"])
def test_what_any_release_writes_by_default_needs_no_word(
    names, pca_run, synthetic_folder, tmp_path
):
    """Images have no NIfTI, which nobody asked for by name; in a choice of formats it was asked
    for."""
    for asked in (names, names - {"regions"}):
        out = tmp_path / f"{len(asked)} formats"
        anodetect.score(
            pca_run, [str(synthetic_folder / "test/good")], out, heatmaps=sorted(asked), workers=1
        )
        merged = tmp_path / f"merged, {len(asked)} formats"
        anodetect.merge([out], merged)
        for folder in (out, merged):
            assert anodetect.verify(folder).problems == ()
            caveats = " ".join(directories.read(folder).audit.caveats)
            assert ("have no file as nifti" in caveats) == (asked != names)
