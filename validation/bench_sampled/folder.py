"""Where the results are kept."""

from pathlib import Path

FOLDER = Path(__file__).parent
