"""The peak memory of scoring a large DICOM series, as a multiple of the series as float32.

    python -m benchmarks.memory [--megabytes 500] [--series 1] [--heatmaps nifti,png,mask,dicom]

A run of `intensity`, which has no weights, learns from small made-up series. Two fresh processes
then score made-up CT series of slices of 512 × 512 in 16 bits: one series of 4 slices, and one or
more of so many that each takes the megabytes as float32. Memory is the difference of their peaks.
The series have padding, as CT has, and bright spots that become findings.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

import anodetect
from benchmarks import common

SIDE, NORMALS, FEW = 512, 20, 4
PADDING, AIR, TISSUE, BRIGHT = -2000, -1000, 40, 900


def write_series(folder: Path, depth: int, seed: int, side: int = SIDE) -> None:
    """Write a CT series that looks like a cylinder of soft tissue with bright spots."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    radius = np.hypot(x, y)

    for number in range(depth):
        values = np.where(radius < 0.7, TISSUE + 20 * rng.normal(size=radius.shape), AIR)
        row, column = rng.integers(side * 3 // 8, side * 5 // 8, 2)
        values[row : row + side // 32, column : column + side // 32] = BRIGHT
        values[radius > 1] = PADDING
        header = slice_header(number, side)
        header.StudyInstanceUID, header.SeriesInstanceUID = study, series
        header.FrameOfReferenceUID, header.PatientID = frame, str(seed)
        header.PixelData = values.round().astype("<i2").tobytes()
        header.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)


def slice_header(number: int, side: int) -> Dataset:
    """Return the header of a slice of a CT, without the identifiers that a series shares."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = CTImageStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.Modality, header.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.Rows = header.Columns = side
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation, header.RescaleSlope, header.RescaleIntercept = 1, 1, 0
    header.PixelSpacing, header.SliceThickness = [0.7, 0.7], 1
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.ImagePositionPatient = [-180, -180, float(number)]
    header.InstanceNumber, header.PatientSex = number + 1, ""
    return header


def peak(run: Path, series: Path, out: Path, heatmaps: str) -> float:
    """Return the peak memory in MB of a process that scores a series."""
    command = [sys.executable, "-m", "anodetect.cli", "score", str(run), str(series)]
    command += ["--out", str(out), "--heatmaps", heatmaps, "--workers", "1", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout)
    assert result["scored"] and not result["failed"], result
    return float(result["peak_memory_mb"])


def measure(megabytes: float, count: int, heatmaps: str) -> dict[str, Any]:
    """Return the peaks, and the multiple."""
    depth = max(FEW + 1, round(megabytes * 1e6 / (4 * SIDE * SIDE)))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number in range(NORMALS):
            write_series(folder / "normal" / str(number), FEW, seed=number, side=64)
        anodetect.train(str(folder / "normal"), "intensity", folder / "run")

        peaks = {}
        for slices, several in ((FEW, 1), (depth, count)):
            series = folder / f"in{slices}"
            for number in range(several):
                write_series(series / str(number), slices, seed=NORMALS + number)
            peaks[slices] = peak(folder / "run", series, folder / f"out{slices}", heatmaps)

    size = 4 * SIDE * SIDE * depth / 1e6
    return {
        "series": count,
        "slices": depth,
        "MB as float32": round(size),
        f"peak MB, {FEW} slices": round(peaks[FEW]),
        "peak MB": round(peaks[depth]),
        "difference in series of float32": round((peaks[depth] - peaks[FEW]) / size, 2),
    }


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--series", type=int, default=1)
    parser.add_argument("--heatmaps", default="nifti,png,mask,dicom")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    common.show(measure(arguments.megabytes, arguments.series, arguments.heatmaps), arguments.json)


if __name__ == "__main__":
    main()
