"""Every data card is complete, and a card's name leads to its data."""

import pytest

from anodetect.data import cards
from anodetect.errors import AnodetectError, DataError

EXPECTED = {"elpv", "magnetic_tile", "lgg_flair", "mvtec_ad", "bmad", "medmnist_plus"}
PAGES = cards.all_pages()


def test_the_cards_that_are_promised_are_there():
    assert set(PAGES) >= EXPECTED


@pytest.mark.parametrize("name", sorted(PAGES))
def test_card_is_complete(name):
    card = PAGES[name].card
    for key in (
        "title",
        "purpose",
        "origin",
        "citation",
        "licence",
        "obtain",
        "splits",
        "groups",
        "images",
    ):
        assert len(getattr(card, key)) > 10, key
    assert len(card.known_biases) >= 3
    assert card.folder or card.package
    assert PAGES[name].text
    if not card.baselines:
        assert "baselines were not measured" in PAGES[name].text
    for baseline in card.baselines:
        assert baseline.variant in ("", *card.variants)
        assert baseline.image_auroc is None or 0 <= baseline.image_auroc <= 1


def test_card_files_are_named_after_their_cards():
    assert {path.stem for path in cards.cards_folder().glob("*.md")} == set(PAGES)


def test_an_unknown_key_in_a_card_is_refused(tmp_path):
    text = (cards.cards_folder() / "elpv.md").read_text().replace("licence =", "license =", 1)
    (tmp_path / "elpv.md").write_text(text)
    with pytest.raises(AnodetectError, match="did you mean 'licence'"):
        cards.read_page(tmp_path / "elpv.md")


def test_elpv_split_is_the_cards(request):
    pytest.importorskip("elpv_dataset", reason="the demo extra is not installed")
    mono, poly = cards.open_data("elpv:mono"), cards.open_data("elpv:poly")
    counts = {
        name: (
            len(data.training()),
            sum(r.label == 0 for r in data.testing()),
            sum(r.label == 1 for r in data.testing()),
        )
        for name, data in (("mono", mono), ("poly", poly))
    }
    assert counts == {"mono": (462, 126, 313), "poly": (741, 179, 402)}
    assert all(record.path.is_file() for record in mono.records)


def test_sets_that_are_not_here_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv(cards.HOME, str(tmp_path))
    with pytest.raises(DataError, match=r"bmad is not here.*Follow the instructions"):
        cards.open_data("bmad:brain")


def test_home_folder_is_used(monkeypatch, synthetic_folder):
    synthetic_folder.parent.joinpath("mvtec_ad").mkdir(exist_ok=True)
    link = synthetic_folder.parent / "mvtec_ad/tile"
    link.exists() or link.symlink_to(synthetic_folder, target_is_directory=True)
    monkeypatch.setenv(cards.HOME, str(synthetic_folder.parent))
    dataset = cards.open_data("mvtec_ad:tile")
    assert dataset.name == "mvtec_ad:tile"
    assert len(dataset.training()) == 60
