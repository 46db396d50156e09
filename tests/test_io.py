"""Files whole or not at all, one lock for all, and a full disk said in one line."""

import errno
import fcntl
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cpc
from cpc.config import InputError
from cpc.io import DiskFull, atomic, disk_is_full, locked, write_text
from tests.tiny import SHORT, tiny


def test_a_lock_is_held_by_one_process(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    code = f"from cpc.io import locked\nfrom pathlib import Path\nwith locked(Path({str(file)!r}), 'busy'): pass"
    with locked(file, "busy"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "InputError: busy" in done.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_worked_on(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    run = cpc.train(tiny(tones, training=SHORT), name="other", root=tmp_path, progress=False)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=r"\.lock: this file system has no locks .*; see to it that no second process"):
        run = cpc.train(tiny(tones, training=SHORT), name="run", root=tmp_path, progress=False)
    assert run.status == "FINISHED"


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")
    with pytest.raises(DiskFull, match=r"a: cannot be written, the disk is full .*: make room"), atomic(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"
    copy = pickle.loads(pickle.dumps(DiskFull("a")))
    assert str(copy) == str(DiskFull("a"))
    assert isinstance(copy, InputError)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.EDQUOT, "quota"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), True),
        (OSError(errno.EACCES, "denied"), False),
        (RuntimeError("no such table"), False),
    ],
)
def test_a_full_disk_is_known_by_whatever_says_so(error: Exception, full: bool) -> None:
    assert disk_is_full(error) is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk may be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def command(tones: Path, *words: str) -> list[str]:
    settings = ["training.max_steps=4", "training.precision=fp32", "data.window_size=4000", "data.batch_size=4"]
    settings += [f"data.corpus={tones}", "model.encoder.channels=16", "training.checkpoint_every=1"]
    return [sys.executable, "-m", "cpc", "train", "small", *settings, "--name", "run", *words]


@pytest.mark.parametrize("where", ["checkpoints", "store"])
def test_training_on_a_full_disk_ends_in_one_line_or_goes_on(tones: Path, small_disk: Path, where: str) -> None:
    """Where checkpoints do not fit it ends, and says how to go on; where only the store is full it goes on."""
    if where == "store":
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{small_disk}/mlflow.db"}
        (small_disk / "ballast").write_bytes(bytes((3 << 20) - (60 << 10)))
        folder, hidden = small_disk.parent, "model.context.hidden=16"
    else:
        environment, folder, hidden = dict(os.environ), small_disk, "model.context.hidden=256"
    done = subprocess.run(
        [*command(tones), hidden], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    if where == "store":
        assert done.returncode == 0, done.stderr
        assert "its disk is full" in done.stderr
    else:
        assert done.returncode == 2
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("cpc: runs/run/")
        assert "the disk is full" in last
        assert "cpc train --resume runs/run" in last
