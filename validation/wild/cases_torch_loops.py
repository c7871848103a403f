"""Loops in torch: optimizers, what happens around them, and models that change while they train."""

# ruff: noqa: E731 - a named lambda keeps a case short

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import swa_utils

import lca
from lca.estimators import CrossFit, NextBatch, SampledPathIntegral
from lca_torch import Objective
from validation.wild import nets_torch as nets
from validation.wild.nets_torch import mlp
from validation.wild.small_torch import images, supervised, torch_case, vectors

OPTIMIZERS = {
    "SGD with momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "SGD, Nesterov, weight decay": lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, 0.01),
    "AdamW, amsgrad": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.005),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
    "Adam, fused": lambda p: torch.optim.Adam(p, 0.01, fused=True),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "Adam, differentiable": lambda p: torch.optim.Adam(p, 0.01, capturable=False),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01),
}
DEFAULT = {"estimator": lca.Adaptive()}


def _optimizer_case(name, make):
    @torch_case(f"optimizer {name}")
    def _(run):
        model = mlp(6, 8, 3)
        tracker = DEFAULT if name in ("Adam", "RMSprop") else {}
        return supervised(run, model, optimizer=make(model.parameters()), tracker=tracker)


for _name, _make in OPTIMIZERS.items():
    _optimizer_case(_name, _make)


@torch_case("optimizer Muon for matrices, AdamW for the rest, one tracker for both")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    optimizers = [torch.optim.Muon(matrices, 0.05), torch.optim.AdamW(rest, 0.02)]
    return _several(run, model, optimizers, (x, y))


@torch_case("two optimizers, one tracker each")
def _(run):
    """Each tracker sees the other's updates as something outside its own; the first is judged."""
    model, (x, y) = mlp(6, 8, 3), vectors()
    first = torch.optim.SGD(model[0].parameters(), 0.1)
    second = torch.optim.Adam(model[2].parameters(), 0.02)
    return _several(run, model, [first, second], (x, y), tracked=first)


def _several(run, model, optimizers, data, tracked=None):
    x, y = data
    objective, truth = lambda: Objective(model, F.cross_entropy, data), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, tracked or optimizers, objective, truth):
        for i in range(0, 24, 6):
            for optimizer in optimizers:
                optimizer.zero_grad()
            F.cross_entropy(model(x[i : i + 6]), y[i : i + 6]).backward()
            for optimizer in optimizers:
                optimizer.step()
    return model, optimizers


def loop(
    run, model=None, optimizer=None, *, before=None, after=None, scheduler=None, steps=5, measured=None,
    also=(), data=None, loss=F.cross_entropy, tracker=None, backward=torch.Tensor.backward, **options,
):  # fmt: skip
    """A loop with a callback ``before(step)`` each step and one ``after(step)`` it."""
    model = mlp(6, 8, 3) if model is None else model
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, y = vectors() if data is None else data
    measured = measured or (lambda: Objective(model, loss, (x, y), **options))
    with run.measuring(model, optimizer, measured, lambda: loss(model(x), y), **(tracker or {})):
        for step in range(steps):
            model.train()
            if before:
                before(step)
            index = torch.randperm(len(y))[:8]
            run.note(index)
            optimizer.zero_grad()
            backward(loss(model(x[index]), y[index]))
            optimizer.step()
            if scheduler:
                scheduler.step()
            if after:
                after(step)
    return model, optimizer, *also


@torch_case("LBFGS with a closure")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=4, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    measured = lambda: Objective(model, F.cross_entropy, (x, y))
    with run.measuring(model, optimizer, measured, lambda: F.cross_entropy(model(x), y)):
        for _ in range(4):
            optimizer.step(closure)
    return model, optimizer


@torch_case("parameter groups with their own learning rates, one added half-way")
def _(run):
    model = mlp(6, 8, 3)
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.2}], lr=0.05)
    add = lambda step: optimizer.add_param_group({"params": model[2].parameters()}) if step == 2 else None
    return loop(run, model, optimizer, before=add)


@torch_case("schedulers: warm-up, then cosine")
def _(run):
    model = mlp(6, 8, 3)
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [2])
    return loop(run, model, optimizer, scheduler=both)


@torch_case("clipping by norm")
def _(run):
    model = mlp(6, 8, 3)

    def backward(loss):
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)

    return loop(run, model, backward=backward)


@torch_case("clipping by value")
def _(run):
    model = mlp(6, 8, 3)

    def backward(loss):
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.01)

    return loop(run, model, backward=backward, tracker=DEFAULT)


