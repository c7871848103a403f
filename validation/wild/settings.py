"""A user's module of settings: schedules write here, losses read."""

from dataclasses import dataclass

OPTIONS = {"beta": 0.0}


@dataclass
class Config:
    """A schedule sets its field."""

    beta: float = 0.0


CONFIG = Config()
