"""The audit engine: nothing lost, nothing done twice, nothing changed unnoticed."""

import csv
import html
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import tifffile
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from interruptions import interrupted_after
from PIL import Image

import anodetect
from anodetect.commands import rescore as rescoring
from anodetect.commands.inputs import collect
from anodetect.commands.rescore import rescore
from anodetect.data import readers, synthetic
from anodetect.data.records import Record
from anodetect.data.scan import scan
from anodetect.engines import worker
from anodetect.errors import AnodetectError, ConfigError, Interrupted, RunError
from anodetect.files import sha256_of
from anodetect.model.model import Model
from anodetect.output import report
from anodetect.record import checkpoint, directories, journal, runs, signatures, verification
from anodetect.record.audit import ShownCases
from anodetect.record.failures import MOST_REASONS
from anodetect.record.rows import (
    JournalEntry,
    OutputRow,
    ScoreRow,
    rows_of,
    schema_of,
    to_table,
)
from anodetect.record.tables import FORMULA_STARTS
from anodetect.types import Silent

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [  # also what test_kills.py needs: there is one server
        "anodetect.commands.score",
        "anodetect.detectors.pca",
        "anodetect.imaging.pixels",
        "benchmarks.kills",
    ]
)


FAR = 0.2  # the small run has twelve calibration images


