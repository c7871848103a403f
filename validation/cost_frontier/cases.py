"""The cases by name: a training run on the digits in NumPy, and those that need torch."""

from collections.abc import Callable
from importlib import import_module

from lca.allocation import Estimator
from lca.reference import SGD, Adam, DatasetLoss, Optimizer, load_digits, minibatches, mlp, train, with_next
from validation.cost_frontier.case import RATES, Case, Options, Seconds, SuppliedFields, layer_totals


def digits(batch_size: int = 50) -> Case:
    """64-32-10 ReLU on the 1,500 digits that come with the library; NumPy, float64."""
    data, network = load_digits().reshaped((64,)), mlp((64, 32, 10))
    x, y = data.x_train, data.y_train

    def follow(
        objective: DatasetLoss, options: Options, estimator: Estimator | None, supplied: SuppliedFields
    ) -> Seconds:
        batches = minibatches(
            x, y, batch_size, options.steps + 1, options.seed, independent=options.independent
        )
        theta, rate = network.init(options.seed), RATES[options.optimizer]
        optimizer: Optimizer = SGD(rate, 0.9) if options.optimizer == "momentum" else Adam(rate)
        allocate, view = estimator and estimator.start(objective), layer_totals(objective.layout)
        began = Seconds.now()
        for step in with_next(
            train(
                objective,
                theta,
                optimizer,
                batches,
                micro_batches=supplied.micro_batches,
                scores=supplied.scores,
                slopes=supplied.slopes,
            )
        ):
            if allocate:
                view.update(allocate(step))
        return began.until_now()

    return Case(
        "digits 64-32-10",
        len(x),
        batch_size,
        False,
        lambda: DatasetLoss(network, x, y),
        follow,
        refined=True,
    )


def _torch(name: str, module: str = "torch_case") -> Callable[[], Case]:
    """A case that needs torch, imported when it is asked for."""

    def make() -> Case:
        case: Case = getattr(import_module(f"validation.cost_frontier.{module}"), name)()
        return case

    return make


CASES: dict[str, Callable[[], Case]] = {
    "digits": digits,
    "mnist_fc": _torch("mnist_fc"),
    "mnist_fc_1000": _torch("mnist_fc_1000"),
    "mnist_lenet": _torch("mnist_lenet"),
    "resnet": _torch("resnet"),
    "transformer": _torch("transformer", "transformer_case"),
}
