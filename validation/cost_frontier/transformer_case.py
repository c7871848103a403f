"""A small transformer on padded sentences: loss weighted by tokens, AdamW, clipping by norm in the loop."""

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lca.allocation import Estimator
from lca.reference import minibatches
from lca_torch import Objective, Tracker
from validation.cost_frontier.case import Case, Options, Seconds, SuppliedFields, layer_totals
from validation.muon.run import WINDOW, Transformer, windows

EXAMPLES, BATCH, RATE, SHORTEST = 240, 24, 0.003, 4
SERIES, CLIP = "adamw", 1.0
"""The only series, and the largest norm of a gradient."""
IGNORED = -100
Batch = tuple[Tensor, Tensor]


def sentences() -> Batch:
    """Letters and the letters that follow them, (n, WINDOW); from the end of each sentence on, IGNORED."""
    generator = torch.Generator().manual_seed(0)
    data = windows()
    rows = data[torch.randperm(len(data), generator=generator)[:EXAMPLES]]
    ends = torch.randint(SHORTEST, WINDOW + 1, (EXAMPLES, 1), generator=generator)
    return rows[:, :-1].contiguous(), torch.where(torch.arange(WINDOW) < ends, rows[:, 1:], IGNORED)


def tokens(batch: Batch) -> float:
    """The number of labels that count in the loss of a batch, its weight."""
    return float((batch[1] != IGNORED).sum())


def transformer() -> Case:
    """Sentences of 4 to 32 letters, batches of 24."""
    data, model = sentences(), Transformer()

    def follow(
        objective: Objective, options: Options, estimator: Estimator | None, supplied: SuppliedFields
    ) -> Seconds:
        torch.manual_seed(options.seed)
        model.load_state_dict(Transformer().state_dict())
        optimizer = torch.optim.AdamW(model.parameters(), lr=case.rates[options.optimizer])
        batches = minibatches(
            np.zeros((EXAMPLES, 1)),
            np.arange(EXAMPLES),
            BATCH,
            options.steps + 1,
            options.seed,
            independent=options.independent,
        )
        began = Seconds.now()
        with (
            Tracker(
                *(model, optimizer, objective, estimator),
                views=layer_totals,
                on_error="raise",
                check_every=None,
            )
            if estimator
            else nullcontext()
        ) as tracker:
            for drawn in batches:
                batch = data[0][drawn.index], data[1][drawn.index]
                optimizer.zero_grad()
                for x, y in pieces(batch, supplied.micro_batches):
                    if tracker is not None:
                        tracker.begin_batch((x, y), weight=tokens((x, y)))
                    summed = cross_entropy(model(x), y, ignore_index=IGNORED, reduction="sum")
                    (summed / tokens(batch)).backward()
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
        return began.until_now()

    def objective() -> Objective:
        return Objective(model, cross_entropy, data, batch_size=100, batch_weight=tokens)

    case = Case(
        "Transformer of two blocks, loss weighted by tokens",
        EXAMPLES,
        BATCH,
        True,
        objective,
        follow,
        rates={SERIES: RATE},
        refined=True,
        optimizers=(SERIES,),
        large=False,
        independent=False,
        steps=50,
        titles={SERIES: f"AdamW {RATE:g}, clipped to {CLIP:g}"},
    )
    return case


def pieces(batch: Batch, n: int) -> Iterator[Batch]:
    """The batch in ``n`` pieces of as many sentences."""
    return zip(*(part.chunk(n) for part in batch), strict=True)
