"""Serve: a model behind an address. An image comes by POST, and its verdict goes back.

    GET  /health   200 while it works
    GET  /model    the run, its calibration and the rate at which images are flagged
    POST /score    the bytes of an image or a DICOM file → score, p-value, flag, regions and map

Nothing that is sent stays: it lies in a temporary file while it is scored. What a killed process
leaves is removed when the next one starts.
"""

import base64
import hmac
import importlib.util
import io
import os
import re
import tempfile
import threading
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from anodetect.engines.line import Line, Verdict, record_of_file
from anodetect.engines.worker import Task
from anodetect.errors import ConfigError, ImageError
from anodetect.model.devices import check_device
from anodetect.record import runs
from anodetect.record.rows import OK
from anodetect.record.scratch import scratch_folder
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.types import Floats, Reporter, Silent

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

INSTALL = "pip install 'anodetect[serve]'"
SCRATCH = "serve"  # in the names of folders for what is sent
TOKEN = "ANODETECT_SERVE_TOKEN"  # the variable of the environment, not a token
LEAST_TOKEN = 16  # letters
LARGEST = 2**28  # bytes of an image
TOGETHER = 16  # requests that are answered at a time
SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,8}){1,2}")
MAPS = ("none", "tiff", "npy")
Answer = Callable[["Request"], Awaitable["Response"]]


def serve(
    run_path: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8600,
    far: float = DEFAULT_FAR,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> None:
    """Answer images with their verdicts by a run, until SIGTERM or Ctrl-C.

    On an address that other machines reach every request has to bring the token that is in the
    environment, as `Authorization: Bearer …`. ConfigError where there is none, or the extra is not
    installed.
    """
    reporter, token = reporter or Silent(), os.environ.get(TOKEN, "")
    check_extra()
    check_device(device)
    check_token(host, token)
    import uvicorn

    with scratch_folder(SCRATCH) as scratch:
        line = line_of(Path(run_path), scratch, far, device)
        reporter.say(f"answering on http://{host}:{port}, {'with' if token else 'without'} a token")
        uvicorn.run(
            application(line, token),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=TOGETHER,
        )


def check_extra() -> None:
    """Raise ConfigError if the extra `serve` is not installed."""
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"serve needs {name}: {INSTALL}")


def check_token(host: str, token: str) -> None:
    """Raise ConfigError for a token that is too short, or for none where other machines reach the
    address."""
    if token and len(token) < LEAST_TOKEN:
        raise ConfigError(f"{TOKEN}: at least {LEAST_TOKEN} letters are needed")
    if not token and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: other machines reach it; set a token in {TOKEN}, or leave --host out"
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def line_of(run_path: Path, scratch: Path, far: float, device: str) -> Line:
    """Return the line of a run, which writes nothing; RunError and ConfigError for what cannot be
    meant."""
    run = runs.read(run_path)
    run.calibration.level(far)  # refuses an impossible rate
    task = Task(
        run_path.absolute(), run.model_sha256, scratch, (), far, None, "1/1", device, False
    )  # fmt: skip
    return Line(run, task, pictures=False)


# -- The application -------------------------------------------------------------------------------


def application(line: Line, token: str = "", largest: int = LARGEST) -> "Starlette":
    """Return the application that answers by a line, with a `token` only who brings it; images of
    more than `largest` bytes are refused."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    turn = threading.Lock()  # a model scores one image at a time

    async def health(request: "Request") -> "Response":
        return JSONResponse({"status": "ok"})

    async def model(request: "Request") -> "Response":
        return JSONResponse(about(line))

    async def score(request: "Request") -> "Response":
        wanted = request.query_params.get("map", "none")
        if wanted not in MAPS:
            return JSONResponse({"error": f"map: {', '.join(MAPS)} are known"}, 400)
        content = await _body(request, largest)
        if content is None:
            return JSONResponse({"error": f"larger than {largest} bytes"}, 413)
        name = request.query_params.get("name", "")
        try:
            verdict = await run_in_threadpool(verdict_of, line, content, name, turn)
        except ImageError as error:
            return JSONResponse({"error": str(error)}, 415)
        status = 200 if verdict.entry.row.status == OK else 422
        return JSONResponse(answer_of(verdict, name, wanted), status)

    routes = [
        Route("/health", health),
        Route("/model", _guarded(model, token)),
        Route("/score", _guarded(score, token), methods=["POST"]),
    ]
    return Starlette(routes=routes)


def _guarded(answer: Answer, token: str) -> Answer:
    """Return what answers only who brings the token."""
    from starlette.responses import JSONResponse

    async def guarded(request: "Request") -> "Response":
        brought = request.headers.get("authorization", "")
        if token and not hmac.compare_digest(brought.encode(), f"Bearer {token}".encode()):
            return JSONResponse({"error": "a token is needed"}, 401)
        return await answer(request)

    return guarded


async def _body(request: "Request", largest: int) -> bytes | None:
    """Return what was sent; None if it is larger than allowed, of which no more is read."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > largest:
            return None
        parts.append(part)
    return b"".join(parts)


def verdict_of(line: Line, content: bytes, name: str, turn: threading.Lock) -> Verdict:
    """Return the verdict over the bytes of a file; `name` says by its suffix of which kind it is,
    else its bytes do. ImageError if it is none that can be read."""
    found = SUFFIX.fullmatch("".join(PurePath(name).suffixes[-2:]))
    with tempfile.TemporaryDirectory(dir=line.task.out) as folder:
        file = Path(folder) / f"image{found.group() if found else ''}"
        file.write_bytes(content)
        record = record_of_file(file, Path(folder))
        with turn:
            return line.score(record)


def answer_of(verdict: Verdict, name: str, wanted: str) -> dict[str, Any]:
    """Return what is said of a file: its verdict, and its map in base64 if one is wanted."""
    answer = verdict.as_json()
    del answer["heatmap"]
    answer["path"] = name
    if wanted != "none" and verdict.heatmap is not None:
        content = base64.b64encode(_encoded(verdict.heatmap, wanted)).decode()
        answer["map"] = {"format": wanted, "content": content}
    return answer


def _encoded(heatmap: Floats, wanted: str) -> bytes:
    """Return a map, float32 in the image's own grid, as a file."""
    buffer = io.BytesIO()
    if wanted == "npy":
        np.save(buffer, heatmap, allow_pickle=False)
    else:
        tifffile.imwrite(buffer, heatmap, metadata=None)
    return buffer.getvalue()


def about(line: Line) -> dict[str, Any]:
    """Return what is to be known of a line's model."""
    from anodetect.config import without_nan

    calibration, header, far = line.run.calibration, line.run.header, line.task.far
    found: dict[str, Any] = without_nan(
        {
            "detector": header.detector,
            "representation": header.sees,
            "model_sha256": line.run.model_sha256,
            "far": far,
            "threshold": calibration.threshold(far),
            "calibration_images": len(calibration.scores),
            "statement": calibration.statement(far),
        }
    )
    return found