@pytest.fixture(scope="module")
def scored(pca_run, synthetic_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("audit") / "scores"
    anodetect.score(pca_run, [str(synthetic_folder)], out, far=FAR)
    return out


@pytest.fixture
def copy(scored, tmp_path):
    return shutil.copytree(scored, tmp_path / "copy")


def tables(path):
    return {
        name: (path / name).read_bytes()
        for name in ("scores.parquet", "scores.csv", "groups.parquet", "groups.csv")
    }


def change(path, /, **values):
    """Rewrite scores.parquet with another value in the second row."""
    rows = pq.read_table(path / "scores.parquet").to_pylist()
    rows[1] |= values
    pq.write_table(pa.Table.from_pylist(rows, schema_of(ScoreRow)), path / "scores.parquet")
    return rows[1]["path"]


def rewrite(path, **tables):
    """A record with other tables, all of whose hashes fit."""
    directories.write(
        path, directories.read(path).audit, replace(directories.read_tables(path), **tables)
    )


def test_a_file_nobody_thought_of_is_a_failed_row_and_the_rest_is_scored(
    pca_run, synthetic_folder, tmp_path, monkeypatch
):
    read = readers.read_source

    def strange(record):
        if record.id.endswith("003.png"):
            raise ZeroDivisionError("odd caf\udce9")
        return read(record)

    monkeypatch.setattr(readers, "read_source", strange)
    result = anodetect.score(pca_run, [str(synthetic_folder)], tmp_path / "out", far=FAR)
    assert result.failed > 0
    assert set(result.reasons) == {"please report: ZeroDivisionError: odd caf\\udce9"}
    assert result.scored > result.failed


# -- Proof -----------------------------------------------------------------------------------------


def test_an_untouched_directory_is_consistent_and_with_its_head_authentic(scored):
    verdict = verification.verify(scored)
    assert verdict.intact
    assert not verdict.authenticated
    assert verification.verify(scored, head=verdict.head).authenticated
    assert not verification.verify(scored, head="0" * 64).intact


def test_an_edited_score_is_named(copy):
    name = change(copy, score=0.0)
    assert f"record 2 ({name}) was changed" in verification.verify(copy).problems


def test_a_dropped_row_is_named(copy):
    rows = pq.read_table(copy / "scores.parquet").to_pylist()
    pq.write_table(
        pa.Table.from_pylist(rows[:4] + rows[5:], schema_of(ScoreRow)), copy / "scores.parquet"
    )
    assert (
        f"record 5 ({rows[4]['path']}) is missing from scores.parquet"
        in verification.verify(copy).problems
    )


def test_a_swapped_heatmap_is_named(copy):
    first, second = sorted((copy / "heatmaps/test/good").glob("*.tiff"))[:2]
    shutil.copy(second, first)
    assert f"{first.relative_to(copy).as_posix()} was changed" in verification.verify(copy).problems


def test_a_changed_model_is_named(pca_run, synthetic_folder, tmp_path):
    run = shutil.copytree(pca_run, tmp_path / "run")
    anodetect.score(run, [str(synthetic_folder)], tmp_path / "s", heatmaps=())
    assert verification.verify(tmp_path / "s").intact
    with (run / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert "the model was changed" in verification.verify(tmp_path / "s").problems[0]
    shutil.rmtree(run)
    verdict = verification.verify(tmp_path / "s")
    assert verdict.intact
    assert any("the model was not checked" in text for text in verdict.not_looked_at)
    with_model = verification.verify(tmp_path / "s", run=pca_run)
    assert not any("the model" in text for text in with_model.not_looked_at)


@pytest.mark.parametrize(
    ("key", "value"),
    [("far", 0.1), ("command", ["anodetect", "score", "else"]), ("statement", "all is well")],
)
def test_a_changed_audit_is_noticed(copy, key, value):
    audit = json.loads((copy / "audit.json").read_text())
    (copy / "audit.json").write_text(json.dumps(audit | {key: value}))
    assert (
        "audit.json was changed: its contents do not give its head"
        in verification.verify(copy).problems
    )


def test_a_record_rewritten_with_care_is_only_caught_by_its_head(copy):
    old = verification.verify(copy).head
    directory = directories.read(copy)
    rows = list(directory.rows)
    rows[0] = replace(rows[0], kind="else")
    rewrite(copy, scores=to_table(rows, ScoreRow))
    assert "report.html was written of another record" in verification.verify(copy).problems[0]
    report.write(copy)
    assert verification.verify(copy).intact
    assert not verification.verify(copy, head=old).intact


def key_pair(folder, name):
    """Files of a new private and public key."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / f"{name}.pem").write_bytes(pem)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / f"{name}.pem", folder / f"{name}.pub"


def test_signatures(pca_run, synthetic_folder, tmp_path):
    ours, _ = key_pair(tmp_path, "ours")
    key_pair(tmp_path, "theirs")
    out = tmp_path / "s"
    anodetect.score(
        pca_run, [str(synthetic_folder / "test/good")], out, heatmaps=(), sign=tmp_path / "ours.pem"
    )
    assert verification.verify(out, key=tmp_path / "ours.pub").authenticated
    assert "not checked against" in verification.verify(out).record.why
    assert (
        "not that of the key" in verification.verify(out, key=tmp_path / "theirs.pub").problems[0]
    )
    signatures.sign(out, "0" * 64, signatures.private_key(ours))
    assert "does not fit the head" in verification.verify(out).problems[0]
    (out / "signature.json").unlink()
    assert "no signature" in verification.verify(out, key=tmp_path / "ours.pub").problems[0]
    with pytest.raises(ConfigError, match="private key"):
        anodetect.score(
            pca_run, [str(synthetic_folder)], tmp_path / "t", sign=tmp_path / "ours.pub"
        )


@pytest.mark.parametrize("calibration", [{}, {"scores": [1], "peaks": "x", "groups": None}])
def test_a_record_that_lacks_something_is_told_not_a_traceback(copy, calibration):
    audit = json.loads((copy / "audit.json").read_text())
    (copy / "audit.json").write_text(json.dumps(audit | {"calibration": calibration}))
    assert any("it cannot be checked" in text for text in verification.verify(copy).problems)


def test_a_column_that_is_missing_is_told(copy):
    pq.write_table(
        pq.read_table(copy / "scores.parquet").drop_columns(["q_value"]), copy / "scores.parquet"
    )
    assert not verification.verify(copy).intact


def test_rescoring_knows_manifests_below_a_common_folder(
    pca_run, synthetic_folder, tmp_path, monkeypatch
):
    """What a manifest says of a file is used again, though the record's root holds none."""
    for name in ("a", "b"):
        shutil.copytree(synthetic_folder / "test/good", tmp_path / name)
    listed = "\n".join(
        f"{file.name},case{n}" for n, file in enumerate(sorted((tmp_path / "a").glob("*.png")))
    )
    (tmp_path / "a/manifest.csv").write_text(f"path,group\n{listed}\n")
    anodetect.score(
        pca_run, [str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "s", far=FAR, heatmaps=()
    )
    seen = []
    real = rescoring.score_records
    monkeypatch.setattr(
        rescoring,
        "score_records",
        lambda model, items, *rest, **options: (
            seen.extend(items) or real(model, items, *rest, **options)
        ),
    )
    assert rescore(tmp_path / "s", 100) == []
    assert {record.group[:4] for record in seen if record.id.startswith("a/")} == {"case"}
    assert {record.group for record in seen if record.id.startswith("b/")} == {""}


def test_rescoring_gives_what_is_recorded(pca_run, synthetic_folder, scored, tmp_path):
    assert rescore(scored, 10) == []
    assert rescore(scored, 40) == []
    copied = shutil.copytree(synthetic_folder, tmp_path / "data")
    assert rescore(scored, 5, run_path=pca_run, root=copied) == []
    for path in copied.glob("test/*/*.png"):
        Image.fromarray(synthetic.images(1, seed=99)[0][0, 0]).save(path)
    assert "not the one that was scored" in rescore(scored, 1, root=copied)[0]


@pytest.fixture
def two_scored(pca_run, synthetic_folder, tmp_path):
    """A score directory of two images with maps and masks, and its first row."""
    files = [str(synthetic_folder / f"test/{kind}/0000.png") for kind in ("defect", "good")]
    anodetect.score(pca_run, files, tmp_path / "two", far=FAR, heatmaps=("tiff", "mask"))
    return tmp_path / "two", directories.read(tmp_path / "two").rows[0]


def test_a_record_of_other_maps_does_not_survive_rescoring(two_scored, monkeypatch):
    """A heatmap that was changed, though the score is that of the record."""
    out, row = two_scored
    assert rescore(out, 2) == []
    recorded = tifffile.imread(out / row.heatmap)

    def problems(factor, host=None):
        tifffile.imwrite(out / row.heatmap, recorded * np.float32(factor), metadata=None)
        with monkeypatch.context() as patch:
            if host:
                patch.setattr(rescoring.environment, "host", lambda device: host)
            return rescore(out, 2)

    said = f"{row.path}: its heatmap {row.heatmap} differs by up to "
    assert [text.startswith(said) for text in problems(1.00001)] == [True]
    assert problems(1.00001, "another") == []
    assert [text.startswith(said) for text in problems(1.01, "another")] == [True]
    recorded[:3] = np.nan
    assert "was scored in other places" in problems(1)[0]
    (out / row.heatmap).write_bytes(b"else")
    assert "cannot be compared: " in rescore(out, 2)[0]


def test_a_record_of_other_masks_does_not_survive_rescoring(two_scored):
    out, row = two_scored
    name = row.heatmap.replace("_heatmap.tiff", "_mask.png")
    mask = np.asarray(Image.open(out / name)).copy()
    mask[5, 7] ^= True
    Image.fromarray(mask).save(out / name)
    (problem,) = rescore(out, 2)
    assert problem.startswith(f"{row.path}: its mask {name} differs in 1 of ")
    Image.fromarray(mask[1:]).save(out / name)
    assert rescore(out, 2) == [f"{row.path}: its mask {name} has another size"]


def test_a_record_of_other_scores_does_not_survive_rescoring(copy):
    directory = directories.read(copy)
    rows = [replace(row, score=row.score * 1.001) for row in directory.rows]
    rewrite(copy, scores=to_table(rows, ScoreRow))
    assert len(rescore(copy, 3)) == 3


# -- Never lose work -------------------------------------------------------------------------------


def _score(run, data, out, resume):
    anodetect.score(run, [str(data)], out, heatmaps=("tiff",), resume=resume)


def test_killed_at_any_moment_and_resumed_nothing_is_lost_or_done_twice(pca_run, tmp_path):
    data = tmp_path / "data"
    synthetic.write(data, train=1, test=20, size=32)
    whole = tmp_path / "whole"
    _score(pca_run, data, whole, False)
    files = len(list(whole.rglob("*")))
    rng = np.random.default_rng(0)
    kills, seen = 0, set()
    for attempt in range(7):
        out = tmp_path / f"parts{attempt}"
        for _ in range(1 + attempt % 2):
            process = FORKED.Process(target=_score, args=(pca_run, data, out, True))
            process.start()
            moment = (
                rng.uniform(0, 1) * files
            )  # in files written, not in seconds, which depend on what else runs
            while process.is_alive() and len(list(out.rglob("*"))) < moment:
                time.sleep(0.005)
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.join()
            if (out / "journal.jsonl").exists():
                seen.add(len((out / "journal.jsonl").read_bytes().splitlines()))
        if not (out / "audit.json").exists():
            before = [entry["row"]["path"] for entry in _entries(out)]
            _score(pca_run, data, out, True)
            timings = {timing.path: timing.seconds for timing in directories.read_timings(out)}
            assert len(timings) == 40
            assert set(before) <= set(timings)
        assert tables(out) == tables(whole)
        assert verification.verify(out).intact
        assert not {"journal.jsonl", ".lock"} & {path.name for path in out.iterdir()}
        shutil.rmtree(out)
    assert kills >= 7  # of 10; the rest had finished
    assert len(seen) >= 3  # it was killed at different places


def _entries(out):
    lines = (
        (out / "journal.jsonl").read_bytes().splitlines()
        if (out / "journal.jsonl").exists()
        else []
    )
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return [entry for entry in entries if "row" in entry]


def test_what_is_finished_is_not_scored_again(
    pca_run, synthetic_folder, scored, tmp_path, monkeypatch
):
    out = tmp_path / "s"
    real, calls = interrupted_after(monkeypatch, 38), []
    with pytest.raises(Interrupted, match="--resume"):
        anodetect.score(pca_run, [str(synthetic_folder)], out, far=FAR)

    def counts(model, items, reporter, **options):
        calls.append(len(items))
        return real(model, items, reporter, **options)

    monkeypatch.setattr(worker, "score_records", counts)
    finished = len(_entries(out))
    assert finished
    with (out / "journal.jsonl").open("ab") as file:
        file.write(b'{"row": {"path": "half')  # a line cut in two by a power failure
    with pytest.raises(RunError, match="--resume"):
        anodetect.score(pca_run, [str(synthetic_folder)], out, far=FAR)
    with pytest.raises(RunError, match="another far"):
        anodetect.score(pca_run, [str(synthetic_folder)], out, resume=True)
    result = anodetect.score(pca_run, [str(synthetic_folder)], out, far=FAR, resume=True)
    assert calls == [40 - finished]
    assert tables(out) == tables(scored)
    assert (
        result.evaluation.as_json() == directories.read(scored).audit.evaluation.as_json()
    )  # pixels of the first part too
    assert json.loads((out / "regions.json").read_text())["annotations"]
    kept, expected = (directories.read(path).audit.cases for path in (out, scored))
    assert kept == expected
    with pytest.raises(RunError, match="finished"):
        anodetect.score(pca_run, [str(synthetic_folder)], out, far=FAR, resume=True)


def test_files_that_failed_are_tried_again_on_resuming(
    pca_run, synthetic_folder, tmp_path, monkeypatch
):
    """As where a network drive was away for a while; what fails again is a row with the reason,
    once."""
    data = tmp_path / "in"
    shutil.copytree(synthetic_folder / "test/good", data)
    away, broken = sorted(data.iterdir())[:2]
    kept = away.read_bytes()
    for file in (away, broken):
        file.write_bytes(b"")
    real = interrupted_after(monkeypatch, 18)
    monkeypatch.setattr("anodetect.commands.score.PROMPT", 0)
    with pytest.raises(Interrupted):
        anodetect.score(pca_run, [str(data)], tmp_path / "s", heatmaps=())
    assert sum(bool(entry["row"]["error"]) for entry in _entries(tmp_path / "s")) == 2
    monkeypatch.setattr(worker, "score_records", real)
    away.write_bytes(kept)
    result = anodetect.score(pca_run, [str(data)], tmp_path / "s", heatmaps=(), resume=True)
    assert (result.scored, result.failed) == (19, 1)
    assert [row.path for row in directories.read(tmp_path / "s").rows] == sorted(
        file.name for file in data.iterdir()
    )
    anodetect.score(pca_run, [str(data)], tmp_path / "whole", heatmaps=())
    assert tables(tmp_path / "s") == tables(tmp_path / "whole")


def test_a_heatmap_lost_in_a_power_failure_is_made_again(tmp_path):
    def entry(path, *files, seconds=0.0):
        digest = sha256(b"whole").hexdigest()
        row = ScoreRow(
            path=path,
            group=path,
            score=0.0,
            model_sha256="",
            status="ok",
            kind="",
            acquired="",
            pixels_sha256=digest,
        )
        outputs = [OutputRow(name=name, path=path, kind="tiff", sha256=digest) for name in files]
        return JournalEntry(row=row, seconds=seconds, threads=1, host="", outputs=tuple(outputs))

    with journal.Journal(tmp_path / "s", {"a": 1}, resume=False) as begun:
        (tmp_path / "s/y_map").write_bytes(b"whole")
        (tmp_path / "s/y_mask").touch()
        (tmp_path / "s/y_png").write_bytes(b"whol")
        begun.append(
            [
                entry("missing", "x"),
                entry("empty", "y_map", "y_mask"),
                entry("cut off", "y_map", "y_png"),
                entry("none"),
                entry("whole", "y_map"),
            ]
        )
    with journal.Journal(tmp_path / "s", {"a": 1}, resume=True) as again:
        names = ("missing", "empty", "cut off", "none", "whole")
        records = {name: Record(name, tmp_path / name, group=name) for name in names}
        assert [entry.row.path for entry in again.resumed(records)] == ["none", "whole"]
        again.append([entry("missing", seconds=1.0)])
        assert {e.row.path: e.seconds for e in again.entries() if e.seconds} == {"missing": 1.0}


@pytest.mark.parametrize("where", ["sign", "remove"])
def test_what_ends_between_the_tables_and_the_signature_is_resumed_and_signed(
    pca_run, synthetic_folder, tmp_path, monkeypatch, where
):
    private, public = key_pair(tmp_path, "ours")
    owner = signatures if where == "sign" else journal.Journal

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="--resume"):
        patched.setattr(owner, where, killed)
        anodetect.score(pca_run, [str(synthetic_folder)], tmp_path / "s", far=FAR, sign=private)
    result = anodetect.score(
        pca_run, [str(synthetic_folder)], tmp_path / "s", far=FAR, sign=private, resume=True
    )
    assert result.scored == 40
    assert verification.verify(tmp_path / "s", key=public).authenticated
    assert not (tmp_path / "s" / directories.JOURNAL).exists()
    with pytest.raises(RunError, match="choose another --out"):
        anodetect.score(
            pca_run, [str(synthetic_folder)], tmp_path / "s", far=FAR, sign=private, resume=True
        )


def test_what_fails_while_it_is_scored_or_written_is_a_row_and_takes_nothing_with_it(
    pca_run, synthetic_folder, tmp_path, monkeypatch
):
    folder = synthetic_folder / "test/good"
    names = sorted(file.name for file in folder.iterdir())
    odd = readers.read_image(folder / names[3]).mean()
    real_score, real_write = Model.score, worker.write_files

    def score(model, images, *rest):
        if any(image.mean() == odd for image in images):
            raise MemoryError
        return real_score(model, images, *rest)

    def write(stem, formats, *rest):
        if stem.name == names[5] and formats == ("jpeg",):
            raise ValueError("as a library might")
        return real_write(stem, formats, *rest)

    monkeypatch.setattr(Model, "score", score)
    monkeypatch.setattr(worker, "write_files", write)
    result = anodetect.score(pca_run, [str(folder)], tmp_path / "s", far=FAR)
    assert (result.scored, result.failed) == (19, 2)
    rows = {row.path: row for row in directories.read(tmp_path / "s").rows}
    assert rows[names[3]].error == "does not fit into memory"
    assert (rows[names[3]].status, rows[names[3]].score) == ("failed", None)
    assert rows[names[5]].error == "jpeg: please report: ValueError: as a library might"
    outputs = directories.read_outputs(tmp_path / "s").to_pylist()
    written = {output["kind"] for output in outputs if output["path"] == names[5]}
    assert written >= {"tiff", "mask"}
    assert "jpeg" not in written
    assert rows[names[5]].status == "ok"
    assert sorted(name for name, row in rows.items() if row.error) == [names[3], names[5]]


def test_the_report_repeats_the_command_only_where_there_was_one(
    pca_run, synthetic_folder, tmp_path
):
    file = str(min((synthetic_folder / "test/good").iterdir()))
    command = ["anodetect", "score", "runs/my run", "parts"]
    anodetect.score(pca_run, [file], tmp_path / "python", heatmaps=[])
    anodetect.score(pca_run, [file], tmp_path / "shell", heatmaps=[], command=command)
    assert "To repeat it" not in (tmp_path / "python/report.html").read_text()
    page = html.unescape((tmp_path / "shell/report.html").read_text())
    assert "<pre>anodetect score 'runs/my run' parts</pre>" in page


def test_a_model_that_was_replaced_meanwhile_scores_nothing(pca_run, synthetic_folder, tmp_path):
    run = shutil.copytree(pca_run, tmp_path / "run")

    anodetect.calibrate(run, str(synthetic_folder / "test/good"), tmp_path / "other")

    class Replaces(Silent):
        def say(self, text):
            shutil.copytree(tmp_path / "other", run, dirs_exist_ok=True)

    with pytest.raises(RunError, match="not the model that this scoring was started with"):
        anodetect.score(
            run, [str(synthetic_folder)], tmp_path / "s", far=FAR, workers=2, reporter=Replaces()
        )


def test_a_process_that_has_read_its_model_scores_with_it_whatever_becomes_of_the_file(
    pca_run, synthetic_folder, scored, tmp_path, monkeypatch
):
    """The run is read and hashed once, and the record names what scored."""
    run = shutil.copytree(pca_run, tmp_path / "run")
    anodetect.calibrate(run, str(synthetic_folder / "test/good"), tmp_path / "other")
    real, times = runs.read, []
    monkeypatch.setattr(runs, "read", lambda path: times.append(path) or real(path))

    class Replaces(Silent):
        def say(self, text):
            shutil.copytree(tmp_path / "other", run, dirs_exist_ok=True)

    anodetect.score(
        run, [str(synthetic_folder)], tmp_path / "s", far=FAR, workers=1, reporter=Replaces()
    )
    assert len(times) == 1
    assert tables(tmp_path / "s") == tables(scored)
    problems = verification.verify(tmp_path / "s").problems
    assert [problem.partition(":")[0] for problem in problems] == ["the model was changed"]


def test_two_processes_do_not_write_one_directory(tmp_path):
    code = (
        "import sys, pathlib; from anodetect.record.journal import Journal\n"
        "from anodetect.errors import RunError\n"
        "try:\n    Journal(pathlib.Path(sys.argv[1]), {}, resume=True).__enter__()\n"
        "except RunError as error:\n    sys.exit(str(error))\n"
    )
    with journal.Journal(tmp_path / "s", {}, resume=False):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "s"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "another process is writing here" in done.stderr
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "s"], check=False).returncode == 0


