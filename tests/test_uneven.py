"""Slices at uneven distances, with gaps, shifted or sheared: scored where they lie, and maps that
other programs open."""

from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
import tifffile
from pydicom.uid import generate_uid
from test_dicom import AFFINE, instance, places, read, series, write_patient
from test_volumes import head

import anodetect
from anodetect.commands import inspect as command
from anodetect.commands.normals import usable_normals
from anodetect.commands.rescore import rescore
from anodetect.data import uneven
from anodetect.data.dicom_seg import marked_voxels
from anodetect.data.geometry import FLIP_XY
from anodetect.data.readers import volume_mask
from anodetect.data.scan import scan
from anodetect.data.volumes import Volume
from anodetect.errors import ImageError
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.model.loading import load
from anodetect.model.model import Model
from anodetect.model.scoring import score_records
from anodetect.output import straight
from anodetect.output.about import About
from anodetect.output.dicom.findings import find_findings
from anodetect.output.formats import float_map, map_reader, write_files
from anodetect.output.volumes import VolumeMap
from anodetect.record import directories, runs
from anodetect.record.rows import OutputRow, rows_of
from anodetect.stats.mask_rule import pixel_rule
from anodetect.types import Silent
from apps.review import loading as review

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:pydicom.*", "ignore::UserWarning:highdicom.*"
)
RNG = np.random.default_rng(5)
THICK_AND_THIN = np.array([0, 2.5, 5, 7.5, 12.5, 17.5])  # mm
BETWEEN = np.array([0, 1, 5, 6, 10, 11, 15, 16.0])  # mm
STEP = np.linalg.norm(AFFINE[:3, 0])
SHAPE = (6, 40, 44)


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory, monkeypatch):
    """A key for pseudonyms of the tests' own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


def write_series(folder, array, along, beside=None, affine=AFFINE, **tags):
    """A series [K, R, C] with its slices `along` the first axis of the affine, in millimetres, and
    moved by `beside` [K, 3]."""
    folder.mkdir(parents=True, exist_ok=True)
    tags = {"uids": (generate_uid(), generate_uid(), generate_uid())} | tags
    for number, stored in enumerate(array):
        moved = affine.copy()
        moved[:3, 3] += along[number] * affine[:3, 0] / np.linalg.norm(affine[:3, 0])
        if beside is not None:
            moved[:3, 3] += beside[number]
        made = instance(stored, moved, InstanceNumber=number + 1, **tags)
        made.save_as(folder / f"IM{number:03}", enforce_file_format=True)
    return folder


def positions(folder):
    headers = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    return np.array([header.ImagePositionPatient for header in headers], float)


def uneven_volume(values, distances, affine=None):
    """A volume [1, I, J, K] whose slices lie at these distances along the affine's first axis."""
    affine = np.eye(4) if affine is None else affine
    direction = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    own = affine[:3, 3] + distances[:, None] * direction
    whole = affine.copy()
    whole[:3, 0] = (own[-1] - own[0]) / (len(own) - 1)
    return Volume(np.asarray(values, np.float32)[None], whole, places=own)


# -- Grids -----------------------------------------------------------------------------------------


