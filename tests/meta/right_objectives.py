"""Correct but unusual objectives, which every check must accept with what their author declares."""

import importlib.util
from functools import cache

import numpy as np
from scipy import optimize, special

from lca import Layout, Scaled
from lca.objective import Objective
from lca.reference._models import DatasetLoss, Quartic, logistic_regression, mlp
from lca.testing._objective_subject import ObjectiveSubject
from tests.meta.animals import Passing
from tests.meta.zoo_arrays import Reals

_rng = np.random.default_rng(3)
X = _rng.normal(size=(40, 4))
SIGNS = np.where(X[:, 0] + _rng.normal(size=40) > 0, 1.0, -1.0)
RESPONSE = X @ [0.5, -1.0, 0.0, 0.2] + 0.3 * _rng.normal(size=40)


class PenalisedLogistic:
    """Logistic loss with ±1 targets and an intercept that is not penalised, as scikit-learn minimises it."""

    layout = Layout(("coef_", "intercept_"), ((1, 4), (1,)))
    regularization = 0.1

    def loss(self, theta, batch=None):
        return self.loss_and_grad(theta, batch)[0]

    def loss_and_grad(self, theta, batch=None):
        self.layout.check(theta, "theta")
        x, signs = (X, SIGNS) if batch is None else batch
        wide = np.asarray(theta, np.float64)
        margin = signs * (x @ wide[:4] + wide[4])
        loss = -special.log_expit(margin).mean() + 0.5 * self.regularization * wide[:4] @ wide[:4]
        slope = -signs * special.expit(-margin) / len(x)
        grad = np.append(x.T @ slope + self.regularization * wide[:4], slope.sum())
        return float(loss), grad.astype(theta.dtype)


class GaussianLikelihood:
    """The negative log-likelihood of a linear model with unknown σ > 0, without a batch argument."""

    layout = Layout(("beta", "sigma"), ((4,), ()))

    def loss(self, theta):
        self.layout.check(theta, "theta")
        wide = theta.astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = (RESPONSE - X @ wide[:4]) / wide[4]
            return float((gap**2).mean() / 2 + np.log(wide[4]) + np.log(2 * np.pi) / 2)

    def loss_and_grad(self, theta):
        loss, wide = self.loss(theta), theta.astype(np.float64)
        gap = (RESPONSE - X @ wide[:4]) / wide[4]
        grad = np.append(-X.T @ gap / len(X), 1 - (gap**2).mean()) / wide[4]
        return loss, grad.astype(theta.dtype)


class LogisticGrowth:
    """Squared error of a growth curve ``y' = a y - b y²``, integrated by RK4 with its sensitivities."""

    layout = Layout(("a", "b"), ((), ()))
    steps, h = 30, 0.1
    data = 1 / (0.2 + 0.8 * np.exp(-np.arange(1, 31) * 0.1))

    def loss(self, theta, batch=None):
        return self.loss_and_grad(theta, batch)[0]

    def loss_and_grad(self, theta, batch=None):
        self.layout.check(theta, "theta")
        a, b = theta.astype(np.float64)

        def field(u):  # y, ∂y/∂a, ∂y/∂b
            y, slope = u[0], a - 2 * b * u[0]
            return np.array([a * y - b * y * y, slope * u[1] + y, slope * u[2] - y * y])

        u, loss, grad = np.array([0.5, 0.0, 0.0]), 0.0, np.zeros(2)
        for y in self.data:
            k1 = field(u)
            k2 = field(u + self.h / 2 * k1)
            k3 = field(u + self.h / 2 * k2)
            u = u + self.h / 6 * (k1 + 2 * k2 + 2 * k3 + field(u + self.h * k3))
            loss, grad = loss + (u[0] - y) ** 2 / 2, grad + (u[0] - y) * u[1:]
        return float(loss), grad.astype(theta.dtype)


class Rosenbrock:
    """SciPy's test function and its derivative, without a batch argument."""

    layout = Layout(("x",), ((5,),))

    def loss(self, theta):
        self.layout.check(theta, "theta")
        return float(optimize.rosen(theta.astype(np.float64)))

    def loss_and_grad(self, theta):
        return self.loss(theta), optimize.rosen_der(theta.astype(np.float64)).astype(theta.dtype)


