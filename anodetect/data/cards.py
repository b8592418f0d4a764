"""Data cards: facts about a public data set, and how its name becomes records.

A card is a Markdown file with TOML front matter between +++ lines. A set installed from a package
is read from there; any other is looked for in the folder named by the environment variable
ANODETECT_DATA.
"""

import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from anodetect.config import Config, build
from anodetect.data import formats
from anodetect.data.channels import Channels
from anodetect.data.records import Dataset, Record
from anodetect.data.scan import scan
from anodetect.data.series import record_of, series_of
from anodetect.data.split import position
from anodetect.errors import ConfigError, DataError, nearest, one_line
from anodetect.files import path_text, relative_text
from anodetect.remote.paths import is_url, place

HOME = "ANODETECT_DATA"
ELPV_TEST_SHARE = 0.2


class Baseline(Config):
    """The figures of a trivial method on the test split; None where they were not measured or there
    are no masks."""

    method: str
    variant: str = ""
    image_auroc: float | None = None
    pixel_auroc: float | None = None
    pixel_ap: float | None = None


class Card(Config):
    """The front matter of a card.

    `folder` is the name below $ANODETECT_DATA, "" for a set that comes as a package. `normal` says
    what is learned from, `layout` how the folder looks, `command` what trains on it. `checksum` is
    that of the archive, "" where none was published. `sources` say where numbers come from.
    """

    name: str
    title: str
    purpose: str
    origin: str
    citation: str
    licence: str
    obtain: str
    layout: str
    normal: str
    splits: str
    groups: str
    images: str
    command: str
    known_biases: tuple[str, ...]
    variants: tuple[str, ...] = ()
    folder: str = ""
    package: str = ""
    checksum: str = ""
    sources: tuple[str, ...] = ()
    baselines: tuple[Baseline, ...] = ()


@dataclass(frozen=True)
class Page:
    """A parsed card: its front matter, and the Markdown text below."""

    card: Card
    text: str


def cards_folder() -> Path:
    """Return data_cards/, beside the package in a checkout, or inside it when installed from a
    wheel."""
    package = Path(__file__).parents[1]
    inside = package / "_data_cards"
    return inside if inside.is_dir() else package.parent / "data_cards"


def read_page(path: Path) -> Page:
    """Parse one card; ConfigError or DataError says what is wrong with it."""
    _, _, rest = path.read_text("utf-8").partition("+++\n")
    front, _, text = rest.partition("+++\n")
    try:
        values = tomllib.loads(front)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: front matter: {one_line(error)}") from None
    return Page(build(Card, values, path.name), text.strip())


def all_pages() -> dict[str, Page]:
    """Return all cards by name."""
    pages = (read_page(path) for path in sorted(cards_folder().glob("*.md")))
    return {page.card.name: page for page in pages}


def page(name: str) -> Page:
    """Return the card of this name; DataError with the nearest name if there is none."""
    pages = all_pages()
    if name not in pages:
        raise DataError(f"no data card {name!r}; {nearest(name, pages)}")
    return pages[name]