def test_an_even_grid_has_the_finest_distance_and_goes_from_end_to_end():
    grid = uneven.even_grid(THICK_AND_THIN)
    assert grid.step == 2.5 and len(grid) == 8
    assert np.array_equal(grid.in_own, [0, 1, 2, 3, 3.5, 4, 4.5, 5])
    assert np.array_equal(grid.in_even, THICK_AND_THIN / 2.5)
    nearly_twice = uneven.even_grid(np.array([0, 4, 4.01, 8, 12]))
    assert nearly_twice.step == pytest.approx(12 / 12)  # a quarter of the median, 4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_values_between_slices_are_linear_and_nan_does_not_spread(axis):
    distances = np.cumsum(np.r_[0, RNG.uniform(1.08, 6.99, 12)])
    grid, ramp = uneven.even_grid(distances), 3 * distances - 7
    shape = [1, 1, 1]
    shape[axis] = -1
    values = np.broadcast_to(ramp.reshape(shape), np.where(np.array(shape) == 1, 2, 13))
    even = grid.to_even(values.astype(np.float32), axis)
    expected = 3 * np.linspace(0, distances[-1], len(grid)) - 7
    assert np.allclose(np.moveaxis(even, axis, -1), expected, atol=1e-4)
    assert np.allclose(grid.to_own(even, axis), values, atol=1e-4)

    holes = np.array([np.nan, 1, 2, np.nan, 4, 5], np.float32)
    found = uneven.even_grid(THICK_AND_THIN).to_even(holes, 0)
    assert np.array_equal(found, [np.nan, 1, 2, np.nan, np.nan, 4, 4.5, 5], equal_nan=True)


@pytest.mark.parametrize(
    ("along", "said"),
    [
        ([0, 3, 6, 12, 15, 18], "slice spacing jumps from 3 to 6 mm between 6.0 and 12.0 mm: "
         "perhaps a slice is missing"),
        ([0, 3, 12, 15, 18], "jumps from 3 to 9 mm between 3.0 and 12.0 mm: perhaps 2 slices are"),
        ([0, 3, 6, 9, 15], "jumps from 3 to 6 mm between 9.0 and 15.0 mm: perhaps a slice is"),
        ([0, 6, 9, 12, 15], "jumps from 3 to 6 mm between 0.0 and 6.0 mm: perhaps a slice is"),
        (THICK_AND_THIN, "slices lie 2.5 to 5 mm apart"),
        ([0, 1.08, 8.07, 10, 14], "slices lie 1.08 to 6.99 mm apart"),
        (BETWEEN, "slices lie by turns 1 and 4 mm apart: perhaps those of one volume between "
         "those of another"),
    ],
)  # fmt: skip
def test_it_is_said_how_slices_lie(along, said):
    volume = uneven_volume(np.zeros((len(along), 2, 2)), np.asarray(along, float))
    assert said in volume.unevenness
    assert (";" in volume.unevenness) is False


def test_slices_that_are_shifted_are_said_to_be():
    volume = uneven_volume(np.zeros((5, 2, 2)), np.arange(5.0) * 3)
    moved = volume.places.copy()
    moved[2, 1] += 2
    assert "shifted against each other by up to 1.6 mm" in replace(volume, places=moved).unevenness


def test_an_index_and_a_place_belong_together():
    affine = AFFINE.copy()
    distances = np.cumsum(np.r_[0, RNG.uniform(1, 7, 8)])
    volume = uneven_volume(np.zeros((9, 12, 14)), distances, affine)
    geometry = volume.geometry("axial")
    inside = RNG.uniform(0, 1, (20, 3)) * [8, 11, 13]
    world = [geometry.position(geometry.inside(tuple(index))) for index in inside]
    assert np.allclose(uneven.indices_of(np.array(world), volume.places, volume.affine), inside)
    before = volume.places[:1] - 2 * (volume.places[1] - volume.places[0])
    assert np.allclose(uneven.indices_of(before, volume.places, volume.affine), [[-2, 0, 0]])
    behind = volume.places[-1:] + 3 * (volume.places[-1] - volume.places[-2])
    assert np.allclose(uneven.indices_of(behind, volume.places, volume.affine), [[11, 0, 0]])


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("turned", [1, -1])
def test_what_a_model_sees_is_as_of_even_slices(plane, turned):
    """A volume that is linear along its uneven axis, against the same one with even slices."""
    affine = np.diag([1, 1, 2.5, 1])[:, [2, 1, 0, 3]] @ np.diag([turned, 1, 1, 1])
    rows, columns = np.meshgrid(np.arange(12), np.arange(14), indexing="ij")

    def at(distances):
        return distances[:, None, None] * (1 + rows) + 5 * columns

    own = uneven_volume(at(THICK_AND_THIN), THICK_AND_THIN, affine)
    even = Volume(np.asarray(at(np.arange(8) * 2.5), np.float32)[None], affine)
    config = PreprocessConfig(window=(100, 400), foreground="all", axis=plane)
    found, expected = (Preprocess(config).prepare(each) for each in (own, even))
    assert found.geometry.even_sides == expected.geometry.sides
    assert found.geometry.even_spacing == pytest.approx(expected.geometry.spacing)
    assert Preprocess(config).depth(found.geometry) == expected.geometry.sides[0]

    for number in range(found.geometry.sides[0]):
        seen, inside = Preprocess(config).apply(found.slices[:, number], found, number)
        assert inside.all()
        if found.geometry.uneven_axis:
            same, _ = Preprocess(config).apply(expected.slices[:, number], expected, number)
            assert np.allclose(seen, same, atol=1e-5)
            back = found.geometry.unevened(found.geometry.unevened(seen[0], 1), 2)
            low, high = -100, 300
            straight_back = (found.slices[0, number] - low) * 2 / (high - low) - 1
            assert np.allclose(back, np.clip(straight_back, -1.5, 1.5), atol=1e-5)


