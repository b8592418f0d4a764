"""Truth of volumes: masks in another order of axes, and DICOM Segmentations."""

import itertools
import shutil

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, RLELossless, generate_uid

from anodetect.data import readers
from anodetect.data.geometry import FLIP_XY, along
from anodetect.data.records import Record
from anodetect.data.regrid import on_grid_of
from anodetect.data.scan import scan
from anodetect.data.truth import read_truth
from anodetect.data.volumes import Volume
from anodetect.errors import ImageError
from anodetect.files import sha256_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:pydicom.*", "ignore::UserWarning:highdicom.*"
)
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.array([[0.98, -0.199, 0], [0.199, 0.98, 0], [0, 0, 1]]) @ np.array(
    [[0, 0, 0.8], [0, 0.9, 0], [3.0, 0, 0]]
)
AFFINE[:3, 3] = [-20, -17, 30]
SHAPE = (9, 10, 11)
VALUES = np.random.default_rng(3).random(SHAPE).astype(np.float32)
MARKED = VALUES > 0.7


def volume_of(values, affine):
    return Volume(np.asarray(values, np.float32)[None], np.asarray(affine, float))


def reordered(values, affine, axes, flips):
    """The same voxels in another order, made with nibabel's orientations."""
    ornt = np.array([[axis, -1 if flip else 1] for axis, flip in zip(axes, flips, strict=True)])
    moved = nib.orientations.apply_orientation(values, ornt)
    return moved, affine @ nib.orientations.inv_ornt_aff(ornt, values.shape)


@pytest.mark.parametrize("affine", [np.diag([-1.5, -2, 3, 1]), AFFINE], ids=["straight", "oblique"])
def test_every_order_and_direction_of_axes_is_put_back_exactly(affine):
    image = volume_of(VALUES, affine)
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            mask = volume_of(*reordered(MARKED, affine, axes, flips))
            same = on_grid_of(mask, image)
            assert np.array_equal(same.voxels[0], MARKED)
            assert np.allclose(same.affine, affine)


