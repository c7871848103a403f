"""What else a loss may read in torch: its own model, its own state, things that cannot be copied."""

# ruff: noqa: E731 - a named lambda keeps a case short

import threading
from functools import cache, lru_cache

import torch
from torch import nn
from torch.nn import functional as F

from lca_torch import Objective
from validation.wild.nets_torch import mlp
from validation.wild.small_torch import supervised, torch_case, vectors


def same_loss(run, model, loss, data=None, *, optimizer=None, also=(), steps=4, **options):
    """A loop in which training and measuring use the same ``loss(model, batch)``."""
    data = vectors() if data is None else data
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 0.02)
    measured = lambda: Objective(model, None, data, batch_loss=loss, **options)
    with run.measuring(model, optimizer, measured, lambda: loss(model, data)):
        for step in range(steps):
            model.train()
            optimizer.zero_grad()
            loss(model, tuple(part[step::3] for part in data)).backward()
            optimizer.step()
    return model, optimizer, *also


@torch_case("auxiliary loss that forward leaves as an attribute of the model")
def _(run):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.net, self.aux = nn.Linear(6, 6), mlp(6, 8, 3), 0.0

        def forward(self, x):
            gate = self.gate(x).sigmoid()
            self.aux = gate.mean()
            return self.net(x * gate)

    loss = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]) + 0.1 * model.aux
    return same_loss(run, Gated(), loss)


@torch_case("loss that reads activations which the user's hook has stored")
def _(run):
    model, stored = mlp(6, 8, 3), {}
    model[0].register_forward_hook(lambda module, inputs, output: stored.update(activation=output))

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1]) + 0.05 * stored["activation"].square().mean()

    return same_loss(run, model, loss)


@torch_case("batch_loss that calls the user's own model instead of its argument")
def _(run):
    model = mlp(6, 8, 3)
    return same_loss(run, model, lambda _, batch: F.cross_entropy(model(batch[0]), batch[1]))


@torch_case("bound method of the model as the loss")
def _(run):
    class WithLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scale = mlp(6, 8, 3), nn.Parameter(torch.tensor(1.5))

        def forward(self, x):
            return self.net(x)

        def criterion(self, out, y):
            return F.cross_entropy(self.scale * out, y)

    model = WithLoss()
    return supervised(run, model, loss_fn=model.criterion)


@torch_case("numbers and a mask of weights that functions under lru_cache have computed once")
def _(run):
    @lru_cache
    def norm(module):
        return float(module.weight.detach().norm())

    @cache
    def mask(weight):
        return (weight.detach().abs() > 0.1).to(weight.dtype)

    def loss(model, batch):
        penalty = (mask(model[0].weight) * model[0].weight.square()).sum() / norm(model[2])
        return F.cross_entropy(model(batch[0]), batch[1]) + 0.01 * penalty

    return same_loss(run, mlp(6, 8, 3), loss)


@torch_case("penalty of the parameters whose hash is in a set")
def _(run):
    model = mlp(6, 8, 3)
    chosen = {hash(p) for p in model.parameters() if p.ndim == 2}

    def loss(model, batch):
        penalty = sum(p.square().sum() for p in model.parameters() if hash(p) in chosen)
        return F.cross_entropy(model(batch[0]), batch[1]) + 0.01 * penalty

    return same_loss(run, model, loss)


