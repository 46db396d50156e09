"""`cpc data VERB` is the door to data_prep: its verbs, their help, and its errors in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from cpc.cli.data import VERBS
from tests.packed import make_corpus


def cpc(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cpc", "data", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_without_a_verb_it_lists_them() -> None:
    for words in ((), ("--help",)):
        done = cpc(*words)
        assert done.returncode == 0
        assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str) -> None:
    done = cpc(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"cpc data {verb}" in done.stdout


def test_options_reach_the_verb_and_errors_are_one_line(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, {f"{s}-1-{n}": 0.3 for s in "abc" for n in range(3)})
    done = cpc("splits", corpus.path, "--by", "speaker", "--share", "0.3", "--name", "phone")
    assert done.returncode == 0, done.stderr
    assert corpus.splits() == ["phone_test", "phone_train"]
    for words, said in (
        (("splits", tmp_path / "none"), "not a packed corpus"),
        (("merge",), f"VERB=merge: must be one of {', '.join(VERBS)}"),
        (("align", corpus.path), "has no transcripts to align"),
    ):
        done = cpc(*words)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert cpc("splits", corpus.path, "--nope").returncode == 2
