"""Data that are in a bucket: listed, read and scored as those in a folder, in spite of faults."""

import os
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from bucket_server import bucket_server
from safetensors.numpy import load_file

import anodetect
from anodetect.commands import score
from anodetect.commands.inputs import collect
from anodetect.data import cards, listing, readers
from anodetect.engines import worker
from anodetect.errors import ConfigError, DataError, ImageError, RunError, StoreError
from anodetect.files import is_below
from anodetect.record import directories, runs, verification
from anodetect.remote import buckets, stores, tries
from anodetect.remote.paths import RemotePath, is_url, local, place

SUFFIXES = {".png", ".csv"}


def files_of(folder):
    """The files of a folder by their names in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tries, "WAITS", (0.01, 0.02, 0.04, 0.08))
        patch.setattr(buckets, "TIMEOUT", 2.0)
        with bucket_server(patch) as server:
            yield server
    stores.store.cache_clear()


@pytest.fixture(scope="module")
def images(synthetic_folder):
    """Twelve images of the synthetic folder's test part, and a broken one."""
    paths = sorted((synthetic_folder / "test").rglob("*.png"))
    content = {f"day/{number:02}.png": path.read_bytes() for number, path in enumerate(paths[:12])}
    return content | {"day/broken.png": b"not an image", "day/notes.txt": b"x"}


@pytest.fixture(scope="module")
def scans(server, images):
    server.fill("scans", images | {"other/13.png": images["day/00.png"]})
    return "s3://scans/day"


@pytest.fixture(scope="module")
def here(images, tmp_path_factory, pca_run):
    """The same images in a folder, scored."""
    folder = tmp_path_factory.mktemp("remote")
    for name, content in images.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    anodetect.score(pca_run, [str(folder / "day")], folder / "scores")
    return folder


def rows_of(folder):
    return [(row.path, row.sha256, row.status, row.error) for row in directories.read(folder).rows]


def test_a_bucket_is_listed_as_a_folder_is(scans, here):
    remote, disk = cards.open_data(scans), cards.open_data(str(here / "day"))
    assert [record.id for record in remote.records] == [record.id for record in disk.records]
    assert remote.passed_over == disk.passed_over
    assert remote.problems == disk.problems
    assert {str(record.path.parent) for record in remote.records} == {"s3://scans/day"}


@pytest.mark.parametrize("workers", [1, 2])
def test_scores_of_a_bucket_are_those_of_a_folder(scans, here, pca_run, tmp_path, server, workers):
    server.requests.clear()
    result = anodetect.score(pca_run, [scans], tmp_path / "s", workers=workers)
    remote, disk = directories.read(tmp_path / "s"), directories.read(here / "scores")
    assert result.failed == 1
    assert rows_of(tmp_path / "s") == rows_of(here / "scores")
    assert remote.audit.root == scans
    for one, other in zip(remote.scored(), disk.scored(), strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-5)
    asked = {server.got(f"/{number:02}.png") for number in range(12)}
    assert asked <= {1, 2}, "one request to score, and one where contents tell what a folder holds"
    assert not server.got("other/13.png"), "outside of the prefix"
    assert not [each for each in server.requests if each[0] == "HEAD"]


def test_very_many_images_are_listed_once_and_not_kept_as_records(server, images, monkeypatch):
    monkeypatch.setattr(listing, "MANY", 10)
    numbered = {name: each for name, each in images.items() if name[4:6].isdecimal()}
    server.fill("plain", numbered)
    server.requests.clear()
    inputs = collect(["s3://plain/day"], Path("scores"), follow_symlinks=False)
    assert isinstance(inputs.records, listing.Listing)
    assert [record.id for record in inputs.records] == [f"{n:02}.png" for n in range(12)]
    assert sum("list-type" in query for _, _, query in server.requests) == 1
    sent = pickle.loads(pickle.dumps(inputs.records[3]))  # noqa: S301
    assert readers.read_source(sent).contents == (images["day/03.png"],)

    monkeypatch.setattr(listing, "MANY", 20)
    server.requests.clear()
    assert len(collect(["s3://plain/day"], Path("scores"), follow_symlinks=False).records) == 12
    assert sum("list-type" in query for _, _, query in server.requests) == 1


