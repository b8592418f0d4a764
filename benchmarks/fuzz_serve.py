"""What is sent to `serve`: files of five kinds and requests, each with one thing changed.

    python -m benchmarks.fuzz_serve RUN [--count 1000] [--seed 0]

One field of a header, chunk, tag or element becomes another, with checksums made to fit; or one is
taken away or doubled, a file is cut, or the request has another name, map, token or size. Each is
answered by one JSON object with a status of its own, within a minute, and nothing of it stays.
"""

import io
import struct
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from starlette.testclient import TestClient

from anodetect.commands.serve import application, line_of
from anodetect.errors import REPORT_IT
from benchmarks.fuzz import ODD, SLOW, Finding, print_findings

FAR = 0.2
STATUSES = (200, 400, 413, 415, 422)
LARGEST = 2**20  # bytes that are taken
NUMBERS = (0, 1, 2, 3, 7, 16, 255, 256, 32767, 65535, 2**31 - 1, 2**32 - 1)
REALS = (0.0, -1.0, 1e-38, 1e38, float("nan"), float("inf"))
NAMES = ("", "a", "a.png", "../../x.nii.gz", "/etc/passwd", "a.dcm\0.png", "é" * 5000, ".x" * 99)
PNG_FIELDS = (">I", 0), (">I", 4), (">B", 8), (">B", 9), (">B", 10), (">B", 11), (">B", 12)
NIFTI_FIELDS = (
    *(("<h", 40 + 2 * place) for place in range(8)), ("<h", 70), ("<h", 72),
    *(("<f", 76 + 4 * place) for place in range(8)), ("<f", 108), ("<f", 112), ("<f", 116),
    ("<h", 252), ("<h", 254), *(("<f", 280 + 4 * place) for place in range(12)), ("<I", 344),
)  # fmt: skip
ELEMENTS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "PixelSpacing",
    "RescaleSlope", "RescaleIntercept", "Modality", "PixelData", "SOPClassUID", "PatientID",
)  # fmt: skip
OTHERS = (None, "", "x", 0, -1, 65535, "MONOCHROME1", "RGB", b"\xff\xfe", ["1", "2", "3"], "1e999")


@dataclass(frozen=True)
class Sent:
    """A request: the bytes of a file, its name, and the map that is wanted."""

    content: bytes
    name: str
    map: str = "none"


def _pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.add.outer(np.arange(48), np.arange(40)).astype(np.uint8)


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_pixels()).save(buffer, "png")
    return buffer.getvalue()


def _tiff() -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, _pixels().astype(np.float32))
    return buffer.getvalue()


def _nifti() -> bytes:
    voxels = np.stack([_pixels()] * 6, -1).astype(np.int16)
    content: bytes = nib.Nifti1Image(voxels, np.eye(4)).to_bytes()
    return content


def _dicom() -> bytes:
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.Modality, dataset.PatientID, dataset.SeriesInstanceUID = "DX", "7", generate_uid()
    dataset.Rows, dataset.Columns = _pixels().shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
    dataset.PhotometricInterpretation, dataset.PixelSpacing = "MONOCHROME2", ["1", "1"]
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    dataset.PixelData = _pixels().tobytes()
    return _saved(dataset)


def _saved(dataset: pydicom.Dataset) -> bytes:
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.preamble = bytes(128)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=False)
    return buffer.getvalue()


# -- Mutations -------------------------------------------------------------------------------------


def _packed(content: bytes, kind: str, place: int, rng: np.random.Generator) -> bytes:
    """Return bytes with another number of this struct's kind at a place."""
    value = rng.choice(REALS if kind[1] in "fd" else NUMBERS)
    size = struct.calcsize(kind)
    if kind[1] in "fd":
        packed = struct.pack(kind, value)
    else:
        packed = int(value).to_bytes(8, "little" if kind[0] == "<" else "big")
        packed = packed[:size] if kind[0] == "<" else packed[-size:]
    return content[:place] + packed + content[place + size :]


