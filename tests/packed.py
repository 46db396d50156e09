"""Packed corpora of noise for tests, each utterance of a length that the test names."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import soundfile
import typer
from typer.testing import CliRunner

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source

RATE = 16000


def make_corpus(folder: Path, seconds: Mapping[str, float], name: str = "corpus") -> Corpus:
    """A corpus at `folder`/`name`: ids as in LibriSpeech give speaker and chapter, others none."""
    sources = []
    for number, (id, length) in enumerate(seconds.items()):
        path = folder / f"{name}-audio" / f"{id}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(-9000, 9000, round(length * RATE))
        soundfile.write(path, noise.astype(np.int16), RATE)
        speaker, chapter, *_ = [*id.split("-"), "", ""]
        sources.append(Source(id, path, speaker, chapter, "FM"[number % 2], "dev"))
    pack(sources, folder / name, workers=1, progress=False)
    return Corpus.open(folder / name)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def invoke(app: typer.Typer, *arguments: object) -> str:
    """What a command of data preparation prints; its InputError is raised, any other failure fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def refusal(function: object, *arguments: object, **options: object) -> str:
    """The message of the InputError that a call raises: one line."""
    try:
        function(*arguments, **options)  # type: ignore[operator]
    except InputError as error:
        assert "\n" not in str(error)
        return str(error)
    raise AssertionError("no InputError was raised")


def lines(words: Iterable[object]) -> str:
    """Lines of a text file."""
    return "".join(f"{word}\n" for word in words)
