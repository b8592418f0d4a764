import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import anodetect
from anodetect import config, files
from anodetect.errors import AnodetectError, DiskFullError, RunError
from anodetect.record import checkpoint, directories, runs
from anodetect.record.audit import Audit, ShownCases
from anodetect.record.chain import chain_values, head_of, row_hash
from anodetect.record.directories import Tables
from anodetect.record.lines import LineFile
from anodetect.record.rows import ScoreRow, to_table
from anodetect.stats.calibration import Calibration

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1], np.int64)}
HEADER = {"x": [1, 2.5, "é"], "nested": {"y": None}}


def test_model_file_round_trip(tmp_path):
    checkpoint.write(tmp_path / "m", ARRAYS, HEADER)
    arrays, header = checkpoint.read(tmp_path / "m")
    assert header == HEADER == checkpoint.read_header(tmp_path / "m")
    assert all(
        np.array_equal(arrays[name], ARRAYS[name]) and arrays[name].dtype == ARRAYS[name].dtype
        for name in ARRAYS
    )


def test_nothing_is_written_through_a_link_out_of_its_folder(tmp_path):
    """A journal, a list of alarms or a log in a folder from elsewhere may be a link to a file of
    the user, of which all that is no line would be cut off."""
    precious, folder = tmp_path / "precious", tmp_path / "from elsewhere"
    precious.write_text("kept")
    folder.mkdir()
    (folder / "taken.jsonl").symlink_to(precious)
    lines = LineFile(folder / "taken.jsonl", lambda line: False)
    with pytest.raises(RunError, match="a link that leads out of its folder"):
        lines.open()
    with pytest.raises(RunError, match="a link that leads out of its folder"):
        list(lines.lines())

    workdir = tmp_path / "run.partial"
    (workdir / "folds").mkdir(parents=True)
    (workdir / "checkpoint.safetensors").touch()
    (workdir / "train.jsonl").symlink_to(precious)
    with pytest.raises(RunError, match="a link that leads out of its folder"):
        runs._prepare(workdir, resume=True)
    assert precious.read_text() == "kept"


def test_newer_format_is_refused(tmp_path):
    metadata = {"format": "99", "header": "{}", "sha256": ""}
    (tmp_path / "m").write_bytes(save(ARRAYS, metadata))
    with pytest.raises(RunError, match="newer"):
        checkpoint.read(tmp_path / "m")


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255), cut=st.booleans())
def test_any_changed_byte_is_noticed(tmp_path, position, value, cut):
    path = tmp_path / "m"
    checkpoint.write(path, ARRAYS, HEADER)
    content = bytearray(path.read_bytes())
    at = int(position * len(content))
    content[at] ^= value
    path.write_bytes(content[:at] if cut else content)
    try:
        arrays, header = checkpoint.read(path)
    except RunError:
        return
    # Spare bytes (padding of the JSON header) may change without changing what is read.
    assert header == HEADER
    assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04pickle", b"\xff" * 8 + b"{", save(ARRAYS), save(ARRAYS, {"format": "x"})],
)
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(RunError, match="not a readable"):
        checkpoint.read(tmp_path / "m")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    files.write_atomic(path, "old")

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_takes_the_place_of_a_link_and_leaves_nothing_where_there_is_no_room(
    tmp_path, monkeypatch
):
    kept, path = tmp_path / "kept", tmp_path / "folder/new"
    kept.write_text("kept")
    path.parent.mkdir()
    path.symlink_to(kept)
    files.write_new(path, [b"a", memoryview(b"b")])
    assert path.read_text() == "ab" and not path.is_symlink() and kept.read_text() == "kept"

    def parts():
        yield b"a"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="No space left"):
        files.write_new(path, parts())
    assert not path.exists()


def test_files_have_the_rights_the_users_mask_gives_on_many_threads_too(tmp_path):
    before = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda n: files.write_atomic(tmp_path / f"new/{n % 5}/{n}", "x", durable=False),
                    range(400),
                )
            )
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 400
    assert {path.stat().st_mode & 0o777 for path in written} == {0o640}