@torch_case("gradient accumulation over three batches")
def _(run):
    return _accumulated(run)


def _accumulated(run, *, clip=None, scaler=None, tracker=None):
    """Three batches with the same examples each: what is estimated from one holds for the others."""
    model, (x, y) = mlp(6, 8, 3), vectors(16)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    measured, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, optimizer, measured, truth, **(tracker or {})) as tracked:
        for count, (inputs, labels) in enumerate(tracked.batches([(x, y)] * 18), 1):
            loss = F.cross_entropy(model(inputs), labels) / 3
            (scaler.scale(loss) if scaler else loss).backward()
            if count % 3 == 0:
                if scaler:
                    scaler.unscale_(optimizer)
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                scaler.step(optimizer) if scaler else optimizer.step()
                if scaler:
                    scaler.update()
                optimizer.zero_grad()
    return model, optimizer


CROSS_FIT = {"estimator": CrossFit(micro_batches=3)}


@torch_case("CrossFit, accumulated micro-batches", tolerance=0.05)
def _(run):
    return _accumulated(run, tracker=CROSS_FIT)


@torch_case("CrossFit, accumulated micro-batches and weak clipping by norm", tolerance=0.05)
def _(run):
    return _accumulated(run, clip=10.0, tracker=CROSS_FIT)


@torch_case("CrossFit, accumulated micro-batches and strong clipping by norm", tolerance=0.05)
def _(run):
    return _accumulated(run, clip=0.02, tracker=CROSS_FIT)


@torch_case("CrossFit, accumulated micro-batches under a GradScaler", tolerance=0.05)
def _(run):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return _accumulated(run, scaler=scaler, tracker=CROSS_FIT)


@torch_case("CrossFit, micro-batches with unequal numbers of tokens", tolerance=0.05)
def _(run):
    """The loss of an update is the mean over the tokens of all its micro-batches, as in Hugging Face."""
    model, (x, y) = mlp(6, 8, 3), vectors(4)
    x, y = x.repeat(7, 1), y.repeat(7)
    few, many = (x[:4], y[:4]), (x[4:], y[4:])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    measured, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, optimizer, measured, truth, estimator=CrossFit(micro_batches=2)) as tracker:
        for _ in range(6):
            optimizer.zero_grad()
            for inputs, labels in tracker.batches([few, many]):
                (F.cross_entropy(model(inputs), labels, reduction="sum") / 28).backward()
            optimizer.step()
    return model, optimizer


@torch_case("CrossFit in a loop over micro_batches", tolerance=0.05)
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors(24)
    x, y = x.repeat(2, 1), y.repeat(2)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    measured, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, optimizer, measured, truth, estimator=CrossFit(micro_batches=2)) as tracker:
        for batch in tracker.batches([(x, y)] * 6):
            optimizer.zero_grad()
            for (inputs, labels), weight in tracker.micro_batches(batch, 2):
                (weight * F.cross_entropy(model(inputs), labels)).backward()
            optimizer.step()
    return model, optimizer


@torch_case("NextBatch", tolerance=0.05)
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors(48)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    measured, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, optimizer, measured, truth, estimator=NextBatch()) as tracker:
        for inputs, labels in tracker.batches([(x, y)] * 6):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model, optimizer


@torch_case("probes", tolerance=0.3)
def _(run):
    return loop(run, tracker={"estimator": SampledPathIntegral(size=24)})


@torch_case("probes of a class-weighted loss", tolerance=0.3)
def _(run):
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 0.1]))
    return loop(run, loss=loss, tracker={"estimator": SampledPathIntegral(size=8)})


@torch_case("stratified probes with a refresh", tolerance=0.4)
def _(run):
    estimator = SampledPathIntegral(size=24, sampling="stratified", refresh=2)
    return loop(run, loss=nn.CrossEntropyLoss(), tracker={"estimator": estimator})


@torch_case("GradScaler that skips an update")
def _(run):
    return _scaled(run, lambda p: torch.optim.Adam(p, 0.01))


@torch_case("GradScaler that skips an update, fused optimizer")
def _(run):
    return _scaled(run, lambda p: torch.optim.Adam(p, 0.01, fused=True))


