"""To and from an archive: against Orthanc with its DICOMweb plugin and dcmtk's dcmqrscp, which are
programs of the distribution."""

import asyncio
import csv
import json
import os
import queue
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom.uid import generate_uid
from test_dicom import SECRETS, instance
from typer.testing import CliRunner

import anodetect
from anodetect.cli import app
from anodetect.commands import pacs
from anodetect.commands.listen import listen
from anodetect.engines import arrivals
from anodetect.errors import ConfigError, DataError, RunError
from anodetect.pacs import connection
from anodetect.pacs.archive import Answer, ArchiveError, FoundSeries
from anodetect.pacs.inbox import Inbox, Limits
from anodetect.pacs.nodes import Own, Tls, address_of
from anodetect.record import directories
from anodetect.record.ledger import Ledger
from anodetect.types import Silent

pytest.importorskip("pynetdicom", reason="the extra `pacs` is not installed")
pytest.importorskip("dicomweb_client", reason="the extra `pacs` is not installed")
from anodetect.pacs.receiver import receiving  # needs the extra

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:pydicom.*", "ignore::UserWarning:highdicom.*"
)
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ORTHANC = shutil.which("Orthanc")
needs_orthanc = pytest.mark.skipif(
    ORTHANC is None or not PLUGIN.is_file(),
    reason="no orthanc here: apt-get install orthanc orthanc-dicomweb",
)
needs_dcmtk = pytest.mark.skipif(
    not (shutil.which("dcmqrscp") and shutil.which("storescu")),
    reason="no dcmtk here: apt-get install dcmtk",
)
SLICES = 3
USER = ("tests", "open-sesame")
SECRET = "tagged"  # is in all that SECRETS says of a patient


# -- Scans -----------------------------------------------------------------------------------------


def voxels(seed):
    """A made-up head, CT in Hounsfield units [SLICES, 16, 16]."""
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[:16, :16] - 7.5
    inside = down**2 + right**2 < 40
    made = np.full((SLICES, 16, 16), -1000, np.int16)
    made[:, inside] = rng.integers(0, 80, (SLICES, inside.sum()))
    return made


def write_scan(folder, seed, **tags):
    """A series of a study and a patient of its own; return its UID and its files."""
    folder.mkdir(parents=True, exist_ok=True)
    uids = tuple(generate_uid() for _ in range(3))
    tags = {"Modality": "CT", "PatientID": f"TAGGED-{seed}", "RescaleSlope": 1} | tags
    files = []
    for number, stored in enumerate(voxels(seed)):
        made = instance(stored, number=number, uids=uids, RescaleIntercept=0, **tags)
        files.append(folder / f"{seed}-{number}.dcm")
        made.save_as(files[-1], enforce_file_format=True)
    return uids[1], files


@pytest.fixture(scope="module", autouse=True)
def own_key(tmp_path_factory):
    """A key for pseudonyms of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has learned nothing but ranges: all it needs is 20 heads."""
    folder = tmp_path_factory.mktemp("heads")
    for seed in range(20):
        write_scan(folder / f"head{seed}", seed)
    out = tmp_path_factory.mktemp("runs") / "intensity"
    anodetect.train(str(folder), "intensity", out)
    return out


# -- Servers ---------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for_port(port, process):
    for _ in range(2400):
        assert process.poll() is None, "the server ended"
        with socket.socket() as trial:
            trial.settimeout(1)
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")


@contextmanager
def running(*command, port, log):
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_for_port(port, process)
            yield process
        finally:
            process.kill()
            process.wait()


def own_certificate(folder):
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    plain = serialization.NoEncryption()
    format_ = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, format_, plain))
    return folder / "cert.pem", folder / "key.pem"


async def relay(reader, writer):
    """Send on what arrives, until it ends."""
    with suppress(OSError):
        while part := await reader.read(2**16):
            writer.write(part)
            await writer.drain()
    writer.close()


