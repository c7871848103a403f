"""The trainers of other libraries: Lightning, Fabric, transformers, accelerate; models of transformers."""

# ruff: noqa: E731 - a named lambda keeps a case short

import logging
import tempfile
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lca.estimators import CrossFit
from lca_torch import Objective
from validation.wild.nets_torch import mlp
from validation.wild.small_torch import tokens, torch_case, vectors

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning
    import lightning.pytorch as pl
    import transformers
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

for _name in ("lightning.pytorch", "lightning.fabric", "transformers"):
    logging.getLogger(_name).setLevel(logging.ERROR)
transformers.utils.logging.set_verbosity_error()


# --- models of transformers in a plain loop ---------------------------------------------------------------


def language_model(run, model, batch, *, steps=3, lr=0.01, **options):
    """The model's own loss on rows of tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    truth = lambda: model(**batch).loss
    with run.measuring(model, optimizer, lambda: Objective(model, None, batch, **options), truth):
        for step in range(steps):
            model.train()
            part = {key: value[step::3].contiguous() for key, value in batch.items()}
            optimizer.zero_grad()
            model(**part).loss.backward()
            optimizer.step()
    return model, optimizer


SIZES = {"vocab_size": 13, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@torch_case("GPT-2 of transformers")
def _(run):
    config = transformers.GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    x = tokens(12)
    return language_model(run, transformers.GPT2LMHeadModel(config), {"input_ids": x, "labels": x})


@torch_case("GPT-2 of transformers, padded labels of −100")
def _(run):
    config = transformers.GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    x = tokens(12)
    labels = x.masked_fill(torch.arange(7) >= torch.randint(2, 8, (12, 1)), -100)
    batch = {"input_ids": x, "labels": labels}
    weight = lambda batch: float((batch["labels"][:, 1:] != -100).sum())
    return language_model(run, transformers.GPT2LMHeadModel(config), batch, batch_weight=weight, batch_size=5)


@torch_case("BERT for classification of transformers")
def _(run):
    config = transformers.BertConfig(**SIZES, intermediate_size=16, max_position_embeddings=8, num_labels=3)
    batch = {"input_ids": tokens(12), "labels": torch.randint(3, (12,))}
    batch["attention_mask"] = (torch.arange(7) < torch.randint(2, 8, (12, 1))).long()
    return language_model(run, transformers.BertForSequenceClassification(config), batch)


@torch_case("T5 of transformers")
def _(run):
    config = transformers.T5Config(
        vocab_size=13, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    batch = {"input_ids": tokens(12), "labels": tokens(12, 4)}
    return language_model(run, transformers.T5ForConditionalGeneration(config), batch, lr=0.003)


@torch_case("Llama of transformers")
def _(run):
    config = transformers.LlamaConfig(
        **SIZES, intermediate_size=16, num_key_value_heads=1, max_position_embeddings=8
    )
    x = tokens(12)
    return language_model(run, transformers.LlamaForCausalLM(config), {"input_ids": x, "labels": x}, lr=0.003)


@torch_case("ViT of transformers")
def _(run):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8,
        patch_size=4, num_labels=3,
    )  # fmt: skip
    batch = {"pixel_values": torch.randn(12, 3, 8, 8), "labels": torch.randint(3, (12,))}
    return language_model(run, transformers.ViTForImageClassification(config), batch)


@torch_case("LoRA adapters by hand on a frozen GPT-2, frozen='omit'")
def _(run):
    config = transformers.GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config).requires_grad_(False)

    class LoRA(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.a, self.b = nn.Parameter(torch.randn(8, 2) * 0.3), nn.Parameter(torch.zeros(2, 16))

        def forward(self, x):
            return self.base(x) + x @ self.a @ self.b

    mlp_block = model.transformer.h[0].mlp
    mlp_block.c_fc = LoRA(mlp_block.c_fc)
    mlp_block.c_fc.b = nn.Parameter(torch.zeros(2, mlp_block.c_fc.base.nf))
    x = tokens(12)
    return language_model(run, model, {"input_ids": x, "labels": x}, frozen="omit", lr=0.05)


# --- trainers ---------------------------------------------------------------------------------------------


class Module(pl.LightningModule):
    """An MLP, or a `net`, on pairs."""

    def __init__(self, net=None, optimizer=torch.optim.Adam, lr=0.02):
        super().__init__()
        self.net, self.make, self.lr = net or mlp(6, 8, 3), optimizer, lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.make(self.parameters(), lr=self.lr)


def lightning_fit(run, module=None, *, callbacks=(), options=None, data=None, measured=None, **trainer):
    """One epoch of batches of six."""
    module, (x, y) = module or Module(), data or vectors(36)
    loader = DataLoader(TensorDataset(x, y), 6, shuffle=data is None)
    objective = measured or (lambda module: Objective(module, F.cross_entropy, (x, y)))
    own = run.lightning(objective, lambda module: F.cross_entropy(module(x), y), **(options or {}))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    fit = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        enable_model_summary=False,
        callbacks=[*callbacks, *own],
        **quiet,
        **trainer,
    )
    fit.fit(module, loader)
    return module.net, fit.optimizers


@torch_case("Lightning fit")
def _(run):
    return lightning_fit(run)


@torch_case("Lightning fit, accumulation and clipping")
def _(run):
    return lightning_fit(run, accumulate_grad_batches=2, gradient_clip_val=0.1)


def _the_same_batch(times):
    """Six examples again and again: what is estimated from one batch holds for the others."""
    x, y = vectors(6)
    return x.repeat(times, 1), y.repeat(times)


@torch_case("Lightning fit, CrossFit with accumulation", tolerance=0.05)
def _(run):
    options = {"estimator": CrossFit(micro_batches=2)}
    module = Module(optimizer=torch.optim.SGD, lr=0.1)
    return lightning_fit(run, module, data=_the_same_batch(12), options=options, accumulate_grad_batches=2)


@torch_case("Lightning fit, CrossFit with accumulation and strong clipping", tolerance=0.05)
def _(run):
    return lightning_fit(
        run, Module(optimizer=torch.optim.SGD, lr=0.2), data=_the_same_batch(12),
        options={"estimator": CrossFit(micro_batches=2)}, accumulate_grad_batches=2, gradient_clip_val=0.02,
    )  # fmt: skip


@torch_case("Lightning BaseFinetuning: the body is unfrozen half-way")
def _(run):
    class Finetuning(pl.callbacks.BaseFinetuning):
        def freeze_before_training(self, pl_module):
            self.freeze(pl_module.net[0])

        def finetune_function(self, pl_module, epoch, optimizer):
            """By batches instead, in `on_train_batch_start`."""

        def on_train_batch_start(self, trainer, pl_module, batch, index):
            if index == 3:
                self.unfreeze_and_add_param_group(pl_module.net[0], trainer.optimizers[0], lr=0.1)

    class Finetuned(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(filter(lambda p: p.requires_grad, self.parameters()), lr=0.1)

    return lightning_fit(run, Finetuned(), callbacks=[Finetuning()])


@torch_case("Lightning StochasticWeightAveraging-like swap at the end")
def _(run):
    class Swap(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            self.mean = [p.detach().clone() for p in pl_module.parameters()]

        def on_train_batch_end(self, trainer, pl_module, *batch):
            for mean, p in zip(self.mean, pl_module.parameters(), strict=True):
                mean.lerp_(p.detach(), 0.5)

        def on_train_epoch_end(self, trainer, pl_module):
            with torch.no_grad():
                for mean, p in zip(self.mean, pl_module.parameters(), strict=True):
                    p.copy_(mean)

    return lightning_fit(run, callbacks=[Swap()])


@torch_case("Lightning manual optimization with two optimizers")
def _(run):
    class Manual(Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, index):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(self.net[i].parameters(), 0.1) for i in (0, 2)]

    return lightning_fit(run, Manual())


@torch_case("Lightning in bf16-mixed precision", tolerance=0.1, eps=4e-3)
def _(run):
    x, y = data = vectors(36)

    def measured(module):
        return Objective(module, F.cross_entropy, (x, y), autocast=torch.bfloat16)

    return lightning_fit(run, data=data, measured=measured, precision="bf16-mixed")


@torch_case("Fabric")
def _(run):
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    model, (x, y) = mlp(6, 8, 3), vectors(30)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wrapped, stepped = fabric.setup(model, optimizer)
    loader = fabric.setup_dataloaders(DataLoader(TensorDataset(x, y), 6, shuffle=True))
    objective, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, optimizer, objective, truth):
        for inputs, labels in loader:
            run.note(inputs)
            stepped.zero_grad()
            fabric.backward(F.cross_entropy(wrapped(inputs), labels))
            fabric.clip_gradients(wrapped, stepped, max_norm=0.5)
            stepped.step()
    return model, optimizer


@torch_case("Fabric, the wrapped model and optimizer are tracked")
def _(run):
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    model, (x, y) = mlp(6, 8, 3), vectors(30)
    wrapped, stepped = fabric.setup(model, torch.optim.SGD(model.parameters(), 0.1))
    objective = lambda: Objective(wrapped, F.cross_entropy, (x, y))
    with run.measuring(wrapped, stepped, objective, lambda: F.cross_entropy(wrapped(x), y)):
        for i in range(0, 30, 6):
            stepped.zero_grad()
            fabric.backward(F.cross_entropy(wrapped(x[i : i + 6]), y[i : i + 6]))
            stepped.step()
    return model, stepped.optimizer


@torch_case("accelerate with accumulation and clipping")
def _(run):
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, (x, y) = mlp(6, 8, 3), vectors(36)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loader = DataLoader(TensorDataset(x, y), 6)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    objective, truth = lambda: Objective(model, F.cross_entropy, (x, y)), lambda: F.cross_entropy(model(x), y)
    with run.measuring(model, optimizer, objective, truth):
        for inputs, labels in loader:
            run.note(inputs)
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(inputs), labels))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.3)
                optimizer.step()
                optimizer.zero_grad()
    return model, optimizer.optimizer


def hugging_face(run, *, options=None, labels=None, **arguments):
    """Two epochs of a small GPT-2."""
    config = transformers.GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    config.bos_token_id = config.eos_token_id = 0
    model, x = transformers.GPT2LMHeadModel(config), tokens(24)
    labels = x if labels is None else labels(x)
    batch = {"input_ids": x, "labels": labels}
    count = lambda batch: float((batch["labels"][:, 1:] != -100).sum())
    measured = lambda model: Objective(model, None, batch, batch_weight=count)
    callbacks = run.huggingface(measured, lambda model: model(**batch).loss, **(options or {}))
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model,
            transformers.TrainingArguments(
                folder, per_device_train_batch_size=6, use_cpu=True, report_to=[], disable_tqdm=True, seed=3,
                save_strategy="no", logging_strategy="no",
                **({"num_train_epochs": 1, "learning_rate": 0.01} | arguments),
            ),
            train_dataset=[{"input_ids": a, "labels": b} for a, b in zip(x, labels, strict=True)],
            callbacks=callbacks,
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return model, trainer.optimizer.optimizer


def _padded(x):
    return x.masked_fill(torch.arange(7) >= torch.randint(2, 8, (24, 1)), -100)


@torch_case("transformers Trainer, clipping")
def _(run):
    return hugging_face(run, max_grad_norm=0.5)


@torch_case("transformers Trainer, accumulation")
def _(run):
    return hugging_face(run, gradient_accumulation_steps=2, num_train_epochs=2)


@torch_case("transformers Trainer, padded tokens, normalised over the accumulated batches")
def _(run):
    return hugging_face(run, labels=_padded, gradient_accumulation_steps=2, num_train_epochs=2)


@torch_case("transformers Trainer, CrossFit, micro-batches of unequal numbers of tokens", tolerance=0.1)
def _(run):
    """The rows are the same; of half of them every label is ignored."""

    def labels(x):
        x[:] = x[0].clone()
        return torch.where(torch.arange(24)[:, None] % 2 == 0, x, -100)

    return hugging_face(
        run, labels=labels, gradient_accumulation_steps=2, num_train_epochs=3, optim="sgd", learning_rate=0.1,
        options={"estimator": CrossFit(micro_batches=2)},
    )  # fmt: skip
