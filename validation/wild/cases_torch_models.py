"""Models in torch, in one plain loop."""

# ruff: noqa: E731 - a named lambda keeps a case short

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

from lca_torch import Objective
from validation.wild import nets_torch as nets
from validation.wild.nets_torch import mlp
from validation.wild.small_torch import batch_statistics, images, supervised, tokens, torch_case, vectors

BATCH = {"batch_norm": "batch", "batch_size": 16}
FROZEN = {"batch_norm": "frozen"}


@torch_case("MLP, SGD")
def _(run):
    return supervised(run, mlp(6, 8, 3))


@torch_case("MLP in float64")
def _(run):
    x, y = vectors()
    return supervised(run, mlp(6, 8, 3).double(), (x.double(), y))


@torch_case("CNN with dropout (VGG)")
def _(run):
    return supervised(run, nets.vgg(), images())


def _resnet(run, model, **options):
    """With batch statistics the user's model measures on all 16 images at once."""
    data = images()

    def truth():
        if options.get("batch_norm") == "batch":
            batch_statistics(model)
        return F.cross_entropy(model(data[0]), data[1])

    return supervised(run, model, data, truth=truth, **options)


@torch_case("ResNet, BatchNorm on the batch")
def _(run):
    return _resnet(run, nets.resnet(), **BATCH)


@torch_case("ResNet, BatchNorm with running statistics")
def _(run):
    return _resnet(run, nets.resnet(), **FROZEN)


@torch_case("ResNet, BatchNorm kept in eval by train()")
def _(run):
    class Frozen(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    model = nets.resnet(Frozen)
    return _resnet(run, model, **FROZEN)


@torch_case("ResNet, BatchNorm without running statistics")
def _(run):
    model = nets.resnet(lambda channels: nn.BatchNorm2d(channels, track_running_stats=False))
    return _resnet(run, model, **BATCH)


@torch_case("ResNet, GroupNorm")
def _(run):
    return supervised(run, nets.resnet(lambda channels: nn.GroupNorm(2, channels)), images())


@torch_case("ResNet, InstanceNorm")
def _(run):
    return supervised(run, nets.resnet(lambda channels: nn.InstanceNorm2d(channels, affine=True)), images())


@torch_case("ResNet, InstanceNorm with running statistics")
def _(run):
    norm = lambda channels: nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)
    return supervised(run, nets.resnet(norm), images(), **FROZEN)


@torch_case("MobileNet, running statistics")
def _(run):
    return _resnet(run, nets.mobilenet(), **FROZEN)


@torch_case("ConvNeXt with stochastic depth")
def _(run):
    return supervised(run, nets.convnext(), images())


@torch_case("U-Net, cross-entropy of pixels")
def _(run):
    x, _ = images(8)
    return supervised(run, nets.UNet(), (x, torch.randint(2, (8, 8, 8))), batch=4)


@torch_case("ViT with dropout")
def _(run):
    return supervised(run, nets.ViT(), images())


@torch_case("MLP-Mixer")
def _(run):
    return supervised(run, nets.Mixer(), images())


@torch_case("autoencoder, mean squared error")
def _(run):
    x, _ = vectors()
    return supervised(run, mlp(6, 3, 6), (x, x), F.mse_loss)


@torch_case("LSTM")
def _(run):
    return supervised(run, nets.Recurrent(), (tokens(24), torch.randint(3, (24,))))


@torch_case("GRU, two layers with dropout, bidirectional")
def _(run):
    model = nets.Recurrent(nn.GRU, num_layers=2, dropout=0.2, bidirectional=True)
    return supervised(run, model, (tokens(24), torch.randint(3, (24,))))


@torch_case("GRU that carries its state in Python")
def _(run):
    return supervised(run, nets.StatefulGRU(), (torch.randn(24, 5, 4), torch.randint(3, (24,))), batch=8)


@torch_case("packed sequences")
def _(run):
    class Packed(nets.Recurrent):
        def forward(self, x):
            lengths = (x != 0).sum(1)
            packed = nn.utils.rnn.pack_padded_sequence(
                self.embed(x), lengths, batch_first=True, enforce_sorted=False
            )
            return self.head(self.rnn(packed)[1][0][-1])

    x = tokens(24)
    x[torch.arange(7) >= torch.randint(2, 8, (24, 1))] = 0
    return supervised(run, Packed(), (x, torch.randint(3, (24,))))


