"""Several volumes in one DICOM series, one volume in several files or folders: told apart by what
headers say, never by chance."""

import json
import shutil

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from test_dicom import AFFINE, instance, multiframe, voxels, write_series
from test_volumes import rotation

from anodetect.cli import main
from anodetect.data import dicom_head, scan
from anodetect.data.records import Record
from anodetect.data.series import series_of
from anodetect.model.loading import Failed, LoadedVolume, load
from anodetect.output.about import About
from anodetect.output.formats import write_files
from anodetect.output.volumes import VolumeMap
from anodetect.stats.mask_rule import pixel_rule

ABOUT = About("patient-1", "0" * 64)

ORDERS = {"by time": lambda time, place: time * 9 + place, "by place": lambda t, p: p * 3 + t}


def read(folder, component=None):
    (record,) = scan.scan(folder).records
    return load(record if component is None else Record(**_with(record, component)))


def _with(record, component):
    fields = {name: getattr(record, name) for name in Record.__slots__}
    return fields | {"component": component}


def voxels_of(loaded):
    assert isinstance(loaded, LoadedVolume), loaded.error
    return loaded.volume.source.voxels[0]


def write_times(folder, tags, order="by time", count=3):
    """Write volumes that differ in tags, at the same places and in one series; return them."""
    arrays = [voxels() + 100 * number for number in range(count)]
    folder.mkdir(parents=True)
    for time, array in enumerate(arrays):
        for place, stored in enumerate(array):
            made = instance(stored, number=place, **tags(time))
            made.InstanceNumber = ORDERS[order](time, place) + 1
            made.save_as(folder / f"IM{made.InstanceNumber:03}", enforce_file_format=True)
    return arrays


TAGS = {
    "echo": (lambda n: {"EchoTime": 10.0 * (n + 1)}, "echo 20 ms"),
    "b": (lambda n: {"DiffusionBValue": 500.0 * n}, "b 500"),
    "time": (lambda n: {"TemporalPositionIdentifier": n + 1}, "time 2"),
    "acquisition": (lambda n: {"AcquisitionNumber": n + 4}, "acquisition 5"),
    "repetition": (lambda n: {}, "repetition 2"),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", TAGS)
def test_volumes_of_a_series_are_chosen_by_what_they_differ_in(tmp_path, name, order):
    tags, second = TAGS[name]
    arrays = write_times(tmp_path / "s", tags, order)
    failed = read(tmp_path)
    assert isinstance(failed, Failed)
    assert "3 volumes in one series" in failed.error and repr(second) in failed.error
    assert np.array_equal(voxels_of(read(tmp_path, second)), arrays[1])
    assert np.array_equal(voxels_of(read(tmp_path, second.upper())), arrays[1])
    for number, array in enumerate(arrays):
        assert np.array_equal(voxels_of(read(tmp_path, number)), array)
    assert "no component 'no such' in a series of 3" in read(tmp_path, "no such").error
    assert "no component 3" in read(tmp_path, 3).error


@pytest.mark.parametrize(("select", "problem"), [("echo 20 ms", ""), ("2", ""), ("x", "no comp")])
def test_the_command_line_selects_a_volume(tmp_path, monkeypatch, capsys, select, problem):
    write_times(tmp_path / "s", TAGS["echo"][0])
    argv = ["anodetect", "data", "inspect", str(tmp_path), "--select", select, "--json"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit):
        main()
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert problem in row["problem"]
    assert bool(row["problem"]) == bool(problem)


def test_magnitude_and_phase_are_told_apart_by_the_image_type(tmp_path):
    def tags(number):
        return {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[number], "ND"]}

    arrays = write_times(tmp_path / "s", tags, count=2)
    assert np.array_equal(voxels_of(read(tmp_path, "magnitude")), arrays[0])
    assert np.array_equal(voxels_of(read(tmp_path, "phase")), arrays[1])


