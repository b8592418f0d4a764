"""The parts of `vq` against enumeration and closed forms."""

import itertools
import math
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.cluster.vq import kmeans2

from anodetect.detectors import vq
from anodetect.detectors.vq import VQ, VQConfig
from anodetect.errors import ConfigError, DataError
from anodetect.generative import masked as masking
from anodetect.generative.masked import Codes
from anodetect.nn.codebook import Codebook, by_place
from anodetect.nn.quantised import CodePrior, QuantisedAutoencoder
from anodetect.nn.training import TrainingBatch
from anodetect.types import Batch, TrainContext

SIDES, KINDS = (2, 2), 3
PLACES = math.prod(SIDES)
STATES = torch.tensor(list(itertools.product(range(KINDS), repeat=PLACES)))  # [81, 4]
JOINT = torch.from_numpy(np.random.default_rng(0).dirichlet(np.full(len(STATES), 0.3))).float()


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + n) for n in range(count)]


def exact(codes, masked):
    """Return log p of each code at each place given those that are not masked, by enumeration."""
    logits = []
    for image, hidden in zip(codes.flatten(1), masked.flatten(1), strict=True):
        agree = ((image == STATES) | hidden).all(1)
        weights = JOINT * agree
        table = torch.stack([weights @ (kind == STATES).float() for kind in range(KINDS)])
        logits.append((table / weights.sum()).clamp(min=1e-30).log())
    return torch.stack(logits).reshape(-1, KINDS, *SIDES)


# -- The prior -------------------------------------------------------------------------------------


def test_the_loss_of_the_exact_conditionals_is_minus_log_p_of_all_codes():
    """Over all numbers of masked places and all of their subsets, for each of 81 images."""
    codes = STATES.reshape(-1, *SIDES)
    bound = torch.zeros(len(STATES))
    for count in range(1, PLACES + 1):
        subsets = list(itertools.combinations(range(PLACES), count))
        for subset in subsets:
            masked = torch.zeros(len(STATES), PLACES, dtype=torch.bool)
            masked[:, list(subset)] = True
            masked = masked.reshape(codes.shape)
            logits = exact(codes, masked)
            for n in range(len(codes)):
                rows = slice(n, n + 1)
                loss = masking.masked_loss(logits[rows], codes[rows], masked[rows])
                bound[n] += loss / len(subsets) / PLACES
    assert torch.allclose(bound, -JOINT.log() / PLACES, rtol=1e-4)


def test_the_exact_conditionals_minimise_the_loss():
    """The gradient of the expected loss for one mask is 0 there, and not where one logit is off."""
    codes = STATES.reshape(-1, *SIDES)
    masked = torch.tensor([[True, False], [True, True]]).expand(codes.shape)
    seen, visible = codes.flatten(1)[:, 1], exact(codes, masked)

    def slope(shift):
        by_code = torch.stack([visible[seen == kind][0] for kind in range(KINDS)])
        by_code[1, 0, 0, 0] += shift
        by_code.requires_grad_(True)
        total = sum(
            JOINT[n] * masking.masked_loss(by_code[seen[n]][None], codes[n : n + 1], masked[:1])
            for n in range(len(codes))
        )
        (gradient,) = torch.autograd.grad(total, by_code)
        return float(gradient.abs().max())

    assert slope(0.0) < 1e-6
    assert slope(0.5) > 1e-3


def test_surprise_is_minus_log_p_given_the_other_half():
    codes = STATES.reshape(-1, *SIDES)[::9]
    found = masking.surprise(exact, codes, generators(len(codes)), draws=3)
    again = generators(len(codes))
    expected = torch.zeros(codes.shape)
    for draw in range(3):
        block = masking.BLOCKS[draw]
        first = torch.stack([masking.random_order(rng, SIDES, block) < 2 for rng in again])
        for n, place in itertools.product(range(len(codes)), range(PLACES)):
            others = first[n].flatten() != first[n].flatten()[place]
            agree = (codes[n].flatten() == STATES) | ~others
            weights = JOINT * agree.all(1)
            own = weights * (STATES[:, place] == codes[n].flatten()[place])
            expected.flatten(1)[n, place] -= torch.log(own.sum() / weights.sum()) / 3
    assert torch.allclose(found, expected, rtol=1e-4)


def test_a_surprise_does_not_depend_on_its_company():
    codes = STATES.reshape(-1, *SIDES)[:20]
    together = masking.surprise(exact, codes, generators(20), draws=2)
    alone = masking.surprise(exact, codes[19:], generators(1, seed=19), draws=2)
    assert torch.allclose(together[19:], alone)


