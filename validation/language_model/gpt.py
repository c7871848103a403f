"""A GPT-2-like transformer in plain torch: pre-norm blocks, learned positions, a head of its own or tied."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention


@dataclass(frozen=True)
class Size:
    """The form of a model; ``vocabulary`` and ``length`` are in tokens.

    ``tied``: the head shares the weights of the embedding, and counts as such.
    """

    width: int
    blocks: int
    heads: int
    length: int
    vocabulary: int = 256
    tied: bool = False


SIZES = {
    "tiny": Size(width=32, blocks=2, heads=4, length=16),
    "1M": Size(width=128, blocks=4, heads=4, length=64),
    "10M": Size(width=320, blocks=8, heads=8, length=64),
    "124M": Size(width=768, blocks=12, heads=12, length=512, vocabulary=50_257, tied=True),
}
"""By name, about the number of parameters; ``124M`` has the width, depth and vocabulary of GPT-2 small."""

KINDS = {
    "embedding": r"^(tokens|positions)\.",
    "attention": r"\.attention\.",
    "MLP": r"\.mlp\.",
    "norm": r"norm",
    "head": r"^head\.",
}
"""Groups for a tracker: the kind of each tensor by its name."""


class Attention(nn.Module):
    """Causal self-attention with a fused projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        examples, length, width = x.shape
        q, k, v = self.qkv(x).view(examples, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(examples, length, width))
        return out


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        out: Tensor = x + self.mlp(self.norm_2(x))
        return out


class GPT(nn.Module):
    """Logits (n, length, vocabulary) of the next token, from tokens (n, length).

    >>> sum(p.numel() for p in GPT(SIZES["10M"]).parameters())
    10048640
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Embedding(size.length, size.width)
        self.blocks = nn.Sequential(*(Block(size.width, size.heads) for _ in range(size.blocks)))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary, bias=False)
        if size.tied:
            self.head.weight = self.tokens.weight
        self.apply(_initialise)
        for name, parameter in self.named_parameters():
            if name.endswith(("out_proj.weight", "mlp.2.weight")):  # these add up along the residual stream
                nn.init.normal_(parameter, std=0.02 / (2 * size.blocks) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(places))))
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def next_token_loss(model: nn.Module, windows: Tensor) -> Tensor:
    """The mean loss of predicting tokens 1 ... length of windows (n, length + 1) from those before."""
    return cross_entropy(model(windows[:, :-1]).flatten(0, 1).float(), windows[:, 1:].flatten())
