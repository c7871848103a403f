"""Small records with known numbers, for the tests of the report."""

import numpy as np

from lca import Layout, Record, StepAllocation, open_record

LAYOUT = Layout(("fc1.weight", "fc1.bias", "fc2.weight"), ((4, 6), (4,), (2, 4)))
EVIL = '<img src=x onerror="document.title=1">'
NAMES = (f"{EVIL}.weight", "</script><script>document.title=2</script>.b", r"$$\frac{a}{b}$$.w&'\"")


def allocation(values, step=0, start=2.0, **options):
    """A consistent step with a residual of 1/8."""
    total = float(np.sum(values))
    options = {"residual": 0.125, "mass": float(np.abs(values).sum()), **options}
    return StepAllocation(values, start, start + total + options["residual"], step=step, **options)


def run_values(steps=12, size=LAYOUT.size, seed=0):
    """Allocations (steps, K), mostly helping, a quarter 0; multiples of 1/8, so that sums are exact."""
    rng = np.random.default_rng(seed)
    return rng.integers(-6, 3, (steps, size)) * (rng.random((steps, size)) > 0.25) / 8


def write(path, run, *, names=("train",), layout=LAYOUT, extra=lambda step, row: {}, every=1, **options):
    """A record of these allocations; each further loss has half of those of the one before."""
    with Record(path, layout, **options) as record:
        starts = dict.fromkeys(names, 2.0)
        for step, row in enumerate(run):
            rows = {
                name: allocation(row / 2**i, every * step, starts[name], **extra(step, row))
                for i, name in enumerate(names)
            }
            record.update(rows)
            starts = {name: found.loss_end for name, found in rows.items()}
    return open_record(path)


def replicates(step, row):
    """Two replicates of each node's half of the row, which differ by 2 in every entry."""
    return {"replicates": {float(step + s): [row / 2 - 1, row / 2 + 1] for s in (0, 1)}}
