"""Which modules belong to libraries that keep no state of the user."""

_LIBRARIES = frozenset(
    {
        *("abc", "builtins", "collections", "functools", "math", "operator", "typing"),
        *("accelerate", "huggingface_hub", "lightning", "lightning_fabric", "lightning_utilities", "numpy"),
        *("peft", "pytorch_lightning", "timm", "torch", "torchmetrics", "torchvision", "transformers"),
        *("lca", "lca_torch"),
    }
)


def in_library(module: str) -> bool:
    """Whether a module, by its name, is part of a known library.

    >>> in_library("torch.nn.functional"), in_library("__main__")
    (True, False)
    """
    return module.partition(".")[0] in _LIBRARIES
