"""Trainings of models that are spread over the ranks; a child of test_sharded_models.py.

torchrun --nproc-per-node 4 -m tests.lca_torch.sharded_models FOLDER
"""

import contextlib
import inspect
import sys
import time
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint as checkpointed

import lca
from lca.errors import LCAError, LCAWarning
from lca.estimators import CrossFit, LaggedCrossFit, NextBatch, SampledPathIntegral
from lca_torch import Objective, Tracker, _gathering, replay
from lca_torch._gathering import Gathering
from lca_torch._process_group import MeasuringRanks
from lca_torch._transfers import LayerTransfers, Transfers
from tests.lca_torch.networks import Y
from tests.lca_torch.shared_measuring import DATA, STEPS, TOKENS, Values, token_loss
from tests.lca_torch.torchrun import run, world
from tests.nightly import NIGHTLY, cases


def network():
    """Layers of 6, 12 and 3 neurons: uneven shards on 2 ranks, empty ones on 4; half a layer is odd, too."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, eps=0.125)
    return nn.Sequential(
        nn.Linear(6, 6), norm, nn.Tanh(), nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)
    ).double()


class Tied(nn.Module):
    """A weight that is read twice, by an embedding and for the outputs, and a checkpointed block."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(3, 5)
        self.block = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5))
        self.norm = nn.LayerNorm(5)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        features = self.embedding((x[:, :3] > 0).long().sum(1) % 3)
        features = features + checkpointed(self.block, features, use_reentrant=False)
        return self.scale * nn.functional.linear(self.norm(features), self.embedding.weight)


def tied():
    return Tied().double()


def whole(model):
    return model


def layer_by_layer(model, **options):
    """FSDP2 on two of the layers, and on the rest."""
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - not in every torch

    mesh = torch.distributed.init_device_mesh("cpu", (world()[0],))
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][:2]
    for layer in (*layers, model):
        fully_shard(layer, mesh=mesh, **options)
    return model


def half_in_training(model):
    """FSDP2 that computes in bfloat16; what is measured is the loss in the precision of the shards."""
    from torch.distributed.fsdp import MixedPrecisionPolicy  # noqa: PLC0415

    return layer_by_layer(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))