@contextmanager
def behind_tls(port, certificate, key):
    """A port of a web server that speaks TLS and passes on to what listens on `port`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    running = queue.Queue()

    async def passed_on(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(asyncio.CancelledError):  # a connection that is kept when all ends
            await asyncio.gather(relay(reader, inner_writer), relay(inner_reader, writer))
        inner_writer.close()
        writer.close()

    async def serve():
        stop = asyncio.Event()
        server = await asyncio.start_server(passed_on, "127.0.0.1", 0, ssl=context)
        running.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    own, loop, stop = running.get(timeout=30)
    try:
        yield own
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


class Orthanc:
    """An archive that runs and wants a password: its addresses by both protocols, and what it
    has."""

    def __init__(self, http, dicom, own):
        self.root, self.dimse = f"http://127.0.0.1:{http}", f"dicom://ORTHANC@127.0.0.1:{dicom}"
        self.url, self.own_port = f"{self.root}/dicom-web", own
        self.session = requests.Session()
        self.session.auth = USER

    def rest(self, path):
        return self.session.get(f"{self.root}{path}", timeout=30).json()

    def add(self, files):
        for file in files:
            added = self.session.post(f"{self.root}/instances", data=file.read_bytes(), timeout=30)
            added.raise_for_status()

    def series(self):
        """All series as (modality, study, number of objects)."""
        found = []
        for each in self.rest("/series?expand"):
            study = self.rest(f"/studies/{each['ParentStudy']}")["MainDicomTags"]
            tags = each["MainDicomTags"]
            found.append((tags["Modality"], study["StudyInstanceUID"], len(each["Instances"])))
        return sorted(found)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """Orthanc; the environment has its password. (By TLS the one of Debian 12 crashes, so that a
    server in front of it speaks TLS: `behind_tls`.)"""
    folder = tmp_path_factory.mktemp("orthanc")
    http, dicom, own = free_port(), free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": dict([USER]),
        "Plugins": [str(PLUGIN)],
        "DicomModalities": {"own": ["ANODETECT", "127.0.0.1", own]},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANODETECT_PACS_USER", USER[0])
        patch.setenv("ANODETECT_PACS_PASSWORD", USER[1])
        with running(ORTHANC, str(file), port=http, log=folder / "log"):
            yield Orthanc(http, dicom, own)


@pytest.fixture
def dcmqrscp(tmp_path):
    """dcmtk's archive; return its address and the port to which it sends what is moved."""
    port, own = free_port(), free_port()
    store = tmp_path / "qr"
    store.mkdir()
    config = tmp_path / "qr.cfg"
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nown = (ANODETECT, localhost, {own})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMTK {store} RW (100, 1024mb) ANY\nAETable END\n"
    )
    with running("dcmqrscp", "-c", str(config), port=port, log=tmp_path / "log"):
        yield f"dicom://DCMTK@127.0.0.1:{port}", own


def send(port, files, title="ANODETECT", calling="SCANNER", more=()):
    """Send files with dcmtk; return whether all were taken."""
    done = subprocess.run(
        [
            "storescu",
            *map(str, more),
            "-aet",
            calling,
            "-aec",
            title,
            "127.0.0.1",
            str(port),
            *map(str, files),
        ],
        check=False,
        capture_output=True,
    )
    return done.returncode == 0


def manifest(folder):
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def texts_with(secret, folder):
    """The files below a folder, other than DICOM objects, in which a text stands."""
    found = []
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".dcm" and secret in file.read_bytes().lower():
            found.append(file.name)
    return found


# -- Pull ------------------------------------------------------------------------------------------


@needs_orthanc
@pytest.mark.parametrize("how", ["web", "get", "move"])
def test_a_pull_brings_what_was_asked_for_once(orthanc, tmp_path, how, run):
    marks = {"SeriesDescription": f"Tagged head {how}"}
    wanted = [write_scan(tmp_path / "in", seed, **marks) for seed in (1, 2)]
    others = [
        write_scan(tmp_path / "in", 3, SeriesDescription=f"Tagged foot {how}"),
        write_scan(tmp_path / "in", 4, StudyDate="20180101", **marks),
        write_scan(tmp_path / "in", 5, Modality="MR", **marks),
    ]
    for _, files in wanted + others:
        orthanc.add(files)
    archive = orthanc.url if how == "web" else orthanc.dimse
    own = pacs.own_side(port=orthanc.own_port, retrieve="move" if how == "move" else "get")
    out = tmp_path / "out"

    def pull(**more):
        return pacs.pull(
            archive, out, modality="ct", description=f"*head {how}", since="2019-01-01", own=own,
            **more,
        )  # fmt: skip

    result = pull()
    assert (result.series, result.fetched, result.missing) == (2, 2 * SLICES, 0)
    assert {row["path"] for row in manifest(out)} == {uid for uid, _ in wanted}
    for uid, files in wanted:
        sent = {pydicom.dcmread(file).SOPInstanceUID: file for file in files}
        got = {file.stem: file for file in (out / uid).iterdir()}
        assert set(got) == set(sent)
        for name, file in got.items():
            assert pydicom.dcmread(file).PixelData == pydicom.dcmread(sent[name]).PixelData
    assert not texts_with(SECRETS["PatientName"].lower().encode(), tmp_path / "out")

    (out / wanted[0][0] / f"{pydicom.dcmread(wanted[0][1][1]).SOPInstanceUID}.dcm").unlink()
    again = pull()
    assert (again.fetched, again.present) == (1, 2 * SLICES - 1)

    if how == "web":
        scored = anodetect.score(run, [str(out)], tmp_path / "scores", heatmaps=[])
        assert (scored.scored, scored.failed) == (2, 0)
        with pytest.raises(DataError, match="--heatmaps dicom"):
            pacs.push(tmp_path / "scores", archive)