def test_what_two_attributes_tell_apart_has_both_in_its_name(tmp_path):
    def tags(number):
        return {
            "DiffusionBValue": 1000.0,
            "DiffusionGradientOrientation": np.eye(3)[number].tolist(),
        }

    folder = tmp_path / "s"
    arrays = write_times(folder, tags)
    unweighted = voxels() - 50
    for place, stored in enumerate(unweighted):
        made = instance(stored, number=place, DiffusionBValue=0.0)
        made.save_as(folder / f"B0{place}", enforce_file_format=True)
    assert np.array_equal(voxels_of(read(tmp_path, "b 0")), unweighted)
    assert np.array_equal(voxels_of(read(tmp_path, "b 1000 direction 0 1 0")), arrays[1])


def test_an_attribute_that_changes_from_slice_to_slice_divides_nothing(tmp_path):
    array = voxels()

    def change(number, made):
        made.AcquisitionNumber, made.EchoTime = number + 1, 10 + number / 1000

    write_series(tmp_path / "s", array, change=change)
    assert np.array_equal(voxels_of(read(tmp_path)), array)


def test_planes_of_one_series_are_volumes_of_their_own(tmp_path):
    axial, coronal = voxels(), voxels()
    turned = AFFINE @ np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    write_series(tmp_path / "s", axial)
    for number, stored in enumerate(coronal):
        made = instance(stored, affine=turned, number=number)
        made.save_as(tmp_path / "s" / f"Z{number}", enforce_file_format=True)
    failed = read(tmp_path)
    assert "2 volumes in one series" in failed.error
    assert np.array_equal(voxels_of(read(tmp_path, 0)), axial)
    assert not np.array_equal(voxels_of(read(tmp_path, 1)), axial)


