"""Clusters of examples by their trajectories, and how homogeneous the clusters are in a label."""

import numpy as np
from scipy.cluster.vq import kmeans2

CLUSTERS, STARTS = 8, 10
Array = np.ndarray


def clusters(trajectories: Array, seed: int) -> Array:
    """The cluster of each row (n, features): the best of several runs of k-means, (n,)."""
    best, smallest = np.zeros(len(trajectories), int), np.inf
    for start in range(STARTS):
        centres, found = kmeans2(trajectories, CLUSTERS, minit="++", rng=np.random.default_rng([seed, start]))
        spread = float(((trajectories - centres[found]) ** 2).sum())
        if spread < smallest:
            best, smallest = found, spread
    return best


def purity(found: Array, labels: Array) -> float:
    """The share of examples that have the most common label of their cluster.

    >>> purity(np.array([0, 0, 0, 1]), np.array(["yes", "yes", "no", "no"]))
    0.75
    """
    most = [np.unique(labels[found == each], return_counts=True)[1].max() for each in np.unique(found)]
    return float(np.sum(most) / len(found))


def homogeneity(found: Array, labels: Array) -> float:
    """``1 - H(label | cluster) / H(label)``: 1 if each cluster has one label, 0 if clusters tell nothing.

    >>> homogeneity(np.array([0, 0, 1, 1]), np.array(["yes", "yes", "no", "no"]))
    1.0
    >>> abs(round(homogeneity(np.array([0, 1, 0, 1]), np.array(["yes", "yes", "no", "no"])), 6))
    0.0
    """
    inside = sum((found == each).mean() * _entropy(labels[found == each]) for each in np.unique(found))
    return float(1 - inside / _entropy(labels))


def alike(trajectories: Array, labels: Array) -> float:
    """The share of examples whose nearest other trajectory has the same label.

    >>> alike(np.array([[0.0], [0.1], [5.0], [5.3]]), np.array([1, 1, 0, 1]))
    0.5
    """
    squares = (trajectories**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * trajectories @ trajectories.T
    np.fill_diagonal(distances, np.inf)
    return float(np.mean(labels[distances.argmin(axis=1)] == labels))


def _entropy(labels: Array) -> float:
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(share * np.log(share)).sum())
