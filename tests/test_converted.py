"""Folders of volumes that dcm2niix made: parts, echoes, copies, localizers and patients."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from anodetect.data.converted import CROPPED, OVERLAYS, RESAMPLED_SOURCES, SIDECARS
from anodetect.data.pseudonyms import pseudonym
from anodetect.data.scan import reasons, scan
from anodetect.errors import DataError
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.model.input_facts import facts_of
from anodetect.model.loading import LoadedVolume, load

MAGNITUDE = ["ORIGINAL", "PRIMARY", "M", "ND"]
PHASE = ["ORIGINAL", "PRIMARY", "P", "ND"]


@pytest.fixture(autouse=True)
def own_key(tmp_path, monkeypatch):
    """A key for pseudonyms of the tests' own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def folder(tmp_path):
    """Write empty volumes of these names, with a description beside each that has one."""

    def write(**described):
        for name, said in described.items():
            (tmp_path / "nii").mkdir(exist_ok=True)
            (tmp_path / "nii" / f"{name}.nii.gz").write_bytes(b"")
            if said is not None:
                content = {"ConversionSoftware": "dcm2niix", "Modality": "MR"} | said
                (tmp_path / "nii" / f"{name}.json").write_text(json.dumps(content))
        return tmp_path / "nii"

    return write


def names_of(records):
    return sorted(record.path.name.removesuffix(".nii.gz") for record in records)


def test_magnitude_and_phase_are_not_mixed(folder):
    root = folder(
        swi_1={"ImageType": MAGNITUDE},
        swi_1_ph={"ImageType": PHASE},
        swi_2={"ImageType": MAGNITUDE},
        swi_2_ph={"ImageType": PHASE},
    )
    with pytest.raises(DataError, match=r"swi magnitude \(2\), swi phase \(2\); choose one with"):
        scan(root).training()
    assert names_of(scan(root, kind_normal=["magnitude"]).training()) == ["swi_1", "swi_2"]
    assert names_of(scan(root, kind_normal=["phase"]).training()) == ["swi_1_ph", "swi_2_ph"]


@pytest.mark.parametrize("end", ["ph", "real", "imaginary"])
def test_names_alone_tell_parts_apart(folder, end):
    root = folder(**{"a_3": None, f"a_3_{end}": None, "b_4": None})
    with pytest.raises(DataError, match="several kinds of images"):
        scan(root).training()
    assert names_of(scan(root, kind_normal=["magnitude"]).training()) == ["a_3", "b_4"]


def test_descriptions_alone_tell_parts_apart(folder):
    root = folder(a_3={"ImageType": MAGNITUDE}, a_4={"ImageType": PHASE})
    with pytest.raises(DataError, match=r"mr magnitude \(1\), mr phase \(1\)"):
        scan(root).training()


def test_echoes_are_not_mixed_and_one_part_of_one_echo_is_chosen_by_its_whole_name(folder):
    root = folder(
        gre_1_e1={"ImageType": MAGNITUDE, "EchoNumber": 1, "EchoTime": 0.005},
        gre_1_e2={"ImageType": MAGNITUDE, "EchoNumber": 2, "EchoTime": 0.010},
        gre_1_e2_ph={"ImageType": PHASE, "EchoNumber": 2, "EchoTime": 0.010},
    )
    with pytest.raises(DataError, match="--kind-normal 'mr e1 magnitude'"):
        scan(root).training()
    chosen = scan(root, kind_normal=["mr e2 magnitude"])
    assert names_of(chosen.training()) == ["gre_1_e2"]
    assert names_of(chosen.records) == ["gre_1_e2"]


def test_what_looks_like_an_echo_is_none_without_a_reason(folder):
    root = folder(patient_e1=None, other_e2=None)
    assert len(scan(root).training()) == 2
    root = folder(patient=None, patient_e2=None)
    with pytest.raises(DataError, match=r"e1 \(\d\), e2 \(1\)"):
        scan(root).training()


def test_name_and_description_that_contradict_each_other_are_a_doubt(folder):
    root = folder(a_3_ph={"ImageType": MAGNITUDE}, b_3_ph={"ImageType": PHASE})
    with pytest.raises(
        DataError, match=r"a_3_ph\.nii\.gz: the part is phase by its name, magnitude"
    ):
        scan(root).training()
    root = folder(c_e2={"EchoNumber": 1}, a_3_ph={"ImageType": PHASE})
    with pytest.raises(DataError, match="the echo is e2 by its name, e1 by its JSON file"):
        scan(root).training()


def test_localizers_derived_volumes_and_copies_are_passed_over(folder):
    root = folder(
        t1_4={"ImageType": MAGNITUDE, "SeriesDescription": "t1 mprage"},
        t1_4_Crop_1={"ImageType": MAGNITUDE, "SeriesDescription": "t1 mprage"},
        t1_5={"ImageType": MAGNITUDE, "SeriesDescription": "t1 mprage"},
        t1_5_ROI1={"ImageType": MAGNITUDE},
        AAHead_Scout_2=None,
        loc_1={"ImageType": MAGNITUDE, "SeriesDescription": "3Plane Loc"},
        t1_9={"ImageType": ["DERIVED", "PRIMARY", "MPR"], "SeriesDescription": "t1 mpr"},
        t1_head_7={"Modality": "CT"},
        t1_head_7_Eq_1={"Modality": "CT"},
        t1_head_8={"Modality": "CT"},
        t1_head_8_Tilt={"Modality": "CT"},
        t1_head_8_Tilt_Eq_1={"Modality": "CT"},
    )
    dataset = scan(root)
    assert names_of(dataset.training()) == ["t1_4", "t1_5", "t1_head_7_Eq_1", "t1_head_8_Tilt_Eq_1"]
    counts = reasons(dataset.passed_over)
    assert counts["localizers"] == 2
    assert counts["derived images beside original ones"] == 1
    assert counts[CROPPED] == 1
    assert counts[OVERLAYS] == 1
    assert counts[RESAMPLED_SOURCES] == 3
    assert counts[SIDECARS] == 11


