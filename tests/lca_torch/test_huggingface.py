"""`TrainerCallback` in real runs of `transformers.Trainer`, on a small GPT-2 with tied embeddings."""

import copy
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import cross_entropy

import lca
from lca import RIGHT, tolerances
from lca.analysis import group_totals
from lca.errors import LCAError, LCAWarning
from lca.estimators import CrossFit, LaggedCrossFit, NextBatch, SameBatch
from lca.tracking._causes import IN_ORDER
from lca_torch import Objective, replay
from tests.laws.callbacks import LAWS, one_warning
from tests.laws.runs import Kept, Shown

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of transformers and its dependencies about each other, at import
    import transformers
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertForTokenClassification,
        DistilBertConfig,
        DistilBertForMaskedLM,
        GPT2Config,
        GPT2LMHeadModel,
        ModernBertConfig,
        ModernBertForMaskedLM,
        Trainer,
        TrainingArguments,
    )

    from lca_torch.huggingface import TrainerCallback, TrainerLog

# transformers and accelerate about pinned memory without a GPU, and calls that torch deprecates; told apart
# by the module they are attributed to, so those of lca stay errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the model trains with"),
    pytest.mark.filterwarnings(r"ignore:::transformers\."),
    pytest.mark.filterwarnings(r"ignore:::accelerate\."),
    pytest.mark.filterwarnings(r"ignore:::torch\."),
]

RULE = lca.PathIntegral(lca.composite(lca.SIMPSON, 8))  # the first steps with Adam turn the embeddings around
TOKENS = torch.randint(20, (32, 8), generator=torch.Generator().manual_seed(1))
DATA = [{"input_ids": row, "labels": row} for row in TOKENS]


def gpt2(n_positions=8, loss_type="ForCausalLM"):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=20,
            n_positions=n_positions,
            n_embd=8,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
            **({"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if n_positions > 8 else {}),
        )
    )
    model.loss_type = loss_type  # by default the trainer counts labels that the loss passes over
    return model


def measure(model):
    return Objective(model, None, {"input_ids": TOKENS, "labels": TOKENS}, batch_size=32)


