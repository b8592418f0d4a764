"""What verify covers: record, verdicts and report, each by itself. Whoever attacks here can write
the directory, and makes every hash fit."""

import base64
import html
import io
import json
import os
import shutil
import signal
import sqlite3
import zipfile
from contextlib import closing, suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from pyarrow import parquet
from pydantic import TypeAdapter
from typer.testing import CliRunner

import anodetect
from anodetect import cli
from anodetect.commands import review
from anodetect.commands.alarms import AlarmEvent
from anodetect.commands.conclude import derived, written_in
from anodetect.commands.forget import forget
from anodetect.commands.labelled import measure_of
from anodetect.commands.recompute import recompute
from anodetect.commands.verify import verify
from anodetect.commands.watch import TAKEN_LINE, Taken
from anodetect.data.records import Record
from anodetect.errors import ConfigError, ImageError, RunError
from anodetect.files import sha256_of
from anodetect.output import report
from anodetect.output.images import read_map
from anodetect.output.regions import find_regions, write_regions
from anodetect.record import (
    alike,
    directories,
    environment,
    made_maps,
    reports,
    reviews,
    runs,
    signatures,
    signing,
    study,
    verification,
)
from anodetect.record.audit import DriftChecks
from anodetect.record.chain import head_of
from anodetect.record.directories import picture_of
from anodetect.record.journal import Journal
from anodetect.record.made_maps import MadeFile
from anodetect.record.reviews import Review, SignedEnd
from anodetect.record.rows import (
    ChainRow,
    JournalEntry,
    OutputRow,
    ScoreRow,
    entry_to_json,
    rows_of,
    to_table,
)
from anodetect.stats.mask_use import MaskUse
from benchmarks import fuzz

OLD = Path(__file__).with_name("data") / "scores-format-2"


KINDS = {".tiff": "tiff", ".nii": "nifti", ".jpg": "case", ".json": "regions", ".npz": "bootstrap"}