def grid(*names):
    """A mesh of two dimensions: 2 × 2 for 4 ranks, 2 × 1 and 3 × 1 for fewer."""
    first = 3 if world()[0] == 3 else 2
    return torch.distributed.init_device_mesh("cpu", (first, world()[0] // first), mesh_dim_names=names)


def partly_ignored(model):
    """FSDP2 of all but two parameters, which every rank holds whole, in each half of the ranks."""
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

    mesh = grid("replicas", "shards")
    ignored = {"ignored_params": {model[3].bias, model[5].weight}}
    known = "ignored_params" in inspect.signature(fully_shard).parameters  # not in torch 2.6
    return fully_shard(model, mesh=mesh, **(ignored if known else {}))


def by_columns_and_rows(model, mesh=None):
    """Tensor parallelism: a layer by its outputs, the next one by its inputs; the rest is plain."""
    from torch.distributed.tensor.parallel import (  # noqa: PLC0415
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    if mesh is None:
        mesh = torch.distributed.init_device_mesh("cpu", (world()[0],))
    plan = {"3": ColwiseParallel(), "5": RowwiseParallel()}
    return parallelize_module(model, mesh, plan)


def in_two_ways(model):
    """Tensor parallelism inside of FSDP2."""
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415
    from torch.distributed.tensor import Replicate  # noqa: PLC0415
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module  # noqa: PLC0415

    mesh = grid("batches", "layers")
    parallelize_module(model, mesh["layers"], {"0": ColwiseParallel(output_layouts=Replicate())})
    by_columns_and_rows(model, mesh["layers"])
    for layer in (model[0], model[3], model):
        fully_shard(layer, mesh=mesh["batches"])
    return model


def replicated(model):
    """FSDP2 in each half of the ranks (hybrid sharding)."""
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

    return fully_shard(model, mesh=grid("replicas", "shards"))


def objective_of(model, **options):
    return Objective(model, cross_entropy, DATA, **{"batch_size": 4, "batch_norm": "frozen", **options})


@cache
def made(spread):
    """A model that is spread over the ranks in this way, its loss, and the state in which it begins."""
    model = spread(network()).eval()  # the statistics of a part of the batch would differ from those of all
    return model, objective_of(model), {name: value.clone() for name, value in model.state_dict().items()}


def measured(spread):
    """A model that is spread over the ranks in this way, and its loss; both are made once."""
    model, objective, state = made(spread)
    model.load_state_dict(state)
    return model, objective


def trained(spread, estimator=None, *, parts=1, accumulate=False, copied=False, record=None):
    """Allocations of a training; each of ``parts`` ranks, or teams of ranks, has a part of the batch."""
    model, objective = measured(spread)
    if copied:
        objective = objective_of(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    part = world()[1] * parts // world()[0]
    options = {"views": [Values, lca.summary.RunViews.of], "heads": None, "record": record}
    with Tracker(model, optimizer, objective, estimator, on_error="raise", **options) as tracker:
        for step in range(STEPS):
            optimizer.zero_grad()
            own = torch.arange(step, step + 12)[part::parts]
            pieces = own.chunk(2 if accumulate else 1)
            for i, piece in enumerate(pieces):
                if accumulate:
                    model.set_requires_gradient_sync(i == len(pieces) - 1)
                loss = cross_entropy(model(DATA[0][piece]), Y[piece])
                (len(piece) / len(own) * loss).backward()
            model[1].running_mean += 0.1  # a buffer moves, and that of the copy follows
            optimizer.step()
            with torch.no_grad():
                model(DATA[0])  # after which FSDP keeps some parameters whole
    values, run = tracker.views["train"]
    kept = np.concatenate([np.ravel(run.layers.totals), np.ravel(run.tensors.totals)])
    signs = run.signs.per_step()
    counts = np.stack([signs.helping, signs.hurting, signs.zero])
    return {"values": np.array(values.rows), "totals": kept[None], "counts": counts.astype(float)}


def one_process():
    return trained(whole)


def one_process_sampled():
    return trained(whole, SampledPathIntegral(size=6, micro_batches=2, seed=3))


def one_process_points():
    return points(whole)


def fsdp():
    return trained(layer_by_layer, parts=world()[0], accumulate=True)


def fsdp_sampled():
    return trained(layer_by_layer, SampledPathIntegral(size=6, micro_batches=2, seed=3), parts=world()[0])


def fsdp_on_a_copy():
    return trained(layer_by_layer, parts=world()[0], copied=True)


def tensor_parallel():
    return trained(by_columns_and_rows)


def tensor_parallel_on_a_copy():
    return trained(by_columns_and_rows, copied=True)


def both():
    record = str(Path(sys.argv[1]) / "run.zarr")
    batches = grid("batches", "layers").shape[0]
    return trained(in_two_ways, parts=batches, accumulate=True, record=record)


def both_sampled():
    sampled = SampledPathIntegral(size=6, micro_batches=2, seed=3)
    return trained(in_two_ways, sampled, parts=grid("batches", "layers").shape[0])


def hybrid():
    return trained(replicated, parts=world()[0])


CROSS_FITTED = {
    "clipped": (CrossFit(2), lambda p: torch.optim.AdamW(p, lr=0.02)),
    "error bars": (CrossFit(2, independent=True), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5)),
    "next batch": (NextBatch(lca.RIGHT), lambda p: torch.optim.RMSprop(p, lr=0.01)),
    "lagged": (LaggedCrossFit(first_examples=6), lambda p: torch.optim.Adam(p, lr=0.02)),
}


def clip(parameters, *, by_hand):
    """Clip the norm of the gradient; torch does not take the norm of gradients on different meshes."""
    from torch.distributed.tensor.experimental import implicit_replication  # noqa: PLC0415

    if not by_hand:
        with implicit_replication():
            nn.utils.clip_grad_norm_(parameters, 0.2)
        return
    grads = [parameter.grad for parameter in parameters]
    norm = torch.cat([grad.full_tensor().reshape(-1) for grad in grads]).norm()
    for grad in grads:
        grad.mul_(min(0.2 / (float(norm) + 1e-6), 1.0))  # as torch does


def clip_values(parameters):
    """Clip the gradient entry by entry, each process those that it holds."""
    for parameter in parameters:
        getattr(parameter.grad, "_local_tensor", parameter.grad).clamp_(-0.02, 0.02)


def cross_fitted(spread, *, parts=1):
    """Allocations from micro-batches, of which each of ``parts`` ranks has a part, of a weight of its own."""
    (model, objective), found = measured(spread), {}
    part, weight = world()[1] * parts // world()[0], 1 + torch.arange(17) % 5
    for name, (estimator, make) in CROSS_FITTED.items():
        optimizer, replicates = make(model.parameters()), Replicates()
        options = {"views": [Values, lambda layout, own=replicates: own], "check_every": 2}
        with Tracker(model, optimizer, objective, estimator, on_error="raise", **options) as tracker:
            for step in range(5 if name == "lagged" else 3):
                optimizer.zero_grad(set_to_none=step != 1)
                batch = torch.arange(step, step + 24) % 17
                loader = batch[part::parts].chunk(2)
                for piece in tracker.batches(loader, weight=lambda piece: float(weight[piece].sum())):
                    losses = cross_entropy(model(DATA[0][piece]), Y[piece], reduction="none")
                    # FSDP2 takes the mean over the ranks.
                    (parts * (weight[piece] * losses).sum() / weight[batch].sum()).backward()
                if name == "clipped":
                    clip(model.parameters(), by_hand=spread is in_two_ways)
                if name == "next batch":
                    clip_values(model.parameters())
                optimizer.step()
        loss = objective.loss(objective.theta())  # checks are differences of such numbers
        checks = [[w.change, w.total, loss] for w in tracker.checked_windows["train"]]
        found |= {name: np.array(tracker.views["train"][0].rows), f"checks of {name}": np.array(checks)}
        if replicates.rows:
            found[f"replicates of {name}"] = np.array(replicates.rows)
    return found


class Replicates:
    """A view that stores the vectors whose spread gives error bars."""

    def __init__(self):
        self.rows = []

    def update(self, allocation):
        for vectors in allocation.replicates.values():
            self.rows += [np.asarray(vector) for vector in vectors]


def one_process_cross_fitted():
    return cross_fitted(whole)


def fsdp_cross_fitted():
    return cross_fitted(layer_by_layer, parts=world()[0])


def tensor_parallel_cross_fitted():
    return cross_fitted(by_columns_and_rows)


def hybrid_cross_fitted():
    return cross_fitted(replicated, parts=world()[0])


def both_cross_fitted():
    return cross_fitted(in_two_ways, parts=grid("batches", "layers").shape[0])


FROM_BATCHES = {
    "next batch": NextBatch(),
    "importance": SampledPathIntegral(size=6, sampling="stratified", refresh=1, seed=3),
}


class Projected(lca.views.BasisProjection):
    """A view of the loss change along three directions."""

    def __init__(self, layout):
        drawn = np.random.default_rng(0).normal(size=(layout.size, 3))
        super().__init__(np.linalg.qr(drawn)[0].T)


def from_batches(spread, *, parts=1):
    """Allocations that need forward passes of batches, of which the first rank has 8 of 12 examples."""
    (model, objective), found = measured(spread), {}
    part = world()[1] * parts // world()[0]
    for name, estimator in FROM_BATCHES.items():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
        views = {"views": [Values, Projected]}
        with Tracker(model, optimizer, objective, estimator, on_error="raise", **views) as tracker:
            for step in range(STEPS):
                optimizer.zero_grad()
                own = torch.arange(step, step + 12).tensor_split([8, 10, 11][: parts - 1])[part]
                for x, y in tracker.batches([(DATA[0][own], Y[own])]):
                    (parts * cross_entropy(model(x), y, reduction="sum") / 12).backward()
                optimizer.step()
        values, projected = tracker.views["train"]
        found |= {name: np.array(values.rows), f"projections of {name}": projected.rows}
    scores = objective.scores(objective.theta())
    return found | {"scores": np.array(scores), **by_example(objective)}


def by_example(objective):
    """Allocations of a step against the gradient to some examples."""
    theta = objective.theta()
    grad = objective.loss_and_grad(theta)[1]
    step = lca.Step(theta, lca.arrays.array_ops(theta).add_scaled(theta.clone(), -0.5, grad))
    rule = lca.PathIntegral(lca.gauss_legendre(2))
    chosen = lca.by_example.ByExample("tensor", examples=[2, 5, 11], estimator=rule)
    [found] = lca.by_example.allocate_by_example(objective, [step], chosen)
    return {"examples": found.values, "losses of examples": found.loss_end}


def one_process_from_batches():
    return from_batches(whole)


def fsdp_from_batches():
    return from_batches(layer_by_layer, parts=world()[0])


def tensor_parallel_from_batches():
    return from_batches(by_columns_and_rows)


def both_from_batches():
    return from_batches(in_two_ways, parts=grid("batches", "layers").shape[0])


class Normed(nn.Module):
    """A norm between layers, over which tensor parallelism divides the rows (of a sequence, mostly)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 12)
        self.norm, self.last = nn.LayerNorm(12), nn.Linear(12, 12)

    def forward(self, x):
        return self.last(self.norm(self.second(torch.tanh(self.first(x)))))


def by_rows(model):
    """Each rank has a part of the rows at the norm, and so a summand of its gradient."""
    from torch.distributed.tensor import (  # noqa: PLC0415
        Replicate,
        Shard,
        parallel,  # noqa: PLC0415
    )

    plan = {
        "first": parallel.ColwiseParallel(),
        "second": parallel.RowwiseParallel(output_layouts=Shard(0)),
        "norm": parallel.SequenceParallel(sequence_dim=0),
        "last": parallel.ColwiseParallel(input_layouts=Shard(0), output_layouts=Replicate()),
    }
    mesh = torch.distributed.init_device_mesh("cpu", (world()[0],))
    return parallel.parallelize_module(model, mesh, plan)


def normed(spread):
    """Allocations from two micro-batches of twelve rows, with momentum, whose state is in summands, too."""
    model, rows = spread(Normed().double()), torch.arange(24) % 17
    objective = Objective(model, cross_entropy, (DATA[0][rows], Y[rows]), batch_size=12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    with Tracker(model, optimizer, objective, CrossFit(2), views=Values, on_error="raise") as tracker:
        for _ in range(STEPS):
            optimizer.zero_grad()
            for piece in tracker.batches(rows.chunk(2)):
                (cross_entropy(model(DATA[0][piece]), Y[piece]) / 2).backward()
            optimizer.step()
    return {"values": np.array(tracker.views["train"].rows)}


def one_process_normed():
    return normed(whole)


def tensor_parallel_normed():
    return normed(by_rows)


def at(objective):
    """Loss and gradient at the parameters of the model, and sums of the gradient."""
    theta = objective.theta()
    loss, grad = objective.loss_and_grad(theta)
    assert objective.loss(theta) == loss
    ops, layout = lca.arrays.array_ops(grad), objective.layout
    smallest, largest = ops.extremes(grad, 3)
    positions = np.arange(0, layout.size, 5)
    return {
        "loss": np.array([loss]),
        "grad": np.asarray(grad),
        "neurons": layout.groups("neuron").total(grad),
        "some": ops.take(grad, positions),
        "extremes": ops.take(grad, np.concatenate([smallest, largest])),
        "moved": np.array(ops.moved(theta, ops.between(theta, grad, 0.5), [slice(3, 30)]), float),
    }


def points(spread):
    """Losses and gradients of models and data of many kinds, by name."""
    half = half_in_training if spread is not whole else whole
    ignoring = partly_ignored if spread is not whole else whole
    parallel = by_columns_and_rows if spread is not whole else whole
    model = ignoring(network())
    found = {
        "half": objective_of(half(tied()), batch_size=9),  # fewer batches than ranks
        "statistics": objective_of(model, batch_norm="batch", batch_size=6),
        "parallel": objective_of(parallel(network())),
    }
    if NIGHTLY:
        weight = {"batch_loss": token_loss, "batch_weight": lambda batch: float(batch[1].sum())}
        found["tokens"] = Objective(model, None, TOKENS, batch_norm="frozen", **weight)
    named = {f"{name}: {key}": value for name, o in found.items() for key, value in at(o).items()}
    by_class = found["half"].by_class()
    terms = lca.objective.evaluate(by_class, by_class.whole.theta()).terms
    return named | {name: np.asarray(term.grad) for name, term in terms.items()}


def fsdp_points():
    first, _gathering._FIRST = _gathering._FIRST, 5  # so that some shards take two transfers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LCAWarning)  # a rank that has no batch
            return points(layer_by_layer)
    finally:
        _gathering._FIRST = first


def said(call):
    try:
        call()
    except LCAError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def held_at_once():
    """The most entries of parameters that were gathered at one time, and those of θ."""
    held, gather = [], Gathering.whole

    def whole_of(self, leaf, name):
        made = gather(self, leaf, name)
        sizes = {name: frame.size for name, frame in self._division.frames.items()}
        held.append(sum(sizes[known.name] for known in self._live.values() if not known.is_gone))
        return made

    Gathering.whole = whole_of
    try:
        _, objective = measured(in_two_ways)
        objective.loss_and_grad(objective.theta())
    finally:
        Gathering.whole = gather
    return {"held": np.array(max(held)), "size": np.array(objective.layout.size)}


def redistributed():
    """A tensor after ways of dividing it otherwise, in training and while measuring; watched transfers."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard  # noqa: PLC0415

    mesh = torch.distributed.init_device_mesh("cpu", (world()[0],))
    layers = LayerTransfers([mesh], MeasuringRanks(torch.distributed.group.WORLD, 600.0))
    watched, run = [], Transfers.run

    def counted(self, begin):
        watched.append(run(self, begin))
        return watched[-1]

    def found():
        own = DATA[0][:12] * (1 + mesh.get_local_rank())
        for before, after in [(Partial(), Replicate()), (Shard(0), Replicate()), (Partial(), Shard(0))]:
            yield DTensor.from_local(own, mesh, [before]).redistribute(placements=[after]).to_local()

    training = [each.clone() for each in found()]
    Transfers.run = counted
    try:
        with layers.in_place():
            measuring = [each.clone() for each in found()]
    finally:
        Transfers.run = run
    both = {"training": training, "measuring": measuring}
    rows = {name: np.concatenate([each.reshape(-1).numpy() for each in own]) for name, own in both.items()}
    return {**rows, "watched": np.array(len(watched))}


def checkpoints():
    """What a single process reads of checkpoints that all ranks have written, and θ as it was."""
    from torch.distributed import checkpoint  # noqa: PLC0415

    model, thetas = layer_by_layer(network()), []
    folder = Path(sys.argv[1]) / "checkpoints"
    for step in range(2):
        nn.init.constant_(model[3].bias, step)
        checkpoint.save({"model": model.state_dict()}, checkpoint_id=folder / f"step-{step}")
        thetas.append(torch.cat([parameter.full_tensor().reshape(-1) for parameter in model.parameters()]))
    objective = objective_of(network(), process_group=None)
    [step] = replay(folder, objective, key="model")
    return {"found": torch.stack([step.start, step.end]), "expected": torch.stack(thetas).detach()}


class Turning(nn.Module):
    """Which layers there are depends on the batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.more, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        is_second = torch.equal(x[0], DATA[0][4])
        return self.last(torch.tanh(self.more(x)) if is_second else x)


class Odd(nn.Module):
    """Does nothing, but what is asked for when the measured copy of it is called on rank 1."""

    asked = None
    """An error to raise, or seconds to sleep, in the forward pass or (`backward`) in the backward pass."""
    backward = False

    def forward(self, x):
        return _Identity.apply(x)

    @classmethod
    def act(cls, *, backward):
        if cls.asked is None or world()[1] != 1 or cls.backward is not backward:
            return
        if isinstance(cls.asked, Exception):
            raise cls.asked
        time.sleep(cls.asked)


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        Odd.act(backward=False)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Odd.act(backward=True)
        return grad


TROUBLES = {
    "forward": (by_columns_and_rows, ValueError("this rank fails"), False, 600.0),
    "backward": (in_two_ways, ValueError("this rank fails"), True, 600.0),
}
if NIGHTLY:
    TROUBLES["slow"] = by_columns_and_rows, 6.0, True, 3.0
"""By name the model, what happens on rank 1, whether in the backward pass, and how long the others wait."""


def after(spread, *trouble):
    """θ at the end of a training, in whose second step measuring meets a trouble; and the warnings."""
    model = network().eval()
    model[4] = nn.Sequential(nn.Tanh(), Odd())  # between two layers of tensor parallelism
    model = spread(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    mesh = grid("batches", "layers")
    parts, part = (mesh.shape[0], mesh.get_coordinate()[0]) if spread is in_two_ways else (1, 0)
    with contextlib.ExitStack() as stack, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if trouble:
            objective = objective_of(model)
            stack.enter_context(Tracker(model, optimizer, objective))
        for step in range(STEPS):
            optimizer.zero_grad()
            piece = torch.arange(step, step + 12)[part::parts]
            cross_entropy(model(DATA[0][piece]), Y[piece]).backward()
            if step == 1 and trouble:
                Odd.asked, Odd.backward, objective._loss.ranks.timeout = trouble
            optimizer.step()
            Odd.asked = None
    parameters = (getattr(own, "full_tensor", own.detach)() for own in model.parameters())
    theta = torch.cat([own.reshape(-1) for own in parameters])
    return theta.detach(), " ".join(str(warning.message) for warning in warned)


def training_goes_on():
    found = {}
    for name, (spread, *trouble) in TROUBLES.items():
        plain, _ = after(spread)
        begin = time.monotonic()
        theta, text = after(spread, *trouble)
        found |= {f"{name}, theta": theta, f"{name}, plain": plain, f"{name}, text": np.array(text)}
        found[f"{name}, seconds"] = np.array(time.monotonic() - begin)
    return found


def micro_batches(spread, *, by_ranks=False, reduced=True, other=0, gathered=False):
    """An update from two micro-batches, by `CrossFit`."""
    model, objective = measured(spread)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tracker(model, optimizer, objective, CrossFit(2), on_error="raise") as tracker:
        if by_ranks:
            tracker.ranks()
        optimizer.zero_grad()
        for i, piece in enumerate(tracker.batches(torch.arange(other, other + 8).chunk(2))):
            if not reduced:
                model.set_requires_gradient_sync(i == 1)
            cross_entropy(model(DATA[0][piece]), Y[piece]).backward()
        if gathered:
            whole_one = [torch.distributed.tensor.Replicate()]
            model[3].weight.grad = model[3].weight.grad.redistribute(placements=whole_one)
        optimizer.step()


def rows(which):
    return DATA[0][which], Y[which]


def refusals():
    """What is said where a sharded model cannot be measured as it was asked."""
    model = layer_by_layer(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).double()
    recurrent = nn.Sequential(nn.Linear(6, 3), nn.RNN(3, 3, batch_first=True)).double()

    apart = by_columns_and_rows(network())
    drifted = objective_of(apart)
    with torch.no_grad():
        apart[5].bias.to_local().add_(world()[1])

    _, in_a_team = measured(by_columns_and_rows)
    known, objective = measured(layer_by_layer)
    batches = known, torch.optim.SGD(known.parameters(), lr=0.1), objective
    calls = {
        "drifted": lambda: drifted.loss(drifted.theta()),
        "alone": lambda: objective_of(model, process_group=None),
        "other": lambda: Tracker(model, optimizer, objective_of(other)),
        "recurrent": lambda: objective_of(layer_by_layer(recurrent)),
        "compile": lambda: objective_of(model, compile=True),
        "turning": lambda: at(objective_of(layer_by_layer(Turning().double()))),
        "of halves": lambda: Tracker(*batches, CrossFit(2, own_pass=True)),
        "of scores": lambda: Tracker(*batches, SampledPathIntegral(size=6, sampling="importance")),
        "other batch": lambda: in_a_team.loss(in_a_team.theta(), rows(slice(world()[1], 8))),
        "no weight": lambda: objective.loss(objective.theta(), rows(slice(0, 8 * (world()[1] != 1)))),
        "of a copy": lambda: Tracker(model, optimizer, objective_of(network()), CrossFit(2)),
        "ranks": lambda: micro_batches(layer_by_layer, by_ranks=True),
        "not reduced": lambda: micro_batches(layer_by_layer, reduced=False),
        "gathered": lambda: micro_batches(by_columns_and_rows, gathered=True),
        "other data": lambda: micro_batches(by_columns_and_rows, other=world()[1]),
    }
    return {name: np.array(said(call)) for name, call in calls.items()}


CASES = {
    one_process: cases(
        both, tensor_parallel_on_a_copy, at_night=[fsdp, tensor_parallel, hybrid, fsdp_on_a_copy]
    ),
    one_process_sampled: cases(at_night=[fsdp_sampled, both_sampled]),
    one_process_points: [fsdp_points],
    one_process_normed: cases(at_night=[tensor_parallel_normed]),
    one_process_from_batches: cases(
        both_from_batches, at_night=[fsdp_from_batches, tensor_parallel_from_batches]
    ),
    one_process_cross_fitted: cases(
        both_cross_fitted,
        fsdp_cross_fitted,
        at_night=[tensor_parallel_cross_fitted, hybrid_cross_fitted],
    ),
}
"""What several ranks find, by what one process must find as well."""


if __name__ == "__main__":
    every = [case for own in CASES.values() for case in own]
    run([held_at_once, redistributed, *every, checkpoints, training_goes_on, refusals], sys.argv[1])