def test_voxels_of_thick_slices_count_more():
    geometry = uneven_volume(np.zeros((6, 9, 9)), THICK_AND_THIN).geometry("sagittal")
    volumes = np.broadcast_to(geometry.voxel_volumes, geometry.sides)
    assert np.allclose(np.unique(volumes), [2.5, 3.75, 5])
    assert volumes[:, 0, 0].sum() == pytest.approx(17.5 + 2.5 / 2 + 5 / 2)


# -- From a series to its maps ---------------------------------------------------------------------


def test_uneven_slices_are_read_where_they_lie(tmp_path):
    array = RNG.integers(0, 900, (6, 12, 14)).astype(np.int16)
    folder = write_series(tmp_path / "s", array, THICK_AND_THIN)
    volume = read(tmp_path).volume
    assert np.array_equal(volume.source.voxels[0], array)
    assert np.allclose(volume.source.places, positions(folder))
    for number, position in enumerate(positions(folder)):
        expected = position + AFFINE[:3, 1:3] @ (5.5, 6.5)
        found = volume.geometry.centre(round(volume.geometry.inside((number, 0, 0))[0]))
        assert np.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("along", [np.arange(6) * 3, [0, 0.6, 1.3, 1.9, 2.5, 3.1]])
def test_even_and_rounded_slices_have_no_places_of_their_own(tmp_path, along):
    straight_affine = np.eye(4)
    straight_affine[:3, :3] = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    array = RNG.integers(0, 900, (6, 12, 14)).astype(np.int16)
    write_series(tmp_path / "s", array, along, affine=straight_affine)
    assert read(tmp_path).volume.source.places is None


def test_training_says_how_many_series_are_uneven(tmp_path):
    warned = []
    for number, along in enumerate((np.arange(6) * 3.0, THICK_AND_THIN)):
        array = RNG.integers(0, 900, (6, 12, 14)).astype(np.int16)
        write_series(tmp_path / f"s{number}", array, along, PatientID=str(number))
    reporter = SimpleNamespace(warn=warned.append, progress=lambda *a: None)
    usable_normals(scan(tmp_path), Preprocess(PreprocessConfig()), 2, reporter)
    said = "1 volume has slices that are not evenly spaced; the first: s1/IM000: slices lie 2.5"
    assert any(each.startswith(said) for each in warned)