# -- More than one machine -------------------------------------------------------------------------


def test_shards_merge_to_byte_identical_tables(pca_run, synthetic_folder, scored, tmp_path):
    parts = [tmp_path / f"part{index}" for index in (1, 2, 3)]
    counts = []
    for index, part in enumerate(parts, start=1):
        counts.append(
            anodetect.score(
                pca_run, [str(synthetic_folder)], part, far=FAR, shard=f"{index}/3"
            ).scored
        )
    assert sum(counts) == 40
    assert min(counts) > 0
    result = anodetect.merge(parts[::-1], tmp_path / "merged")
    assert tables(tmp_path / "merged") == tables(scored)
    assert verification.verify(tmp_path / "merged").intact
    assert (
        result.evaluation.as_json()["image"]
        == directories.read(scored).audit.evaluation.as_json()["image"]
    )
    assert result.evaluation.pixel is None
    both = [
        json.loads((path / "regions.json").read_text()) for path in (scored, tmp_path / "merged")
    ]
    names = [{image["id"]: image["file_name"] for image in content["images"]} for content in both]
    first, second = (
        sorted((name[a["image_id"]], a["score"], a["area"]) for a in content["annotations"])
        for name, content in zip(names, both, strict=True)
    )
    assert first == second
    assert {p.name for p in (scored / "heatmaps/test/good").iterdir()} == {
        p.name for p in (tmp_path / "merged/heatmaps/test/good").iterdir()
    }
    with pytest.raises(RunError, match="not 1 to 3"):
        anodetect.merge(parts[:2], tmp_path / "two")
    with pytest.raises(RunError, match="not 1 to 3"):
        anodetect.merge([parts[0], *parts], tmp_path / "twice")
    other = tmp_path / "other"
    anodetect.score(pca_run, [str(synthetic_folder)], other, shard="1/3", far=0.1)
    with pytest.raises(RunError, match="differ in far"):
        anodetect.merge([other, *parts[1:]], tmp_path / "mixed")


