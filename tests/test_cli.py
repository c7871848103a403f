"""`lca demo` as a user meets it: what it writes, what it prints, and how it refuses."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import lca
import lca._commands.demo
import lca._commands.demo_figures
import lca._commands.demo_run
import lca._commands.report
from lca._cli import main
from lca._commands.demo import OPTIMIZERS
from lca.analysis import checked_windows
from lca.estimators import REGISTRY
from lca.reference import make_optimizer, minibatches
from lca.tolerances import EPS64, allocation, summed

SMALL = ("--model", "mlp:8", "--steps", "6", "--batch-size", "50")
KEYS = {
    "backend", "dtype", "seed", "steps", "loss_start", "loss_end", "lca_total", "residual", "mass",
    "max_step_residual", "unconverged_steps", "full_gradients_per_step", "helping_percent", "zero_percent",
    "per_tensor", "heldout", "seconds",
}  # fmt: skip
FIGURES = {"loss.png", "cumulative.png", "totals.png", "helping.png", "histogram.png"}


@pytest.fixture
def figures():
    """Ask for this to have the figures drawn; the other tests save the second they take."""


@pytest.fixture(autouse=True)
def skip_figures(request, monkeypatch):
    if "figures" not in request.fixturenames:
        monkeypatch.setattr(lca._commands.report, "report_file", lambda *_, **__: {})
        monkeypatch.setattr(lca._commands.demo_figures, "draw_figures", lambda *_: {})


def demo(out, *options):
    """Run `lca demo` in this process; its exit status, and the summary it wrote."""
    status = main(["demo", *SMALL, "--overwrite", "--out", str(out), *options])
    written = out / "summary.json"
    return status, json.loads(written.read_text()) if written.is_file() else None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("estimator", ["rk4", "adaptive"])
def test_the_summary_has_its_keys_and_balances(tmp_path, dtype, estimator):
    status, s = demo(tmp_path, "--dtype", dtype, "--estimator", estimator, "--seed", "3")
    assert status == 0
    assert s.keys() >= KEYS
    assert s["heldout"].keys() >= {"loss_start", "loss_end", "lca_total", "per_tensor"}
    assert s["seconds"].keys() == {"train", "allocate"}
    assert (s["backend"], s["dtype"], s["seed"], s["steps"]) == ("numpy", dtype, 3, 6)
    for loss in (s, s["heldout"]):
        tolerance = summed(loss["mass"] + loss["loss_start"], EPS64)
        assert abs(sum(loss["per_tensor"].values()) - loss["lca_total"]) <= tolerance
        assert abs(loss["loss_end"] - loss["loss_start"] - loss["lca_total"] - loss["residual"]) <= tolerance
        assert list(loss["per_tensor"]) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
        assert loss["max_step_residual"] <= s["tol"]
    assert s["loss_end"] < s["loss_start"]


def test_everything_is_written_and_nothing_else(tmp_path, figures):
    demo(tmp_path / "deep" / "out")
    assert {path.name for path in (tmp_path / "deep" / "out").iterdir()} == FIGURES | {
        "summary.json",
        "run.zarr",
        "report.html",
    }


def test_the_record_is_that_of_the_run(tmp_path):
    for seed in ("1", "0"):  # an earlier record is replaced
        _, s = demo(tmp_path, "--seed", seed)
    run = lca.open_record(tmp_path / "run.zarr").load()
    assert run.measured.values.tolist() == ["train", "heldout"]
    assert (run.sizes["step"], run.attrs["complete"], run.attrs["settings"]["seed"]) == (6, True, 0)
    assert run.attrs["settings"]["measured_on"]["heldout"] == "297 examples that training does not use"
    for name, found in (("train", s), ("heldout", s["heldout"])):
        totals = run.tensor_total.sel(measured=name).sum("step")
        assert dict(zip(run.tensor.values.tolist(), totals.values.tolist(), strict=True)) == pytest.approx(
            found["per_tensor"], abs=summed(found["mass"], EPS64)
        )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_seed_gives_the_same_bytes_apart_from_times(tmp_path):
    def without_times(name):
        demo(tmp_path / name)
        text = (tmp_path / name / "summary.json").read_text()
        return text[: text.index('"seconds"')]

    assert without_times("a") == without_times("b")


def test_the_seed_draws_the_initial_weights(tmp_path):
    starts = {demo(tmp_path, "--seed", seed)[1]["loss_start"] for seed in ("0", "1")}
    assert len(starts) == 2


def test_the_seed_draws_the_batches(tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        lca._commands.demo_run, "minibatches", lambda *args: (seeds.append(args[-1]), minibatches(*args))[1]
    )
    demo(tmp_path, "--seed", "7")
    assert seeds == [7]


def test_the_dtype_is_the_one_computed_in(tmp_path):
    totals = [demo(tmp_path, "--dtype", dtype)[1]["lca_total"] for dtype in ("float32", "float64", "float32")]
    assert totals[0] == totals[2] != totals[1]


def test_an_earlier_demo_is_replaced(tmp_path):
    demo(tmp_path, "--seed", "1")
    assert demo(tmp_path, "--seed", "2")[1]["seed"] == 2


def test_a_printed_report_shows_the_balance_and_every_tensor(tmp_path, capsys):
    _, s = demo(tmp_path)
    printed = capsys.readouterr().out
    for text in (f"{s['loss_start']:.6f}", f"{s['lca_total']:+.6f}", f"{s['heldout']['lca_total']:+.6f}"):
        assert text in printed
    for what in ("residual", "not converged", "gradients a step", "exactly zero", *s["per_tensor"], "share"):
        assert what in printed
    assert f"{s['helping_percent']:.1f} %" in printed
    assert f"{s['zero_percent']:.1f} %" in printed


@pytest.mark.parametrize(("tol", "warned"), [("1e-9", True), ("1e3", False)])
def test_steps_that_miss_the_tolerance_are_pointed_out(tmp_path, capsys, tol, warned):
    demo(tmp_path, "--estimator", "left", "--tol", tol)
    assert ("missed the tolerance" in capsys.readouterr().out) == warned


def test_quiet_prints_nothing(tmp_path, capsys):
    demo(tmp_path, "--quiet")
    assert capsys.readouterr() == ("", "")


def test_first_order_steps_that_miss_the_tolerance_are_counted(tmp_path):
    _, s = demo(tmp_path, "--estimator", "left", "--tol", "1e-9")
    assert s["unconverged_steps"] == 6


@pytest.mark.parametrize("model", ["logistic", "mlp-tanh:5,4", "cnn:2"])
def test_the_other_models_run(tmp_path, model):
    status, s = demo(tmp_path, "--model", model)
    assert status == 0
    assert s["model"] == model


@pytest.mark.parametrize("name", REGISTRY)
def test_every_listed_estimator_runs(tmp_path, capsys, name):
    status, s = demo(tmp_path, "--estimator", name)
    printed, row = capsys.readouterr().out, REGISTRY[name]
    assert status == 0
    assert (s["estimator"], s["steps"]) == (name, 6)
    assert (s["heldout"] is None) == (s["residual"] is None) == row.sampled
    assert abs(s["lca_total"] - (s["loss_end"] - s["loss_start"])) < 0.5 * abs(s["lca_total"])
    assert f"{s['lca_total']:+.6f}" in printed
    assert ("there is no residual" in printed) == row.sampled
    assert not (row.sampled and "tolerance" in printed)
    run = lca.open_record(tmp_path / "run.zarr").load()
    assert (run.sizes["step"], run.measured.values[0]) == (6, "train")
    checks = [(w.first_step, w.last_step, w.change) for w in checked_windows(run)[0]]
    assert checks == ([(0, 5, s["loss_end"] - s["loss_start"])] if row.sampled else [])


def test_a_sampled_demo_draws_what_it_has(tmp_path, figures):
    demo(tmp_path, "--estimator", "probe")
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {"cumulative.png", "totals.png"}  # no losses, and sizes and signs would be those of noise
    assert (tmp_path / "report.html").is_file()


def test_the_path_does_not_depend_on_the_estimator(tmp_path):
    ends = [demo(tmp_path, "--estimator", name)[1]["loss_end"] for name in ("rk4", "cross-fit", "probe")]
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
@pytest.mark.parametrize("estimator", ["cross-fit", "anchored", "next-simpson"])
def test_a_sampled_demo_agrees_across_backends(tmp_path, backend, estimator):
    options = ("--estimator", estimator)
    found, wanted = (demo(tmp_path, *options, "--backend", name)[1] for name in (backend, "numpy"))
    limit = allocation(1e3 * wanted["mass"], EPS64)  # rounding is carried along the path
    for name, total in wanted["per_tensor"].items():
        assert abs(found["per_tensor"][name] - total) <= limit


def test_a_batch_of_one_has_no_halves(tmp_path, capsys):
    assert demo(tmp_path / "out", "--estimator", "cross-fit", "--batch-size", "1")[0] == 2
    assert "step 0: a batch of one example cannot be split" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_come_from_an_npz(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(30, 4, 4), dtype=np.uint8), rng.integers(3, size=30)
    np.savez(tmp_path / "own.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    status, s = demo(tmp_path / "out", "--data", str(tmp_path / "own.npz"))
    assert status == 0
    assert s["parameters"] == 16 * 8 + 8 + 8 * 3 + 3


BAD = {
    "estimator": (["--estimator", "rk5"], r"unknown estimator 'rk5'; known: adaptive, .*trapezoid"),
    "optimizer": (["--optimizer", "adm"], r"unknown optimizer 'adm'; known: adam, .*'adam'"),
    "backend": (["--backend", "caffe"], r"unknown backend 'caffe'; known: .*numpy"),
    "model": (["--model", "rnn"], r"unknown model 'rnn'; known: cnn, logistic, mlp"),
    "widths": (["--model", "mlp:64,x"], r"model 'mlp:64,x': .*positive integers"),
    "zero width": (["--model", "mlp:0"], r"model 'mlp:0': .*positive integers"),
    "logistic": (["--model", "logistic:3"], r"model 'logistic:3': .*has no hidden layers"),
    "no file": (["--data", "no/such.npz"], r"no file or folder no/such\.npz; pass an \.npz"),
    "rate": (["--lr", "-1"], r"lr must be .*got -1"),
    "steps": (["--steps", "0"], r"steps must be at least 1, got 0"),
    "batch size": (["--batch-size", "0"], r"batch_size must be a positive integer, got 0"),
    "seed": (["--seed", "-1"], r"seed must be at least 0, got -1"),
    "tolerance": (["--tol", "0"], r"tol must be positive, got 0"),
    "diverged": (["--optimizer", "sgd", "--lr", "1e160"], r"step 0: .*(lower the|smaller) learning rate"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_requests_are_refused_in_one_line_and_leave_nothing(tmp_path, capsys, options, message):
    status, summary = demo(tmp_path / "out", *options)
    printed = capsys.readouterr()
    assert (status, summary, printed.out) == (2, None, "")
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("lca: error: ")
    assert re.search(message, printed.err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"not a zip file"])
def test_a_file_that_is_no_data_set_is_refused(tmp_path, capsys, content):
    (tmp_path / "data.npz").write_bytes(content)
    assert demo(tmp_path / "out", "--data", str(tmp_path / "data.npz"))[0] == 2
    assert "lca: error: " in capsys.readouterr().err


def test_an_unwritable_folder_is_refused_before_the_run(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(lca._commands.demo, "run_demo", lambda *_: pytest.fail("trained for nothing"))
    assert demo(tmp_path / "file" / "out")[0] == 2
    assert "cannot write to the folder" in capsys.readouterr().err


def test_a_failing_run_leaves_an_earlier_demo_alone(tmp_path, figures):
    demo(tmp_path, "--seed", "1")

    def held():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = held()
    assert demo(tmp_path, "--optimizer", "sgd", "--lr", "1e160")[0] == 2
    assert held() == before


def test_traceback_shows_where_an_error_came_from(tmp_path):
    with pytest.raises(lca.errors.UnknownNameError):
        demo(tmp_path, "--estimator", "rk5", "--traceback")


def test_an_interrupt_is_a_clean_exit(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(lca._commands.demo, "run_demo", interrupted)
    status, summary = demo(tmp_path / "out")
    assert (status, summary) == (130, None)
    assert "interrupted" in capsys.readouterr().err


def test_the_help_names_optimizers_that_exist(capsys):
    for name in OPTIMIZERS.split(", "):
        make_optimizer(name)
    with pytest.raises(SystemExit, match="0"):
        main(["demo", "--help"])
    assert "--estimator" in capsys.readouterr().out


def test_the_help_names_the_installed_backends(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    assert "numpy, tensorflow, torch (numpy)" in " ".join(capsys.readouterr().out.split())


def test_help_needs_no_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['tqdm'] = None; "
        "from lca._cli import main; main(['demo', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_the_extra_the_demo_says_how_to_get_it():
    code = "import sys; sys.modules['matplotlib'] = None; from lca._cli import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'bokeh>=" in done.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = [
        sys.executable,
        "-c",
        "from lca._cli import main; import sys; sys.exit(main())",
        "demo",
        *SMALL,
    ]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("out", "message"), [("-", "use --json to print the summary"), ("", "the path is empty")]
)
def test_the_demo_writes_to_a_folder_with_a_name(tmp_path, monkeypatch, capsys, out, message):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--steps", "1", "-o", out]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
