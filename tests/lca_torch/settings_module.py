"""A user's module of settings, which training changes."""

from dataclasses import dataclass

import numpy as np

BETA = 0.0
OPTIONS = {"beta": 0.0}
TABLE = [0.0]
WEIGHTS = np.zeros(2)


@dataclass
class Config:
    """Its field is changed, and nothing else."""

    beta: float = 0.0


CONFIG = Config()


def beta() -> float:
    """Reads a global of this module."""
    return BETA