def test_inspecting_names_every_uneven_series_also_those_it_does_not_open(tmp_path, monkeypatch):
    lies = {0: np.arange(6) * 3.0, 1: THICK_AND_THIN, 5: np.r_[0, 3, 6, 12, 15, 18]}
    for number in range(7):  # files of all series in one folder
        array = np.zeros((6, 12, 14), np.int16) + np.arange(14, dtype=np.int16)
        write_series(tmp_path / "in", array, lies.get(number, lies[0]), PatientID=str(number))
        for path in sorted((tmp_path / "in").glob("IM*")):
            path.rename(path.with_name(f"{number}-{path.name}"))
    two = [(np.arange(4.0), None), (np.arange(4.0), None)]
    for number, (along, beside) in enumerate(two):  # two echoes at each place are even
        uids = ("1.2.3", "1.2.3.4", "1.2.3.5")
        write_series(tmp_path / f"in/e{number}", np.zeros((4, 12, 14), np.int16), along, beside,
                     uids=uids, EchoTime=str(number))  # fmt: skip

    monkeypatch.setattr(command, "LOOKED_AT", 2)
    found = command.inspect(str(tmp_path / "in"))
    uneven = {}
    for row in found.rows:
        uneven |= dict(note.split(": ", 1) for note in row.uneven)
    assert list(uneven) == ["1-IM000", "5-IM000"]
    expected = {record.id: load(record) for record in scan(tmp_path / "in").records}
    for name, said in uneven.items():
        assert said == expected[name].volume.source.unevenness
    assert found.summary[-1].startswith("slices not evenly spaced: 2 volumes; 1-IM000: slices lie")
    text = command.inspection_text(found)
    assert "uneven slices: 5-IM000: slice spacing jumps from 3 to 6 mm" in text


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run that learned from even slices, and a series of uneven ones with a bright block that it
    has scored in every format."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
        base, rng, warned = tmp_path_factory.mktemp("uneven"), np.random.default_rng(1), []
        for number in range(24):
            write_patient(base / "normal" / f"s{number:02}", f"N{number}", rng)
        anodetect.train(str(base / "normal"), "intensity", base / "run", values={"size": 32})

        ill, _ = head(SHAPE, rng=rng, lesion=np.s_[2:5, 15:22, 20:30])
        write_series(base / "in" / "s", ill.round().astype(np.int16), THICK_AND_THIN)
        reporter = SimpleNamespace(
            say=lambda text: None, warn=warned.append, progress=lambda *a: None
        )
        formats = ["nifti", "dicom", "png", "mask"]
        anodetect.score(
            base / "run", [str(base / "in")], base / "out", far=0.2, heatmaps=formats,
            reporter=reporter,
        )  # fmt: skip
    (row,) = directories.read(base / "out").rows
    return SimpleNamespace(base=base, row=row, warned=warned, stem=base / "out/heatmaps" / row.path)


def test_uneven_slices_are_scored_and_each_has_its_place(scored):
    assert (scored.row.status, scored.row.error) == ("ok", "")
    assert "slices lie 2.5 to 5 mm apart" in scored.row.differs
    assert "resampled for the model" not in scored.row.differs
    expected = positions(scored.base / "in/s") + AFFINE[:3, 1:3] @ (19.5, 21.5)
    rows = directories.read_slices(scored.base / "out")
    for row in rows:
        place = (row.left_mm, row.posterior_mm, row.superior_mm)
        assert np.allclose(place, expected[row.slice], atol=1e-5)
    assert sorted(row.slice for row in rows) == list(range(6))
    assert rescore(scored.base / "out", 1) == []