@needs_dcmtk
@pytest.mark.parametrize("retrieve", ["get", "move"])
def test_a_pull_from_dcmtk(dcmqrscp, tmp_path, retrieve):
    archive, port = dcmqrscp
    uid, files = write_scan(tmp_path / "in", 1, PatientID="TAGGED-A")
    _, others = write_scan(tmp_path / "in", 2, PatientID="TAGGED-B")
    assert send(address_of(archive).port, files + others, title="DCMTK")
    (tmp_path / "list").write_text("# wanted\nTAGGED-A\n")
    own = pacs.own_side(port=port, retrieve=retrieve)
    result = pacs.pull(archive, tmp_path / "out", patients=tmp_path / "list", own=own)
    assert (result.series, result.fetched, result.passed_over) == (1, SLICES, 0)
    (row,) = manifest(tmp_path / "out")
    assert (row["path"], row["images"], row["missing"]) == (uid, str(SLICES), "0")
    assert row["group"].startswith("patient-")


class Stub:
    """An archive of one series that hands out only the first `most` objects of a request."""

    name = "stub"

    def __init__(self, uid, files, most):
        self.uid, self.most = uid, most
        self.files = {str(pydicom.dcmread(file).SOPInstanceUID): file for file in files}
        self.study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
        self.asked, self.answers = [], []

    def studies(self, query):
        yield self.study

    def series(self, study):
        yield FoundSeries(study, self.uid, "CT", "Tagged")

    def instances(self, study, series):
        return list(self.files)

    def fetch(self, study, series, instances, keep):
        wanted = list(self.files) if instances is None else list(instances)
        self.asked.append(len(wanted))
        for each in wanted[: self.most]:
            keep(self.files[each].read_bytes())

    def store(self, files):
        for file in files:
            name = str(pydicom.dcmread(file).SOPInstanceUID)
            yield Answer(name, self.answers.pop(0) if self.answers else "")

    def close(self):
        pass


def test_a_series_that_comes_in_part_is_said_and_completed_later(tmp_path, monkeypatch):
    archive = Stub(*write_scan(tmp_path / "in", 1), most=2)
    monkeypatch.setattr(pacs, "connect", lambda address, own: archive)
    result = pacs.pull("http://stub", tmp_path / "out")
    assert (result.fetched, result.incomplete, result.missing) == (2, 1, 1)
    assert [row["missing"] for row in manifest(tmp_path / "out")] == ["1"]

    rows = manifest(tmp_path / "out")
    with (tmp_path / "out" / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "label"])
        writer.writeheader()
        writer.writerow(rows[0] | {"label": "0"})  # what a user adds stays
    result = pacs.pull("http://stub", tmp_path / "out")
    assert (result.fetched, result.present, result.missing) == (1, 2, 0)
    assert archive.asked == [3, 1]
    assert [(row["missing"], row["label"]) for row in manifest(tmp_path / "out")] == [("0", "0")]


