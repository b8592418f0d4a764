"""Clusters as components of level sets of the density, on points whose clusters are known."""

import json
from collections import deque

import numpy as np
import pytest
from sklearn.datasets import make_blobs, make_moons
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from anodetect.errors import RunError
from anodetect.generative import clusters
from anodetect.record.components import (
    Cluster,
    Components,
    named_components,
    read_components,
    write_components,
)
from anodetect.types import Batch


def neighbours(points, k):
    return NearestNeighbors(n_neighbors=k).fit(points).kneighbors()


@pytest.mark.parametrize("seed", range(3))
def test_two_moons_are_two_components(seed):
    points, moon = make_moons(300, noise=0.07, random_state=seed)
    found = clusters.level_set_clusters(points)
    inside = found.numbers >= 0
    assert found.count == 2
    assert inside.mean() > 0.8
    assert adjusted_rand_score(moon[inside], found.numbers[inside]) == 1
    assert found.persistence >= found.least


@pytest.mark.parametrize("dimensions", [2, 8])
def test_blobs_are_found_with_their_number_the_largest_first(dimensions):
    centres = 8 * np.eye(3, dimensions)[:3]
    centres[2] = -8
    points, blob = make_blobs([120, 60, 30], centers=centres, random_state=0)
    found = clusters.level_set_clusters(points)
    inside = found.numbers >= 0
    assert found.count == 3
    assert inside.mean() > 0.9
    assert np.array_equal(found.numbers[inside], blob[inside]), "in the order of their sizes"


def test_a_bridge_of_few_points_joins_no_clusters_but_is_in_none():
    points, blob = make_blobs([100, 100], centers=[[0, 0], [10, 0]], random_state=0)
    bridge = np.stack([np.linspace(2.5, 7.5, 8), np.zeros(8)], 1)
    found = clusters.level_set_clusters(np.concatenate([points, bridge]))
    inside = found.numbers[:200] >= 0
    assert found.count == 2
    assert adjusted_rand_score(blob[inside], found.numbers[:200][inside]) == 1
    assert (found.numbers[203:205] < 0).all()


@pytest.mark.parametrize("dimensions", [1, 2, 16])
@pytest.mark.parametrize("count", [30, 200])
def test_one_gaussian_is_one_component(count, dimensions):
    for seed in range(3):
        points = np.random.default_rng(seed).normal(size=(count, dimensions))
        found = clusters.level_set_clusters(points)
        assert found.count == 1
        assert (found.numbers == 0).all()


def test_clusters_of_different_densities_stand_apart_at_different_levels():
    close, _ = make_blobs([150, 150], centers=[[0, 0], [1.0, 0]], cluster_std=0.2, random_state=0)
    wide, _ = make_blobs([100], centers=[[30, 0]], cluster_std=3, random_state=0)
    points, blob = np.concatenate([close, wide]), np.repeat([0, 1, 2], [150, 150, 100])
    blob[:300] = points[:300, 0] > 0.5
    found = clusters.level_set_clusters(points)
    inside = found.numbers >= 0
    assert found.count == 3
    assert inside.mean() > 0.8
    assert adjusted_rand_score(blob[inside], found.numbers[inside]) > 0.98


def test_order_and_scale_do_not_matter():
    points, _ = make_moons(200, noise=0.05, random_state=0)
    found = clusters.level_set_clusters(points)
    order = np.random.default_rng(0).permutation(200)
    other = clusters.level_set_clusters(1e3 * points[order] + 5)
    assert adjusted_rand_score(found.numbers[order], other.numbers) == 1
    assert other.persistence == pytest.approx(found.persistence, rel=1e-6)


