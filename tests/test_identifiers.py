"""DICOM maps that keep what identifies the patient: names in any letters, dates and times as
scanners write them."""

import numpy as np
import pydicom
import pytest
from test_dicom import own_key, voxels, write_series

from anodetect.data import scan
from anodetect.data.series import identified
from anodetect.model.loading import load
from anodetect.output.about import About
from anodetect.output.formats import write_files
from anodetect.output.volumes import VolumeMap
from anodetect.stats.mask_rule import pixel_rule

pytest.importorskip("highdicom")
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:pydicom.*", "ignore::UserWarning:highdicom.*"
)
assert own_key  # a fixture for all tests of this module

NAMES = {
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "山田1"),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "h1"),
    "Russian": ("ISO_IR 144", "Иванов^Иван", "ИВ-1"),
    "Chinese": ("GB18030", "王^小明", "王1"),
    "any": ("ISO_IR 192", "Ωμέγα^王", "Ω1"),
    "German": ("ISO_IR 100", "Müller^Jörg", "Mü1"),
}
# What a scanner wrote, and what a map says, "" where that is no date or time.
ODD = {
    ("StudyTime", "10"): "10",
    ("StudyTime", "10:11:12"): "101112",
    ("StudyTime", "101112.1234567"): "101112.123456",
    ("StudyTime", "240000"): "",
    ("StudyTime", "noon"): "",
    ("StudyTime", ""): "",
    ("StudyDate", "2019.08.07"): "20190807",
    ("StudyDate", "20190231"): "",
    ("StudyDate", "201908"): "",
    ("PatientBirthDate", "1961"): "",
    ("PatientSex", "X"): "",
    ("PatientSex", "f"): "",
    ("PatientSex", "O"): "O",
}


def maps(tmp_path, **tags):
    """Return the record and the maps of a series with these attributes; nothing is a pseudonym."""
    write_series(tmp_path / "s", voxels()[:5], **tags)
    (record,) = scan.scan(tmp_path).records
    volume = load(record).volume
    heatmap = np.zeros(volume.geometry.sides, np.float32)
    heatmap[2, 4:8, 4:8] = 1
    shown = VolumeMap(heatmap, volume, (0, 1), pixel_rule(0.9), about=About("", "0" * 64))
    write_files(tmp_path / "m", ["dicom"], "volume", shown)
    found = [pydicom.dcmread(path) for path in sorted(tmp_path.glob("m*.dcm"))]
    assert len(found) == 3
    return identified(record), found


@pytest.mark.parametrize("letters", NAMES)
def test_names_keep_their_letters(tmp_path, letters):
    charset, name, identity = NAMES[letters]
    tags = {"SpecificCharacterSet": charset, "PatientName": name, "PatientID": identity}
    record, found = maps(tmp_path, **tags)
    assert record.group == identity
    for dataset in found:
        assert str(dataset.PatientName) == name
        assert dataset.PatientID == identity


@pytest.mark.parametrize(("tag", "value"), ODD)
def test_odd_dates_and_times_are_written_as_they_should_be_or_left_out(tmp_path, tag, value):
    _, found = maps(tmp_path, **{tag: value})
    for dataset in found:
        assert str(dataset.get(tag) or "") == ODD[tag, value]
        assert dataset.PatientID == "TAGGED-4711"
