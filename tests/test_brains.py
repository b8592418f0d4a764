"""Brains are prepared before a model sees them, and maps come back to the voxels they came from.

Heads are made up: the template, turned and moved. No accuracy on real ones is claimed.
"""

import sys
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pydicom
import pytest
from test_dicom import AFFINE as SERIES_AFFINE
from test_uneven import positions, write_series
from test_volumes import rotation

import anodetect
from anodetect.commands.rescore import rescore
from anodetect.data.geometry import FLIP_XY
from anodetect.data.records import Record
from anodetect.data.volumes import Volume
from anodetect.errors import ConfigError, ImageError
from anodetect.imaging import brain, grids, registration, skulls, templates
from anodetect.imaging.brain import BrainConfig, Tools, prepare, returned, returned_mask
from anodetect.imaging.grids import Grid
from anodetect.imaging.intensities import deviations_of
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.imaging.skulls import SkullTool
from anodetect.model.decoded import DecodedFiles
from anodetect.model.loading import Failed, LoadedVolume, Reader, load
from anodetect.record import directories, runs
from anodetect.types import Silent

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:pydicom.*", "ignore::UserWarning:highdicom.*"
)
SIDE = 6.0  # mm: the voxels of prepared brains
RNG = np.random.default_rng(0)
MIDDLE = np.array([0.0, 18.0, 5.0])  # mm: about the middle of the template's brain
LANDMARKS = MIDDLE + np.array([[0, 0, 0], [45, 10, 20], [-40, -50, 10], [10, 55, -20], [0, 0, 55]])
RIGID = BrainConfig(registration="rigid", spacing=SIDE)


def moved(angles, shift):
    """A matrix that turns by angles (radians) about the brain's middle, and moves (mm)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(angles)
    matrix[:3, 3] = MIDDLE - matrix[:3, :3] @ MIDDLE + shift
    return matrix


def through(matrix, points):
    return np.asarray(points) @ matrix[:3, :3].T + matrix[:3, 3]


def grid_around(place, sides, directions, spacing):
    """A grid of `sides` voxels whose middle lies at a place."""
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = place - affine[:3, :3] @ ((np.array(sides) - 1) / 2)
    return Grid(tuple(sides), affine)


def head_on(grid, matrix, dark=0.0):
    """The template's brain where `matrix` takes it, as a volume on a grid."""
    fine = templates.template_of(3.0)
    values = grids.smoothed(fine.voxels, fine.grid.spacing, float(grid.spacing.min()))
    voxels = grids.sampled(values, fine.grid, grid, np.linalg.inv(matrix), fill=0.0)
    return Volume((voxels + np.float32(dark))[None], grid.affine)


MOTION = moved((0.2, -0.12, 0.25), (15, -10, 12))
CUBES = grid_around(through(MOTION, MIDDLE), (36, 40, 34), np.diag([-1.0, 1, 1]), SIDE)


@pytest.fixture(scope="module")
def registered():
    """A turned and moved head in left-handed voxels, and what is made of it."""
    head = head_on(CUBES, MOTION)
    return head, prepare(head, RIGID, brain.tools_for(RIGID))


# -- Grids -----------------------------------------------------------------------------------------


def test_values_at_the_places_of_voxels_are_exact_and_between_them_linear():
    values = RNG.normal(size=(9, 10, 11)).astype(np.float32)
    own = grid_around(np.array([3.0, -7, 40]), (9, 10, 11), rotation((0.3, 1.1, -2)), 2.5)
    turned = Grid((11, 9, 10), own.affine[:, [2, 0, 1, 3]])
    found = grids.sampled(values, own, turned)
    assert np.array_equal(found, values.transpose(2, 0, 1))

    ramp = np.add.outer(np.arange(9.0), np.zeros((10, 11))).astype(np.float32)
    half = replace(own, affine=own.affine @ np.diag([0.5, 1, 1, 1.0]), shape=(17, 10, 11))
    assert np.allclose(grids.sampled(ramp, own, half)[:, 4, 5], np.arange(17) / 2)


