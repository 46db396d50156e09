"""Merging: what was packed in parts is what would have been packed at once, whatever parts, whatever kills it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from cpc.config import InputError
from cpc.data import merge as order
from cpc.data.alignment import AlignedRow, write_alignment
from cpc.data.corpus import Corpus
from cpc.data.merge import merge
from cpc.data.pack import pack, take_shard
from cpc.data.shards import Source
from cpc.data.splits import write_split
from cpc.io import write_text

Make = Callable[[int], list[Source]]
COLUMNS = ("id", "speaker", "chapter", "sex", "subset", "text")
INVENTORY = ["SIL", "AA", "B"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def dress(path: Path, sources: Sequence[Source]) -> None:
    """Give a packed corpus labels and scores for three utterances in four, and splits of its even ones and of all."""
    ids = sorted(source.id for source in sources)
    rows = [row(id) for id in ids if int(id[1:]) % 4]
    write_alignment(path, "phones", rows, INVENTORY, "by hand", {"tool": "hand", "utterances": len(rows)})
    write_split(path, "even", [id for id in ids if int(id[1:]) % 2 == 0])
    write_split(path, "all", ids)
    write_text(
        path / "labels/phones.utterances.tsv", "id\tscore\n" + "".join(f"{r.id}\t{int(r.id[1:])}\n" for r in rows)
    )
    write_text(path / "labels/phones.lexicon.tsv", "word\tphones\nblah\tB L AA\nhm\tHH M\n")
    cuts = [json.dumps({"path": f"{id} {end}", "size": 1, "spans": [[0, 5]]}) for id in ids for end in ("", "b")]
    write_text(path / "cuts.jsonl", "\n".join(['{"longest": 60}', *cuts, ""]))


def row(id: str) -> AlignedRow:
    edges = np.arange(1 + int(id[1:])) / 100
    return AlignedRow(id, edges[:-1], edges[1:], np.arange(int(id[1:])) % 3)


def packed(path: Path, sources: Sequence[Source], shard_samples: int = 3000) -> Path:
    pack(sources, path, shard_samples=shard_samples, progress=False)
    dress(path, sources)
    return path


def joined(parts: Sequence[Path], out: Path, link: bool = True) -> Corpus:
    merge(parts, out, link=link, progress=False)
    return Corpus.open(out)


@pytest.fixture
def parts(tmp_path: Path, sources: Make) -> list[Path]:
    """Twenty utterances in three parts."""
    return [packed(tmp_path / f"part{i}", take_shard(sources(20), i, 3)) for i in (1, 2, 3)]


def contiguous(sources: list[Source], n: int) -> list[list[Source]]:
    return [take_shard(sources, i, n) for i in range(1, n + 1)]


def interleaved(sources: list[Source], n: int) -> list[list[Source]]:
    return [sources[i::n] for i in range(n)]


def uneven(sources: list[Source], n: int) -> list[list[Source]]:
    drawn = np.random.default_rng(n).integers(0, n, len(sources))
    return [[source for source, part in zip(sources, drawn, strict=True) if part == i] for i in range(n)]


@pytest.mark.parametrize("cut", [contiguous, interleaved, uneven])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_packing_in_parts_and_merging_is_packing_at_once(
    tmp_path: Path, sources: Make, monkeypatch: pytest.MonkeyPatch, cut: Callable[..., list[list[Source]]], n: int
) -> None:
    monkeypatch.setattr(order, "GROUP", 3)  # so that groups end in the middle of parts
    made = sources(20)
    whole = Corpus.open(packed(tmp_path / "whole", made))
    merged = joined([packed(tmp_path / f"{i}", part) for i, part in enumerate(cut(made, n))], tmp_path / "out")
    for name in COLUMNS:
        assert merged.column(name).equals(whole.column(name)), name
    assert merged.samples.tolist() == whole.samples.tolist()
    for place in range(20):
        assert np.array_equal(merged.waveform(place), whole.waveform(place))
    # Splits, labels and scores are not only equal: their files have the same bytes.
    theirs, ours = files(whole.path), files(merged.path)
    same = [
        name
        for name in theirs
        if name.startswith(("labels/", "splits/", "skipped", "cuts")) and not name.endswith("json")
    ]
    assert len(same) == 7
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert merged.splits() == ["all", "even"]
    told, expected = (json.loads(found["corpus.json"]) for found in (ours, theirs))
    for name in ("format", "sample_rate", "utterances", "samples", "speakers", "skipped"):
        assert told[name] == expected[name], name


def test_neither_the_order_of_the_parts_nor_merging_in_steps_changes_a_byte(
    tmp_path: Path, sources: Make, parts: list[Path]
) -> None:
    parts.append(packed(tmp_path / "part4", [Source("v7", s.path, s.speaker) for s in sources(1)]))
    joined(parts, tmp_path / "one")
    joined(parts[::-1], tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    joined([parts[2], parts[0]], tmp_path / "some")
    joined([parts[3], tmp_path / "some", parts[1]], tmp_path / "steps")
    one, steps = files(tmp_path / "one"), files(tmp_path / "steps")
    info = [json.loads(found.pop("corpus.json")) for found in (one, steps)]
    assert one.keys() == steps.keys()
    assert [name for name in one if one[name] != steps[name]] == []
    for told in info:  # the plan tells the parts that were asked for
        told.pop("plan")
    assert info[0] == info[1]
    provenance = json.loads(one["labels/phones.json"])["provenance"]
    assert provenance == {"tool": "hand", "parts": [{"utterances": count} for count in (1, 4, 5, 6)]}


def test_the_digest_tells_merged_corpora_apart(tmp_path: Path, parts: list[Path]) -> None:
    digests = {joined(some, tmp_path / f"out{len(some)}").digest for some in (parts[:1], parts[:2], parts)}
    assert len(digests) == 3
    assert Corpus.open(parts[0]).digest in digests  # one part is that part


def test_audio_is_shared_with_the_parts_which_stay_whole(tmp_path: Path, parts: list[Path]) -> None:
    before = [files(part) for part in parts]
    report = merge(parts, tmp_path / "out", progress=False)
    assert [files(part) for part in parts] == before
    assert report.copied == 0
    inodes = {path.stat().st_ino for part in parts for path in (part / "shards").iterdir()}
    shared = [path.stat().st_ino in inodes for path in (tmp_path / "out" / "shards").iterdir()]
    assert all(shared)
    assert len(shared) == report.shards > 5
    whole = files(tmp_path / "out")
    for part in parts:
        shutil.rmtree(part)
    assert files(tmp_path / "out") == whole


def test_copies_are_the_same_bytes_and_no_links(tmp_path: Path, parts: list[Path]) -> None:
    joined(parts, tmp_path / "links")
    report = merge(parts, tmp_path / "copies", link=False, progress=False)
    assert report.copied == report.shards
    assert files(tmp_path / "copies") == files(tmp_path / "links")
    assert {path.stat().st_nlink for path in (tmp_path / "copies" / "shards").iterdir()} == {1}


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no second file system (/dev/shm) to merge onto")
def test_another_disk_gets_copies(tmp_path: Path, parts: list[Path]) -> None:
    if Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is on the disk of the tests")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        report = merge(parts, Path(other) / "out", progress=False)
        assert report.copied == report.shards
        joined(parts, tmp_path / "out")
        assert files(Path(other) / "out") == files(tmp_path / "out")


def test_a_scheme_that_some_parts_lack_is_merged_and_told(tmp_path: Path, parts: list[Path]) -> None:
    for path in (parts[1] / "labels").iterdir():
        path.unlink()
    write_split(parts[1], "mine", ["u07"])
    report = merge(parts, tmp_path / "out", progress=False)
    labelled = len(Corpus.open(parts[0]).labels()) + len(Corpus.open(parts[2]).labels())
    assert report.labels == {"phones": labelled}
    assert report.without == {"phones": [parts[1]]}
    assert report.splits == {"all": 20, "even": 10, "mine": 1}
    alignment = Corpus.open(tmp_path / "out").labels()
    assert "u07" not in alignment
    assert alignment.intervals("u19").labels.tolist() == row("u19").labels.tolist()


def test_words_that_only_some_parts_have_are_united(tmp_path: Path, parts: list[Path]) -> None:
    spoken: dict[str, list[str]] = {}
    for number, part in enumerate(parts):
        vocabulary = ["<eps>", f"only{number}", "shared"]
        ids = Corpus.open(part).ids
        rows = [AlignedRow(id, np.array([0.0, 0.1]), np.array([0.1, 0.2]), np.array([1, 2])) for id in ids]
        write_alignment(part, "words", rows, vocabulary, "an aligner")
        spoken |= {id: [f"only{number}", "shared"] for id in ids}
    merge(parts, tmp_path / "out", progress=False)
    words = Corpus.open(tmp_path / "out").labels("words")
    assert words.inventory == ["<eps>", "only0", "only1", "only2", "shared"]
    assert {id: [words.inventory[label] for label in words.intervals(id).labels] for id in spoken} == spoken


def test_what_is_left_in_the_parts_is_told(tmp_path: Path, parts: list[Path]) -> None:
    left = [parts[0] / "labels" / "notes.md", parts[1] / "labels" / "words.parts", parts[1] / "picture.png"]
    for path in left:
        path.touch()
    assert merge(parts, tmp_path / "out", progress=False).left == left


def test_skipped_files_of_all_parts_are_listed(tmp_path: Path, sources: Make) -> None:
    made = sources(12)
    for source in made[2:9]:  # u09 to u03: no part is left without any, and one shard is left with none
        source.path.write_bytes(b"no audio")
    whole = packed(tmp_path / "whole", made)
    cut = [[s for s in made if s.speaker == speaker] for speaker in ("s0", "s1", "s2")]
    parts = [packed(tmp_path / f"{i}", part, 1300) for i, part in enumerate(cut)]
    report = merge(parts, tmp_path / "out", progress=False)
    assert report.skipped == 7
    lines = (tmp_path / "out" / "skipped.tsv").read_text().splitlines()
    assert lines[0] == "path\treason"
    names = sorted(line.partition("\t")[0] for line in lines[1:])
    assert names == [f"u{number:02d}.wav" for number in range(3, 10)]  # each below the folder of its part
    merged = Corpus.open(tmp_path / "out")
    assert merged.ids == Corpus.open(whole).ids == ["u00", "u01", "u02", "u10", "u11"]
    assert sorted(path.stem for path in (tmp_path / "out" / "shards").iterdir()) == [
        f"{k:05d}" for k in range(report.shards)
    ]
    assert set(merged.shard.tolist()) == set(range(report.shards))  # shards without utterances are left behind


def test_a_finished_merge_is_left_alone_and_another_is_refused(tmp_path: Path, parts: list[Path]) -> None:
    out = tmp_path / "out"
    first = merge(parts, out, progress=False)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert merge(parts[::-1], out, progress=False) == first._replace(fresh=False)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    whole = files(out)
    with pytest.raises(InputError, match="a packed corpus of something else"):
        merge(parts[:2], out, progress=False)
    write_split(parts[0], "all", ["u00"])
    with pytest.raises(InputError, match="these parts were changed since"):
        merge(parts, out, progress=False)
    before = files(parts[0])
    with pytest.raises(InputError, match="a packed corpus of something else"):
        merge(parts, parts[0], progress=False)
    assert (files(parts[0]), files(out)) == (before, whole)


def test_what_is_no_corpus_and_what_is_not_finished_are_refused(
    tmp_path: Path, parts: list[Path], sources: Make
) -> None:
    with pytest.raises(InputError, match=r"not a packed corpus \(corpus\.json is missing\)"):
        merge([*parts, tmp_path / "audio"], tmp_path / "out", progress=False)
    (parts[0] / "corpus.json").rename(tmp_path / "corpus.json")
    (parts[0] / "packing").mkdir()
    with pytest.raises(InputError, match=r"part=.*part1: is not finished; run again the command"):
        merge(parts, tmp_path / "out", progress=False)
    (tmp_path / "corpus.json").rename(parts[0] / "corpus.json")  # a kill came after the last write: all is there
    assert len(joined(parts, tmp_path / "out")) == 20
    for folder, message in ((tmp_path / "audio", "files that are not a packed corpus"), (parts[0] / "x", "a file")):
        (parts[0] / "x").touch()
        with pytest.raises(InputError, match=message):
            merge(parts, folder, progress=False)


def test_a_begun_merge_of_other_parts_is_refused(tmp_path: Path, parts: list[Path]) -> None:
    (tmp_path / "out/packing").mkdir(parents=True)
    (tmp_path / "out/packing/plan.json").write_text('{"digest": "other"}')
    with pytest.raises(InputError, match="what is unfinished of other parts"):
        merge(parts, tmp_path / "out", progress=False)


def test_packing_into_a_begun_merge_is_refused(tmp_path: Path, parts: list[Path], sources: Make) -> None:
    joined(parts, tmp_path / "out")
    (tmp_path / "out/corpus.json").unlink()
    (tmp_path / "out/packing").mkdir()
    (tmp_path / "out/packing/plan.json").write_text('{"digest": "a merge"}')
    with pytest.raises(InputError, match="the unfinished packing of other files"):
        pack(sources(20), tmp_path / "out", progress=False)


def clash(parts: list[Path], sources: Make) -> list[Path]:
    return [*parts, packed(parts[0].with_name("clash"), take_shard(sources(20), 2, 4))]


def twice(parts: list[Path], sources: Make) -> list[Path]:
    return [*parts, parts[1]]


def other_rate(parts: list[Path], sources: Make) -> list[Path]:
    path = parts[0].with_name("x.wav")
    soundfile.write(path, np.zeros(800, np.int16), 8000)
    pack([Source("x", path, "s")], parts[0].with_name("slow"), sample_rate=8000, progress=False)
    return [*parts, parts[0].with_name("slow")]


def nothing(parts: list[Path], sources: Make) -> list[Path]:
    return []


def no_utterance(parts: list[Path], sources: Make) -> list[Path]:
    (broken := sources(1)[0]).path.write_bytes(b"no audio")
    pack([broken], parts[0].with_name("empty"), progress=False)
    return [parts[0].with_name("empty")]


def other_inventory(parts: list[Path], sources: Make) -> list[Path]:
    write_alignment(parts[2], "phones", [row("u15")], ["SIL", "AA", "D", "E"], "by hand")
    return parts


def longer_inventory(parts: list[Path], sources: Make) -> list[Path]:
    write_alignment(parts[2], "phones", [row("u15")], [*INVENTORY, "D"], "by hand")
    return parts


def other_source(parts: list[Path], sources: Make) -> list[Path]:
    write_alignment(parts[2], "phones", [row("u15")], INVENTORY, "by ear")
    return parts


def cut_short(parts: list[Path], sources: Make) -> list[Path]:
    os.truncate(parts[1] / "shards/00000.npy", 1000)
    return parts


def no_shard(parts: list[Path], sources: Make) -> list[Path]:
    (parts[1] / "shards/00001.npy").unlink()
    return parts


def other_columns(parts: list[Path], sources: Make) -> list[Path]:
    table = pq.read_table(parts[1] / "manifest.parquet")
    pq.write_table(table.append_column("mood", table["sex"]), parts[1] / "manifest.parquet")
    return parts


def unsorted(parts: list[Path], sources: Make) -> list[Path]:
    table = pq.read_table(parts[1] / "manifest.parquet")
    pq.write_table(table.sort_by([("id", "descending")]), parts[1] / "manifest.parquet")
    return parts


def other_table(parts: list[Path], sources: Make) -> list[Path]:
    (parts[1] / "labels/phones.utterances.tsv").write_text("id\tmood\n")
    return parts


BAD = {
    clash: r"parts: 5 ids clash, for example u05, u06, u07 in .*(part1 and .*clash|clash and .*part1); an id must",
    twice: r"parts=.*part3 .*part2: one is given twice",
    other_rate: r"sample rates differ: .*part1 is at 16000 Hz.*slow is at 8000 Hz; pack them again at one rate",
    nothing: "there is no utterance to merge",
    no_utterance: "there is no utterance to merge",
    other_inventory: r"labels=phones: .*part1 and .*part3 have different inventories: class 2 is B and D; label",
    longer_inventory: r"have different inventories: class 3 is none and D",
    other_source: r"labels=phones: .*part1 and .*part3 have different sources: by hand and by ear",
    cut_short: r"part=.*part2: 00000\.npy has 1000 bytes, not \d+; copy it again",
    no_shard: r"part=.*part2: 00001\.npy has 0 bytes, not \d+; copy it again",
    other_columns: r"part=.*part2: has other columns than .*part1",
    unsorted: r"part=.*part2: its manifest is not sorted by id",
    other_table: r"part1/labels/phones\.utterances\.tsv and .*part2/labels/.* begin with id\tscore and id\tmood; make",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    tmp_path: Path, parts: list[Path], sources: Make, spoil: Callable[[list[Path], Make], list[Path]]
) -> None:
    given = spoil(parts, sources)
    before = [files(part) for part in given]
    with pytest.raises(InputError, match=BAD[spoil]):
        merge(given, tmp_path / "out", progress=False)
    assert [files(part) for part in given] == before
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path, parts: list[Path]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"merging stopped at .*; mend that and run the same again"):
        merge(parts, tmp_path / "file" / "out", progress=False)


# Each run is a fork, so that pyarrow is imported once. `die_at(n)` kills the process with SIGKILL at its n-th moment
# of interest: before and after each file takes its final name, and before and after each shard is linked.
KILLS = """
import os, shutil, signal, sys, time
from pathlib import Path
import numpy as np
import pyarrow.compute, pyarrow.parquet  # so that no child has to
from cpc.data.merge import merge

