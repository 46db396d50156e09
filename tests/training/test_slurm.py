"""The script for several nodes, with stand-ins for Slurm's commands: what it starts, when it asks for another turn."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "recipes" / "librispeech" / "slurm.sh"
SLURM = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_NNODES": "2",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_CPUS_PER_TASK": "32",
    "SLURM_JOB_NODELIST": "node[03-04]",
    "SLURM_RESTART_COUNT": "1",
}


def submit(folder: Path, code: int, status: str) -> tuple[int, list[str]]:
    """Run the script where training ends by `code` and leaves `status`; gives its own code and what it called."""
    commands = folder / "bin"
    commands.mkdir()
    state = f'mkdir -p runs/big && echo \'{{"status": "{status}"}}\' > runs/big/run.json'
    bodies = {
        "srun": f"{state}; echo threads $OMP_NUM_THREADS >> called; exit {code}",
        "scontrol": 'if [ "$1" = show ]; then echo node03; echo node04; fi',
    }
    for name, body in bodies.items():
        (commands / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {folder}/called\n{body}\n')
        (commands / name).chmod(0o755)
    env = os.environ | SLURM | {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(folder)}
    env |= {"NAME": "big", "RECIPE": "960", "TRAIN": "data.batch_size=512 seed=1"}
    done = subprocess.run(["bash", str(SCRIPT)], env=env, cwd=folder, check=False, capture_output=True, text=True)
    return done.returncode, (folder / "called").read_text().splitlines()


def test_it_starts_torchrun_on_every_node_and_is_content_with_the_end(tmp_path: Path) -> None:
    code, called = submit(tmp_path, 0, "FINISHED")
    assert code == 0
    assert called[0] == "scontrol show hostnames node[03-04]"
    assert called[1] == (
        "srun --kill-on-bad-exit=1 torchrun --nnodes 2 --nproc-per-node 8 --max-restarts 3 --rdzv-backend c10d "
        "--rdzv-endpoint node03:24567 --rdzv-id 1234567-1 "
        f"-m cpc train {tmp_path}/recipes/librispeech/960.yaml --name big data.batch_size=512 seed=1"
    )
    assert called[2:] == ["threads 4"]


@pytest.mark.parametrize(("status", "asked"), [("KILLED", ["scontrol requeue 1234567"]), ("FAILED", [])])
def test_it_goes_back_into_the_queue_if_a_signal_stopped_it_and_not_if_it_failed(
    tmp_path: Path, status: str, asked: list[str]
) -> None:
    code, called = submit(tmp_path, 1, status)
    assert called[3:] == asked
    assert (code == 0) == bool(asked)


def test_it_is_short_strict_and_executable() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 30
    assert "set -euo pipefail" in SCRIPT.read_text()
    assert SCRIPT.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert subprocess.run(["bash", str(SCRIPT)], env={}, check=False, capture_output=True).returncode != 0
