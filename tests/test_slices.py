"""Volumes in the viewer: slices of three planes, their description, and verdicts on them."""

import json
from dataclasses import asdict, replace

import nibabel
import numpy as np
import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import score_volumes
import test_dicom
from test_viewer import reviewing

from anodetect.data import readers
from anodetect.data.geometry import along
from anodetect.data.volumes import Volume
from anodetect.errors import RunError
from anodetect.record import directories
from apps.review import display, loading, receipts, routes, slices, tickets, tiles, viewing


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return directories.read(score_volumes.write(tmp_path_factory.mktemp("volumes")))


def ticket_of(directory, number=0, hidden=False):
    return tickets.OFFICE.ticket(directory, directory.rows[number], hidden=hidden)


@pytest.fixture(scope="module")
def volume(directory):
    return tickets.OFFICE.volume(ticket_of(directory))


def as_radiologists_see(array):
    """The planes [D, H, W] of an array of the source, through nibabel's own reorientation."""
    picture = nibabel.Nifti1Image(array, score_volumes.AFFINE)
    start = nibabel.io_orientation(score_volumes.AFFINE)
    planes = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
    for name, letters in planes.items():
        end = nibabel.orientations.axcodes2ornt(letters)
        turned = picture.as_reoriented(nibabel.orientations.ornt_transform(start, end))
        yield name, np.asarray(turned.dataobj)


def test_slices_are_those_of_the_file_bit_for_bit_in_each_plane(directory, volume):
    voxels = score_volumes.voxels_of(0)
    for plane, expected in as_radiologists_see(voxels):
        for number in (0, 3, len(expected) - 1):
            found = np.frombuffer(volume.values("image", plane, number), "<i2")
            assert np.array_equal(found.reshape(expected.shape[1:]), expected[number]), plane
    for plane, expected in as_radiologists_see(score_volumes.heatmap_of(0)):
        found = np.frombuffer(volume.values("heatmap", plane, 6), "<f4")
        assert np.array_equal(found.reshape(expected.shape[1:]), expected[6]), plane
    assert volume.layers["image"].dtype == np.int16  # half of the bytes of floats


@pytest.mark.parametrize(
    "layer, plane, number",
    [("image", "axial", 14), ("image", "axial", -1), ("image", "frames", 0), ("mask", "axial", 0)],
)
def test_there_is_no_other_slice(volume, layer, plane, number):
    with pytest.raises(RunError, match="there is no such"):
        volume.values(layer, plane, number)


def test_a_description_says_where_voxels_lie(directory, volume):
    text = json.loads(json.dumps(asdict(routes.describe(ticket_of(directory))), allow_nan=False))
    grid = text["volume"]
    assert [plane["name"] for plane in grid["planes"]] == ["axial", "coronal", "sagittal"]
    assert grid["planes"][0] == {
        "name": "axial",
        "axes": [2, 1, 0],
        "flipped": [False, True, False],
        "edges": ["R", "L", "A", "P"],
    }
    index = np.array([12, 9, 5])
    x, y, z = np.array(grid["origin"]) + index @ np.array(grid["steps"])
    # NIfTI has millimetres to the right and to the front.
    assert (-x, -y, z) == tuple(score_volumes.AFFINE[:3] @ [*index, 1])
    assert (grid["spacing"], grid["places"]) == ([1, 2, 5], None)
    assert text["layers"]["image"] == {"kind": "<i2", "channels": 1, "height": 32, "width": 48}
    assert (text["height"], text["width"], text["outlines"]) == (32, 48, ["contours"])


def test_the_profile_begins_at_the_highest_slice_and_says_what_was_not_scored(volume):
    profile = volume.profile
    assert volume.start == int(np.nanargmax(np.array(profile.scores, float))) == 5
    assert profile.scores[-1] is None and "foreground" in profile.unscored[-1]
    assert profile.marked == (4, 5, 6) and profile.threshold == 0.5
    assert profile.found.startswith("3 of 14 slices flagged: 5–7 · regions of the heatmap")
    assert profile.found.endswith("on slices 5–7")


