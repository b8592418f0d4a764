"""A codebook: a few vectors, each the moving mean of what it is the nearest one to.

    k(z) = argmin_k ‖z − e_k‖²
    n_k ← γ·n_k + (1−γ)·(number of z with code k),   s_k likewise of their sum,   e_k = s_k / n_k

van den Oord et al., "Neural discrete representation learning", NeurIPS 2017, appendix A.1. A code
that hardly any vector is nearest to is dead: it is put where vectors are far from all codes, drawn
with probabilities proportional to the squared distance (k-means++, Arthur & Vassilvitskii 2007).
New codebooks have dead codes alone, so that they start from vectors of the first batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anodetect.nn.processes import from_first_process, summed

DEAD = 0.01  # times the mean count of a code: below it a code is dead
REVIVED = 0.05  # times the mean count: what a revived code starts with


class Codebook(nn.Module):
    """K codes for vectors with D values; all of it is in buffers.

    They are the codes' vectors [K, D], and the moving means of how many vectors of a batch have
    each code [K], and of their sums [K, D].
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, values: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("vectors", torch.zeros(codes, values))
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, values))

    def nearest(self, z: Tensor) -> Tensor:
        """Return the code of each place of z [N, D, H, W], int64 [N, H, W]."""
        codes, _ = self._nearest(by_place(z))
        return codes.reshape(len(z), *z.shape[2:])

    def look_up(self, codes: Tensor) -> Tensor:
        """Return the vectors [N, D, H, W] of codes [N, H, W]."""
        return self.vectors[codes].permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def learn(self, z: Tensor, generators: Sequence[torch.Generator]) -> None:
        """Revive dead codes and move all codes to the vectors of z [N, D, H, W] that have them.

        Processes that train together keep equal codebooks. What is drawn is from the first
        generator of the first process.
        """
        rows = by_place(z.float())
        self._revive(rows, generators[0])
        codes, _ = self._nearest(rows)

        counts = torch.zeros_like(self.counts)
        counts.index_add_(0, codes, torch.ones_like(rows[:, 0]))
        sums = torch.zeros_like(self.sums).index_add_(0, codes, rows)
        self.counts.lerp_(summed(counts), 1 - self.decay)
        self.sums.lerp_(summed(sums), 1 - self.decay)
        self.vectors.copy_(self.sums / self.counts.clamp(min=1e-9)[:, None])

    def used(self) -> float:
        """Return the perplexity of the codes, exp of the entropy of their shares: how many are in
        use."""
        shares = self.counts / self.counts.sum().clamp(min=1e-9)
        return float(torch.special.entr(shares).sum().exp())

    def _nearest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the code of each row [R, D] and the squared distance to its vector, both [R]."""
        rows = rows.float()
        half_norms = self.vectors.square().sum(1) / 2
        closeness, codes = torch.addmm(half_norms, rows, self.vectors.T, beta=-1).max(1)
        return codes, (rows.square().sum(1) - 2 * closeness).clamp_min(0)

    def _revive(self, rows: Tensor, rng: torch.Generator) -> None:
        """Put dead codes on rows [R, D] that are far from the others."""
        mean = float(summed(torch.tensor(float(len(rows)), device=rows.device))) / len(self.counts)
        dead = self.counts < DEAD * mean
        if not dead.any():
            return

        if dead.all():
            chances = torch.ones(len(rows))
        else:
            _, distances = self._nearest(rows)
            chances = distances.cpu() + 1e-9
        drawn = torch.multinomial(chances, int(dead.sum()), replacement=True, generator=rng)
        vectors = from_first_process(rows[drawn.to(rows.device)])
        self.vectors[dead] = vectors
        self.counts[dead] = REVIVED * mean
        self.sums[dead] = REVIVED * mean * vectors


def by_place(z: Tensor) -> Tensor:
    """Return the vectors [N·H·W, D] of all places of z [N, D, H, W]."""
    return z.permute(0, 2, 3, 1).flatten(0, 2)
