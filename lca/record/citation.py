"""What to cite for a run, as BibTeX: method, software, data, and where an estimator comes from."""

from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from lca.record.reading import open_group

METHOD = """@inproceedings{lan2019lca,
  title     = {{LCA}: Loss Change Allocation for Neural Network Training},
  author    = {Lan, Janice and Liu, Rosanne and Zhou, Hattie and Yosinski, Jason},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {32},
  year      = {2019},
  url       = {https://arxiv.org/abs/1909.01440}
}"""

ESTIMATORS = {
    "SameBatch": """@inproceedings{zenke2017synaptic,
  title     = {Continual Learning Through Synaptic Intelligence},
  author    = {Zenke, Friedemann and Poole, Ben and Ganguli, Surya},
  booktitle = {Proceedings of the 34th International Conference on Machine Learning},
  pages     = {3987--3995},
  year      = {2017}
}""",
    "ControlVariate": """@inproceedings{johnson2013svrg,
  title     = {Accelerating Stochastic Gradient Descent using Predictive Variance Reduction},
  author    = {Johnson, Rie and Zhang, Tong},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {26},
  year      = {2013}
}""",
    "CrossFit": """@article{chernozhukov2018double,
  title   = {Double/debiased machine learning for treatment and structural parameters},
  author  = {Chernozhukov, Victor and Chetverikov, Denis and Demirer, Mert and Duflo, Esther and
             Hansen, Christian and Newey, Whitney and Robins, James},
  journal = {The Econometrics Journal},
  volume  = {21},
  number  = {1},
  pages   = {C1--C68},
  year    = {2018}
}""",
}
"""Where the idea of an estimator comes from: the same-batch product, the control variate, the cross-fit."""

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
"""By what the name of the data begins with."""


def citation(about: Mapping[str, Any] | None = None) -> str:
    """BibTeX entries for a run.

    Parameters
    ----------
    about
        The attributes of a record: ``estimator``, ``lca_version``, and ``settings`` with the name or path of
        the ``data``. Without it: what every run uses.

    Examples
    --------
    >>> entries = citation({"estimator": "SameBatch()", "settings": {"data": "data/mnist.npz"}})
    >>> [line for line in entries.splitlines() if line.startswith("@")][2:]
    ['@inproceedings{zenke2017synaptic,', '@article{lecun1998gradient,']
    """
    about = about or {}
    estimator = str(about.get("estimator", "")).partition("(")[0]
    entries = [METHOD, _software(about.get("lca_version"))]
    if estimator in ESTIMATORS:
        entries.append(ESTIMATORS[estimator])
    data = about.get("settings", {}).get("data")
    if data:
        stem = Path(str(data)).stem.lower()
        known = [entry for name, entry in DATA.items() if stem.startswith(name)]
        entries += known or [f"% The data {str(data)!r}: cite where they come from."]
    return "\n\n".join(entries) + "\n"


def cite_record(path: str | PathLike[str]) -> str:
    """`citation` for the record at ``path``."""
    return citation(dict(open_group(Path(path)).attrs))


def _software(recorded_by: str | None) -> str:
    return f"""@software{{loss_change_allocation,
  title   = {{loss-change-allocation}},
  author  = {{{{The loss-change-allocation developers}}}},
  version = {{{recorded_by or version("loss-change-allocation")}}},
  year    = {{2026}},
  note    = {{A reference implementation of Loss Change Allocation}}
}}"""