def test_cubes_cover_a_grid_along_its_own_axes():
    own = grid_around(np.array([3.0, -7, 40]), (30, 20, 10), rotation((0.3, 1, -2)), [1, 2, 4.0])
    cubes = grids.cubes(own, 2.0)
    assert cubes.shape == (15, 20, 20)
    assert np.allclose(cubes.spacing, 2)
    assert np.allclose(cubes.affine[:3, 1], own.affine[:3, 1])  # as fine and as long
    assert np.allclose(cubes.places(np.array([[7.0, 9.5, 9.5]])), (3, -7, 40))
    sheared = own.affine.copy()
    sheared[:3, 2] += sheared[:3, 0]
    upright = grids.cubes(Grid(own.shape, sheared), 2.0).affine[:3, :3] / 2
    assert np.allclose(upright.T @ upright, np.eye(3))


def test_nan_of_a_map_spreads_to_half_a_voxel():
    own = Grid((8, 8, 8), np.eye(4))
    values = np.ones((8, 8, 8), np.float32)
    values[4:] = np.nan
    finer = Grid((32, 8, 8), np.diag([0.25, 1, 1, 1.0]))
    found = grids.sampled_map(values, own, finer, np.eye(4))[:, 2, 2]
    assert np.array_equal(np.isfinite(found), np.arange(32) * 0.25 <= 3.5)
    assert np.nanmax(found) == np.nanmin(found) == 1
    beyond = grid_around(np.array([20.0, 3, 3]), (3, 3, 3), np.eye(3), 1.0)
    assert np.isnan(grids.sampled_map(values, own, beyond, np.eye(4))).all()


# -- Registration ----------------------------------------------------------------------------------


def test_landmarks_of_a_turned_head_come_back_within_half_a_voxel(registered):
    head, found = registered
    assert found.volume.voxels.shape[1:] == templates.template_of(SIDE).grid.shape
    there = through(MOTION, LANDMARKS)  # mm in the head
    off = through(np.linalg.inv(found.to_native), there) - LANDMARKS
    assert np.linalg.norm(off, axis=1).max() < SIDE / 2

    # A spot of a map comes back to the voxel where it lies in the head.
    to_index = np.linalg.inv(found.volume.affine)
    own = np.moveaxis(np.indices(found.volume.voxels.shape[1:]), 0, -1)
    for landmark, place in zip(LANDMARKS, there, strict=True):
        middle = through(to_index, landmark)
        spot = np.exp(-((own - middle) ** 2).sum(-1) / 4).astype(np.float32)
        back = returned(spot, found)
        assert back.shape == head.voxels.shape[1:]
        weights = np.nan_to_num(back) ** 2
        centre = (np.moveaxis(np.indices(back.shape), 0, -1) * weights[..., None]).sum((0, 1, 2))
        expected = through(np.linalg.inv(head.affine), place)
        assert np.linalg.norm(centre / weights.sum() - expected) < 0.5


def test_values_of_a_map_come_back_exactly_from_the_nearest_voxel(registered):
    head, found = registered
    values = RNG.normal(size=found.volume.voxels.shape[1:]).astype(np.float32)
    back = returned(values, found, nearest=True)
    to_prepared = np.linalg.inv(found.volume.affine) @ np.linalg.inv(found.to_native) @ head.affine
    for index in RNG.integers(0, back.shape, (300, 3)):
        nearest = np.rint(through(to_prepared, index)).astype(int)
        if ((nearest >= 0) & (nearest < values.shape)).all():
            assert back[tuple(index)] == values[tuple(nearest)]
        else:
            assert np.isnan(back[tuple(index)])


def test_the_same_volume_gives_the_same_bits(registered):
    head, found = registered
    again = prepare(head, RIGID, brain.tools_for(RIGID))
    assert np.array_equal(again.volume.voxels, found.volume.voxels)
    assert np.array_equal(again.to_native, found.to_native)
    assert again.steps == found.steps


def test_one_head_in_two_orientations_and_voxel_sizes_gives_one_picture(registered):
    """The other grid has its axes in another order, is turned, and has flat voxels."""
    _, found = registered
    other = moved((-0.15, 0.1, -0.3), (-20, 5, -15))
    axes = rotation((0.2, 0.3, 0.1))[:, [2, 0, 1]]
    grid = grid_around(through(other, MIDDLE), (44, 48, 46), axes, [4.0, 4.5, 5])
    again = prepare(head_on(grid, other), RIGID, brain.tools_for(RIGID))
    one, two = found.volume.voxels, again.volume.voxels
    inside = templates.template_of(SIDE).inside[None]
    assert np.corrcoef(one[inside], two[inside])[0, 1] > 0.97
    assert np.abs(one - two)[inside].mean() < 0.04 * one.max()


