"""Executes the notebooks of docs/tutorials and stores what they show.

    python docs/make_tutorials.py [NAME ...]

Each notebook runs in a kernel and an empty folder of its own. What differs between two runs of the same code
(times, versions) is not stored, and pictures have 256 colours, which makes them a third of the size.
"""

import os
import sys
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent / "tutorials"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main(names: list[str]) -> None:
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # what tqdm says in notebooks
    for path in [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        with TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
        clean(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def clean(notebook: nbformat.NotebookNode) -> None:
    """Keep what a reader sees; refuse what was printed to stderr, such as a warning."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for at, cell in enumerate(notebook.cells):
        cell.id = f"cell-{at:02}"
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise SystemExit(f"a cell prints to stderr: {output.text}\n{cell.source}")
            data = output.get("data", {})
            if len(data) > 1:
                data.pop("text/plain")  # the repr of what is shown as a table or picture
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])


def smaller(png: str) -> str:
    """The same picture with 256 colours."""
    picture, buffer = Image.open(BytesIO(b64decode(png))).convert("RGB"), BytesIO()
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(buffer, format="png", optimize=True)
    return b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    main(sys.argv[1:])