def test_a_hidden_volume_shows_its_middle_slice_and_nothing_that_tells(directory):
    text = routes.describe(ticket_of(directory, hidden=True))
    assert list(text.layers) == ["image"] and text.outlines == [] and text.notes == []
    assert text.volume.start == 7 and text.volume.profile is None
    hidden = tickets.OFFICE.volume(ticket_of(directory, hidden=True))
    with pytest.raises(RunError, match="no such layer"):
        hidden.values("heatmap", "axial", 0)


def test_outlines_of_a_slice_lie_around_its_regions(volume):
    (line,) = volume.outline("contours", "axial", 5)
    points = np.reshape(line, (-1, 2))
    # Voxels 10–15 of 48 columns; 8–13 of 32 rows, which run the other way.
    assert points.min(0).tolist() == [10, 18] and points.max(0).tolist() == [16, 24]
    assert volume.outline("contours", "axial", 9) == []


def test_windows_are_those_of_the_volume_and_not_of_a_slice(directory, volume):
    voxels = score_volumes.voxels_of(0)
    assert volume.windows["full range"] == (voxels.min(), voxels.max())
    assert volume.windows["stroke"] == (20, 60) and volume.windows["subdural"] == (-20, 180)
    low, high = np.percentile(voxels, (1, 99.5))
    assert np.allclose(volume.windows["auto"], (low, high), atol=60)
    case = loading.load_volume(directory, directory.rows[0], "axial")
    dark, bright = display.slice_view(case, 0), display.slice_view(case, 5)
    assert dark.windows == bright.windows == volume.windows  # the page without the viewer
    mr = np.linspace(0, 900, 4 * 32 * 32, dtype=np.float32).reshape(1, 4, 32, 32)
    assert set(display.windows(mr, stated=(10, 90))) == {"auto", "full range", display.STATED}
    assert display.windows(mr)["auto"][1] > 890  # a slice of it ends at 225
    assert "lung" in display.windows(mr, is_ct=True)


@pytest.mark.parametrize("is_image", [True, False])
def test_the_files_own_window_is_that_of_the_dicom_header(
    is_image, directory, tmp_path, monkeypatch
):
    """Centre 300 and width 401 go from 99.5 to 499.5 (PS3.3, C.11.2.1.2.1)."""
    array, modality = test_dicom.voxels(), "DX" if is_image else "MR"

    def take_its_place(_, made):
        if is_image:
            del made.ImagePositionPatient, made.ImageOrientationPatient

    test_dicom.write_series(
        tmp_path,
        array[: 1 if is_image else None],
        change=take_its_place,
        WindowCenter=300,
        WindowWidth=401,
        Modality=modality,
    )
    files = tuple(sorted(tmp_path.iterdir()))
    record = readers.Record("a", files[0], files=() if is_image else files)
    monkeypatch.setattr(loading, "_source", lambda *_: readers.read_source(record))
    monkeypatch.setattr(loading, "_manifest_row", lambda *_: {})

    if is_image:
        found = tiles.tiled(loading.load(directory, directory.rows[0]), hidden=True)
    else:
        found = loading.load_volume(directory, directory.rows[0], "axial")
    assert found.windows[display.STATED] == (99.5, 499.5)


def test_pictures_without_a_place_in_the_patient_are_shown_one_by_one(directory):
    grid = along((5, 9, 8), np.eye(4), "frames")
    frames = np.arange(360, dtype=np.float32).reshape(1, 5, 9, 8)
    rows = score_volumes.slice_rows("a", grid)
    found = slices.sliced(
        display.VolumeCase(grid, frames, None, None, None, ()),
        directory.rows[0],
        rows,
        hidden=False,
    )
    assert list(found.geometries) == ["frames"]
    assert np.frombuffer(found.values("image", "frames", 2), "<u2").tolist() == [*range(144, 216)]
    (text,) = slices.describe(found).planes
    assert text.edges == ("", "", "", "")
    (place,) = slices.painted(found, ["frames 3", "frames 5"])
    assert (place.frame, place.slice) == (3, None)