@pytest.mark.parametrize("name", ["heatmaps/../../planted.png", "/planted.png"])
def test_a_record_from_elsewhere_cannot_reach_out_of_its_directory(
    pca_run, synthetic_folder, tmp_path, name
):
    """Neither is anything written there by joining parts, nor read by checking or scoring again."""
    parts = [tmp_path / f"deep/part{index}" for index in (1, 2)]
    for index, part in enumerate(parts, start=1):
        anodetect.score(pca_run, [str(synthetic_folder)], part, shard=f"{index}/2")
    outputs = list(rows_of(directories.read(parts[0]).outputs, OutputRow))
    written = next(output for output in outputs if output.name.endswith(".png"))
    shutil.copy(parts[0] / written.name, tmp_path / "planted.png")
    planted = replace(written, name=name, sha256=sha256_of(tmp_path / "planted.png"))
    rewrite(parts[0], outputs=to_table([planted, *outputs], OutputRow))
    assert (
        f"{name} is not an output: it leads out of the directory"
        in verification.verify(parts[0]).problems
    )
    if name.startswith("heatmaps/"):
        with pytest.raises(RunError, match="leads out"):
            anodetect.merge(parts, tmp_path / "merged")
    change(parts[1], path=name)
    with pytest.raises(RunError, match="leads out"):
        rescore(parts[1], 10**6)


