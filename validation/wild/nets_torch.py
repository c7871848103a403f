"""Tiny look-alikes of the architectures of torchvision, timm and papers, with random weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block of ResNet with the normalisation ``norm(channels)``."""

    def __init__(self, channels: int, norm=nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(out)))


def resnet(norm=nn.BatchNorm2d, width: int = 4, classes: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), norm(width), nn.ReLU(), Block(width, norm),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
    )  # fmt: skip


def vgg(classes: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24, 8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, classes),
    )  # fmt: skip


class InvertedResidual(nn.Module):
    """The block of MobileNetV2: expand, depthwise, project."""

    def __init__(self, channels: int, expand: int = 2) -> None:
        super().__init__()
        wide = channels * expand
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def mobilenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), InvertedResidual(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


class DropPath(nn.Module):
    """Stochastic depth: drops the branch of single examples while training."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.rand(len(x), *[1] * (x.dim() - 1)) < 0.8
        return x * keep / 0.8


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm over channels, pointwise MLP, layer scale, stochastic depth."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )
        self.gamma = nn.Parameter(torch.full((channels,), 0.5))
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        out = self.gamma * self.mlp(self.norm(self.dw(x).permute(0, 2, 3, 1)))
        return x + self.drop_path(out.permute(0, 3, 1, 2))


def convnext() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 2, 2), ConvNeXtBlock(4), ConvNeXtBlock(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


class ViT(nn.Module):
    """Patches, class token, positions, one encoder layer, head on the token."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, dim)), nn.Parameter(torch.randn(1, 5, dim) * 0.1)
        self.block = nn.TransformerEncoderLayer(dim, 2, 16, 0.1, "gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), patches], 1) + self.pos
        return self.head(self.block(x)[:, 0])


class MixerBlock(nn.Module):
    """Mixes tokens, then channels."""

    def __init__(self, n: int, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.token = nn.Sequential(nn.Linear(n, 6), nn.GELU(), nn.Linear(6, n))
        self.channel = nn.Sequential(nn.Linear(dim, 12), nn.GELU(), nn.Linear(12, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(3, dim, 4, 4), MixerBlock(4, dim), nn.Linear(dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class UNet(nn.Module):
    """One level down, one up by a transposed convolution, one skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.mid = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1)
        self.up, self.out = nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.silu(self.down(x))
        return self.out(torch.cat([skip, self.up(F.silu(self.mid(skip)))], 1))


class Recurrent(nn.Module):
    """Embedding, a recurrent layer ``cell``, a head on its last output."""

    def __init__(self, cell: type[nn.RNNBase] = nn.LSTM, **options) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.rnn = cell(5, 6, batch_first=True, **options)
        self.head = nn.Linear(12 if options.get("bidirectional") else 6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(tokens))[0][:, -1])


class StatefulGRU(nn.Module):
    """Carries its hidden state, and a count of its calls, as plain Python attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)
        self.h, self.calls = None, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = None if self.h is None or self.h.shape[1] != len(x) else self.h
        out, last = self.rnn(x, h)
        self.h = last.detach()
        return self.head(out[:, -1])


class LanguageModel(nn.Module):
    """Embedding tied to the output layer, causal attention."""

    def __init__(self, vocabulary: int = 11, dim: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.block = nn.TransformerEncoderLayer(dim, 2, 16, 0.0, "gelu", batch_first=True)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.block(self.embed(tokens), src_mask=mask, is_causal=True))


class MixtureOfExperts(nn.Module):
    """Two experts, a gate whose scores are biased by how often each was used (integer buffer)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in "ab")
        self.register_buffer("used", torch.zeros(2, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        scores = (self.gate(x) - 0.02 * self.used).softmax(1)
        if self.training:
            self.used += torch.bincount(scores.argmax(1), minlength=2)
        return sum(score[:, None] * expert(x) for score, expert in zip(scores.T, self.experts, strict=True))


class VQVAE(nn.Module):
    """Nearest codes; the codebook is a buffer that follows the encodings by an exponential average."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 3), nn.Linear(3, 6)
        self.register_buffer("codes", torch.randn(4, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        nearest = torch.cdist(z.detach(), self.codes).argmin(1)
        quantized = self.codes[nearest]
        if self.training:
            with torch.no_grad():
                for code in nearest.unique():
                    self.codes[code].lerp_(z[nearest == code].mean(0), 0.2)
        return self.decoder(z + (quantized - z).detach()), (z - quantized.detach()).square().mean()


class VAE(nn.Module):
    """A linear encoder and decoder; the noise of the posterior only while training."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.beta = nn.Linear(6, 4), nn.Linear(2, 6), 0.1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + (torch.randn_like(mean) * (log_var / 2).exp() if self.training else 0.0)
        kl = (mean.square() + log_var.exp() - log_var - 1).sum(1).mean() / 2
        return self.decoder(z), kl


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers of these sizes with tanh in between."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])