def _other_png(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a PNG with another field of its header, or a chunk that is missing, doubled or cut."""
    chunks, place = list[tuple[bytes, bytes]](), 8
    while place < len(content):
        (size,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += size + 12

    action, number = rng.choice(["field", "drop", "twice", "cut"]), int(rng.integers(len(chunks)))
    if action == "field":
        kind, at = PNG_FIELDS[rng.integers(len(PNG_FIELDS))]
        chunks[0] = (chunks[0][0], _packed(chunks[0][1], kind, at, rng))
    elif action == "drop":
        del chunks[number]
    elif action == "twice":
        chunks.insert(number, chunks[number])
    else:
        chunks[number] = (chunks[number][0], chunks[number][1][: len(chunks[number][1]) // 2])

    parts = [content[:8]]
    for name, data in chunks:
        check = struct.pack(">I", zlib.crc32(name + data))
        parts.append(struct.pack(">I", len(data)) + name + data + check)
    return b"".join(parts)


def _other_tiff(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a TIFF of which one tag has another type, count or value."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        tags = list(file.pages.first.tags)
    place = tags[rng.integers(len(tags))].offset
    kind, at = (("<H", 2), ("<I", 4), ("<I", 8))[rng.integers(3)]
    return _packed(content, kind, place + at, rng)


def _other_nifti(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a NIfTI with another field of its header."""
    kind, place = NIFTI_FIELDS[rng.integers(len(NIFTI_FIELDS))]
    return _packed(content, kind, place, rng)


def _other_dicom(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a DICOM file of which one element is another one, or is missing."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    name, value = str(rng.choice(ELEMENTS)), OTHERS[rng.integers(len(OTHERS))]
    with suppress(AttributeError):
        delattr(dataset, name)
    with suppress(ValueError, TypeError, AttributeError, OverflowError, OSError, KeyError):
        setattr(dataset, name, value)
        return _saved(dataset)
    with suppress(AttributeError):
        delattr(dataset, name)
    return _saved(dataset)


FILES: dict[str, tuple[Callable[[], bytes], Callable[[bytes, np.random.Generator], bytes]]] = {
    "a.png": (_png, _other_png),
    "a.tif": (_tiff, _other_tiff),
    "a.nii": (_nifti, _other_nifti),
    "a.dcm": (_dicom, _other_dicom),
}


def mutated(rng: np.random.Generator) -> tuple[str, Sent]:
    """Return a request of which one thing is changed, and which."""
    name = str(rng.choice(sorted(FILES)))
    make, change = FILES[name]
    sent = Sent(make(), name, str(rng.choice(["none", "tiff", "npy"])))
    action = rng.choice(["field", "name", "map", "cut", "size"], p=(0.7, 0.1, 0.05, 0.1, 0.05))
    if action == "field":
        sent = replace(sent, content=change(sent.content, rng))
    elif action == "name":
        sent = replace(sent, name=NAMES[rng.integers(len(NAMES))])
    elif action == "map":
        odd = [value for value in ODD if isinstance(value, str) and value.isprintable()]
        sent = replace(sent, map=odd[rng.integers(len(odd))])
    elif action == "cut":
        sent = replace(sent, content=sent.content[: rng.integers(len(sent.content))])
    else:
        sent = replace(sent, content=sent.content + bytes(LARGEST))
    return f"{name}: {action}", sent


def fuzz_serve(run: Path, work: Path, count: int, seed: int) -> Iterator[Finding]:
    """Yield what goes wrong with `count` requests to a run's address; what is sent lies in
    `work`."""
    rng = np.random.default_rng(seed)
    with TestClient(application(line_of(run, work, FAR, "cpu"), largest=LARGEST)) as client:
        for _ in range(count):
            mutation, sent = mutated(rng)
            trace = _trace_of(client, sent, work)
            if trace:
                yield Finding(mutation, "serve", trace)


def _trace_of(client: TestClient, sent: Sent, work: Path) -> str:
    """Return why a request is not answered as it should be; "" if it is."""
    began = time.monotonic()
    try:
        params = {"name": sent.name, "map": sent.map}
        answer = client.post("/score", content=sent.content, params=params)
        said = answer.json()
    except Exception:
        return traceback.format_exc()

    error = str(said.get("error", ""))
    if answer.status_code not in STATUSES or (answer.status_code != 200 and not error):
        return f"status {answer.status_code}, {error!r}"
    if "\n" in error or error.startswith(REPORT_IT) or str(work) in error:
        return f"it says {error!r}"
    if left := list(work.iterdir()):
        return f"it left {left}"
    return "it hangs" if time.monotonic() - began > SLOW else ""


def main() -> None:
    """Print the findings."""
    print_findings(__doc__, "run", fuzz_serve, "requests")


if __name__ == "__main__":
    main()