def train(model, folder, *callbacks, trainer=Trainer, data=DATA, resume=None, **options):
    """Two epochs of eight batches, which may continue from a checkpoint."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        seed=3,
        **({"save_strategy": "no", "learning_rate": 0.01} | options),
    )
    made = trainer(model, arguments, train_dataset=data, callbacks=list(callbacks))
    made.train(resume_from_checkpoint=resume)
    return model


class TrainerFramework:
    """See `tests.laws.callbacks.CallbackFramework`."""

    updates = 5
    tells_updates = True
    epoch = None  # it is not over
    lasts_as_its_call = True
    advice = {
        "batch": "use a Tracker around a training loop of your own",
        "micro_batches": r"TrainingArguments\(gradient_accumulation_steps=2\); the last update of an epoch",
    }  # scores: the model's own loss takes no weights of examples, which is said first

    def __init__(self, folder):
        self.folder = folder

    def callback(self, *, impossible=False, **options):
        return TrainerCallback(impossible_objective if impossible else measure, **options)

    def fit(self, callback, *, stop_after=None):
        class Stop(transformers.TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == stop_after:
                    raise KeyError("enough")

        model, callbacks = gpt2(), [*filter(None, [callback]), Stop()]
        train(model, self.folder, *callbacks, max_steps=self.updates)
        return [parameter.detach().numpy() for parameter in model.parameters()]


def impossible_objective(model):
    return Objective(model, None, {"input_ids": TOKENS})  # without labels there is no loss


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law, tmp_path):
    law(TrainerFramework(tmp_path / "trainer"), tmp_path)


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 16), (3, 6)])
def test_run_is_the_same_with_it_and_the_allocation_adds_up(accumulate, steps, tmp_path):
    plain = train(gpt2(), tmp_path, gradient_accumulation_steps=accumulate)
    model, callback = gpt2(), TrainerCallback(measure, RULE)
    before = measure(model).theta()
    train(model, tmp_path, callback, gradient_accumulation_steps=accumulate)
    assert same(model, plain)

    objective, rows = measure(model), callback.views["train"].trace.rows
    change = objective.loss(objective.theta()) - objective.loss(before)
    total = rows["total"].sum() + rows["residual"].sum()
    assert abs(total - change) <= tolerances.repeat(objective.loss(before), 2.0**-23)
    assert abs(rows["residual"].sum()) < 1e-3 * abs(change)
    assert len(rows) == callback.steps == callback.summary()["train"]["steps"] == steps
    assert "lm_head.weight" not in callback.summary()["train"]["per_tensor"]  # tied: counted once


def test_several_losses_of_dictionaries_of_tensors(tmp_path):
    """Train and held-out loss, the latter with masked tokens and so weighted by those that count."""
    heldout = torch.randint(20, (7, 8), generator=torch.Generator().manual_seed(2))
    labels = heldout.clone()
    labels[::2, 4:] = -100

    def tokens_that_count(batch):
        return float((batch["labels"][:, 1:] != -100).sum())

    def losses(model):
        data = {"input_ids": heldout, "labels": labels}
        options = {"batch_size": 3, "batch_weight": tokens_that_count}
        return {"train": measure(model), "heldout": Objective(model, None, data, **options)}

    model, callback = gpt2(), TrainerCallback(losses, RULE)
    plain = train(gpt2(), tmp_path, max_steps=3)
    before = losses(model)["heldout"].theta()
    train(model, tmp_path, callback, max_steps=3)
    assert same(model, plain)
    for name, objective in losses(model).items():
        summary, theta = callback.summary()[name], objective.theta()
        assert (summary["loss_start"], summary["loss_end"]) == (objective.loss(before), objective.loss(theta))
        change = summary["loss_end"] - summary["loss_start"]
        assert abs(summary["lca_total"] - change) < 1e-3 * summary["mass"]
    with torch.no_grad():
        whole = float(model.eval()(input_ids=heldout, labels=labels).loss)
    eps = float(torch.finfo(torch.float32).eps)
    found = callback.summary()["heldout"]["loss_end"]
    assert abs(found - whole) <= tolerances.summed(whole, eps)


def test_sharded_checkpoints_give_what_the_live_run_gave(tmp_path):
    """Saved by `transformers` itself, in shards, with the embeddings under one of their two names."""

    class Save(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, model, **kwargs):
            model.save_pretrained(tmp_path / f"step-{state.global_step}", max_shard_size="3KB")

        on_step_end = on_train_begin

    model, callback = gpt2(), TrainerCallback(measure, RULE)
    train(model, tmp_path / "unused", Save(), callback, max_steps=3)
    assert len(list((tmp_path / "step-0").glob("*.safetensors"))) > 1
    objective, rows = measure(model), callback.views["train"].trace.rows
    checkpoints = [tmp_path / f"step-{t}" for t in range(4)]
    again = list(lca.allocate(objective, replay(checkpoints, objective), RULE))
    assert [a.loss_end for a in again] == list(rows["loss_end"])
    assert [a.residual for a in again] == list(rows["residual"])


def test_no_hook_is_left_behind_and_a_run_begins_anew(tmp_path):
    optimizers = []

    class Keep(transformers.TrainerCallback):
        def on_train_begin(self, *args, optimizer, **kwargs):
            optimizers.append(optimizer.optimizer)

    callback, model = TrainerCallback(measure), gpt2()
    for _ in range(2):
        train(model, tmp_path, Keep(), callback, max_steps=3)
        optimizers[-1].step()
        assert callback.steps == 3


@pytest.mark.usefixtures("whole_micro_batches")
def test_accumulated_batches_are_micro_batches(tmp_path):
    callback = TrainerCallback(measure, CrossFit(2), views=Kept, on_error="raise")
    model = train(gpt2(), tmp_path, callback, gradient_accumulation_steps=2)
    assert same(model, train(gpt2(), tmp_path, gradient_accumulation_steps=2))
    rows = callback.views["train"].rows
    assert len(rows) == 7
    assert callback.skipped_steps == 1
    for row, following in zip(rows[:-1], rows[1:], strict=True):
        first, second = following.source.micro_batches
        assert not torch.equal(first.gradient, second.gradient)
        gap = (first.gradient + second.gradient) / 2 - row.source.next_gradient
        scale = float(row.source.next_gradient.abs().max())
        assert float(gap.abs().max()) <= tolerances.gradient(scale, 2.0**-23)


def test_an_update_from_the_batches_left_over_in_an_epoch_is_measured(tmp_path):
    """The trainer divides by the number of those."""
    callback = TrainerCallback(measure, SameBatch(), on_error="raise")
    train(gpt2(), tmp_path, callback, gradient_accumulation_steps=3, max_steps=3)
    assert (callback.steps, callback.skipped_steps) == (3, 0)


WORDS, LENGTH = 12, 10


def sentences(count, seed):
    """Rows in which a token mostly follows from the one before; the labels of some end early."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(WORDS, (count, LENGTH), generator=generator)
    for t in range(1, LENGTH):
        follows = torch.rand(count, generator=generator) < 0.7
        rows[:, t] = torch.where(follows, (3 * rows[:, t - 1] + 1) % WORDS, rows[:, t])
    ends = torch.randint(2, LENGTH + 1, (count, 1), generator=generator)
    return {"input_ids": rows, "labels": torch.where(torch.arange(LENGTH) < ends, rows, -100)}