class Wave:
    """``cos(1000 θ)``: K = 1, and stiff."""

    layout = Layout(("w",), ((),))

    def loss(self, theta, batch=None):
        self.layout.check(theta, "theta")
        return float(np.cos(1000 * theta.astype(np.float64)).sum())

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta), (-1000 * np.sin(1000 * theta.astype(np.float64))).astype(theta.dtype)


class Barrier:
    """``Σ θ - log θ``: defined for θ > 0 only, with several tensors in no order of names."""

    layout = Layout(("z.scale", "a", "m.scale"), ((2, 1, 2), (), (1, 1, 1, 1, 2)))

    def loss(self, theta):
        self.layout.check(theta, "theta")
        wide = theta.astype(np.float64)
        if (wide <= 0).any():
            raise ValueError("logarithm of a number that is not positive")
        return float((wide - np.log(wide)).sum())

    def loss_and_grad(self, theta):
        return self.loss(theta), 1 - 1 / theta


class Elementwise:
    """``Σ f(θ_i)`` for a function of numbers and its derivative."""

    layout = Layout(("theta",), ((3,),))

    def __init__(self, function, derivative):
        self.function, self.derivative = function, derivative

    def loss(self, theta, batch=None):
        self.layout.check(theta, "theta")
        return float(self.function(theta.astype(np.float64)).sum())

    def loss_and_grad(self, theta, batch=None):
        with np.errstate(over="ignore"):  # in float32
            return self.loss(theta), self.derivative(theta.astype(np.float64)).astype(theta.dtype)


_many = np.random.default_rng(4)
MANY = [(_many.normal(size=(n, 4)).astype(np.float32), np.sign(_many.normal(size=n))) for n in (1, 30_000)]


class ManyExamples(PenalisedLogistic):
    """The same over 30,001 examples of pure chance, whose gradients cancel."""

    def loss_and_grad(self, theta, batch=None):
        whole = tuple(np.concatenate(parts) for parts in zip(*MANY, strict=True))
        return super().loss_and_grad(theta, whole if batch is None else batch)


def elementwise(function, derivative, **declared):
    return ObjectiveSubject(lambda: Elementwise(function, derivative), **declared)


def _exp(theta):
    return np.exp(np.minimum(50 * theta, 700))


class Large:
    """``Σ log cosh θ_i / K`` for many parameters in many tensors."""

    def __init__(self, size):
        self.layout = Layout(("embedding.weight", "bias"), ((size - 7, 1), (7,)))

    def loss(self, theta, batch=None):
        self.layout.check(theta, "theta")
        return float(np.logaddexp(theta, -theta).mean(dtype=np.float64) - np.log(2))

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta), np.tanh(theta) / theta.dtype.type(len(theta))


class OwnArrays:
    """``Σ θ⁴`` on an array class that is immutable and has no base class."""

    layout = Layout(("w",), ((3,),))

    def loss(self, theta, batch=None):
        self.layout.check(theta, "theta")
        return float((theta.numbers.astype(np.float64) ** 4).sum())

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta), Reals(4 * theta.numbers**3)


class Offset(Passing):
    """A loss with a constant that is large and negative."""

    def loss(self, theta, batch=None):
        return super().loss(theta, batch) - 1e6

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss - 1e6, grad


class OnlyFloat32:
    """Converts θ to float32 and refuses what is not."""

    layout = Layout(("w",), ((6,),))

    def loss(self, theta, batch=None):
        return self.loss_and_grad(theta, batch)[0]

    def loss_and_grad(self, theta, batch=None):
        self.layout.check(theta, "theta")
        if theta.dtype != np.float32:
            raise TypeError(f"float32 only, got {theta.dtype}")
        return float(np.cosh(theta).sum(dtype=np.float64)), np.sinh(theta)


