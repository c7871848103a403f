"""Incorrect backends whose training, or whose objective in a series of calls, is wrong."""

from dataclasses import dataclass, replace

import numpy as np

from lca.layout import Layout
from lca.objective import Scaled, Sum
from lca.reference import SGD, Adam, AdamW, RMSProp
from lca.reference._backend import NumpyBackend
from lca.step import Step
from tests.meta.animals import Passing, Wrong


@dataclass(frozen=True)
class EpsInsideRoot:
    """Adam with ε under the root."""

    adam: Adam

    def init(self, theta):
        return self.adam.init(theta)

    def update(self, state, grad, theta):
        after, _ = replace(self.adam, eps=1e-300).update(state, grad, theta)
        mean = after.mean / (1 - self.adam.beta1**after.count)
        square = after.square / (1 - self.adam.beta2**after.count)
        return after, -self.adam.lr * mean / (square + self.adam.eps) ** 0.5


@dataclass(frozen=True)
class CoupledDecay:
    """AdamW with the decay added to the gradient, as Adam with an L2 penalty."""

    adamw: AdamW

    def init(self, theta):
        return self.adamw.init(theta)

    def update(self, state, grad, theta):
        plain = replace(self.adamw, weight_decay=0.0)
        return plain.update(state, grad + self.adamw.weight_decay * theta, theta)


@dataclass(frozen=True)
class Uncorrected:
    """Adam without the bias correction."""

    adam: Adam

    def init(self, theta):
        return self.adam.init(theta)

    def update(self, state, grad, theta):
        after, _ = self.adam.update(state, grad, theta)
        return after, -self.adam.lr * after.mean / (after.square**0.5 + self.adam.eps)


@dataclass(frozen=True)
class Forgetful:
    """An optimizer that begins anew after three updates."""

    inner: object

    def init(self, theta):
        return 0, self.inner.init(theta)

    def update(self, state, grad, theta):
        count, inner = state
        inner, delta = self.inner.update(inner if count < 3 else self.inner.init(theta), grad, theta)
        return (count + 1, inner), delta


@dataclass(frozen=True)
class OtherOptimizer(NumpyBackend):
    """Trains with another optimizer than the one described."""

    def replaced(self, optimizer):
        raise NotImplementedError

    def train(self, objective, theta, optimizer, batches):
        return super().train(objective, theta, self.replaced(optimizer), batches)


class AdamEpsInsideRoot(OtherOptimizer):
    def replaced(self, optimizer):
        return EpsInsideRoot(optimizer) if type(optimizer) is Adam else optimizer


class AdamUncorrected(OtherOptimizer):
    def replaced(self, optimizer):
        return Uncorrected(optimizer) if type(optimizer) is Adam else optimizer


class AdamDefaults(OtherOptimizer):
    """β₁ and β₂ are not passed on."""

    def replaced(self, optimizer):
        adam = type(optimizer) is Adam
        return replace(optimizer, beta1=0.9, beta2=0.999) if adam else optimizer


class DecayCoupled(OtherOptimizer):
    def replaced(self, optimizer):
        return CoupledDecay(optimizer) if isinstance(optimizer, AdamW) else optimizer


class DecayDropped(OtherOptimizer):
    def replaced(self, optimizer):
        return replace(optimizer, weight_decay=0.0) if isinstance(optimizer, AdamW) else optimizer


class NotNesterov(OtherOptimizer):
    def replaced(self, optimizer):
        return replace(optimizer, nesterov=False) if isinstance(optimizer, SGD) else optimizer


class KerasAlpha(OtherOptimizer):
    """RMSProp with the decay rate that is the default of another framework."""

    def replaced(self, optimizer):
        return replace(optimizer, alpha=0.9) if isinstance(optimizer, RMSProp) else optimizer


class StateForgotten(OtherOptimizer):
    """The state of the optimizer lasts for three updates."""

    def replaced(self, optimizer):
        return Forgetful(optimizer)