def test_training_on_a_bucket_gives_the_run_of_a_folder(
    server, synthetic_folder, pca_run, tmp_path
):
    server.fill("normals", files_of(synthetic_folder))
    anodetect.train("s3://normals", "pca", tmp_path / "run")
    there, here = (load_file(run / "model.safetensors") for run in (tmp_path / "run", pca_run))
    assert there.keys() == here.keys()
    for name, values in here.items():
        np.testing.assert_array_equal(there[name], values)
    manifests = [(run / "manifest.csv").read_text() for run in (tmp_path / "run", pca_run)]
    assert manifests[0] == manifests[1]


def test_a_manifest_in_the_bucket_says_what_images_are(server, images, tmp_path):
    manifest = "path,split,label,group\na/00.png,test,1,p1\na/01.png,train,0,p2\n"
    content = {"set/manifest.csv": manifest.encode(), "set/a/00.png": images["day/00.png"]}
    content |= {"set/a/01.png": images["day/01.png"], "set/x.png": b"1"}
    server.fill("listed", content)
    for name, each in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(each)
    dataset = cards.open_data("s3://listed/set")
    assert [(each.id, each.label, each.group) for each in dataset.records] == [
        ("a/00.png", 1, "p1"),
        ("a/01.png", 0, "p2"),
    ]
    assert dataset.passed_over == cards.open_data(str(tmp_path / "set")).passed_over


@pytest.mark.parametrize("path", ["../other/13.png", "/other/13.png", "a/../../other/13.png"])
def test_a_manifest_cannot_lead_out_of_the_prefix(server, path, request):
    name = f"leading{request.node.callspec.indices['path']}"
    server.fill(name, {"set/manifest.csv": f"path\n{path}\n".encode(), "other/13.png": b"1"})
    with pytest.raises(DataError, match="leads out of the folder"):
        cards.open_data(f"s3://{name}/set")


def test_a_listing_of_several_pages_is_whole_and_goes_on_behind_the_last(server, monkeypatch):
    monkeypatch.setattr(buckets, "PAGE", 7)
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "7")
    names = [f"p/{number // 10}/{number:03}.npy" for number in range(40)]
    server.fill("pages", dict.fromkeys(names, b"1"))
    server.faults.extend([("503", "GET", "start-after"), ("cut", "GET", "continuation-token")])
    pages = list(stores.store("s3://pages").pages("p"))
    assert [entry.key for page in pages for entry in page] == names
    assert len(pages) == 6
    assert [kind for kind, *_ in server.faults] == []
    found = [record.id for record in cards.open_data("s3://pages/p").records]
    assert found == [name.removeprefix("p/") for name in names]


@pytest.mark.parametrize("name", ["ä ö.png", "x%20y.png", "b#c?.png", "p+q.png", "cafe\u0301.png"])
def test_names_of_any_kind_are_read(server, images, name, request):
    bucket = f"names{request.node.callspec.indices['name']}"
    server.fill(bucket, {f"d/{name}": images["day/00.png"], "d/empty/": b""})
    dataset = cards.open_data(f"s3://{bucket}/d")
    (record,) = dataset.records
    assert record.path.name == name
    assert readers.read_source(record).contents == (images["day/00.png"],)


# -- Faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["503", "500", "429", "hang", "cut"])
def test_what_passes_is_tried_again(scans, server, images, kind):
    path = place(scans) / "03.png"
    server.faults.extend([(kind, "GET", "03.png")] * 2)
    assert path.read_bytes() == images["day/03.png"]
    assert not server.faults