def test_no_shard_leaves_out_a_file_that_cannot_be_read(pca_run, synthetic_folder, tmp_path):
    folder = shutil.copytree(synthetic_folder / "test/good", tmp_path / "in")
    for n in range(20):  # each with a content, and so a shard, of its own
        (folder / f"bad{n}.png").write_bytes(b"no image" + bytes([n]))
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    whole = anodetect.score(pca_run, [str(folder)], tmp_path / "whole", far=FAR, heatmaps=())
    parts = [tmp_path / f"part{index}" for index in (1, 2)]
    for index, part in enumerate(parts, start=1):
        anodetect.score(pca_run, [str(folder)], part, far=FAR, heatmaps=(), shard=f"{index}/2")
    merged = anodetect.merge(parts, tmp_path / "merged")
    assert (merged.scored, merged.failed) == (whole.scored, whole.failed) == (20, 21)
    assert tables(tmp_path / "merged") == tables(tmp_path / "whole")


def test_parts_that_are_not_what_was_written_or_not_all_are_refused(
    pca_run, synthetic_folder, tmp_path
):
    data = shutil.copytree(synthetic_folder / "test", tmp_path / "in")
    parts = [tmp_path / f"part{index}" for index in (1, 2)]
    for index, part in enumerate(parts, start=1):
        anodetect.score(pca_run, [str(data)], part, far=FAR, shard=f"{index}/2")
        Image.fromarray(synthetic.images(1, seed=index)[0][0, 0]).save(data / "later.png")
    anodetect.score(pca_run, [str(data)], tmp_path / "all", far=FAR)
    for wrong in ([tmp_path / "all", parts[0]], [parts[0], tmp_path / "all"]):
        with pytest.raises(RunError, match="are not 1 to 2, each once"):
            anodetect.merge(wrong, tmp_path / "wrong")
    warned = []
    reporter = Silent()
    reporter.warn = warned.append
    anodetect.merge(parts, tmp_path / "merged", reporter=reporter)
    assert any("found 40 or 41 in their folder" in text for text in warned)
    changed = shutil.copytree(parts[0], tmp_path / "changed")
    next(changed.glob("heatmaps/**/*.tiff")).write_bytes(b"another")
    with pytest.raises(RunError, match=r"changed is not what was written: heatmaps/.* was changed"):
        anodetect.merge([changed, parts[1]], tmp_path / "laundered")
    change(parts[0], score=0.0)
    with pytest.raises(RunError, match="is not what was written: record 2"):
        anodetect.merge(parts, tmp_path / "laundered")


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_bad_shards_are_refused(pca_run, synthetic_folder, tmp_path, shard):
    with pytest.raises(ConfigError, match="--shard"):
        anodetect.score(pca_run, [str(synthetic_folder)], tmp_path / "s", shard=shard)


