"""``torchrun … -m evo_robust.retrain``: several processes train one network, with the same batches as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from evo_robust.files import read_tensors
from evo_robust.final_training.settings import load_result
from evo_robust.retrain import main
from evo_robust.training.together import Group

LINE = ["network=lenet", "recipe=standard", "data=digits", "data.train_limit=210", "data.test_limit=60"]
LINE += ["recipe.lr=0.1", "recipe.batch_size=50", "recipe.ema=0.9", "validation=10", "eps=0.1", "attack.steps=1"]


def test_shares_are_a_batch_once() -> None:
    x, y = torch.rand(7, 1, 2, 2), torch.arange(7)
    shares = [Group(rank, 3).share(x, y)[1].tolist() for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    # LeNet has no batch normalisation, and standard training no attack: only the order of sums differs
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "evo_robust.retrain", *LINE, "epochs=3", "device=cpu", f"out={tmp_path / 'two'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   3/3") == 1, "only the first process speaks"
    assert main([*LINE, "epochs=3", "device=cpu", f"out={tmp_path / 'one'}"]) == 0
    one, two = (read_tensors(tmp_path / name / "model.safetensors")[0] for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    assert load_result(tmp_path / "two").clean_error == load_result(tmp_path / "one").clean_error
    assert not (tmp_path / "two" / "checkpoint.safetensors").exists()