# -- Runs ------------------------------------------------------------------------------------------


@pytest.fixture
def run_copy(pca_run, tmp_path):
    return shutil.copytree(pca_run, tmp_path / "copy")


def test_run_holds_everything(pca_run):
    assert sorted(path.name for path in pca_run.iterdir()) == sorted([*runs.FILES, "odd.json"])
    run = runs.read(pca_run)
    assert run.calibration.n_groups == 12
    roles = [row.role for row in runs.read_manifest(pca_run)]
    assert {role: roles.count(role) for role in set(roles)} == {
        "fit": 42,
        "tune": 6,
        "calibrate": 12,
    }
    assert run.header.scale[0] < run.header.scale[1]


def test_the_header_of_a_run_is_written_as_it_was_read(pca_run):
    content = checkpoint.read_header(pca_run / "model.safetensors")
    header = runs.read(pca_run).header.as_json()
    assert list(content) == [*header, "calibration_groups", "hashes", "regions"]
    assert header == {name: content[name] for name in header}
    assert runs.run_header(header).as_json() == header


OF_RELEASE_1 = {  # the facts that release 0.1.0 wrote
    "train_seconds": 1.5,
    "stopped_by": "budget",
    "steps": 30,
    "fit_images": 42,
    "tune_images": 6,
    "dropped": "",
    "trained_at": "2026-11-28T06:00:00+00:00",
    "failed": 0,
    "seed": 0,
    "budget_minutes": None,
    "config_sha256": "ab",
}


def test_facts_of_an_older_or_newer_release_are_read():
    facts = runs.training_facts(OF_RELEASE_1 | {"of a later release": 1})
    assert (facts.steps, facts.stopped_by, facts.budget_minutes) == (30, "budget", None)
    assert (facts.found, facts.calibrated_on) == (None, None)
    assert facts.as_json() == OF_RELEASE_1
    found = OF_RELEASE_1 | {"found": ["tiles"], "calibrated_on": "d", "calibrated_from": "cd"}
    assert runs.training_facts(found).as_json() == found


@pytest.mark.parametrize("changes", [{"facts": {}}, {"facts": None}, {"scale": [1.0]}])
def test_a_run_with_another_header_is_refused(run_copy, changes):
    arrays, header = checkpoint.read(run_copy / "model.safetensors")
    checkpoint.write(run_copy / "model.safetensors", arrays, header | changes)
    with pytest.raises(RunError, match="not written by `anodetect train`"):
        runs.read(run_copy)


@pytest.mark.parametrize("name", runs.FILES)
def test_incomplete_run_is_refused_by_name(run_copy, name):
    (run_copy / name).unlink()
    with pytest.raises(RunError, match=name):
        runs.read(run_copy)


@pytest.mark.parametrize("name", ["config.json", "manifest.csv", "model.safetensors"])
def test_altered_run_is_refused(run_copy, name):
    content = bytearray((run_copy / name).read_bytes())
    content[-2] ^= 1
    (run_copy / name).write_bytes(content)
    with pytest.raises(RunError, match="hash"):
        runs.read(run_copy)


def test_missing_run_points_to_the_unfinished_one(tmp_path):
    (tmp_path / "r.partial").mkdir()
    with pytest.raises(RunError, match="unfinished"):
        runs.read(tmp_path / "r")


def test_existing_run_is_not_overwritten(pca_run):
    with pytest.raises(RunError, match="already exists"):
        runs.begin(pca_run, resume=False).__enter__()
    with pytest.raises(RunError, match="no checkpoint"):
        runs.begin(pca_run.with_name("other"), resume=True).__enter__()


# -- Score directories -----------------------------------------------------------------------------


