"""The report of a score directory: its name, its links into the app, and verdicts that count."""

import re
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import score_folders
from PIL import Image

import anodetect
from anodetect.commands.inputs import collect
from anodetect.data import cards
from anodetect.files import sha256_of
from anodetect.output import figures, report
from anodetect.output.bars import score_bars
from anodetect.record import directories, reviews
from anodetect.record.audit import ShownCases
from anodetect.record.marks import Shown
from anodetect.record.rows import OutputRow, to_table
from apps.review import figures as charts
from apps.review.store import Store

NAME = "part-000.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A score directory with one kept picture, and verdicts: one superseded, one taken back."""
    out = score_folders.write(tmp_path_factory.mktemp("report"), 4)
    picture = directories.picture_of(out, NAME)
    picture.parent.mkdir()
    Image.new("RGB", (612, 200), "grey").save(picture)
    tables = directories.read_tables(out)
    row = OutputRow(
        name=picture.relative_to(out).as_posix(), path=NAME, kind="case", sha256=sha256_of(picture)
    )
    outputs = [*directories.rows_of(tables.outputs, OutputRow), row]
    audit = replace(directories.read(out).audit, cases=ShownCases(highest=(NAME,)))
    directories.write(out, audit, replace(tables, outputs=to_table(outputs, OutputRow)))

    read = directories.read(out)
    store = Store(out, read.audit.head)
    first, second = read.rows[:2]
    for row, verdict in ((first, "normal"), (second, "unsure"), (first, "anomalous")):
        store.add(row, "Ada", verdict, [Shown(row.path, row.sha256, painted=True)])
    store.add(first, "Ben", "normal", [Shown(first.path, first.sha256, painted=True)])
    store.withdraw(store.read()[1], "Ada")
    return out


@pytest.fixture(scope="module")
def page(folder):
    return report.html(folder, reviews.read(folder / reviews.FILE))


def test_the_report_is_named_after_what_was_scored(page):
    assert re.search(r"<h1>images, scored by \w+</h1>", page)


def heading(page):
    return re.search(r"<h1>(.+), scored by \w+</h1>", page)[1]


def test_the_report_of_a_data_set_has_its_name(pca_run, synthetic_folder, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "mvtec_ad").mkdir(parents=True)
    (home / "mvtec_ad" / "tile").symlink_to(synthetic_folder, target_is_directory=True)
    monkeypatch.setenv(cards.HOME, str(home))
    anodetect.score(pca_run, ["mvtec_ad:tile"], tmp_path / "out", far=0.2)
    assert heading((tmp_path / "out" / "report.html").read_text("utf-8")) == "mvtec_ad:tile"
    assert directories.read(tmp_path / "out").audit.names == ("mvtec_ad:tile",)