def test_derived_volumes_alone_are_read(folder):
    said = {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}
    assert len(scan(folder(adc_1=said, adc_2=said)).training()) == 2


def test_patients_are_groups(folder):
    root = folder(
        a_1={"PatientID": "SECRET", "SeriesDescription": "t1"},
        a_2={"PatientID": "SECRET", "SeriesDescription": "t1"},
        b_1={"StudyInstanceUID": "1.2.3", "SeriesDescription": "t1"},
        c_3={"SeriesDescription": "t1"},
        c_3a={"SeriesDescription": "t1"},
        **{"sub-07_ses-1_T1w": None, "sub-07_ses-2_T1w": None},
    )
    groups = {}
    for record in scan(root).records:
        groups[record.path.name.removesuffix(".nii.gz")] = record.group
    assert groups["a_1"] == groups["a_2"] == pseudonym("", "SECRET")
    assert groups["b_1"] == pseudonym("", "1.2.3")
    assert {record.study for record in scan(root).records} == {
        "",
        pseudonym("", "1.2.3", prefix="study-"),
    }
    assert groups["c_3"] == groups["c_3a"] == "c_3"
    assert groups["sub-07_ses-1_T1w"] == groups["sub-07_ses-2_T1w"] == "sub-07"
    assert "SECRET" not in str(scan(root).records)


def test_parts_and_echoes_of_bids_are_told_by_their_names(tmp_path):
    place = tmp_path / "sub-01/anat"
    place.mkdir(parents=True)
    for name in ("echo-1_part-mag", "echo-1_part-phase", "echo-2_part-mag"):
        (place / f"sub-01_{name}_MEGRE.nii.gz").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"megre e1 magnitude \(1\), megre e1 phase \(1\), megre e2"
    ):
        scan(tmp_path).training()


def test_b_values_name_the_volumes_of_a_file(tmp_path):
    stored = np.arange(5 * 12**3, dtype=np.int16).reshape(12, 12, 12, 5)
    nib.save(nib.Nifti1Image(stored, np.eye(4)), tmp_path / "dwi_4.nii.gz")
    beside = tmp_path / "dwi_4.bval"
    beside.write_text("0 1000 5.0001\t1000 1000\n")
    (record,) = scan(tmp_path).records
    named = "'b 0', 'b 1000 1', 'b 5', 'b 1000 2', 'b 1000 3'"
    assert f"5 volumes in one file: {named}; choose one: --select NAME" in load(record).error

    for number, name in enumerate(("b 0", "B 1000 1", "b 5", "b 1000 2", "b  1000 3")):
        for component in (name, number):
            chosen = load(replace(record, component=component))
            assert np.array_equal(chosen.volume.source.voxels[0], stored[..., number])
    reading = PreprocessConfig(component="b 5")
    assert np.array_equal(
        load(record, Preprocess(reading)).volume.source.voxels[0], stored[..., 2]
    )  # what a run remembers
    said = f"no component 'b 700' in a file of 5 volumes: {named}"
    assert said in load(replace(record, component="b 700")).error

    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,component\ndwi_4.nii.gz,b 1000 2\n")
    (listed,) = scan(tmp_path).records
    assert np.array_equal(load(listed).volume.source.voxels[0], stored[..., 3])
    manifest.write_text("path,component\ndwi_4.nii.gz,b 700\n")
    with pytest.raises(DataError, match="component 'b 700' is none of b 0, b 1000 1"):
        scan(tmp_path)

    beside.write_text("0 1000")
    assert "2 b-values beside a file of 5 volumes" in load(record).error
    assert isinstance(load(replace(record, component=1)), LoadedVolume)
    for other in ("", "no numbers", "\xff"):
        beside.write_text(other, "latin-1")
        assert "5 volumes in one file; choose one: --select 0" in load(record).error
        assert "names come from a .bval file" in load(replace(record, component="b 0")).error


def test_a_b_value_of_one_volume_is_no_choice(tmp_path):
    stored = np.arange(9**3, dtype=np.int16).reshape(9, 9, 9)
    nib.save(nib.Nifti1Image(stored, np.eye(4)), tmp_path / "a_1.nii.gz")
    (tmp_path / "a_1.bval").write_text("0 1000")
    (record,) = scan(tmp_path).records
    assert isinstance(load(record), LoadedVolume)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"imagePath": "a.nii"}', "[" * 10**5])
def test_other_json_files_describe_nothing(folder, text):
    root = folder(a_3=None, b_3=None)
    (root / "a_3.json").write_text(text)
    assert len(scan(root).training()) == 2


def test_a_part_that_was_not_seen_is_worth_a_word(folder, tmp_path):
    root = folder(a_3_ph={"ImageType": PHASE})
    values = np.random.default_rng(0).random((12, 12, 12), np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), root / "a_3_ph.nii.gz")
    (record,) = scan(root).records
    assert facts_of(load(record)).description == "phase"