def _scaled(run, make):
    model, (x, y) = mlp(6, 8, 3), vectors()
    optimizer, scaler = make(model.parameters()), torch.amp.GradScaler("cpu", init_scale=64.0)
    measured, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, optimizer, measured, truth):
        for step in range(5):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[step::3]), y[step::3])
            scaler.scale(loss * (float("inf") if step == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
    return model, optimizer, scaler.state_dict()


@torch_case("a new optimizer half-way")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    measured, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, optimizer, measured, truth):
        for step in range(6):
            if step == 3:
                optimizer = torch.optim.Adam(model.parameters(), 0.02)
            optimizer.zero_grad()
            F.cross_entropy(model(x[step::3]), y[step::3]).backward()
            optimizer.step()
    return model, optimizer


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation as it is commonly written: two half steps around a base optimizer."""

    def __init__(self, params, base, rho=0.05):
        self.base, self.rho = base, rho
        super().__init__(params, {})

    @torch.no_grad()
    def first_step(self):
        self.moved = []
        for p in (p for group in self.param_groups for p in group["params"]):
            self.moved.append(self.rho * p.grad / (p.grad.norm() + 1e-12))
            p.add_(self.moved[-1])

    @torch.no_grad()
    def second_step(self):
        params = (p for group in self.param_groups for p in group["params"])
        for p, moved in zip(params, self.moved, strict=True):
            p.sub_(moved)
        self.base.step()

    def step(self, closure=None):
        raise NotImplementedError


def _sam(run, *, track_base):
    model, (x, y) = mlp(6, 8, 3), vectors()
    base = torch.optim.SGD(model.parameters(), 0.1)
    optimizer = SAM(model.parameters(), base)
    measured, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, base if track_base else optimizer, measured, truth):
        for step in range(5):
            for half in (optimizer.first_step, optimizer.second_step):
                optimizer.zero_grad()
                F.cross_entropy(model(x[step::3]), y[step::3]).backward()
                half()
    return model, base


@torch_case("SAM, tracking the wrapper whose step() is never called")
def _(run):
    return _sam(run, track_base=False)


@torch_case("SAM, tracking the base optimizer")
def _(run):
    return _sam(run, track_base=True)


class Lookahead(torch.optim.Optimizer):
    """Every third call of `step` pulls θ back to slow weights."""

    def __init__(self, base):
        self.base, self.calls = base, 0
        self.slow = [p.detach().clone() for group in base.param_groups for p in group["params"]]
        super().__init__(base.param_groups, {})

    @torch.no_grad()
    def step(self, closure=None):
        self.base.step()
        self.calls += 1
        if self.calls % 3 == 0:
            params = (p for group in self.param_groups for p in group["params"])
            for p, slow in zip(params, self.slow, strict=True):
                p.copy_(slow.lerp_(p, 0.5))


@torch_case("Lookahead around Adam")
def _(run):
    model = mlp(6, 8, 3)
    return loop(run, model, Lookahead(torch.optim.Adam(model.parameters(), 0.02)))


@torch_case("Lookahead around Adam, tracking the inner optimizer")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    optimizer = Lookahead(torch.optim.Adam(model.parameters(), 0.02))
    measured, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, optimizer.base, measured, truth):
        for step in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(x[step::3]), y[step::3]).backward()
            optimizer.step()
    return model, optimizer.base


@torch_case("an optimizer whose step() calls super().step()")
def _(run):
    class Decayed(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            result = super().step(closure)
            for p in self.param_groups[0]["params"]:
                p.mul_(0.99)
            return result

    model = mlp(6, 8, 3)
    return loop(run, model, Decayed(model.parameters(), 0.1))


@torch_case("SWA: averaged weights put in after the last step")
def _(run):
    model = mlp(6, 8, 3)
    average = swa_utils.AveragedModel(model)

    def after(step):
        average.update_parameters(model)
        if step == 4:
            with torch.no_grad():
                for p, mean in zip(model.parameters(), average.module.parameters(), strict=True):
                    p.copy_(mean)

    return loop(run, model, after=after)


@torch_case("EMA weights swapped in for evaluation and out again")
def _(run):
    model = mlp(6, 8, 3)
    ema = copy.deepcopy(model)

    @torch.no_grad()
    def after(step):
        for mean, p in zip(ema.parameters(), model.parameters(), strict=True):
            mean.lerp_(p, 0.5)
        kept = [p.clone() for p in model.parameters()]
        for p, mean in zip(model.parameters(), ema.parameters(), strict=True):
            p.copy_(mean)
        run.note(F.cross_entropy(model(torch.ones(2, 6)), torch.tensor([0, 1])))
        for p, mine in zip(model.parameters(), kept, strict=True):
            p.copy_(mine)

    return loop(run, model, after=after)


@torch_case("weights projected after every step (max norm)")
def _(run):
    model = mlp(6, 8, 3)

    @torch.no_grad()
    def after(step):
        model[0].weight.copy_(torch.renorm(model[0].weight, 2, 0, 0.4))

    return loop(run, model, after=after)


@torch_case("weights clamped after every step through .data (WGAN)")
def _(run):
    model = mlp(6, 8, 3)

    def after(step):
        for p in model.parameters():
            p.data.clamp_(-0.3, 0.3)

    return loop(run, model, after=after)


@torch_case("gradual unfreezing (ULMFiT)")
def _(run):
    model = mlp(6, 8, 8, 3)
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.03)

    def before(step):
        if step in (1, 3):
            model[2 if step == 1 else 0].requires_grad_(True)

    return loop(run, model, optimizer, before=before, tracker=DEFAULT)


@torch_case("alternating blocks: one half is frozen in turn")
def _(run):
    model = mlp(6, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.03)

    def before(step):
        model[0].requires_grad_(step % 2 == 0)
        model[2].requires_grad_(step % 2 == 1)

    return loop(run, model, optimizer, before=before, tracker=DEFAULT)


@torch_case("frozen, but moved on by momentum")
def _(run):
    model = mlp(6, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)

    def before(step):
        if step == 2:
            model[0].requires_grad_(False)
            for p in model[0].parameters():
                p.grad = torch.zeros_like(p)

    def backward(loss):
        loss.backward()
        for p in model[0].parameters():
            if p.grad is None:
                p.grad = torch.zeros_like(p)

    return loop(run, model, optimizer, before=before, backward=backward, tracker=DEFAULT)


@torch_case("frozen base, head trained, frozen='omit'")
def _(run):
    model = mlp(6, 8, 3)
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model[2].parameters(), 0.02)
    return loop(run, model, optimizer, frozen="omit")


@torch_case("left out by frozen='omit', then unfrozen")
def _(run):
    model = mlp(6, 8, 3)
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    unfreeze = lambda step: model[0].requires_grad_(True) if step == 2 else None
    left_out = {"left_out": ("0.weight", "0.bias")}
    return loop(run, model, optimizer, before=unfreeze, tracker=left_out, frozen="omit")


@torch_case("a module replaced half-way, its parameters given to the optimizer")
def _(run):
    model = mlp(6, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def before(step):
        if step == 2:
            model[2] = nn.Linear(8, 3)
            optimizer.param_groups[0]["params"] = list(model.parameters())

    return loop(run, model, optimizer, before=before)


@torch_case("a layer added half-way")
def _(run):
    model = mlp(6, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def before(step):
        if step == 2:
            model.insert(2, nn.Linear(8, 8))
            optimizer.add_param_group({"params": model[2].parameters()})

    return loop(run, model, optimizer, before=before)


@torch_case("an activation without parameters replaced half-way")
def _(run):
    model = mlp(6, 8, 3)

    def before(step):
        if step == 2:
            model[1] = nn.ReLU()

    return loop(run, model, before=before)


@torch_case("load_state_dict(assign=True) half-way")
def _(run):
    model = mlp(6, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def before(step):
        if step == 2:
            model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
            optimizer.param_groups[0]["params"] = list(model.parameters())

    return loop(run, model, optimizer, before=before)


@torch_case("load_state_dict of the best checkpoint half-way")
def _(run):
    model = mlp(6, 8, 3)
    best = copy.deepcopy(model.state_dict())
    return loop(run, model, before=lambda step: model.load_state_dict(best) if step == 3 else None)


@torch_case("model converted to float64 half-way")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cast = lambda: x.to(model[0].weight.dtype)
    measured = lambda: Objective(model, F.cross_entropy, (x, y))
    with run.measuring(model, optimizer, measured, lambda: F.cross_entropy(model(cast()), y)):
        for step in range(4):
            if step == 2:
                model.double()
            optimizer.zero_grad()
            F.cross_entropy(model(cast())[step::3], y[step::3]).backward()
            optimizer.step()
    return model, optimizer


@torch_case("a float buffer changed by a callback (temperature)")
def _(run):
    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(6, 8, 3)
            self.register_buffer("temperature", torch.tensor(2.0))

        def forward(self, x):
            return self.net(x) / self.temperature

    model = Tempered()
    return loop(run, model, after=lambda step: model.temperature.mul_(0.9))


@torch_case("a buffer of the model that the loop sets before every update (two tasks in turn)")
def _(run):
    class InTurn(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(6, 8, 3)
            self.register_buffer("task", torch.tensor(0))

        def forward(self, x):
            return self.net(x) * (1 - 2 * self.task)

    model = InTurn()
    return loop(run, model, before=lambda step: model.task.fill_(step % 2))


@torch_case("dropout rate raised by a callback (does not touch evaluation)")
def _(run):
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1), nn.Linear(8, 3))

    def before(step):
        model[1].p = 0.1 * step

    return loop(run, model, before=before)


@torch_case("label smoothing of the loss module raised by a callback")
def _(run):
    loss = nn.CrossEntropyLoss(label_smoothing=0.0)

    def before(step):
        loss.label_smoothing = 0.05 * step

    return loop(run, loss=loss, before=before)


@torch_case("LeakyReLU slope changed by a callback")
def _(run):
    model = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.5), nn.Linear(8, 3))

    def before(step):
        model[1].negative_slope = 0.5 - 0.1 * step

    return loop(run, model, before=before)


@torch_case("BatchNorm momentum schedule, running statistics")
def _(run):
    model = nets.resnet()

    def before(step):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.5 / (1 + step)

    return loop(run, model, data=images(), before=before, batch_norm="frozen")


@torch_case("BatchNorm statistics recalibrated after the last step")
def _(run):
    model, data = nets.resnet(), images()

    def after(step):
        if step == 4:
            model.train()
            with torch.no_grad():
                model(data[0])

    return loop(run, model, data=data, after=after, batch_norm="frozen")


@torch_case("every second step is measured")
def _(run):
    return loop(run, tracker={"every": 2})


@torch_case("the first steps are measured")
def _(run):
    return loop(run, tracker={"every": lambda step: step < 3})


@torch_case("Simpson's rule")
def _(run):
    return loop(run, tracker={"estimator": lca.PathIntegral(lca.SIMPSON)})


@torch_case("left rule, whose residual says how far off it is", tolerance=1.0)
def _(run):
    return loop(run, tracker={"estimator": lca.PathIntegral(lca.LEFT)})


@torch_case("measured loss of 1e-30: an absolute tolerance says nothing")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    tiny = lambda out, y: 1e-30 * F.cross_entropy(out, y)
    optimizer, truth = torch.optim.SGD(model.parameters(), 2.0), lambda: tiny(model(x), y)
    measured = lambda: Objective(model, tiny, (x, y))
    return supervised(
        run, model, (x, y), optimizer=optimizer, truth=truth, measured=measured, tracker=DEFAULT
    )


@torch_case("loss of 1e6")
def _(run):
    model = mlp(6, 8, 3)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    loss = lambda out, y: 1e6 * F.cross_entropy(out, y)
    return loop(run, model, optimizer, loss=loss, tracker=DEFAULT)


@torch_case("set_to_none=False and gradients kept across steps")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    measured, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, optimizer, measured, truth):
        for step in range(4):
            optimizer.zero_grad(set_to_none=False)
            F.cross_entropy(model(x[step::3]), y[step::3]).backward()
            optimizer.step()
    return model, optimizer


@torch_case("optimizer in the backward pass (post-accumulate hooks)")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    optimizers = {p: torch.optim.SGD([p], 0.1) for p in model.parameters()}

    def hook(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    measured, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, list(optimizers.values()), measured, truth):
        for step in range(4):
            F.cross_entropy(model(x[step::3]), y[step::3]).backward()
    return model, *optimizers.values()


@torch_case("updates by hand, without an optimizer's step")
def _(run):
    model, (x, y) = mlp(6, 8, 3), vectors()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    measured, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, optimizer, measured, truth):
        for step in range(8):
            optimizer.zero_grad()
            F.cross_entropy(model(x[step % 3 :: 3]), y[step % 3 :: 3]).backward()
            if step % 2:
                optimizer.step()
            else:
                with torch.no_grad():
                    for p in model.parameters():
                        p.sub_(0.1 * p.grad)
    return model, optimizer


@torch_case("fine-tuning in evaluation mode, validation under inference_mode")
def _(run):
    model, (x, y) = nets.resnet(), images()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    measured = lambda: Objective(model, F.cross_entropy, (x, y), batch_norm="frozen")
    with run.measuring(model, optimizer, measured, lambda: F.cross_entropy(model(x), y)):
        for step in range(4):
            model.eval()
            optimizer.zero_grad()
            F.cross_entropy(model(x[step::2]), y[step::2]).backward()
            optimizer.step()
            with torch.inference_mode():
                run.note(F.cross_entropy(model(x), y).item())
    return model, optimizer
