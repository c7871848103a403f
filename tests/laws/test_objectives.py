"""Every framework's objective keeps the laws that are written once; `DatasetLoss` those that apply to it."""

import subprocess
import sys

import pytest

from lca.reference import Batch, DatasetLoss
from tests.laws.objectives import LAWS, MLP, X, Y, require_close, require_equal
from tests.laws.subjects import SUBJECTS, Plain


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
def test_law(subject, law):
    with subject.context():
        law(subject)


class Reference(Plain):
    """`DatasetLoss`, which checks nothing at start and has another constructor."""

    name = "reference"
    LOSSES = {"mean": None}  # noqa: RUF012

    @staticmethod
    def objective(model, loss_fn, data, **options):
        return Reference.Loss(model.network, data.x, data.y, **options)

    @staticmethod
    def tensors(tree):
        return Batch(*tree)

    class Loss(DatasetLoss):
        """With a θ of its own."""

        def theta(self):
            return self.network.init(0)


APPLY = [
    "the_loss_of_a_batch_is_its_own_mean",
    "measuring_again_gives_the_same_bits",
    "samples_are_weighted_means",
    "scores_are_the_errors_of_the_classifier",
]


@pytest.mark.parametrize("law", APPLY)
def test_law_of_the_reference(law):
    LAWS[law](Reference())


def test_classes_of_the_reference_add_up():
    whole, theta = DatasetLoss(MLP, X, Y, batch_size=5), MLP.init(1)
    require_equal(Reference(), whole.by_class(), whole)
    for c, term in enumerate(whole.by_class().terms.values()):
        own = DatasetLoss(MLP, X[c == Y], Y[c == Y]).loss(theta)
        require_close(term.loss(theta), (c == Y).mean() * own)


def test_what_all_frameworks_share_imports_none_of_them():
    code = "import sys, lca.frameworks; print({'torch', 'tensorflow', 'keras', 'jax'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