AUDIT = Audit(
    model_sha256="",
    detector="pca",
    data="tiles",
    facts={},
    far=0.05,
    fdr=None,
    scale=(0.0, 1.0),
    calibration=Calibration(np.zeros(0), np.zeros(0), ()),
    command=(),
    environment={},
    cases=ShownCases(),
    statement="",
    ended="",
    counts={},
    rows=0,
    chain="",
    tables={},
    head="",
)


def row(path, **values):
    base = {"path": path, "group": path, "score": 1.0, "status": "ok", "model_sha256": ""}
    return ScoreRow(**base | values)


def test_formulas_are_neutralised_in_csv_only(tmp_path):
    directories.prepare(tmp_path / "s")
    rows = to_table([row("=cmd()"), row('a,"b\n.png')], ScoreRow)
    directories.write(tmp_path / "s", AUDIT, Tables(rows))
    text = (tmp_path / "s/scores.csv").read_text()
    assert '"\'=cmd()"' in text or "'=cmd()" in text
    assert [r.path for r in directories.read(tmp_path / "s").rows] == ["=cmd()", 'a,"b\n.png']


def chain_end(rows):
    return list(chain_values(map(row_hash, rows)))[-1]


def test_chain_depends_on_every_value_and_on_order():
    rows = [row("a"), row("b")]
    end = chain_end(rows)
    assert chain_end([row("a"), row("b")]) == end
    assert chain_end(rows[::-1]) != end
    assert chain_end([row("a", score=1.0000001), row("b")]) != end
    assert chain_end(rows[:1]) != end


def test_chain_and_head_survive_the_round_trip(tmp_path):
    rows = [
        row("a", score=0.1, p_value=float("nan"), threshold=float("inf")),
        row("b", status="failed", score=None),
    ]
    directories.prepare(tmp_path / "s")
    head = directories.write(tmp_path / "s", AUDIT, Tables(to_table(rows, ScoreRow)))
    stored = directories.read(tmp_path / "s")
    assert chain_end(stored.rows) == stored.audit.chain
    assert head_of(directories.audit_content(tmp_path / "s")) == head == stored.audit.head


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}', '{"format": 1}', "\xff"])
def test_bad_score_directories_are_refused(tmp_path, content):
    (tmp_path / "audit.json").write_text(content)
    with pytest.raises(AnodetectError):
        directories.read(tmp_path)


def test_used_directory_is_not_overwritten(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(RunError, match="not an empty folder"):
        directories.prepare(tmp_path)


def test_plain_turns_nan_into_null():
    assert json.loads(
        json.dumps(config.without_nan({"a": [float("nan"), 1.0], "b": float("inf")}))
    ) == {
        "a": [None, 1.0],
        "b": None,
    }


def test_a_run_of_the_format_before_volumes_scores_the_same(
    pca_run, synthetic_folder, tmp_path, monkeypatch
):
    old = shutil.copytree(pca_run, tmp_path / "old")
    state, header = checkpoint.read(old / "model.safetensors")
    for name in ("axis", "of_volumes"):
        del header["preprocess"][name]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", checkpoint.OLDEST)
        checkpoint.write(old / "model.safetensors", state, header)
    images = [str(synthetic_folder / "test/good")]
    for run, out in ((pca_run, "new"), (old, "old")):
        anodetect.score(run, images, tmp_path / f"{out}-scores", far=0.2, heatmaps=())
    new, old = (directories.read(tmp_path / f"{name}-scores").rows for name in ("new", "old"))
    assert [row.score for row in new] == [row.score for row in old]


def test_functions_take_paths_as_text(synthetic_folder, tmp_path):
    data, run, out = str(synthetic_folder), str(tmp_path / "run"), str(tmp_path / "scores")
    anodetect.train(data, "intensity", run)
    anodetect.score(run, [data], out, heatmaps=())
    assert anodetect.evaluate(run, data).as_json()["n_normal"] == 20
    anodetect.calibrate(run, f"{data}/test/good", f"{run} again")
    assert anodetect.verify(out, run=run, data=data, rescore=1).intact
