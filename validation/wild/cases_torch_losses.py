"""Losses in torch: what they read besides the model, and what they are a mean of."""

# ruff: noqa: E731 - a named lambda keeps a case short

import torch
from torch import nn
from torch.nn import functional as F

import lca
from lca_torch import Objective, Penalty
from validation.wild import nets_torch as nets
from validation.wild.nets_torch import mlp
from validation.wild.small_torch import images, supervised, tokens, torch_case, vectors


@torch_case("cross-entropy with label smoothing")
def _(run):
    return supervised(run, mlp(6, 8, 3), loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1))


@torch_case("class-weighted cross-entropy")
def _(run):
    return supervised(run, mlp(6, 8, 3), loss_fn=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2])))


CLASS_WEIGHT = torch.tensor([1.0, 5.0, 0.2])


@torch_case("class-weighted cross-entropy with batch_weight")
def _(run):
    loss, weight = nn.CrossEntropyLoss(weight=CLASS_WEIGHT), lambda batch: float(CLASS_WEIGHT[batch[1]].sum())
    return supervised(run, mlp(6, 8, 3), loss_fn=loss, batch_weight=weight, batch_size=7)


@torch_case("class-weighted cross-entropy in small measuring batches")
def _(run):
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]))
    data = vectors(1500)
    return supervised(run, mlp(6, 8, 3), data, loss, batch=200)


@torch_case("cross-entropy with ignore_index")
def _(run):
    x, y = vectors(1500)
    y[torch.rand(1500) < 0.4] = -100
    return supervised(run, mlp(6, 8, 3), (x, y), batch=200)


@torch_case("language model with padding, mean over tokens")
def _(run):
    x = tokens(1100, 6)
    x[900:, 2:] = 0  # short rows at the end: a measuring batch of 1,000 and one of 100 weigh differently
    target = x.masked_fill(x == 0, -100)
    loss = lambda out, target: F.cross_entropy(out[:, :-1].transpose(1, 2), target[:, 1:])
    return supervised(run, nets.LanguageModel(), (x, target), loss, lr=0.02, batch=64, steps=3)


@torch_case("language model with padding and batch_weight")
def _(run):
    x = tokens(32, 6)
    x[torch.arange(6) >= torch.randint(2, 7, (32, 1))] = 0
    target = x.masked_fill(x == 0, -100)
    loss = lambda out, target: F.cross_entropy(out[:, :-1].transpose(1, 2), target[:, 1:])
    weight = lambda batch: float((batch[1][:, 1:] != -100).sum())
    return supervised(
        run, nets.LanguageModel(), (x, target), loss, lr=0.02, batch_weight=weight, batch_size=8
    )


@torch_case("InfoNCE of two views")
def _(run):
    """The loss of a batch compares its examples, so 1,500 of them are not 1,000 and 500."""
    x, _ = vectors(1500)
    return supervised(run, mlp(6, 8, 4), (x, x + 0.1 * torch.randn_like(x)), _info_nce(), batch=100, steps=3)


@torch_case("InfoNCE with a stated batch size")
def _(run):
    x, _ = vectors(32)
    return supervised(
        run, mlp(6, 8, 4), (x, x + 0.1 * torch.randn_like(x)), _info_nce(), batch=8, batch_size=32
    )


def _info_nce():
    def loss(z, other):
        z, other = F.normalize(z, dim=1), F.normalize(other[:, :4], dim=1)
        return F.cross_entropy(z @ other.T / 0.2, torch.arange(len(z)))

    return loss


@torch_case("triplet loss of a siamese network")
def _(run):
    model, x = mlp(6, 8, 4), torch.randn(24, 3, 6)
    triplet = lambda z, _: F.triplet_margin_loss(z[:, 0], z[:, 1], z[:, 2])
    return supervised(run, model, (x, torch.zeros(24)), triplet)


