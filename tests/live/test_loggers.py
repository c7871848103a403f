"""Every logger gets the same numbers of each measured step, and is closed when the run ends, as it may."""

import csv
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import lca
from lca.errors import LCAError, LCAWarning, OutputError
from lca.estimators import SampledPathIntegral
from lca.live import CSV, EveryNth, MLflow, TensorBoard, WandB
from lca.live._logging import LossLog, loggers_of
from lca.reference import DatasetLoss, Quadratic, mlp
from lca.row import CheckedWindow, Row
from lca.tracking import FunctionalTracker
from tests.sampled import sampled_allocation

BOWL = Quadratic(np.eye(2))
PATH = [np.array([1.0, 1.0]), np.array([0.5, 1.0]), np.array([0.0, 1.0]), np.array([0.0, 0.5])]


class Kept:
    def __init__(self):
        self.calls, self.closed = [], 0

    def log(self, step, loss, values):
        self.calls.append((step, loss, dict(values)))

    def close(self):
        self.closed += 1


def run(log_to, losses=BOWL, **options):
    with FunctionalTracker(PATH[0], losses, lca.PathIntegral(), log_to=log_to, **options) as tracker:
        for point in PATH[1:]:
            tracker.update(point)
    return tracker


def test_the_numbers_are_those_of_every_step_and_loss():
    logger = Kept()
    tracker = run(logger, {"train": BOWL, "held out": Quadratic(2 * np.eye(2))})
    assert [(step, loss) for step, loss, _ in logger.calls] == [
        (step, loss) for step in range(3) for loss in ("train", "held out")
    ]
    assert set(logger.calls[0][2]) == {
        "loss",
        "residual_so_far",
        "helping_percent",
        "LCA/theta",
        "LCA_so_far/theta",
    }
    train = [values for _, loss, values in logger.calls if loss == "train"]
    assert [values["loss"] for values in train] == [0.625, 0.5, 0.125]
    assert [values["LCA/theta"] for values in train] == [-0.375, -0.125, -0.375]
    assert train[-1]["LCA_so_far/theta"] == tracker.summary()["train"]["lca_total"]


def test_every_nth_step_is_passed_on_with_sums_over_all():
    logger = Kept()
    run(EveryNth(logger, 2), {"train": BOWL, "held out": BOWL})
    assert [(step, loss) for step, loss, _ in logger.calls] == [(1, "train"), (1, "held out")]
    assert logger.calls[0][2]["LCA_so_far/theta"] == -0.5
    assert logger.closed == 1
    with pytest.raises(LCAError, match="n ≥ 1"):
        EveryNth(logger, 0)


def test_what_was_not_measured_is_left_out_and_noisy_signs_are_not_counted():
    allocation = sampled_allocation()
    row = Row(allocation, lca.Layout(("w",), ((len(allocation.values),),)))
    assert set(LossLog().values(row)) == {"LCA/w", "LCA_so_far/w"}


def test_self_checks_are_sums_since_the_first():
    log, found = LossLog(), []
    allocation = sampled_allocation()
    for step in range(2):
        row = Row(allocation, lca.Layout(("w",), ((len(allocation.values),),)))
        row.check = CheckedWindow(step, step, change=-1.0 - step, total=-0.5, margin=np.nan)
        found.append(log.values(row))
    assert [(v["checked_change"], v["checked_sum"]) for v in found] == [(-1.0, -0.5), (-3.0, -1.0)]


@pytest.mark.parametrize(("steps", "checks"), [(3, [2]), (20, [15, 19])])
def test_the_check_at_the_end_of_a_run_is_logged_to_all(steps, checks):
    data = np.random.default_rng(0)
    loss = DatasetLoss(mlp((2, 2)), data.normal(size=(8, 2)), data.integers(2, size=8))
    all_steps, few = Kept(), Kept()
    picture = SimpleNamespace(add_scalar=lambda *_: None, add_image=lambda *_, **__: None, flush=lambda: None)
    loggers = [all_steps, EveryNth(few, 50), TensorBoard(writer=picture, picture_every=1)]
    theta = np.zeros(6)
    with FunctionalTracker(theta, loss, SampledPathIntegral(size=4), log_to=loggers) as tracker:
        for _ in range(steps):
            theta = theta - 0.1 * loss.loss_and_grad(theta)[1]
            tracker.update(theta)
    found = tracker.summary()["train"]
    last = {"checked_change": found["checked_change"], "checked_sum": found["checked_total"]}
    assert all_steps.calls[-1] == few.calls[-1] == (steps - 1, "train", last)
    assert [step for step, *_ in few.calls] == checks


@pytest.mark.parametrize("error", [None, RuntimeError("training failed")])
def test_loggers_are_closed_when_the_tracker_ends_also_by_an_error(error):
    loggers = [Kept(), Kept()]

    def train():
        with FunctionalTracker(PATH[0], BOWL, log_to=loggers) as tracker:
            tracker.update(PATH[1])
            if error is not None:
                raise error

    if error is None:
        train()
    else:
        with pytest.raises(RuntimeError, match="training failed"):
            train()
    assert [(len(logger.calls), logger.closed) for logger in loggers] == [(1, 1), (1, 1)]


def test_one_that_cannot_close_does_not_keep_the_others_open():
    class Broken(Kept):
        def close(self):
            raise OSError("disk full")

    last = Kept()
    with pytest.warns(LCAWarning, match="disk full"):
        run([Broken(), last])
    assert last.closed == 1


