"""Addition of numbers of three digits, written as text, and the single answer digits that are measured."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from validation.language_model.gpt import GPT, Size

DIGITS, PLUS, EQUALS = 3, 10, 11
ANSWER = slice(2 * DIGITS + 2, 3 * DIGITS + 3)
"""The places of the digits of the sum, the most significant first: thousands, hundreds, tens, ones."""
COLUMNS = ("thousands", "hundreds", "tens", "ones")
SIZE = Size(width=48, blocks=2, heads=4, length=3 * DIGITS + 2, vocabulary=12)
Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Sums:
    """``abc+def=ghij`` as tokens (n, 12), and the carry into each column of the answer (n, 4)."""

    tokens: Tensor
    carry: Array

    def __len__(self) -> int:
        return len(self.tokens)


def sums(a: Array, b: Array) -> Sums:
    """Write out a + b.

    >>> sums(np.array([85]), np.array([17])).tokens.tolist()
    [[0, 8, 5, 10, 0, 1, 7, 11, 0, 1, 0, 2]]
    >>> sums(np.array([85]), np.array([17])).carry.tolist()  # 5 + 7 and 8 + 1 + 1 are above 9
    [[0, 1, 1, 0]]
    """
    powers = 10 ** np.arange(DIGITS - 1, -1, -1)
    texts = [a[:, None] // powers % 10, np.full((len(a), 1), PLUS), b[:, None] // powers % 10]
    texts += [np.full((len(a), 1), EQUALS), (a + b)[:, None] // (10 ** np.arange(DIGITS, -1, -1)) % 10]
    below = 10 ** np.arange(DIGITS, -1, -1)  # the columns to the right of each
    carry = (a[:, None] % below + b[:, None] % below) // below
    return Sums(torch.from_numpy(np.concatenate(texts, axis=1)), carry)


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """The mean loss of the digits of the sums."""
    logits = model(tokens[:, :-1])[:, ANSWER.start - 1 :]
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, ANSWER].flatten())


class Digit(nn.Module):
    """Logits of one answer digit per example: of the column (n,) of each sum, given all tokens before it."""

    def __init__(self) -> None:
        super().__init__()
        self.gpt = GPT(SIZE)

    def forward(self, tokens: Tensor, column: Tensor) -> Tensor:
        """Map tokens (n, 11) and columns (n,) to logits (n, vocabulary)."""
        logits = self.gpt(tokens)[:, ANSWER.start - 1 :]
        chosen = nn.functional.one_hot(column, len(COLUMNS)).to(logits.dtype)
        return torch.einsum("ncv,nc->nv", logits, chosen)


@dataclass(frozen=True, eq=False)
class Measured:
    """Single digits of sums: tokens (n, 11), the column (n,) and digit (n,), and the carry into it (n,)."""

    tokens: Tensor
    column: Tensor
    digit: Tensor
    carry: Array

    @classmethod
    def of(cls, chosen: Sums, columns: tuple[str, ...]) -> "Measured":
        """The digits of some columns of all sums."""
        at = torch.tensor([COLUMNS.index(name) for name in columns])
        tokens = chosen.tokens[:, :-1].repeat_interleave(len(at), 0)
        digit = chosen.tokens[:, ANSWER][:, at].flatten()
        return cls(tokens, at.repeat(len(chosen)), digit, chosen.carry[:, at.numpy()].ravel())

    @property
    def data(self) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Inputs and targets."""
        return (self.tokens, self.column), self.digit


def drawn(rng: np.random.Generator, count: int) -> Sums:
    """Pairs of numbers at random."""
    a, b = rng.integers(0, 10**DIGITS, (2, count))
    return sums(a, b)
