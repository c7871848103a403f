"""`CrossFit` in loops that accumulate and clip: within 5 % of the exact path, and training is the same."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lca.errors import LCAError, LCAWarning
from lca.estimators import CrossFit, LaggedCrossFit, NextBatch, SameBatch
from lca_torch import Objective, Tracker
from tests.laws.runs import Kept, Shown
from tests.lca_torch.loops import X, Y, network
from tests.lca_torch.real_loops import accelerated, fabric, plain, run, scaled, split, uneven
from tests.lca_torch.test_runs_with_several_optimizers import objective_of

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:::accelerate\."),
    pytest.mark.filterwarnings("ignore:the model trains with"),
]
X = X.double()


@pytest.mark.parametrize(
    ("loop", "kind", "clip", "m"),
    [
        (plain, "sgd", 0.1, 2),
        (plain, "adamw", 0.3, 4),
        (split, "sgd", 0.3, 4),
        (split, "adamw", None, 2),
        (uneven, "sgd", 1.0, 2),
        (uneven, "adamw", 0.1, 2),
        (scaled, "sgd", 0.3, 2),
        (scaled, "adamw", None, 2),
        (accelerated, "sgd", 0.1, 2),
        (fabric, "adamw", 0.3, 2),
    ],
)
def test_the_total_is_right_and_so_is_the_sign_of_each_tensor(loop, kind, clip, m):
    found, exact, left = run(loop, kind, clip, m)
    assert abs(found.sum() - exact.sum()) < 0.05 * abs(exact.sum())
    np.testing.assert_array_equal(np.sign(found), np.sign(exact))
    _, _, plain_left = run(loop, kind, clip, m, tracked=False)
    assert all(torch.equal(a, b) for a, b in zip(left, plain_left, strict=True))


def measured(estimator, *, optimizer=torch.optim.SGD, **options):
    torch.manual_seed(0)
    model = network(norm=False).double()
    made = optimizer(model.parameters(), lr=0.1)
    return model, made, Tracker(model, made, objective_of(model), estimator, on_error="raise", **options)


def gradient(model, rows=slice(0, 20), factor=1.0):
    loss = factor * cross_entropy(model.eval()(X[rows]), Y[rows])
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


def backward(model, rows=slice(0, 20), factor=1.0):
    (factor * cross_entropy(model.eval()(X[rows]), Y[rows])).backward()


@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.parametrize("scaled", [True, False])
def test_the_gradient_is_that_of_the_loss_whatever_happens_to_it_before_the_update(scaled, clip):
    shown = Shown(("gradient",))
    model, optimizer, tracker = measured(shown)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0, enabled=scaled)
    expected = gradient(model)
    with tracker:
        scaler.scale(cross_entropy(model(X[:20]), Y[:20])).backward()
        scaler.unscale_(optimizer)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        scaler.step(optimizer)
    torch.testing.assert_close(shown.steps[0].gradient, expected)


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_that_an_optimizer_unscales_itself(fused):
    shown = Shown(("gradient", "micro_batches"))
    model, optimizer, tracker = measured(shown, optimizer=lambda p, lr: torch.optim.AdamW(p, lr, fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    with tracker:
        for _ in tracker.micro_batches((X[:20], Y[:20]), 2):
            scaler.scale(0.5 * cross_entropy(model.eval()(X[:20]), Y[:20])).backward()
        expected = gradient(model)
        scaler.step(optimizer)
    torch.testing.assert_close(shown.steps[0].gradient, expected)
    torch.testing.assert_close(shown.steps[0].micro_batches[0].gradient, expected)


@pytest.mark.parametrize("unscaled", [False, True])
@pytest.mark.parametrize("estimator", [SameBatch(), CrossFit(own_pass=True)], ids=["same batch", "own pass"])
def test_an_overflow_that_a_fused_optimizer_skips_is_no_update(estimator, unscaled):
    model, optimizer, tracker = measured(
        estimator, optimizer=lambda p, lr: torch.optim.SGD(p, lr, fused=True)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    with tracker:
        for i, (x, y) in enumerate(tracker.batches(zip(X.split(20), Y.split(20), strict=True))):
            optimizer.zero_grad()
            loss = cross_entropy(model.eval()(x), y)
            scaler.scale(loss * float("inf") if i == 1 else loss).backward()
            if unscaled:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    assert tracker.steps == 2


def divided(model):
    for p in model.parameters():
        p.grad /= 3


def noisy(model):
    for p in model.parameters():
        p.grad += 0.01


def clipped(model):
    nn.utils.clip_grad_value_(model.parameters(), 1e-3)


def clipped_by_layer(model):
    for p in model.parameters():
        nn.utils.clip_grad_norm_([p], 1e-3)


def divided_and_clipped(model):
    divided(model)
    clipped(model)


DIVIDED = r"multiplied by 0.333333 between its backward pass and the update.*divide the loss"
NO_MULTIPLE = "not a multiple of the sum over its micro-batches.*NextBatch"


@pytest.mark.parametrize(
    ("estimator", "change", "match"),
    [
        (SameBatch(), divided, DIVIDED),
        (CrossFit(2), divided, DIVIDED),
        (CrossFit(2), noisy, NO_MULTIPLE),
        (CrossFit(2), clipped, NO_MULTIPLE),
        (CrossFit(2, own_pass=True), noisy, NO_MULTIPLE),
        (LaggedCrossFit(), clipped, NO_MULTIPLE),
    ],
)
def test_a_gradient_that_was_changed_otherwise_is_refused(estimator, change, match):
    model, optimizer, tracker = measured(estimator)
    with tracker:
        for _ in tracker.micro_batches((X[:20], Y[:20]), 2):
            backward(model, factor=0.5)
        change(model)
        with pytest.raises(LCAError, match=match):
            optimizer.step()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("change", "told"),
    [(clipped, False), (clipped_by_layer, True), (noisy, True), (divided_and_clipped, True)],
)
def test_the_gradient_of_the_loss_may_be_changed_where_the_update_does_not_matter(
    change, told, scaled, recwarn
):
    """There is a warning if that may be another loss, as where it is divided as well."""
    shown = Shown(("gradient",))
    model, optimizer, tracker = measured(shown)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0, enabled=scaled)
    with tracker:
        for _ in range(2):
            optimizer.zero_grad()
            expected = gradient(model)
            scaler.scale(cross_entropy(model(X[:20]), Y[:20])).backward()
            scaler.unscale_(optimizer)
            change(model)
            scaler.step(optimizer)
            scaler.update()
            torch.testing.assert_close(shown.steps[-1].gradient, expected)
    found = [str(one.message) for one in recwarn if issubclass(one.category, LCAWarning)]
    assert len(found) == told
    assert all("also divides or multiplies gradients" in text for text in found)


def test_a_division_that_clipping_hides_is_named_by_the_self_check(recwarn):
    model, optimizer, _ = measured(SameBatch())
    loader = list(zip(X.split(20), Y.split(20), strict=True)) * 6
    made = Tracker(model, optimizer, objective_of(model), NextBatch(), check_every=len(loader) - 1)
    with made as tracker:
        for x, y in tracker.batches(loader):
            optimizer.zero_grad()
            (64 * cross_entropy(model.eval()(x), y)).backward()
            for p in model.parameters():
                p.grad /= 64
            clipped(model)
            optimizer.step()
    first, last = (str(one.message) for one in recwarn)
    assert "also divides or multiplies gradients" in first
    assert "the likeliest first:\n- the loop changes gradients in a way that" in last


@pytest.mark.parametrize("combined", [True, False])
def test_gradients_of_several_passes_that_the_loop_combines_are_no_gradient_of_the_loss(combined, recwarn):
    """Those of earlier passes may be a part of it, or of a batch that was given up."""
    model, optimizer, tracker = measured(SameBatch())
    with tracker:
        for step in range(3):
            optimizer.zero_grad()
            backward(model)
            if step == 1:
                parts = [p.grad.clone() for p in model.parameters()]
                optimizer.zero_grad()
                backward(model, slice(20, 40))
                for p, part in zip(model.parameters(), parts, strict=True):
                    p.grad.add_(part if combined else 0.0)
            optimizer.step()
    assert tracker.skipped_steps == combined
    found = [str(one.message) for one in recwarn if "update 1 has a gradient that is not" in str(one.message)]
    assert len(found) == combined


def test_a_norm_that_is_no_round_number_has_to_be_told():
    for told in (False, True):
        model, optimizer, tracker = measured(SameBatch())
        with tracker:
            if told:
                tracker.clips_norm(0.0123456)
            backward(model)
            nn.utils.clip_grad_norm_(model.parameters(), 0.0123456)
            if told:
                optimizer.step()
            else:
                with pytest.raises(LCAError, match=r"call tracker.clips_norm\(max_norm\)"):
                    optimizer.step()


def test_a_norm_that_changes_is_refused():
    model, optimizer, tracker = measured(SameBatch())
    with tracker:
        for norm, refused in ((0.01, False), (0.02, True)):
            model.zero_grad()
            backward(model)
            nn.utils.clip_grad_norm_(model.parameters(), norm)
            if refused:
                with pytest.raises(LCAError, match="not clipping to one norm"):
                    optimizer.step()
            else:
                optimizer.step()


def test_gradients_that_were_not_zeroed_are_refused():
    model, optimizer, tracker = measured(SameBatch())
    with tracker:
        backward(model)
        optimizer.step()
        backward(model)
        with pytest.raises(LCAError, match="not zero before the first backward pass.*zero_grad"):
            optimizer.step()


@pytest.mark.parametrize("estimator", [LaggedCrossFit(), CrossFit(own_pass=True)], ids=["lagged", "own pass"])
def test_gradients_of_parameters_that_no_optimizer_moves_need_not_be_zeroed(estimator):
    def rows(zeroed_by):
        model, _, _ = measured(estimator)
        head = torch.optim.SGD(model[-1].parameters(), lr=0.1)
        objective = objective_of(model.eval())
        with Tracker(model, head, objective, estimator, on_error="raise", views=Kept) as tracker:
            for x, y in tracker.batches(zip(X.split(20), Y.split(20), strict=True)):
                (head if zeroed_by == "optimizer" else model).zero_grad()
                cross_entropy(model(x), y).backward()
                head.step()
        return tracker.views["train"].rows

    found, expected = rows("optimizer"), rows("model")
    assert len(found) == 2
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.values, theirs.values)


def test_gradients_that_another_optimizer_zeroes_later_are_refused():
    model, _, _ = measured(SameBatch())
    body, head = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[-1]))
    with Tracker(model, [body, head], objective_of(model), SameBatch(), on_error="raise"):
        body.zero_grad()
        backward(model)
        body.step()
        head.zero_grad()
        backward(model)
        with pytest.raises(LCAError, match=r"zero_grad\(\) of one optimizer leaves those of others"):
            head.step()


@pytest.mark.parametrize("checkpointed", [slice(None), slice(-1)])
@pytest.mark.parametrize("reentrant", [True, False])
def test_several_backward_passes_for_one_micro_batch_add_up(reentrant, checkpointed):
    """Two losses, one of them with checkpoints, whose backward passes may run inside another.

    That one has added to the gradient of the last layer by then, if that is not checkpointed.
    """
    shown = Shown(("gradient", "micro_batches"))
    model, optimizer, tracker = measured(shown)
    rows = [slice(0, 10), slice(10, 20)]
    expected = [gradient(model, piece) for piece in rows]
    with tracker:
        for (x, y), _ in tracker.micro_batches((X[:20], Y[:20]), 2):
            (0.25 * cross_entropy(model.eval()(x), y)).backward(retain_graph=True)
            inside = torch.utils.checkpoint.checkpoint(
                model[checkpointed],
                x.clone().requires_grad_(),
                use_reentrant=reentrant,
                preserve_rng_state=False,
            )
            rest = model[-1:] if checkpointed.stop else nn.Identity()
            (0.25 * cross_entropy(rest(inside), y)).backward()
        optimizer.step()
    for part, wanted in zip(shown.steps[0].micro_batches, expected, strict=True):
        torch.testing.assert_close(part.gradient, wanted)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ("before", "belongs to no micro-batch"),
        ("before the pieces of a batch", "belongs to no micro-batch"),
        ("in the first", "may belong to all micro-batches, as one has 2 and another 1"),
        ("in the last", "may belong to all micro-batches, as one has 2 and another 1"),
        ("after", "belongs to no micro-batch"),
    ],
)
def test_a_backward_pass_for_all_micro_batches_is_refused(at, text):
    model, optimizer, tracker = measured(CrossFit())
    with tracker:
        if at == "before":
            backward(model)
        if at == "before the pieces of a batch":
            tracker.begin_batch(X[:20], Y[:20])
            backward(model)
        for number, _ in enumerate(tracker.micro_batches((X[:20], Y[:20]), 2)):
            backward(model)
            if at == ("in the first", "in the last")[number]:
                backward(model)
        if at == "after":
            backward(model)
        with pytest.raises(LCAError, match=f"a backward pass of this update {text}; .* add a penalty to"):
            optimizer.step()


def test_a_backward_pass_that_fails_is_over():
    shown = Shown(("gradient", "micro_batches"))
    model, optimizer, tracker = measured(shown)
    expected = [gradient(model, slice(0, 10)), gradient(model, slice(10, 20))]

    def fail(grad):
        raise KeyError("in a hook")

    with tracker:
        hidden = model.eval()[:-1](X[:10])
        hidden.register_hook(fail)
        with pytest.raises(KeyError):
            cross_entropy(model[-1](hidden), Y[:10]).backward()
        optimizer.zero_grad()
        for (x, y), weight in tracker.micro_batches((X[:20], Y[:20]), 2):
            (weight * cross_entropy(model(x), y)).backward()
        optimizer.step()
    for part, wanted in zip(shown.steps[0].micro_batches, expected, strict=True):
        torch.testing.assert_close(part.gradient, wanted)


def test_gradients_that_are_put_elsewhere_between_two_passes_are_the_same():
    """As DistributedDataParallel does with its buckets after the first pass (gradient_as_bucket_view)."""
    shown = Shown(("gradient", "micro_batches"))
    model, optimizer, tracker = measured(shown)
    expected = [gradient(model, slice(0, 10)), gradient(model, slice(10, 20))]
    with tracker:
        for (x, y), weight in tracker.micro_batches((X[:20], Y[:20]), 2):
            (weight * cross_entropy(model.eval()(x), y)).backward()
            for parameter in model.parameters():
                parameter.grad = parameter.grad.clone()
        optimizer.step()
    for part, wanted in zip(shown.steps[0].micro_batches, expected, strict=True):
        torch.testing.assert_close(part.gradient, wanted)


def test_layers_that_are_trained_in_turn():
    """The layers that train are chosen when the update before is over, and all others are frozen."""
    shown = Shown(("gradient",))
    model, optimizer, tracker = measured(shown)
    parts = [model[0].requires_grad_(False), model[-1].requires_grad_(False)]
    with tracker:
        for part in (*parts, *parts):
            part.requires_grad_()
            optimizer.zero_grad()
            backward(model)
            optimizer.step()
            part.requires_grad_(False)
    moved = [step.gradient != 0 for step in shown.steps]
    assert not any(map(Tensor.all, moved))
    assert torch.equal(moved[0], moved[2])
    assert torch.equal(moved[0], ~moved[1])


def test_gradients_of_gradients_are_no_backward_pass():
    """A gradient penalty calls `torch.autograd.grad` first; only its backward pass accumulates."""
    shown = Shown(("gradient", "micro_batches"))
    model, optimizer, tracker = measured(shown)
    parameters = list(model.parameters())

    def loss(x, y):
        first = cross_entropy(model.eval()(x), y)
        inner = torch.autograd.grad(first, parameters, create_graph=True)
        return first + sum(g.square().sum() for g in inner)

    expected = [torch.autograd.grad(loss(X[a:b], Y[a:b]), parameters) for a, b in ((0, 10), (10, 20))]
    with tracker:
        for (x, y), weight in tracker.micro_batches((X[:20], Y[:20]), 2):
            (weight * loss(x, y)).backward()
        optimizer.step()
    for part, wanted in zip(shown.steps[0].micro_batches, expected, strict=True):
        torch.testing.assert_close(part.gradient, torch.cat([g.reshape(-1) for g in wanted]))


def test_sparse_gradients_are_those_of_their_micro_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(7, 3, sparse=True), nn.Linear(3, 3)).double()
    tokens, labels = torch.arange(20).reshape(10, 2) % 7, torch.arange(10) % 3
    optimizer, shown = torch.optim.SGD(model.parameters(), lr=0.1), Shown(("gradient", "micro_batches"))
    objective = Objective(model, cross_entropy, (tokens, labels), batch_size=10)

    def dense(rows):
        loss = cross_entropy(model(tokens[rows]), labels[rows])
        return torch.cat(
            [g.to_dense().reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]
        )

    expected = [dense(slice(0, 5)), dense(slice(5, 10))]
    with Tracker(model, optimizer, objective, shown, on_error="raise") as tracker:
        for (x, y), weight in tracker.micro_batches((tokens, labels), 2):
            (weight * cross_entropy(model(x), y)).backward()
        optimizer.step()
    for part, wanted in zip(shown.steps[0].micro_batches, expected, strict=True):
        torch.testing.assert_close(part.gradient, wanted)


def test_labels_that_are_ignored_make_batches_differ():
    model, optimizer, tracker = measured(CrossFit(2))
    y = Y[:20].clone()
    y[:3] = -100
    with tracker:
        for x, labels in tracker.batches([(X[:10], y[:10]), (X[10:20], y[10:])]):
            cross_entropy(model(x), labels).backward()
        with pytest.raises(LCAError, match="pass weight= to tracker.batches"):
            optimizer.step()
    with pytest.raises(LCAError, match="the weight of a batch is a number ≥ 0, got -1"):
        tracker.begin_batch(weight=-1)


def test_the_tensors_of_a_batch_may_be_passed_on_apart():
    model, optimizer, tracker = measured(shown := Shown(("batch",)))
    with tracker:
        for told in (
            lambda: tracker.begin_batch(X[:10], Y[:10]),
            lambda: tracker.begin_batch((X[:10], Y[:10])),
        ):
            told()
            optimizer.zero_grad()
            cross_entropy(model(X[:10]), Y[:10]).backward()
            optimizer.step()
    for step in shown.steps:
        (batch,) = step.batch if isinstance(step.batch, list) else [step.batch]
        torch.testing.assert_close(batch, (X[:10], Y[:10]))


def test_batches_that_are_told_their_weight_keep_it_when_they_are_split():
    shown = Shown(("micro_batches",))
    model, optimizer, tracker = measured(shown)
    pieces = [(slice(0, 5), 5 / 14), (slice(5, 10), 5 / 14), (slice(10, 12), 2 / 14), (slice(12, 14), 2 / 14)]
    expected = [gradient(model, rows) for rows, _ in pieces]
    with tracker:
        loader = [(X[:10], Y[:10]), (X[10:14], Y[10:14])]
        for batch in tracker.batches(loader, weight=lambda batch: len(batch[0])):
            for (x, y), share in tracker.micro_batches(batch, 2):
                (share * len(batch[0]) / 14 * cross_entropy(model.eval()(x), y)).backward()
        optimizer.step()
    for part, wanted in zip(shown.steps[0].micro_batches, expected, strict=True):
        torch.testing.assert_close(part.gradient, wanted)
