"""Training that can be interrupted: checkpoints in a folder, from which it continues."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from validation.grokking.network import Pairs, Transformer, split

RATE, DECAY, BETAS, BATCH = 1e-3, 1.0, (0.9, 0.98), 1024
ENOUGH = 0.998
"""The accuracy on held-out pairs at which a run ends."""
EVERY = 25
"""Steps between checkpoints."""


def train(seed: int, steps: int, folder: Path) -> None:
    """Train on batches drawn anew; write a checkpoint every `EVERY` steps, or go on after the last.

    A checkpoint holds θ, θ one step later, the part of the movement since the checkpoint before that is due
    to weight decay, and losses and accuracies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(found["heldout_accuracy"] >= ENOUGH for _, found in checkpoints(folder)):
        return
    torch.manual_seed(seed)
    model, (trained, heldout) = Transformer(), split(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, betas=BETAS)
    drawing = torch.Generator().manual_seed(seed)
    at, saved = 0, folder / "state.pt"
    decayed, before = torch.zeros_like(theta_of(model)), None
    if saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        drawing.set_state(state["drawing"])
        at, decayed = state["step"], state["decayed"]
    while at <= steps:
        if at % EVERY == 0:
            found = scores(model, trained, heldout)
            if at > 0 and found["heldout_accuracy"] >= ENOUGH:
                steps = at  # one more update, and the run ends
            before = {"theta": theta_of(model), "decayed": decayed, **found}
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": at}
            state |= {"decayed": decayed, "drawing": drawing.get_state()}
            torch.save(state, saved.with_suffix(".new"))
            saved.with_suffix(".new").replace(saved)
            decayed = torch.zeros_like(decayed)
        optimizer.zero_grad()
        batch = trained.at(torch.randint(len(trained), (BATCH,), generator=drawing))
        nn.functional.cross_entropy(model(batch.tokens), batch.sums).backward()
        decayed -= RATE * DECAY * theta_of(model)
        optimizer.step()
        if before is not None:
            np.savez(folder / f"{at}.npz", after=theta_of(model), **before)
            before = None
        at += 1


def scores(model: nn.Module, trained: Pairs, heldout: Pairs) -> dict[str, float]:
    """Losses and accuracies."""
    found = {}
    with torch.no_grad():
        for name, pairs in (("train", trained), ("heldout", heldout)):
            logits = model(pairs.tokens)
            found[name] = float(nn.functional.cross_entropy(logits, pairs.sums))
            found[f"{name}_accuracy"] = float((logits.argmax(1) == pairs.sums).double().mean())
    return found


def theta_of(model: nn.Module) -> Tensor:
    """A copy of all parameters, (K,)."""
    return parameters_to_vector(model.parameters()).detach().clone()


def checkpoints(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The steps of the checkpoints in a folder, in order, and what they hold."""
    for path in sorted(folder.glob("*.npz"), key=lambda path: int(path.stem)):
        with np.load(path) as found:
            yield int(path.stem), dict(found)
