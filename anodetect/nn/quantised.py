"""An autoencoder through a codebook, and a network that predicts its masked codes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anodetect.nn.codebook import Codebook
from anodetect.nn.local import LocalNet
from anodetect.nn.unet import UNet


class QuantisedAutoencoder(nn.Module):
    """Maps x [N, channels, H, W] to codes on a grid `stem` times smaller, and back.

    With `code_values` an encoder makes that many values of each square of pixels, and codes stand
    for these. With 0 codes stand for the channels of x themselves, and the decoder corrects the
    codes' vectors. H and W are multiples of `stem`.
    """

    def __init__(
        self,
        channels: int,
        codes: int,
        *,
        code_values: int,
        width: int,
        blocks: int,
        stem: int,
        decay: float,
    ) -> None:
        super().__init__()
        values = code_values or channels * stem**2
        self.encoder: nn.Module = nn.PixelUnshuffle(stem)
        if code_values:
            self.encoder = LocalNet(channels, values, width, blocks=blocks, stem=stem)
        self.codebook = Codebook(codes, values, decay)
        self.decoder = LocalNet(values, channels * stem**2, width, blocks=blocks, stem=1)
        self.unfold = nn.PixelShuffle(stem)
        self.corrects = code_values == 0
        if self.corrects:
            nn.init.zeros_(self.decoder.last.weight)
            nn.init.zeros_(self.decoder.last.bias)  # type: ignore[arg-type]

    def encode(self, x: Tensor) -> Tensor:
        """Return the vectors [N, D, h, w] that codes stand for."""
        z: Tensor = self.encoder(x)
        return z

    def decode(self, vectors: Tensor) -> Tensor:
        """Return images [N, channels, H, W] of codes' vectors [N, D, h, w]."""
        out: Tensor = self.decoder(vectors)
        image: Tensor = self.unfold(vectors + out if self.corrects else out)
        return image


class CodePrior(nn.Module):
    """Maps (the vectors of codes [N, D, h, w], what is masked [N, h, w]) to logits [N, K, h, w].

    A U-Net sees the vectors that are not masked, the mask, where each place is, and as its step the
    share of masked places in thousandths. Grids that do not fit it are filled up with masked ones.
    """

    def __init__(self, values: int, codes: int, widths: Sequence[int], *, attention: int) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.net = UNet(values + 3, codes, widths, stem=1, attention=attention)

    def forward(self, vectors: Tensor, masked: Tensor) -> Tensor:
        height, width = masked.shape[1:]
        seen = torch.where(masked[:, None], 0.0, vectors)
        down = torch.linspace(-1, 1, height, device=seen.device)[:, None].expand(height, width)
        across = torch.linspace(-1, 1, width, device=seen.device).expand(height, width)
        place = torch.stack([down, across]).expand(len(seen), -1, -1, -1)
        x = torch.cat([seen, masked[:, None].to(seen.dtype), place], 1)

        # The last channels are filled up with zeros, the mask with ones.
        missing = (0, -width % self.stride, 0, -height % self.stride)
        if any(missing):
            x = F.pad(x, missing)
            x[:, seen.shape[1], height:] = 1
            x[:, seen.shape[1], :, width:] = 1
        share = masked.flatten(1).float().mean(1)
        logits: Tensor = self.net(x, (1000 * share).round().long())
        return logits[:, :, :height, :width]