# -- Outputs ---------------------------------------------------------------------------------------


def test_masks_and_regions_are_where_regions_count(scored):
    rule = directories.read(scored).audit.mask_rule
    assert rule.least > 0 or rule.measure.statistic == "peak"
    content = json.loads((scored / "regions.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    area = dict.fromkeys(names.values(), 0)
    for marks in content["annotations"]:
        area[names[marks["image_id"]]] += marks["area"]
        outline = np.concatenate(marks["segmentation"]).reshape(-1, 2)
        x, y, width, height = marks["bbox"]
        assert outline.min(0) == pytest.approx([x, y], abs=0.51)
        assert outline.max(0) == pytest.approx([x + width, y + height], abs=0.51)
        assert marks["score"] > rule.measure.low
        assert marks["strength"] > rule.least
    for row in directories.read(scored).scored():
        heatmap = tifffile.imread(scored / row.heatmap)
        mask = np.asarray(Image.open(scored / row.heatmap.replace("_heatmap.tiff", "_mask.png")))
        assert np.array_equal(mask, rule.mask(heatmap))
        assert area[row.path] == mask.sum()


def test_a_thousand_files_more_take_little_memory(pca_run, tmp_path):
    """All that is kept of a file: with a made-up model, in a process of its own, peaks at two
    numbers of files."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(pca_run), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    few, many = map(float, done.stdout.split())
    assert (many - few) / (12_000 - 2_000) < 2_000 / 1e6  # MB; a row, a timing, three outputs each


MEMORY = """
import sys
from hashlib import sha256
from pathlib import Path

import anodetect
from anodetect.commands.score import ENGINES
from anodetect.data import listing
from anodetect.output import report
from anodetect.record import environment, spool
from anodetect.record.rows import JournalEntry, OutputRow, ScoreRow

FILES = {"_heatmap.tiff": "tiff", "_heatmap.png": "png", "_mask.png": "mask"}


def made_up_engine(workers):
    return made


def made(run, task, items, reporter, note):
    (task.out / "heatmaps").mkdir()
    for record in items:
        outputs = []
        for suffix, kind in FILES.items():
            name = f"heatmaps/{record.id}{suffix}"
            (task.out / name).touch()
            digest = sha256(b"").hexdigest()
            outputs.append(OutputRow(name=name, path=record.id, kind=kind, sha256=digest))
        row = ScoreRow(
            path=record.id,
            group=record.group,
            sha256=sha256(record.id.encode()).hexdigest(),
            score=hash(record.id) / 2**63,
            heatmap=f"heatmaps/{record.id}_heatmap.tiff",
            width=64,
            height=64,
            model_sha256="0" * 64,
            status="ok",
            kind="",
            acquired="",
        )
        yield None, JournalEntry(row=row, seconds=0.1, threads=1, host="", outputs=tuple(outputs))


ENGINES["made up"] = "__main__:made_up_engine"
spool.RUN = listing.MANY = 1000  # as of very many files
for count in (2_000, 12_000):
    folder = Path(sys.argv[2], str(count))
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}.png").touch()
    out = Path(sys.argv[2], f"out{count}")
    anodetect.score(Path(sys.argv[1]), [str(folder)], out, engine="made up")
    report.write(out)
    print(environment.peak_memory_mb())
"""


def test_the_report_of_twenty_thousand_images_is_small(tmp_path, scored):
    audit = directories.read(scored).audit
    template = directories.read(scored).rows[0]
    rng = np.random.default_rng(0)
    rows = [
        replace(
            template,
            path=f"{n:06}.png",
            group=f"{n:06}.png",
            score=float(score),
            flagged=bool(score > 2),
        )
        for n, score in enumerate(rng.normal(size=20_000))
    ]
    paths = [row.path for row in sorted(rows, key=lambda row: -row.score)[:50]]
    outputs = []
    for path in paths:
        file = directories.picture_of(tmp_path / "s", path)
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 255, (200, 612, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file, quality=80)
        name = f"cases/{file.name}"
        outputs.append(OutputRow(name=name, path=path, kind="case", sha256=sha256_of(file)))
    audit = replace(audit, cases=ShownCases(highest=tuple(paths)))
    tables = directories.Tables(to_table(rows, ScoreRow), outputs=to_table(outputs, OutputRow))
    directories.write(tmp_path / "s", audit, tables)
    assert report.write(tmp_path / "s").stat().st_size < 10e6


# -- Hostile folders -------------------------------------------------------------------------------


def test_hostile_names_and_contents_become_rows(pca_run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    good = synthetic.images(1, seed=9)[0][0, 0]
    Image.fromarray(good).save(folder / "good.png")
    whole = (folder / "good.png").read_bytes()
    for name in (
        "new\nline.png",
        'comma,"quote.png',
        "@formula.png",
        "=1+1.png",
        "-tab.png",
        "+plus.png",
    ):
        (folder / name).write_bytes(whole)
    (folder / "archive.png").write_bytes(b"PK\x03\x04" + bytes(100))
    (folder / "program.png").write_bytes(b"\x7fELF" + bytes(100))
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "fifo.png").write_bytes(b"")
    (folder / "fifo.png").unlink()
    os.mkfifo(folder / "fifo.png")
    result = anodetect.score(pca_run, [str(folder)], folder / "out")  # the output inside the input
    assert result.scored == 7
    assert result.failed + result.skipped == 4
    again = anodetect.score(pca_run, [str(folder)], folder / "again", heatmaps=())
    assert again.scored == 7  # not the pictures of another scoring
    with (folder / "out/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"'=1+1.png", "'@formula.png", "'-tab.png", "'+plus.png"} <= {
        row["path"] for row in rows
    }
    assert not any(
        text.startswith(FORMULA_STARTS) for row in rows for text in (row["path"], row["group"])
    )
    assert verification.verify(folder / "out").intact


def test_images_of_more_pixels_than_fit_and_files_of_more_bytes_are_refused_unread(
    pca_run, tmp_path
):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("L", (16, 16)).save(folder / "small.png")
    small = (folder / "small.png").read_bytes()
    for name, depth in (("grey.png", 8), ("deep.png", 16)):
        head = b"IHDR" + (20_000).to_bytes(4, "big") * 2 + bytes([depth, 0, 0, 0, 0])
        (folder / name).write_bytes(
            small[:12] + head + zlib.crc32(head).to_bytes(4, "big") + small[33:]
        )
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    for name, shape in (("wide.tiff", (20_000, 20_000)), ("many.tiff", (1000, 1000, 1000))):
        tifffile.imwrite(
            folder / name,
            shape=shape,
            dtype=np.uint8,
            photometric="minisblack",
            planarconfig="contig" if len(shape) > 2 else None,
        )
    result = anodetect.score(pca_run, [str(folder)], tmp_path / "s", far=FAR)
    assert (result.scored, result.failed) == (1, 5)
    reasons = {row.path: row.error for row in directories.read(tmp_path / "s").rows}
    assert "bytes are more than any image has" in reasons.pop("sparse.png")
    assert reasons.pop("small.png") == ""
    assert "1000 channels" in reasons.pop("many.tiff")
    assert all("more than 134217728 pixels" in reason for reason in reasons.values()), reasons


def test_every_decoders_own_words_do_not_fill_the_record(pca_run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(60):
        (folder / f"{n}.npy").write_bytes(
            b"\x93NUMPY\x01\x00" + bytes([n % 50 + 10, 0]) + b"{" * (n % 50 + 10)
        )
    result = anodetect.score(pca_run, [str(folder)], tmp_path / "s", far=FAR)
    assert result.failed == 60
    assert sum(result.reasons.values()) == 60
    assert len(result.reasons) <= MOST_REASONS + 1


def test_pipes_do_not_stop_a_scan_and_odd_names_of_kinds_do_not_stop_a_scoring(
    pca_run, synthetic_folder, tmp_path
):
    folder = tmp_path / "in"
    shutil.copytree(synthetic_folder / "test/good", folder / "test/good")
    kind = os.fsencode(folder / "test") + b"/caf\xe9"
    shutil.copytree(os.fsencode(folder / "test/good"), kind)
    for name in ("pipe", "pipe.dcm"):
        os.mkfifo(folder / "test/good" / name)
    signal.alarm(60)  # a pipe that is opened is waited for
    try:
        result = anodetect.score(pca_run, [str(folder)], tmp_path / "s", far=FAR, heatmaps=())
    finally:
        signal.alarm(0)
    assert (result.scored, result.failed) == (40, 1)
    assert {row.kind for row in directories.read(tmp_path / "s").rows} == {"good", "caf%E9"}


def test_links_in_the_mvtec_layout_lead_out_of_it_only_with_the_flag(
    pca_run, synthetic_folder, tmp_path
):
    folder = shutil.copytree(synthetic_folder, tmp_path / "in")
    secret = shutil.copytree(synthetic_folder / "test/good", tmp_path / "secret")
    (folder / "test/evil").symlink_to(secret, target_is_directory=True)
    mask = next((folder / "ground_truth/defect").iterdir())
    mask.rename(tmp_path / "mask.png")
    mask.symlink_to(tmp_path / "mask.png")
    found = scan(folder)
    assert {record.kind for record in found.records if record.split == "test"} == {"good", "defect"}
    assert sum(not record.masks for record in found.records if record.label) == 1
    assert {problem.name for problem in found.problems} == {
        "test/evil",
        mask.relative_to(folder).as_posix(),
    }
    followed = scan(folder, follow_symlinks=True)
    assert sum(record.kind == "evil" for record in followed.records) == 20
    assert all(record.masks for record in followed.records if record.kind == "defect")
    assert not followed.problems


def test_files_that_vanish_or_change_after_they_were_listed(pca_run, tmp_path):
    """A row says what became of each; a hash is that of the very bytes that were scored."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, image in enumerate(synthetic.images(6, seed=4)[0]):
        Image.fromarray(image[0]).save(folder / f"{number}.png")

    class Meddles(Silent):
        def say(self, text):  # once everything has been listed; the head of the record is also said
            if not (folder / "0.png").exists():
                return
            (folder / "0.png").unlink()
            shutil.copy(folder / "5.png", folder / "1.png")
            (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:100])
            (folder / "3.png").unlink()
            (folder / "3.png").mkdir()

    result = anodetect.score(pca_run, [str(folder)], tmp_path / "s", reporter=Meddles())
    rows = {row.path: row for row in directories.read(tmp_path / "s").rows}
    assert len(rows) == 6
    assert (result.scored, result.failed) == (3, 3)
    assert all(rows[f"{number}.png"].error for number in (0, 2, 3))
    assert rows["1.png"].sha256 == rows["5.png"].sha256 == sha256_of(folder / "5.png")
    assert rows["1.png"].score == rows["5.png"].score
    assert verification.verify(tmp_path / "s").intact