class StateKept(NumpyBackend):
    """A second run begins with the optimizer state of the first one."""

    def train(self, objective, theta, optimizer, batches):
        return super().train(objective, theta, _Kept(optimizer), batches)


_LEFT = {}


@dataclass(frozen=True)
class _Kept:
    inner: object

    def init(self, theta):
        key = self.inner, theta.shape, theta.dtype
        return _LEFT[key] if key in _LEFT else self.inner.init(theta)

    def update(self, state, grad, theta):
        state, delta = self.inner.update(state, grad, theta)
        _LEFT[self.inner, theta.shape, theta.dtype] = state
        return state, delta


class PenaltyNotTrained(NumpyBackend):
    """Trains on the data alone, although the objective has a penalty."""

    def train(self, objective, theta, optimizer, batches):
        data = objective.terms["data"] if isinstance(objective, Sum) else objective
        return super().train(data, theta, optimizer, batches)


class PenaltyPerBatch(NumpyBackend):
    """Divides the penalty among the batches: it is smaller for a smaller batch."""

    def objective(self, network, data, dtype, **options):
        both = super().objective(network, data, dtype, **options)
        if not isinstance(both, Sum):
            return both
        return Sum({"data": both.terms["data"], "penalty": _Share(both.terms["penalty"], len(data))})


@dataclass(eq=False)
class _Share(Passing):
    n: int

    def loss(self, theta, batch=None):
        return super().loss(theta, batch) * self._share(batch)

    def loss_and_grad(self, theta, batch=None):
        return Scaled(self.objective, self._share(batch)).loss_and_grad(theta, batch)

    def _share(self, batch):
        return 1.0 if batch is None else len(batch) / self.n


class Shifted(NumpyBackend):
    """Base of those that report the fields of a step wrongly."""

    def train(self, objective, theta, optimizer, batches):
        steps = list(super().train(objective, theta, optimizer, batches))
        return iter(
            [self.changed(step, after) for step, after in zip(steps, [*steps[1:], steps[0]], strict=True)]
        )


class GradientAfter(Shifted):
    """`Step.gradient` is that of the next update."""

    def changed(self, step, after):
        return replace(step, gradient=after.gradient)


class BatchAfter(Shifted):
    """`Step.batch` is the batch of the next update."""

    def changed(self, step, after):
        return replace(step, batch=after.batch)


class GradientClipped(Shifted):
    """`Step.gradient` is not that of the loss, but a multiple of it."""

    def changed(self, step, after):
        return replace(step, gradient=step.gradient / 2)


class StartWritten(NumpyBackend):
    """Trains in the vector that was passed."""

    def train(self, objective, theta, optimizer, batches):
        for step in super().train(objective, theta.copy(), optimizer, batches):
            theta[...] = step.end
            yield step


class BatchWritten(NumpyBackend):
    """Centres the features of a training batch in place."""

    def train(self, objective, theta, optimizer, batches):
        def centred():
            for batch in batches:
                yield batch
                batch.x[...] -= batch.x.mean()

        return super().train(objective, theta, optimizer, centred())


class MeasuringMoves(NumpyBackend):
    """Measuring loads θ into the model, where the next update finds it."""

    def objective(self, network, data, dtype, **options):
        return _Loaded(super().objective(network, data, dtype, **options))

    def train(self, objective, theta, optimizer, batches):
        state, objective.held = optimizer.init(theta), theta
        for index, batch in enumerate(batches):
            start = objective.held
            state, delta = optimizer.update(state, objective.loss_and_grad(start, batch)[1], start)
            objective.held = start + delta
            yield Step(start, start + delta, index, batch)


@dataclass(eq=False)
class _Loaded(Passing):
    """Holds parameters, as a model does; measuring the whole data leaves θ there."""

    held: object = None

    def loss(self, theta, batch=None):
        self.held = theta if batch is None else self.held
        return super().loss(theta, batch)


class AllAtOnce(NumpyBackend):
    """Trains to the end before it yields the first step."""

    def train(self, objective, theta, optimizer, batches):
        return iter(list(super().train(objective, theta, optimizer, batches)))


