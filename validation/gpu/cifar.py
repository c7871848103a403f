"""Part (c): ResNet-20 on CIFAR-10, every step exact for all 45,000 images, as many steps as there is time."""

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lca
from lca.views import GroupTotals, Trace
from lca_torch import Objective, Tracker
from validation.bench_torch.resnet20 import resnet20
from validation.bench_torch.run import cifar_like
from validation.evidence import data_folder
from validation.gpu.setting import Setting

TRAINING, BATCH = 45_000, 250


def images(examples: int) -> tuple[Tensor, Tensor, str]:
    """The first images of CIFAR-10 (n, 3, 32, 32), normalised, their labels, and what they are.

    Random images of the same size where the file is missing: the times are then the same, and the
    allocations mean nothing.
    """
    path = data_folder() / "cifar10_jpeg.npz"
    if not path.exists():
        return *cifar_like(examples), f"random, as {path} is missing"
    return *decoded(path, examples), "CIFAR-10, re-encoded as JPEG"


def decoded(path: Path, examples: int) -> tuple[Tensor, Tensor]:
    """The first images of a file of JPEGs, normalised by their mean and deviation, and their labels."""
    from PIL import Image  # noqa: PLC0415 - only with the file

    with np.load(path) as stored:
        content, offsets = stored["jpeg_train"].tobytes(), stored["offset_train"]
        labels = stored["y_train"][:examples].astype(np.int64).reshape(-1)
    pixels = [np.asarray(Image.open(BytesIO(content[offsets[i] : offsets[i + 1]]))) for i in range(examples)]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    return x, torch.from_numpy(labels)


class Layers:
    """A view: the totals of the layers, and the scalars of every step."""

    def __init__(self, layout: lca.Layout) -> None:
        self.layers, self.trace = GroupTotals(layout.groups("layer")), Trace()

    def update(self, allocation: lca.StepAllocation) -> None:
        self.layers.update(allocation)
        self.trace.update(allocation)

    def results(self) -> dict[str, Any]:
        """The totals of the layers, and the residual."""
        rows = self.trace.rows
        return {
            "steps": len(rows),
            "loss_start": float(rows["loss_start"][0]),
            "loss_end": float(rows["loss_end"][-1]),
            "residual": float(rows["residual"].sum()),
            "unconverged": int((~rows["converged"]).sum()),
            "gradients_per_step": float(rows["full_gradients"].mean()),
            "layers": self.layers.by_name(),
        }


def every_step(setting: Setting) -> None:
    """SGD with momentum; results are written every few seconds."""
    torch.manual_seed(0)
    x, y, what = images(40 if setting.small else TRAINING)
    x, y = x.to(setting.device), y.to(setting.device)
    model, loss_fn = resnet20().to(setting.device), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    objective = Objective(model, loss_fn, (x, y), batch_size=20 if setting.small else 1_500)
    estimator = lca.Adaptive(max_gradients=1 if setting.small else 9)  # steps that need more are counted
    tracker = Tracker(model, optimizer, objective, estimator, views=Layers, on_error="raise")
    batch = min(BATCH, len(x) // 2)
    began = written = time.monotonic()
    with tracker:
        while setting.left > 0 and (tracker.steps < 2 or not setting.small):
            part = torch.randint(len(x), (batch,), device=setting.device)
            optimizer.zero_grad()
            loss_fn(model(x[part]), y[part]).backward()
            optimizer.step()
            now = time.monotonic()
            if now - written > 5 or tracker.steps == 2:
                written = now
                view: Any = tracker.views["train"]
                setting.results.add(
                    data=what, examples=len(x), seconds=now - began, parameters=273_066, **view.results()
                )