@pytest.mark.parametrize("visible", [None, 0])
def test_unmasking_one_by_one_samples_the_joint_distribution(visible):
    """All places, or those beside one whose code is known; a chi-squared test of 4000 samples."""
    count, masked = 4000, torch.ones(4000, *SIDES, dtype=torch.bool)
    codes = torch.zeros(count, *SIDES, dtype=torch.long)
    expected = JOINT
    if visible is not None:
        masked[:, 0, 1], codes[:, 0, 1] = False, 2
        expected = JOINT * (STATES[:, 1] == 2)
        expected = expected / expected.sum()

    states = masking.unmask(exact, Codes(codes, masked), generators(count), PLACES)
    assert not states[-1].masked.any()
    assert [int(state.masked[0].sum()) for state in states[:2]] in ([4, 3], [3, 2])
    drawn = (states[-1].codes.flatten(1)[:, None] == STATES).all(2).float().mean(0)
    likely = expected > 0.002
    observed = np.array([*drawn[likely], drawn[~likely].sum()], np.float64)
    wanted = np.array([*expected[likely], expected[~likely].sum()], np.float64)
    assert stats.chisquare(count * observed, count * wanted / wanted.sum()).pvalue > 0.001


def test_what_is_not_masked_stays():
    codes = STATES.reshape(-1, *SIDES)
    masked = torch.rand(codes.shape, generator=generators(1)[0]) < 0.5
    end = masking.unmask(exact, Codes(codes, masked), generators(len(codes)), 2)[-1]
    assert torch.equal(end.codes[~masked], codes[~masked])
    assert not torch.equal(end.codes, codes)


def test_training_masks_have_every_number_of_places_equally_often():
    masks = masking.random_masks(generators(3000), torch.Size((3, 4)))
    counts = torch.bincount(masks.flatten(1).sum(1), minlength=13)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:].numpy()).pvalue > 0.001
    assert masks.float().mean(0).std() < 0.02


def test_places_of_a_block_are_masked_together():
    """Ranks within a whole block follow each other; where blocks are cut differs."""
    corners = set()
    for rng in generators(40):
        order = masking.random_order(rng, (8, 8), 4)
        assert set(order.flatten().tolist()) == set(range(64))
        for top, left in itertools.product(range(5), repeat=2):
            block = order[top : top + 4, left : left + 4]
            if block.max() - block.min() == 15:
                corners.add((top, left))
    assert len(corners) > 10


@pytest.mark.parametrize("side", [8, 7])
def test_the_network_does_not_see_what_is_masked(side):
    torch.manual_seed(0)
    prior = CodePrior(4, 5, (16, 32), attention=1).eval()
    for p in prior.parameters():
        torch.nn.init.normal_(p, std=0.1)
    vectors, masked = torch.randn(2, 4, side, side), torch.rand(2, side, side) < 0.5
    other = torch.where(masked[:, None], torch.randn(2, 4, side, side), vectors)
    assert torch.equal(prior(vectors, masked), prior(other, masked))
    assert prior(vectors, masked).shape == (2, 5, side, side)
    assert not torch.allclose(prior(vectors, masked), prior(other + 1, masked), atol=1e-3)


# -- The codebook ----------------------------------------------------------------------------------

CENTRES = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
SHARES = torch.tensor([0.6, 0.2, 0.18, 0.02])


def cloud(count, seed=0):
    """Return vectors [1, 2, count, 1] around four centres, one of them rare, and their numbers."""
    rng = torch.Generator().manual_seed(seed)
    numbers = torch.multinomial(SHARES, count, replacement=True, generator=rng)
    vectors = CENTRES[numbers] + 0.3 * torch.randn(count, 2, generator=rng)
    return vectors.T[None, :, :, None], numbers


def test_a_codebook_is_that_of_k_means():
    z, _ = cloud(2000)
    book = Codebook(4, 2, decay=0.5)
    book.vectors.copy_(CENTRES + 1)
    book.counts.fill_(500.0)
    book.sums.copy_(500 * book.vectors)
    for step in range(60):
        book.learn(z, generators(1, step))
    rows = by_place(z)
    expected, _ = kmeans2(rows.numpy(), CENTRES.numpy(), minit="matrix")
    found = book.vectors[torch.cdist(torch.from_numpy(expected), book.vectors).argmin(1)]
    assert torch.allclose(found, torch.from_numpy(expected), atol=1e-3)
    distances = torch.cdist(rows, book.vectors)
    assert torch.equal(book.nearest(z).flatten(), distances.argmin(1))
    assert torch.equal(by_place(book.look_up(book.nearest(z))), book.vectors[distances.argmin(1)])


def test_codes_are_moving_means():
    book = Codebook(1, 2, decay=0.9)
    first, second = torch.full((1, 2, 4, 4), 1.0), torch.full((1, 2, 2, 2), 5.0)
    book.learn(first, generators(1))
    assert torch.allclose(book.vectors, torch.ones(1, 2))
    counted = float(book.counts)
    book.learn(second, generators(1))
    expected = (0.9 * counted * 1 + 0.1 * 4 * 5) / (0.9 * counted + 0.1 * 4)
    assert torch.allclose(book.vectors, torch.full((1, 2), expected))
    assert torch.allclose(book.counts, torch.tensor([0.9 * counted + 0.4]))


