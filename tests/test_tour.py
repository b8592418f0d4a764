"""Every figure of the tour in small form, and what must be true of the numbers behind it."""

import io
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from examples import tour

DOCS = Path(__file__).parents[1] / "docs"
SMALL = {
    "landscape": {"points": 1000},
    "chains": {"count": 50, "steps": 1200},
    "annealing": {"count": 400},
    "gibbs": {"count": 50, "sweeps": 80},
    "estimators": {"count": 1500, "steps": 250},
    "product": {"count": 1000, "steps": 60},
    "jem": {"count": 300, "steps": 120},
    "short-run": {"count": 300, "steps": 150},
    "partial": {"count": 200},
}


@cache
def small(name):
    return tour.IDEAS[name](**SMALL[name])


# -- Numbers ---------------------------------------------------------------------------------------


def test_the_energy_is_normalised_and_flags_what_was_promised():
    found = small("landscape")
    assert found.partition == pytest.approx(1, abs=0.001)
    error = math.sqrt(2 * tour.FAR * (1 - tour.FAR) / len(found.normal))
    assert found.flagged == pytest.approx(tour.FAR, abs=3 * error)
    assert (found.target.energy(found.odd) > found.threshold).all()


def test_chains_reach_the_mean_that_is_known():
    found = small("chains")
    assert ((found.mean - found.target.mean()).abs() < 4 * found.error).all()
    assert (found.error < 0.1).all()

    hamiltonian = found.r_hat["Hamiltonian"]
    assert hamiltonian[max(hamiltonian)] < 1.02
    for values in found.r_hat.values():
        assert values[min(values)] > 1.1


def test_annealing_finds_how_many_belong_to_each_mode():
    found = small("annealing")
    assert found.share(found.states[-1]) == pytest.approx(0.8, abs=0.06)
    assert found.share(found.plain) == pytest.approx(0.5, abs=0.1)


def test_gibbs_sampling_agrees_with_the_sum_over_all_states():
    found = small("gibbs")
    for exact, sampled, error in zip(found.exact, found.sampled, found.errors, strict=True):
        assert 0 < error < 0.02
        assert sampled == pytest.approx(exact, abs=4 * error)


@pytest.mark.parametrize("name", ["contrastive divergence", "score matching", "noise-contrastive"])
def test_each_estimator_finds_the_ring(name):
    path = small("estimators").paths[name]
    assert path[-1].tolist() == pytest.approx([1.5, 2.0], rel=0.15)
    assert path[-1, 0].item() == pytest.approx(1.5, abs=0.06)
    assert (path[0] - torch.tensor([1.5, 2.0])).abs().min() > 0.5


def test_three_ways_find_the_normaliser():
    found = small("estimators")
    for value, error in found.log_z.values():
        assert value == pytest.approx(found.truth.exact_log_z(), abs=max(0.06, 3 * error))


def test_the_ring_is_normalised_by_its_closed_form():
    ring = tour.Ring(a=2.0, r=1.5)
    side = 400
    with torch.no_grad():
        total = (-ring.energy(tour.grid(side))).exp().sum() * (2 * tour.EXTENT / (side - 1)) ** 2
    assert math.log(total) == pytest.approx(ring.exact_log_z(), abs=1e-4)


def test_chains_on_the_sum_of_energies_are_those_of_the_product():
    found = small("product")
    exact = found.exact()
    covariance, count = exact.precision.inverse(), len(found.ends)
    variances = covariance.diagonal()
    assert ((found.ends.mean(0) - exact.mean).abs() < 4 * (variances / count).sqrt()).all()

    errors = ((variances.outer(variances) + covariance.square()) / count).sqrt()
    assert ((torch.cov(found.ends.T) - covariance).abs() < 4 * errors).all()


def test_only_the_product_needs_both_experts():
    found = small("product")
    first, second = (expert.energy(found.points) for expert in found.experts)
    fits, does_not = 5, 8  # energies; the lowest of an expert is 1.4
    assert first[0] < fits and first[1] > does_not
    assert second[1] < fits and second[0] > does_not
    energy, mixture = found.energy(found.points), found.mixture_energy(found.points)
    assert energy[:2].min() > energy[2] + 8
    assert mixture[:2].max() < mixture[2] + 4


def test_jem_finds_what_a_classifier_is_sure_of():
    found = small("jem")
    sure, _, joint = found.auroc()
    assert joint > 0.95 > sure + 0.1
    assert found.accuracy() > 0.95


def test_short_chains_end_at_the_data_and_long_ones_do_not():
    found = small("short-run")
    start = tour.energy_distance(found.starts, found.normal)
    end = tour.energy_distance(found.ends, found.normal)
    later = tour.energy_distance(found.later, found.normal)
    assert end < start / 2
    assert later > 3 * end
    energies = [found.target.energy(x).mean() for x in (found.starts, found.ends, found.normal)]
    assert energies[0] > energies[2] + 3
    assert energies[1] < energies[2] + 0.5


def test_partial_diffusion_works_best_in_between():
    found = small("partial")
    one, mean, without = found.auroc.values()
    best = max(range(len(tour.LEVELS)), key=lambda number: mean[number])
    assert 0 < best < len(tour.LEVELS) - 1
    assert mean[best] > 0.9 > max(mean[0], mean[-1]) + 0.15
    assert mean[best] > one[best]
    assert without[0] > 0.9

    restored = found.target.energy(found.restored[tour.LEVELS[best]])
    assert restored.median() < found.target.energy(found.odd).min()


# -- Figures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tour.IDEAS)
def test_each_figure_is_drawn_the_same_every_time(name):
    drawn = tour.png(small(name))
    assert drawn == tour.png(small(name))
    with Image.open(io.BytesIO(drawn)) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 250
        assert len(picture.getcolors()) > 8


def test_numbers_depend_on_the_seed_alone():
    first, again, other = (tour.product(50, 5, seed=seed).ends for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


def test_the_command_writes_what_is_named(tmp_path, capsys):
    tour.main(["landscape", "--out", str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["landscape.png"]
    with pytest.raises(SystemExit) as stopped:
        tour.main(["landscpe", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "did you mean 'landscape'" in capsys.readouterr().err


def test_the_page_shows_every_figure_and_says_what_is_in_it():
    page = (DOCS / "tour.md").read_text("utf-8")
    shown = dict(re.findall(r"!\[([^\]]+)\]\(tour/([\w-]+)\.png\)", page))
    assert sorted(shown.values()) == sorted(tour.IDEAS)
    assert all(len(text) > 60 for text in shown)

    sizes = [(DOCS / "tour" / f"{name}.png").stat().st_size for name in tour.IDEAS]
    assert max(sizes) < 100_000
    assert sum(sizes) < 400_000