def test_slices_that_are_shifted_make_up_no_other_plane(directory):
    row, case = directories.read(directory.path).rows[0], None
    case = loading.load_volume(directory, row, "axial")
    places = np.zeros((48, 3))
    places[:, 0], places[::2, 1] = np.arange(48), 3
    shifted = replace(case, geometry=replace(case.geometry, places=places))
    found = slices.sliced(shifted, row, tickets.recorded_slices(directory, row.path), hidden=False)
    assert list(found.geometries) == ["axial"]


def test_a_volume_without_slices_on_record_says_so(directory, monkeypatch):
    monkeypatch.setattr(tickets, "recorded_slices", lambda directory, path: ())
    found = tickets._case_of(tickets.OFFICE.find(ticket_of(directory, 1)))
    assert found.layers == {} and "score it again" in found.notes[0]
    assert routes.describe(ticket_of(directory)).volume is not None
    assert isinstance(loading.read_volume(directory, directory.rows[1]), Volume)


# -- Verdicts --------------------------------------------------------------------------------------


@pytest.fixture
def review(directory, tmp_path, monkeypatch):
    with reviewing(directory, tmp_path, monkeypatch) as (found, _):
        yield found


def judge(review, **changes):
    ticket = ticket_of(review.directory)
    number = len(receipts._done_of(review))
    fields = {"id": f"v{number}", "ticket": ticket, "verdict": "anomalous", "painted": ticket}
    message = viewing.message_of({"seq": 1, "open": "", "verdicts": [fields | changes]})
    viewing._receive(review, list(review.scores.by_path), False, message)
    return receipts._done_of(review)[fields["id"]].receipt


def test_a_verdict_says_which_slices_were_on_the_screen(review):
    places = ["axial 5", "axial 6", "axial 3", "coronal 31", "axial 14", "frames 2", "nonsense"]
    receipt = judge(review, places=places, region="axial 5: 10,8,6,6")
    assert not receipt.problem
    (kept,) = review.store.read()
    assert kept.shown == "axial 3,5-6; coronal 31"
    assert kept.region == "axial 5: 10,8,6,6"
    # The corners of its voxels, half a voxel before and after their middles.
    expected = set()
    for i, j in ((9.5, 7.5), (15.5, 7.5), (15.5, 13.5), (9.5, 13.5)):
        right, front, up = score_volumes.AFFINE[:3] @ [i, j, 5, 1]
        expected.add((-right, -front, up))
    corners = [tuple(map(float, corner.split(","))) for corner in kept.region_mm.split(" ")]
    assert set(corners) == expected


def test_a_region_can_lie_in_any_plane(review):
    judge(review, places=["axial 5"], region="coronal 31: 40,0,8,14; sagittal 47: 0,0 32,0 32,14")
    (kept,) = review.store.read()
    assert kept.region == "coronal 31: 40,0,8,14; sagittal 47: 0,0 32,0 32,14"
    one, other = kept.region_mm.split("; ")
    # Row 31 of the source is 32 mm to the front, column 47 is 37 mm to the left.
    assert {corner.split(",")[1] for corner in one.split(" ")} == {"-32"}
    assert {corner.split(",")[0] for corner in other.split(" ")} == {"37"}
    for region in ("frames 3: 0,0,1,1", "0,0,1,1", "coronal 32: 0,0,1,1"):
        assert judge(review, places=["axial 5"], region=region).problem


def test_a_volume_of_which_no_slice_was_painted_is_not_judged(review):
    for changes in ({}, {"places": ["axial 5"], "painted": ""}, {"places": ["axial 99"]}):
        assert "not on the screen" in judge(review, **changes).text
    assert review.store.read() == []
    outside = judge(review, places=["axial 5"], region="axial 5: 40,8,60,6")
    assert outside.problem and "not lie within" in outside.text