def test_the_heatmap_has_the_values_of_the_source_and_the_nifti_is_even(scored):
    assert scored.row.heatmap == f"heatmaps/{scored.row.path}_heatmap.tiff"
    own = tifffile.imread(f"{scored.stem}_heatmap.tiff")
    assert own.shape == SHAPE and own.dtype == np.float32
    reader = map_reader(scored.row.heatmap, "volume")
    assert np.array_equal(reader(scored.base / "out" / scored.row.heatmap), own, equal_nan=True)

    image = nib.load(f"{scored.stem}_heatmap.nii")
    values = np.asarray(image.dataobj).transpose(2, 1, 0)  # slices, rows, columns
    even = np.arange(8) * 2.5
    for j, k in ((18, 25), (5, 30), (0, 0)):
        between = np.interp(even, THICK_AND_THIN, own[:, j, k])
        assert np.allclose(values[:, j, k], between, rtol=1e-5, equal_nan=True)
    assert np.array_equal(values[[0, 1, 2, 3, 5, 7]], own, equal_nan=True)  # places that both have
    world = FLIP_XY @ image.affine @ (4, 3, 5, 1)
    expected = AFFINE[:3, 3] + AFFINE[:3, 0] / STEP * 12.5 + AFFINE[:3, 1:3] @ (3, 4)
    assert np.allclose(world[:3], expected, atol=1e-3)

    mask = np.asarray(nib.load(f"{scored.stem}_mask.nii.gz").dataobj).transpose(2, 1, 0)
    rule = directories.read(scored.base / "out").audit.mask_rule
    assert mask.any() and (values[mask != 0] > rule.measure.low).all()


def test_resampling_is_said(scored):
    outputs = rows_of(directories.read(scored.base / "out").outputs, OutputRow)
    notes = {row.name.removeprefix(f"heatmaps/{scored.row.path}"): row.note for row in outputs}
    said = "resampled to even slices 2.5 mm apart; the TIFF beside it has the source's slices"
    assert notes["_heatmap.nii"] == said
    assert notes["_mask.nii.gz"] == "resampled to even slices 2.5 mm apart"
    assert notes["_heatmap.tiff"] == notes["_heatmap.dcm"] == ""
    assert any(f"1 file of maps is {said}" in each for each in scored.warned)


def test_dicom_maps_of_uneven_slices_lie_on_them(scored):
    own, expected = tifffile.imread(f"{scored.stem}_heatmap.tiff"), positions(scored.base / "in/s")
    found = pydicom.dcmread(f"{scored.stem}_heatmap.dcm")
    assert np.allclose(places(found), expected, atol=1e-4)
    assert np.array_equal(found.pixel_array, np.nan_to_num(own, nan=-1))

    rule = directories.read(scored.base / "out").audit.mask_rule
    sums = np.zeros(SHAPE)
    segmentation = pydicom.dcmread(f"{scored.stem}_segmentation.dcm")
    for frame, place in zip(segmentation.pixel_array, places(segmentation), strict=True):
        away = np.linalg.norm(expected - place, axis=1)
        assert away.min() < 1e-3
        sums[away.argmin()] += frame
    assert np.array_equal(sums, rule.mask(own))


def test_a_finding_is_as_large_as_its_slices_are_thick(scored):
    volume = read(scored.base / "in").volume
    heatmap = np.zeros(SHAPE, np.float32)
    heatmap[2:4, 5:7, 8:11] = 1  # 2.5 and 3.75 mm
    heatmap = np.ascontiguousarray(volume.geometry.to_slices(heatmap))
    _, (finding,) = find_findings(heatmap, heatmap > 0.5, volume)
    assert finding.volume == pytest.approx(6 * 0.8 * 0.9 * (2.5 + 3.75), abs=1e-3)


def test_the_app_shows_an_uneven_series(scored):
    directory = directories.read(scored.base / "out")
    case = review.load_volume(directory, directory.rows[0], "axial")
    assert case.notes == ()
    own = tifffile.imread(f"{scored.stem}_heatmap.tiff")
    assert np.array_equal(case.geometry.to_source(case.heatmap), own, equal_nan=True)