def test_a_large_file_goes_on_where_it_was_cut(server, monkeypatch):
    monkeypatch.setattr(buckets, "CHUNK", 2**10)
    content = np.random.default_rng(0).bytes(2**18)
    server.fill("large", {"x.bin": content})
    server.faults.append(("cut", "GET", "x.bin"))
    assert (place("s3://large") / "x.bin").read_bytes() == content


def test_a_file_that_changes_while_it_is_read_is_not_mixed(server, monkeypatch):
    monkeypatch.setattr(buckets, "CHUNK", 2**10)
    server.fill("changing", {"x.bin": b"a" * 2**18})
    server.faults.append(("cut", "GET", "x.bin"))
    failing = server._failing

    def change(*arguments):
        answer = failing(*arguments)
        server.client.put_object(Bucket="changing", Key="x.bin", Body=b"b" * 2**18)
        return answer

    monkeypatch.setattr(server, "_failing", change)
    with pytest.raises(ImageError, match="changed while it was read"):
        readers.read_bytes(place("s3://changing") / "x.bin")


def test_scoring_survives_faults_and_has_each_row_once(scans, here, pca_run, tmp_path, server):
    for number, kind in enumerate(["503", "hang", "cut", "500", "cut", "503"]):
        server.faults.append((kind, "GET", f"/{number:02}.png"))
    server.faults.append(("503", "GET", "list-type"))
    anodetect.score(pca_run, [scans], tmp_path / "s", workers=1, heatmaps=())
    assert not server.faults
    assert rows_of(tmp_path / "s") == rows_of(here / "scores")
    assert set(Counter(row.path for row in directories.read(tmp_path / "s").rows).values()) == {1}


def test_a_store_that_does_not_answer_ends_the_scoring_which_goes_on(
    scans, here, pca_run, tmp_path, server
):
    server.faults.extend([("503", "GET", "/07.png")] * 5)
    with pytest.raises(StoreError, match=r"s3://scans: does not answer \(status 503\).*--resume"):
        anodetect.score(pca_run, [scans], tmp_path / "s", workers=1, heatmaps=())
    assert not (tmp_path / "s/audit.json").exists()
    anodetect.score(pca_run, [scans], tmp_path / "s", workers=1, heatmaps=(), resume=True)
    assert rows_of(tmp_path / "s") == rows_of(here / "scores")


def test_an_object_that_is_gone_or_forbidden_is_a_row_of_its_own(scans, server):
    records = {record.id: record for record in cards.open_data(scans).records}
    server.faults.append(("404", "GET", "/04.png"))
    with pytest.raises(ImageError, match="no such file"):
        readers.read_source(records["04.png"])
    server.faults.append(("403", "GET", "/04.png"))
    with pytest.raises(ImageError, match="permission denied"):
        readers.read_source(records["04.png"])


def test_credentials_that_expire_end_the_work(scans, server):
    (record, *_) = cards.open_data(scans).records
    server.faults.extend([("403", "GET", "00.png"), ("403", "GET", "list-type")])
    with pytest.raises(StoreError, match="permission denied"):
        readers.read_source(record)


# -- Messages --------------------------------------------------------------------------------------


def test_messages_say_what_is_wrong(server, scans):
    for data, match in (
        ("s3://nowhere/x", "s3://nowhere: no such bucket"),
        ("s3://scans/nothing", "s3://scans/nothing: nothing there"),
        ("s3://", "a bucket or a server"),
        ("s3://scans/../x", "a bucket or a server"),
    ):
        with pytest.raises((DataError, StoreError, ConfigError), match=match):
            cards.open_data(data)
    server.fill("odd", {"a//b.png": b"1"})
    with pytest.raises(StoreError, match=r"s3://odd/a//b\.png: an empty part"):
        cards.open_data("s3://odd/a")


def test_a_missing_extra_is_named(server, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"pip install 'anodetect\[remote\]'"):
        buckets.Bucket("s3://scans")


