"""Functions that keep their results (`functools.lru_cache`): a loss gets from them what training gets."""

from functools import cache, lru_cache

import pytest
import torch
from torch import nn

from lca.errors import LCAError
from lca_torch import Objective
from tests.lca_torch.test_identities import ACCURACY, X, Y, measured, network, plain


def norm(module):
    return float(module.weight.detach().norm())


class Scaled(nn.Module):
    """Scaled by numbers that are computed once, from weights as they are then."""

    def __init__(self):
        super().__init__()
        self.net = network()

    @lru_cache  # noqa: B019 - what people write
    def by_method(self):
        return norm(self.net[0])

    @property
    @cache  # noqa: B019
    def by_property(self):
        return norm(self.net[2])

    @staticmethod
    @cache
    def static(module):
        return 1 / norm(module)

    @classmethod
    @cache
    def of_class(cls, module):
        return 1 / norm(module)

    def forward(self, x):
        return self.net(x) * (self.by_method() + self.by_property) * self.static(self.net[0])


def scaled():
    return Scaled(), lambda model, batch: plain(model, batch) * model.of_class(model.net[2])


def by_module():
    scale = lru_cache(norm)
    return network(), lambda model, batch: plain(model, batch) * scale(model[0])


def masked():
    @cache
    def mask(weight):
        return (weight.detach().abs() > 0.2).double()

    def loss(model, batch):
        return plain(model, batch) + (mask(model[0].weight) * model[0].weight.square()).sum()

    return network(), loss


def by_number():
    @cache
    def positions(n):
        return torch.arange(n, dtype=torch.float64)

    return network(), lambda model, batch: plain(model, batch) * positions(batch[0].shape[1]).mean()


@pytest.mark.parametrize("make", [scaled, by_module, masked, by_number])
@pytest.mark.parametrize("called", [False, True], ids=["new", "called before"])
def test_what_is_kept_is_what_training_uses(make, called):
    model, loss = make()
    if called:
        loss(model, (X, Y))
    summary, truth = measured(model, loss, lambda t: None)
    for name, total in summary["per_tensor"].items():
        assert abs(total - truth[name]) <= ACCURACY * summary["mass"], name
    assert abs(summary["residual"]) <= ACCURACY * summary["mass"]
    assert summary["state_change"] == 0


def test_drawing_once_is_refused_and_leaves_the_draw_to_training():
    @cache
    def projection():
        return torch.randn(4, 3, dtype=torch.float64)

    def loss(model, batch):
        return (model(batch[0]) - batch[0] @ projection()).square().mean()

    before = torch.get_rng_state()
    with pytest.raises(LCAError, match=r"projection, .* draws random numbers.* call it once"):
        Objective(network(), None, (X, Y), batch_loss=loss)
    assert projection.cache_info().currsize == 0
    torch.set_rng_state(before)
    projection()
    Objective(network(), None, (X, Y), batch_loss=loss)


def of_an_output():
    @cache
    def mean(outputs):
        return outputs.detach().mean()

    return network(), lambda model, batch: plain(model, batch) * (1 + mean(model(batch[0])) ** 2)


def computed_with_gradient():
    model = network()

    @cache
    def total():
        return model[0].weight.sum()

    return model, lambda model, batch: plain(model, batch) + total()


def forgotten():
    scale = lru_cache(maxsize=1)(norm)
    return network(), lambda model, batch: plain(model, batch) * scale(model[0]) * scale(model[2])


def gives_a_module_in_training_mode():
    teacher = cache(lambda: nn.BatchNorm1d(4).double().requires_grad_(False))
    teacher()
    return network(), lambda model, batch: plain(model, batch) * (1 + teacher()(batch[0]).mean())


def test_what_is_kept_is_the_same_object_as_elsewhere_and_is_not_written():
    sentinel = object()
    kept = cache(lambda: {"calls": 0, "what": sentinel})
    kept()
    model = network()

    def loss(model, batch):
        kept()["calls"] += 1
        return plain(model, batch) * (2 if kept()["what"] is sentinel else 1)

    objective = Objective(model, None, (X, Y), batch_loss=loss)
    measured = objective.loss(objective.theta())
    assert kept()["calls"] == 0
    assert measured == float(loss(model, (X, Y)).detach())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (of_an_output, "mean, which .* passes it a tensor that is neither a parameter"),
        (computed_with_gradient, "total, which .* would not move with theta"),
        (gives_a_module_in_training_mode, "module in training mode, whose buffers"),
        (forgotten, r"norm, which .* no room .* lru_cache\(maxsize=None\)"),
    ],
)
def test_what_is_kept_for_another_theta_is_refused(make, reason):
    model, loss = make()
    with pytest.raises(LCAError, match=reason):
        Objective(model, None, (X, Y), batch_loss=loss)
