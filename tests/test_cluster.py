"""Scoring on a Ray cluster: two workers on this machine give what one process gives."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from threading import Thread

import numpy as np
import psutil
import pytest
import tifffile
from bucket_server import bucket_server
from PIL import Image

import anodetect
from anodetect.commands.recorded_maps import CLOSE
from anodetect.data import synthetic
from anodetect.detectors import DETECTORS
from anodetect.engines import cluster, registered
from anodetect.errors import ConfigError
from anodetect.record import directories, verification

WORKERS = 2
pytestmark = [  # Ray warns about itself
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
DEEP = "deep.png"  # an image whose content is in the lower eight of its sixteen bits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster") / "images"
    folder.mkdir()
    pictures, _ = synthetic.images(18, size=64, seed=7)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[0]).save(folder / f"{number}.png")
    Image.fromarray((25600 + pictures[0][0].astype(np.uint16)).astype(np.uint16)).save(
        folder / DEEP
    )
    (folder / "broken.png").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="module")
def run(synthetic_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("cluster") / "run"
    values = {"size": 32, "training": {"steps": 2}, "intensity": "image"}
    anodetect.train(str(synthetic_folder), "anoddpm", out, values=values, representation="pixels")
    return out


@pytest.fixture(scope="module")
def both(folder, run, tmp_path_factory):
    """The folder scored here, and by two workers."""
    pytest.importorskip("ray")
    here, there = (tmp_path_factory.mktemp("cluster") / name for name in ("here", "there"))
    anodetect.score(run, [str(folder)], here, far=0.2)
    anodetect.score(run, [str(folder)], there, far=0.2, engine="ray", workers=WORKERS)
    return directories.read(here), directories.read(there)


def same_score(one, other):
    assert (one.score is None) == (other.score is None)
    assert one.score is None or other.score == pytest.approx(one.score, rel=CLOSE)


def test_two_workers_give_the_same_scores_row_for_row(both):
    here, there = both
    assert [row.path for row in there.rows] == [row.path for row in here.rows]
    for one, other in zip(here.rows, there.rows, strict=True):
        same_score(one, other)
        for key in ("sha256", "status", "error", "flagged", "p_value", "heatmap", "width", "label"):
            assert getattr(other, key) == getattr(one, key)


def test_sixteen_bits_stay_sixteen_bits(both):
    scores = {row.path: row.score for row in both[1].scored()}
    assert scores[DEEP] == pytest.approx(
        scores["0.png"], rel=0.05
    )  # but for the offset the same image


def test_workers_write_the_same_files(both):
    here, there = both
    assert there.outputs["name"].to_pylist() == here.outputs["name"].to_pylist()
    assert there.audit.cases.highest[0] == here.audit.cases.highest[0]
    for row in here.scored():
        one, other = (tifffile.imread(directory.path / row.heatmap) for directory in both)
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4)
    regions = [json.loads((directory.path / "regions.json").read_text()) for directory in both]
    assert len(regions[1]["annotations"]) == len(regions[0]["annotations"])
    assert verification.verify(there.path).intact


def kill_one(journal, killed):
    """Kill a worker as soon as there is a finished file in the journal."""
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
        time.sleep(0.01)
    for process in psutil.Process().children(recursive=True):
        if "RemoteWorker" in " ".join(process.cmdline()):
            process.kill()
            killed.append(process.pid)
            return


def test_a_killed_worker_costs_no_row_and_doubles_none(folder, run, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "BLOCK", 4)
    many = tmp_path / "many"
    many.mkdir()
    pictures, _ = synthetic.images(120, size=64, seed=9)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[0]).save(many / f"{number:03}.png")

    killed = []
    killer = Thread(target=kill_one, args=(tmp_path / "s/journal.jsonl", killed), daemon=True)
    killer.start()
    result = anodetect.score(run, [str(many)], tmp_path / "s", engine="ray", workers=WORKERS)
    killer.join()
    assert killed
    rows = directories.read(tmp_path / "s").rows
    assert [row.path for row in rows] == [f"{number:03}.png" for number in range(120)]
    assert (result.scored, result.failed) == (120, 0)
    assert verification.verify(tmp_path / "s").intact


def test_workers_read_and_write_a_bucket(folder, run, both, tmp_path, monkeypatch):
    pytest.importorskip("obstore")
    files = {f"in/{path.name}": path.read_bytes() for path in folder.iterdir()}
    with bucket_server(monkeypatch) as server:
        server.fill("cluster", files)
        out = "s3://cluster/out"
        anodetect.score(run, ["s3://cluster/in"], out, far=0.2, engine="ray", workers=WORKERS)
        assert {server.got(name) for name in files} <= {1, 2}
        record = server.downloaded("cluster", "out", tmp_path / "record")

    there, here = directories.read(record), both[0]
    assert verification.verify(record).intact
    assert [row.sha256 for row in there.rows] == [row.sha256 for row in here.rows]
    for one, other in zip(here.rows, there.rows, strict=True):
        same_score(one, other)
    assert there.outputs["name"].to_pylist() == here.outputs["name"].to_pylist()
    assert directories.picture_of(record, there.audit.cases.highest[0]).is_file()


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_cluster_and_the_rest_can_be_resumed(folder, run, tmp_path):
    pytest.importorskip("ray")
    arguments = [
        "score",
        run,
        folder,
        "--out",
        tmp_path / "s",
        "--far",
        "0.2",
        "--engine",
        "ray",
        "--workers",
        "2",
    ]
    command = [sys.executable, "-m", "anodetect.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    journal = tmp_path / "s/journal.jsonl"
    while process.poll() is None and not (
        journal.exists() and journal.read_bytes().count(b"\n") > 1
    ):
        time.sleep(0.01)
    started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "--resume goes on" in told
    psutil.wait_procs(started)  # returns when the last of them has ended, however busy the machine
    anodetect.score(run, [str(folder)], tmp_path / "s", far=0.2, resume=True)
    anodetect.score(run, [str(folder)], tmp_path / "whole", far=0.2)
    for one, other in zip(
        *(directories.read(tmp_path / name).rows for name in ("s", "whole")), strict=True
    ):
        assert one.path == other.path
        same_score(one, other)


def test_workers_share_out_the_cpus_of_the_smallest_node():
    nodes = [{"Alive": True, "Resources": {"CPU": cpus}} for cpus in (8.0, 4.0)]
    dead = {"Alive": False, "Resources": {"CPU": 1.0}}
    assert cluster._share([*nodes, dead], None) == {"concurrency": 2, "num_cpus": 3, "num_gpus": 0}
    assert cluster._share(nodes, 4) == {"concurrency": 4, "num_cpus": 1, "num_gpus": 0}
    assert cluster._share([{"Alive": True, "Resources": {"CPU": 2.0}}], 2)["num_cpus"] == 0.75
    with_gpus = [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 4.0}}]
    assert cluster._share(with_gpus, None) == {"concurrency": 4, "num_cpus": 3, "num_gpus": 1}


def test_no_workers_are_refused():
    with pytest.raises(ConfigError, match="at least one"):
        cluster.engine(0)


def test_a_detector_that_a_script_defines_is_refused(run, folder, tmp_path, monkeypatch):
    """Before the cluster is started."""
    pytest.importorskip("ray")
    entry = replace(DETECTORS["anoddpm"], target="__main__:AnoDDPM")
    monkeypatch.setitem(DETECTORS, "anoddpm", entry)
    monkeypatch.setattr(registered, "main_is_script", lambda: True)
    monkeypatch.setattr(cluster, "_start", lambda: pytest.fail("the cluster was started"))
    with pytest.raises(ConfigError, match="put it into a module"):
        anodetect.score(run, [str(folder)], tmp_path / "s", engine="ray")