@pytest.mark.parametrize(
    "change",
    [
        np.diag([1, 1, 2, 1]),
        np.diag([1, 1, 1.02, 1]),
        np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[0.96, -0.28, 0, 0], [0.28, 0.96, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
    ids=["spacing", "scaled", "half a voxel", "a voxel", "turned"],
)
def test_other_places_are_no_order_of_axes(change):
    affine = np.diag([-1.5, -2, 3, 1.0])
    image = volume_of(VALUES, affine)
    assert on_grid_of(volume_of(MARKED, affine @ change), image) is None
    flipped, moved = reordered(MARKED, affine @ change, (2, 0, 1), (True, False, True))
    assert on_grid_of(volume_of(flipped, moved), image) is None
    assert on_grid_of(volume_of(MARKED[:-1], affine), image) is None


def write_nifti(path, values, lps_affine):
    nib.save(nib.Nifti1Image(values, FLIP_XY @ lps_affine), path)
    return path


def slices_of(volume, marked):
    geometry = along(volume.voxels.shape[1:], volume.affine)
    return geometry, np.asarray(geometry.to_slices(marked))


def test_a_ras_mask_of_an_lps_image_is_read_and_a_shifted_one_refused(tmp_path):
    affine = np.diag([3.0, 3, 5, 1])
    image = write_nifti(tmp_path / "i.nii.gz", VALUES, affine)
    mask = nib.Nifti1Image(MARKED.astype(np.uint8), FLIP_XY @ affine)
    canonical = nib.as_closest_canonical(mask)
    assert not np.allclose(canonical.affine, mask.affine)
    nib.save(canonical, tmp_path / "ras.nii.gz")
    volume = readers.read_source(Record("i", image)).decode()
    geometry, expected = slices_of(volume, MARKED)
    record = Record(
        "i", image, masks=(tmp_path / "ras.nii.gz",), foreground=tmp_path / "ras.nii.gz"
    )
    assert np.array_equal(read_truth(record, expected.shape, (volume, geometry)), expected)
    assert np.array_equal(readers.supplied_foreground(record, volume), MARKED)

    shifted = canonical.affine.copy()
    shifted[0, 3] += 1
    nib.save(nib.Nifti1Image(canonical.get_fdata(), shifted), tmp_path / "s.nii.gz")
    with pytest.raises(ImageError, match="same grid"):
        readers.volume_mask(tmp_path / "s.nii.gz", volume, geometry)


# -- DICOM Segmentations ---------------------------------------------------------------------------


def write_series(folder, voxels, order):
    """An MR series [K, R, C] whose index goes to LPS+ by AFFINE, its files named in this order."""
    folder.mkdir(parents=True)
    uids = [generate_uid() for _ in range(3)]
    for name, number in enumerate(order):
        made = Dataset()
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = MRImageStorage
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = uids
        made.Modality, made.PatientID, made.PatientName, made.PatientSex = "MR", "p", "p", "F"
        for tag in ("PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
            setattr(made, tag, "")
        made.Rows, made.Columns = voxels.shape[1:]
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.BitsAllocated = made.BitsStored = 16
        made.HighBit, made.PixelRepresentation = 15, 1
        lengths = np.linalg.norm(AFFINE[:3, :3], axis=0)
        made.PixelSpacing = [f"{lengths[1]:.8f}", f"{lengths[2]:.8f}"]
        directions = [*AFFINE[:3, 2] / lengths[2], *AFFINE[:3, 1] / lengths[1]]
        made.ImageOrientationPatient = [f"{value:.10f}" for value in directions]
        place = AFFINE[:3, 3] + number * AFFINE[:3, 0]
        made.ImagePositionPatient = [f"{value:.8f}" for value in place]
        made.SliceThickness, made.InstanceNumber = 3, number + 1
        made.PixelData = voxels[number].astype("<i2").tobytes()
        made.save_as(folder / f"IM{name:03}.dcm", enforce_file_format=True)
    return folder


def segmentation(folder, marked, **options):
    """A Segmentation of [segments, slices, rows, columns] by highdicom."""
    headers = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    pixels = np.moveaxis(marked, 0, -1)
    code = CodedConcept("49755003", "SCT", "Morphologically abnormal structure")
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"s{number}",
            segmented_property_category=code,
            segmented_property_type=code,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in range(1, len(marked) + 1)
    ]
    kind = options.pop("kind", hd.seg.SegmentationTypeValues.BINARY)
    return hd.seg.Segmentation(
        source_images=headers,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
        **options,
    )


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """A DICOM series, its volume, and what is marked of it in two segments."""
    values = np.random.default_rng(1).integers(0, 900, (9, 12, 14)).astype(np.int16)
    order = [3, 1, 8, 0, 2, 7, 4, 6, 5]
    folder = write_series(tmp_path_factory.mktemp("dicom") / "s", values, order)
    files = tuple(sorted(folder.iterdir()))
    volume = readers.read_source(Record("s", files[0], files=files)).decode()
    marked = np.zeros((2, 9, 12, 14), bool)
    marked[0, 2:5, 3:7, 4:11] = True
    marked[1, 6, 1, 1:13] = True
    # highdicom takes the pixels in the order of the headers, which is that of the names
    return folder, volume, marked, marked[:, order]


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        (hd.seg.SegmentationTypeValues.BINARY, None),
        (hd.seg.SegmentationTypeValues.FRACTIONAL, None),
        (hd.seg.SegmentationTypeValues.FRACTIONAL, RLELossless),
        (hd.seg.SegmentationTypeValues.LABELMAP, None),
    ],
)
@pytest.mark.parametrize("omit", [True, False])
def test_frames_of_a_segmentation_are_placed_by_their_positions(
    tmp_path, scanned, kind, syntax, omit
):
    folder, volume, marked, in_order = scanned
    options = {} if syntax is None else {"transfer_syntax_uid": syntax}
    made = segmentation(
        folder, in_order.astype(np.uint8), kind=kind, omit_empty_frames=omit, **options
    )
    made.save_as(tmp_path / "seg.dcm")
    record = Record("s", folder, masks=(tmp_path / "seg.dcm",))
    geometry, expected = slices_of(volume, marked.any(0))
    assert np.array_equal(read_truth(record, expected.shape, (volume, geometry)), expected)


