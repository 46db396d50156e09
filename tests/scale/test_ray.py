"""The cluster's engine gives what local processes give, whoever dies on the way. Skipped where Ray is not installed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import cpc
from cpc.config import InputError
from cpc.data.engine import Tick, Work, Worker
from cpc.data.pack import listed, pack
from cpc.data.shards import Source
from cpc.evaluation import units
from cpc.evaluation.embed import inputs
from cpc.models.context import GRUConfig
from cpc.models.cpc import ModelConfig, build
from cpc.models.encoder import EncoderConfig
from cpc.scale.ray import RayEngine, engine_named
from cpc.scale.sweep import sweep
from cpc.scale.training import train_on_ray
from cpc.tracking.mlflow import connect
from data_prep.cutting import Rules, cut_files
from tests.evaluation.trained import save_untrained
from tests.packed import content, refusal

CONFIG = ModelConfig(EncoderConfig(channels=16), GRUConfig(hidden=16))
RECIPE = """
base: classic
data: {corpus: CORPUS, train: pretrain, valid: valid, batch_size: 4, window_size: 5120}
model: {encoder: {channels: 16}, context: {hidden: 16}}
loss: {prediction_steps: 2, negatives: {num_negatives: 8}}
training: {max_steps: 3, log_every: 1, validate_every: 4, precision: fp32}
"""
NOBODY = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError("not here")
sys.meta_path.insert(0, Refuse())
from cpc.cli import main
sys.argv = ["cpc", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    "words",
    [
        ["embed", "runs/x", "in", "out"],
        ["units", "runs/x", "data"],
        ["sweep", "x.yaml"],
        ["train", "small", "data.corpus=x"],
        ["data", "folder", "in", "out"],
        ["data", "align", "corpus"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_without_ray_one_line_says_how_to_get_it(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, *words, "--engine", "ray"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().endswith(
        "engine=ray: Ray is not installed; install it with: pip install 'ray[train]', or drop --engine"
    )
    assert len(done.stderr.strip().splitlines()) == 1


def features(out: Path) -> dict[str, bytes]:
    """All files but the locks."""
    return {name: data for name, data in content(out).items() if not name.endswith(".lock")}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of two cores on this machine, one of them with the driver."""
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    import ray
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which workers cannot import
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(inputs, "BLOCK_FILES", 4)
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(40):
        path = tmp_path / "in" / f"{number:02d}.wav"
        soundfile.write(path, rng.uniform(-0.5, 0.5, int(rng.integers(2000, 20000))), 16000)
    soundfile.write(tmp_path / "in" / "long.wav", rng.uniform(-0.5, 0.5, 90_000), 16000)
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF")
    return tmp_path / "in"


