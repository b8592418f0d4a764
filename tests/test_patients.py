"""Whose an image is: patients, issuers, and files that name nobody."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_dicom import other_uids, voxels, write_series

import anodetect
from anodetect.commands.inspect import inspect
from anodetect.data import scan
from anodetect.data.patients import names_patient, warning_of
from anodetect.data.series import identified
from anodetect.record import directories

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.*")
ARRAY = voxels((3, 9, 9), np.int16)


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory, monkeypatch):
    """A key for pseudonyms of the tests' own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


def groups_of(folder, *patients):
    """Write a series for each patient, study and tags; return the groups of the records."""
    for number, (study, tags) in enumerate(patients):
        uids = (f"1.2.{study}", *other_uids(100 + number)[1:])
        write_series(folder / f"{number}", ARRAY, uids=uids, **tags)
    return [record.group for record in scan.scan(folder).records]


@pytest.mark.parametrize(
    "identifier",
    ["", " ", "ANONYMOUS", "anon", "Anonymized", "anonymised ", "Anonymous^", "UNKNOWN", "none",
     "N/A", "00000", "xxxx", "-", "De-Identified", "no name", "Patient ID", "*", "\0"],
)  # fmt: skip
def test_identifiers_that_stand_for_any_patient(identifier):
    assert not names_patient(identifier)


@pytest.mark.parametrize(
    "identifier",
    ["4711", "ANON-0007", "anonymous_12", "Anonymous1", "P003", "TCGA-CS-4941", "0", "0001", "X12",
     "Xavier", "Nonely", "patient 7", "患者"],
)  # fmt: skip
def test_identifiers_that_are_a_patients_own(identifier):
    assert names_patient(identifier)


def test_a_patients_series_and_studies_are_one_group_and_issuers_are_told_apart(tmp_path):
    one, other_series, other_study, other_issuer, other = groups_of(
        tmp_path,
        (1, {"PatientID": "7", "IssuerOfPatientID": "A"}),
        (1, {"PatientID": "7", "IssuerOfPatientID": "A"}),
        (2, {"PatientID": "7", "IssuerOfPatientID": "A"}),
        (3, {"PatientID": "7", "IssuerOfPatientID": "B"}),
        (4, {"PatientID": "8", "IssuerOfPatientID": "A"}),
    )
    assert one == other_series == other_study
    assert len({one, other_issuer, other}) == 3
    kept = [identified(record).group for record in scan.scan(tmp_path).records]
    assert kept == ["7^^^A", "7^^^A", "7^^^A", "7^^^B", "8^^^A"]


def test_a_patients_studies_are_told_apart_by_pseudonyms(tmp_path):
    patients = [
        (study, {"PatientID": patient}) for study, patient in ((1, "7"), (1, "7"), (2, "7"))
    ]
    groups_of(tmp_path, *patients, (3, {"PatientID": ""}))
    (tmp_path / "manifest.csv").write_text("path,study\n0,x\n1,y\n2,\n3,\n")
    listed = scan.scan(tmp_path).records
    (tmp_path / "manifest.csv").unlink()
    found = scan.scan(tmp_path).records
    studies = [record.study for record in found]
    assert studies == [record.study for record in listed]
    assert studies[0] == studies[1] and len(set(studies)) == 3
    assert all(study.startswith("study-") and "1.2" not in study for study in studies)
    assert studies[3] == found[3].group  # a file that names no patient
    kept = [identified(record).study for record in found]
    assert kept == ["1.2.1", "1.2.1", "1.2.2", "1.2.3"]


@pytest.mark.parametrize("nobody", ["", "ANONYMOUS", "anon"])
def test_files_that_name_nobody_are_grouped_by_study_and_counted(nobody, tmp_path):
    one, other_series, other_study, named = groups_of(
        tmp_path,
        (1, {"PatientID": nobody}),
        (1, {"PatientID": nobody}),
        (2, {"PatientID": nobody, "IssuerOfPatientID": "A"}),
        (3, {"PatientID": "7"}),
    )
    assert one == other_series != other_study
    assert one.startswith("study-") and other_study.startswith("study-")
    assert named.startswith("patient-")
    records = scan.scan(tmp_path).records
    assert identified(records[0]).group == "study-1.2.1"
    (said,) = (line for line in inspect(str(tmp_path)).summary if "name no patient" in line)
    assert said.startswith("3 files")


def test_nothing_is_said_where_all_are_named():
    assert warning_of(["patient-1", "sub-01", "lot 7"]) == ""
    assert warning_of(["study-1", "patient-1"]).startswith("1 file names no patient")


def alternating(folder):
    """Write one series in whose files two patients alternate, as a faulty anonymizer leaves it."""
    return write_series(
        folder,
        voxels((8, 12, 14), np.int16),
        change=lambda number, made: setattr(made, "PatientID", f"SECRET{number % 2}"),
    )


def test_volumes_that_share_the_uid_of_their_series_say_so(tmp_path):
    alternating(tmp_path / "a")
    write_series(tmp_path / "b", ARRAY, uids=other_uids(7))
    half, other, whole = scan.scan(tmp_path).records
    assert [len(record.files) for record in (half, other, whole)] == [4, 4, 3]
    assert half.note == other.note and whole.note == ""
    assert half.note.startswith("4 more images with the UID of this series name another patient")
    assert "correct PatientID" in half.note and "SECRET" not in half.note
    (said,) = (line for line in inspect(str(tmp_path)).summary if half.note in line)
    assert said.startswith("2 volumes with a note; the first: a/IM000: ")

    (tmp_path / "manifest.csv").write_text("path\na/IM000\nb\n")
    assert [record.note for record in scan.scan(tmp_path).records] == [half.note, ""]


def test_training_and_scores_say_that_series_share_their_uid(tmp_path):
    for number in range(20):
        write_series(tmp_path / "normal" / f"{number:02}", voxels((4, 12, 14)),
                     uids=other_uids(50 + number), PatientID=f"N{number}")  # fmt: skip
    alternating(tmp_path / "normal/halves")
    warned = []
    reporter = SimpleNamespace(say=lambda text: None, warn=warned.append, progress=lambda *a: None)
    anodetect.train(
        str(tmp_path / "normal"), "intensity", tmp_path / "run", values={"size": 16},
        reporter=reporter,
    )  # fmt: skip
    assert any("2 volumes with a note; the first: halves/IM000: 4 more" in each for each in warned)

    anodetect.score(
        tmp_path / "run", [str(tmp_path / "normal/halves")], tmp_path / "out", heatmaps=[]
    )
    for row in directories.read(tmp_path / "out").rows:
        assert "4 more images with the UID of this series" in row.differs
