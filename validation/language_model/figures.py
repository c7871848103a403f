"""Draws the figure of the tutorial on language models from ``10M.json``: kinds, blocks, exact values."""

import argparse
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image

from lca import plots
from validation.language_model.gpt import KINDS

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

FOLDER = Path(__file__).parent
PICTURE = FOLDER.parents[1] / "docs" / "images" / "language-model.png"


def draw(found: dict[str, Any]) -> Any:
    """Three panels: sums of the kinds over the run, sums of the blocks, cross-fit against exact."""
    figure, (kinds, blocks, exact) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    rows, names = np.array(found["rows"]), found["parts"]
    of_kind = [[name.partition(" ")[0] == kind for name in names] for kind in KINDS]
    plots.plot_cumulative(rows @ np.array(of_kind, float).T, list(KINDS), ax=kinds)
    colours = {str(line.get_label()): line.get_color() for line in kinds.lines}
    _blocks(rows.sum(axis=0), names, blocks, colours)
    _against(found["compared"], exact, colours)
    return figure


def _blocks(totals: np.ndarray, names: list[str], ax: Any, colours: dict[str, Any]) -> None:
    """Attention and MLP of each block, from the input to the output."""
    count = 1 + max(int(name.split()[1]) for name in names if " " in name)
    for shift, kind in ((-0.2, "attention"), (0.2, "MLP")):
        values = [totals[names.index(f"{kind} {block}")] for block in range(count)]
        ax.bar(np.arange(count) + shift, values, 0.4, label=kind, color=colours[kind])
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set(title="Allocation by block", xlabel="block", ylabel="LCA, units of the loss", xticks=range(count))
    ax.legend(frameon=False)


def _against(near: dict[str, Any], ax: Any, colours: dict[str, Any]) -> None:
    """The sum of each kind in each of the steps that were measured exactly, too."""
    cheap, exact = np.array(near["cheap"]), np.array(near["exact"])
    for at, kind in enumerate(KINDS):
        ax.plot(exact[:, at], cheap[:, at], "o", ms=4, label=kind, color=colours[kind])
    ends = [min(cheap.min(), exact.min()), max(cheap.max(), exact.max())]
    ax.plot(ends, ends, color="0.6", lw=1, zorder=0)
    for axis in (ax.set_xscale, ax.set_yscale):
        axis("symlog", linthresh=1e-3)
    title = f"Single steps: correlation {near['correlation']:.3f}"
    ax.set(title=title, xlabel="exact, 64 sequences", ylabel="cross-fit, training batch")
    ax.legend(frameon=False, fontsize="small")


def main() -> None:
    """Draw and save, as PNG with 256 colours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=FOLDER / "10M.json")
    parser.add_argument("--out", type=Path, default=PICTURE)
    options = parser.parse_args()
    buffer = BytesIO()
    draw(json.loads(options.results.read_text())).savefig(buffer, format="png", dpi=110)
    few = Image.open(buffer).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
    few.save(options.out, format="png", optimize=True)
    print(f"{options.out.name}: {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
