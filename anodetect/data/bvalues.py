"""The b-values of a diffusion scan in a file of several volumes, as its `.bval` file says: they
name the volumes.

Such a file has the volume's name and one number for each volume, in their order. dcm2niix writes
it, and BIDS keeps it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from anodetect.data import formats
from anodetect.data.reading import Component
from anodetect.data.volume_headers import volumes_in
from anodetect.errors import ImageError
from anodetect.words import amount

SUFFIX = ".bval"
LARGEST = 2**20  # bytes of a file that is read
MOST_NAMES = 8  # in a reason


def names_beside(path: Path) -> tuple[str, ...]:
    """Return the names of a file's volumes, such as `b 0` and `b 1000`; of several with one b-value
    `b 1000 1`, `b 1000 2` and so on. () if there are no b-values beside it."""
    suffix = formats.suffix_of(path.name)
    beside = path.with_name(path.name[: -len(suffix) or None] + SUFFIX)
    try:
        if not beside.is_file() or beside.stat().st_size > LARGEST:
            return ()
        values = [float(word) for word in beside.read_text("ascii").split()]
    except (OSError, ValueError):
        return ()

    plain = [f"b {round(value, 3):g}" for value in values]
    count, seen = Counter(plain), Counter[str]()
    names: list[str] = []
    for name in plain:
        seen[name] += 1
        names.append(name if count[name] == 1 else f"{name} {seen[name]}")
    return tuple(names)


def number_of(path: Path, component: Component) -> int | None:
    """Return the number of the volume that `component` names or numbers in a file; None if the file
    holds one and none was asked for.

    ImageError with the names of all volumes if it is none of them, or if none is chosen.
    """
    if isinstance(component, int):
        return component
    names = names_beside(path)
    if not names and component is not None:
        raise ImageError(
            f"components of this format have numbers, and {component!r} is none; names come from "
            f"a {SUFFIX} file beside it"
        )
    if not names:
        return None

    count = volumes_in(path)
    if count is None or (count == 1 and component is None):
        return None  # decoding it says what is wrong, if anything is
    if len(names) != count:
        values, volumes = amount(len(names), "b-value"), amount(count, "volume")
        raise ImageError(
            f"{values} beside a file of {volumes}; correct its {SUFFIX} file, or choose a volume "
            "by its number: --select 0"
        )
    return _chosen(names, component)


def _chosen(names: Sequence[str], component: str | None) -> int:
    """Return the number of a name; ImageError with all names if it is none of them."""
    for number, name in enumerate(names):
        if component is not None and name == " ".join(component.casefold().split()):
            return number
    listed = ", ".join(map(repr, names[:MOST_NAMES]))
    listed += ", …" if len(names) > MOST_NAMES else ""
    if component is not None:
        volumes = amount(len(names), "volume")
        raise ImageError(f"no component {component!r} in a file of {volumes}: {listed}")
    raise ImageError(
        f"{len(names)} volumes in one file: {listed}; choose one: --select NAME, or a column "
        "'component' in manifest.csv"
    )