def test_another_plane_is_scored_on_a_grid_and_comes_back_to_the_slices(scored, monkeypatch):
    """A model that answers with a ramp along the grid: each slice gets the ramp at its place."""
    model = Model.load(runs.read(scored.base / "run"), "cpu")
    model.preprocess.axis = "coronal"

    def ramp(self, heatmap, shape):
        assert shape == (8, SHAPE[2])
        return np.repeat(np.arange(8.0, dtype=np.float32)[:, None] * 2.5, shape[1], axis=1)

    monkeypatch.setattr("anodetect.model.model.Model.decode", ramp)
    (found,) = score_records(model, [series(scored.base / "in")], Silent())
    assert found.heatmap.shape == (SHAPE[1], SHAPE[0], SHAPE[2])
    slices = np.unique(found.heatmap[found.slices.numbers], axis=0)
    assert len(slices) == 1  # each coronal slice is the same
    flipped = found.loaded.volume.geometry.flipped[1]
    expected = 17.5 - THICK_AND_THIN[::-1] if flipped else THICK_AND_THIN
    assert np.allclose(slices[0, :, 3], expected)


@pytest.mark.parametrize(("moved", "dims", "axis"), [(0.7, 2, "coronal"), (0.7, 3, "auto")])
def test_shifted_slices_make_up_no_other_plane(moved, dims, axis):
    """A slice that lies beside the others by more than half of a pixel of 0.8 mm."""
    volume = uneven_volume(RNG.random((9, 20, 20)), np.arange(9.0) * 3, np.diag([1, 0.8, 0.9, 1]))
    for distance, refused in ((moved, True), (0.3, False)):
        places = volume.places.copy()
        places[4, 1] += distance
        shifted = replace(volume, places=places)
        config = PreprocessConfig(foreground="all", axis=axis)
        if not refused:
            Preprocess(config, dims).prepare(shifted)
            continue
        with pytest.raises(ImageError, match=r"shifted against each other by up to 0\.6 mm"):
            Preprocess(config, dims).prepare(shifted)
    own_plane = Preprocess(PreprocessConfig(foreground="all")).prepare(shifted)
    assert own_plane.geometry.uneven_axis == 0


def test_a_map_of_three_dimensions_comes_back_to_its_slices(scored, monkeypatch):
    """A detector that answers with a ramp along the grid: each slice gets the ramp at its place."""
    volume = read(scored.base / "in").volume
    model = Model.load(runs.read(scored.base / "run"), "cpu")

    def ramp(scaled, inside, *args, **kwargs):
        assert scaled.shape[1:] == inside.shape == (8, *SHAPE[1:])
        return np.broadcast_to(np.arange(8.0)[:, None, None] * 2.5, inside.shape).astype(np.float32)

    monkeypatch.setattr("anodetect.imaging.tiling.volume_heatmap", ramp)
    monkeypatch.setattr("anodetect.model.model.Model.decode", lambda self, heatmap, shape: heatmap)
    _, heatmap = model.score_volume(volume)
    flipped = volume.geometry.flipped[0]
    expected = 17.5 - THICK_AND_THIN[::-1] if flipped else THICK_AND_THIN
    assert np.allclose(heatmap.max((1, 2)), expected)


# -- Truth -----------------------------------------------------------------------------------------


def truth_case(tmp_path):
    array = RNG.integers(0, 900, (6, 12, 14)).astype(np.int16)
    write_series(tmp_path / "in/s", array, THICK_AND_THIN)
    volume = read(tmp_path / "in").volume
    return volume.source, volume.geometry, RNG.random((6, 12, 14)) < 0.3


def test_a_mask_that_has_the_places_of_uneven_slices_is_taken(tmp_path):
    source, geometry, marked = truth_case(tmp_path)
    finer = np.ones((8, 12, 14), np.uint8)  # what lies between slices does not count
    finer[[0, 1, 2, 3, 5, 7]] = marked
    affine = AFFINE @ np.diag([2.5 / STEP, 1, 1, 1])
    for axes in ((0, 1, 2), (2, 1, 0)):
        path = tmp_path / f"{axes[0]}.nii.gz"
        ordered = FLIP_XY @ affine[:, [*axes, 3]]
        nib.save(nib.Nifti1Image(finer.transpose(axes), ordered), path)
        found = volume_mask(path, source, geometry)
        assert np.array_equal(geometry.to_source(found), marked)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (np.diag([1.1, 1, 1, 1]), "has nothing at the place of slice 1, and the volume's slices"),
        (np.diag([1, 2, 1, 1]), "has rows and columns of its own, and the volume's slices are"),
        (np.eye(4) + np.diag([3.0], 3), "has nothing at the place of slice 0"),
    ],
)
def test_another_mask_is_refused_with_the_reason(tmp_path, change, reason):
    source, geometry, _ = truth_case(tmp_path)
    affine = AFFINE @ np.diag([2.5 / STEP, 1, 1, 1]) @ change
    path = tmp_path / "m.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((8, 12, 14), np.uint8), FLIP_XY @ affine), path)
    with pytest.raises(ImageError, match=reason):
        volume_mask(path, source, geometry)


