"""How the pages write names and numbers."""

import math
import re
import zlib
from collections.abc import Sequence


def short_labels(names: Sequence[str], length: int = 22) -> list[str]:
    """The ends of long names, as far as they tell the names apart.

    The ends of names differ more than their beginnings. Where they do not, longer ends are shown, and last
    of all a checksum.

    >>> short_labels(["fc", "encoder.layers.1.attention.weight", "encoder.layers.11.attention.weight"])
    ['fc', '…rs.1.attention.weight', '…s.11.attention.weight']
    """
    for kept in range(length, 2 * length):
        labels = [name if len(name) <= kept else f"…{name[1 - kept :]}" for name in names]
        if len(set(labels)) == len(set(names)):
            return labels
    return [name if len(name) <= length else f"…{name[-length // 2 :]} ({_checksum(name)})" for name in names]


def shorten_words(text: str, longest: int = 200) -> str:
    """Shorten every word of more than ``longest`` characters; a checksum keeps different ones apart.

    >>> shorten_words("the layer " + 500 * "x")
    'the layer xxxxxxxxxxxxxxxxxxxxxxxx…0ab2ce51…xxxxxxxxxxxxxxxx'
    """
    if len(text) <= longest:
        return text
    return re.sub(rf"\S{{{longest + 1},}}", lambda word: _shortened(word[0]), text)


def _shortened(word: str) -> str:
    return f"{word[:24]}…{_checksum(word)}…{word[-16:]}"


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode(errors='replace')):08x}"


def layer_named(name: str) -> str:
    """The name of a layer in a sentence, which must not read as a number.

    >>> layer_named("fc1"), layer_named("0")
    ('fc1', 'layer 0')
    """
    return f"layer {name}" if name[:1].isdigit() else name


def format_number(value: float, sign: str = "") -> str:
    """Format with 4 significant digits and a true minus sign; NaN is "not measured".

    >>> format_number(-0.25), format_number(0.5, "+"), format_number(float("nan"))
    ('−0.25', '+0.5', 'not measured')
    """
    if math.isnan(value):
        return "not measured"
    return f"{value:{sign}.4g}".replace("-", "−") if value else "0"


def format_digits(value: float, sign: str = "", digits: int = 4) -> str:
    """Format like `format_number`, but with trailing zeros, so that all numbers have as many digits.

    >>> format_digits(-1.71), format_digits(0.25, "+"), format_digits(1234.0), format_digits(-0.0)
    ('−1.710', '+0.2500', '1234', '0')
    """
    if math.isnan(value):
        return "not measured"
    text = f"{value:{sign}#.{digits}g}".replace(".e", "e").removesuffix(".")
    return text.replace("-", "−") if value else "0"


def format_percent(value: float) -> str:
    """Format a percentage: one decimal, or 2 significant digits below 1 %; NaN is "undefined".

    >>> format_percent(54.21), format_percent(0.0102), format_percent(0.0), format_percent(float("nan"))
    ('54.2 %', '0.01 %', '0.0 %', 'undefined')
    """
    if math.isnan(value):
        return "undefined"
    return f"{value:{'.2g' if 0 < abs(value) < 1 else '.1f'}} %".replace("-", "−")


def format_to(value: float, largest: float) -> str:
    """Format with the decimals that give ``largest`` 3 significant digits, so that a column can be read.

    >>> [format_to(value, 0.0812) for value in (-0.0812, 0.00417, -5e-5, 2e-6, 0.0, float("nan"))]
    ['−0.0812', '+0.0042', '−0.0001', '≈ 0', '0', '—']
    """
    if math.isnan(value):
        return "—"
    decimals = decimals_of(largest)
    if not value or decimals is None:
        return format_signed(value) if value else "0"
    text = f"{value:+.{decimals}f}".replace("-", "−")
    return text if any(digit in "123456789" for digit in text) else "≈ 0"


def decimals_of(largest: float) -> int | None:
    """The decimals that give ``largest`` 3 significant digits; ``None`` if it needs an exponent.

    >>> decimals_of(0.0812), decimals_of(250.0), decimals_of(1e9)
    (4, 0, None)
    """
    return max(0, 2 - math.floor(math.log10(largest))) if 1e-6 < largest < 1e6 else None


def format_signed(value: float) -> str:
    """Format with 3 significant digits, a sign and a true minus.

    >>> format_signed(-0.25), format_signed(1.0)
    ('−0.25', '+1')
    """
    return f"{value:+.3g}".replace("-", "−")
