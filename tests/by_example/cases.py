"""Random networks, steps and examples for the laws of the allocation by example, in every framework."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

import lca
from lca import tolerances
from lca.by_example import ByExample, allocate_by_example
from lca.reference import DatasetLoss, mlp
from tests.laws.subjects import SUBJECTS

EPS = tolerances.EPS64
RULES = (lca.LEFT, lca.TRAPEZOID, lca.SIMPSON, lca.gauss_legendre(4), lca.composite(lca.SIMPSON, 2))
GROUPINGS = ("tensor", "layer", "neuron", lambda name: name.rpartition(".")[2])
NUMPY, PLAIN, TORCH, TENSORFLOW = "numpy", *(subject.name for subject in SUBJECTS)


@dataclass(frozen=True, eq=False)
class Case:
    """A network, its data and one step, all from a seed; with ``ties``, layers may share a tensor."""

    seed: int
    activation: str = "tanh"
    ties: bool = True

    @cached_property
    def rng(self):
        return np.random.default_rng(self.seed)

    @cached_property
    def network(self):
        hidden = self.rng.integers(2, 6, size=self.rng.integers(1, 4))
        hidden = [int(hidden[0])] * len(hidden) if self.seed % 2 else [int(width) for width in hidden]
        plain = mlp((4, *hidden, 3), activation=self.activation)
        can_tie = self.ties and len(hidden) > 2 and self.seed % 2
        tied = {"fc3.weight": "fc2.weight"} if can_tie else {}
        frozen = (plain.layout.names[1],) if self.seed % 3 == 0 else ()
        return type(plain)(plain.layers, plain.loss, (4,), frozen=frozen, tied=tied)

    @cached_property
    def data(self):
        n = int(self.rng.integers(2, 8))
        return self.rng.normal(size=(n, 4)), self.rng.integers(3, size=n)

    @cached_property
    def ends(self):
        start = self.network.init(self.seed)
        end = start + self.rng.choice([1e-6, 1e-2, 0.5]) * self.rng.normal(size=start.shape)
        for name in self.network.frozen:
            tensors = self.network.layout.unflatten
            tensors(end)[name][...] = tensors(start)[name]
        return start, end

    @cached_property
    def loss(self):
        return DatasetLoss(self.network, *self.data)

    @cached_property
    def rule(self):
        return RULES[self.rng.integers(len(RULES))]

    @cached_property
    def groups(self):
        return GROUPINGS[self.rng.integers(len(GROUPINGS))]

    def measured(self, subject):
        """The objective in a framework, and the step in its vectors."""
        if subject == NUMPY:
            return self.loss, lca.Step(*self.ends)
        [made] = [each for each in SUBJECTS if each.name == subject]
        model = made.model(self.network)
        objective = made.objective(model, made.LOSSES["mean"], made.tensors(self.data), batch_size=4)
        return objective, lca.Step(*(made.vector(self.network, end) for end in self.ends))

    def allocation(self, subject, estimator=None, **options):
        """The allocation of the step by example."""
        objective, step = self.measured(subject)
        options.setdefault("groups", self.groups)
        how = ByExample(estimator=estimator or lca.PathIntegral(self.rule), **options)
        [found] = allocate_by_example(objective, [step], how)
        return found

    def alone(self, n, rule):
        """The allocation of one example as the only one of a data set, by its own gradients: (K,), scale."""
        x, y = (each[n : n + 1] for each in self.data)
        start, end = self.ends
        [own] = lca.allocate(
            DatasetLoss(self.network, x, y), [lca.Step(start, end)], lca.PathIntegral(rule), check=False
        )
        # softmax - onehot cancels on confident examples: the outputs' own movement is the scale of rounding.
        outputs = self.network.forward(end, x) - self.network.forward(start, x)
        return own, own.mass + float(np.abs(outputs).max())
