"""The addresses that the browser fetches for the viewer, beside Streamlit's own: the viewer itself,
and with a ticket a case's description, its tiles or slices, and its outlines."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from anodetect.errors import AnodetectError

from . import shelves, slices, tiles
from .display import Channels, Window
from .slices import Sliced, VolumeText
from .tickets import OFFICE

BUNDLE = Path(__file__).parent / "viewer" / "bundle"
MEDIA = {".js": "text/javascript", ".css": "text/css", ".txt": "text/plain"}
UNKEPT = {"Cache-Control": "no-store"}
PROOF = "Anodetect-Proof"  # header of a thumbnail; see shelves.is_proof
_state = {"served": False}

# Streamlit sends this with each drawing of the page; the module itself is fetched once. Until it
# is there, of two drawings the browser may show the older one last: only the latest counts.
_SCRIPT = """
export default function (component) {
  const drawings = globalThis.anodetectDrawings ??= {};
  const drawing = drawings.NAME = (drawings.NAME ?? 0) + 1;
  const address = new URL("viewer/bundle/NAME.js?STAMP", document.baseURI).href;
  import(address).then((module) => {
    if (drawing === drawings.NAME) module.default(component);
  });
}
"""


@dataclass(frozen=True)
class LayerText:
    """A layer as the browser reads it: the type of its values, its channels and its size in
    pixels."""

    kind: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class ChannelText:
    """One of the files of an image as the browser reads it: the planes of the layer "image" that it
    has, `count` from `start` on, and its windows."""

    name: str
    start: int
    count: int
    windows: dict[str, Window]


@dataclass(frozen=True)
class CaseText:
    """A case as the browser reads it; without an image, `notes` say why. `scale` holds the ends of
    the map's colours. Height and width of a volume are those of the slices that were scored.
    `windows` are those of the first channel, where there are several. `found` says how many regions
    of an image count."""

    height: int
    width: int
    tile: int
    layers: dict[str, LayerText]
    outlines: list[str]
    windows: dict[str, Window]
    scale: tuple[float, float]
    notes: list[str]
    channels: list[ChannelText] = field(default_factory=list)
    volume: VolumeText | None = None
    found: str = ""


def served() -> bool:
    """Return whether this process serves these addresses; Streamlit alone does not."""
    return _state["served"]


def is_ready() -> bool:
    """Return whether the viewer is built, and served by this process."""
    return served() and (BUNDLE / "viewer.js").is_file()


def script(name: str) -> str:
    """Return the script of a component of this page that is the module `name` of the viewer."""
    stamp = (BUNDLE / "stamp.txt").read_text("utf-8")
    return _SCRIPT.replace("NAME", name).replace("STAMP", stamp)


def served_routes() -> list[Route]:
    """Return the addresses, for the app that serves them."""
    _state["served"] = True
    return [
        Route("/viewer/bundle/{name}", _bundle),
        Route("/viewer/case/{ticket}", _case),
        Route("/viewer/progress/{ticket}", _progress),
        Route("/viewer/tile/{ticket}/{layer}/{level:int}/{column:int}/{row:int}", _tile),
        Route("/viewer/outline/{ticket}/{name}", _outline),
        Route("/viewer/gallery/{shelf}/{start:int}/{count:int}", _items),
        Route("/viewer/thumbnail/{shelf}/{ticket}", _thumbnail),
        Route("/viewer/slice/{ticket}/{layer}/{plane}/{number:int}", _slice),
        Route("/viewer/outline/{ticket}/{name}/{plane}/{number:int}", _slice_outline),
    ]


def describe(ticket: str) -> CaseText:
    """Return the description of a ticket's case; raise RunError for an unknown ticket."""
    case, audit = OFFICE.case(ticket, anew=True), OFFICE.find(ticket).directory.audit
    if isinstance(case, Sliced):
        return _describe_volume(case, audit.scale)
    layers = {}
    for name, pyramid in case.layers.items():
        channels, height, width = pyramid.levels[-1].shape
        layers[name] = LayerText(pyramid.kind, channels, height, width)

    return CaseText(
        height=case.size[0],
        width=case.size[1],
        tile=tiles.SIDE,
        layers=layers,
        outlines=list(case.masks),
        windows=dict(case.windows),
        scale=audit.scale,
        notes=list(case.notes),
        channels=_channels(case.channels),
        found=case.found,
    )


