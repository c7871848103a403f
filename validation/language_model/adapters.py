"""LoRA adapters on the linear layers of a GPT: by peft where it is installed, else by hand."""

import re

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from validation.language_model.gpt import GPT

ADAPTED = ("attention.qkv", "attention.out_proj", "mlp.0", "mlp.2")
"""The layers of a block that get an adapter."""


class Adapted(nn.Module):
    """``base(x) + scale · x Aᵀ Bᵀ`` with a frozen linear layer; B begins at 0, where nothing is changed."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), scale
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.scale * linear(linear(x, self.lora_A), self.lora_B)
        return out


def with_adapters(model: GPT, rank: int = 4, *, by_hand: bool | None = None) -> tuple[nn.Module, str]:
    """The model with all of its own parameters frozen, and adapters of a rank; and who made them.

    ``by_hand``: ``None`` uses peft where it is installed.
    """
    if by_hand is not True:
        try:
            from peft import LoraConfig, get_peft_model  # noqa: PLC0415
        except ImportError:
            if by_hand is False:
                raise
        else:
            config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(ADAPTED))
            return get_peft_model(model, config), "peft"
    model.requires_grad_(False)
    for block in model.blocks:
        for place in ADAPTED:
            parent, _, name = place.rpartition(".")
            owner = block.get_submodule(parent)
            setattr(owner, name, Adapted(getattr(owner, name), rank, scale=2.0))
    return model, "by hand"


def adapter_of(name: str) -> str:
    """The adapter to which a tensor belongs, by block and layer.

    >>> adapter_of("base_model.model.blocks.2.mlp.0.lora_A.default.weight")
    '2 mlp.0'
    """
    [(block, place)] = re.findall(rf"blocks\.(\d+)\.({'|'.join(map(re.escape, ADAPTED))})\.", name)
    return f"{block} {place}"