def test_an_affine_registration_finds_how_much_larger_a_head_is():
    larger = moved((0.1, 0, 0.1), (5, 5, 5)) @ np.diag([1.12, 1.08, 1.1, 1])
    grid = grid_around(through(larger, MIDDLE), (40, 44, 40), np.eye(3), SIDE)
    config = RIGID.model_copy(update={"registration": "affine"})
    found = prepare(head_on(grid, larger), config, brain.tools_for(config))
    off = through(found.to_native, LANDMARKS) - through(larger, LANDMARKS)
    assert np.linalg.norm(off, axis=1).max() < SIDE / 2
    assert "affine registration to MNI152: mutual information" in found.described()


def noise(volume):
    voxels = RNG.uniform(50, 100, volume.voxels.shape).astype(np.float32)
    voxels[:, :, :, 6:] = 0  # a slab, and no head
    return replace(volume, voxels=voxels)


def test_a_registration_that_ends_where_no_brain_is_fails():
    with pytest.raises(ImageError, match="registration"):
        prepare(noise(head_on(CUBES, MOTION)), RIGID, brain.tools_for(RIGID))


def test_a_registration_that_needs_more_steps_fails(registered, monkeypatch):
    monkeypatch.setattr(registration, "STEPS", 2)
    with pytest.raises(ImageError, match="did not converge within 2 steps: mutual information"):
        prepare(registered[0], RIGID, brain.tools_for(RIGID))


# -- Bias field ------------------------------------------------------------------------------------


def test_n4_flattens_a_known_smooth_field(monkeypatch):
    monkeypatch.setattr(registration, "FIELD_STEPS", (15, 15, 15, 15))  # enough, and quick
    head = head_on(CUBES, MOTION)
    inside = head.voxels[0] > 0.3 * head.voxels.max()
    own = np.moveaxis(np.indices(inside.shape), 0, -1) / np.array(inside.shape)
    field = np.exp(0.7 * (own[..., 0] - 0.5) + 0.5 * np.sin(3 * own[..., 2])).astype(np.float32)
    blocks = (RNG.random((18, 20, 17)) < 0.5).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    clean = np.where(inside, np.where(blocks, 100, 150), 0.5).astype(np.float32)  # two tissues
    found, said = registration.without_bias(clean * field, CUBES, inside)

    def unevenness(values):
        ratio = (values / clean)[inside]
        return ratio.std() / ratio.mean()

    assert unevenness(found) < 0.1 * unevenness(clean * field)
    assert said.startswith("N4: field from 0.")
    again, _ = registration.without_bias(clean * field, CUBES, inside)
    assert np.array_equal(again, found)


def test_n4_is_refused_where_values_have_no_logarithm():
    head = head_on(CUBES, MOTION)
    config = BrainConfig(bias="n4")
    scaled = replace(head, voxels=(head.voxels - 60) / 30)
    with pytest.raises(ImageError, match=r"N4 takes logarithms, and [0-9]+% of the foreground"):
        prepare(scaled, config, Tools(), head.voxels[0] > 0)
    with pytest.raises(ImageError, match="a CT, which has no bias field"):
        prepare(replace(head, modality="CT"), config, Tools())


# -- Skulls ----------------------------------------------------------------------------------------

PROGRAM = """#!{python}
import sys
import nibabel as nib
import numpy as np
if "--version" in sys.argv:
    {version}
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
image = nib.load(given["-i"])
voxels = np.asarray(image.dataobj)
assert voxels.min() == 1
out = given.get("-o") or given["-m"]
{body}
"""
CUTS = """brain = np.where(voxels > 40, voxels if "-o" in given else 1, 0).astype(np.float32)
nib.save(nib.Nifti1Image(brain, image.affine), out)"""