def test_copies_have_a_finite_density():
    same = clusters.level_set_clusters(np.zeros((40, 2)))
    assert same.count == 1
    points = np.random.default_rng(0).normal(size=(60, 2))
    points[:20] = points[0]
    assert np.isfinite(clusters.level_set_clusters(points).persistence)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_log_densities_differ_as_those_of_the_distribution(dimensions):
    points = np.random.default_rng(0).normal(size=(3000, dimensions))
    distances, _ = neighbours(points, 40)
    true = -np.square(points).sum(1) / 2
    slope, _ = np.polyfit(true, clusters.log_density(distances), 1)
    assert slope == pytest.approx(1, abs=0.2)


def reachable(graph, density, level):
    """The components of a level set, by a search from each point."""
    dense = graph.toarray() > 0
    dense |= dense.T
    left = {int(row) for row in np.flatnonzero(density >= level)}
    components = []
    while left:
        found, queue = set(), deque([left.pop()])
        while queue:
            point = queue.popleft()
            found.add(point)
            near = {int(row) for row in np.flatnonzero(dense[point])} & left
            left -= near
            queue.extend(near)
        components.append(found)
    return components


def test_components_are_those_of_a_search():
    points = np.random.default_rng(3).normal(size=(120, 2))
    distances, nearest = neighbours(points, 4)
    density, graph = clusters.log_density(distances), clusters.neighbour_graph(nearest)
    several = 0
    for level in np.quantile(density, [0, 0.3, 0.5, 0.7, 0.9]):
        found = clusters.components_above(graph, density, level, 0.4, smallest=3)
        expected = []
        for component in reachable(graph, density, level):
            peak = max(density[row] for row in component)
            if peak - level >= 0.4 and len(component) >= 3:
                expected.append(component)
        own = [set(np.flatnonzero(found == n).tolist()) for n in range(found.max() + 1)]
        assert sorted(map(sorted, own)) == sorted(map(sorted, expected))
        several += len(own) > 1
    assert several, "else this shows little"


@pytest.mark.parametrize("differ", ["product", "blur", "gain"])
def test_products_and_cameras_are_told_apart(differ):
    rng = np.random.default_rng(0)
    images = 0.2 * rng.normal(size=(60, 1, 32, 32))
    if differ == "product":
        images[::2, :, 8:24, 8:24] += 1
    elif differ == "blur":
        images[::2] = (images[::2] + np.roll(images[::2], 1, 3) + np.roll(images[::2], 1, 2)) / 3
    else:
        images[::2] *= 1.5
    both = Batch(images.astype(np.float32), np.ones((60, 32, 32), bool))
    points = clusters.describe(both)
    assert points.shape[1] <= clusters.MOST_VALUES
    found = clusters.level_set_clusters(points)
    inside = found.numbers >= 0
    assert found.count == 2
    assert inside.mean() > 0.8
    assert adjusted_rand_score(np.arange(60)[inside] % 2, found.numbers[inside]) == 1


# -- In the run ------------------------------------------------------------------------------------


def test_components_have_numbers_and_first_names():
    found = named_components(np.array([1, 0, 0, -1, 0, 0, 0]), list("abcdefg"))
    clusters_found = (Cluster(5, ("b", "c", "e")), Cluster(1, ("a",)))
    assert found == Components(clusters_found, outside=1)
    assert found.sentence() == (
        "components of the fit images: 5 images (b, c, e, …) · 1 image (a); 1 image in none of them"
    )


def test_an_image_is_where_most_of_its_tiles_are():
    found = named_components(np.array([0, 0, 1, 1, 1, -1, -1, -1, 0]), ["a", "b", "c"])
    assert found == Components((Cluster(1, ("a",)), Cluster(1, ("b",))), outside=1)


def test_components_are_kept_in_a_file(tmp_path):
    assert read_components(tmp_path) is None
    found = Components((Cluster(5, ("b", "c")),), outside=2)
    write_components(tmp_path, found)
    assert read_components(tmp_path) == found
    content = json.loads((tmp_path / "components.json").read_text())
    (tmp_path / "components.json").write_text(json.dumps(content | {"outside": "two"}))
    with pytest.raises(RunError, match="outside: input should be a valid integer"):
        read_components(tmp_path)
