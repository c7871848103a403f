"""Small torch networks of every kind, and data for them, which the tests of `lca_torch` share."""

import torch
from torch import nn

X = torch.randn(17, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (17,), generator=torch.Generator().manual_seed(2))
IMAGES = torch.randn(9, 2, 8, 8, generator=torch.Generator().manual_seed(3))
LABELS = torch.randint(3, (9,), generator=torch.Generator().manual_seed(4))
TOKENS = torch.randint(7, (9, 5), generator=torch.Generator().manual_seed(5))


class Residual(nn.Module):
    """A block with a shortcut and BatchNorm, eps as large as the kit's networks have it."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width, eps=0.125)

    def forward(self, x):
        return x + torch.tanh(self.norm(self.conv(x)))


class Transformer(nn.Module):
    """Causal attention over tokens, dropout, and an output layer tied to the embedding."""

    def __init__(self, width, heads, layers):
        super().__init__()
        self.embed = nn.Embedding(7, width)
        block = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.3, nn.functional.gelu, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.out = nn.Linear(width, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=self.embed.weight.dtype)
        return self.out(self.blocks(self.embed(tokens), mask=mask, is_causal=True)).movedim(-1, 1)


def mlp(widths=(6, 5, 3), activation=nn.Tanh):
    layers = [
        m for a, b in zip(widths[:-1], widths[1:], strict=True) for m in (nn.Linear(a, b), activation())
    ]
    return nn.Sequential(*layers[:-1])


def cnn(width):
    convolutions = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2))
    return nn.Sequential(convolutions, nn.Dropout(0.3), nn.Flatten(), nn.Linear(16 * width, 3))


def residual(width):
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))
    return nn.Sequential(nn.Conv2d(2, width, 3), Residual(width), *head)


def normalised(width):
    return nn.Sequential(
        nn.Linear(6, width), nn.BatchNorm1d(width, eps=0.125), nn.Tanh(), nn.Dropout(0.2), nn.Linear(width, 3)
    )
