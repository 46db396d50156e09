"""Shapes in signatures are checked in every test; small corpora are made once a session."""

from collections.abc import Iterator

from jaxtyping import install_import_hook

install_import_hook("cpc", "beartype.beartype")

import os  # noqa: E402 (the hook must come before the first import of cpc)
from pathlib import Path  # noqa: E402

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402

hypothesis.settings.register_profile("patient", deadline=None)  # a busy machine is not a wrong result
hypothesis.settings.load_profile("patient")

SPEECH = Path(__file__).parents[2] / "shared" / "speech"
# Processes that tests start find the package data_prep, which is installed as cpc.data_prep only.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))


@pytest.fixture(autouse=True)
def _one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs in a folder of its own, with the local MLflow store, and leaves none to the next one."""
    monkeypatch.chdir(tmp_path)
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow sets it itself: what a test finds is no wish of anybody
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed corpus of six "speakers", each with a pitch of its own: 24 utterances of 1.5 to 2.5 s, one of 0.2 s."""
    from cpc.data.alignment import AlignedRow, write_alignment
    from cpc.data.pack import pack
    from cpc.data.shards import Source
    from cpc.data.splits import write_split

    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    sources = []
    for number in range(25):
        speaker = number % 6
        seconds = 0.2 if number == 24 else rng.uniform(1.5, 2.5)
        time = np.arange(int(seconds * 16000)) / 16000
        pitch = 150 * (1.3**speaker) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(1, 4) * time))
        wave = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16000) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
        path = folder / f"s{speaker}-{number:02d}.wav"
        soundfile.write(path, (wave + rng.normal(0, 0.01, len(time))).astype(np.float32), 16000)
        sources.append(Source(id=path.stem, path=path, speaker=f"s{speaker}", chapter=str(number // 12)))
    pack(sources, folder / "packed", workers=1, progress=False)
    names = [source.id for source in sources]
    write_split(folder / "packed", "pretrain", [n for n in names if not n.startswith("s5")])
    write_split(folder / "packed", "valid", [n for n in names if n.startswith("s5")])
    # Tenths of a second, labelled by turns; the last utterance has no labels.
    edges = np.arange(13) / 10
    named = enumerate(names[:-1])
    rows = [AlignedRow(name, edges[:-1], edges[1:], (np.arange(12) + number) % 3) for number, name in named]
    write_alignment(folder / "packed", "turns", rows, ["a", "b", "c"], "made up")
    return folder / "packed"


@pytest.fixture
def speech() -> Path:
    """The real speech that may lie beside the checkout."""
    if not (SPEECH / "audio").is_dir():
        pytest.skip("no real speech beside the checkout (../shared/speech)")
    return SPEECH


@pytest.fixture
def cuda() -> torch.device:
    """A GPU."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return torch.device("cuda")
