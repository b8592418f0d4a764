"""Many small files from a bucket: the libraries that could read them, against one local server.

    python -m benchmarks.remote [--files 1000] [--kilobytes 30] [--rounds 5] [--json]

The server is moto's (extra `dev`), in a process of its own. Each library lists the files and reads
them on 16 threads: `anodetect` as this package does, `obstore` by its layer for fsspec, and `s3fs`
if it is installed. Files a second are those of both processes on this machine; what the library
itself takes of a core is what is left of them with a server elsewhere. Rounds take turns; medians.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.request import urlopen

from anodetect.model.read_ahead import FROM_BUCKETS
from anodetect.remote.buckets import Bucket
from benchmarks import common

NAME = "many"
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def server() -> Iterator[str]:
    """Start the server and yield its address, which is then in this process's environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    os.environ.update(SETTINGS | {"AWS_ENDPOINT_URL": url})

    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", port],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            try:
                urlopen(f"{url}/moto-api/").close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def fill(url: str, files: int, size: int) -> None:
    """Write files of random bytes into a new bucket."""
    import boto3

    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket=NAME)
    for number in range(files):
        name = f"images/{number % 10}/{number:06}.png"
        client.put_object(Bucket=NAME, Key=name, Body=os.urandom(size))


Library = tuple[Callable[[], Sequence[str]], Callable[[str], bytes]]  # lists names, reads a file


def libraries(url: str) -> dict[str, Library]:
    """Return how each library lists the files and reads one."""
    from obstore.fsspec import FsspecStore

    bucket = Bucket(f"s3://{NAME}")

    def names() -> list[str]:
        return [entry.key for page in bucket.pages("images") for entry in page]

    layer = FsspecStore(
        "s3",
        config={"endpoint": url, "virtual_hosted_style_request": False},
        client_options={"allow_http": True},
    )
    found: dict[str, Library] = {
        "anodetect": (names, bucket.read),
        "obstore fsspec": (lambda: layer.find(f"{NAME}/images"), layer.cat_file),
    }
    if find_spec("s3fs"):
        import s3fs

        files = s3fs.S3FileSystem(endpoint_url=url, use_listings_cache=False)
        found["s3fs"] = (lambda: files.find(f"{NAME}/images"), files.cat_file)
    return found


def measure(library: Library, files: int) -> dict[str, float]:
    """Return seconds to list, files a second that were read, and core-milliseconds of each."""
    listing, read = library
    start = time.perf_counter()
    names = listing()
    listed = time.perf_counter() - start
    assert len(names) == files

    start, core = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(FROM_BUCKETS) as pool:
        for _ in pool.map(read, names):
            pass
    took, used = time.perf_counter() - start, time.process_time() - core
    return {
        "seconds to list": listed,
        "files a second": files / took,
        "core-ms a file": 1000 * used / files,
    }


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--kilobytes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    measured: dict[str, list[dict[str, float]]] = {}
    with server() as url:
        fill(url, arguments.files, 1024 * arguments.kilobytes)
        known = libraries(url)
        for _ in range(arguments.rounds):
            for name, library in known.items():
                measured.setdefault(name, []).append(measure(library, arguments.files))

    result = {}
    for name, rounds in measured.items():
        for figure in rounds[0]:
            median = statistics.median(each[figure] for each in rounds)
            result[f"{figure}, {name}"] = round(median, 3)
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