class OneAlias(NumpyBackend):
    """The start of a step is a view of the parameters, which the update has overwritten."""

    def train(self, objective, theta, optimizer, batches):
        live = theta.copy()
        for step in super().train(objective, theta, optimizer, batches):
            live[...] = step.end
            yield replace(step, start=live, end=live)


class Aliasing(NumpyBackend):
    """Right: a step refers to memory that the next update overwrites, as `Backend.train` allows."""

    def train(self, objective, theta, optimizer, batches):
        start, end = theta.copy(), theta.copy()
        for step in super().train(objective, theta, optimizer, batches):
            start[...], end[...] = step.start, step.end
            yield replace(step, start=start, end=end, gradient=None, batch=None)


class FrozenDecay(NumpyBackend):
    """Weight decay moves what has no gradient."""

    def train(self, objective, theta, optimizer, batches):
        return super().train(Passing(objective), theta, optimizer, batches)


class TiedDecayTwice(OtherOptimizer):
    """A tied tensor is in the list of the optimizer under both names."""

    def train(self, objective, theta, optimizer, batches):
        layout = objective.layout
        uses = np.repeat([1 + len(layout.tied.get(name, ())) for name in layout.names], layout.sizes)
        if isinstance(optimizer, AdamW):
            optimizer = DecayPerUse(optimizer, uses.astype(theta.dtype))
        return NumpyBackend.train(self, objective, theta, optimizer, batches)


@dataclass(frozen=True)
class DecayPerUse:
    adamw: AdamW
    uses: np.ndarray

    def init(self, theta):
        return self.adamw.init(theta)

    def update(self, state, grad, theta):
        state, delta = self.adamw.update(state, grad, theta)
        return state, delta - self.adamw.lr * self.adamw.weight_decay * (self.uses - 1) * theta


class CountOnBackend(NumpyBackend):
    """The updates of Adam are counted on the backend, and the count is reset when a run ends."""

    def __init__(self):
        object.__setattr__(self, "counts", {})

    def train(self, objective, theta, optimizer, batches):
        yield from super().train(objective, theta, _Counted(optimizer, self.counts), batches)
        self.counts.pop(optimizer, None)


@dataclass(frozen=True)
class _Counted:
    inner: object
    counts: dict

    def init(self, theta):
        return self.inner.init(theta)

    def update(self, state, grad, theta):
        if hasattr(state, "count"):
            state = replace(state, count=self.counts.get(self.inner, 0))
            self.counts[self.inner] = state.count + 1
        return self.inner.update(state, grad, theta)


class MomentsFound(NumpyBackend):
    """The state of an optimizer is kept while a run lasts, and found by one that begins meanwhile."""

    def __init__(self):
        object.__setattr__(self, "states", {})

    def train(self, objective, theta, optimizer, batches):
        key = optimizer, len(theta), theta.dtype
        try:
            yield from super().train(objective, theta, _Found(optimizer, self.states, key), batches)
        finally:
            self.states.pop(key, None)


@dataclass(frozen=True)
class _Found:
    inner: object
    states: dict
    key: tuple

    def init(self, theta):
        self.states.setdefault(self.key, self.inner.init(theta))

    def update(self, state, grad, theta):
        before = self.states[self.key] if self.key in self.states else self.inner.init(theta)
        self.states[self.key], delta = self.inner.update(before, grad, theta)
        return None, delta


class ObjectiveByShape(NumpyBackend):
    """A compiled loss is kept by the network and the shape of the data."""

    def __init__(self):
        object.__setattr__(self, "kept", {})

    def objective(self, network, data, dtype, **options):
        key = id(network), data.x.shape, dtype, *options.items()
        if key not in self.kept:  # the network is kept, so that its id is not used again
            self.kept[key] = network, super().objective(network, data, dtype, **options)
        return self.kept[key][1]


class LastAxisOfNeurons(NumpyBackend):
    """The neurons of a matrix are its columns, as in another framework."""

    def objective(self, network, data, dtype, **options):
        made = super().objective(network, data, dtype, **options)
        own = made.layout
        axes = tuple(len(shape) - 1 for shape in own.shapes)
        object.__setattr__(made, "layout", Layout(own.names, own.shapes, axes, own.tied))
        return made


