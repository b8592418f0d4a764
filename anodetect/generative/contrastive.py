"""Noise-contrastive estimation: a normalised density, learned by telling data from noise.

    log p(v) = log q(v) − g(v) − log Z
    loss = E_data softplus(log ν − r(v)) + ν · E_noise softplus(r(v) − log ν),   r = log p − log q

q is the density of the noise, of which there are ν draws for each of data. The loss is least where
p is the density of the data, and log Z, which is learned as any other weight, then is the
normaliser of q · exp(−g) (Gutmann & Hyvärinen, JMLR 2012). A new p is q itself, so that g has to
learn no more than where data and noise differ.

Noise that is easily told from data teaches little. A flow q that learns to be mistaken for data, in
the same steps, teaches more (flow contrastive estimation, Gao et al., CVPR 2020).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anodetect.generative.flows import Flow
from anodetect.nn.mlp import plain_mlp

# Times the learning rate of other weights: log Z is a sum over all values of v, and Adam moves a
# weight by no more than the rate in a step.
FASTER = 30.0


class ContrastiveDensity(nn.Module):
    """The density p of vectors [M, D], made of that of the noise q and of a network g.

    q is a `Flow`, which without couplings is the standard normal density and does not learn.
    """

    def __init__(self, values: int, width: int, *, blocks: int, couplings: int) -> None:
        super().__init__()
        self.energy = plain_mlp(values, 1, width, blocks=blocks)
        self.slow_log_z = nn.Parameter(torch.zeros(()))
        self.flow = Flow(values, width, couplings)

    @property
    def log_z(self) -> Tensor:
        """log Z, a scalar."""
        return FASTER * self.slow_log_z

    def log_ratio(self, v: Tensor) -> Tensor:
        """Return log p(v) − log q(v) of v [M, D], [M]."""
        ratio: Tensor = -self.energy(v)[:, 0] - self.log_z
        return ratio

    def forward(self, v: Tensor) -> Tensor:
        """Return log p(v) of v [M, D], [M]."""
        return self.flow.log_density(v) + self.log_ratio(v)


def contrastive_loss(data: Tensor, noise: Tensor) -> Tensor:
    """Return the loss, a scalar, of log p − log q on data [M] and on noise [ν M]."""
    draws = len(noise) / len(data)
    log_draws = math.log(draws)
    return F.softplus(log_draws - data).mean() + draws * F.softplus(noise - log_draws).mean()


def chance_level(draws: int) -> float:
    """Return the loss where data and noise, with so many draws for each of data, cannot be told
    apart."""
    return math.log(1 + draws) + draws * math.log(1 + 1 / draws)


def density_loss(net: ContrastiveDensity, data: Tensor, z: Tensor) -> Tensor:
    """Return what g and log Z minimise on data [M, D] and the noise made of standard normal z
    [ν M, D], a scalar."""
    with torch.no_grad():
        noise = net.flow.inverse(z)
    return contrastive_loss(net.log_ratio(data), net.log_ratio(noise))


def flow_loss(net: ContrastiveDensity, data: Tensor, z: Tensor) -> Tensor:
    """Return what the flow minimises on the same, a scalar, per value of v.

    With p held fixed it wants to be mistaken for data, so that the loss of the density is large.
    Where the two are told apart with certainty that says nothing, and it learns from the likelihood
    of data instead.
    """
    fixed = {name: weight.detach() for name, weight in net.named_parameters()}
    made = net.flow.inverse(z)
    p_data, p_made = (torch.func.functional_call(net, fixed, (v,)) for v in (data, made))

    q_data, q_made = net.flow.log_density(data), net.flow.log_density(made)
    mistaken = contrastive_loss(p_data - q_data, p_made - q_made)
    return -(mistaken + q_data.mean()) / data.shape[1]
