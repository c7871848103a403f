"""Addition modulo a prime, and a transformer with one block that learns it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

PRIME, WIDTH, HEADS = 113, 64, 4
TRAINED = 0.3
"""The part of all pairs that is trained on."""
LAYERS = ("embedding", "attention", "mlp in", "mlp out", "head")
KINDS = ("mirror seen", "mirror unseen", "equal terms")
"""Classes of held-out pairs a + b: b + a is a training example, is held out too, or is the same pair."""


class Transformer(nn.Module):
    """Logits of the sum (n, PRIME) of the tokens a, b, = (n, 3); no normalisation and no biases.

    Only the last position is read, so queries and the MLP are computed there only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(PRIME + 1, WIDTH), nn.Embedding(3, WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, PRIME, bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=WIDTH**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens to logits."""
        x = self.tokens(tokens) + self.positions(torch.arange(3))
        last = x[:, -1:]
        heads = [
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in (self.query(last), self.key(x), self.value(x))
        ]
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        last = last + self.out(mixed)
        last = last + self.down(torch.relu(self.up(last)))
        logits: Tensor = self.head(last)[:, 0]
        return logits


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to.

    >>> layer_of("query.weight"), layer_of("positions.weight")
    ('attention', 'embedding')
    """
    module = name.partition(".")[0]
    named = {"tokens": "embedding", "positions": "embedding", "up": "mlp in", "down": "mlp out"}
    return named.get(module, "head" if module == "head" else "attention")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Tokens a, b, = of pairs (n, 3), and their sums (n,)."""

    tokens: Tensor
    sums: Tensor

    def __len__(self) -> int:
        return len(self.sums)

    def at(self, index: Tensor) -> "Pairs":
        """Some of the pairs."""
        return Pairs(self.tokens[index], self.sums[index])


def split(seed: int) -> tuple[Pairs, Pairs]:
    """All pairs, divided at random into those to train on and those held out."""
    a, b = torch.meshgrid(torch.arange(PRIME), torch.arange(PRIME), indexing="ij")
    tokens = torch.stack([a.flatten(), b.flatten(), torch.full((PRIME**2,), PRIME)], 1)
    pairs = Pairs(tokens, (a + b).flatten() % PRIME)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    count = round(TRAINED * len(pairs))
    return pairs.at(order[:count]), pairs.at(order[count:])


def kinds(heldout: Pairs, trained: Pairs) -> np.ndarray:
    """The class of each held-out pair, one of `KINDS`, (n,)."""
    seen = {(int(a), int(b)) for a, b, _ in trained.tokens}
    found = [
        KINDS[2] if a == b else KINDS[0] if (int(b), int(a)) in seen else KINDS[1]
        for a, b, _ in heldout.tokens
    ]
    return np.array(found)