@pytest.mark.parametrize("token", ["", "0" * 32])
def test_a_cluster_that_ray_start_made_with_or_without_a_token(
    token: str, folder: Path, tones: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
    environment |= {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    environment["RAY_raylet_start_wait_time_s"] = "200"
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(token)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = ["-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", str(port), "--num-cpus", "1"]
    words = ["embed", str(save_untrained(tones, tmp_path / "runs" / "x")), str(folder), str(tmp_path / "out")]
    words += ["--format", "parquet", "--engine", "ray", "--address", f"127.0.0.1:{port}"]
    short = tempfile.mkdtemp(prefix="ray-")  # Ray's sockets lie there, and their paths may have 107 letters
    head = subprocess.Popen(
        [sys.executable, *start, "--include-dashboard=false", "--temp-dir", short],
        env=environment, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while head.poll() is None:
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        time.sleep(2)
        done = subprocess.run(
            [sys.executable, "-m", "cpc", *words], capture_output=True, text=True, check=False, env=environment
        )
    finally:
        head.terminate()
        head.wait()
        shutil.rmtree(short, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert "41 files written" in done.stdout


@pytest.mark.parametrize(("format", "numbers"), [("npy", [2]), ("parquet", [1, 2])])
def test_embedding_is_the_same_bytes_on_any_number_of_workers(
    cluster: Any, folder: Path, tmp_path: Path, format: Any, numbers: list[int]
) -> None:
    model = build(CONFIG).eval()
    cpc.embed(model, folder, tmp_path / "local", format=format, batch_samples=1 << 16)
    for workers in numbers:
        out = tmp_path / f"ray{workers}"
        done = cpc.embed(model, folder, out, format=format, batch_samples=1 << 16, engine=RayEngine(workers))
        assert (done.files, done.skips) == (41, 1)
        assert features(out) == features(tmp_path / "local")
        again = cpc.embed(model, folder, out, format=format, batch_samples=1 << 16, engine=RayEngine(workers))
        assert again.new == 0


class Shelf(SimpleHTTPRequestHandler):
    """Keeps what it is sent, whole."""

    def do_POST(self) -> None:
        path = Path(self.translate_path(self.path))
        path.parent.mkdir(parents=True, exist_ok=True)
        size = self.headers["Content-Length"]
        path.write_bytes(self.rfile.read(int(size)) if size else b"".join(self._chunks()))
        self.send_response(201)
        self.end_headers()

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, *_: object) -> None:
        pass


def test_workers_write_their_parts_to_a_url(
    cluster: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Shelf, directory=str(tmp_path / "served")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = build(CONFIG).eval()
    cpc.embed(model, folder, tmp_path / "local", format="parquet")
    url = f"http://127.0.0.1:{server.server_port}/out"
    try:
        done = cpc.embed(model, folder, url, format="parquet", engine=RayEngine(2))
        again = cpc.embed(model, folder, url, format="parquet", engine=RayEngine(2))
    finally:
        server.shutdown()
        server.server_close()
    assert (done.files, done.skips, again.new) == (41, 1, 0)
    assert features(tmp_path / "served" / "out") == features(tmp_path / "local")


def number_of_process() -> Worker[int, int]:
    def work(blocks: Iterator[int], tick: Tick) -> Iterator[int]:
        for _ in blocks:
            tick()
            yield os.getpid()

    return work


def test_workers_stay_for_the_next_work_of_their_engine(cluster: Any) -> None:
    engine = RayEngine(1)
    first, second = (list(engine.run(Work("x", range(3), number_of_process, 3, 16000), False)) for _ in range(2))
    assert set(first) == set(second)
    engine.close()
    (third,) = set(engine.run(Work("x", [0], number_of_process, 1, 16000), False))
    assert third not in first


def test_packing_and_cutting_are_the_same_bytes(cluster: Any, folder: Path, tmp_path: Path) -> None:
    sources = [Source(path.stem, path, "s") for path in sorted(folder.iterdir())]

    def packed(name: str, engine: RayEngine | None) -> dict[str, bytes]:
        out = tmp_path / name
        found = listed(cut_files(sources, folder, out, Rules(longest=2.0), progress=False, engine=engine))
        report = pack(found, out, root=folder, shard_samples=1 << 16, progress=False, engine=engine)
        assert report.skipped == 1
        return content(out)

    assert len(packed("local", None)) > 8
    assert packed("ray", RayEngine(2)) == packed("local", None)


def test_units_are_the_same_bytes(cluster: Any, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_BLOCK_SAMPLES", 100_000)
    run = save_untrained(tones, tmp_path / "runs" / "first", tracked=True)
    asked = units.UnitsConfig(k=4, train="pretrain", test="valid", labels="turns", progress=False)
    for name, engine in (("local", None), ("ray", RayEngine(2))):
        units.discover(run, tones, replace(asked, out=tmp_path / name), engine)
    assert content(tmp_path / "ray") == content(tmp_path / "local")


SWEEP = """
recipe: recipe.yaml
experiment: table
runs: {good: [optim.lr=1e-3], bad: [optim.lr=1e-9], wild: [optim.lr=1e30, optim.warmup_steps=0]}
"""


def test_a_sweep_trains_its_runs_on_the_cluster(cluster: Any, tones: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("CORPUS", str(tones)))
    (tmp_path / "s.yaml").write_text(SWEEP)
    said: list[str] = []
    _, done, failed = sweep(tmp_path / "s.yaml", ["training.max_steps=8"], say=said.append, engine=RayEngine(2))
    assert [run.path.name for run in done] == ["s-good", "s-bad"]
    assert [name for name, _ in failed] == ["s-wild"]
    client = connect()
    parents = {client.get_run(run.run_id).data.tags["mlflow.parentRunId"] for run in done}
    assert len(parents) == 1
    assert client.get_run(parents.pop()).info.status == "FAILED"
    alone, *_ = sweep(tmp_path / "s.yaml", ["training.max_steps=8"], root=tmp_path / "alone")[1]
    assert done[0].checkpoint.is_file()
    assert done[0].metrics["train/loss"] == alone.metrics["train/loss"]


def test_asha_stops_runs_on_the_cluster_and_leaves_the_others_as_they_would_be(
    cluster: Any, tones: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("CORPUS", str(tones)))
    runs = "runs: {good: [optim.lr=1e-2], bad: [optim.lr=1e-12], worse: [optim.lr=1e-12], poor: [optim.lr=1e-11]}"
    head = "recipe: recipe.yaml\nexperiment: halved\n"
    (tmp_path / "s.yaml").write_text(f"{head}{runs}\nasha: {{min_steps: 2, reduction_factor: 2}}")
    (tmp_path / "plain.yaml").write_text(f"{head}runs: {{good: [optim.lr=1e-2]}}")
    settings = ["training.max_steps=16", "training.validate_every=2", "optim.warmup_steps=0"]
    said: list[str] = []
    _, done, failed = sweep(tmp_path / "s.yaml", settings, say=said.append, engine=RayEngine(2))
    names, stopped = (
        {run.path.name for run in done},
        {line.partition(":")[0] for line in said if "stopped early" in line},
    )
    assert not failed
    assert names | stopped == {"s-good", "s-bad", "s-worse", "s-poor"}
    assert "s-good" in names
    assert stopped
    rungs = [json.loads(path.read_text()) for path in Path("runs/.asha").rglob("*.json")]
    assert sum(rung["stopped"] for rung in rungs) == len(stopped)
    (alone,) = sweep(tmp_path / "plain.yaml", settings, root=tmp_path / "alone")[1]
    assert next(run for run in done if run.path.name == "s-good").metrics["train/loss"] == alone.metrics["train/loss"]
    assert {run.path.name for run in sweep(tmp_path / "s.yaml", settings, engine=RayEngine(2))[1]} == names


def test_training_equals_torchrun_and_goes_on_after_a_lost_worker(cluster: Any, tones: Path, tmp_path: Path) -> None:
    import psutil

    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("CORPUS", str(tones)))
    settings = ["training.max_steps=60", "training.checkpoint_every=5", "loss.group_size=2", "experiment=lost"]
    words = [str(tmp_path / "recipe.yaml"), *settings]
    ended: list[int] = []

    def end_one() -> None:
        while not (tmp_path / "runs" / "lost" / "last.safetensors").exists():
            time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in " ".join(process.cmdline()) and not ended:
                ended.append(process.pid)
                process.kill()

    thread = threading.Thread(target=end_one)
    thread.start()
    run = train_on_ray(words, "lost", workers=2)
    thread.join()
    assert (run.status, run.steps, len(ended)) == ("FINISHED", 60, 1)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "cpc", "train"]
    subprocess.run([*command, *words, "--name", "torchrun"], check=True, capture_output=True)
    ours, theirs = (load_file(tmp_path / "runs" / name / "last.safetensors") for name in ("lost", "torchrun"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def slow(folder: Path, seconds: float) -> Worker[int, int]:
    """A worker that takes its time and leaves a mark of each block it begins."""

    def work(blocks: Iterator[int], tick: Tick) -> Iterator[int]:
        for block in blocks:
            with (folder / f"{block}").open("a") as file:
                file.write("x")
            time.sleep(seconds)
            tick(16000)
            yield block

    return work


def test_a_node_that_is_killed_loses_what_it_had_in_hand_and_nothing_more(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=2)
    work = Work("x", range(60), partial(slow, tmp_path, 0.1), 60, 16000)
    results = RayEngine(4).run(work, progress=False)
    done = [next(results) for _ in range(16)]
    cluster.remove_node(node, allow_graceful=False)
    done += list(results)
    assert sorted(done) == list(range(60))
    begun = [len((tmp_path / f"{block}").read_text()) for block in range(60)]
    assert 0 < sum(begun) - 60 <= 2 * (work.ahead + 1)  # two workers, each with so many blocks


def test_embedding_goes_on_when_a_node_is_killed(cluster: Any, folder: Path, tmp_path: Path) -> None:
    model = build(CONFIG).eval()
    cpc.embed(model, folder, tmp_path / "local", format="parquet")
    node = cluster.add_node(num_cpus=2)

    class Killing(RayEngine):
        def run(self, work: Any, progress: bool = True) -> Iterator[Any]:
            for number, done in enumerate(super().run(work, progress)):
                if number == 1:
                    cluster.remove_node(node, allow_graceful=False)
                yield done

    done = cpc.embed(model, folder, tmp_path / "ray", format="parquet", engine=Killing(4))
    assert (done.files, done.skips) == (41, 1)
    assert features(tmp_path / "ray") == features(tmp_path / "local")


def deadly() -> Worker[int, int]:
    def work(blocks: Iterator[int], tick: Tick) -> Iterator[int]:
        for block in blocks:
            if block == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            yield block

    return work


def test_a_block_that_kills_its_workers_is_named(cluster: Any) -> None:
    said = refusal(lambda: list(RayEngine(2).run(Work("x", range(9), deadly, 9, 16000, ahead=0), progress=False)))
    assert said.startswith("x: the worker that did a block of it died 3 times (")
    assert said.endswith("; give each more memory, or leave out the files that it holds: 5")


def refusing() -> Worker[int, int]:
    def work(blocks: Iterator[int], tick: Tick) -> Iterator[int]:
        for block in blocks:
            raise InputError(f"block={block}: is odd; give another")
        yield 0

    return work


def test_an_error_of_a_worker_is_the_callers(cluster: Any) -> None:
    assert refusal(lambda: list(RayEngine(1).run(Work("x", [1], refusing, 1, 16000), progress=False))) == (
        "block=1: is odd; give another"
    )


def test_blocks_are_taken_as_they_are_needed(cluster: Any, tmp_path: Path) -> None:
    taken: list[int] = []

    def blocks() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = RayEngine(2).run(Work("x", blocks(), partial(slow, tmp_path, 0.0), 1000, 16000), progress=False)
    for count in range(1, 101):
        next(results)
        assert len(taken) <= count + 2 * 2
    results.close()  # type: ignore[attr-defined]


def test_too_little_is_said_before_anything_starts(cluster: Any) -> None:
    for options, said in (
        ({"gpus": 1.0}, "gpus=1: 1 worker with 1 each where the cluster has 0 in all; give less, or add machines"),
        ({"cpus": 2.0, "workers": 64}, "cpus=2: 64 workers with 2 each where the cluster has "),
        ({"cpus": 0.0}, "cpus=0, gpus=0: cpus must be above 0"),
    ):
        with pytest.raises(InputError) as caught, engine_named("ray", **options):  # type: ignore[arg-type]
            pass
        assert str(caught.value).startswith(said)


def test_other_versions_on_a_worker_are_named(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpc.version.__version__", "9.9")
    said = refusal(lambda: list(RayEngine(1).run(Work("x", [1], refusing, 1, 16000), progress=False)))
    assert f"worker on {socket.gethostname()} has cpc {cpc.__version__} (here 9.9); install the same versions" in said


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:1", "no-such-host.invalid:6379"])
def test_an_address_at_which_nobody_answers_is_one_line(address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    words = ["embed", "runs/x", "in", "out", "--engine", "ray", "--address", address]
    done = subprocess.run([sys.executable, "-m", "cpc", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"cpc: address={address}: ")
    assert len(done.stderr.strip().splitlines()) == 1