def test_a_localizer_in_a_series_is_left_out(tmp_path):
    array = voxels()
    write_series(tmp_path / "s", array)
    turned = AFFINE @ np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    made = instance(array[0], affine=turned, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    made.save_as(tmp_path / "s/ZZ", enforce_file_format=True)
    assert np.array_equal(voxels_of(read(tmp_path)), array)
    files = tuple(sorted((tmp_path / "s").iterdir()))  # as a manifest may list them
    assert np.array_equal(voxels_of(load(Record("s", files[0], files=files))), array)


TURNED = AFFINE @ np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
OBLIQUE = np.diag([1, 1, 1, 1.0])
OBLIQUE[:3, :3] = rotation([0.3, 0, 0])


@pytest.mark.parametrize("strays", [1, 3])
def test_a_single_slice_in_another_plane_is_left_out_and_counted(tmp_path, strays):
    array = voxels()
    write_series(tmp_path / "s", array)
    for number, affine in enumerate((OBLIQUE @ AFFINE, TURNED, OBLIQUE @ TURNED)[:strays]):
        made = instance(array[0], affine=affine)
        made.save_as(tmp_path / "s" / f"A{number}", enforce_file_format=True)
    (passed,) = scan.scan(tmp_path).passed_over
    assert (passed.count, passed.reason) == (strays, dicom_head.STRAYS)
    assert np.array_equal(voxels_of(read(tmp_path)), array)
    files = tuple(sorted((tmp_path / "s").iterdir()))  # as a manifest may list them
    assert np.array_equal(voxels_of(load(Record("s", files[0], files=files))), array)


def test_few_slices_in_different_planes_are_no_strays(tmp_path):
    array = voxels()[:5]
    write_series(tmp_path / "s", array)
    instance(array[0], affine=TURNED).save_as(tmp_path / "s/ZZ", enforce_file_format=True)
    assert "2 volumes in one series" in read(tmp_path).error
    assert not scan.scan(tmp_path).passed_over


def test_a_rotating_projection_is_no_volume_and_is_called_so(tmp_path):
    stored = voxels()[0]
    (tmp_path / "s").mkdir()
    for number in range(12):
        turn = np.eye(4)
        turn[:3, :3] = rotation([0, 0, np.pi * number / 12])
        made = instance(stored, affine=turn @ AFFINE)
        made.save_as(tmp_path / "s" / f"{number:02}", enforce_file_format=True)
    failed = read(tmp_path)
    assert "12 images in one series, each in a plane of its own, are no volume" in failed.error
    assert "--frames" not in failed.error  # they are not frames of one file


def test_times_of_a_single_slice_are_chosen_by_name(tmp_path):
    stored = voxels()[:4]
    for number, plane in enumerate(stored):
        made = instance(plane, number=0, TriggerTime=40 * number)
        made.InstanceNumber = number + 1
        made.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    assert "4 volumes in one series: 'trigger 0 ms', 'trigger 40 ms'" in read(tmp_path).error
    assert np.array_equal(voxels_of(read(tmp_path, "trigger 80 ms")), stored[2:3])


def write_between(folder, places, tags):
    """Two volumes in one series whose slices lie at these places, counted in slices of the first;
    return them."""
    arrays = []
    folder.mkdir(parents=True)
    for which, own in enumerate(places):
        arrays.append(voxels((len(own), 12, 14)))
        for number, place in enumerate(own):
            moved = AFFINE.copy()
            moved[:3, 3] += place * AFFINE[:3, 0]
            made = instance(arrays[-1][number], affine=moved, **tags(which))
            made.InstanceNumber = number + 1
            made.save_as(folder / f"IM{which}{number:02}", enforce_file_format=True)
    return arrays


def acquisitions(which):
    return {"AcquisitionNumber": which + 4}


SLICES = np.arange(9.0)
KINDS_BETWEEN = {
    "acquisition 5": acquisitions,
    "kernel B70f": lambda which: {"ConvolutionKernel": ["B30f", "B70f"][which]},
    "time 2": lambda which: {"TemporalPositionIdentifier": which + 1},
}


@pytest.mark.parametrize("name", KINDS_BETWEEN)
@pytest.mark.parametrize("shift", [0.1, 0.3, 0.8, 2.3])
def test_volumes_that_lie_between_each_others_slices_are_told_apart(tmp_path, name, shift):
    arrays = write_between(tmp_path / "s", (SLICES, SLICES + shift), KINDS_BETWEEN[name])
    failed = read(tmp_path)
    assert isinstance(failed, Failed)
    assert "2 volumes in one series" in failed.error and repr(name) in failed.error
    chosen = read(tmp_path, name)
    assert np.array_equal(voxels_of(chosen), arrays[1])
    assert chosen.volume.source.unevenness == ""


ONE_VOLUME = {
    "two packages": (2 * SLICES, 2 * SLICES + 1),
    "two packages, a slice is missing": (2 * SLICES, 2 * np.delete(SLICES, 7) + 1),
    "one behind the other": (SLICES, SLICES + 9.4),
    "overlapping a little": (SLICES, SLICES + 7.4),
    "overlapping by a third": (SLICES, SLICES + 5.4),
}


@pytest.mark.parametrize("name", ONE_VOLUME)
def test_acquisitions_that_make_up_one_volume_stay_together(tmp_path, name):
    arrays = write_between(tmp_path / "s", ONE_VOLUME[name], acquisitions)
    order = np.argsort(np.concatenate(ONE_VOLUME[name]))
    assert np.array_equal(voxels_of(read(tmp_path)), np.concatenate(arrays)[order])


def test_slices_that_nothing_tells_apart_are_said_to_lie_by_turns(tmp_path):
    write_between(tmp_path / "s", (SLICES, SLICES + 0.3), lambda which: {})
    assert read(tmp_path).volume.source.unevenness == (
        "slices lie by turns 0.9 and 2.1 mm apart: perhaps those of one volume between those of "
        "another"
    )


def test_images_that_all_lie_at_one_place_are_no_volume(tmp_path):
    arrays = write_between(tmp_path / "s", ([0.0] * 9,), lambda which: {})
    failed = read(tmp_path)
    assert "9 volumes in one series: 'repetition 1', 'repetition 2'" in failed.error
    assert "…, all at one place; choose one: --select NAME" in failed.error
    assert failed.error.endswith("are slices of a volume, correct ImagePositionPatient")
    (found,) = arrays
    assert np.array_equal(voxels_of(read(tmp_path, "repetition 3")), found[2:3])


def test_second_copies_of_an_image_are_dropped_and_counted(tmp_path):
    array = voxels()
    write_series(tmp_path / "s", array)
    for name in ("IM003", "IM004"):
        shutil.copy(tmp_path / "s" / name, tmp_path / "s" / f"{name} (1)")
    found = scan.scan(tmp_path)
    assert np.array_equal(voxels_of(read(tmp_path)), array)
    (passed,) = found.passed_over
    assert (passed.count, passed.reason) == (2, dicom_head.COPIES)
    assert len(series_of(tmp_path / "s/IM000")) == len(array)


def test_a_series_in_two_folders_is_one_volume(tmp_path):
    array = voxels()
    whole = write_series(tmp_path / "whole", array)
    for number, file in enumerate(sorted(whole.iterdir())):
        target = tmp_path / "in/patient" / ("A" if number < 4 else "B")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    assert np.array_equal(voxels_of(read(tmp_path / "in")), array)
    (record,) = scan.scan(tmp_path / "in").records
    assert series_of(record.path, root=tmp_path / "in") == record.files


def test_folders_whose_names_say_what_is_in_them_are_not_joined(tmp_path):
    array = voxels()
    whole = sorted(write_series(tmp_path / "whole", array).iterdir())
    for number, file in enumerate(whole):
        target = tmp_path / "in/test" / ("good" if number < 4 else "bad")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    assert sorted(len(record.files) for record in scan.scan(tmp_path / "in").records) == [4, 5]


# -- Multi-frame files -----------------------------------------------------------------------------


def of_times(arrays, attribute):
    """A multi-frame image of several volumes, frame after frame of all places."""
    order = np.tile(np.arange(len(arrays[0])), len(arrays))
    made = multiframe(np.concatenate(arrays), order)
    made.NumberOfFrames = len(order)
    made.PixelData = np.concatenate(arrays).astype("<i2").tobytes()
    for number, group in enumerate(made.PerFrameFunctionalGroupsSequence):
        group.PixelValueTransformationSequence[0].RescaleSlope = 1
        content, time = Dataset(), number // len(arrays[0])
        if attribute == "DiffusionBValue":
            content.DiffusionBValue = 500.0 * time
            group.MRDiffusionSequence = Sequence([content])
        else:
            content.TemporalPositionIndex = time + 1
            group.FrameContentSequence = Sequence([content])
    return made


@pytest.mark.parametrize(
    ("attribute", "name"), [("TemporalPositionIndex", "time 2"), ("DiffusionBValue", "b 500")]
)
def test_volumes_of_a_multiframe_file_are_chosen_by_name(tmp_path, attribute, name):
    arrays = [voxels(), voxels() + 50]
    of_times(arrays, attribute).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "2 volumes in one series" in read(tmp_path).error
    assert np.array_equal(voxels_of(read(tmp_path, name)), arrays[1])


def one_frame_files(array, folder):
    for number in range(len(array)):
        made = multiframe(array[number : number + 1], np.arange(1))
        group = made.PerFrameFunctionalGroupsSequence[0]
        position = instance(array[0], number=number).ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = position
        made.InstanceNumber = number + 1
        made.save_as(folder / f"{9 - number}.dcm", enforce_file_format=True)


def concatenation(array, folder):
    for part, rows in enumerate((slice(0, 4), slice(4, 9))):
        numbers = np.arange(9)[rows]
        made = multiframe(array[rows], np.arange(len(numbers)))
        for number, group in zip(numbers, made.PerFrameFunctionalGroupsSequence, strict=True):
            position = instance(array[0], number=int(number)).ImagePositionPatient
            group.PlanePositionSequence[0].ImagePositionPatient = position
            group.PixelValueTransformationSequence[0].RescaleSlope = 1
        made.ConcatenationUID, made.InConcatenationNumber = "1.2.3.9", part + 1
        made.save_as(folder / f"{part}.dcm", enforce_file_format=True)


@pytest.mark.parametrize("write", [one_frame_files, concatenation])
def test_several_multiframe_files_of_one_series_are_one_volume(tmp_path, write):
    array = voxels()
    write(array, tmp_path)
    loaded = read(tmp_path)
    assert np.array_equal(voxels_of(loaded), array)
    assert np.allclose(loaded.volume.geometry.affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize("write", [one_frame_files, concatenation, None])
def test_maps_of_such_series_refer_to_the_frames_they_were_made_of(tmp_path, write):
    array = voxels()
    (tmp_path / "s").mkdir()
    if write:
        write(array, tmp_path / "s")
        volume, second = read(tmp_path / "s").volume, array
    else:  # the second volume of a file of two
        second = voxels() + 50
        of_times([array, second], "").save_as(tmp_path / "s/a.dcm", enforce_file_format=True)
        volume = read(tmp_path / "s", "time 2").volume
    assert np.array_equal(volume.source.voxels[0], second)

    heatmap = np.random.default_rng(0).uniform(0, 1, volume.geometry.sides).astype(np.float32)
    stem = tmp_path / "map"
    shown = VolumeMap(heatmap, volume, (0, 1), pixel_rule(0.9), about=ABOUT)
    write_files(stem, ["dicom"], "volume", shown)
    found = pydicom.dcmread(f"{stem}_heatmap.dcm")
    sources = {}
    for file in (tmp_path / "s").iterdir():
        made = pydicom.dcmread(file)
        sources[made.SOPInstanceUID] = made

    expected = volume.geometry.to_source(heatmap)
    along = AFFINE[:3, 0] / np.linalg.norm(AFFINE[:3, 0]) ** 2
    groups = found.PerFrameFunctionalGroupsSequence
    for frame, group in zip(found.pixel_array, groups, strict=True):
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        number = round(float((place - AFFINE[:3, 3]) @ along))
        assert np.array_equal(frame, expected[number])

        referred = group.DerivationImageSequence[0].SourceImageSequence[0]
        source = sources[referred.ReferencedSOPInstanceUID]
        assert referred.ReferencedSOPClassUID == source.SOPClassUID
        shown = source.pixel_array.reshape(-1, *array.shape[1:])[referred.ReferencedFrameNumber - 1]
        assert np.array_equal(shown, second[number])
    (series,) = found.ReferencedSeriesSequence
    listed = [each.ReferencedSOPInstanceUID for each in series.ReferencedInstanceSequence]
    assert sorted(listed) == sorted(sources)


@pytest.mark.parametrize("shift", [0, 0.4])
@pytest.mark.parametrize("order", ORDERS)
def test_images_of_other_sizes_are_another_volume_named_by_it(tmp_path, order, shift):
    """As dcm2niix has it, whether they lie at the same places or not."""
    small = voxels((9, 6, 14))
    large = write_times(tmp_path / "s", TAGS["echo"][0], order, count=2)
    affine = AFFINE.copy()
    affine[:3, 3] += shift * AFFINE[:3, 0]
    for place, stored in enumerate(small):
        made = instance(stored, affine, place)
        made.save_as(tmp_path / f"s/A{place}", enforce_file_format=True)
    assert (
        "3 volumes in one series: 'size 14x6', 'size 14x12 echo 10 ms', 'size 14x12 echo 20 ms'"
    ) in read(tmp_path).error
    assert np.array_equal(voxels_of(read(tmp_path, "size 14x6")), small)
    assert np.array_equal(voxels_of(read(tmp_path, "size 14x12 echo 20 ms")), large[1])
    assert np.array_equal(voxels_of(read(tmp_path, 1)), large[0])


def test_images_of_other_pixel_spacings_are_another_volume_named_by_it(tmp_path):
    arrays = write_times(
        tmp_path / "s", lambda number: {"PixelSpacing": [0.7, 0.8 * (1 + number)]}, count=2
    )
    assert "'pixels 0.8x0.7 mm', 'pixels 1.6x0.7 mm'" in read(tmp_path).error
    assert np.array_equal(voxels_of(read(tmp_path, "pixels 1.6x0.7 mm")), arrays[1])
