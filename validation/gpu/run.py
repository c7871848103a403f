"""What is to be seen on a GPU: the kit, the overhead, ResNet-20 on CIFAR, and how often the host waits.

`python -m validation.gpu.run` on a machine with CUDA. With ``--device cpu --steps 2 --examples 300`` it runs
anywhere, which says nothing about GPUs but keeps the command working.
"""

import argparse
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import lca
from lca.testing import ConformanceError, check_backend
from lca_torch import Objective, TorchBackend, Tracker
from validation.bench_torch.resnet20 import resnet20
from validation.bench_torch.run import LOSS, RULES, cifar_like, overhead
from validation.evidence import keep, mnist_path, verdict
from validation.mnist_fc_torch.run import he_normal_mlp, mnist

TRAINING, BATCH = 45_000, 250


def kit(device: str, *, tf32: bool) -> dict[str, Any]:
    """The checks of the torch backend that fail on this device."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    began = time.perf_counter()
    failed: list[str] = []
    try:
        check_backend(TorchBackend(device))
    except ConformanceError as error:
        failed = [line.split()[0] for line in str(error).splitlines() if "FAILED" in line]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return {"tf32": tf32, "failed": failed, "seconds": time.perf_counter() - began}


def cifar(examples: int, device: str) -> tuple[Tensor, Tensor]:
    """The first images of CIFAR-10's training set (re-encoded as JPEG), (n, 3, 32, 32), normalised."""
    stored = np.load_split(mnist_path().with_name("cifar10_jpeg.npz"))
    content, offsets = stored["jpeg_train"].tobytes(), stored["offset_train"]
    images = [np.asarray(Image.open(BytesIO(content[offsets[i] : offsets[i + 1]]))) for i in range(examples)]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    return x.to(device), torch.from_numpy(stored["y_train"][:examples].astype(np.int64)).to(device)


def resnet_on_cifar(device: str, examples: int, steps: int) -> dict[str, Any]:
    """SGD with momentum, every step allocated over all examples; the last one under the profiler."""
    torch.manual_seed(0)
    x, y = cifar(examples, device)
    model = resnet20().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    objective = Objective(model, LOSS, (x, y), batch_size=BATCH)
    tracker = Tracker(model, optimizer, objective, lca.Adaptive(tol=1e-3), on_error="raise")

    def train_step() -> None:
        part = torch.randint(len(x), (BATCH,), device=device)
        optimizer.zero_grad()
        LOSS(model(x[part]), y[part]).backward()
        optimizer.step()

    began = time.perf_counter()
    with tracker:
        for _ in tqdm(range(steps - 1), unit="step"):
            train_step()
        seconds = time.perf_counter() - began
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device != "cpu":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profile:
            train_step()
    waiting = ("Synchronize", "Memcpy DtoH", "aten::_local_scalar_dense")
    waits = {e.key: e.count for e in profile.key_averages() if any(name in e.key for name in waiting)}
    return {
        "examples": len(x),
        **tracker.summary()["train"],
        "seconds": seconds,
        "waits for the device in one step": waits,
    }


def main() -> None:
    """Everything, in order; results.json keeps device, versions and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--examples", type=int, default=TRAINING)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    device, small = options.device, options.examples < TRAINING
    if device == "cuda" and not torch.cuda.is_available():
        parser.exit(
            2, "no CUDA device here; nothing was measured. Try --device cpu --steps 2 --examples 300.\n"
        )
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "cuda": torch.version.cuda,
        "kit": [kit(device, tf32=tf32) for tf32 in (False, True)],
    }
    x, y = (tensor[: options.examples].to(device) for tensor in mnist().tensors)
    images = cifar_like(min(options.examples, 5_000), device)
    for name, rule in RULES.items():
        results[f"MNIST-FC, {name}"] = overhead(
            he_normal_mlp().to(device), (x, y), 5_000, rule, steps=3, rounds=options.rounds
        )
        results[f"ResNet-20, {name}"] = overhead(
            resnet20().to(device), images, BATCH, rule, steps=1, rounds=options.rounds
        )
    results["ResNet-20 on CIFAR-10"] = resnet_on_cifar(device, options.examples, options.steps)
    for name, figures in results.items():
        print(f"{name}: {figures}")
    if not small:
        keep(Path(__file__).parent, "results.json", results)
    ratios = {n: r["ratio"] for n, r in results.items() if isinstance(r, dict) and "ratio" in r}
    verdict(
        {"the kit passes with TF32 off": not results["kit"][0]["failed"]}
        | {f"{name}: {ratio:.3f} ≤ 1.03": ratio <= 1.03 for name, ratio in ratios.items()}
    )


if __name__ == "__main__":
    main()