def test_a_segmentation_of_uneven_slices_is_exact(tmp_path):
    """As highdicom writes it."""
    source, geometry, marked = truth_case(tmp_path)
    volume = read(tmp_path / "in").volume
    heatmap = np.ascontiguousarray(geometry.to_slices(marked)).astype(np.float32)
    shown = VolumeMap(heatmap, volume, (0, 1), pixel_rule(0.5), about=About("patient-x", "0" * 64))
    written = write_files(tmp_path / "x", ["dicom"], "volume", shown)
    (path,) = [each.path for each in written if each.kind == "mask"]
    assert np.array_equal(marked_voxels(path.read_bytes(), source), marked)
    moved = replace(source, places=source.places + np.outer([0, 0, 0, 0, 1, 0], AFFINE[:3, 0]))
    with pytest.raises(ImageError, match="does not lie on the same grid"):
        marked_voxels(path.read_bytes(), moved)


# -- NIfTI that others open ------------------------------------------------------------------------


TILT = 0.3 * AFFINE[:3, 1] / np.linalg.norm(AFFINE[:3, 1])  # for each mm along the slices
SHAPES = {
    "tilted": (np.arange(6) * 3.0, np.outer(np.arange(6) * 3.0, TILT)),
    "tilted and uneven": (THICK_AND_THIN, np.outer(THICK_AND_THIN, TILT)),
    "shifted": (np.arange(6) * 3.0, np.outer([0, 0, 2.2, -1.3, 0, 0], AFFINE[:3, 2])),
    "uneven": (THICK_AND_THIN, None),
}


def landmarks(tmp_path, shape):
    """A volume of a series, a heatmap with the value 7 in a few places, and where these are."""
    array = RNG.integers(0, 900, (6, 20, 22)).astype(np.int16)
    folder = write_series(tmp_path / "s", array, *SHAPES[shape])
    volume = read(tmp_path).volume
    values = np.zeros((6, 20, 22), np.float32)
    index = np.array([[1, 4, 5], [2, 15, 12], [4, 10, 16]])
    values[tuple(index.T)] = 7
    world = positions(folder)[index[:, 0]] + index[:, 1:] @ AFFINE[:3, 1:3].T
    return volume, np.ascontiguousarray(volume.geometry.to_slices(values)), world


@pytest.mark.parametrize("shape", SHAPES)
def test_landmarks_come_back_at_their_place_in_itk(tmp_path, shape):
    volume, heatmap, world = landmarks(tmp_path, shape)
    shown = VolumeMap(heatmap, volume, (0, 1), pixel_rule(2))
    written = write_files(tmp_path / "x", ["nifti", "mask"], "volume", shown)
    assert [(each.path.name, each.kind) for each in written] == [
        ("x_heatmap.tiff", "slices"), ("x_heatmap.nii", "map"), ("x_mask.nii.gz", "mask"),
    ]  # fmt: skip
    assert float_map(written).path.name == "x_heatmap.tiff"
    source = volume.geometry.to_source(heatmap)
    assert np.array_equal(tifffile.imread(tmp_path / "x_heatmap.tiff"), source)

    image = SimpleITK.ReadImage(str(tmp_path / "x_heatmap.nii"))
    values = np.nan_to_num(SimpleITK.GetArrayFromImage(image))
    for place in world:
        index = np.array(image.TransformPhysicalPointToContinuousIndex(place.tolist()))
        nearest = np.rint(index).astype(int)
        around = tuple(slice(max(0, n - 2), n + 3) for n in nearest[::-1])
        weights, offsets = values[around], np.indices(values[around].shape)
        centre = (offsets * weights).sum((1, 2, 3)) / weights.sum()
        centre = centre[::-1] + [part.start for part in around[::-1]]
        assert np.abs(centre - index).max() < 0.5
        # Linear interpolation keeps the middle of what it spreads.
        assert np.abs(centre[:2] - index[:2]).max() < 1e-3
    # No value is lost: each landmark keeps its sum in its own plane.
    assert values.sum((1, 2)).max() == pytest.approx(7, rel=1e-5)


