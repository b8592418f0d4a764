"""A node that is killed while series are sent to it: are all scored once, and all results filed?

    python -m benchmarks.pacs [--series 200] [--kills 3] [--json]

Needs Orthanc with its DICOMweb plugin, and dcmtk. Orthanc is the archive that the series are in and
that results are pushed to; storescu sends them to the node, one after another, and again where the
node was not there. Kills are evenly spread over the series that are sent. A run of `intensity`,
which takes no time, is trained on 20 made-up heads of three slices of 16 × 16.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

import anodetect
from benchmarks import common

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
SLICES, SIDE = 3, 16
PATIENCE = 3600  # seconds until all must have been delivered


def write_series(folder: Path, number: int) -> list[Path]:
    """Write a made-up head, CT in Hounsfield units, and return its files."""
    folder.mkdir(parents=True)
    values = np.random.default_rng(number)
    down, right = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    inside = down**2 + right**2 < 40
    study, series, frame = (generate_uid() for _ in range(3))

    files = []
    for place in range(SLICES):
        pixels = np.full((SIDE, SIDE), -1000, "<i2")
        pixels[inside] = values.integers(0, 80, inside.sum())
        made = _header(study, series, frame, place)
        made.PatientID, made.PatientName = f"BENCHMARK-{number}", f"Benchmark^{number}"
        made.PixelData = pixels.tobytes()
        files.append(folder / f"{place}.dcm")
        made.save_as(files[-1], enforce_file_format=True)
    return files


def _header(study: str, series: str, frame: str, place: int) -> Dataset:
    made, meta = Dataset(), FileMetaDataset()
    made.file_meta = meta
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = meta.MediaStorageSOPClassUID = CTImageStorage
    made.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = study, series, frame
    made.Modality, made.ImageType = "CT", ["ORIGINAL", "PRIMARY"]
    made.PatientBirthDate = made.PatientSex = made.StudyID = made.AccessionNumber = ""
    made.StudyDate = made.StudyTime = made.ReferringPhysicianName = ""
    made.Rows = made.Columns = SIDE
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 1
    made.RescaleSlope, made.RescaleIntercept = 1, 0
    made.PixelSpacing, made.SliceThickness = [10, 10], 10
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.ImagePositionPatient = [0, 0, 10 * place]
    made.InstanceNumber = place + 1
    return made


# -- Processes -------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until something listens on a port."""
    for _ in range(1200):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


@contextmanager
def orthanc(folder: Path) -> Iterator[str]:
    """Run an archive; yield its address by HTTP."""
    http = free_port()
    settings = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": http,
        "DicomPort": free_port(),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [PLUGIN],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    folder.mkdir()
    file = folder / "orthanc.json"
    file.write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(file)], stdout=log, stderr=log)
        try:
            wait_for(http)
            yield f"http://127.0.0.1:{http}"
        finally:
            process.kill()
            process.wait()


class Node:
    """The node, which can be killed and started again."""

    def __init__(self, run: Path, folder: Path, archive: str) -> None:
        self.port = free_port()
        self.command = [
            sys.executable, "-m", "anodetect.cli", "pacs", "listen", str(run),
            "--out", str(folder), "--port", str(self.port), "--quiet", "2",
            "--heatmaps", "dicom", "--to", f"{archive}/dicom-web",
        ]  # fmt: skip
        self.ledger = folder / "ledger.jsonl"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
        )
        wait_for(self.port)

    def end(self, number: int) -> int:
        """Send a signal; return the exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        return self.process.wait()

    def states(self) -> Counter[str]:
        """Return how many jobs are in each state."""
        states: dict[int, str] = {}
        for line in self.ledger.read_text().splitlines() if self.ledger.is_file() else []:
            event = json.loads(line)
            states[event["job"]] = event["state"]
        return Counter(states.values())


def send(port: int, files: Sequence[Path]) -> bool:
    """Send files as a scanner would; return whether all were taken."""
    command = ["storescu", "-aec", "ANODETECT", "127.0.0.1", str(port), *map(str, files)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


# -- Measurement -----------------------------------------------------------------------------------


def measure(scratch: Path, series: int, kills: int) -> dict[str, Any]:
    """Send series while the node is killed; return what came of it."""
    for number in range(20):
        write_series(scratch / "normal" / str(number), number)
    run = scratch / "run"
    anodetect.train(str(scratch / "normal"), "intensity", run)

    with orthanc(scratch / "orthanc") as archive:
        node = Node(run, scratch / "node", archive)
        try:
            return _measured(scratch, series, kills, archive, node)
        finally:
            node.end(signal.SIGKILL)


def _measured(scratch: Path, series: int, kills: int, archive: str, node: Node) -> dict[str, Any]:
    sent = [write_series(scratch / "sent" / str(number), 100 + number) for number in range(series)]
    for files in sent:
        for file in files:
            requests.post(f"{archive}/instances", data=file.read_bytes(), timeout=60)
    node.start()
    began, again = time.monotonic(), 0
    at = {series * (kill + 1) // (kills + 1) for kill in range(kills)}
    for number, files in enumerate(sent):
        if number in at:
            time.sleep(random.uniform(0, 3))
            node.end(signal.SIGKILL)
        while not send(node.port, files):
            again += 1
            node.start()

    while node.states()["delivered"] + node.states()["failed"] < series:
        if time.monotonic() - began > PATIENCE:
            break
        time.sleep(0.5)
    seconds = time.monotonic() - began
    code = node.end(signal.SIGTERM)
    return _found(scratch, archive, node) | {
        "series sent": series,
        "kills": kills,
        "sent again": again,
        "seconds until all were delivered": round(seconds, 1),
        "exit code after SIGTERM": code,
    }


def _found(scratch: Path, archive: str, node: Node) -> dict[str, Any]:
    """Return what is in the ledger and in the archive."""
    scored = list((scratch / "node" / "jobs").glob("*/scores/audit.json"))
    written = sum(1 for _ in (scratch / "node" / "jobs").glob("*/scores/**/*.dcm"))
    results = 0
    beside = 0
    for study in requests.get(f"{archive}/studies?expand", timeout=60).json():
        kinds = []
        for each in study["Series"]:
            found = requests.get(f"{archive}/series/{each}", timeout=60).json()
            kinds.append((found["MainDicomTags"]["Modality"], len(found["Instances"])))
        results += sum(count for kind, count in kinds if kind != "CT")
        beside += len({kind for kind, _ in kinds}) > 1 and ("CT", SLICES) in kinds
    return {
        "jobs": sum(node.states().values()),
        "jobs delivered": node.states()["delivered"],
        "score directories": len(scored),
        "results written": written,
        "results in the archive": results,
        "studies with results beside the scan": beside,
    }


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        common.show(measure(Path(scratch), arguments.series, arguments.kills), arguments.json)


if __name__ == "__main__":
    main()
