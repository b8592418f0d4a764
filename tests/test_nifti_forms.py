"""NIfTI files whose sform and qform give different places: which of them readers take, what is said
of it, and where maps lie."""

from itertools import product

import nibabel as nib
import numpy as np
import pytest
from test_volumes import flat, prepared, write_nifti

from anodetect.commands.inspect import inspect
from anodetect.data import readers
from anodetect.data.channels import ChannelFile
from anodetect.data.nifti_forms import itk_affine, itk_form, note_of_forms
from anodetect.data.records import Record
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.model.decoded import DecodedFiles
from anodetect.model.loading import Reader

FLIP = np.diag([-1, -1, 1, 1])
CODES = list(product(range(5), range(5)))[1:]
MOVED = np.array([[2, 0, 0, 11.0], [0, 3, 0, 22], [0, 0, 4, 33], [0, 0, 0, 1]])
FORMS = {
    "moved": MOVED,
    "turned": MOVED @ [[0.8, -0.9, 0, 0], [0.4, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "longer": MOVED @ np.diag([1.5, 1, 1, 1]),
    "flipped": MOVED @ np.diag([-1, 1, 1, 1]),
}
FORMS["rotated"] = FORMS["turned"].copy()
FORMS["rotated"][:2, :2] = [[1.6, -1.8], [1.2, 2.4]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("codes", CODES)
def test_itk_takes_from_a_header_what_is_said_of_it(form, codes, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    path, other = tmp_path / "a.nii", np.diag([2.0, 3, 4, 1])
    image = nib.Nifti1Image(flat((5, 6, 7)), None)
    image.set_sform(FORMS[form], codes[0])
    image.set_qform(other, codes[1])
    nib.save(image, path)
    if not itk_form(image.header):
        with pytest.raises(RuntimeError, match=r"orthonormal|sheared|ITK"):
            sitk.ReadImage(str(path))
        assert "has no qform" in note_of_forms(image.header)
        return
    found, affine = sitk.ReadImage(str(path)), np.eye(4)
    affine[:3, :3] = np.array(found.GetDirection()).reshape(3, 3) * found.GetSpacing()
    affine[:3, 3] = found.GetOrigin()
    assert np.allclose(affine, FLIP @ itk_affine(image.header), atol=1e-4)
    note = note_of_forms(image.header)
    for name in ("sform", "qform"):
        both = min(codes) > 0
        assert (f"takes the {name}" in note) == (both and itk_form(image.header) == name)
    assert bool(note) == (codes[0] > 0 and (codes[1] > 0 or form == "longer"))


def test_a_map_lies_on_its_image_for_readers_of_either_form(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    image = nib.Nifti1Image(np.arange(990, dtype=np.float32).reshape(9, 10, 11), None)
    image.set_sform(FORMS["moved"], 2)
    image.set_qform(np.diag([2.0, 3, 4, 1]), 1)
    nib.save(image, tmp_path / "a.nii")
    volume = prepared(tmp_path / "a.nii")
    assert np.allclose(volume.source.affine, FLIP @ FORMS["moved"])
    assert volume.source.note == (
        "its sform and qform differ by up to 41.2 mm; the sform counts, as for nibabel, and ITK "
        "(3D Slicer, SimpleITK) takes the qform; its maps have both"
    )
    write_nifti(tmp_path / "map.nii", volume.slices[0], volume, "map")
    own, its_map = (sitk.ReadImage(str(tmp_path / name)) for name in ("a.nii", "map.nii"))
    for get in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(own, get)() == getattr(its_map, get)()
    assert own.GetOrigin() == (0, 0, 0)
    assert np.array_equal(nib.load(tmp_path / "map.nii").affine, FORMS["moved"])
    assert np.array_equal(sitk.GetArrayFromImage(own), sitk.GetArrayFromImage(its_map))

    (said,) = (line for line in inspect(str(tmp_path)).summary if "with a note" in line)
    assert said == f"2 volumes with a note; the first: a.nii: {volume.source.note}"


def test_a_qform_that_is_no_rotation_is_said_beside_a_sform(tmp_path):
    image = nib.Nifti1Image(flat(), MOVED)
    image.set_qform(MOVED, 1)
    image.header["quatern_b"] = image.header["quatern_c"] = 1
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    source = prepared(tmp_path / "a.nii").source
    assert np.allclose(source.affine, FLIP @ MOVED)
    assert source.note.startswith("the quaternion of its qform is no rotation; the sform counts")


def two_places(path, forms="turned"):
    """A NIfTI whose sform and qform lie in different places."""
    image = nib.Nifti1Image(flat((20, 22, 24)), None)
    image.set_sform(FORMS[forms], 2)
    image.set_qform(np.diag([2.0, 3, 4, 1]), 1)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    "config", [{}, {"brain": {"spacing": 4}}, {"spacing": 2.0}, {"axis": "coronal"}, {"bias": 40}]
)
def test_a_note_reaches_the_user_however_a_volume_is_prepared(tmp_path, config):
    record = Record("a.nii", two_places(tmp_path / "a.nii"))
    preprocess = Preprocess(PreprocessConfig(least_foreground=0, **config))
    with DecodedFiles(tmp_path) as scratch:
        reader = Reader(preprocess, scratch=scratch)
        for loaded in (reader.read(record), reader.read(record)):  # the second time from scratch
            assert "its sform and qform differ" in loaded.note
            assert loaded.volume.source.note == loaded.note


def test_notes_of_channels_are_said_with_their_names(tmp_path):
    plain = nib.Nifti1Image(flat((20, 22, 24)), FORMS["moved"])
    nib.save(plain, tmp_path / "t1.nii")
    two_places(tmp_path / "t2.nii", "moved")
    channels = []
    for name in ("t1", "t2"):
        channels.append(ChannelFile(name, f"{name}.nii", tmp_path / f"{name}.nii"))
    record = Record("t1.nii", tmp_path / "t1.nii", channels=tuple(channels))
    note = readers.read_source(record).decode().note
    assert note.startswith("t2: its sform and qform differ by up to")
    opened = inspect(str(tmp_path), channels="t1=t1,t2=t2").summary
    said = [line for line in opened if "with a note" in line]
    assert said == [f"1 volume with a note; the first: t1.nii: {note}"]