@pytest.fixture
def put_on_path(tmp_path, monkeypatch):
    """Write a program that takes the place of a tool, and put it on PATH, alone."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name, body, version="sys.exit(2)"):
        text = PROGRAM.format(python=sys.executable, version=version, body=body)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
        return folder / name

    return put


@pytest.fixture(scope="module")
def head():
    return head_on(CUBES, MOTION, dark=20)


@pytest.mark.parametrize("name", list(skulls.TOOLS))
def test_a_tool_on_path_cuts_the_brain_out(put_on_path, head, name):
    put_on_path(name, CUTS, version="sys.exit(print('tool 2.1'))")
    config = BrainConfig(skull="auto")
    tools = brain.tools_for(config)
    assert tools.skull == SkullTool(name, "tool 2.1")
    found = prepare(head, config, tools)
    raised = head.voxels[0] - head.voxels.min() + 1
    assert np.array_equal(found.inside, raised > 40)
    assert np.array_equal(found.volume.voxels[0][found.inside], head.voxels[0][found.inside])
    assert len(np.unique(found.volume.voxels[0][~found.inside])) == 1
    litres = found.inside.sum() * SIDE**3 / 1e6
    assert found.steps == (f"brain: {name} (tool 2.1), {litres:.2f} l",)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit(3)", "mri_synthstrip ended with code 3; try it on this file alone"),
        ("pass", "mri_synthstrip wrote no brain; try it on this file alone"),
        ("open(out, 'w').write('x')", "mri_synthstrip wrote a file that is no NIfTI"),
        (
            "nib.save(nib.Nifti1Image(np.ones((9, 9, 9)), image.affine), out)",
            "mri_synthstrip wrote a brain on another grid than the volume's",
        ),
        (
            "nib.save(nib.Nifti1Image(0 * voxels, image.affine), out)",
            "mri_synthstrip found no brain",
        ),
    ],
)
def test_a_tool_that_fails_is_a_reason(put_on_path, head, body, reason):
    put_on_path("mri_synthstrip", body)
    config = BrainConfig(skull="mri_synthstrip")
    tools = brain.tools_for(config)
    assert tools.skull.version.startswith("no version stated, file ")
    with pytest.raises(ImageError) as failed:
        prepare(head, config, tools)
    assert str(failed.value) == reason


def test_without_a_tool_the_head_above_a_threshold_is_taken_and_said_so(put_on_path, head):
    config = BrainConfig(skull="auto")
    tools = brain.tools_for(config)
    assert tools.skull == SkullTool("threshold")
    (step,) = prepare(head, config, tools).steps
    assert step.startswith("brain: threshold, the head with its skull, ")


def test_a_given_foreground_goes_before_a_tool(put_on_path, head):
    put_on_path("hd-bet", "sys.exit(3)")
    config = BrainConfig(skull="hd-bet")
    given = head.voxels[0] > 90
    found = prepare(head, config, brain.tools_for(config), given)
    assert np.array_equal(found.inside, given)
    assert found.described().startswith("brain: the given foreground, ")
    with pytest.raises(ImageError, match="its foreground is empty"):
        prepare(head, config, brain.tools_for(config), np.zeros_like(given))


def test_what_is_missing_is_said_before_any_work(put_on_path, monkeypatch):
    with pytest.raises(ConfigError, match="hd-bet is not on PATH; install it, or take --set"):
        brain.tools_for(BrainConfig(skull="hd-bet"))
    trained = Tools(SkullTool("hd-bet", "2.0"))
    with pytest.raises(ConfigError, match=r"brains that hd-bet \(2.0\) cut out, and hd-bet is not"):
        brain.tools_here(BrainConfig(skull="hd-bet"), trained)

    put_on_path("hd-bet", CUTS, version="sys.exit(print('2.1'))")
    present = brain.tools_here(BrainConfig(skull="hd-bet"), trained)
    assert present.skull.described() == "hd-bet (2.1; the model was trained with 2.0)"
    with pytest.raises(ConfigError, match="template in nilearn is not the one"):
        brain.tools_here(RIGID, Tools(template="0" * 64))

    monkeypatch.setattr(templates, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the template in nilearn: pip install 'anodetect"):
        brain.tools_for(RIGID)
    monkeypatch.setattr(registration, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"need SimpleITK: pip install 'anodetect\[registration"):
        brain.tools_for(BrainConfig(bias="n4"))


# -- Resampling and values -------------------------------------------------------------------------


def test_without_registration_a_brain_keeps_its_axes_and_maps_come_back(head):
    config = BrainConfig(skull="threshold", spacing=3.0)
    found = prepare(head, config, Tools(SkullTool("threshold")))
    assert found.volume.voxels.shape[1:] == tuple(2 * side for side in head.voxels.shape[1:])
    assert np.array_equal(found.to_native, np.eye(4))
    ramp = np.indices(found.volume.voxels.shape[1:])[2].astype(np.float32)
    back = returned(ramp, found)
    assert np.allclose(back, 2 * np.indices(back.shape)[2] + 0.5, atol=1e-4)
    assert (returned_mask(found.inside, found) == found.inside[::2, ::2, ::2]).mean() > 0.95

    same = prepare(head, BrainConfig(skull="threshold"), Tools(SkullTool("threshold")))
    values = RNG.normal(size=head.voxels.shape[1:]).astype(np.float32)
    assert np.array_equal(returned(values, same), values)


def test_a_z_score_of_three_is_one():
    values = RNG.normal(40, 7, (1, 5000)).astype(np.float32)
    low, high = deviations_of(values)
    assert (low + high) / 2 == pytest.approx(values.mean(), rel=1e-6)
    assert (high - low) / 6 == pytest.approx(values.std(), rel=1e-4)
    assert deviations_of(np.full((1, 4), 3.0, np.float32)) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_pictures": True}, "frames that are images"),
        ({"places": np.zeros((36, 3))}, "its slices are not evenly spaced"),
        ({"voxels": np.zeros((3, 9, 9, 9), np.float32)}, "a volume in colours"),
    ],
)
def test_volumes_that_cannot_be_prepared_are_refused(head, changes, reason):
    with pytest.raises(ImageError, match=reason):
        prepare(replace(head, **changes), BrainConfig(spacing=3.0), Tools())


def test_images_are_refused(save_png):
    path = save_png("a.png", np.zeros((20, 20), np.uint8))
    failed = load(Record("a.png", path), Preprocess(PreprocessConfig(brain={"spacing": 3.0})))
    assert isinstance(failed, Failed)
    assert failed.error == "an image, but the model's preparation is one of brains (brain.…)"


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        ({"bias": 40, "brain": {"bias": "n4"}}, {}, "remove the same from volumes"),
        ({"frames": True, "brain": {"spacing": 1}}, {}, "preprocess.frames is of images"),
        ({"brain": {"spacing": 1}}, {"channels": "t1=*T1w*,t2=*T2w*"}, "volumes of one file"),
        ({"brain": {"skul": "auto"}}, {}, "unknown key 'brain.skul'; did you mean 'brain.skull'"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, values, options, reason):
    for name in ("a_T1w", "a_T2w"):
        nib.save(nib.Nifti1Image(np.zeros((9, 9, 9)), np.eye(4)), tmp_path / f"{name}.nii.gz")
    with pytest.raises(ConfigError, match=reason):
        anodetect.train(str(tmp_path), "pca", tmp_path / "run", values=values, **options)


# -- From files to files ---------------------------------------------------------------------------


def write_head(path, seed, lesion=None):
    """A head of its own motion and brightness, in flat voxels; return its affine, LPS+."""
    rng = np.random.default_rng(seed)
    matrix = moved(rng.uniform(-0.2, 0.2, 3), rng.uniform(-15, 15, 3))
    grid = grid_around(through(matrix, MIDDLE), (34, 40, 30), np.diag([-1.0, -1, 1]), [6, 6, 7.0])
    volume = head_on(grid, matrix)
    voxels = volume.voxels[0] * rng.uniform(0.7, 1.4)
    voxels += rng.normal(0, 2, voxels.shape).astype(np.float32)
    if lesion is not None:
        index = np.moveaxis(np.indices(voxels.shape), 0, -1)
        near = np.linalg.norm(grid.places(index.reshape(-1, 3)) - through(matrix, lesion), axis=1)
        voxels += 3 * voxels.max() * (near.reshape(voxels.shape) < 13)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), FLIP_XY @ grid.affine), path)
    return voxels, grid, through(matrix, MIDDLE if lesion is None else lesion)


LESION = MIDDLE + np.array([30, 10, 20])
SETTINGS = {
    "size": 32,
    "intensity": "zscore",
    "brain": {"skull": "threshold", "registration": "rigid", "spacing": SIDE},
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run of eight heads, and what it makes of two others; the second has a lesion."""
    base = tmp_path_factory.mktemp("brains")
    for seed in range(8):
        write_head(base / "normal" / f"p{seed}.nii.gz", seed)
    anodetect.train(str(base / "normal"), "intensity", base / "run", values=SETTINGS)
    write_head(base / "new" / "well.nii.gz", 20)
    _, grid, place = write_head(base / "new" / "ill.nii.gz", 21, LESION)
    noisy = RNG.uniform(50, 99, (30, 30, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(noisy, np.diag([6, 6, 6, 1])), base / "new" / "slab.nii.gz")
    anodetect.score(base / "run", [str(base / "new")], base / "out", far=0.2)
    rows = {row.path: row for row in directories.read(base / "out").rows}
    return SimpleNamespace(base=base, rows=rows, grid=grid, place=place)


def test_maps_of_a_scoring_lie_in_the_voxels_of_the_file(scored):
    row = scored.rows["ill.nii.gz"]
    assert (row.status, row.error, row.width, row.height, row.depth) == ("ok", "", 34, 40, 30)
    heatmap, source = nib.load(scored.base / "out" / row.heatmap), scored.base / "new" / row.path
    assert heatmap.shape == nib.load(source).shape
    assert np.array_equal(heatmap.affine, nib.load(source).affine)
    values = np.asarray(heatmap.dataobj)
    peak = np.unravel_index(np.nanargmax(values), values.shape)
    expected = through(np.linalg.inv(scored.grid.affine), scored.place)
    assert np.abs(np.array(peak) - expected).max() < 2
    assert np.isnan(values).any()

    assert row.score > scored.rows["well.nii.gz"].score
    slices = [
        each for each in directories.read_slices(scored.base / "out") if each.path == row.path
    ]
    assert sorted(each.slice for each in slices) == list(range(30))
    highest = max((each for each in slices if each.score is not None), key=lambda each: each.score)
    assert abs(highest.slice - expected[2]) < 2
    assert highest.score <= row.score * (1 + 1e-6)


def test_the_record_says_what_was_done(scored):
    row = scored.rows["well.nii.gz"]
    steps = row.prepared.split("; ")
    assert steps[0].startswith("brain: threshold, the head with its skull, 1.")
    assert steps[1].startswith("rigid registration to MNI152: mutual information ")
    assert steps[2] == "33 × 39 × 31 voxels of 6 mm"
    caveats = directories.read(scored.base / "out").audit.caveats
    assert not any("a group of another size" in each for each in caveats)
    failed = scored.rows["slab.nii.gz"]
    assert failed.status == "failed"
    assert "registration" in failed.error
    for each in runs.read_manifest(scored.base / "run"):
        assert "rigid registration to MNI152" in each.prepared
    card = (scored.base / "run/model_card.md").read_text("utf-8")
    assert "- Brains: bias none, skull threshold, registration rigid, spacing 6.0;" in card
    header = runs.read(scored.base / "run").header
    assert header.preprocess["brain"]["template"] == templates.template_of(SIDE).sha256


def test_a_brain_scores_the_same_bits_again(scored):
    assert rescore(scored.base / "out", 2) == []


def test_a_tool_that_is_missing_at_scoring_is_refused(scored, tmp_path, monkeypatch):
    monkeypatch.setattr(skulls, "find_tool", lambda wanted: SkullTool("hd-bet", "2.1"))
    monkeypatch.setattr(brain, "find_tool", lambda wanted: SkullTool("hd-bet", "2.1"))
    monkeypatch.setattr(
        brain, "brain_in", lambda volume, tool: volume.voxels[0] > 0.2 * volume.voxels.max()
    )
    values = {"size": 32, "brain": {"skull": "hd-bet"}}
    anodetect.train(str(scored.base / "normal"), "intensity", tmp_path / "run", values=values)
    with pytest.raises(ConfigError, match=r"brains that hd-bet \(2.1\) cut out, and hd-bet is not"):
        anodetect.score(tmp_path / "run", [str(scored.base / "new")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mask_in_the_files_voxels_is_measured(scored, tmp_path):
    voxels, grid, _ = write_head(tmp_path / "ill.nii.gz", 21, LESION)
    index = np.moveaxis(np.indices(voxels.shape), 0, -1).reshape(-1, 3)
    near = np.linalg.norm(grid.places(index) - scored.place, axis=1).reshape(voxels.shape) < 13
    nib.save(
        nib.Nifti1Image(near.astype(np.uint8), FLIP_XY @ grid.affine), tmp_path / "mask.nii.gz"
    )
    write_head(tmp_path / "well.nii.gz", 20)
    lines = ["path,label,mask", "ill.nii.gz,1,mask.nii.gz", "well.nii.gz,0,"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    result = anodetect.evaluate(scored.base / "run", str(tmp_path))
    assert result.whole.pixel["auroc"].value > 0.99


class Heard(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def test_places_that_readers_take_otherwise_are_said_of_prepared_heads(scored, tmp_path):
    _, grid, _ = write_head(tmp_path / "in/well.nii.gz", 20)
    write_head(tmp_path / "in/ill.nii.gz", 21, LESION)
    image, moved_by = nib.load(tmp_path / "in/well.nii.gz"), np.eye(4)
    moved_by[0, 3] = 20
    image = nib.Nifti1Image(image.get_fdata(), FLIP_XY @ grid.affine)
    image.set_qform(moved_by @ FLIP_XY @ grid.affine, 1)
    nib.save(image, tmp_path / "in/well.nii.gz")
    anodetect.score(scored.base / "run", [str(tmp_path / "in")], tmp_path / "out")
    rows = {row.path: row for row in directories.read(tmp_path / "out").rows}
    assert "its sform and qform differ by up to 20 mm" in rows["well.nii.gz"].differs
    assert "sform" not in rows["ill.nii.gz"].differs

    (tmp_path / "in/manifest.csv").write_text("path,label\nill.nii.gz,1\nwell.nii.gz,0\n")
    heard = Heard()
    anodetect.evaluate(scored.base / "run", str(tmp_path / "in"), reporter=heard)
    (said,) = (text for text in heard.warnings if "with a note" in text)
    assert said.startswith("1 volume with a note; the first: well.nii.gz: its sform and qform")


def test_maps_of_a_series_refer_to_its_own_slices(scored, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    matrix = moved((0.1, 0.1, 0), (4, 3, 2))
    directions = SERIES_AFFINE[:3, :3] / np.linalg.norm(SERIES_AFFINE[:3, :3], axis=0)
    grid = grid_around(through(matrix, MIDDLE), (30, 40, 34), directions, [7, 6, 6.0])
    voxels = head_on(grid, matrix).voxels[0].round().astype(np.int16)
    along = np.arange(30) * 7.0
    write_series(tmp_path / "in/s", voxels, along, affine=grid.affine)
    formats = ["nifti", "dicom", "mask", "png"]
    anodetect.score(scored.base / "run", [str(tmp_path / "in")], tmp_path / "out", heatmaps=formats)
    (row,) = directories.read(tmp_path / "out").rows
    assert (row.status, row.error) == ("ok", "")
    assert nib.load(tmp_path / "out" / row.heatmap).shape == (30, 40, 34)
    (file,) = (tmp_path / "out").rglob("*_heatmap.dcm")
    written = pydicom.dcmread(file)
    assert int(written.NumberOfFrames) == 30
    assert (int(written.Rows), int(written.Columns)) == (40, 34)
    found = []
    for frame in written.PerFrameFunctionalGroupsSequence:
        found.append([float(each) for each in frame.PlanePositionSequence[0].ImagePositionPatient])
    assert np.allclose(sorted(found), sorted(positions(tmp_path / "in/s").tolist()), atol=1e-3)


def test_a_prepared_brain_is_kept_in_scratch_as_it_is(scored, tmp_path):
    path = scored.base / "new/well.nii.gz"
    preprocess = Preprocess(PreprocessConfig(brain=SETTINGS["brain"]))
    preprocess.find_tools()
    with DecodedFiles(tmp_path) as scratch:
        reader = Reader(preprocess, scratch=scratch)
        record = Record("well.nii.gz", path)
        first, again = reader.read(record), reader.read(record)
    assert isinstance(first, LoadedVolume)
    assert np.array_equal(first.volume.slices, again.volume.slices)
    assert np.array_equal(first.volume.foreground, again.volume.foreground)
    assert again.prepared == first.prepared
    assert again.native.voxels.shape == first.native.voxels.shape
    assert again.native.voxels.strides == (0, 0, 0, 0)  # it takes no memory