def test_huge_images_do_not_pile_up(pca_run, tmp_path, monkeypatch):
    from anodetect.model import loading, read_ahead

    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(12):
        Image.new("L", (400, 400), n).save(folder / f"{n}.png")
    held, most, real = [], [0], loading.load

    def load(*arguments):
        loaded = real(*arguments)
        held.append(loaded)
        most[0] = max(most[0], len(held))
        return loaded

    monkeypatch.setattr(read_ahead, "PIXELS_AHEAD", 2 * 400 * 400)
    items = collect([str(folder)], tmp_path / "out", False).records
    for _ in read_ahead.read_ahead(load, items):
        time.sleep(0.02)
        held.pop(0)
    assert most[0] <= 2 + 2 + 1  # the limit, one in each thread, one with the consumer


def test_a_folder_of_very_many_empty_files_is_scanned_in_seconds(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(50_000):
        os.close(os.open(folder / f"{n}.png", os.O_CREAT | os.O_WRONLY))
    begun = time.process_time()
    assert len(collect([str(folder)], tmp_path / "out", False).records) == 50_000
    assert time.process_time() - begun < 15


EDIT = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "overwrite"]),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=50),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits=st.lists(EDIT, min_size=1, max_size=3), in_header=st.booleans())
def test_damaged_model_files_are_refused(pca_run, tmp_path, edits, in_header):
    """Byte by byte: flipped, cut, inserted, overwritten; never a crash, never another model."""
    whole = (pca_run / "model.safetensors").read_bytes()
    reach = 8 + int.from_bytes(whole[:8], "little") if in_header else len(whole)
    content = bytearray(whole)
    for kind, where, what in edits:
        place = min(int(where * reach), len(content) - 1)
        if kind == "flip":
            content[place] ^= what[0]
        elif kind == "cut":
            del content[place : place + 4 * len(what)]
        elif kind == "insert":
            content[place:place] = what
        else:
            content[place : place + len(what)] = what
    assume(content != whole)
    (tmp_path / "model.safetensors").write_bytes(content)
    try:
        state, header = checkpoint.read(tmp_path / "model.safetensors")
    except AnodetectError:
        return
    whole_state, whole_header = checkpoint.read(
        pca_run / "model.safetensors"
    )  # as where white space became another
    assert header == whole_header
    assert all(np.array_equal(state[name], array) for name, array in whole_state.items())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.text(max_size=5)
    | st.just("F32"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["__metadata__", "a", "dtype", "shape", "data_offsets"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(header=JSON, length=st.integers(-3, 3), body=st.binary(max_size=64))
def test_invented_model_headers_are_refused(tmp_path, header, length, body):
    text = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(
        max(len(text) + length, 0).to_bytes(8, "little") + text + body
    )
    with pytest.raises(AnodetectError):
        checkpoint.read(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b"[" * 100_000,
        b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 999999999999]}}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}',
        b'{"__metadata__": {"format": "4", "header": "[]", "sha256": ""}}',
        b'{"__metadata__": {"format": "1e9", "header": "{}"}}',
        b"\x80\x04\x95cos\nsystem\n",
    ],
)
def test_crafted_model_headers_are_refused(tmp_path, header):
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(AnodetectError):
        checkpoint.read(tmp_path / "m.safetensors")