def test_csv_has_a_line_for_each_number_and_goes_on_after_a_close(tmp_path):
    logger = CSV(tmp_path / "run.csv")
    run(logger)
    with (tmp_path / "run.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {line["loss"] for line in lines} == {"train"}
    losses = [(int(line["step"]), float(line["value"])) for line in lines if line["name"] == "loss"]
    assert losses == [(0, 0.625), (1, 0.5), (2, 0.125)]
    run(logger)
    text = (tmp_path / "run.csv").read_text()
    assert text.count("step,loss,name,value") == 1
    assert text.count("train,loss,") == 6


@pytest.mark.parametrize("entry", [Kept, "wandb", 3, print], ids=["class", "name", "number", "function"])
def test_what_is_no_logger_is_refused_with_those_there_are(entry):
    for log_to in (entry, [entry]):
        with pytest.raises(LCAError, match=r"log_to must hold loggers .* CSV, TensorBoard, WandB and MLflow"):
            FunctionalTracker(PATH[0], BOWL, log_to=log_to)


def test_a_trainer_has_to_be_there():
    with pytest.raises(LCAError, match="TrainerLog"):
        FunctionalTracker(PATH[0], BOWL, log_to="trainer")
    trainer = Kept()
    assert loggers_of(["trainer"], trainer) == [trainer]


# --- stand-ins that keep the calls, and the packages themselves where they are installed -------------


class WandbRun:
    def __init__(self):
        self.metrics, self.logged, self.finished = {}, [], False

    def define_metric(self, name, step_metric=None, hidden=None):
        self.metrics[name] = step_metric

    def log(self, data):
        self.logged.append(data)

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    module = ModuleType("wandb")
    module.run, module.made = None, []
    module.init = lambda: module.made.append(WandbRun()) or module.made[-1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_an_axis_of_its_own(wandb):
    own = WandbRun()
    run(WandB(own))
    assert own.metrics == {"lca/step": None, "lca/*": "lca/step"}
    assert [data["lca/step"] for data in own.logged] == [0, 1, 2]
    assert [data["lca/train/loss"] for data in own.logged] == [0.625, 0.5, 0.125]
    assert not own.finished
    assert not wandb.made


def test_wandb_takes_the_active_run_or_makes_one_that_ends_with_the_tracker(wandb):
    wandb.run = WandbRun()
    run(WandB())
    assert len(wandb.run.logged) == 3
    assert not wandb.run.finished
    wandb.run = None
    run(WandB())
    assert [(len(made.logged), made.finished) for made in wandb.made] == [(3, True)]


@pytest.fixture
def mlflow(monkeypatch):
    module = ModuleType("mlflow")
    module.active, module.logged = None, []

    def start_run():
        module.active = SimpleNamespace(info=SimpleNamespace(run_id="new"))
        return module.active

    module.start_run, module.active_run = start_run, lambda: module.active
    module.end_run = lambda: setattr(module, "active", None)
    module.log_metrics = lambda values, step, run_id: module.logged.append((run_id, step, values))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def test_mlflow_gets_names_that_it_allows(mlflow):
    logger = MLflow("given")
    logger.log(4, "by class", {"LCA/block[0].fc1": -1.0})
    logger.close()
    assert mlflow.logged == [("given", 4, {"lca/by class/LCA/block_0_.fc1": -1.0})]


def test_mlflow_takes_the_active_run_or_makes_one_that_ends_with_the_tracker(mlflow):
    run(MLflow())
    assert [(name, step) for name, step, _ in mlflow.logged] == [("new", 0), ("new", 1), ("new", 2)]
    assert mlflow.active is None
    mlflow.active = SimpleNamespace(info=SimpleNamespace(run_id="mine"))
    run(MLflow())
    assert mlflow.logged[-1][0] == "mine"
    assert mlflow.active is not None


def test_a_table_replaces_only_tables_and_only_when_asked(tmp_path):
    mine, table = tmp_path / "mine.csv", tmp_path / "run.csv"
    mine.write_text("step,precious\n1,2\n")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"mine\.csv"):
            CSV(mine, overwrite=overwrite)
    assert mine.read_text() == "step,precious\n1,2\n"
    for overwrite in (False, True):
        logger = CSV(table, overwrite=overwrite)
        logger.log(int(overwrite), "train", {"loss": 2.0})
        logger.close()
    assert table.read_text() == "step,loss,name,value\n1,train,loss,2.0\n"
    with pytest.raises(OutputError, match="overwrite=True"):
        CSV(table)


@pytest.mark.parametrize(
    ("logger", "module", "package"), [(WandB, "wandb", "wandb"), (MLflow, "mlflow", "mlflow-skinny")]
)
def test_without_the_package_they_say_how_to_get_it(monkeypatch, logger, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LCAError, match=f"pip install '{package}>="):
        logger()


@pytest.mark.filterwarnings("ignore")  # of the packages about themselves
def test_the_real_wandb_offline(tmp_path, monkeypatch):
    package = pytest.importorskip("wandb", reason="wandb is not part of the development environment")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with package.init(mode="offline", dir=str(tmp_path), project="lca") as own:
        run(WandB(own))
        assert dict(own.summary)["lca/train/loss"] == 0.125
        assert dict(own.summary)["lca/step"] == 2
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.filterwarnings("ignore")  # of the packages about themselves
def test_the_real_mlflow_in_files(tmp_path, monkeypatch):
    package = pytest.importorskip("mlflow", reason="mlflow is not part of the development environment")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    package.set_tracking_uri(f"file://{tmp_path}/runs")
    with package.start_run() as active:
        run(MLflow())
    history = package.MlflowClient().get_metric_history(active.info.run_id, "lca/train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.625), (1, 0.5), (2, 0.125)]