def test_dead_codes_are_put_where_vectors_are_far_from_all_others():
    """Chances are as squared distances, 92 % of whose sum is at the rare centre."""
    (z, _), found = cloud(2000), []
    for seed in range(50):
        book = Codebook(4, 2, decay=0.9)
        book.vectors.copy_(CENTRES)
        book.vectors[3] = -90
        book.counts.copy_(torch.tensor([1200.0, 400.0, 400.0, 0.0]))
        book.sums.copy_(book.vectors * book.counts[:, None])
        book.learn(z, generators(1, seed))
        found.append(float((book.vectors[3] - CENTRES[3]).norm()) < 1)
    assert 0.8 < np.mean(found) < 1


def test_a_new_codebook_starts_from_the_first_vectors():
    z, _ = cloud(500)
    book = Codebook(50, 2, decay=0.5)
    book.learn(z, generators(1))
    assert float((book.look_up(book.nearest(z)) - z).square().mean()) < 0.05
    shares = book.counts / book.counts.sum()
    assert book.used() == pytest.approx(math.exp(stats.entropy(shares.numpy())), rel=1e-4)


# -- The detector ----------------------------------------------------------------------------------


def test_gradients_pass_straight_through_the_codebook():
    """The encoder gets the gradient that the decoder's input has, and that of the commitment."""
    torch.manual_seed(0)
    detector = VQ(VQConfig(codes=4, code_values=3, width=8, blocks=1, stem=2, commitment=0.5))
    net = QuantisedAutoencoder(1, 4, code_values=3, width=8, blocks=1, stem=2, decay=0.0)
    x = torch.randn(2, 1, 8, 8)
    batch = TrainingBatch(x, generators(2), 0.0, np.arange(2))
    with mock.patch.object(vq, "autocast", lambda device: nullcontext()):
        detector._autoencoding(net, batch, 1.0).total.backward()
    found = [p.grad.clone() for p in net.encoder.parameters()]

    net.zero_grad()
    z = net.encode(x)
    vectors = net.codebook.look_up(net.codebook.nearest(z)).requires_grad_(True)
    (pull,) = torch.autograd.grad((net.decode(vectors) - x).square().mean(), vectors)
    commitment = (z - vectors.detach()).square().mean()
    ((pull.detach() * z).sum() + 0.5 * commitment).backward()
    for p, gradient in zip(net.encoder.parameters(), found, strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-6)


TINY = {"codes": 8, "code_values": 4, "width": 16, "blocks": 1, "stem": 2, "widths": (16, 32)}


def striped(count):
    """Return images of stripes, dark and bright in turn."""
    rows = np.tile(np.repeat([-0.5, 0.5], 2), 4)
    images = np.broadcast_to(rows[None, None, :, None], (count, 1, 16, 16)).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.02, images.shape).astype(np.float32)
    return Batch(images + noise, np.ones((count, 16, 16), bool))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    quick = {"rotation": 0, "scale": 0, "shift": 0, "flip": 0}
    training = {"steps": 200, "learning_rate": 3e-3, "augment": quick}
    detector = VQ(VQConfig.model_validate(TINY | {"training": training}))
    context = TrainContext(0, "cpu", tmp_path_factory.mktemp("vq"))
    detector.fit(striped(40), striped(20), context=context)
    return detector


def test_a_surprising_place_is_drawn_anew(detector):
    images = striped(1)
    images.images[:, :, 4:6, 8:12] = 0.5  # in a dark stripe
    scores = detector.score(images, seeds=np.zeros(1, np.uint64))
    assert scores.heatmap[0, 4:6, 8:12].mean() > 3 * np.median(scores.heatmap)
    assert (scores.reconstruction[0, 0, 4:6, 8:12] < 0).all()


def test_made_images_are_normal_and_of_their_seed(detector):
    made = detector.sample(6, seed=3)
    assert made.chain.shape == (11, 6, 1, 16, 16)
    assert np.array_equal(made.chain[-1], made.images)
    normal = striped(6).images
    assert np.abs(made.images - normal).mean() < 0.15
    assert np.array_equal(detector.sample(2, seed=3).images, made.images[:2])
    assert not np.array_equal(detector.sample(6, seed=4).images, made.images)


def test_a_chain_from_an_image_leaves_what_is_normal(detector):
    start = striped(1).images[0]
    start[:, 4:6, 8:12] = 0.5
    made = detector.sample(3, seed=0, start=start)
    assert np.array_equal(made.chain[0], np.stack([start] * 3))
    assert (made.images[:, 0, 4:6, 8:12] < 0).all()
    assert np.abs(made.images[:, 0, 12:] - start[0, 12:]).mean() < 0.15


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"stem": 3}, ConfigError, "not a multiple of 3, detector.stem"),
        ({"codes": 4000}, DataError, "2560 places, too few for 4000 codes"),
        ({"pattern": "on"}, ConfigError, "surroundings"),
    ],
)
def test_vq_settings_that_cannot_be(changes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        VQ(VQConfig(**TINY | changes)).fit(
            striped(40), striped(20), context=TrainContext(0, "cpu", tmp_path)
        )