@torch_case("loss module that shares a layer with the model")
def _(run):
    class Sampled(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head = head

        def forward(self, z, y):
            return F.cross_entropy(self.head(z), y)

    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = mlp(6, 8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.body(x)

    model = Body()
    return supervised(run, model, loss_fn=Sampled(model.head))


@torch_case("center loss: centres in a buffer of the loss module, moved by training")
def _(run):
    class Center(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("centers", torch.zeros(3, 3))

        def forward(self, out, y):
            if out.requires_grad and self.training:
                with torch.no_grad():
                    for label in y.unique():
                        self.centers[label].lerp_(out[y == label].mean(0), 0.3)
            return F.cross_entropy(out, y) + 0.1 * (out - self.centers[y]).square().mean()

    loss, model, (x, y) = Center(), mlp(6, 8, 3), vectors()

    def truth():
        loss.eval()
        return loss(model(x), y)

    class Measured(nn.Module):
        """The user measures with the loss module in evaluation mode, on the same centres."""

        def forward(self, out, y):
            return F.cross_entropy(out, y) + 0.1 * (out - loss.centers[y]).square().mean()

    measured = lambda: Objective(model, Measured(), (x, y))
    return supervised(run, model, (x, y), loss, truth=truth, measured=measured, also=[loss])


@torch_case("loss module that keeps a running mean as a Python float")
def _(run):
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = 1.0

        def forward(self, out, y):
            value = F.cross_entropy(out, y)
            self.mean = 0.9 * self.mean + 0.1 * float(value.detach())
            return value / self.mean

    loss = Normalised()
    return supervised(run, mlp(6, 8, 3), loss_fn=loss, also=[loss])


@torch_case("loss with noise from a generator that is seeded at every call")
def _(run):
    def loss(model, batch):
        noise = torch.randn(6, generator=torch.Generator().manual_seed(1))
        return F.cross_entropy(model(batch[0] + 0.1 * noise), batch[1])

    return same_loss(run, mlp(6, 8, 3), loss)


@torch_case("loss with noise from a generator of its own that goes on")
def _(run):
    generator = torch.Generator().manual_seed(1)

    def loss(model, batch):
        return F.cross_entropy(model(batch[0] + 0.1 * torch.randn(6, generator=generator)), batch[1])

    return same_loss(run, mlp(6, 8, 3), loss, also=[generator])


@torch_case("model that cannot be copied (a lock)")
def _(run):
    class Locked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.lock = mlp(6, 8, 3), threading.Lock()

        def forward(self, x):
            with self.lock:
                return self.net(x)

    return supervised(run, Locked())


@torch_case("parameters in a plain list, given to the optimizer")
def _(run):
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(6, 8, 3)
            self.scales = [nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.1))]

        def forward(self, x):
            return self.scales[0] * self.net(x) + self.scales[1]

    model = Listed()
    optimizer = torch.optim.Adam([*model.parameters(), *model.scales], 0.05)
    return supervised(run, model, optimizer=optimizer)


@torch_case("fake quantisation whose observers also watch in evaluation")
def _(run):
    model = nn.Sequential(nn.Linear(6, 8), torch.ao.quantization.FakeQuantize(), nn.Linear(8, 3))
    return supervised(run, model)


@torch_case("activation normalisation initialised by the first batch (Glow)")
def _(run):
    class ActNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
            self.ready = False

        def forward(self, x):
            if not self.ready:
                with torch.no_grad():
                    self.scale.copy_(1 / (x.std(0) + 1e-6))
                    self.shift.copy_(-x.mean(0))
                self.ready = True
            return (x + self.shift) * self.scale

    return supervised(run, nn.Sequential(nn.Linear(6, 8), ActNorm(), nn.Tanh(), nn.Linear(8, 3)))


@torch_case("memory bank of past features (MoCo queue, float buffer and pointer)")
def _(run):
    class Queue(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(6, 8, 4)
            self.register_buffer("queue", F.normalize(torch.randn(12, 4), dim=1))
            self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

        def forward(self, x):
            z = F.normalize(self.net(x), dim=1)
            scores = torch.cat([(z * z.detach()).sum(1, keepdim=True), z @ self.queue.clone().T], 1) / 0.3
            if self.training:
                with torch.no_grad():
                    rows = (self.pointer + torch.arange(len(z))) % 12
                    self.queue[rows] = z.detach()
                    self.pointer.copy_((self.pointer + len(z)) % 12)
            return scores

    x, _ = vectors()
    return supervised(run, Queue(), (x, torch.zeros(24, dtype=torch.long)))


@torch_case("reservoir computing: a fixed random recurrent layer that is no parameter")
def _(run):
    class Reservoir(nn.Module):
        def __init__(self):
            super().__init__()
            self.inward, self.inner = torch.randn(4, 9) * 0.5, torch.randn(9, 9) * 0.2
            self.head = nn.Linear(9, 3)

        def forward(self, x):
            h = torch.zeros(len(x), 9)
            for step in x.unbind(1):
                h = torch.tanh(step @ self.inward + h @ self.inner)
            return self.head(h)

    return supervised(run, Reservoir(), (torch.randn(24, 5, 4), torch.randint(3, (24,))))


@torch_case("curriculum: the loss drops the hardest examples by a schedule")
def _(run):
    """The number kept is a Python attribute of the loss, and the loss no mean over examples."""

    class Trimmed(nn.Module):
        kept = 0.5

        def forward(self, out, y):
            each = F.cross_entropy(out, y, reduction="none")
            return each.topk(max(1, int(self.kept * len(each))), largest=False).values.mean()

    loss, (x, y) = Trimmed(), vectors()
    model = mlp(6, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    measured = lambda: Objective(model, loss, (x, y), batch_size=24)
    with run.measuring(model, optimizer, measured, lambda: loss(model(x), y)):
        for step in range(4):
            optimizer.zero_grad()
            loss(model(x[step::3]), y[step::3]).backward()
            optimizer.step()
            loss.kept += 0.1
    return model, optimizer, loss


@torch_case("attention mask kept in a cache by length")
def _(run):
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.head, self.masks = nn.Linear(4, 12), nn.Linear(4, 3), {}

        def forward(self, x):
            n = x.shape[1]
            if n not in self.masks:
                self.masks[n] = torch.full((n, n), float("-inf")).triu(1)
            q, k, v = self.qkv(x).chunk(3, -1)
            z = (q @ k.transpose(1, 2) / 2 + self.masks[n]).softmax(-1) @ v
            return self.head(z[:, -1])

    return supervised(run, Cached(), (torch.randn(24, 5, 4), torch.randint(3, (24,))))
