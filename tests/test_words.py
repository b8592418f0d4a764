"""Numbers and lists in words, and messages whose count is 1."""

from pathlib import Path

import numpy as np
import pytest

from anodetect.commands.maps import MapsResult
from anodetect.commands.texts import maps_text
from anodetect.data import patients, split
from anodetect.data.records import Record
from anodetect.errors import DataError
from anodetect.output.report import environment
from anodetect.record.made_maps import MadeFile
from anodetect.stats import contamination, decision, metrics
from anodetect.stats.calibration import Calibration
from anodetect.words import amount, first_of, sentence


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (2, ("image",), "2 images"),
        (1.0, ("image",), "1 image"),
        (1.5, ("image",), "1.5 images"),
        (np.int64(1), ("image",), "1 image"),
        (1_234_567, ("row",), "1234567 rows"),
        (1, ("file is", "files are"), "1 file is"),
        (3, ("file is", "files are"), "3 files are"),
        (2, ("anomaly", "anomalies"), "2 anomalies"),
    ],
)
def test_a_number_stands_with_its_noun(count, words, text):
    assert amount(count, *words) == text


def test_the_first_names_of_a_list():
    assert first_of(["a", "b"]) == "a, b"
    assert first_of(["a", "b", "c", "d"], 2) == "a, b and 2 more"


ONE = Calibration(np.array([1.0]), np.array([1.0]), ("a",))
FEW = Calibration(np.arange(99.0), np.arange(99.0), ("a",) * 99)
MADE = MapsResult(Path("out"), "", (MadeFile("a", "a.npy", "map", "", exact=False),), ())
REPORT = environment().from_string('{{ 1 | amount("image") }}').render()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (ONE.statement(0.05), "the finest rate 1 group can promise is 0.5000, and 1 image reaches"),
        (ONE.statement(0.5), "from 1 calibration image in 1 group;"),
        (FEW.statement(0.05), "1 calibration group is too few for 5.00%"),
        (decision.statement(ONE, decision.Rule(0.05, by_fdr=True), 1, 1), "none of 1 image can"),
        (metrics.too_few(1), "no interval: 1 group, at least 10 are needed"),
        (contamination.caveat(["a"], 8), "1 of these 8 images, one of each group, looks odder"),
        (contamination.caveat(["a", "b", "c", "d"], 8), "look at a, b, c and 1 more"),
        (patients.warning_of(["study-1"]), "1 file names no patient"),
        (patients.line_of_notes({"a": "tilted"}), "1 volume with a note; the first: a: tilted"),
        (maps_text(MADE), "files of 1 input in out\n1 score is as recorded"),
        (REPORT, "1 image"),
    ],
)
def test_sentences_agree_with_a_count_of_one(text, part):
    assert part in text


def test_errors_agree_with_a_count_of_one():
    with pytest.raises(DataError, match=r"^1 normal image is too few"):
        split.assign([Record("a", Path("a.png"))])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pixel metrics over 1 of 2 images", "Pixel metrics over 1 of 2 images."),
        ("p-values are not valid", "P-values are not valid."),
        ("3 files differ", "3 files differ."),
        ("No drift found.", "No drift found."),
        ("Ada, ada: spellings of one", "Ada, ada: spellings of one."),
        ("ada, Ada: spellings of one", "ada, Ada: spellings of one."),
        ("scan_1.png lacks a mask", "scan_1.png lacks a mask."),
        ("", ""),
    ],
)
def test_sentences_have_a_capital_and_a_full_stop(text, said):
    assert sentence(text) == said