def test_the_commands_say_what_is_missing_and_end_with_1(tmp_path, monkeypatch, run):
    archive = Stub(*write_scan(tmp_path / "in", 1), most=2)
    monkeypatch.setattr(pacs, "connect", lambda address, own: archive)
    out = str(tmp_path / "out")
    pull = ["pacs", "pull", "http://stub", "--out", out, "--json"]
    for exit_code, missing in ((1, 1), (0, 0)):
        done = CliRunner().invoke(app, pull)
        assert (done.exit_code, json.loads(done.stdout)["missing"]) == (exit_code, missing)

    scores = tmp_path / "scores"
    anodetect.score(run, [out], scores, heatmaps=["dicom"], keep_identifiers=True)
    archive.answers = ["", "refused with status 0xA700"]
    most = len(list(scores.rglob("*.dcm"))) - 1
    for exit_code, pushed, before in ((1, most, 0), (0, 1, most)):
        done = CliRunner().invoke(app, ["pacs", "push", str(scores), "http://stub", "--json"])
        result = json.loads(done.stdout)
        assert (done.exit_code, result["pushed"], result["before"]) == (exit_code, pushed, before)


def test_an_object_of_another_series_is_not_written(tmp_path, monkeypatch):
    uid, files = write_scan(tmp_path / "in", 1)
    archive = Stub(uid, files, most=9)
    _, strangers = write_scan(tmp_path / "in", 2)
    archive.files = dict(zip(archive.files, strangers, strict=True))
    monkeypatch.setattr(pacs, "connect", lambda address, own: archive)
    result = pacs.pull("http://stub", tmp_path / "out")
    assert (result.fetched, result.missing) == (0, SLICES)
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_a_list_of_patients_is_not_quoted(tmp_path):
    file = tmp_path / "list"
    for text in ("TAGGED*\n", "", "TAGGED-1\nTAGGED\\2\n"):
        file.write_text(text)
        with pytest.raises(ConfigError) as error:
            pacs.pull("dicom://A@localhost:1", tmp_path / "out", patients=file)
        assert "TAGGED" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "", "nowhere", "ftp://host/", "dicom://host:104", "dicom://TITLE@host", "https://",
        "https://user:secret@host/dicom-web", "dicom://TITLE:secret@host:104",
        "dicom://A-TITLE-THAT-IS-TOO-LONG@host:104", "http://host:port/",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError) as error:
        address_of(url)
    assert "secret" not in str(error.value)


def test_addresses():
    web = address_of("https://host:8043/dicom-web/")
    assert (web.web, web.secure, web.url) == (True, True, "https://host:8043/dicom-web")
    node = address_of("dicoms://PACS@host:2762")
    assert (node.web, node.secure, node.title, node.port) == (False, True, "PACS", 2762)


# pynetdicom leaves the socket of a connection that was refused to be collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_archive_that_is_not_there(tmp_path, caplog):
    (tmp_path / "list").write_text("TAGGED-1\n")
    port = free_port()
    for address in (f"http://127.0.0.1:{port}/dicom-web", f"dicom://A@127.0.0.1:{port}"):
        with pytest.raises(ArchiveError, match="cannot be reached") as error:
            pacs.pull(address, tmp_path / "out", patients=tmp_path / "list")
        assert SECRET not in str(error.value).lower() + caplog.text.lower()


def test_the_extra_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'anodetect\[pacs\]'"):
        pacs.pull("http://host/dicom-web", tmp_path / "out")


# -- Push ------------------------------------------------------------------------------------------


@needs_orthanc
@pytest.mark.parametrize("how", ["web", "dimse"])
def test_results_go_beside_their_scans_once(orthanc, run, tmp_path, how):
    _, files = write_scan(tmp_path / "in", 7)
    orthanc.add(files)
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    archive = orthanc.url if how == "web" else orthanc.dimse
    scores = tmp_path / "scores"
    anodetect.score(run, [str(tmp_path / "in")], scores, heatmaps=["dicom"], keep_identifiers=True)
    outputs = {file.name for file in scores.rglob("*.dcm")}
    assert len(outputs) >= 2
    result = pacs.push(scores, archive)
    assert (result.pushed, result.before, result.failures) == (len(outputs), 0, ())
    mine = [each for each in orthanc.series() if each[1] == study]
    assert sum(count for modality, _, count in mine if modality != "CT") == len(outputs)

    again = pacs.push(scores, archive)
    assert (again.pushed, again.before) == (0, len(outputs))
    assert anodetect.verify(scores).intact
    assert not texts_with(b"tagged^jane", scores)