class SampleShifted(NumpyBackend):
    """``batch(index)`` of the objective gives the neighbours of the examples asked for."""

    def objective(self, network, data, dtype, **options):
        right = super().objective(network, data, dtype, **options)
        return right if isinstance(right, Sum) else _SampleShifted(right)


@dataclass(eq=False)
class _SampleShifted(Passing):
    @property
    def n_examples(self):
        return self.objective.n_examples

    @property
    def weight(self):
        return self.objective.weight

    def batch(self, index, weight=None):
        return self.objective.batch((index + 1) % self.n_examples, weight)


ALONE = "runs_do_not_depend_on_each_other"
PATH, FIELDS = "training_equals_the_reference", "steps_report_what_made_them"
WRONG_TRAINING: dict[str, Wrong] = {
    "ε under the root": Wrong("Adam with ε under the root", PATH, AdamEpsInsideRoot),
    "no bias correction": Wrong("Adam without its bias correction", PATH, AdamUncorrected),
    "default betas": Wrong("β₁ and β₂ not passed on to Adam", PATH, AdamDefaults),
    "decay coupled": Wrong("AdamW as Adam with an L2 penalty", PATH, DecayCoupled),
    "decay dropped": Wrong("the decay of AdamW not passed on", PATH, DecayDropped),
    "not Nesterov": Wrong("nesterov=True not passed on", PATH, NotNesterov),
    "another α": Wrong("RMSProp with the decay rate of another framework", PATH, KerasAlpha),
    "state forgotten": Wrong("an optimizer that begins anew after three updates", PATH, StateForgotten),
    "state kept": Wrong("a second run begins with the optimizer state of the first", PATH, StateKept),
    "penalty not trained": Wrong(
        "training on the data without the penalty", "penalty_counts_what_trains_once", PenaltyNotTrained
    ),
    "penalty per batch": Wrong(
        "the penalty divided among the batches", "penalty_is_a_separate_term", PenaltyPerBatch
    ),
    "gradient after": Wrong("Step.gradient is that of the next update", FIELDS, GradientAfter),
    "batch after": Wrong("Step.batch is that of the next update", FIELDS, BatchAfter),
    "gradient halved": Wrong("Step.gradient after clipping", FIELDS, GradientClipped),
    "one alias": Wrong("start and end of a step are the same memory", PATH, OneAlias),
    "start written": Wrong(
        "training in the vector that was passed", "training_changes_nothing_else", StartWritten
    ),
    "batch written": Wrong(
        "the features of a training batch normalised in place", "training_changes_nothing_else", BatchWritten
    ),
    "measuring moves": Wrong(
        "measuring loads parameters that the next update starts from",
        "measuring_does_not_disturb_training",
        MeasuringMoves,
    ),
    "all at once": Wrong(
        "the run is trained to its end before the first step", "steps_come_one_at_a_time", AllAtOnce
    ),
    "frozen decay": Wrong("weight decay moves frozen tensors", "frozen_parameters_get_zero", FrozenDecay),
    "tied decay twice": Wrong(
        "weight decay of a tied tensor under both names", "tied_parameters_count_once", TiedDecayTwice
    ),
    "count on the backend": Wrong(
        "the updates of Adam counted in one place for all runs", ALONE, CountOnBackend
    ),
    "moments found": Wrong("a run begins with the moments of another that lasts", ALONE, MomentsFound),
    "objective by shape": Wrong(
        "a loss found by the shape of its data", "objectives_are_independent", ObjectiveByShape
    ),
    "last axis of neurons": Wrong(
        "the neurons of a matrix are its columns", "layout_is_the_networks", LastAxisOfNeurons
    ),
    "sample shifted": Wrong(
        "batch() gives other examples than those asked for", "samples_equal_the_reference", SampleShifted
    ),
}
RIGHT_TRAINING = {"aliasing": Aliasing()}