class WithMetric(Trainer):
    """A trainer that makes one more forward pass in training mode, as for a metric."""

    def compute_loss(self, model, inputs, *args, **options):
        found = super().compute_loss(model, inputs, *args, **options)
        with torch.no_grad():
            model(**inputs)
        return found


@pytest.mark.parametrize("clip", [0.1, 0.0])
def test_micro_batches_are_weighed_by_their_tokens_and_their_gradients_are_not_clipped(tmp_path, clip):
    rows, received = sentences(64, 1), []

    def collate(features):
        received.append({name: torch.stack([row[name] for row in features]) for name in features[0]})
        return dict(received[-1])

    def fit(*callbacks):
        model = gpt2(n_positions=LENGTH)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            max_steps=2,
            max_grad_norm=clip,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
        )
        data = [{name: column[i] for name, column in rows.items()} for i in range(64)]
        WithMetric(
            model, arguments, train_dataset=data, data_collator=collate, callbacks=list(callbacks)
        ).train()
        return model

    plain, shown = fit(), Shown(("gradient", "micro_batches"))
    received.clear()
    model = fit(TrainerCallback(measure_sentences, shown, on_error="raise"))
    assert same(model, plain)
    assert not model._forward_pre_hooks
    start = gpt2(n_positions=LENGTH).eval()
    parameters, weights, expected = list(start.parameters()), [], []
    for batch in received[:2]:
        loss = start(**batch).loss  # the mean over the tokens that count
        expected.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]))
        weights.append(float((batch["labels"][:, 1:] != -100).sum()))
    assert weights[0] != weights[1]
    step = shown.steps[0]
    for part, wanted in zip(step.micro_batches, expected, strict=True):
        torch.testing.assert_close(part.gradient, wanted, rtol=1e-3, atol=1e-5)
    mean = sum(w * g for w, g in zip(weights, expected, strict=True)) / sum(weights)
    torch.testing.assert_close(step.gradient, mean, rtol=1e-3, atol=1e-5)


def measure_sentences(model):
    def count(batch):
        return float((batch["labels"][:, 1:] != -100).sum())

    return Objective(model, None, sentences(64, 2), batch_size=64, batch_weight=count)


def bert(kind):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    drops = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return kind(BertConfig(vocab_size=WORDS, max_position_embeddings=LENGTH, num_labels=4, **sizes, **drops))


def distilbert():
    torch.manual_seed(0)
    sizes = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": LENGTH}
    return DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=WORDS, dropout=0.0, attention_dropout=0.0, **sizes)
    )


