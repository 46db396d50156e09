"""How good forced alignment is, and how fast: its pronunciations, its boundaries and its real-time factor.

python -m benchmarks.alignment [--corpus CORPUS --reference ALIGNMENTS.jsonl.gz] [--utterances 300] [--workers 2]

Without a corpus everything is measured on eSpeak NG's speech (American voices, a session's level and noise as in the
embedded corpus), whose phones are known to the sample. A reference has one utterance a line, `{"id": …, "words":
[[word, start, frames, [[phone, start, frames], …]], …]}` in PocketSphinx's frames.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.agreement import Agreement, Phones, edits
from cpc.audio.decode import write_flac
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.seeding import numpy_generator
from data_prep import console, espeak, lexicon
from data_prep.align import align
from data_prep.aligner import FIRST_EDGE, HOP, PHONES, SAMPLE_RATE, Aligner, AlignmentError, fold
from data_prep.speakers import Chapter, Speaker, Utterance, utterance

VARIANTS = ("f1", "m1", "linda", "m3", "steph", "m4", "Annie", "m6", "belinda", "m7", "grandma", "Andy", "Gene")

app = typer.Typer(add_completion=False)


def synthesise(count: int, seed: int) -> list[tuple[Utterance, Phones]]:
    """Utterances of American voices, with their phones."""
    made = []
    for number in range(count):
        draw = numpy_generator(seed, "alignment", number)
        rate, pitch = int(draw.integers(145, 185)), int(draw.integers(35, 66))
        voice = espeak.Voice(f"en-us+{VARIANTS[number % len(VARIANTS)]}", rate, pitch)
        speaker = Speaker(str(number), "", "", voice)
        spoken = utterance(Chapter(f"{number}", speaker, 0, -23.0, 38.0, 0.3), f"{number:04d}", seed)
        names = [tuple(lexicon.ARPABET.get(name, name).split()) for _, _, name in spoken.phones]
        onsets = [onset for onset, _, _ in spoken.phones]
        made.append((spoken, Phones([name or ("SIL",) for name in names], onsets, spoken.phones[-1][1])))
    return made


def read_reference(path: Path) -> dict[str, Phones]:
    """The phones of every utterance of a reference."""
    if not path.is_file():
        raise InputError(f"reference={path}: no such file")
    read = {}
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            row = json.loads(line)
            phones = [phone for *_, inside in row["words"] for phone in inside]
            onsets = [(HOP * start + FIRST_EDGE if start else 0) / SAMPLE_RATE for _, start, _ in phones]
            end = (HOP * (phones[-1][1] + phones[-1][2]) + FIRST_EDGE) / SAMPLE_RATE
            read[row["id"]] = Phones([(fold(name),) for name, *_ in phones], onsets, end)
    return read


Found = Iterator[tuple[str, Phones | None, float]]  # id, phones, CPU seconds


def align_rows(texts: Sequence[tuple[str, str]], waveform: Callable[[int], np.ndarray]) -> Found:
    """Align utterances, of which the id and text are given, in this process."""
    unknown = lexicon.unknown_words(text for _, text in texts)
    tool = Aligner({word: lexicon.pronounce(word) for word in unknown})
    for place, (id, text) in enumerate(texts):
        begun = time.process_time()
        phones = _align(tool, waveform(place), text)
        yield id, phones, time.process_time() - begun


def _align(tool: Aligner, samples: np.ndarray, text: str) -> Phones | None:
    try:
        aligned = tool.align(samples, lexicon.split_words(text))
    except AlignmentError:
        return None
    onsets = [start / SAMPLE_RATE for start in aligned.phone_starts]
    return Phones([(PHONES[label],) for label in aligned.phones], onsets, len(samples) / SAMPLE_RATE)


def read_labels(corpus: Corpus, rows: Sequence[int], scheme: str) -> Found:
    """The same from labels that the corpus has."""
    labels = corpus.labels(scheme)
    for row in rows:
        id = corpus.ids[row]
        if id not in labels:
            yield id, None, 0.0
            continue
        found = labels.intervals(id)
        names = [(labels.inventory[label],) for label in found.labels.tolist()]
        yield id, Phones(names, found.onsets.tolist(), float(found.offsets[-1])), 0.0


def evaluate(found: Found, truth: Mapping[str, Phones]) -> list[str]:
    """Cells: utterances that both have, utterances without labels, agreement, CPU seconds a second of audio."""
    agreement, both, failed, taken, seconds = Agreement(), 0, 0, 0.0, 0.0
    for id, phones, cpu in found:
        failed += phones is None
        if phones:
            taken, seconds = taken + cpu, seconds + phones.end
        if phones and id in truth:
            both += 1
            agreement.add(phones, truth[id])
    return [str(both), str(failed), *agreement.row(), f"{taken / seconds:.3f}" if taken else ""]


def draw_rows(corpus: Corpus, count: int, seed: int) -> list[int]:
    """`count` utterances, equally many of every subset; all of them if there are fewer or `count` is 0."""
    draw = numpy_generator(seed, "rows")
    subsets = np.array(corpus.subsets)
    names = np.unique(subsets)
    groups = [draw.permutation(np.flatnonzero(subsets == name)) for name in names]
    most = count // len(names) if count else len(corpus)
    return sorted(int(row) for group in groups for row in group[:most])


def hidden_words(count: int, seed: int) -> list[str]:
    """Cells: phones wrong and words right in every phone, of words hidden from the dictionary."""
    known: dict[str, list[list[str]]] = {}
    for line in (lexicon.model_folder() / "cmudict-en-us.dict").read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        known.setdefault(word.partition("(")[0], []).append(phones)
    words = sorted(word for word in known if len(word) > 1 and word.replace("'", "").isalpha())
    wrong = total = right = 0
    for place in numpy_generator(seed, "hidden").choice(len(words), count, replace=False).tolist():
        got = lexicon.transcribe(words[place]).split()
        errors, length = min((edits(got, each), len(each)) for each in known[words[place]])
        wrong, total, right = wrong + errors, total + length, right + (errors == 0)
    return [str(count), f"{100 * wrong / total:.1f}%", f"{100 * right / count:.1f}%"]


def speed(made: Sequence[tuple[Utterance, Phones]], workers: Sequence[int]) -> Iterator[list[str]]:
    """Cells: processes, hours of audio, wall seconds, times real time, of the whole command in a scratch corpus."""
    for count in workers:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            sources = []
            for number, (spoken, _) in enumerate(made):
                path = folder / f"{number:04d}.flac"
                write_flac(path, spoken.samples)
                sources.append(Source(path.stem, path, "speaker", text=spoken.text))
            pack(sources, folder / "packed", workers=1, progress=False)
            report = align(Corpus.open(folder / "packed"), workers=count, progress=False)
        yield [str(count), f"{report.fresh:.0f} s", f"{report.took:.1f} s", f"{report.fresh / report.took:.0f} ×"]


def table(*rows: Sequence[str]) -> None:
    """Print a Markdown table; its first row is the heading."""
    for place, row in enumerate(rows):
        typer.echo(f"| {' | '.join(row)} |")
        if not place:
            typer.echo("|" + " --- |" * len(row))
    typer.echo()


AGREEMENT = ("against", "utterances", "not aligned", "frames agree", "all vowels one", "boundaries within 20 ms",
             "matched", "median error", "CPU s a s of audio")  # fmt: skip


@app.command()
def main(
    corpus: Annotated[Path | None, typer.Option(help="A packed corpus with transcripts; it is only read.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Its reference: JSON lines, plain or gzip.")] = None,
    scheme: Annotated[str, typer.Option(help="Evaluate these labels of the corpus instead of aligning here.")] = "",
    utterances: Annotated[int, typer.Option(help="Of the corpus, drawn over its subsets; 0 for all.")] = 300,
    synthetic: Annotated[int, typer.Option(help="Utterances of eSpeak NG.")] = 64,
    hidden: Annotated[int, typer.Option("--hidden-words", help="Words of the dictionary to be guessed.")] = 1000,
    workers: Annotated[list[int] | None, typer.Option(help="Processes of the speed test; may be repeated.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Print what forced alignment is worth, as Markdown tables."""
    if (corpus is None) != (reference is None):
        raise InputError("corpus, reference: give both or neither")
    made = synthesise(synthetic, seed)
    exact = {str(number): phones for number, (_, phones) in enumerate(made)}
    spoken = align_rows(
        [(str(number), each.text) for number, (each, _) in enumerate(made)], lambda n: made[n][0].samples
    )
    rows = [["eSpeak NG's own times", *evaluate(spoken, exact)]]
    if corpus and reference:
        opened, truth = Corpus.open(corpus), read_reference(reference)
        drawn = draw_rows(opened, utterances, seed)
        texts = [(opened.ids[row], opened.texts[row]) for row in drawn]
        here = align_rows(texts, lambda n: opened.waveform(drawn[n]))
        rows.append([reference.name, *evaluate(read_labels(opened, drawn, scheme) if scheme else here, truth)])
    table(("words hidden", "phones wrong", "words all right"), hidden_words(hidden, seed))
    table(AGREEMENT, *rows)
    table(("processes", "audio", "wall time", "real time"), *speed(made, workers or [1]))


if __name__ == "__main__":
    console.run(app)
