"""Score directories of volumes made by hand, without a model: voxels and maps that are known."""

import json
from dataclasses import asdict, replace

import nibabel
import numpy as np
import score_folders

from anodetect.data.geometry import FLIP_XY, along
from anodetect.files import sha256_of
from anodetect.record import channel_files, directories
from anodetect.record.rows import OutputRow, ScoreRow, SliceRow, to_table

# Columns of the source run to the patient's left, rows to the front, slices to the head: the rows
# on the screen run against those of the source. Slices are 5 mm thick, pixels 1 and 2 mm wide.
AFFINE = np.array([[-1.0, 0, 0, 10], [0, 2, 0, -30], [0, 0, 5, -20], [0, 0, 0, 1]])
SHAPE = (48, 32, 14)  # I, J, K


def voxels_of(number, shape=SHAPE):
    """Hounsfield units: air, a body of 40 with a bone, each voxel a little different."""
    i, j, k = np.indices(shape)
    centre = (np.array(shape) - 1) / 2
    inside = ((i - centre[0]) / centre[0]) ** 2 + ((j - centre[1]) / centre[1]) ** 2 < 0.8
    values = np.where(inside, 40 + i % 7 - j % 5 + 3 * k, -1000)
    values[shape[0] // 4 : shape[0] // 3, shape[1] // 2 :, :] = 900
    values[10 + number : 16 + number, 8:14, 4:7] = 75  # blood
    return values.astype(np.int16)


def heatmap_of(number, shape=SHAPE):
    """A map that counts most where the blood is."""
    values = np.full(shape, 0.1, np.float32) * np.linspace(0, 1, shape[2], dtype=np.float32)
    values[10 + number : 16 + number, 8:14, 4:7] = 0.9
    return values


def write(folder, count=2, shape=SHAPE, affine=AFFINE, plane="axial", voxels=voxels_of, joined=()):
    """Write `count` volumes below `folder`/images and their score directory; return its path. The
    slice number 5 of the source has the highest score, the last one was not scored. Those whose
    numbers are in `joined` have a second channel, the negative of the first."""
    audit = directories.read(score_folders.OLD).audit
    images, out = folder / "images", folder / "scores"
    images.mkdir(parents=True)
    (out / "heatmaps").mkdir(parents=True)
    geometry = along(shape, FLIP_XY @ affine, plane)

    rows, slices, outputs = [], [], []
    for number in range(count):
        name = f"head-{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(voxels(number, shape), affine), images / name)
        heatmap = f"heatmaps/{name}_heatmap.nii"
        nibabel.save(nibabel.Nifti1Image(heatmap_of(number, shape), affine), out / heatmap)
        depth, height, width = geometry.sides
        row = ScoreRow(
            path=name,
            sha256=sha256_of(images / name),
            group=name,
            score=float(count - number),
            p_value=(number + 1) / (count + 1),
            q_value=1.0,
            flagged=number < 1,
            threshold=0.5,
            heatmap=heatmap,
            width=width,
            height=height,
            depth=depth,
            model_sha256=audit.model_sha256,
            status="ok",
        )
        if number in joined:
            negative = nibabel.Nifti1Image(-voxels(number, shape), affine)
            nibabel.save(negative, images / f"negative-{name}")
            row = replace(row, **two_channels(images, name))
        rows.append(row)
        slices += slice_rows(name, geometry)
        digest = sha256_of(out / heatmap)
        outputs.append(OutputRow(name=heatmap, path=name, kind="nifti", sha256=digest))

    tables = directories.Tables(
        to_table(rows, ScoreRow),
        slices=to_table(slices, SliceRow),
        outputs=to_table(outputs, OutputRow),
    )
    audit = replace(audit, root=str(images), scale=(0.0, 1.0), heatmaps=["nifti"])
    directories.write(out, audit, tables)
    return out


def two_channels(images, name):
    """The columns of a row that say which files a volume was put together from."""
    listed, names = [], {"plain": name, "negative": f"negative-{name}"}
    for channel, file in names.items():
        sha256 = sha256_of(images / file)
        listed.append(channel_files.ListedChannel(channel, file, sha256))
    text = json.dumps([asdict(each) for each in listed])
    return {"channels": text, "sha256": channel_files.joint_sha256(listed)}


def slice_rows(name, geometry):
    """The rows of slices, in the order of the source."""
    depth = geometry.sides[0]
    rows = []
    for number in range(depth):
        shown = depth - 1 - number if geometry.flipped[0] else number
        x, y, z = geometry.centre(shown)
        score = None if number == depth - 1 else 1 - abs(number - 5) / depth
        rows.append(
            SliceRow(
                path=name,
                group=name,
                axis=geometry.plane,
                slice=number,
                left_mm=x,
                posterior_mm=y,
                superior_mm=z,
                foreground=0.5,
                score=score,
                flagged=None if score is None else score > 0.9,
                unscored="too little of it is foreground" if score is None else "",
            )
        )
    return rows