@pytest.mark.parametrize("shape", ["tilted", "tilted and uneven"])
def test_an_exact_grid_keeps_the_values_of_a_tilted_gantry(tmp_path, shape):
    """Where slices are uneven no NIfTI can."""
    volume, heatmap, _ = landmarks(tmp_path, shape)
    shown = VolumeMap(heatmap, volume, (0, 1), pixel_rule(2), exact_grid=True)
    written = write_files(tmp_path / "x", ["nifti"], "volume", shown)
    image = nib.load(tmp_path / "x_heatmap.nii")
    if shape == "tilted":
        (only,) = written
        assert (only.kind, only.note) == ("map", "")
        values = np.asarray(image.dataobj)
        assert np.array_equal(values, volume.geometry.to_source(heatmap))
        assert np.allclose(FLIP_XY @ image.get_sform(), volume.source.affine, atol=1e-4)
        assert (image.header["sform_code"], image.header["qform_code"]) == (1, 0)
    else:
        assert [each.kind for each in written] == ["slices", "map"]
        assert image.header["qform_code"] == 1


def test_a_shear_of_a_hundredth_of_a_pixel_is_not_resampled(tmp_path):
    """Its sform says it, and its qform is so near that ITK opens the file by it."""
    distances = np.arange(6) * 3.0
    slight = np.outer(distances, 0.001 * TILT / 0.3)
    array = RNG.integers(0, 900, (6, 20, 22)).astype(np.int16)
    write_series(tmp_path / "s", array, distances, slight)
    volume = read(tmp_path).volume
    assert straight.straight_grid(volume.source) is None
    heatmap = RNG.random(volume.geometry.sides).astype(np.float32)
    shown = VolumeMap(heatmap, volume, (0, 1), pixel_rule(2))
    write_files(tmp_path / "x", ["nifti"], "volume", shown)
    image = SimpleITK.ReadImage(str(tmp_path / "x_heatmap.nii"))
    corner = np.array(image.TransformIndexToPhysicalPoint([5, 19, 21]))
    expected = positions(tmp_path / "s")[5] + AFFINE[:3, 1:3] @ (19, 21)
    assert np.abs(corner - expected).max() < 0.05


def test_a_tilted_gantry_is_scored_and_resampled_by_the_command(scored, tmp_path):
    ill, _ = head(SHAPE, rng=RNG)
    write_series(tmp_path / "in/s", ill.round().astype(np.int16), *SHAPES["tilted"])
    for exact in (False, True):
        out = tmp_path / f"out{exact}"
        anodetect.score(scored.base / "run", [str(tmp_path / "in")], out, far=0.2, exact_grid=exact)
        directory = directories.read(out)
        (row,) = directory.rows
        assert row.heatmap.endswith("_heatmap.nii" if exact else "_heatmap.tiff")
        assert "slices" not in row.differs  # they are even
        assert directory.audit.exact_grid is exact
        notes = {each.note for each in rows_of(directory.outputs, OutputRow)}
        sheared = "as slices are sheared against each other"
        assert any(sheared in note for note in notes) is not exact
