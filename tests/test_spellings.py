"""Names that may be spellings of one."""

import unicodedata

import pytest

from anodetect.stats import spellings

ALIKE = {
    "case": ("Ada Lovelace", "ADA lovelace"),
    "case of a letter that becomes two": ("Weiß", "WEISS"),
    "composition": ("Jos\u00e9", "Jose\u0301"),
    "white space around": ("Ada", "\u00a0Ada "),
    "white space within": ("Ada Lovelace", "Ada \t Lovelace"),
    "an ideographic space": ("Ada Lovelace", "Ada\u3000Lovelace"),
    "invisible characters": ("Ada", "A\u200bd\u00ada"),
    "wide letters": ("Ada", "\uff21\uff44\uff41"),
    "a Cyrillic capital": ("Ada", "\u0410da"),
    "Cyrillic letters": ("Hope", "\u041d\u043e\u0440\u0435"),
    "Greek capitals": ("TINA", "\u03a4\u0399\u039d\u0391"),
    "an apostrophe": ("O'Brien", "O\u2019Brien"),
    "a dash": ("Jean-Luc", "jean\u2010luc"),
}
OTHERS = [("Ada", "Ida"), ("Jose", "Jos\u00e9"), ("Ada L", "AdaL"), ("R1", "RL"), ("Ann", "Anna")]


@pytest.mark.parametrize("case", ALIKE)
def test_spellings_of_one_name(case):
    known, typed = ALIKE[case]
    assert typed != known and spellings.known_spelling(typed, ["Ben", known]) == known
    assert spellings.known_spelling(known, [typed]) == typed
    assert spellings.known_spelling(typed, [known, typed]) == ""  # it is known by itself
    assert spellings.spelled_alike(["Ben", known, typed]) == [tuple(sorted((known, typed)))]


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_other_names(one, other):
    assert spellings.known_spelling(one, [other]) == "" == spellings.known_spelling("", [one])
    assert spellings.spelled_alike([one, other]) == []


def test_names_keep_apart_within_an_alphabet():
    """A letter only becomes the one of another alphabet: no two Latin ones fall together, and of
    Cyrillic and Greek only those whose capitals and small letters look like one Latin letter."""
    latin = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    assert [spellings.folded(letter) for letter in latin] == latin
    for letters in ("абвгдежзийклмнопрстуфхцчшщъыьэюя", "αβγδεζηθικλμνξοπρστυφχψω"):
        folded = {unicodedata.normalize("NFC", spellings.folded(letter)) for letter in letters}
        assert len(folded) == len(letters)
        assert [spellings.folded(letter.upper()) for letter in letters] == [
            spellings.folded(letter) for letter in letters
        ]