@torch_case("weight tying")
def _(run):
    x = tokens(12, 6)
    loss = lambda out, target: F.cross_entropy(out.transpose(1, 2), target)
    return supervised(run, nets.LanguageModel(), (x[:, :-1], x[:, 1:]), loss, lr=0.02)


@torch_case("a layer under two names")
def _(run):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
            self.b = self.a

        def forward(self, x):
            return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))

    return supervised(run, Twice())


@torch_case("Sequential with a repeated layer")
def _(run):
    layer, act = nn.Linear(6, 6), nn.Tanh()
    return supervised(run, nn.Sequential(layer, act, layer, nn.Linear(6, 3)))


@torch_case("weight_norm, old")
def _(run):
    model = mlp(6, 8, 3)
    nn.utils.weight_norm(model[0])
    return supervised(run, model)


@torch_case("weight_norm, parametrization")
def _(run):
    model = mlp(6, 8, 3)
    parametrizations.weight_norm(model[0])
    return supervised(run, model)


@torch_case("spectral_norm, parametrization")
def _(run):
    model = mlp(6, 8, 3)
    parametrizations.spectral_norm(model[0])
    return supervised(run, model)


@torch_case("spectral_norm, old")
def _(run):
    model = mlp(6, 8, 3)
    nn.utils.spectral_norm(model[0])
    return supervised(run, model)


@torch_case("pruned layer")
def _(run):
    model = mlp(6, 8, 3)
    prune.l1_unstructured(model[0], "weight", amount=0.4)
    return supervised(run, model)


@torch_case("own parametrization (symmetric weight)")
def _(run):
    class Symmetric(nn.Module):
        def forward(self, weight):
            return weight.triu() + weight.triu(1).T

    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    parametrize.register_parametrization(model[0], "weight", Symmetric())
    return supervised(run, model)


@torch_case("orthogonal parametrization")
def _(run):
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    parametrizations.orthogonal(model[0])
    return supervised(run, model)


@torch_case("Embedding with max_norm", tolerance=0.02)
def _(run):
    model = nn.Sequential(nn.Embedding(11, 4, max_norm=1.0), nn.Flatten(), nn.Linear(28, 3))
    return supervised(run, model, (tokens(24), torch.randint(3, (24,))))


@torch_case("Embedding with padding_idx")
def _(run):
    model = nn.Sequential(nn.Embedding(11, 4, padding_idx=0), nn.Flatten(), nn.Linear(28, 3))
    x = tokens(24)
    x[:, 5:] = 0
    return supervised(run, model, (x, torch.randint(3, (24,))))


@torch_case("sparse Embedding, SparseAdam")
def _(run):
    model = nn.Sequential(nn.Embedding(11, 4, sparse=True), nn.Flatten(), nn.Linear(28, 3))
    model[2].requires_grad_(False)
    optimizer = torch.optim.SparseAdam(model[0].parameters(), lr=0.02)
    return supervised(run, model, (tokens(24), torch.randint(3, (24,))), optimizer=optimizer)


@torch_case("EmbeddingBag")
def _(run):
    model = nn.Sequential(nn.EmbeddingBag(11, 4, mode="mean"), nn.Linear(4, 3))
    return supervised(run, model, (tokens(24), torch.randint(3, (24,))))


@torch_case("mixture of experts, integer counters in the gate")
def _(run):
    return supervised(run, nets.MixtureOfExperts())


@torch_case("bool buffer that the loss reads")
def _(run):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
            self.register_buffer("mask", torch.ones(8, dtype=torch.bool))

        def forward(self, x):
            if self.training:
                self.mask[torch.randint(8, (1,))] = False
            return self.head(torch.tanh(self.body(x)) * self.mask)

    return supervised(run, Masked())


@torch_case("Python counter in forward that the loss reads")
def _(run):
    class Annealed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.calls = nn.Linear(6, 8), nn.Linear(8, 3), 0

        def forward(self, x):
            if self.training:
                self.calls += 1
            return self.head(torch.tanh(self.body(x) / (1 + 0.05 * self.calls)))

    return supervised(run, Annealed())


@torch_case("forward hooks that store activations")
def _(run):
    model, stored, calls = mlp(6, 8, 3), {}, []

    def hook(module, inputs, output):
        stored["activation"] = output
        calls.append(len(output))

    model[0].register_forward_hook(hook)

    def loss(out, y):
        penalty = 0.01 * stored["activation"].square().mean() if model.training else 0.0
        return F.cross_entropy(out, y) + penalty

    x, y = vectors()
    truth = lambda: F.cross_entropy(model(x), y)
    measured = lambda: Objective(model, F.cross_entropy, (x, y))
    return supervised(run, model, (x, y), loss, truth=truth, measured=measured, also=[calls])