def rewritten(run, folder, **changes):
    """A run whose model file fits its hashes, with another header."""
    copy = shutil.copytree(run, folder)
    arrays, header = checkpoint.read(copy / "model.safetensors")
    checkpoint.write(copy / "model.safetensors", arrays, header | changes)
    return copy


@pytest.mark.parametrize(
    "changes",
    [
        {"hashes": {"../../../../../../dev/zero": ""}},
        {"hashes": ["config.json"]},
        {"calibration_groups": None},
        {"config": []},
        {"config": {"tiling": 1}},
        {"preprocess": {"channels": "x"}},
        {"preprocess": None},
        {"representation": {}},
    ],
)
def test_models_whose_hashes_fit_but_whose_contents_do_not_are_refused(
    pca_run, synthetic_folder, tmp_path, changes
):
    run = rewritten(pca_run, tmp_path / "run", **changes)
    with pytest.raises(AnodetectError):
        anodetect.score(run, [str(synthetic_folder)], tmp_path / "s", far=FAR)


def test_a_header_nested_too_deeply_is_refused(tmp_path):
    safetensors.numpy.save_file(
        {"a": np.zeros(1)}, tmp_path / "m", {"format": "5", "header": "[" * 100_000, "sha256": ""}
    )
    with pytest.raises(RunError, match="not a readable anodetect model file"):
        checkpoint.read(tmp_path / "m")


# -- By subgroup -----------------------------------------------------------------------------------


def test_evaluation_by_site_warns_where_a_site_departs(pca_run, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["path,split,label,site"]
    for site, seed in (("north", 31), ("south", 32)):
        pictures, _ = synthetic.images(40, seed=seed)
        defects, _ = synthetic.images(15, seed=seed, defects=True)
        for label, part in ((0, pictures), (1, defects)):
            for n, image in enumerate(part):
                name = f"{site}{label}{n}.png"
                picture = 255 - image[0] if site == "south" else image[0]
                Image.fromarray(picture).save(folder / name)
                lines.append(f"{name},test,{label},{site}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    result = anodetect.evaluate(pca_run, str(folder), far=FAR, by=["site"])
    parts = result.by["site"]
    assert {value: part.n_normal for value, part in parts.items()} == {"north": 40, "south": 40}
    assert parts["north"].false_alarms.low <= FAR
    assert parts["south"].false_alarms.rate > 0.5
    assert [warning.split(":")[0] for warning in result.warnings if "flagged" in warning] == [
        "site south"
    ]
    with pytest.raises(ConfigError, match="did you mean 'site'"):
        anodetect.evaluate(pca_run, str(folder), by=["sight"])


def test_runs_are_read_without_opening_a_pickle(pca_run, monkeypatch):
    import pickle

    def refuse(*arguments, **options):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    assert runs.read(pca_run).state