def test_results_with_pseudonyms_are_not_sent(run, tmp_path):
    _, _ = write_scan(tmp_path / "in", 8)
    scores = tmp_path / "scores"
    anodetect.score(run, [str(tmp_path / "in")], scores, heatmaps=["dicom"])
    with pytest.raises(DataError, match="--keep-identifiers"):
        pacs.push(scores, "http://127.0.0.1:9/dicom-web")


# -- Listen ----------------------------------------------------------------------------------------


def states(out):
    """The last state of each job of a node, by its number."""
    found = {}
    file = out / "ledger.jsonl"
    for line in file.read_text().splitlines() if file.is_file() else []:
        with_state = json.loads(line)
        found[with_state["job"]] = with_state["state"]
    return found


def wait_until(true, seconds=120):
    for _ in range(20 * seconds):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it took too long")


@contextmanager
def listening(run, out, port, *more, log):
    """A node in a process of its own, which is killed at the end."""
    command = [
        sys.executable, "-m", "anodetect.cli", "pacs", "listen", str(run), "--out", str(out),
        "--port", str(port), "--quiet", "0.5", "--json", *more,
    ]  # fmt: skip
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, start_new_session=True, env=os.environ
        )
        try:
            wait_for_port(port, process)
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def inbox(tmp_path):
    return Inbox(tmp_path / "node", lambda series: (), quiet=0)


@needs_dcmtk
def test_with_tls_a_sender_shows_a_certificate(inbox, tmp_path):
    cert, key = own_certificate(tmp_path)
    _, files = write_scan(tmp_path / "in", 1)
    own = Own(port=0, tls=Tls(cert, key, cert))
    with receiving(inbox.add, own, (), Limits().object_bytes) as port:
        assert not send(port, files)  # without TLS
        assert not send(port, files, more=["+tla", "-ic"])  # without a certificate
        assert not inbox.arriving
        assert send(port, files, more=["+tls", key, cert, "+cf", cert])
        assert [each.files for each in inbox.arriving.values()] == [SLICES]

        _, more = write_scan(tmp_path / "in", 2)
        address = address_of(f"dicoms://ANODETECT@127.0.0.1:{port}")
        node = connection.connect(address, Own(tls=Tls(cert, key, cert)))
        assert [answer.reason for answer in node.store(more)] == [""] * SLICES
        with pytest.raises(ArchiveError, match="cannot be reached"):
            list(connection.connect(address, Own()).store(more))  # it trusts only the system's
    assert [each.files for each in inbox.arriving.values()] == [SLICES] * 2


