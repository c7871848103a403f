"""The training loops, by name: each trains from the same start with any estimator."""

import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lca_torch import Objective, Tracker
from tests.lca_torch.real_loops import BATCH, LOOPS, data, network, optimizer_of, prepared
from validation.real_loops.case import Train

M = 2
CLIPS = (None, 1.0, 0.3, 0.1)


def plain_loops() -> Iterator[tuple[str, Train]]:
    """Loops in torch: plain, split, uneven batches, GradScaler, accelerate, Fabric."""
    for loop in LOOPS:
        for kind in ("sgd", "adamw"):
            for clip in CLIPS:
                yield f"{loop.__name__}, {kind}, clipping {clip or 'off'}", partial(_looped, loop, kind, clip)


def _looped(loop: Any, kind: str, clip: float | None, estimator: Any) -> Any:
    train, measured = data()
    model = network()
    optimizer = prepared(optimizer_of(model, kind), loop)
    size = BATCH * M if loop.__name__ == "split" else BATCH
    loader = DataLoader(TensorDataset(*train), batch_size=size)
    objective = Objective(model, cross_entropy, measured, batch_size=2000)
    with Tracker(model, optimizer, objective, estimator, on_error="raise") as tracker:
        loop(model, optimizer, tracker, loader, clip=clip, m=M)
    return tracker


def scoring_loops() -> Iterator[tuple[str, Train]]:
    """Loops that pass the scores of their examples; the measured data are those of training."""
    for kind, clip in (("sgd", None), ("adamw", 0.3)):
        yield f"scores in torch, {kind}, clipping {clip or 'off'}", partial(_scoring, kind, clip)
    yield "scores in Lightning, adamw, clipping 0.3", partial(_lightning, 0.3, scores=True)


def _scoring(kind: str, clip: float | None, estimator: Any) -> Any:
    (x, y), _ = data()
    model = network()
    optimizer = optimizer_of(model, kind)
    loader = DataLoader(TensorDataset(x, y, torch.arange(len(x))), batch_size=BATCH)
    objective = Objective(model, cross_entropy, (x, y), batch_size=2000)
    with Tracker(model, optimizer, objective, estimator, on_error="raise") as tracker:
        numbers = iter(loader)
        for x, y, index in numbers:
            for inputs, labels, number in ((x, y, index), next(numbers)):
                tracker.begin_batch((inputs, labels))
                outputs = model(inputs)
                tracker.scores(number, outputs, labels)
                (cross_entropy(outputs, labels) / M).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return tracker


def lightning_fits() -> Iterator[tuple[str, Train]]:
    """Fits of Lightning with accumulated batches."""
    for clip in CLIPS:
        yield f"Lightning, adamw, clipping {clip or 'off'}", partial(_lightning, clip)


def _lightning(clip: float | None, estimator: Any, *, scores: bool = False) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning.pytorch as pl  # noqa: PLC0415

        from lca_torch.lightning import LightningCallback  # noqa: PLC0415

    train, measured = data()
    if scores:
        measured, train = train, (*train, torch.arange(len(train[0])))

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, index: int) -> Any:
            x, y, *numbers = batch
            outputs = self.net(x)
            if scores:
                callback.tracker.scores(*numbers, outputs, y)
            return cross_entropy(outputs, y)

        def configure_optimizers(self) -> Any:
            return optimizer_of(self.net, "adamw")

    callback = LightningCallback(
        lambda module: Objective(module.net, cross_entropy, measured, batch_size=2000),
        estimator,
        on_error="raise",
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=M,
        gradient_clip_val=clip,
        callbacks=[callback],
        logger=False,
        **quiet,
    )
    trainer.fit(Module(), DataLoader(TensorDataset(*train), batch_size=BATCH))
    return callback.tracker


def trainer_runs() -> Iterator[tuple[str, Train]]:
    """Runs of Hugging Face's Trainer on sentences of different lengths."""
    for accumulate in (1, 2):
        for clip in CLIPS:
            name = f"HF Trainer, {accumulate} batches an update, clipping {clip or 'off'}"
            yield name, partial(_trained, accumulate, clip)


WORDS, LENGTH = 20, 12


def _sentences(count: int, seed: int) -> dict[str, torch.Tensor]:
    """Rows in which a token mostly follows from the one before; the labels of some end early."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(WORDS, (count, LENGTH), generator=generator)
    for t in range(1, LENGTH):
        follows = torch.rand(count, generator=generator) < 0.7
        rows[:, t] = torch.where(follows, (3 * rows[:, t - 1] + 1) % WORDS, rows[:, t])
    ends = torch.randint(2, LENGTH + 1, (count, 1), generator=generator)
    return {"input_ids": rows, "labels": torch.where(torch.arange(LENGTH) < ends, rows, -100)}


def _trained(accumulate: int, clip: float | None, estimator: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments  # noqa: PLC0415

        from lca_torch.huggingface import TrainerCallback  # noqa: PLC0415

    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    drops = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_positions=LENGTH, **sizes, **drops))
    rows = _sentences(16 * accumulate * 120, 1)
    examples = [{name: column[i] for name, column in rows.items()} for i in range(len(rows["labels"]))]

    def count(batch: Any) -> float:
        return float((batch["labels"][:, 1:] != -100).sum())

    def measured(model: Any) -> Any:
        return Objective(model, None, _sentences(1000, 2), batch_size=1000, batch_weight=count)

    callback = TrainerCallback(measured, estimator, on_error="raise")
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=accumulate,
            num_train_epochs=1,
            learning_rate=0.003,
            max_grad_norm=clip or 0.0,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
        )
        Trainer(model, arguments, train_dataset=examples, callbacks=[callback]).train()
    return callback.tracker


def keras_fits() -> Iterator[tuple[str, Train]]:
    """`fit` of Keras."""
    for clip in CLIPS:
        yield f"Keras fit, adamw, clipnorm {clip or 'off'}", partial(_keras, clip)


def _keras(clip: float | None, estimator: Any) -> Any:
    import keras  # noqa: PLC0415

    from lca_tensorflow import LCACallback  # noqa: PLC0415

    train, measured = data()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(10, "tanh"), keras.layers.Dense(4)], name="net"
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(0.003, global_clipnorm=clip), loss)
    x, y = (tensor.numpy().astype(kind) for tensor, kind in zip(measured, ("float32", "int64"), strict=True))
    callback = LCACallback(x, y, batch_size=2000, estimator=estimator, on_error="raise")
    inputs, labels = (tensor.numpy() for tensor in train)
    model.fit(inputs.astype("float32"), labels, batch_size=32, verbose=0, callbacks=[callback])
    return callback.tracker


ALL = {
    "torch": plain_loops,
    "scores": scoring_loops,
    "lightning": lightning_fits,
    "huggingface": trainer_runs,
    "keras": keras_fits,
}