os.fsync = lambda file: None  # slow, and SIGKILL does not lose what the system holds
folder = Path(sys.argv[1])
parts = [folder / "part1", folder / "part2"]

def die_at(last):
    passed = [0]
    def around(work):
        def killed(*arguments, **more):
            moment()
            result = work(*arguments, **more)
            moment()
            return result
        return killed
    def moment():
        passed[0] += 1
        if passed[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)
    Path.replace, os.link, shutil.rmtree = around(Path.replace), around(os.link), around(shutil.rmtree)
    shutil.copyfileobj = around(shutil.copyfileobj)

def run(out, last=0, delay=None, link=True):
    child = os.fork()
    if child == 0:
        die_at(last)
        merge(parts, out, link=link, progress=False)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def content(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}

merge(parts, folder / "warm", progress=False)  # what loads when it is first used is then there in every child
start = time.monotonic()
assert run(folder / "whole") == 0
seconds = time.monotonic() - start
whole = content(folder / "whole")
assert "corpus.json" in whole and not any(name.startswith("packing") for name in whole), whole.keys()
given = [content(part) for part in parts]

killed = 0
for last in range(1, 300):
    out = folder / f"at{last}"
    code = run(out, last, link=last % 3 == 0)  # killed while it links or copies, then the other way round
    killed += code == -signal.SIGKILL
    assert code in (0, -signal.SIGKILL), code
    assert run(out, link=last % 3 > 0) == 0
    assert content(out) == whole, f"killed at moment {last}"
    if code == 0:
        break
assert killed > 20, killed

generator = np.random.default_rng(0)
for step in range(4):  # any moment at all, and twice in a row
    out = folder / f"after{step}"
    run(out, delay=seconds * generator.random())
    run(out, delay=seconds * generator.random())
    assert run(out) == 0
    assert content(out) == whole, f"killed after {step}"
assert [content(part) for part in parts] == given
print(killed)
"""


def test_killed_at_any_moment_then_run_again_gives_the_same_bytes(tmp_path: Path, sources: Make) -> None:
    for i in (1, 2):
        packed(tmp_path / f"part{i}", take_shard(sources(8), i, 2), shard_samples=1 << 20)
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