@torch_case("forward hook that changes the output")
def _(run):
    model = mlp(6, 8, 3)
    model[0].register_forward_hook(lambda module, inputs, output: 0.5 * output)
    return supervised(run, model)


@torch_case("backward hook that rescales gradients of training")
def _(run):
    model = mlp(6, 8, 3)
    model[0].weight.register_hook(lambda grad: 0.5 * grad)
    return supervised(run, model)


@torch_case("checkpointed blocks")
def _(run):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = mlp(6, 8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(checkpoint(self.body, x, use_reentrant=False))

    return supervised(run, Checkpointed())


@torch_case("torch.compile, eager backend")
def _(run):
    torch._dynamo.reset()
    return supervised(run, torch.compile(mlp(6, 8, 3), backend="eager"))


@torch_case("ScriptModule")
def _(run):
    with torch.jit.optimized_execution(False):  # else its second run fuses operations that its first does not
        return supervised(run, torch.jit.script(mlp(6, 8, 3)))


@torch_case("traced module")
def _(run):
    return supervised(run, torch.jit.trace(mlp(6, 8, 3), torch.randn(2, 6)))


@torch_case("DataParallel wrapper")
def _(run):
    return supervised(run, nn.DataParallel(mlp(6, 8, 3)))


@torch_case("torch.fx GraphModule")
def _(run):
    return supervised(run, torch.fx.symbolic_trace(mlp(6, 8, 3)))


@torch_case("autocast in bfloat16", tolerance=0.05, eps=4e-3)
def _(run):
    class Autocast(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(6, 8, 3)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.net(x).float()

    return supervised(run, Autocast())


@torch_case("complex parameters")
def _(run):
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 3, dtype=torch.cfloat))

        def forward(self, x):
            return (x.cfloat() @ self.weight).abs()

    return supervised(run, Complex())


@torch_case("parameter of size zero")
def _(run):
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.none, self.net = nn.Parameter(torch.empty(0, 4)), mlp(6, 8, 3)

        def forward(self, x):
            return self.net(x) + self.none.sum()

    return supervised(run, Empty())


@torch_case("model in bfloat16", tolerance=0.1, eps=4e-3)
def _(run):
    x, y = vectors()
    return supervised(
        run, mlp(6, 8, 3).bfloat16(), (x.bfloat16(), y), lambda o, y: F.cross_entropy(o.float(), y)
    )


@torch_case("model in float16", tolerance=0.1, eps=1e-3)
def _(run):
    x, y = vectors()
    return supervised(run, mlp(6, 8, 3).half(), (x.half(), y), lambda o, y: F.cross_entropy(o.float(), y))


@torch_case("part of the model in bfloat16", tolerance=0.1, eps=4e-3)
def _(run):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 8).bfloat16(), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.body(x.bfloat16())).float())

    return supervised(run, Mixed())


@torch_case("fixed-point iteration (DEQ)")
def _(run):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inject, self.cell, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            z, x = torch.zeros_like(x), self.inject(x)
            for _ in range(8):
                z = torch.tanh(0.3 * self.cell(z) + x)
            return self.head(z)

    return supervised(run, Fixed())


@torch_case("neural ODE, Euler steps")
def _(run):
    class ODE(nn.Module):
        def __init__(self):
            super().__init__()
            self.field, self.head = mlp(6, 8, 6), nn.Linear(6, 3)

        def forward(self, x):
            for _ in range(5):
                x = x + 0.2 * self.field(x)
            return self.head(x)

    return supervised(run, ODE())


@torch_case("Monte-Carlo dropout that stays on")
def _(run):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(6, 8, 3)

        def forward(self, x):
            return self.net(F.dropout(x, 0.3, training=True))

    return supervised(run, Noisy())


@torch_case("LazyLinear, initialised by the first batch")
def _(run):
    model = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.Linear(8, 3))
    model(torch.randn(1, 6))
    return supervised(run, model)


@torch_case("one scalar parameter")
def _(run):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            return self.scale * x

    x, _ = vectors()
    return supervised(run, Scale(), (x, 2 * x), F.mse_loss)


@torch_case("an unused layer")
def _(run):
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = mlp(6, 8, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    return supervised(run, Unused())
