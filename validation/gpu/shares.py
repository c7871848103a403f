"""How the time of a GPU run is divided; the first parts are the most important ones."""

SHARES = {"kit": 0.2, "overhead": 0.15, "cifar": 0.27, "language": 0.23, "frontier": 0.15}
"""By part: its fraction of the minutes, which is also its limit."""