def open_data(
    data: str | Path,
    *,
    follow_symlinks: bool = False,
    kind_normal: Collection[str] = (),
    known_anomalies: bool = False,
    channels: Channels | None = None,
) -> Dataset:
    """Return the records of DATA on the command line: a folder or one image file, on this machine
    or by its URL, or a card's name (`elpv:mono`).

    `kind_normal` names the folders or kinds that hold normals. With `known_anomalies` the anomalous
    rows of a folder's manifest that are in the train part are to be learned from, too. With
    `channels` the files of a study are one record. Raises DataError if `data` is none of these,
    ConfigError if one of these options is given for something else than a folder.
    """
    if not data:
        raise DataError("an empty path; give a file, a folder ('.' is this one) or a data set")
    path = place(data)
    if path.is_dir():
        return scan(
            path,
            follow_symlinks=follow_symlinks,
            kind_normal=kind_normal,
            known_anomalies=known_anomalies,
            channels=channels,
        )
    if channels is not None and path.is_file():
        raise _no_folder(data, channels)
    if known_anomalies:
        raise ConfigError("--known-anomalies is for folders, whose manifest.csv names them")
    if kind_normal:
        raise ConfigError("--kind-normal is for folders; a card or a file says what it is")
    if path.is_file():
        return _one_file(path)

    if path.exists() or is_url(data):
        missing = "nothing there; check the bucket and the folder in it"
        raise DataError(f"{data}: {'neither a file nor a folder' if path.exists() else missing}")

    name, _, variant = str(data).partition(":")
    pages = all_pages()
    if name not in pages:
        is_path = len(path.parts) > 1 or path.is_absolute()
        hint = "" if is_path else f", and no data card of that name; {nearest(name, pages)}"
        raise DataError(f"{data}: no such file or folder{hint}")

    card = pages[name].card
    if card.variants and variant not in card.variants:
        known = ", ".join(f"{card.name}:{each}" for each in card.variants)
        raise DataError(f"{data}: {card.name} comes as {known}")
    if variant and not card.variants:
        raise DataError(f"{data}: {card.name} has no variants")
    if card.package and channels is not None:
        raise _no_folder(data, channels)
    if card.package:
        return _elpv(variant)
    return _from_home(card, variant, follow_symlinks, channels)


def _no_folder(data: str | Path, channels: Channels) -> ConfigError:
    """Return the error that data have no files for channels."""
    return ConfigError(f"{data}: several channels ({channels.described()}) lie in a folder")


def _one_file(path: Path) -> Dataset:
    """Return the record of one file; a DICOM file stands for its series."""
    if formats.format_of(path) is None:
        header = formats.header_beside(path)
        if header is not None:
            raise DataError(f"{path}: the data of {header.name}; name that file")
        raise DataError(f"{path}: not an image file ({formats.described()})")
    files = series_of(path)
    record = record_of(path.parent, files[0] if files else path, files)
    return Dataset(path_text(path.name), path.parent, (record,))


def relative_to(record: Record, root: Path) -> Record:
    """Return the record with an id (and, where it is its own group, a group) relative to
    `root`."""
    name = relative_text(record.path, root)
    channels = []
    for channel in record.channels:
        own = "" if channel.path is None else relative_text(channel.path, root)
        channels.append(replace(channel, id=own))
    group = name if record.group == record.id else record.group
    return replace(record, id=name, group=group, channels=tuple(channels))


def _from_home(
    card: Card, variant: str, follow_symlinks: bool, channels: Channels | None
) -> Dataset:
    """Return the records of a set below $ANODETECT_DATA; DataError says how to get it."""
    home = os.environ.get(HOME)
    folder = Path(home or f"${HOME}") / card.folder / variant
    if not home or not folder.is_dir():
        raise DataError(f"{card.name} is not here (looked for {folder}): {card.obtain}")

    name = f"{card.name}:{variant}" if variant else card.name
    return replace(scan(folder, follow_symlinks=follow_symlinks, channels=channels), name=name)


def _elpv(variant: str) -> Dataset:
    """Return the cells of one module type whose defect probability is 0 (normal) or 1 (defective),
    in the fixed split of the card."""
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise DataError("ELPV is not installed: pip install 'anodetect[demo]'")
    root = Path(spec.origin).parent / "data"

    records = []
    for line in (root / "labels.csv").read_text("utf-8").splitlines():
        name, probability, kind = line.split()
        if kind != variant or float(probability) not in (0.0, 1.0):
            continue
        label = int(float(probability))
        split = "test" if label or position(name, "elpv") < ELPV_TEST_SHARE else "train"
        word = "defective" if label else "good"
        records.append(
            Record(id=name, path=root / name, split=split, label=label, kind=word, group=name)
        )
    return Dataset(f"elpv:{variant}", root, tuple(records), layout="the card's own labels")


def describe(page: Page) -> Mapping[str, object]:
    """Return a card as a JSON object."""
    return page.card.model_dump(mode="json") | {"text": page.text}
