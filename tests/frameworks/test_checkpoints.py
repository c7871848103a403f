"""Checkpoints in folders as trainers arrange them: which are read, in what order, and by which numbers."""

from pathlib import Path

import numpy as np
import pytest

from lca.errors import LCAWarning, TrajectoryError
from lca.frameworks import checkpoints_in_order, steps_between
from lca.importers import checkpoint_numbers, sorted_by_number


def is_checkpoint(path):
    return path.suffix in (".pt", ".keras", ".h5", ".ckpt", ".bin") or (path / "model.safetensors").exists()


def made(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder):
    return [
        (each.path.relative_to(folder).as_posix(), each.number)
        for each in checkpoints_in_order(folder, is_checkpoint, "kinds")
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["m-02-0.71.keras", "m-10-0.7.keras", "m-01-0.93.keras"],
            [("m-01-0.93.keras", 1), ("m-02-0.71.keras", 2), ("m-10-0.7.keras", 10)],
        ),
        (["w.09-1e-05.h5", "w.11-0.2.h5"], [("w.09-1e-05.h5", 9), ("w.11-0.2.h5", 11)]),
        (
            ["epoch=0-step=100-val_loss=2.ckpt", "epoch=1-step=200-val_loss=1.ckpt"],
            [("epoch=0-step=100-val_loss=2.ckpt", 100), ("epoch=1-step=200-val_loss=1.ckpt", 200)],
        ),
        (
            ["step-1000/model.pt", "step-500/model.pt", "step-500/optimizer.pt"],
            [("step-500/model.pt", 500), ("step-1000/model.pt", 1000)],
        ),
        (
            ["model-3fa9:v0/model.h5", "model-3fa9:v10/model.h5", "model-3fa9:v2/model.h5"],
            [(f"model-3fa9:v{n}/model.h5", n) for n in (0, 2, 10)],
        ),
        (
            ["checkpoint-500/model.safetensors", "checkpoint-500/optimizer.pt",
             "checkpoint-1500/model.safetensors", "training_args.bin", "model-00001-of-00002.bin",
             "model-00002-of-00002.bin", "runs/events.out"],
            [("checkpoint-500", 500), ("checkpoint-1500", 1500)],
        ),
        (
            ["version_0/checkpoints/epoch=0-step=9.ckpt", "version_0/checkpoints/epoch=1-step=18.ckpt",
             "version_0/hparams.yaml"],
            [(f"version_0/checkpoints/epoch={i}-step={n}.ckpt", n) for i, n in ((0, 9), (1, 18))],
        ),
        (["0.pt", "1.pt", "2.pt"], [("0.pt", 0), ("1.pt", 1), ("2.pt", 2)]),
    ],
)  # fmt: skip
def test_folders_are_read_by_the_numbers_in_their_names(tmp_path, names, expected):
    made(tmp_path, names)
    assert found(tmp_path) == expected


def test_files_without_a_number_are_left_out_and_named(tmp_path):
    made(tmp_path, ["epoch-1.ckpt", "epoch-2.ckpt", "last.ckpt", "best.ckpt"])
    with pytest.warns(LCAWarning, match=r"left out, .*: best\.ckpt, last\.ckpt"):
        assert found(tmp_path) == [("epoch-1.ckpt", 1), ("epoch-2.ckpt", 2)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.pt", "a/2.pt", "b/1.pt", "b/2.pt"], r"several runs; pass one of .*a, .*b"),
        (["step-1/G.pt", "step-1/D.pt"], r"step-1 holds several files of weights \(D\.pt, G\.pt\)"),
        (["gen-1.pt", "gen-2.pt", "critic-1.pt"], r"different forms \(critic-#\.pt, gen-#\.pt\)"),
        (["epoch=0-seed=9.pt", "epoch=1-seed=5.pt"], "increases and another decreases"),
        (["a.pt", "b.pt"], r"different forms \(a\.pt, b\.pt\)"),
    ],
)  # fmt: skip
def test_what_is_not_one_run_is_refused(tmp_path, names, message):
    made(tmp_path, names)
    with pytest.raises(TrajectoryError, match=message):
        found(tmp_path)


def test_paths_in_a_list_keep_their_order_and_have_numbers_where_their_names_do(tmp_path):
    made(tmp_path, ["step-8/w.pt", "step-9/w.pt", "b.pt", "a.pt"])
    named = [tmp_path / "step-8/w.pt", tmp_path / "step-9/w.pt"]
    assert [each.number for each in checkpoints_in_order(named, is_checkpoint, "")] == [8, 9]
    unnamed = [tmp_path / "b.pt", tmp_path / "a.pt"]
    assert checkpoints_in_order(unnamed, is_checkpoint, "") == [(unnamed[0], 0), (unnamed[1], 1)]


def test_steps_have_the_numbers_of_both_ends(tmp_path):
    made(tmp_path, ["step-5.pt", "step-20.pt", "step-100.pt"])
    run = checkpoints_in_order(tmp_path, is_checkpoint, "")
    steps = list(steps_between(run, lambda path: (np.array([float(path.stem[5:])]), None)))
    assert [(step.index, step.checkpoints, float(step.end[0])) for step in steps] == [
        (0, (5, 20), 20.0),
        (1, (20, 100), 100.0),
    ]


def test_the_number_of_a_step_is_preferred_and_a_measured_one_never_taken():
    assert checkpoint_numbers(["run2/epoch-0-step-100.pt", "run2/epoch-1-step-250.pt"]) == [100, 250]
    assert checkpoint_numbers(["e1-acc=10.h5", "e2-acc=20.h5"]) == [1, 2]
    assert checkpoint_numbers(["acc96_4.pt", "acc91_5.pt"]) == [4, 5]
    assert checkpoint_numbers(["m-loss=0.25-3.pt", "m-loss=0.20-4.pt"]) == [3, 4]
    with pytest.raises(TrajectoryError, match="no number in the names"):
        checkpoint_numbers(["loss=1.pt", "loss=2.pt"])
    assert [path.name for path in sorted_by_number([Path("e2-0.5.h5"), Path("e1-0.9.h5")])] == [
        "e1-0.9.h5",
        "e2-0.5.h5",
    ]