def written_anew(folder, out, **changes):
    """Write the record in a folder again, in the present format, with changes to audit.json."""
    shutil.copytree(folder, out, ignore=lambda *_: ("audit.json",), dirs_exist_ok=True)
    scored, tables = directories.read(folder), directories.read_tables(folder)
    outputs = []
    for output in rows_of(tables.outputs, OutputRow):
        owner = ""
        for row in scored.rows:
            beside = output.name.startswith(f"heatmaps/{row.path}_")
            shown = output.name == f"cases/{picture_of(out, row.path).name}"
            owner = row.path if beside or shown else owner
        if output.name not in scored.audit.tables:
            kind = KINDS[Path(output.name).suffix]
            outputs.append(replace(output, path=owner, kind=kind))
    tables = replace(tables, outputs=to_table(outputs, OutputRow))
    directories.write(out, replace(scored.audit, **changes), tables)
    return out


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A record of two images and a volume, complete a year ago."""
    return written_anew(OLD, tmp_path_factory.mktemp("proof") / "scores")


@pytest.fixture
def copy(record, tmp_path):
    return shutil.copytree(record, tmp_path / "copy")


def key_pair(folder, name):
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / f"{name}.pub").write_bytes(public)
    return key, folder / f"{name}.pub"


def judge(folder, *verdicts, **changes):
    """Write a database with verdicts on the first row, one after the other, all of whose hashes
    fit, and return the reviews."""
    scored = directories.read(folder)
    row, previous, made = scored.rows[0], scored.audit.head, []
    for number, verdict in enumerate(verdicts, start=1):
        made_now = Review(
            head=scored.audit.head,
            number=number,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            reviewer="Ada",
            verdict=verdict,
            comment="",
            region="",
            blind=False,
            withdraws=None,
            path=row.path,
            image_sha256=row.sha256,
            model_sha256=row.model_sha256,
            score=row.score,
            p_value=row.p_value,
            threshold=row.threshold,
            previous=previous,
        )
        made_now = replace(made_now, **changes)
        made.append(replace(made_now, hash=reviews.hash_of(made_now)))
        previous = made[-1].hash

    (folder / reviews.FILE).unlink(missing_ok=True)
    names = [field.name for field in fields(Review)]
    with closing(sqlite3.connect(folder / reviews.FILE)) as connection, connection:
        connection.execute(f"CREATE TABLE reviews ({', '.join(names)})")
        marks = ", ".join("?" * len(names))
        rows = [list(asdict(each).values()) for each in made]
        connection.executemany(f"INSERT INTO reviews VALUES ({marks})", rows)
    return made


def states(verdict):
    return verdict.record.state, verdict.verdicts.state, verdict.report.state


# -- Three parts -----------------------------------------------------------------------------------


def test_the_head_stands_for_the_record_alone(copy):
    head = verification.verify(copy).head
    assert states(verification.verify(copy)) == ("consistent", "not covered", "not covered")
    judge(copy, "normal")
    report.write(copy)
    verdict = verification.verify(copy, head=head)
    assert states(verdict) == ("authenticated", "consistent", "consistent")
    assert verdict.as_json()["verdicts"]["state"] == "consistent"
    report_of = (copy / "report.html").read_text()
    (copy / "report.html").write_text(report_of.replace("normal", "anomalous"))
    verdict = verification.verify(copy, head=head)
    assert states(verdict) == ("authenticated", "consistent", "broken")
    assert verdict.problems == ("report.html was changed; anodetect report writes it again",)
    assert not verdict.intact


def test_what_was_not_looked_at_is_named_with_root_run_and_date(copy):
    (copy / ".writing.x").write_text("planted")
    (copy / "heatmaps/later.tiff").symlink_to(copy / "audit.json")
    (copy / "reviews.exe").write_text("planted")
    verdict, audit = verification.verify(copy), directories.read(copy).audit
    assert (verdict.root, verdict.run, verdict.ended) == (audit.root, audit.run_path, audit.ended)
    covered = " ".join(verdict.not_looked_at)
    assert f"the images below {audit.root} were not read" in covered
    assert "the model was not checked" in covered
    names = ".writing.x, heatmaps/later.tiff, reviews.exe"
    assert f"3 files are not part of the record: {names}" in covered


# -- Verdicts --------------------------------------------------------------------------------------


def test_the_end_of_the_verdicts_that_was_kept_authenticates_them(copy):
    first, second = judge(copy, "normal", "unsure")
    verdict = verification.verify(copy, kept_reviews=second.hash.upper())
    assert verdict.verdicts.state == "authenticated"
    assert (verdict.verdict_count, verdict.verdict_end) == (2, second.hash)
    verdict = verification.verify(copy, kept_reviews=first.hash)
    assert verdict.verdicts.state == "consistent"
    assert "the first 1 are those that were kept or signed, 1 later" in verdict.verdicts.why
    nobody = verification.verify(copy, kept_reviews=verdict.head).verdicts
    assert nobody.state == "consistent"


def rewrite_all(folder, before):
    judge(folder, "anomalous", "unsure")


def put_back(folder, before):
    shutil.copy(before, folder / reviews.FILE)


def cut_off(folder, before):
    with closing(sqlite3.connect(folder / reviews.FILE)) as connection, connection:
        connection.execute("DELETE FROM reviews WHERE number = 2")


def delete_all(folder, before):
    (folder / reviews.FILE).unlink()


@pytest.mark.parametrize("attack", [rewrite_all, put_back, cut_off, delete_all])
@pytest.mark.parametrize("signed", [False, True])
def test_verdicts_that_were_rewritten_put_back_cut_off_or_deleted_are_noticed(
    copy, tmp_path, attack, signed
):
    judge(copy, "normal")
    before = shutil.copy(copy / reviews.FILE, tmp_path / "before")
    *_, last = judge(copy, "normal", "unsure")
    key, _ = key_pair(tmp_path, "ours")
    kept, end = last.hash, SignedEnd(head=last.head, number=2, end=last.hash, time=last.time)
    if signed:
        reviews.sign_end(copy, "0a", end, key)
        kept = None
    verdict = verification.verify(copy, kept_reviews=kept, key=None)
    assert verdict.intact
    attack(copy, before)
    verdict = verification.verify(copy, kept_reviews=kept)
    assert verdict.verdicts.state == "broken"
    assert last.hash in verdict.verdicts.problems[0]
    assert ("deleted" in verdict.verdicts.problems[0]) == (attack is delete_all)


def test_a_signed_end_authenticates_verdicts_with_the_key_alone(copy, tmp_path):
    key, public = key_pair(tmp_path, "ours")
    _, others = key_pair(tmp_path, "theirs")
    head = directories.read(copy).audit.head
    signatures.sign(copy, head, key)
    first, last = judge(copy, "normal", "unsure")
    for session, each in (("0a", first), ("0b", last)):
        end = SignedEnd(head=head, number=each.number, end=each.hash, time=each.time)
        reviews.sign_end(copy, session, end, key)
    assert verification.verify(copy).verdicts.state == "consistent"
    assert states(verification.verify(copy, key=public))[:2] == ("authenticated", "authenticated")
    verdict = verification.verify(copy, key=others)
    assert states(verdict)[:2] == ("broken", "broken")
    file = copy / "reviews.signed.0b.json"
    file.write_text(file.read_text().replace('"number": 2', '"number": 1'))
    assert "does not fit" in verification.verify(copy).verdicts.problems[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"score": 0.0}, "another score, p-value or threshold"),
        ({"p_value": 0.9}, "another score, p-value or threshold"),
        ({"threshold": None}, "another score, p-value or threshold"),
        ({"time": "2001-01-01T00:00:00+00:00"}, "is older than what it follows"),
        ({"time": "9999-01-01T00:00:00+00:00"}, "was made in the future"),
        ({"time": "today"}, "has no time that can be read"),
    ],
)
def test_a_verdict_that_does_not_fit_its_row_is_noticed(copy, change, problem):
    judge(copy, "normal", **change)
    assert problem in verification.verify(copy).verdicts.problems[0]


def test_clocks_of_machines_may_differ_a_little(copy):
    judge(copy, "normal", time=(datetime.now(UTC) + timedelta(minutes=5)).isoformat())
    assert verification.verify(copy).intact


def test_review_prints_how_the_verdicts_end(copy):
    assert review.ends([copy]) == []
    *_, last = judge(copy, "normal", "unsure")
    (text,) = review.ends([copy])
    assert text.endswith(f"anodetect verify {copy} --reviews {last.hash}")


def test_a_session_of_the_app_signs_the_last_of_its_verdicts(copy, tmp_path, monkeypatch):
    key, public = key_pair(tmp_path, "ours")
    signatures.sign(copy, directories.read(copy).audit.head, key)
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    content = key.private_bytes(*pem, serialization.NoEncryption())
    (tmp_path / "ours.pem").write_bytes(content)
    first, last = judge(copy, "normal", "unsure")
    signing.sign(copy, first)
    assert not list(copy.glob("reviews.signed.*"))
    monkeypatch.setenv(reviews.SIGNING_KEY, str(tmp_path / "ours.pem"))
    for each in (first, last, first):
        signing.sign(copy, each)
    assert len(list(copy.glob("reviews.signed.*"))) == 1
    assert verification.verify(copy, key=public).verdicts.state == "authenticated"


# -- The report ------------------------------------------------------------------------------------


def test_a_report_is_signed_and_says_what_it_was_written_of(copy, tmp_path):
    key, public = key_pair(tmp_path, "ours")
    signatures.sign(copy, directories.read(copy).audit.head, key)
    report.write(copy, key)
    assert verification.verify(copy, key=public).report.state == "authenticated"
    assert verification.verify(copy).report.state == "consistent"
    signed = json.loads((copy / "report.json").read_text())
    (copy / "report.json").write_text(json.dumps(signed | {"written": "2020-01-01"}))
    assert "is not that of the key" in verification.verify(copy, key=public).problems[0]
    (copy / "report.json").write_text(json.dumps(signed))
    (copy / "report.html").unlink()
    assert verification.verify(copy).report.problems == ("report.html is missing",)
    (copy / "groups.csv").write_text("changed")
    changed = (copy / "audit.json").read_text().replace('"far": 0.2', '"far": 0.3')
    (copy / "audit.json").write_text(changed)
    with pytest.raises(RunError, match="changed or missing"):
        report.write(copy, key)


def test_a_report_of_another_record_is_noticed(record, copy, tmp_path):
    other = written_anew(record, tmp_path / "other", run="another")
    report.write(other)
    for name in ("report.html", "report.json"):
        shutil.copy(other / name, copy / name)
    assert "was written of another record" in verification.verify(copy).report.problems[0]


def test_two_sheets_are_printed_with_heads_counts_deciders_and_lines_to_sign(copy):
    *_, last = judge(copy, "normal", "unsure")
    page = report.write(copy).read_text()
    sheets = page.split('<section class="sheet">')[1:]
    assert len(sheets) == 2
    audit = directories.read(copy).audit
    assert html.escape(audit.statement) in sheets[0]
    assert "<tr><td>Files found</td><td>3</td></tr>" in sheets[0]
    for text in (audit.head, last.hash, "Ada", "Reviewed by", "1 of 3 images judged"):
        assert text in sheets[1]
    assert "main { display: none; }" in page


# -- Signatures and files that say two things ------------------------------------------------------


def test_a_signature_of_another_record_is_visible_at_once(record, copy, tmp_path):
    """Alone it does not fit. With the whole of its record, which is as good as this one, the answer
    says of which run and folder it is, and of which day."""
    key, public = key_pair(tmp_path, "ours")
    other = written_anew(record, tmp_path / "other", root="/elsewhere", run_path="/r", ended="2020")
    signatures.sign(other, directories.read(other).audit.head, key)
    shutil.copy(other / "signature.json", copy / "signature.json")
    verdict = verification.verify(copy, key=public)
    assert "was made for another record" in verdict.record.problems[0]
    replayed = verification.verify(other, key=public)
    assert (replayed.root, replayed.run, replayed.ended) == ("/elsewhere", "/r", "2020")


@pytest.mark.parametrize("name", ["audit.json", "signature.json", "report.json"])
def test_a_key_that_is_there_twice_is_a_finding(copy, tmp_path, name):
    """Of two values one reader takes the first, and another the last."""
    key, _ = key_pair(tmp_path, "ours")
    signatures.sign(copy, directories.read(copy).audit.head, key)
    report.write(copy, key)
    assert verification.verify(copy).intact
    file = copy / name
    file.write_text(file.read_text().replace("{", '{"head": "what a reader sees", ', 1))
    assert not verification.verify(copy).intact
    assert "twice" in " ".join(verification.verify(copy).problems) or name == "signature.json"


def test_rows_and_outputs_that_are_there_twice_are_findings(copy):
    tables = directories.read_tables(copy)
    both = replace(tables, scores=tables.scores.take([0, 0, 1, 2]))
    directories.write(copy, directories.read(copy).audit, both)
    assert "is in scores.parquet twice" in " ".join(verification.verify(copy).problems)
    both = replace(tables, outputs=tables.outputs.take([0, *range(len(tables.outputs))]))
    directories.write(copy, directories.read(copy).audit, both)
    assert "is in outputs.parquet twice" in " ".join(verification.verify(copy).problems)


def test_an_output_that_is_a_link_out_of_the_directory_is_not_read(copy, tmp_path):
    name = next(rows_of(directories.read(copy).outputs, OutputRow)).name
    (copy / name).rename(tmp_path / "outside")
    (copy / name).symlink_to(tmp_path / "outside")
    assert f"{name} is not an output: it leads out of the directory" in (
        verification.verify(copy).problems
    )


# -- Recomputed ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def complete(record, tmp_path_factory):
    """A record as this release would have concluded it."""
    out = tmp_path_factory.mktemp("proof") / "complete"
    scored = directories.read(record)
    found = derived(
        scored.table,
        directories.group_table(record),
        directories.slice_table(record),
        written_in(scored.table, scored.outputs, scored.audit.heatmaps),
        scored.audit,
    )
    texts = {name: getattr(found, name) for name in ("statement", "reasons", "drift", "caveats")}
    evaluation = measure_of(scored.each(), scored.audit).result()
    written_anew(record, out, **texts, environment=environment.facts(), evaluation=evaluation)
    regions = []
    for row in directories.read(out).scored():
        if not row.is_volume:
            heatmap = read_map(out / row.heatmap)
            regions += [(row.path, each) for each in find_regions(heatmap, scored.audit.mask_rule)]
    images = [("1.png", 48, 48), ("head.nii", 20, 20)]
    write_regions(out, images, lambda: regions, scored.audit.mask_rule)
    return with_hashes(out)


def with_hashes(folder, **changes):
    """Make all hashes of a record fit what lies there now."""
    tables = directories.read_tables(folder)
    rows = [
        replace(row, sha256=sha256_of(folder / row.name))
        for row in rows_of(tables.outputs, OutputRow)
    ]
    kept = {name: (folder / name).read_bytes() for name in ("scores.csv", "groups.csv")}
    tables = replace(tables, outputs=to_table(rows, OutputRow))
    audit = replace(directories.read(folder).audit, **changes)
    directories.write(folder, audit, tables)
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    digests = {name: sha256_of(folder / name) for name in directories.read(folder).audit.tables}
    content = json.loads((folder / "audit.json").read_text()) | {"tables": digests}
    content["head"] = head_of(content)
    (folder / "audit.json").write_text(json.dumps(content))
    return folder


def other_csv(folder):
    text = (folder / "scores.csv").read_text()
    (folder / "scores.csv").write_text(text.replace("true", "false", 1))


def other_groups_csv(folder):
    with (folder / "groups.csv").open("a") as file:
        file.write('"more",1,0.5,0.5,0.5,false\n')


def other_outline(folder):
    text = (folder / "regions.json").read_text()
    assert '"area": ' in text
    (folder / "regions.json").write_text(text.replace('"area": ', '"area": 1'))


def other_map(folder):
    row = directories.read(folder).rows[0]
    heatmap = read_map(folder / row.heatmap)
    tifffile.imwrite(folder / row.heatmap, np.zeros_like(heatmap))


@pytest.fixture(scope="module")
def labelled(pca_run, synthetic_folder, tmp_path_factory):
    """A record with resampled metrics."""
    out = tmp_path_factory.mktemp("proof") / "labelled"
    anodetect.score(pca_run, [str(synthetic_folder / "test")], out, heatmaps=(), workers=1)
    return out


def other_resamples(folder):
    draws = directories.read_draws(folder)
    directories.write_draws(folder, draws | {"image_auroc": draws["image_auroc"] * 0.99})


def a_resample_more(folder):
    draws = directories.read_draws(folder)
    directories.write_draws(folder, draws | {"image_luck": draws["image_auroc"]})


def a_copy_more(folder):
    with_hashes(folder, repeated=(directories.read(folder).rows[0].path,), copies=1)


def huge_resamples(folder):
    """An array that says it is larger than any memory."""
    content = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**50,)}
    np.lib.format.write_array_header_1_0(content, header)
    with zipfile.ZipFile(folder / directories.BOOTSTRAP, "w") as archive:
        archive.writestr("image_auroc.npy", content.getvalue())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (other_resamples, "bootstrap.npz: the resamples of image_auroc do not follow"),
        (a_resample_more, "bootstrap.npz: the resamples of image_luck do not follow"),
        (huge_resamples, "bootstrap.npz: not readable (no list of float64)"),
        (a_copy_more, "the copies in audit.json do not follow"),
        ({"repeated": ("x",), "copies": 1}, "x is called a copy, but has no row"),
    ],
)
def test_resamples_and_copies_that_do_not_follow_are_named(labelled, tmp_path, change, problem):
    copy = shutil.copytree(labelled, tmp_path / "copy")
    verdict = verify(copy)
    assert verdict.problems == ()
    assert not any(text.startswith("copies: ") for text in verdict.not_looked_at)
    if isinstance(change, dict):
        with_hashes(copy, **change)
    else:
        change(copy)
        with_hashes(copy)
    problems = verify(copy).problems
    assert any(problem in text for text in problems), problems


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (other_csv, "scores.csv does not have the rows of scores.parquet: line 2"),
        (other_groups_csv, "groups.csv does not have the rows of its table: line 4"),
        (other_outline, "regions.json: the regions of 1.png do not follow from its map"),
        (other_map, "regions.json: the regions of 1.png do not follow from its map"),
        ({"statement": "all is well"}, "the statement in audit.json does not follow"),
        ({"reasons": {}}, "the reasons in audit.json does not follow"),
        ({"caveats": ()}, "the caveats in audit.json does not follow"),
        ({"drift": DriftChecks()}, "the drift in audit.json does not follow"),
        ({"evaluation": None}, "the evaluation in audit.json does not follow"),
        ({"listed": 4}, "3 files have a row, but 4 were found"),
    ],
)
def test_all_that_is_recomputed_and_does_not_follow_is_named(complete, tmp_path, change, problem):
    """Though all hashes fit, and whoever wrote the record signs it."""
    copy = shutil.copytree(complete, tmp_path / "copy")
    assert verify(copy).problems == ()
    if isinstance(change, dict):
        with_hashes(copy, **change)
    else:
        change(copy)
        with_hashes(copy)
    assert verification.verify(copy).intact
    verdict = verify(copy, head=directories.read(copy).audit.head)
    assert verdict.record.state == "broken"
    assert problem in verdict.problems[0]


def test_masks_that_were_resampled_are_named_as_not_covered(complete, tmp_path):
    copy = shutil.copytree(complete, tmp_path / "copy")
    tables, name = directories.read_tables(copy), "heatmaps/head_mask.nii"
    volume = next(row for row in directories.read(copy).rows if row.is_volume)
    shutil.copy(copy / volume.heatmap, copy / name)
    mask = OutputRow(name=name, path=volume.path, kind="mask", sha256=sha256_of(copy / name))
    known = list(rows_of(tables.outputs, OutputRow))
    for note in ("resampled to even slices 2 mm apart", ""):
        outputs = to_table([*known, replace(mask, note=note)], OutputRow)
        directories.write(copy, directories.read(copy).audit, replace(tables, outputs=outputs))
        verdict = verify(copy)
        named = f"masks that were resampled: {name}" in verdict.not_looked_at
        assert (named, verdict.intact) == (bool(note), bool(note)), verdict.problems


def test_rows_without_hashes_of_pixels_are_counted_beside_those_with(labelled, tmp_path):
    copy = shutil.copytree(labelled, tmp_path / "copy")
    scored, tables = directories.read(copy), directories.read_tables(copy)
    rows = [replace(row, pixels_sha256="") for row in scored.rows[:2]] + list(scored.rows[2:])
    directories.write(copy, scored.audit, replace(tables, scores=to_table(rows, ScoreRow)))
    (said,) = (text for text in verify(copy).not_looked_at if text.startswith("copies: "))
    assert said.startswith("copies: 2 rows lack the hashes of pixels")


def test_metrics_that_the_rows_do_not_give_are_named(complete, tmp_path):
    copy = shutil.copytree(complete, tmp_path / "copy")
    evaluation = directories.read(copy).audit.evaluation
    auroc = replace(evaluation.image["auroc"], value=0.5)
    with_hashes(copy, evaluation=replace(evaluation, image=evaluation.image | {"auroc": auroc}))
    assert "the evaluation's image does not follow from the rows" in verify(copy).problems


def test_texts_of_another_release_are_named_as_its_own_and_not_compared(complete, tmp_path):
    """It had other words for the same; what is no text is checked all the same."""
    copy = shutil.copytree(complete, tmp_path / "copy")
    facts = environment.facts()
    facts["packages"] = facts["packages"] | {"anodetect": "0.2.9"}
    with_hashes(copy, environment=facts, statement="other words", caveats=("for the same",))
    verdict = verify(copy)
    assert verdict.problems == ()
    said = "written by anodetect 0.2.9: its texts (statement, reasons, drift, caveats) were not"
    assert any(text.startswith(said) for text in verdict.not_looked_at)
    other_csv(copy)
    with_hashes(copy)
    assert "scores.csv does not have the rows" in verify(copy).problems[0]


def test_with_the_run_at_hand_what_the_record_repeats_of_it_is_compared(
    pca_run, synthetic_folder, tmp_path
):
    out = tmp_path / "scores"
    anodetect.score(pca_run, [str(synthetic_folder / "test/good")], out, far=0.2)
    assert verify(out).problems == ()
    audit = directories.read(out).audit
    calibration = replace(audit.calibration, scores=audit.calibration.scores + 1)
    changes = {
        "scale": (0.0, 9.0),
        "config": {},
        "calibration": calibration,
        "mask_rule": replace(audit.mask_rule, least=audit.mask_rule.least * 2),
    }
    for name, value in changes.items():
        directories.write(out, replace(audit, **{name: value}), directories.read_tables(out))
        found = recompute(directories.read(out), pca_run).problems
        what = "the rule of masks does not" if name == "mask_rule" else f"the {name} in audit.json"
        assert any(what in problem for problem in found)
    facts = environment.facts()
    older = facts | {"packages": facts["packages"] | {"anodetect": "0.2.9"}}
    audit_of_older = replace(audit, environment=older, config={})
    directories.write(out, audit_of_older, directories.read_tables(out))
    found = recompute(directories.read(out), pca_run)
    said = "written by anodetect 0.2.9: what it says of the run's configuration"
    assert found.problems == [] and any(said in text for text in found.not_looked_at)
    mask = next(out.rglob("*_mask.png"))
    with Image.open(mask) as picture:
        size = picture.size
    Image.new("1", size, 1).save(mask)
    found = recompute(replace(directories.read(out), audit=audit)).problems
    name = mask.relative_to(out).as_posix()
    assert f"{name} is not where the map has regions that count" in found


# -- Erased ----------------------------------------------------------------------------------------


def test_a_patient_is_erased_and_the_record_holds_with_hashed_gaps(complete, tmp_path):
    copy = shutil.copytree(complete, tmp_path / "copy")
    *_, last = judge(copy, "normal", "unsure")
    other = directories.read(copy).rows[2]
    head, group = directories.read(copy).audit.head, directories.read(copy).rows[0].group
    key, public = key_pair(tmp_path, "ours")
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "pem").write_bytes(key.private_bytes(*pem, serialization.NoEncryption()))
    end = SignedEnd(head=head, number=2, end=last.hash, time=last.time)
    reviews.sign_end(copy, "0a", end, key)
    links = directories.read_chain(copy)

    result = forget(copy, group, sign=tmp_path / "pem")
    assert (result.rows, result.verdicts, result.before) == (1, 2, head)
    assert not list(tmp_path.glob("copy.*"))
    names = [file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()]
    assert not any("1.png" in name for name in names)
    for file in copy.rglob("*"):
        if file.is_file():
            assert b"1.png" not in file.read_bytes(), file
            assert b"Ada" not in file.read_bytes(), file
    assert [row.path for row in directories.read(copy).rows] == ["broken.png", other.path]

    kept = directories.read_chain(copy)
    assert [(link.row, link.chain) for link in kept] == [(link.row, link.chain) for link in links]
    assert [link.path for link in kept] == ["", "broken.png", other.path]
    verdict = verify(copy, head=result.head, key=public, reviews=last.hash)
    assert verdict.problems == ()
    assert states(verdict) == ("authenticated",) * 3
    assert "1 row and 2 verdicts were erased on" in verdict.notes[0]
    with_old = verify(copy, head=head)
    assert (with_old.problems, with_old.record.state) == ((), "consistent")
    assert not verify(copy, head="0" * 64).intact
    with pytest.raises(ConfigError, match="has no group"):
        forget(copy, group)


def test_of_a_patient_who_is_erased_no_mask_is_named_and_no_map_made_again_is_left(
    complete, tmp_path
):
    copy = shutil.copytree(complete, tmp_path / "copy")
    scored = directories.read(copy)
    other = scored.rows[2].path
    masks = MaskUse(used=1, missing=("1.png", other), wrong=("1.png",))
    with_hashes(copy, evaluation=replace(scored.audit.evaluation, masks=masks))
    maps, head = made_maps.folder_of(copy), directories.read(copy).audit.head
    files = [
        MadeFile(path, f"{path}.tiff", "tiff", "0" * 64, exact=True) for path in ("1.png", other)
    ]
    maps.mkdir()
    for file in files:
        (maps / file.name).touch()
    made_maps.add(maps, head, files)

    result = forget(copy, scored.rows[0].group)
    assert not [file for file in copy.rglob("*.json") if b"1.png" in file.read_bytes()]
    left = directories.read(copy).audit.evaluation.masks
    assert (left.total, left.missing, left.wrong) == (4, ("(erased)", other), ("(erased)",))
    assert made_maps.read(maps, result.head) == (files[1],)
    assert [file.name for file in maps.iterdir() if file.suffix == ".tiff"] == [files[1].name]
    assert b"1.png" not in (maps / made_maps.FILE).read_bytes()


def test_forget_says_what_it_cannot_erase(complete, tmp_path):
    copy, other = shutil.copytree(complete, tmp_path / "copy"), tmp_path / "elsewhere"
    head, group = directories.read(copy).audit.head, directories.read(copy).rows[0].group
    other.mkdir()
    (other / "1.png.tiff").touch()
    made_maps.add(other, head, [MadeFile("1.png", "1.png.tiff", "tiff", "0" * 64, exact=True)])
    result = CliRunner().invoke(cli.app, ["forget", str(copy), "--group", group])
    assert (other / "1.png.tiff").exists()
    said = result.stdout.splitlines()[-1]
    assert said.startswith("not erased: images, the run") and "maps --out" in said


def test_gaps_that_audit_json_does_not_say_are_noticed(copy):
    """Else whoever takes a row or a verdict away would only have to call it erased."""
    tables = directories.read_tables(copy)
    links = directories.read_chain(copy)
    thinned = to_table([replace(links[0], path=""), *links[1:]], ChainRow)
    kept = replace(tables, scores=tables.scores.slice(1))
    directories.write(copy, directories.read(copy).audit, kept, thinned)
    problems = " ".join(verification.verify(copy).problems)
    assert "1 row is erased, which audit.json does not say" in problems
    judge(copy, "normal", "unsure")
    with closing(sqlite3.connect(copy / reviews.FILE)) as connection, connection:
        connection.execute("UPDATE reviews SET verdict = 'erased' WHERE number = 1")
    problems = verification.verify(copy).verdicts.problems
    assert "1 review is erased, which audit.json does not say" in problems


def test_a_record_that_is_not_what_was_written_is_not_thinned(copy):
    group = directories.read(copy).rows[0].group
    (copy / "timings.parquet").write_bytes(b"changed")
    with pytest.raises(RunError):
        forget(copy, group)
    assert directories.read(copy).rows[0].group == group


# -- The journal is not trusted --------------------------------------------------------------------


def finished(name, **changes):
    """The entry of a file that was scored."""
    row = ScoreRow(
        path=name,
        sha256="0" * 64,
        group=name,
        score=0.5,
        model_sha256="1" * 64,
        status="ok",
        kind="",
        acquired="",
        pixels_sha256="2" * 64,
    )
    entry = JournalEntry(
        row=replace(row, **changes.pop("row", {})), seconds=0.1, threads=1, host=""
    )
    return replace(entry, **changes)


def taken_over(folder, names, key=None):
    """The names of what a resumed scoring of these files takes over, and of what it will write."""
    records = {name: Record(name, folder / name, group=name) for name in names}
    with Journal(folder, {"model_sha256": "1" * 64}, resume=True, key=key) as journal:
        resumed = [entry.row.path for entry in journal.resumed(records)]
        return resumed, [entry.row.path for entry in journal.entries()]


def interrupted(folder, *entries, key=None):
    with Journal(folder, {"model_sha256": "1" * 64}, resume=False, key=key) as journal:
        for entry in entries:
            journal.append([entry])
    return folder


def test_what_is_not_in_the_folder_is_dropped(tmp_path):
    folder = interrupted(tmp_path / "s", *map(finished, "abc"))
    assert taken_over(folder, "ac") == (["a", "c"], ["a", "c"])


@pytest.mark.parametrize(
    "row",
    [
        {"group": "another"},
        {"label": 1},
        {"kind": "crack"},
        {"model_sha256": "2" * 64},
        {"pixels_sha256": ""},  # as in a journal of an older release
    ],
)
def test_what_is_said_otherwise_of_a_file_is_scored_again(tmp_path, row):
    folder = interrupted(tmp_path / "s", finished("a", row=row), finished("b"))
    assert taken_over(folder, "ab")[0] == ["b"]


@pytest.mark.parametrize(
    "malformed",
    [
        finished("m", row={"score": float("nan")}),
        finished("m", row={"score": None}),
        finished("m", row={"width": 2**40}),
        finished("m", row={"label": 3}),
        finished("m", row={"heatmap": "../../etc/passwd"}),
        finished("m", row={"pixels_sha256": "zz"}),
        finished("m", seconds=float("inf")),
        finished("m", outputs=(OutputRow(name="/etc/x", path="m", kind="tiff", sha256="0" * 64),)),
        finished("m", outputs=(OutputRow(name="x", path="b", kind="tiff", sha256="0" * 64),)),
        b"[" * 50_000,
        b'{"row": {"path": "\\ud800"}}',
        b"\xff\xfe",
        b"null",
    ],
)
def test_malformed_lines_of_any_kind_are_scored_again(tmp_path, malformed):
    folder = interrupted(tmp_path / "s", finished("a"))
    line = malformed if isinstance(malformed, bytes) else entry_to_json(malformed)
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(line + b"\n" + entry_to_json(finished("b")) + b"\n")
    assert taken_over(folder, "abm") == (["a"], ["a"])


def test_a_second_line_of_options_is_no_entry(tmp_path):
    folder = interrupted(tmp_path / "s", finished("a"))
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join([*lines, lines[0]]))
    assert taken_over(folder, "a")[0] == ["a"]


def test_with_a_key_only_what_it_has_signed_is_taken_over(tmp_path):
    key, theirs = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    folder = interrupted(tmp_path / "s", finished("a"), finished("b"), key=key)
    assert taken_over(folder, "ab", key)[0] == ["a", "b"]
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(entry_to_json(finished("c")) + b"\n")
    assert taken_over(shutil.copytree(folder, tmp_path / "t"), "abc")[0] == ["a", "b", "c"]
    assert taken_over(folder, "abc", key)[0] == ["a", "b"]
    content = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(content.replace(b'"score":0.5', b'"score":0.1', 1))
    assert taken_over(folder, "abc", key)[0] == []
    other = interrupted(tmp_path / "u", finished("a"), key=theirs)
    assert taken_over(other, "a", key)[0] == []
    unsigned = interrupted(tmp_path / "v", finished("a"))
    assert taken_over(unsigned, "a", key)[0] == []


# -- From elsewhere --------------------------------------------------------------------------------


def test_a_directory_from_elsewhere_gives_an_answer_or_one_line(complete, tmp_path):
    """The hashes of all 50 mutations fit, also of what lies beside the record; benchmarks/fuzz.py
    makes as many as wanted, and writes the report of each."""
    folder = shutil.copytree(complete, tmp_path / "scores")
    judge(folder, "normal", "unsure")
    scored = directories.read(folder)
    head, paths = scored.audit.head, tuple(row.path for row in scored.rows)
    start = scored.audit.verdicts_start
    study.write(folder, study.make(scored.rows, start, name="s", readers=["Ada", "Bob"]))
    vectors = np.random.default_rng(0).normal(size=(len(paths), 6)).astype(np.float32)
    alike.write(folder, head, alike.Alike(paths, vectors))
    again = MadeFile(paths[0], "heatmaps/a.tiff", "tiff", "0" * 64, exact=True)
    made_maps.add(made_maps.folder_of(folder), head, [again])
    key, _ = key_pair(tmp_path, "ours")
    signatures.sign(folder, directories.read(folder).audit.head, key)
    report.write(folder)
    (tmp_path / "work").mkdir()
    found = fuzz.fuzz(folder, tmp_path / "work", 50, seed=1, readers=("verify", "review"))
    assert [f"{each.mutation}: {each.reader}: {each.trace}" for each in found] == []


@pytest.mark.parametrize("name", ["study.json", "alike.parquet", "maps.json"])
def test_what_lies_beside_a_record_from_elsewhere_is_read_or_refused(complete, tmp_path, name):
    """A few mutations of each."""
    folder = shutil.copytree(complete, tmp_path / "scores")
    scored = directories.read(folder)
    head, rng = scored.audit.head, np.random.default_rng(7)
    for _ in range(12):
        plan = study.make(scored.rows, head, name="s", readers=["Ada", "Bob"])
        study.write(folder, plan)
        alike.write(folder, head, alike.Alike(("1.png",), np.ones((1, 4), np.float32)))
        maps = made_maps.folder_of(folder)
        made_maps.add(maps, head, [MadeFile("1.png", "a.tiff", "tiff", "0" * 64, exact=True)])
        if name == "alike.parquet":
            text = fuzz.mutate_table(folder, "alike", rng)
        else:
            text = fuzz.mutate_one_of(maps if name == "maps.json" else folder, (name,), rng)
        for read in (study.read, alike.read):
            with suppress(RunError):
                read(folder, head)
        with suppress(RunError):
            made_maps.read(maps, head)
        assert text


def test_a_folder_of_watch_from_elsewhere_gives_an_answer_or_one_line(tmp_path):
    folder = tmp_path / "out"
    interrupted(folder / "records" / "r", *map(finished, "abc"))
    taken = Taken(name="a", size=3, mtime_ns=5, row="r/a")
    event = AlarmEvent(record="r", path="a", state="heard", means="command")
    for file, line in (
        ("taken.jsonl", TAKEN_LINE.dump_json(taken)),
        ("alarms.jsonl", TypeAdapter(AlarmEvent).dump_json(event)),
    ):
        (folder / file).write_bytes(2 * (line + b"\n"))
    (tmp_path / "work").mkdir()
    found = fuzz.fuzz(folder, tmp_path / "work", 50, seed=1)
    assert [f"{each.mutation}: {each.reader}: {each.trace}" for each in found] == []


@pytest.mark.parametrize(
    "name",
    [
        "audit.json",
        "signature.json",
        "report.json",
        "regions.json",
        "scores.parquet",
        "scores.csv",
        "outputs.parquet",
        "slices.parquet",
        "chain.parquet",
        "reviews.sqlite",
    ],
)
@pytest.mark.parametrize("what", ["pipe", "link"])
def test_pipes_are_not_waited_for_and_links_out_of_the_directory_not_followed(
    complete, tmp_path, name, what
):
    copy = shutil.copytree(complete, tmp_path / "copy")
    judge(copy, "normal")
    key, _ = key_pair(tmp_path, "ours")
    signatures.sign(copy, directories.read(copy).audit.head, key)
    reports.write(copy, "a page", head=directories.read(copy).audit.head, verdicts="")
    assert verify(copy).intact
    (copy / name).rename(tmp_path / "outside")
    if what == "pipe":
        os.mkfifo(copy / name)
    else:
        (copy / name).symlink_to(tmp_path / "outside")
    signal.alarm(60)  # a pipe that is opened is waited for
    try:
        assert not verify(copy).intact
    except RunError:
        assert name == "audit.json"
    finally:
        signal.alarm(0)


def test_a_picture_that_is_a_link_is_not_put_into_the_report(complete, tmp_path):
    copy = shutil.copytree(complete, tmp_path / "copy")
    (tmp_path / "secret").write_bytes(b"what only the user may read")
    secret = base64.b64encode(b"what only the user may read").decode()
    for picture in (copy / "cases").iterdir():
        assert base64.b64encode(picture.read_bytes()).decode() in report.html(copy, [])
        picture.unlink()
        picture.symlink_to(tmp_path / "secret")
    with_hashes(copy)
    assert secret not in report.html(copy, [])


@pytest.mark.parametrize("changes", [{"sha256": None}, {"sha256": ""}])
def test_no_image_without_a_recorded_hash_is_shown(complete, tmp_path, changes):
    loading = pytest.importorskip("apps.review.loading")
    Image.new("L", (4, 4)).save(tmp_path / "1.png")
    scored = directories.read(complete)
    scored = replace(scored, audit=replace(scored.audit, root=str(tmp_path)))
    with pytest.raises(ImageError, match="was changed"):
        loading.read_image(scored, replace(scored.rows[0], **changes))
    everywhere = replace(scored, audit=replace(scored.audit, root="/"))
    with pytest.raises(RunError, match="anywhere on this disk"):
        loading.original(everywhere, scored.rows[0])


def test_a_run_from_elsewhere_gives_an_answer_or_one_line(pca_run, tmp_path):
    readers = ("info", "manifest", "curves", "model")
    found = fuzz.fuzz(pca_run, tmp_path, 50, seed=5, readers=readers)
    assert [f"{each.mutation}: {each.reader}: {each.trace}" for each in found] == []


@pytest.mark.parametrize(
    "changes", [{"groups": [["a"], "b"]}, {"scores": [[1.0, 2.0]]}, {"peaks": True}, {"scores": []}]
)
def test_a_calibration_whose_parts_do_not_fit_is_refused(complete, tmp_path, changes):
    copy = shutil.copytree(complete, tmp_path / "copy")
    content = json.loads((copy / "audit.json").read_text())
    content["calibration"] |= changes
    content["head"] = head_of(content)
    (copy / "audit.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="calibration"):
        directories.read(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"drift": {"batch": True, "time": None}},
        {"environment": {"packages": [None]}},
        {"roi": {"sha256": 1, "width": 2, "height": 2}},
        {"drift": {"batch": {"text": 3}, "time": None}},
        {"training": [{"step": 1, "loss": "low"}]},
        {"training": [{"step": 1e308, "loss": 1}]},
        {"evaluation": {"image": {}, "pixel": None, "pixel_intervals": None}},
    ],
)
def test_an_audit_with_values_of_another_kind_is_refused(complete, tmp_path, changes):
    copy = shutil.copytree(complete, tmp_path / "copy")
    content = json.loads((copy / "audit.json").read_text()) | changes
    content["head"] = head_of(content)
    (copy / "audit.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="audit") as caught:
        directories.read(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"pixel_threshold": [1]}, {"pixel_threshold": 10**400}, {"outputs": {"scores.csv": {}}}],
)
def test_an_old_audit_with_values_of_another_kind_is_refused(tmp_path, changes):
    old = shutil.copytree(Path(__file__).with_name("data") / "scores-format-2", tmp_path / "old")
    content = json.loads((old / "audit.json").read_text()) | changes
    (old / "audit.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"pixel_threshold|outputs"):
        directories.read(old)


def test_a_table_with_an_endless_name_is_refused(complete, tmp_path):
    copy = shutil.copytree(complete, tmp_path / "copy")
    rows = [replace(row, group="g" * (2**17 + 1)) for row in directories.read(copy).rows]
    parquet.write_table(to_table(rows, ScoreRow), copy / "scores.parquet")
    with pytest.raises(RunError, match="the column group has a text of 131073 bytes") as caught:
        directories.read(copy)
    assert len(str(caught.value)) < 300 + len(str(copy))


@pytest.mark.parametrize("line", [b"[" * 50_000, b"3", b'{"loss": 1, "loss": 2}', b"\xff"])
def test_a_log_that_is_none_is_refused_in_one_line(tmp_path, line):
    (tmp_path / "train.jsonl").write_bytes(b'{"step": 1, "loss": NaN}\n' + line + b"\n")
    with pytest.raises(RunError, match=r"train\.jsonl") as caught:
        runs.curves(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "train.jsonl").write_bytes(b'{"step": 1, "loss": NaN}\n' + line)  # not yet complete
    assert [entry["step"] for entry in runs.curves(tmp_path)] == [1]
