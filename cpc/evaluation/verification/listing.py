"""Lists of trials as files, in VoxCeleb's format: `1 ID ID` for one speaker, `0 ID ID` for two, one trial a line."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from cpc.config import InputError
from cpc.corpus.corpus import Corpus
from cpc.evaluation.verification.trials import Trials
from cpc.files import write_text

FORMAT = "a line must be 1 or 0 and two ids: 1 ID ID for one speaker, 0 ID ID for two"


def read_trials(file: Path, corpus: Corpus) -> Trials:
    """Trials of a file whose ids are those of a corpus, or the files' paths that packing a folder made the ids of.

    Raises InputError, with the number of the line, for a line that is no trial, an id that the corpus does not have,
    and an answer that its speakers contradict; and for a list without trials of both kinds.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "cannot be read as UTF-8 text"
        raise InputError(f"trials={file}: {reason}; give a list in VoxCeleb's format ({FORMAT})") from None
    rows, speakers = {id: row for row, id in enumerate(corpus.ids)}, corpus.speakers
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append(_trial(line, rows, speakers))
            except ValueError as error:
                raise InputError(f"trials={file}: line {number}: {error}") from None
    first, second, target = np.array(found, dtype=np.int64).reshape(-1, 3).T
    trials = Trials(first, second, target == 1)
    if len(set(trials.target.tolist())) < 2:
        kind = "neither" if not len(trials) else "only one"
        raise InputError(f"trials={file}: {len(trials)} trials, {kind} of the two kinds; an error rate needs both")
    return trials


def _trial(line: str, rows: Mapping[str, int], speakers: list[str]) -> tuple[int, int, bool]:
    words = line.split()
    if len(words) != 3 or words[0] not in ("0", "1"):
        raise ValueError(f"{line.strip()[:60]!r}: {FORMAT}")
    first, second = (_row(word, rows) for word in words[1:])
    if first == second:
        raise ValueError(f"{words[1]} with itself; a trial needs two utterances")
    target = words[0] == "1"
    if "" not in (speakers[first], speakers[second]) and target != (speakers[first] == speakers[second]):
        claim = "one speaker" if target else "two speakers"
        raise ValueError(f"says {claim}; in the corpus they are by {speakers[first]} and {speakers[second]}")
    return first, second, target


def _row(word: str, rows: Mapping[str, int]) -> int:
    stem = word.removesuffix(PurePosixPath(word).suffix)
    for id in (word, stem, stem.replace("/", "-")):  # id10270/x6uYqmx31kE/00001.wav is id10270-x6uYqmx31kE-00001
        if id in rows:
            return rows[id]
    raise ValueError(f"{word} is not in the corpus, whose ids are like {next(iter(rows))}")


def write_trials(file: Path, trials: Trials, corpus: Corpus) -> None:
    """Write what `read_trials` reads. Raises InputError for an id with a blank, which the format cannot hold."""
    ids = corpus.ids
    if odd := [ids[row] for row in trials.rows.tolist() if len(ids[row].split()) != 1]:
        raise InputError(f"trials={file}: id {odd[0]!r} has a blank, which would part it; pack with other ids")
    pairs = zip(trials.target.tolist(), trials.first.tolist(), trials.second.tolist(), strict=True)
    write_text(file, "".join(f"{int(target)} {ids[one]} {ids[other]}\n" for target, one, other in pairs))