@torch_case("CTC loss")
def _(run):
    class Speech(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 5)

        def forward(self, x):
            return self.head(self.rnn(x)[0]).log_softmax(2)

    def ctc(out, y):
        n, length, _ = out.shape
        return F.ctc_loss(out.transpose(0, 1), y, torch.full((n,), length), torch.full((n,), 3))

    return supervised(run, Speech(), (torch.randn(16, 8, 4), torch.randint(1, 5, (16, 3))), ctc)


@torch_case("time-major RNN (T, N, F) with targets (N,)")
def _(run):
    return _time_major(run)


@torch_case("time-major RNN with a batch_loss")
def _(run):
    return _time_major(run, batch_first=True)


def _time_major(run, *, batch_first=False):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0][-1])

    model, x, y = Model(), torch.randn(5, 24, 4), torch.randint(3, (24,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loader = [(x[:, i : i + 7], y[i : i + 7]) for i in range(0, 24, 7)]

    def measured():
        if not batch_first:
            return Objective(model, F.cross_entropy, loader)
        return Objective(
            model, None, (x.transpose(0, 1), y),
            batch_loss=lambda model, batch: F.cross_entropy(model(batch[0].transpose(0, 1)), batch[1]),
        )  # fmt: skip

    with run.measuring(model, optimizer, measured, lambda: F.cross_entropy(model(x), y)):
        for inputs, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model, optimizer


@torch_case("graph batches: nodes, edges, a mean over nodes")
def _(run):
    layer = nn.Linear(4, 3)
    model = nn.ModuleDict({"layer": layer})
    graphs = [(torch.randn(n, 4), torch.rand(n, n).round(), torch.randint(3, (n,))) for n in (5, 3, 8, 4)]

    def loss(model, graph):
        nodes, edges, labels = graph
        return F.cross_entropy(model["layer"](edges @ nodes / len(nodes)), labels)

    nodes = lambda graph: float(len(graph[0]))
    truth = lambda: sum(nodes(g) * loss(model, g) for g in graphs) / sum(map(nodes, graphs))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    measured = lambda: Objective(model, None, graphs, batch_loss=loss, batch_weight=nodes)
    with run.measuring(model, optimizer, measured, truth):
        for graph in graphs:
            optimizer.zero_grad()
            loss(model, graph).backward()
            optimizer.step()
    return model, optimizer


@torch_case("multi-task dictionary of outputs and targets")
def _(run):
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

        def forward(self, x):
            z = torch.tanh(self.body(x))
            return {"class": self.a(z), "value": self.b(z)[:, 0]}

    model, (x, y) = TwoHeads(), vectors()
    batch = {"x": x, "class": y, "value": torch.randn(24)}
    optimizer = torch.optim.Adam(model.parameters(), 0.02)

    def loss(model, batch):
        out = model(batch["x"])
        return F.cross_entropy(out["class"], batch["class"]) + F.mse_loss(out["value"], batch["value"])

    measured = lambda: Objective(model, None, batch, batch_loss=loss)
    with run.measuring(model, optimizer, measured, lambda: loss(model, batch)):
        for i in range(0, 24, 6):
            optimizer.zero_grad()
            loss(model, {key: value[i : i + 6] for key, value in batch.items()}).backward()
            optimizer.step()
    return model, optimizer


@torch_case("loss with a penalty, as a Sum of terms")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    ridge = lambda: 0.01 * sum(p.square().sum() for p in model.parameters())

    def measured():
        penalty = Penalty(model, lambda tensors: 0.01 * sum(t.square().sum() for t in tensors.values()))
        return lca.Sum({"data": Objective(model, F.cross_entropy, (x, y)), "penalty": penalty})

    loss = lambda out, target: F.cross_entropy(out, target) + ridge()
    return supervised(run, model, (x, y), loss, measured=measured)


@torch_case("penalty that reads the model inside the loss")
def _(run):
    model = mlp(6, 8, 3)
    loss = lambda out, y: F.cross_entropy(out, y) + 0.01 * model[0].weight.abs().sum()
    return supervised(run, model, loss_fn=loss)


@torch_case("terms by class")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    return supervised(
        run, model, (x, y), measured=lambda: Objective(model, F.cross_entropy, (x, y)).by_class()
    )


@torch_case("by class of a class-weighted loss")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    loss = nn.CrossEntropyLoss(weight=CLASS_WEIGHT)
    return supervised(run, model, (x, y), loss, measured=lambda: Objective(model, loss, (x, y)).by_class())


# --- what the loss reads besides the model ----------------------------------------------------------------


class Temperature(nn.Module):
    """Cross-entropy with a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.log_t = nn.Parameter(torch.tensor(0.3))

    def forward(self, out, y):
        return F.cross_entropy(out / self.log_t.exp(), y)


@torch_case("loss module with a learned temperature")
def _(run):
    model, loss = mlp(6, 8, 3), Temperature()
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], 0.03)
    return supervised(run, model, loss_fn=loss, optimizer=optimizer, also=[loss])


@torch_case("uncertainty weights of two tasks outside the model")
def _(run):
    model, weights = mlp(6, 8, 4), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*model.parameters(), weights], 0.03)
    x, y = vectors()

    def loss(out, y):
        tasks = torch.stack([F.cross_entropy(out[:, :3], y), out[:, 3].square().mean()])
        return ((-weights).exp() * tasks + weights).sum()

    return supervised(run, model, (x, y), loss, optimizer=optimizer, also=[weights])


@torch_case("encoder outside the model, trained along")
def _(run):
    encoder, model, (x, y) = mlp(6, 5), mlp(5, 8, 3), vectors()
    optimizer = torch.optim.Adam([*model.parameters(), *encoder.parameters()], 0.02)
    loss = lambda model, batch: F.cross_entropy(model(encoder(batch[0])), batch[1])
    measured = lambda: Objective(model, None, (x, y), batch_loss=loss)
    with run.measuring(model, optimizer, measured, lambda: loss(model, (x, y))):
        for i in range(0, 24, 6):
            optimizer.zero_grad()
            loss(model, (x[i : i + 6], y[i : i + 6])).backward()
            optimizer.step()
    return model, optimizer, encoder


@torch_case("distillation from a fixed teacher")
def _(run):
    teacher, model, (x, y) = mlp(6, 8, 3).eval(), mlp(6, 4, 3), vectors()
    targets = lambda x: teacher(x).softmax(1).detach()
    loss = lambda model, batch: F.cross_entropy(model(batch[0]), targets(batch[0]))
    return _batch_loss(run, model, loss, (x, y), also=[teacher])


@torch_case("mean teacher: an EMA of the student as the target")
def _(run):
    model, teacher, (x, y) = mlp(6, 8, 3), mlp(6, 8, 3), vectors()

    def loss(model, batch):
        out = model(batch[0])
        return F.mse_loss(out, teacher(batch[0]).detach()) + F.cross_entropy(out, batch[1])

    def follow():
        with torch.no_grad():
            for mine, its in zip(teacher.parameters(), model.parameters(), strict=True):
                mine.lerp_(its, 0.3)

    return _batch_loss(run, model, loss, (x, y), also=[teacher], after=follow)


def _batch_loss(run, model, loss, data, *, optimizer=None, after=lambda: None, also=(), n=24, **options):
    """A loop in which training and measuring use the same ``loss(model, batch)``."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 0.02)
    measured = lambda: Objective(model, None, data, batch_loss=loss, **options)
    with run.measuring(model, optimizer, measured, lambda: loss(model, data)):
        for _ in range(4):
            model.train()
            index = torch.randperm(n)[:8]
            run.note(index)
            optimizer.zero_grad()
            loss(model, tuple(part[index] for part in data)).backward()
            optimizer.step()
            after()
    return model, optimizer, *also


def _elbo(beta):
    """The loss of a VAE whose β is asked for at every call."""

    def loss(model, batch):
        out, kl = model(batch[0])
        return F.mse_loss(out, batch[0]) + beta() * kl

    return loss


@torch_case("VAE, β an attribute of the model that a schedule raises")
def _(run):
    model, x = nets.VAE(), torch.randn(24, 6)

    def anneal():
        model.beta += 0.1

    return _batch_loss(run, model, _elbo(lambda: model.beta), (x,), after=anneal)


@torch_case("VAE, β in a closure")
def _(run):
    model, x, schedule = nets.VAE(), torch.randn(24, 6), {"beta": 0.1}

    def anneal():
        schedule["beta"] += 0.1

    return _batch_loss(run, model, _elbo(lambda: schedule["beta"]), (x,), after=anneal)


BETA = 0.1


@torch_case("VAE, β a global variable")
def _(run):
    global BETA  # noqa: PLW0603 - that is the case
    BETA, model, x = 0.1, nets.VAE(), torch.randn(24, 6)

    def anneal():
        global BETA  # noqa: PLW0603
        BETA += 0.1

    return _batch_loss(run, model, _elbo(lambda: BETA), (x,), after=anneal)


@torch_case("VAE, β a tensor in the closure, changed in place")
def _(run):
    model, x, beta = nets.VAE(), torch.randn(24, 6), torch.tensor(0.1)
    return _batch_loss(run, model, _elbo(lambda: beta), (x,), after=lambda: beta.add_(0.1), also=[beta])


@torch_case("VAE, β raised every step before the update")
def _(run):
    """β moves between the backward pass and the end of the step, not between two steps."""
    model, x, schedule = nets.VAE(), torch.randn(24, 6), {"beta": 0.1}
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    loss = _elbo(lambda: schedule["beta"])
    measured = lambda: Objective(model, None, (x,), batch_loss=loss)
    with run.measuring(model, optimizer, measured, lambda: loss(model, (x,))):
        for _ in range(4):
            schedule["beta"] += 0.1
            optimizer.zero_grad()
            loss(model, (x[:8],)).backward()
            optimizer.step()
    return model, optimizer


@torch_case("VQ-VAE with an EMA codebook (float buffer)")
def _(run):
    x = torch.randn(24, 6)

    def loss(model, batch):
        out, commitment = model(batch[0])
        return F.mse_loss(out, batch[0]) + 0.25 * commitment

    return _batch_loss(run, nets.VQVAE(), loss, (x,))


@torch_case("GAN: the generator through a discriminator trained elsewhere")
def _(run):
    generator, critic = mlp(3, 6, 4), mlp(4, 6, 1)
    g, d = torch.optim.Adam(generator.parameters(), 0.02), torch.optim.Adam(critic.parameters(), 0.02)
    noise, real = torch.randn(24, 3), torch.randn(24, 4) + 1
    loss = lambda generator, batch: F.softplus(-critic(generator(batch[0]))).mean()
    measured = lambda: Objective(generator, None, (noise,), batch_loss=loss)
    with run.measuring(generator, g, measured, lambda: loss(generator, (noise,))):
        for i in range(0, 24, 6):
            d.zero_grad()
            fake = critic(generator(noise[i : i + 6]).detach())
            (F.softplus(fake).mean() + F.softplus(-critic(real[i : i + 6])).mean()).backward()
            d.step()
            g.zero_grad()
            loss(generator, (noise[i : i + 6],)).backward()
            g.step()
    return generator, g, critic, d


@torch_case("PINN: a loss of derivatives by the inputs")
def _(run):
    x = torch.linspace(0, 1, 24)[:, None]

    def loss(model, batch):
        x = batch[0].clone().requires_grad_()
        u = model(x)
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        return (slope + u).square().mean() + (model(torch.zeros(1, 1)) - 1).square().mean()

    return _batch_loss(run, mlp(1, 8, 1), loss, (x,))


@torch_case("PINN with an open rule (midpoint)")
def _(run):
    x, model = torch.linspace(0, 1, 24)[:, None], mlp(1, 8, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.005)

    def loss(model, batch):
        x = batch[0].clone().requires_grad_()
        slope = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
        return (slope + model(x)).square().mean()

    measured = lambda: Objective(model, None, (x,), batch_loss=loss)
    rule = lca.PathIntegral(lca.gauss_legendre(3))
    with run.measuring(model, optimizer, measured, lambda: loss(model, (x,)), estimator=rule):
        for i in range(0, 24, 6):
            optimizer.zero_grad()
            loss(model, (x[i : i + 6],)).backward()
            optimizer.step()
    return model, optimizer


@torch_case("MAML: an inner gradient step inside the loss")
def _(run):
    x, y = vectors()

    def loss(model, batch):
        named = dict(model.named_parameters())
        inner = F.cross_entropy(torch.func.functional_call(model, named, (batch[0],)), batch[1])
        grads = torch.autograd.grad(inner, list(named.values()), create_graph=True)
        fast = {name: p - 0.1 * g for (name, p), g in zip(named.items(), grads, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, fast, (batch[0].flip(0),)), batch[1].flip(0))

    return _batch_loss(run, mlp(6, 8, 3), loss, (x, y))


@torch_case("gradient penalty (double backward)")
def _(run):
    x, y = vectors()

    def loss(model, batch):
        x = batch[0].clone().requires_grad_()
        value = F.cross_entropy(model(x), batch[1])
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        return value + 10 * slope.square().sum(1).mean()

    return _batch_loss(run, mlp(6, 8, 3), loss, (x, y))


@torch_case("segmentation with a Dice loss of the whole batch")
def _(run):
    """The ratio of sums over the batch is no mean over its examples."""
    x, _ = images(8)

    def dice(out, y):
        p = out.softmax(1)[:, 1]
        return 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)

    return supervised(run, nets.UNet(), (x, torch.randint(2, (8, 8, 8))), dice, batch=4)


@torch_case("loss that is a sum over the batch")
def _(run):
    return supervised(run, mlp(6, 8, 3), vectors(1500), nn.CrossEntropyLoss(reduction="sum"), lr=0.001)


@torch_case("policy gradient with advantages, one epoch of fixed data")
def _(run):
    x, action = vectors()
    advantage, old = torch.randn(24), torch.randn(24) * 0.1 - 1.1

    def ppo(model, batch):
        x, action, advantage, old = batch
        ratio = (model(x).log_softmax(1).gather(1, action[:, None])[:, 0] - old).exp()
        return -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()

    return _batch_loss(run, mlp(6, 8, 3), ppo, (x, action, advantage, old))


@torch_case("DQN: a target network synchronised every second step")
def _(run):
    model, target = mlp(6, 8, 3), mlp(6, 8, 3)
    x, action = vectors()
    reward, follow, count = torch.randn(24), torch.randn(24, 6), []

    def loss(model, batch):
        x, action, reward, follow = batch
        q = model(x).gather(1, action[:, None])[:, 0]
        return F.smooth_l1_loss(q, reward + 0.9 * target(follow).max(1).values.detach())

    def sync():
        count.append(1)
        if len(count) % 2 == 0:
            target.load_state_dict(model.state_dict())

    return _batch_loss(run, model, loss, (x, action, reward, follow), after=sync, also=[target])


@torch_case("masked autoencoder with random masks")
def _(run):
    x, _ = vectors()

    def loss(model, batch):
        mask = torch.rand_like(batch[0]) < 0.5
        return ((model(batch[0] * mask) - batch[0]) ** 2)[~mask].mean()

    return _batch_loss(run, mlp(6, 8, 6), loss, (x, x))
