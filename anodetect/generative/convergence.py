"""Have parallel chains converged, and how many independent draws are they worth?

Rank-normalised split R̂ and effective sample sizes after Vehtari, Gelman, Simpson, Carpenter &
Bürkner, "Rank-normalization, folding, and localization: an improved R̂ for assessing convergence of
MCMC", Bayesian Analysis 2021; equation numbers are theirs. Chains are [M, N]: M chains with N draws
of one quantity each. With fewer than four draws functions raise ValueError, and where all draws are
equal they return NaN.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Doubles = NDArray[np.float64]


def r_hat(chains: ArrayLike) -> float:
    """Return rank-normalised split R̂; chains that have converged have less than 1.01.

    It is the larger of that of the draws, which sees different places, and of their distances to
    the median, which sees different spreads.
    """
    halves = _split(chains)
    folded = np.abs(halves - np.median(halves))
    return max(_basic_r_hat(_rank_normalised(halves)), _basic_r_hat(_rank_normalised(folded)))


def bulk_effective_sample_size(chains: ArrayLike) -> float:
    """Return the effective sample size of rank-normalised draws, which exists without moments."""
    return _effective_sample_size(_rank_normalised(_split(chains)))


def effective_sample_size(chains: ArrayLike) -> float:
    """Return how many independent draws have a mean of the same error (equation 10)."""
    return _effective_sample_size(_split(chains))


def monte_carlo_error(chains: ArrayLike) -> float:
    """Return the standard error of the mean of all draws."""
    halves = _split(chains)
    return float(halves.std(ddof=1) / np.sqrt(_effective_sample_size(halves)))


def _split(chains: ArrayLike) -> Doubles:
    """Return both halves of each chain, [2M, N // 2]; of an odd number the middle is left out."""
    draws = np.atleast_2d(np.asarray(chains, np.float64))
    count = draws.shape[1]
    if count < 4:
        raise ValueError(f"a chain needs four draws or more, these have {count}")
    half = count // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _rank_normalised(draws: Doubles) -> Doubles:
    """Return the normal scores of the ranks among all draws (equation 14)."""
    ranks = stats.rankdata(draws, method="average").reshape(draws.shape)
    scores: Doubles = stats.norm.ppf((ranks - 0.375) / (draws.size + 0.25))
    return scores


def _basic_r_hat(draws: Doubles) -> float:
    """Return √((N−1)/N + B/(N W)) (equations 1 to 4)."""
    count = draws.shape[1]
    within = draws.var(1, ddof=1).mean()
    between = draws.mean(1).var(ddof=1)
    if within + between == 0:
        return np.nan
    return float(np.sqrt((count - 1) / count + between / within)) if within > 0 else np.inf


def _effective_sample_size(draws: Doubles) -> float:
    """Return M N / τ, with τ from Geyer's initial monotone sequence (equations 10 to 13)."""
    chains, count = draws.shape
    covariances = _autocovariances(draws).mean(0)  # [N]
    within = covariances[0] * count / (count - 1)
    total = covariances[0] + draws.mean(1).var(ddof=1)
    if total == 0:
        return np.nan

    # Correlations in pairs of lags, as long as their sums are positive, and never rising.
    correlations = 1 - (within - covariances) / total
    correlations[0] = 1
    pairs = correlations[: count // 2 * 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs[:-1] <= 0)
    kept = int(negative[0]) if len(negative) else len(pairs) - 1
    time = -1 + 2 * np.minimum.accumulate(pairs[:kept]).sum() + max(correlations[2 * kept], 0)

    # Chains whose draws alternate are worth more than independent ones, within a limit.
    size = chains * count
    return float(size / max(time, 1 / np.log10(size)))


def _autocovariances(draws: Doubles) -> Doubles:
    """Return the covariance of each chain with itself at every lag, [M, N]."""
    count = draws.shape[1]
    centred = draws - draws.mean(1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(centred, 2 * count)) ** 2  # padded, or ends would meet
    covariances: Doubles = np.fft.irfft(spectrum)[:, :count] / count
    return covariances
