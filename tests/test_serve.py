"""A model behind an address: verdicts are those of a scoring, and strangers get none."""

import base64
import io
import threading

import numpy as np
import pytest
import tifffile
from PIL import Image

import anodetect
from anodetect.commands import serve as command
from anodetect.errors import ConfigError
from anodetect.output.formats import map_reader
from anodetect.record import directories

for package in ("starlette", "uvicorn"):
    pytest.importorskip(package, reason="the extra `serve` is not installed")

FAR = 0.2  # the finest rate of so few calibration images is 1 / 13
TOKEN = "a token of some length"


@pytest.fixture(scope="module")
def line(pca_run, tmp_path_factory):
    return command.line_of(pca_run, tmp_path_factory.mktemp("serve"), FAR, "cpu")


@pytest.fixture(scope="module")
def client(line):
    from starlette.testclient import TestClient

    with TestClient(command.application(line)) as client:
        yield client


@pytest.fixture(scope="module")
def scored(pca_run, synthetic_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored") / "s"
    data = str(synthetic_folder)
    anodetect.score(pca_run, [data], out, far=FAR, heatmaps=["tiff", "regions"], workers=1)
    return directories.read(out)


def test_verdicts_are_those_of_a_scoring(client, scored, synthetic_folder, line):
    rows = scored.rows[::9]
    assert {row.flagged for row in rows} == {True, False}
    for row in rows:
        content = (synthetic_folder / row.path).read_bytes()
        answer = client.post("/score", content=content, params={"map": "tiff", "name": row.path})
        assert answer.status_code == 200
        said = answer.json()
        assert said["score"] == pytest.approx(row.score, rel=1e-5)
        assert (said["p_value"], said["flagged"]) == (row.p_value, row.flagged)
        assert (said["sha256"], said["path"]) == (row.sha256, row.path)
        heatmap = tifffile.imread(io.BytesIO(base64.b64decode(said["map"]["content"])))
        expected = map_reader(row.heatmap, "image")(scored.path / row.heatmap)
        assert np.allclose(heatmap, expected, rtol=1e-4, atol=1e-6)
    assert list(line.task.out.iterdir()) == []  # nothing that was sent stays


def test_the_bytes_tell_the_kind_of_a_file_without_a_name(client):
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 40), 90, np.uint8)).save(buffer, "tiff")
    for params in ({"name": "x.tif"}, {"name": "../../x.png"}):
        assert client.post("/score", content=buffer.getvalue(), params=params).json()["score"]
    answer = client.post("/score", content=b"no image at all", params={"name": "notes.txt"})
    assert answer.status_code == 415
    assert "not an image file" in answer.json()["error"]


def test_a_damaged_image_has_a_reason_and_no_score(client, synthetic_folder):
    content = next((synthetic_folder / "test" / "good").glob("*.png")).read_bytes()[:300]
    answer = client.post("/score", content=content, params={"name": "a.png"})
    assert answer.status_code == 422
    assert answer.json()["score"] is None
    assert answer.json()["error"]


def test_a_dicom_file_is_scored(client):
    pytest.importorskip("pydicom")
    from test_arrivals import made

    answer = client.post("/score", content=made(3, Modality="DX"))
    assert answer.status_code in (200, 422)
    assert "please report" not in answer.json()["error"]


def test_whatever_is_sent_has_an_answer_and_nothing_of_it_stays(pca_run, tmp_path):
    """There are 20 mutations here; benchmarks/fuzz_serve.py makes as many as wanted."""
    pytest.importorskip("pydicom")
    from benchmarks.fuzz_serve import fuzz_serve

    found = list(fuzz_serve(pca_run, tmp_path, 20, seed=1))
    assert [f"{each.mutation}: {each.trace}" for each in found] == []


def test_what_is_too_large_or_unknown_is_refused(line, client):
    from starlette.testclient import TestClient

    small = TestClient(command.application(line, largest=1000))
    assert small.post("/score", content=bytes(1001)).status_code == 413
    assert client.post("/score", content=b"x", params={"map": "exe"}).status_code == 400
    assert client.get("/score").status_code == 405


def test_nobody_is_answered_without_the_token(line, synthetic_folder):
    from starlette.testclient import TestClient

    client = TestClient(command.application(line, TOKEN))
    content = next((synthetic_folder / "test" / "good").glob("*.png")).read_bytes()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        assert client.post("/score", content=content, headers=headers).status_code == 401
        assert client.get("/model", headers=headers).status_code == 401
    right = {"Authorization": f"Bearer {TOKEN}"}
    answer = client.post("/score", content=content, headers=right, params={"name": "a.png"})
    assert answer.status_code == 200
    assert client.get("/model", headers=right).json()["far"] == FAR
    assert client.get("/health").status_code == 200


def test_other_machines_are_answered_with_a_token_only():
    for host in ("127.0.0.1", "localhost", "::1"):
        command.check_token(host, "")
    for host in ("0.0.0.0", "::", "192.168.0.7", "line.example"):
        with pytest.raises(ConfigError, match="set a token"):
            command.check_token(host, "")
        command.check_token(host, TOKEN)
    with pytest.raises(ConfigError, match="16 letters"):
        command.check_token("127.0.0.1", "short")


def test_images_that_come_at_once_are_all_answered(client, scored, synthetic_folder):
    rows, found = scored.rows[:6], {}

    def ask(row):
        content = (synthetic_folder / row.path).read_bytes()
        found[row.path] = client.post("/score", content=content, params={"name": row.path}).json()

    threads = [threading.Thread(target=ask, args=(row,)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in rows:
        assert found[row.path]["score"] == pytest.approx(row.score, rel=1e-5)