def test_a_segmentation_that_marks_nothing_is_empty(tmp_path, scanned):
    folder, volume, _, in_order = scanned
    made = segmentation(folder, np.zeros_like(in_order, np.uint8), omit_empty_frames=False)
    made.save_as(tmp_path / "seg.dcm")
    geometry, expected = slices_of(volume, np.zeros(volume.voxels.shape[1:], bool))
    assert np.array_equal(readers.volume_mask(tmp_path / "seg.dcm", volume, geometry), expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda made: setattr(made, "FrameOfReferenceUID", "1.2.3"), "another frame of reference"),
        (lambda made: measures(made).__setattr__("PixelSpacing", [0.9, 0.4]), "same grid"),
        (lambda made: move(made, 0.4), "same grid"),
        (lambda made: move(made, 900), "same grid"),
    ],
)
def test_a_segmentation_elsewhere_is_refused(tmp_path, scanned, change, reason):
    folder, volume, _, in_order = scanned
    made = segmentation(folder, in_order.astype(np.uint8))
    change(made)
    made.save_as(tmp_path / "seg.dcm")
    with pytest.raises(ImageError, match=reason):
        readers.volume_mask(tmp_path / "seg.dcm", volume, slices_of(volume, volume.voxels[0])[0])


def measures(made):
    return made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def move(made, millimetres):
    for group in made.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        x, y, z = place.ImagePositionPatient
        place.ImagePositionPatient = [round(float(x) + millimetres, 6), y, z]


@pytest.mark.parametrize("name", ["case1.nii.gz", "case1_seg.nii.gz", "case1.dcm", "case1/a.dcm"])
def test_the_mask_of_a_series_has_the_name_of_its_folder(tmp_path, scanned, name):
    folder, volume, marked, in_order = scanned
    for place in ("test/good/case0", "test/lesion/case1"):
        shutil.copytree(folder, tmp_path / place)
    path = tmp_path / "ground_truth/lesion" / name
    path.parent.mkdir(parents=True)
    if path.suffix == ".dcm":
        segmentation(folder, in_order.astype(np.uint8)).save_as(path)
    else:
        write_nifti(path, marked.any(0).astype(np.uint8), volume.affine)
    (record,) = (each for each in scan(tmp_path).records if each.label)
    assert record.masks == (path,)
    geometry, expected = slices_of(volume, marked.any(0))
    assert np.array_equal(read_truth(record, expected.shape, (volume, geometry)), expected)


def test_a_dicom_image_is_no_mask(scanned):
    folder, volume, _, _ = scanned
    first = sorted(folder.iterdir())[0]
    before = sha256_of(first)
    with pytest.raises(ImageError, match="DICOM, but no segmentation"):
        readers.volume_mask(first, volume, slices_of(volume, volume.voxels[0])[0])
    assert sha256_of(first) == before


def test_a_segmentation_marks_a_nifti_of_the_same_places(tmp_path, scanned):
    folder, volume, marked, in_order = scanned
    made = segmentation(folder, in_order.astype(np.uint8))
    made.save_as(tmp_path / "seg.dcm")
    turned, affine = reordered(volume.voxels[0], volume.affine, (2, 1, 0), (True, False, True))
    path = write_nifti(tmp_path / "i.nii.gz", turned, affine)
    other = readers.read_source(Record("i", path)).decode()
    expected, _ = reordered(marked.any(0), volume.affine, (2, 1, 0), (True, False, True))
    geometry, slices = slices_of(other, expected)
    assert np.array_equal(readers.volume_mask(tmp_path / "seg.dcm", other, geometry), slices)