def test_the_names_of_what_is_scored(tmp_path, monkeypatch):
    for name in ("day1/part.png", "day2/part.png", "day2/late/part.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(file)
    monkeypatch.chdir(tmp_path / "day1")

    def names(*paths):
        return collect([str(tmp_path / path) for path in paths], tmp_path / "out", False).names

    assert list(names("day1")) == ["day1"]
    assert list(collect(["."], tmp_path / "out", False).names) == ["day1"]
    assert list(collect(["../day2"], tmp_path / "out", False).names) == ["day2"]
    assert list(names("day1/part.png")) == ["part.png"]
    assert list(names("day1", "day2/late")) == ["day1", "day2/late"]
    assert list(names("day2", "day2/late/part.png")) == ["day2", "late/part.png"]


@pytest.mark.parametrize(
    ("names", "title"),
    [
        ((), "images"),  # of an older release: the folder
        (("elpv:mono",), "elpv:mono"),
        (("day1", "day2"), "day1 and day2"),
        (("day1", "day2", "day3"), "day1, day2 and day3"),
        (("a.png", "b.png", "c.png", "d.png"), "a.png, b.png and 2 more"),
    ],
)
def test_a_title_names_what_was_scored(folder, names, title):
    read = directories.read(folder)
    assert report._scored(replace(read.audit, names=names)) == title


def test_a_report_says_why_there_is_no_kappa(folder):
    written = reviews.read(folder / reviews.FILE)
    page = report.html(folder, [written[0], written[3]])  # both normal
    assert "they agree on 1 (κ is not defined: both always gave one and the same verdict)" in page


def test_verdicts_that_no_longer_count_say_why(page):
    cells = re.findall(r"<td>(\d+)</td><td>([^\n]*?)</td><td class=\"path\">(Ada|Ben)", page)
    assert [(number, text) for number, text, _ in cells] == [
        ("1", "<s>normal</s> (superseded by record 3)"),
        ("2", "<s>unsure</s> (taken back)"),
        ("3", "anomalous"),
        ("4", "normal"),
        ("5", "withdrawn (record 2)"),
    ]


def test_cases_are_links_into_the_app(folder, page):
    links = [
        each.replace("&amp;", "&") for each in re.findall(r'class="open" href="([^"]+)"', page)
    ]
    assert len(links) == 1 + 2 + 5  # highest, flagged, verdicts
    address = urlsplit(links[0])
    assert f"{address.scheme}://{address.netloc}" == report.APP
    asked = parse_qs(address.query)
    assert asked["case"] == [NAME]
    assert directories.read(folder).audit.head.startswith(asked["record"][0])
    elsewhere = report.html(folder, [], "https://review.example/app/")
    assert "https://review.example/app/?record=" in elsewhere


def test_strange_names_are_escaped_in_links():
    link = report.environment().filters["case_link"]
    assert link('a/"b&c=d%20 ü.png') == "a%2F%22b%26c%3Dd%2520%20%C3%BC.png"


def test_pictures_enlarge_without_a_script_and_the_page_has_a_dark_form(page):
    assert page.count('<details class="zoom">') == 1 + 1 + 3  # of the image with a picture
    assert "<script" not in page and "prefers-color-scheme: dark" in page
    assert "q: the smallest false-discovery rate" in page


def test_the_histogram_of_scores_far_apart_is_not_one_bar():
    """An ensemble's scores are exponentials: those of defects are thousands of times the usual."""
    rng = np.random.default_rng(0)
    calibration, scores = np.exp(rng.normal(size=200)), np.exp(rng.normal(size=90))
    scores = np.append(scores, np.exp(rng.normal(8, 3, 60)))

    bars = score_bars(scores, calibration)
    heights, edges, name = bars.heights(calibration), bars.edges, bars.axis
    assert (heights > 0).sum() > 8 and heights.sum() == 200
    beyond = int(((scores < edges[0]) | (scores > edges[-1])).sum())
    assert bars.is_logarithmic and "logarithmic" in name and f"; {beyond} beyond the axis" in name

    # Without logarithms the axis ends soon after the usual scores, and says what is beyond.
    bars = score_bars(np.log(scores) * 1000, np.log(calibration))
    assert (np.histogram(np.log(calibration), bars.edges)[0] > 0).sum() > 4
    assert not bars.is_logarithmic and re.search(r"\); \d\d+ beyond the axis", bars.axis)

    labels = np.repeat([0, 1], [90, 60])
    text = figures.histogram(scores, labels, calibration, 5.0, of_groups=False)
    assert "logarithmic" in text and "mathdefault" not in text  # ticks are plain numbers


def test_the_histogram_of_usual_scores_is_linear():
    calibration = np.random.default_rng(0).normal(2, 0.1, 200)
    bars = score_bars(calibration[:50] + 0.3, calibration)
    np.testing.assert_allclose(np.diff(bars.edges), bars.edges[1] - bars.edges[0])
    assert bars.axis == "score (larger = more anomalous)" or "1 beyond" in bars.axis
    constant = score_bars(np.zeros(3), np.zeros(5))
    assert (constant.edges[0], constant.edges[-1]) == (0, 1) and "beyond" not in constant.axis
    assert score_bars(np.zeros(0), np.arange(5.0)).heights(np.zeros(0)).sum() == 0


def test_neither_bars_nor_the_threshold_cross_the_legend_of_the_histogram(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_svg", lambda figure: drawn.append(figure) or "")
    scores, labels = np.linspace(0, 9, 60), np.repeat([0, 1], 30)
    figures.histogram(scores, labels, np.linspace(0, 5, 40), 8.5, of_groups=False)

    (axes,) = drawn[0].axes
    drawn[0].draw_without_rendering()
    legend = axes.get_legend()
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert "threshold 8.5" in [text.get_text() for text in legend.get_texts()]


def test_a_report_writes_times_and_truth_in_words(folder, page):
    ended = directories.read(folder).audit.ended
    assert f"scored until {ended[:10]} {ended[11:19]} UTC with model" in page
    row = directories.read(folder).rows[0]
    truth = report.environment().filters["truth"]
    said = [truth(replace(row, label=label, kind="")) for label in (None, 0, 1)]
    assert said == ["–", "normal", "anomalous"]
    assert truth(replace(row, label=1, kind="scratch")) == "scratch"


def test_the_app_draws_the_same_bars_with_the_threshold_in_the_legend(folder):
    rows = directories.read(folder).rows
    calibration = np.exp(np.random.default_rng(0).normal(size=200))
    rows = [replace(row, score=3.0**n) for n, row in enumerate(rows)]
    chart = charts.histogram(rows, calibration, 5.0, "calibration normals")
    own, normals, line = chart.data
    bars = score_bars(3.0 ** np.arange(len(rows)), calibration)
    assert chart.layout.xaxis.type == "linear" and chart.layout.xaxis.title.text == bars.axis
    np.testing.assert_allclose(own.y[:-1].sum(), 100)
    np.testing.assert_allclose(normals.y[:-1] * 2, bars.heights(calibration))
    assert line.name == "threshold 5" and list(line.x) == [5, 5]

    rows = [replace(row, score=3.0 ** (9 * n)) for n, row in enumerate(rows)]
    assert charts.histogram(rows, calibration, 5.0, "").layout.xaxis.type == "log"