def _channels(channels: Channels) -> list[ChannelText]:
    return [ChannelText(each.name, each.start, each.count, dict(each.windows)) for each in channels]


def _describe_volume(case: Sliced, scale: tuple[float, float]) -> CaseText:
    """Return the description of a volume."""
    if not case.layers:
        return CaseText(0, 0, tiles.SIDE, {}, [], {}, scale, list(case.notes))
    _, height, width = case.geometries[case.plane].sides
    layers = {}
    for name, values in case.layers.items():
        kind = values.dtype.newbyteorder("<").str
        layers[name] = LayerText(kind, len(values), height, width)

    return CaseText(
        height=height,
        width=width,
        tile=max(height, width),
        layers=layers,
        outlines=list(case.masks),
        windows=dict(case.windows),
        scale=scale,
        notes=list(case.notes),
        channels=_channels(case.channels),
        volume=slices.describe(case),
    )


def _bundle(request: Request) -> Response:
    """Serve a file of the viewer. Its address changes with its contents."""
    path = BUNDLE / str(request.path_params["name"])
    if path.parent != BUNDLE or path.suffix not in MEDIA or not path.is_file():
        return JSONResponse({"problem": "there is no such file"}, 404)
    kept = {"Cache-Control": "private, max-age=31536000, immutable"}
    return FileResponse(path, media_type=MEDIA[path.suffix], headers=kept)


def _case(request: Request) -> Response:
    def answer() -> Response:
        return JSONResponse(asdict(describe(request.path_params["ticket"])), headers=UNKEPT)

    return _answered(answer)


def _progress(request: Request) -> Response:
    """Say how far the reading of a case is, while it goes on."""
    found = OFFICE.progress(request.path_params["ticket"])
    return JSONResponse(None if found is None else asdict(found), headers=UNKEPT)


def _tile(request: Request) -> Response:
    def answer() -> Response:
        place = request.path_params
        layer = OFFICE.image(place["ticket"]).layers.get(place["layer"])
        if layer is None:
            return JSONResponse({"problem": "there is no such layer"}, 404)
        values = layer.tile(place["level"], place["column"], place["row"])
        return Response(values, media_type="application/octet-stream", headers=UNKEPT)

    return _answered(answer)


def _outline(request: Request) -> Response:
    def answer() -> Response:
        case = OFFICE.image(request.path_params["ticket"])
        return JSONResponse(tiles.outline(case, request.path_params["name"]), headers=UNKEPT)

    return _answered(answer)


def _items(request: Request) -> Response:
    def answer() -> Response:
        place = request.path_params
        found = shelves.items(place["shelf"], place["start"], place["count"])
        return JSONResponse([asdict(item) for item in found], headers=UNKEPT)

    return _answered(answer)


def _slice(request: Request) -> Response:
    def answer() -> Response:
        place = request.path_params
        volume = OFFICE.volume(place["ticket"])
        values = volume.values(place["layer"], place["plane"], place["number"])
        return Response(values, media_type="application/octet-stream", headers=UNKEPT)

    return _answered(answer)


def _thumbnail(request: Request) -> Response:
    def answer() -> Response:
        place = request.path_params
        found = shelves.picture(place["shelf"], place["ticket"])
        headers = UNKEPT | {PROOF: OFFICE.proof(place["ticket"])}
        return Response(found, media_type="image/jpeg", headers=headers)

    return _answered(answer)


def _slice_outline(request: Request) -> Response:
    def answer() -> Response:
        place = request.path_params
        volume = OFFICE.volume(place["ticket"])
        lines = volume.outline(place["name"], place["plane"], place["number"])
        return JSONResponse(lines, headers=UNKEPT)

    return _answered(answer)


def _answered(answer: Callable[[], Response]) -> Response:
    """Return the answer; what a user can correct becomes a message with status 404."""
    try:
        return answer()
    except AnodetectError as error:
        return JSONResponse({"problem": str(error)}, 404, UNKEPT)
