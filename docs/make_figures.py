"""Draws the pictures of figures.md: runs its Python blocks and saves what each has made.

    python docs/make_figures.py

The picture that follows a block is ``ax`` after the block, or ``animation`` where its name ends in .gif.
"""

import re
from io import BytesIO
from pathlib import Path

from PIL import Image

from lca import plots

FOLDER = Path(__file__).parent
BLOCK_OR_PICTURE = re.compile(r"^```python\n(.*?)^```$|^!\[.*?\]\((\S+)\)$", re.DOTALL | re.MULTILINE)


def main() -> None:
    namespace: dict = {}
    for match in BLOCK_OR_PICTURE.finditer((FOLDER / "figures.md").read_text(encoding="utf-8")):
        code, picture = match.groups()
        if code:
            exec(code, namespace)
            continue
        path = FOLDER / picture
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gif":
            plots.save_animation(namespace["animation"], path)
        else:
            save(namespace["ax"].figure, path)
        print(f"{path.relative_to(FOLDER)}: {path.stat().st_size / 1000:.0f} kB")


def save(figure, path: Path) -> None:
    """As PNG with 256 colours, a third of the size."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    few = Image.open(buffer).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    main()