@needs_orthanc
def test_without_the_password_nothing_is_said(orthanc, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no series there is as wanted"):
        pacs.pull(orthanc.url, tmp_path / "out", modality="XX")
    monkeypatch.setenv("ANODETECT_PACS_PASSWORD", "wrong")
    with pytest.raises(ArchiveError, match="wants a user and a password"):
        pacs.pull(orthanc.url, tmp_path / "out")


class Empty(BaseHTTPRequestHandler):
    """An archive that has nothing."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_):
        pass


def test_the_certificate_of_a_web_archive_is_checked(tmp_path):
    certificate, key = own_certificate(tmp_path)
    server = HTTPServer(("127.0.0.1", 0), Empty)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(ArchiveError, match="certificate is not trusted"):
            pacs.pull(url, tmp_path / "out")
        trusting = pacs.own_side(tls=(None, None, certificate))
        with pytest.raises(DataError, match="no series there is as wanted"):
            pacs.pull(url, tmp_path / "out", own=trusting)
    finally:
        server.shutdown()
        server.server_close()


@needs_orthanc
def test_an_archive_with_a_certificate_of_its_own_hands_out_and_takes(orthanc, run, tmp_path):
    certificate, key = own_certificate(tmp_path)
    trusting = pacs.own_side(tls=(None, None, certificate))
    _, files = write_scan(tmp_path / "in", 61, SeriesDescription="Tagged tls")
    orthanc.add(files)
    out, scores = tmp_path / "out", tmp_path / "scores"
    with behind_tls(int(orthanc.root.rpartition(":")[2]), certificate, key) as port:
        url = f"https://127.0.0.1:{port}/dicom-web"
        with pytest.raises(ArchiveError, match="certificate is not trusted"):
            pacs.pull(url, out)
        pulled = pacs.pull(url, out, description="*tls", own=trusting)
        assert (pulled.series, pulled.fetched, pulled.missing) == (1, SLICES, 0)

        anodetect.score(run, [str(out)], scores, heatmaps=["dicom"], keep_identifiers=True)
        refused = pacs.push(scores, url)
        assert refused.pushed == 0
        assert all("certificate is not trusted" in reason for reason in refused.failures)
        pushed = pacs.push(scores, url, own=trusting)
    assert pushed.pushed == len(list(scores.rglob("*.dcm"))) >= 3
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    there = {modality for modality, own, _ in orthanc.series() if own == study}
    assert there == {"CT", "OT", "SEG", "SR"}


@needs_dcmtk
def test_an_object_that_is_too_large_ends_its_connection(inbox, tmp_path):
    _, files = write_scan(tmp_path / "in", 1)
    big = tmp_path / "big.dcm"
    made = pydicom.dcmread(files[0])
    made.Rows = made.Columns = 2048
    made.PixelData = bytes(2 * 2048**2)
    made.save_as(big)
    with receiving(inbox.add, Own(port=0), (), limit=2**20) as port:
        assert not send(port, [big])
        assert send(port, files)
    assert [each.files for each in inbox.arriving.values()] == [SLICES]


def test_other_machines_are_heard_by_name_only(inbox):
    with (
        pytest.raises(ConfigError, match="--allow"),
        receiving(inbox.add, Own(host="0.0.0.0", port=0), (), 1),
    ):
        pass


@needs_orthanc
@needs_dcmtk
def test_a_node_that_is_killed_loses_and_doubles_nothing(orthanc, run, tmp_path):
    scans = [write_scan(tmp_path / "in", seed)[1] for seed in range(30, 35)]
    for files in scans:
        orthanc.add(files)
    out, port, log = tmp_path / "node", free_port(), tmp_path / "log"
    more = ["--to", orthanc.url, "--heatmaps", "dicom", "--allow", "SCANNER"]
    more += ["--count", "--quiet", "5"]  # whole ones wait a fifth of it

    with listening(run, out, port, *more, log=log) as node:
        assert not send(port, scans[0], calling="STRANGER")
        assert all(send(port, files) for files in scans[:3])
        wait_until(lambda: "started" in states(out).values())
        assert send(port, scans[3][:1])
        node.send_signal(signal.SIGKILL)
        node.wait()

    with listening(run, out, port, *more, log=log) as node:
        assert all(send(port, files) for files in scans[::-1])  # some for the second time
        wait_until(lambda: list(states(out).values()) == ["delivered"] * 5)
        node.send_signal(signal.SIGTERM)
        assert node.wait(20) == 0

    found = orthanc.series()
    for files in scans:
        study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
        counts = {modality: count for modality, other, count in found if other == study}
        assert counts.pop("CT") == SLICES
        (job,) = [
            each
            for each in (out / "jobs").iterdir()
            if (each / "files" / f"{pydicom.dcmread(files[0]).SOPInstanceUID}.dcm").is_file()
        ]
        assert len(list((job / "files").iterdir())) == SLICES
        assert sum(counts.values()) == len(list((job / "scores").rglob("*.dcm")))
        assert anodetect.verify(job / "scores").intact

    assert SECRET not in log.read_text().lower() and USER[1] not in log.read_text()
    assert SECRET not in (out / "ledger.jsonl").read_text().lower()
    assert not texts_with(b"tagged^jane", out)


def test_a_watched_folder_is_the_same_with_files(run, tmp_path):
    incoming, out, said = tmp_path / "incoming", tmp_path / "node", []
    _, files = write_scan(incoming / "a", 40)
    (incoming / "notes.txt").write_text("Tagged^Jane was here")
    (incoming / ".hidden.dcm").write_bytes(files[0].read_bytes())

    class Listening(Silent):
        say = warn = staticmethod(said.append)

    def add_and_stop():
        wait_until(lambda: list(states(out).values()) == ["delivered"])
        write_scan(incoming / "b", 41)
        wait_until(lambda: list(states(out).values()) == ["delivered"] * 2)
        os.kill(os.getpid(), signal.SIGTERM)

    helper = threading.Thread(target=add_and_stop)
    helper.start()
    result = listen(run, out, watch=incoming, quiet=0.5, heatmaps=["dicom"], reporter=Listening())
    helper.join()
    assert (result.finished, result.failed, result.waiting) == (2, 0, 0)
    assert result.refused == {"not a readable DICOM object": 1}
    assert SECRET not in " ".join(said).lower()
    assert not texts_with(SECRET.encode(), out)  # without --to nothing carries identifiers
    (row,) = directories.read(out / "jobs" / "000001" / "scores").rows
    assert row.group.startswith("patient-")
    with pytest.raises(ConfigError, match="watched folder"):
        listen(run, incoming / "node", watch=incoming)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@needs_orthanc
def test_a_push_that_failed_is_taken_up_by_a_restart(orthanc, run, tmp_path, monkeypatch):
    monkeypatch.setattr(arrivals, "FIRST_DELAY", 0.05)
    monkeypatch.setattr(arrivals, "DELIVERIES", 2)
    incoming, out = tmp_path / "incoming", tmp_path / "node"
    _, files = write_scan(incoming, 42)
    orthanc.add(files)

    def node(to, state):
        def stop():
            wait_until(lambda: states(out).get(1) == state)
            os.kill(os.getpid(), signal.SIGTERM)

        helper = threading.Thread(target=stop)
        helper.start()
        result = listen(run, out, to=to, watch=incoming, quiet=0.5, heatmaps=["dicom"])
        helper.join()
        return result

    failed = node(f"dicom://NOBODY@127.0.0.1:{free_port()}", "failed")
    assert (failed.finished, failed.failed, failed.waiting) == (0, 1, 0)
    (reason,) = failed.as_json()["failures"]
    assert reason.startswith("job 1: ")
    assert "cannot be reached" in reason and "(tried 2 times)" in reason
    assert reason in failed.text()

    done = node(orthanc.url, "delivered")
    assert (done.finished, done.failed, done.failures) == (1, 0, ())
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    counts = [count for modality, other, count in orthanc.series() if other == study]
    assert sum(counts) == SLICES + len(list((out / "jobs/000001/scores").rglob("*.dcm")))


def test_a_node_that_fails_ends_its_connections(run, tmp_path, monkeypatch):
    class Open:
        closed = False

        def close(self):
            self.closed = True

    archive = Open()
    monkeypatch.setattr("anodetect.commands.listen.connect", lambda address, own: archive)
    with Ledger(tmp_path / "node"), pytest.raises(RunError, match="another process"):
        listen(run, tmp_path / "node", to="dicom://A@127.0.0.1:1", watch=tmp_path / "incoming")
    assert archive.closed


# -- The page --------------------------------------------------------------------------------------


def commands_of(page, heading):
    """The commands of the blocks below a heading, as lists of words."""
    part = page.read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", part, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in _joined(block).splitlines()]


def _joined(block):
    return block.replace("\\\n", " ")


@needs_orthanc
def test_the_recipe_works_word_for_word(orthanc, tmp_path, monkeypatch):
    """With another address, and a detector that learns nothing; the node has its own test."""
    for seed in range(20):
        tags = {"SeriesDescription": "A head", "StudyDate": "20250601"}
        orthanc.add(write_scan(tmp_path / "in", 100 + seed, **tags)[1])
    orthanc.add(write_scan(tmp_path / "in", 120, StudyDate="20260201")[1])
    (tmp_path / "normal.txt").write_text("\n".join(f"TAGGED-{100 + seed}" for seed in range(20)))
    monkeypatch.chdir(tmp_path)

    done = []
    for command in commands_of(Path(__file__).parents[1] / "docs" / "pacs.md", "A recipe"):
        assert command.pop(0) == "anodetect"
        if "listen" in command:
            continue
        changed = {"https://pacs:8042/dicom-web": orthanc.url, "anoddpm": "intensity"}
        result = CliRunner().invoke(app, [changed.get(word, word) for word in command])
        assert result.exit_code == 0, result.output
        done.append(command[:2] if command[0] == "pacs" else command[0])
    assert done == [["pacs", "pull"], "train", ["pacs", "pull"], "score", ["pacs", "push"]]
    assert len(manifest(tmp_path / "heads")) == 20
    assert len(directories.read(tmp_path / "scores" / "today").rows) == 1
    study = str(pydicom.dcmread(tmp_path / "in" / "120-0.dcm").StudyInstanceUID)
    kinds = [modality for modality, other, _ in orthanc.series() if other == study]
    assert len(kinds) > 1 and "CT" in kinds
