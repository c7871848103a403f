"""Layers that are independent of each other, of many kinds: series of shape (steps, layers)."""

import numpy as np
from scipy.signal import lfilter

Generator = np.random.Generator


def white(rng: Generator, steps: int, layers: int) -> np.ndarray:
    """White noise."""
    return rng.normal(size=(steps, layers))


def autocorrelated(rng: Generator, steps: int, layers: int) -> np.ndarray:
    """An autoregression of first order, 0.8."""
    return np.asarray(lfilter([1.0], [1.0, -0.8], white(rng, steps + 50, layers), axis=0)[50:])


def changing(rng: Generator, steps: int, layers: int) -> np.ndarray:
    """An autoregression whose coefficient falls from 0.95 to 0."""
    rows, noise = np.zeros((steps, layers)), white(rng, steps, layers)
    for t in range(1, steps):
        rows[t] = 0.95 * (1 - t / steps) * rows[t - 1] + noise[t]
    return rows


def fading(rng: Generator, steps: int, layers: int) -> np.ndarray:
    """White noise that shrinks to a fiftieth."""
    return white(rng, steps, layers) * np.exp(-4 * np.arange(steps) / steps)[:, None]


def fall(rng: Generator, steps: int, layers: int) -> np.ndarray:
    """A common fall over a fifth of the run, with small noise."""
    return 0.05 * white(rng, steps, layers) - 3 * np.exp(-5 * np.arange(steps) / steps)[:, None]


def steep_fall(rng: Generator, steps: int, layers: int) -> np.ndarray:
    """A common fall over a twentieth of the run, with less noise."""
    return 0.005 * white(rng, steps, layers) - 3 * np.exp(-20 * np.arange(steps) / steps)[:, None]


def rhythm(rng: Generator, steps: int, layers: int) -> np.ndarray:
    """One period of 7.3 steps for all layers, each in its own phase."""
    phase = rng.uniform(0, 2 * np.pi, layers)
    return np.cos(2 * np.pi * np.arange(steps)[:, None] / 7.3 + phase) + 0.2 * white(rng, steps, layers)


def slow_rhythm(rng: Generator, steps: int, layers: int) -> np.ndarray:
    """One period of 30 steps for all layers, each in its own phase."""
    phase = rng.uniform(0, 2 * np.pi, layers)
    return np.cos(2 * np.pi * np.arange(steps)[:, None] / 30 + phase) + 0.02 * white(rng, steps, layers)


def alternating(rng: Generator, steps: int, layers: int) -> np.ndarray:
    """Up and down at every step, each layer from its own start, with noise."""
    return rng.choice([-1, 1], layers) * (-1.0) ** np.arange(steps)[:, None] + 0.7 * white(rng, steps, layers)


KINDS = {
    "white": white,
    "autocorrelated": autocorrelated,
    "changing": changing,
    "fading": fading,
    "fall": fall,
    "steep fall": steep_fall,
    "rhythm": rhythm,
    "slow rhythm": slow_rhythm,
    "alternating": alternating,
}