class ThroughJax:
    """A JAX function on NumPy vectors; its gradients are read-only until they are copied."""

    layout = Layout(("w", "b"), ((4,), ()))

    def loss(self, theta, batch=None):
        return self.loss_and_grad(theta, batch)[0]

    def loss_and_grad(self, theta, batch=None):
        self.layout.check(theta, "theta")
        loss, grad = _jax_function()(theta)
        return float(loss), np.array(grad)


@cache
def _jax_function():
    import jax  # noqa: PLC0415 - optional, and slow to import
    import jax.numpy as jnp  # noqa: PLC0415

    def mean_loss(theta):
        margin = SIGNS.astype(theta.dtype) * (X.astype(theta.dtype) @ theta[:4] + theta[4])
        return jnp.logaddexp(0.0, -margin).mean()

    compiled = jax.jit(jax.value_and_grad(mean_loss))

    def in_double(theta):
        before = jax.config.jax_enable_x64
        jax.config.update("jax_enable_x64", True)
        try:
            return compiled(theta)
        finally:
            jax.config.update("jax_enable_x64", before)

    return in_double


def in_one_chunk(n):
    """A classifier of n examples in one chunk, whose gradients cancel: labels that are pure chance."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 6)), rng.integers(3, size=n)
    return lambda: DatasetLoss(logistic_regression(6, 3), x, y, batch_size=n)


def _positive(size):
    return lambda rng: np.append(rng.normal(size=size - 1), rng.uniform(0.5, 2.0))


def _pairs():
    cuts = [slice(0, 15), slice(15, 40)]
    return [(15 if cut.start == 0 else 25, (X[cut], SIGNS[cut])) for cut in cuts]


def _tanh():
    return DatasetLoss(mlp((4, 3, 2), activation="tanh"), X, (SIGNS > 0).astype(int), batch_size=16)


UNUSUAL_OBJECTIVES: dict[str, ObjectiveSubject] = {
    "scikit-learn's logistic loss": ObjectiveSubject(PenalisedLogistic, batches=_pairs()),
    "statsmodels' likelihood": ObjectiveSubject(GaussianLikelihood, points=_positive(5)),
    "ODE fit": ObjectiveSubject(LogisticGrowth, points=lambda rng: rng.uniform(0.2, 1.5, size=2)),
    "Rosenbrock": ObjectiveSubject(Rosenbrock),
    "stiff wave": ObjectiveSubject(Wave),
    "barrier": ObjectiveSubject(Barrier, points=lambda rng: rng.uniform(0.5, 3.0, size=7)),
    "30,000 parameters": ObjectiveSubject(lambda: Large(30_000)),
    "own array class": ObjectiveSubject(OwnArrays, Reals),
    "offset by -1e6": ObjectiveSubject(lambda: Offset(_tanh())),
    "scaled by 1e12": ObjectiveSubject(lambda: Scaled(_tanh(), 1e12)),
    "scaled by 1e-12": ObjectiveSubject(lambda: Scaled(Quartic([1.0, 2.0, 0.5]), 1e-12)),
    "float32 alone": ObjectiveSubject(OnlyFloat32, dtypes=("float32",)),
    "one chunk of 10,000": ObjectiveSubject(in_one_chunk(10_000), scale=0.05),
    "batches of 1 and 30,000": ObjectiveSubject(
        ManyExamples, batches=[(len(signs), (x, signs)) for x, signs in MANY]
    ),
    "steep exponential": elementwise(_exp, lambda theta: 50 * _exp(theta)),
    "constant": elementwise(lambda theta: 0 * theta + 2.5, lambda theta: 0 * theta),
    "small parameters": elementwise(
        lambda theta: np.cos(1e6 * theta), lambda theta: -1e6 * np.sin(1e6 * theta), scale=1e-6
    ),
    "large parameters": elementwise(
        lambda theta: np.log1p(theta**2), lambda theta: 2 * theta / (1 + theta**2), scale=1e6
    ),
}
if importlib.util.find_spec("jax"):
    UNUSUAL_OBJECTIVES["JAX behind NumPy"] = ObjectiveSubject(ThroughJax)
for _subject in UNUSUAL_OBJECTIVES.values():
    assert isinstance(_subject.make(), Objective)