def modernbert():
    """Which divides by ``num_items_in_batch``, of labels that are not shifted."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ids = dict.fromkeys(["pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"], 0)
    config = ModernBertConfig(vocab_size=WORDS, max_position_embeddings=LENGTH, **sizes, **ids)
    return ModernBertForMaskedLM(config)


def tokens_that_count(labels):
    return float((labels != -100).sum())


SHIFTED, ALL = slice(1, None), slice(None)
MODELS = {
    "gpt2 as made": (lambda: gpt2(LENGTH, loss_type=None), SHIFTED, True),
    "gpt2": (lambda: gpt2(LENGTH), SHIFTED, True),
    "masked language model": (lambda: bert(BertForMaskedLM), ALL, False),
    "token classification": (lambda: bert(BertForTokenClassification), ALL, False),
    "distilled masked language model": (distilbert, ALL, False),
    "modern masked language model": (modernbert, ALL, True),
    "gpt2, three times its loss": (lambda: gpt2(LENGTH), SHIFTED, True),
    "gpt2, a mean outside the model": (lambda: gpt2(LENGTH), SHIFTED, False),
}


class Triple(Trainer):
    def compute_loss(self, *args, **options):
        return 3 * super().compute_loss(*args, **options)


class MeanOutside(Trainer):
    """Computes the loss of the model once more, and accumulates two of its means without dividing them."""

    def compute_loss(self, model, inputs, **options):
        logits, labels = model(**inputs).logits[:, :-1], inputs["labels"][:, 1:]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


TRAINERS = {"gpt2, three times its loss": Triple, "gpt2, a mean outside the model": MeanOutside}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_those_of_the_mean_over_the_labels_that_count(name, accumulate, tmp_path):
    """Whatever the trainer divides by. A model that takes the mean itself weighs its batches equally."""
    make, counted, by_tokens = MODELS[name]
    rows, received = sentences(64, 1), []
    if "token" in name:
        rows["labels"] = rows["labels"].clamp(max=3)

    def collate(features):
        received.append({name: torch.stack([row[name] for row in features]) for name in features[0]})
        return dict(received[-1])

    model, shown = make(), Shown(("gradient", "micro_batches") if accumulate > 1 else ("gradient",))

    def objective(model):
        return Objective(
            model,
            None,
            rows,
            batch_size=64,
            batch_weight=lambda b: tokens_that_count(b["labels"][:, counted]),
        )

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulate,
        max_steps=1,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    data = [{name: column[i] for name, column in rows.items()} for i in range(64)]
    callback = TrainerCallback(objective, shown, on_error="raise")
    trainer = TRAINERS.get(name, Trainer)(
        model, arguments, train_dataset=data, data_collator=collate, callbacks=[callback]
    )
    trainer.train()
    assert not model._forward_hooks
    assert "compute_loss" not in vars(trainer)

    start = make()
    parameters, weights, expected = list(start.parameters()), [], []
    for batch in received[:accumulate]:
        grads = torch.autograd.grad(start(**batch).loss, parameters, allow_unused=True)
        pairs = zip(grads, parameters, strict=True)
        expected.append(
            torch.cat([(p.new_zeros(p.numel()) if g is None else g.reshape(-1)) for g, p in pairs])
        )
        weights.append(tokens_that_count(batch["labels"][:, counted]) if by_tokens else 1.0)
    step = shown.steps[0]
    for part, wanted in zip(step.micro_batches, expected, strict=accumulate > 1):
        torch.testing.assert_close(part.gradient, wanted, rtol=1e-3, atol=1e-5)
    mean = sum(w * g for w, g in zip(weights, expected, strict=True)) / sum(weights)
    torch.testing.assert_close(step.gradient, mean, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("whole_micro_batches")
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.1])
def test_the_halves_of_a_batch_need_no_change_to_the_run(max_grad_norm, tmp_path):
    """The trainer clips by default; 0.1 is a tenth of the gradients here."""
    callback = TrainerCallback(measure, CrossFit(own_pass=True), views=Kept, on_error="raise")
    train(gpt2(n_positions=9), tmp_path, callback, max_grad_norm=max_grad_norm, max_steps=6)
    rows = callback.views["train"].rows
    assert [row.step for row in rows] == list(range(5))
    for row, following in zip(rows[:-1], rows[1:], strict=True):
        first, second = following.source.halves
        assert float((first.gradient - second.gradient).norm()) > 0.1
        ours = (first.gradient + second.gradient) / 2
        assert float((row.source.next_gradient - ours).abs().max()) <= tolerances.gradient(1.0, 2.0**-23)


def test_only_whole_epochs_are_compared_with_the_length_that_the_estimator_was_told(tmp_path):
    def fit(**options):
        callback = TrainerCallback(measure, Shown(epoch=20), views=Kept, on_error="raise")
        train(gpt2(), tmp_path, callback, **options)

    with one_warning("made 8 updates in an epoch, and Shown was given epoch=20"):
        fit(max_steps=11, save_strategy="steps", save_steps=11)
    fit(resume=True)  # in the middle of the second epoch


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.1])
def test_lagged_gradients_need_no_change_to_the_run(max_grad_norm, tmp_path):
    callback = TrainerCallback(measure, LaggedCrossFit(), views=Kept, on_error="raise")
    options = {"max_grad_norm": max_grad_norm, "max_steps": 6, "optim": "sgd", "learning_rate": 0.1}
    train(gpt2(), tmp_path, callback, **options)
    rows = callback.views["train"].rows
    assert [row.step for row in rows] == list(range(5))
    for row in rows:
        step = row.source
        limit = tolerances.gradient(1.0, 2.0**-23)
        assert float((step.update_slope * step.gradient - (step.end - step.start)).abs().max()) <= limit
        shrunk = max_grad_norm / float(step.gradient.norm()) if max_grad_norm else 1.0
        assert shrunk == 1.0 or shrunk < 0.9


def test_a_run_that_is_resumed_is_recorded_in_the_steps_of_the_trainer(tmp_path):
    """The last update before the stop lacks the gradient of the next one, so the record ends before it."""

    def part(**options):
        record = lca.Record(tmp_path / "run.zarr", mode="a")
        callback = TrainerCallback(measure, NextBatch(RIGHT), on_error="raise", record=record)
        train(gpt2(), tmp_path, callback, **options)

    part(max_steps=3, save_strategy="steps", save_steps=3)
    with pytest.warns(LCAWarning, match="continues at step 3 and has no row for step 2"):
        part(max_steps=6, resume=tmp_path / "checkpoint-3")
    assert lca.open_record(tmp_path / "run.zarr").step.values.tolist() == [0, 1, 3, 4]


def test_a_new_record_of_a_resumed_run_has_the_steps_of_the_trainer(tmp_path):
    train(gpt2(), tmp_path, max_steps=3, save_strategy="steps", save_steps=3)
    callback = TrainerCallback(measure, RULE, on_error="raise", record=tmp_path / "run.zarr")
    train(gpt2(), tmp_path, callback, max_steps=5, resume=tmp_path / "checkpoint-3")
    assert lca.open_record(tmp_path / "run.zarr").step.values.tolist() == [3, 4]
    assert (callback.steps, callback.tracker.estimate().steps) == (5, 2)


def test_halves_under_dropout_are_refused(tmp_path):
    callback = TrainerCallback(measure, CrossFit(own_pass=True), on_error="raise")
    with pytest.raises(LCAError, match="loss of training is not the measured one on its batch"):
        train(gpt2(), tmp_path, callback)


def test_a_model_that_is_measured_already_can_be_copied_and_measured_again(tmp_path):
    """The hook that counts labels does nothing in a copy, as in the replica of a second objective."""
    copies = []

    class Copy(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            copies.append(copy.deepcopy(model)(input_ids=TOKENS, labels=TOKENS))

    estimators = CrossFit(2), RULE, CrossFit(2, lca.LEFT)
    callbacks = [TrainerCallback(measure, estimator, on_error="raise") for estimator in estimators]
    train(gpt2(), tmp_path, *callbacks, Copy(), gradient_accumulation_steps=2, max_steps=3)
    assert [callback.steps for callback in callbacks] == [len(copies)] * 3
    assert callbacks[0].summary()["train"]["steps"] == 2


class Penalised(Trainer):
    def compute_loss(self, model, inputs, **options):
        return super().compute_loss(model, inputs, **options) + penalty(model)


def penalty(model):
    return 0.1 * model.transformer.wte.weight.square().sum()


def measure_penalised(model):
    def loss(model, batch):
        return model(**batch).loss + penalty(model)

    return Objective(model, None, {"input_ids": TOKENS, "labels": TOKENS}, batch_size=32, batch_loss=loss)


def smoothed(outputs, labels, num_items_in_batch):
    """Divided by the number of labels that the trainer counts, which passes over the first of each row."""
    logits, labels = outputs["logits"][:, :-1], labels[:, 1:]
    options = {"label_smoothing": 0.1, "reduction": "sum"}
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), **options) / num_items_in_batch


class OfFunction(Trainer):
    """Computes its loss from labels that the model does not get."""

    def __init__(self, *args, **options):
        super().__init__(*args, compute_loss_func=smoothed, **options)


def measure_smoothed(model):
    def loss(model, batch):
        return smoothed(model(batch["input_ids"]), batch["labels"], batch["labels"][:, 1:].numel())

    return Objective(model, None, {"input_ids": TOKENS, "labels": TOKENS}, batch_size=32, batch_loss=loss)


OTHER, UNKNOWN = "a loss that is not the model's own", "the weights of the accumulated batches"


@pytest.mark.parametrize(
    ("trainer", "objective", "options", "message"),
    [
        (Penalised, measure, {}, OTHER),
        (Trainer, measure, {"label_smoothing_factor": 0.1}, OTHER),
        (Penalised, measure_penalised, {}, None),
        (Penalised, measure_penalised, {"gradient_accumulation_steps": 2}, UNKNOWN),
        (OfFunction, measure_smoothed, {}, None),
        (OfFunction, measure_smoothed, {"gradient_accumulation_steps": 2}, UNKNOWN),
        (Trainer, measure_smoothed, {"label_smoothing_factor": 0.1}, None),
    ],
)
def test_a_loss_outside_the_model_has_to_be_the_measured_one(trainer, objective, options, message, tmp_path):
    """`CrossFit` compares the halves of a batch; and the trainer does not divide by the number of batches."""
    estimator = CrossFit(2) if "gradient_accumulation_steps" in options else CrossFit(own_pass=True)
    callback = TrainerCallback(objective, estimator, on_error="raise")
    with nullcontext() if message is None else pytest.raises(LCAError, match=message):
        train(gpt2(n_positions=9), tmp_path, callback, trainer=trainer, max_steps=3, **options)
    assert message or callback.summary()["train"]["steps"] == 2


def test_batches_that_are_left_over_may_be_part_of_the_next_update(tmp_path):
    """The trainer does not know where a stream ends, and passes the number of labels in each group."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(DATA[:12])

    callback = TrainerCallback(measure, LaggedCrossFit(), on_error="raise")
    options = {"data": Stream(), "gradient_accumulation_steps": 2, "max_steps": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trainer, that the stream is short
        train(gpt2(), tmp_path, callback, **options)
    assert callback.summary()["train"]["steps"] == 2


def test_the_largest_norm_may_change_in_the_run(tmp_path):
    class Off(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            args.max_grad_norm = 0.0

    callback = TrainerCallback(measure, LaggedCrossFit(), on_error="raise")
    train(gpt2(), tmp_path, callback, Off(), max_grad_norm=0.1, max_steps=3)
    assert callback.summary()["train"]["steps"] == 2


class InOrder(Trainer):
    """Reads its data as they are stored."""

    def _get_train_sampler(self, *args):
        return torch.utils.data.SequentialSampler(self.train_dataset)


@pytest.mark.parametrize(("trainer", "noted"), [(InOrder, True), (Trainer, False)])
def test_a_trainer_that_does_not_shuffle_is_noted_for_the_self_check(tmp_path, trainer, noted):
    seen = []

    class Looks(transformers.TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.extend(callback.tracker._session._check.seen)

    callback = TrainerCallback(measure, LaggedCrossFit(), on_error="raise")
    train(gpt2(n_positions=9), tmp_path, callback, Looks(), trainer=trainer, max_steps=2)
    assert (IN_ORDER in seen) == noted


def test_noise_on_embeddings_is_named(tmp_path):
    callback = TrainerCallback(measure, LaggedCrossFit(), on_error="raise")
    with pytest.warns(lca.errors.LCAWarning, match=r"dropout or noise \(transformer\.wte\)"):
        train(gpt2(n_positions=9), tmp_path, callback, neftune_noise_alpha=5.0, max_steps=2)


@pytest.mark.parametrize(("every", "steps"), [(None, [1, 3]), (1, [0, 1, 2, 3])])
def test_the_log_of_the_trainer_reaches_what_it_reports_to(tmp_path, every, steps):
    entries = []

    class Reported(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            entries.append(dict(logs))

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=4,
        logging_steps=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(gpt2(), arguments, train_dataset=DATA, callbacks=[Reported()])
    callback = TrainerCallback(measure, RULE, log_to=TrainerLog(trainer, every=every), on_error="raise")
    trainer.add_callback(callback)
    trainer.train()
    ours = [entry for entry in entries if "lca/step" in entry]
    assert [entry["lca/step"] for entry in ours] == steps
    losses = callback.views["train"].trace.rows["loss_end"]
    assert [entry["lca/train/loss"] for entry in ours] == losses[steps].tolist()
    assert sum("lca/step" in entry for entry in trainer.state.log_history) == len(steps)


def test_the_word_trainer_says_what_to_write_instead(tmp_path):
    with pytest.raises(LCAError, match=r"pass lca_torch\.huggingface\.TrainerLog\(trainer\)"):
        train(gpt2(), tmp_path, TrainerCallback(measure, log_to="trainer", on_error="raise"))


def test_groups_heads_rates_and_metrics_are_recorded_through_the_trainer(tmp_path):
    groups = {"attention": r"\.attn\.", "mlp": r"\.mlp\.", "norm": torch.nn.LayerNorm, "lr": "param_groups"}
    record = lca.Record(tmp_path / "run.zarr", values="float64", neurons=False)
    callback = TrainerCallback(measure, RULE, record=record, groups=groups, heads=2, on_error="raise")
    train(gpt2(), tmp_path, callback, logging_steps=4)
    summary, run = callback.summary()["train"], lca.open_record(tmp_path / "run.zarr")
    limit = tolerances.summed(summary["mass"], tolerances.EPS32)
    for sums in (*summary["per_group"].values(), summary["per_head"]):
        assert abs(sum(sums.values()) - summary["lca_total"]) <= limit
    assert set(summary["per_group"]["group"]) == {"attention", "mlp", "norm", "other"}
    assert list(summary["per_group"]["lr"]) == [
        "param_groups[0]",
        "param_groups[1]",
    ]  # with and without decay

    values = run["values"].values[:, 0].sum(axis=0)  # oracle: the entries of head 1 of the first block
    tensors = measure(gpt2()).layout.unflatten(values)
    columns = [8 * part + column for part in range(3) for column in range(4, 8)]
    name = "transformer.h.0.attn"
    own = tensors[f"{name}.c_attn.weight"][:, columns].sum() + tensors[f"{name}.c_attn.bias"][columns].sum()
    own += tensors[f"{name}.c_proj.weight"][4:].sum()
    assert abs(summary["per_head"][f"{name}[head 1]"] - own) <= limit
    assert abs(group_totals(run, "head").sum() - summary["lca_total"]) <= limit

    rates = run.learning_rate.values
    assert rates.shape == (16, 2)
    assert rates[0].tolist() == [0.01, 0.01]
    assert (rates[1:, 0] < rates[:-1, 0]).all()  # the trainer's linear schedule
    assert run.attrs["metrics"]["loss"]["step"] == [4, 8, 12, 16]
    assert not {"epoch", "learning_rate"} & set(run.attrs["metrics"])


@pytest.mark.parametrize("form", ["safetensors", "shards"])
def test_checkpoints_of_the_trainer_are_a_run(form, tmp_path):
    model = train(gpt2(), tmp_path, save_strategy="steps", save_steps=5, save_total_limit=None)
    objective = measure(model)
    if form == "shards":
        for folder in tmp_path.glob("checkpoint-*"):
            saved = GPT2LMHeadModel.from_pretrained(folder)
            (folder / "model.safetensors").unlink()
            saved.save_pretrained(folder, max_shard_size="4KB")
            assert (folder / "model.safetensors.index.json").exists()
    model.save_pretrained(tmp_path)  # the model of the end, as save_model writes it beside the checkpoints
    with pytest.warns(lca.errors.LCAWarning, match=r"left out, .*: model\.safetensors"):
        steps = list(replay(tmp_path, objective))
    assert [step.checkpoints for step in steps] == [(5, 10), (10, 15), (15, 16)]
    assert torch.equal(steps[-1].end, objective.theta())
    summary = lca.measure(objective, steps, record=tmp_path / "run.zarr", heads=2)
    assert lca.open_record(tmp_path / "run.zarr").step.values.tolist() == [5, 10, 15]
    assert summary["train"]["steps"] == 3
