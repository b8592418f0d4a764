"""Names of reviewers that look like spellings of one name."""

import unicodedata
from collections.abc import Iterable

# Small letters of other alphabets, and the Latin ones that they, or their capitals, look like:
# Cyrillic and Greek pairs of the list of confusable characters (Unicode Technical Standard 39).
_LOOK_ALIKES = str.maketrans(
    "авеѕіјԛкһмнорԁстуԝх" + "αβεζηικμνορτυχ" + "ı’‘ʼ‐‑‒–",
    "abesijqkhmhopdctywx" + "abezhikmnoptyx" + "i'''----",
)


def folded(name: str) -> str:
    """Return what is left of a name without case, Unicode's ways to compose letters, invisible
    characters, surrounding and repeated white space, and the alphabet of letters that look alike.

    Accents stay: José is not Jose.
    """
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    visible = "".join(each for each in letters if unicodedata.category(each) != "Cf")
    return " ".join(visible.translate(_LOOK_ALIKES).split())


def known_spelling(name: str, known: Iterable[str]) -> str:
    """Return which of the `known` names, in their order, this one may be another spelling of; "" if
    it is none, or one of them to the letter."""
    others = list(known)
    if name in others:
        return ""
    own = folded(name)
    return next((other for other in others if own and folded(other) == own), "")


def spelled_alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the names, sorted, that may be spellings of one, for each one with several."""
    found: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        found.setdefault(folded(name), []).append(name)
    return [tuple(each) for each in found.values() if len(each) > 1]
