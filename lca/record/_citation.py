"""What to cite for a run, as BibTeX: method, software, estimator and data.

An estimator class carries the entry of its idea in an attribute ``citation``; a record keeps the entries of
the estimator that made it, so that those of a user's own class are cited as well.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lca.estimators
from lca.allocation import Estimator

METHOD = """@inproceedings{lan2019lca,
  title     = {{LCA}: Loss Change Allocation for Neural Network Training},
  author    = {Lan, Janice and Liu, Rosanne and Zhou, Hattie and Yosinski, Jason},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {32},
  year      = {2019},
  url       = {https://arxiv.org/abs/1909.01440}
}"""

DATA = {
    "digits": """@misc{alpaydin1998digits,
  title        = {Optical Recognition of Handwritten Digits},
  author       = {Alpaydin, E. and Kaynak, C.},
  year         = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi          = {10.24432/C50P49}
}""",
    "mnist": """@article{lecun1998gradient,
  title   = {Gradient-based learning applied to document recognition},
  author  = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal = {Proceedings of the IEEE},
  volume  = {86},
  number  = {11},
  pages   = {2278--2324},
  year    = {1998}
}""",
    "cifar": """@techreport{krizhevsky2009learning,
  title       = {Learning Multiple Layers of Features from Tiny Images},
  author      = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year        = {2009}
}""",
}
"""The entries by the beginning of the name of the data set."""

_FORMER_NAMES = {"Probe": "SampledPathIntegral", "Anchored": "ControlVariate", "Budget": "AdaptiveSampleSize"}
"""Estimator classes in records of version 0.1.0, which keep no entries, and their present names."""


@runtime_checkable
class Cited(Protocol):
    """An estimator whose idea comes from a publication."""

    @property
    def citation(self) -> str:
        """One BibTeX entry."""


def citations_of(estimator: Estimator | None) -> tuple[str, ...]:
    """The BibTeX entries of an estimator and of those nested in its fields, each once, the outer ones first.

    Examples
    --------
    >>> from lca.estimators import AdaptiveSampleSize, ControlVariate
    >>> [entry] = citations_of(AdaptiveSampleSize(ControlVariate(), examples=500))
    >>> entry.splitlines()[0]
    '@inproceedings{johnson2013svrg,'
    """
    return tuple(dict.fromkeys(_entries(estimator)))


def _entries(estimator: Any) -> Iterator[str]:
    if isinstance(estimator, Cited):
        yield estimator.citation
    if is_dataclass(estimator):
        for field in fields(estimator):
            value = getattr(estimator, field.name)
            if isinstance(value, Estimator):
                yield from _entries(value)


def citation(about: Mapping[str, Any] | None = None) -> str:
    """BibTeX entries for a run.

    Parameters
    ----------
    about
        The attributes of a record: ``citations``, the entries of its estimator; ``lca_version``; and
        ``settings`` with the name or path of the ``data``. For a record of version 0.1.0, which has no
        ``citations``, the classes named in ``estimator`` are cited. Without ``about``: what every run uses.

    Examples
    --------
    >>> entries = citation({"estimator": "SameBatch()", "settings": {"data": "data/mnist.npz"}})
    >>> [line for line in entries.splitlines() if line.startswith("@")][2:]
    ['@inproceedings{zenke2017synaptic,', '@article{lecun1998gradient,']
    """
    about = about or {}
    entries = [METHOD, _software(about.get("lca_version"))]
    entries += about["citations"] if "citations" in about else _named_in(str(about.get("estimator", "")))
    data = about.get("settings", {}).get("data")
    if data:
        stem = Path(str(data)).stem.lower()
        known = [entry for name, entry in DATA.items() if stem.startswith(name)]
        entries += known or [f"% The data {str(data)!r}: cite where they come from."]
    return "\n\n".join(entries) + "\n"


def _named_in(estimator: str) -> list[str]:
    """The entries of the classes of this library that the ``repr`` of an estimator names."""
    names = [_FORMER_NAMES.get(name, name) for name in re.findall(r"\b([A-Z]\w*)\(", estimator)]
    classes = [getattr(lca.estimators, name) for name in names if name in lca.estimators.__all__]
    return list(dict.fromkeys(cls.citation for cls in classes if isinstance(cls, Cited)))


def _software(recorded_by: str | None) -> str:
    return f"""@software{{loss_change_allocation,
  title   = {{loss-change-allocation}},
  author  = {{{{The loss-change-allocation developers}}}},
  version = {{{recorded_by or version("loss-change-allocation")}}},
  year    = {{2026}},
  note    = {{A reference implementation of Loss Change Allocation}}
}}"""