def test_credentials_are_taken_from_a_profile(server, scans, tmp_path, monkeypatch):
    (tmp_path / "own").write_text("[default]\naws_access_key_id=a\naws_secret_access_key=b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "own"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert next(buckets.Bucket("s3://scans").pages("day"))


# -- Paths -----------------------------------------------------------------------------------------


def test_paths_of_urls_keep_to_themselves():
    path = RemotePath("s3://scans/day/a.png")
    assert str(path) == "s3://scans/day/a.png"
    assert str(path.relative_to(RemotePath("s3://scans"))) == "day/a.png"
    assert is_below(path, RemotePath("s3://scans/day"))
    assert not is_below(path, RemotePath("s3://scans/da"))
    assert not is_below(RemotePath("s3://scans/day/../x"), RemotePath("s3://scans/day"))
    assert not is_below(path, Path())
    assert not is_below(Path(), path)
    assert not isinstance(path, Path)
    with pytest.raises(DataError, match="download it first"):
        os.stat(path)  # noqa: PTH116
    with pytest.raises(DataError, match="leads out"):
        (path / "/etc/passwd").read_bytes()
    assert is_url("s3://a/b")
    assert is_url(Path("s3://a/b"))
    assert not is_url("s3:/a/b")
    assert not is_url("elpv:mono")
    with pytest.raises(ConfigError, match="a run stays"):
        local("s3://a/b", "a run stays")


def test_a_listed_path_knows_its_size_in_another_process(server, scans):
    (record, *_) = cards.open_data(scans).records
    server.requests.clear()
    sent = pickle.loads(pickle.dumps(record))  # noqa: S301
    assert sent.path == record.path
    assert sent.path.is_file()
    assert sent.path.stat().st_size == record.path.stat().st_size
    assert not server.requests


def test_an_open_file_reads_parts_as_they_are_asked_for(server):
    content = np.random.default_rng(0).bytes(2**18)
    server.fill("parts", {"x.bin": content})
    with (place("s3://parts") / "x.bin").open("rb") as file:
        assert file.read(100) == content[:100]
        file.seek(2**17)
        assert file.read(2**16) == content[2**17 : 2**17 + 2**16]
        file.seek(-10, 2)
        assert file.read() == content[-10:]
        assert file.read() == b""


# -- Score directories in a bucket -----------------------------------------------------------------


def workplace():
    """What is here of scorings into buckets."""
    return list(Path(os.environ["XDG_STATE_HOME"]).glob("anodetect/buckets/*/*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_record_in_a_bucket_is_that_of_a_folder(scans, here, pca_run, tmp_path, server, workers):
    bucket = f"records{workers}"
    server.fill(bucket, {"other/a.txt": b"1"})
    server.faults.append(("503", "PUT", "03.png"))
    server.requests.clear()
    result = anodetect.score(pca_run, [scans], f"s3://{bucket}/out/day", workers=workers)
    assert str(result.out) == f"s3://{bucket}/out/day"
    assert server.written()[-1].endswith("/out/day/audit.json")
    assert not workplace()

    record = server.downloaded(bucket, "out/day", tmp_path / "record")
    assert rows_of(record) == rows_of(here / "scores")
    assert anodetect.verify(record, rescore=2).intact
    assert set(files_of(record)) == set(files_of(here / "scores"))
    assert server.content(bucket, "other/a.txt") == b"1"


def test_maps_do_not_wait_on_the_disk(scans, pca_run, server, monkeypatch):
    server.fill("waiting", {})
    most, write = [], RemotePath.write_from

    def count(path, file):
        most.append(len([each for each in workplace() if each.name == "heatmaps"]))
        most.append(sum(each.is_file() for each in file.parent.rglob("*")))
        write(path, file)

    monkeypatch.setattr(RemotePath, "write_from", count)
    monkeypatch.setattr(worker, "BATCH", 2)
    anodetect.score(pca_run, [scans], "s3://waiting/out", workers=1)
    assert max(most) < 60, "12 images have more files"


def test_an_interrupted_scoring_into_a_bucket_goes_on(
    scans, here, pca_run, tmp_path, server, monkeypatch
):
    monkeypatch.setattr(worker, "BATCH", 2)
    monkeypatch.setattr(score, "BATCH", 2)
    server.fill("broken", {})
    server.faults.extend([("503", "PUT", "heatmaps/11")] * 5)
    with pytest.raises(StoreError, match="--resume"):
        anodetect.score(pca_run, [scans], "s3://broken/out", workers=1)
    assert "out/audit.json" not in server.names("broken")
    server.faults.clear()
    with pytest.raises(RunError, match="an interrupted scoring has begun here"):
        anodetect.score(pca_run, [scans], "s3://broken/out", workers=1)

    lost = next(name for name in server.names("broken") if "00" in name)
    server.client.delete_object(Bucket="broken", Key=lost)
    server.requests.clear()
    anodetect.score(pca_run, [scans], "s3://broken/out", workers=1, resume=True)
    again = {name for name in server.written() if "heatmaps" in name}
    assert any("heatmaps/00" in name for name in again), "one of its files was lost"
    assert not any("heatmaps/01" in name for name in again), "the rest is not done again"
    record = server.downloaded("broken", "out", tmp_path / "record")
    assert rows_of(record) == rows_of(here / "scores")
    assert verification.verify(record).intact
    for resume, match in ((True, "is finished"), (False, "is not empty")):
        with pytest.raises(RunError, match=match):
            anodetect.score(pca_run, [scans], "s3://broken/out", resume=resume)


def test_an_upload_of_tables_that_fails_is_done_again(scans, here, pca_run, tmp_path, server):
    server.fill("tables", {})
    server.faults.extend([("503", "PUT", "scores.parquet")] * 5)
    with pytest.raises(StoreError, match="--resume"):
        anodetect.score(pca_run, [scans], "s3://tables/out", heatmaps=(), workers=1)
    assert "out/audit.json" not in server.names("tables")
    server.faults.clear()
    anodetect.score(pca_run, [scans], "s3://tables/out", heatmaps=(), workers=1, resume=True)
    record = server.downloaded("tables", "out", tmp_path / "record")
    assert rows_of(record) == rows_of(here / "scores")
    assert verification.verify(record).intact


def test_a_bucket_that_others_use_is_left_alone(scans, pca_run, server):
    server.fill("used", {"out/theirs.txt": b"1"})
    for resume, match in ((False, "is not empty"), (True, "no journal of its scoring")):
        with pytest.raises(RunError, match=match):
            anodetect.score(pca_run, [scans], "s3://used/out", resume=resume)
    assert server.names("used") == ["out/theirs.txt"]


def test_masks_are_compared_with_maps_that_are_in_the_bucket(
    synthetic_folder, pca_run, server, monkeypatch
):
    monkeypatch.setattr(worker, "BATCH", 2)
    monkeypatch.setattr(score, "BATCH", 2)
    few = re.compile(r"/00[0-5]")
    files = {name: each for name, each in files_of(synthetic_folder).items() if few.search(name)}
    server.fill("truth", files)
    server.faults.extend([("503", "PUT", "005")] * 5)
    with pytest.raises(StoreError):
        anodetect.score(pca_run, ["s3://truth"], "s3://truth/scores", workers=1)
    server.faults.clear()
    there = anodetect.score(pca_run, ["s3://truth"], "s3://truth/scores", workers=1, resume=True)
    assert there.evaluation.pixel is not None
    assert not workplace()


def test_runs_and_reviews_stay_here(tmp_path):
    for call in (
        lambda: anodetect.train(str(tmp_path), "pca", "s3://a/run"),
        lambda: runs.read(Path("s3://a/run")),
        lambda: directories.read_audit(Path("s3://a/scores")),
    ):
        with pytest.raises(ConfigError, match="on this machine"):
            call()
