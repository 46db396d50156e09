"""The command for LibriSpeech: fetch, verify, unpack, pack, label; only what is missing; what it says of mistakes."""

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cpc.config import InputError
from cpc.data.corpus import Corpus
from data_prep import librispeech as command
from data_prep.aligner import PHONES
from data_prep.download import Catalogue, SpaceNeeded, measure, peak
from tests.openslr import PIPED, Served, entry, make_librispeech, serve, tar_folder, tarball, write_catalogue

SUBSETS = {"dev-clean": 3, "dev-other": 2}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LibriSpeech/ with two subsets of synthetic speech: 3 and 2 speakers, 3 chapters each, 2 utterances a chapter."""
    return make_librispeech(tmp_path_factory.mktemp("libri"), SUBSETS, hours=0.001)


@pytest.fixture
def server(tree: Path, tmp_path: Path) -> Iterator[Served]:
    """Serves both archives; own.json is their catalogue."""
    archives = {f"12/{subset}.tar.gz": tar_folder(tree.parent, subset) for subset in SUBSETS}
    with serve(archives) as served:
        write_catalogue(tmp_path / "own.json", catalogue(served))
        yield served


def catalogue(served: Served) -> Catalogue:
    archives = {Path(path).name.removesuffix(".tar.gz"): entry(path, body) for path, body in served.files.items()}
    return Catalogue(archives, (served.url,))


def call(*words: object) -> str:
    """What the command prints; raises its InputError."""
    result = CliRunner().invoke(command.app, [*map(str, words), "--catalogue", "own.json"])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def transcripts(folder: Path) -> dict[str, str]:
    lines = [line for file in folder.rglob("*.trans.txt") for line in file.read_text().splitlines()]
    return dict(line.split(" ", 1) for line in sorted(lines))


def test_from_nothing_to_packed_corpora(server: Served, tree: Path, tmp_path: Path) -> None:
    output = call("dev-clean", "dev-other", "--labels", "none")
    assert "dev-clean: dev-clean.tar.gz verified" in output
    for subset, speakers in SUBSETS.items():
        assert content(tmp_path / "data/LibriSpeech" / subset) == content(tree / subset)
        corpus = Corpus.open(tmp_path / "data" / subset)
        spoken = transcripts(tree / subset)
        assert len(corpus) == speakers * 3 * 2
        assert dict(zip(corpus.ids, corpus.texts, strict=True)) == spoken
        assert corpus.speakers == [id.split("-")[0] for id in spoken]
        assert corpus.chapters == [id.split("-")[1] for id in spoken]
        assert set(corpus.subsets) == {subset}
    assert PIPED in (tmp_path / "data/LibriSpeech/SPEAKERS.TXT").read_text()
    corpus = Corpus.open(tmp_path / "data/dev-clean")
    sexes = dict(zip(corpus.speakers, corpus.sexes, strict=True))
    assert sexes == {"1001": "M", "1002": "F", "1003": "M"}, "as SPEAKERS.TXT has it, the name with bars first"
    assert {path.name for path in (tmp_path / "data/archives").iterdir()} == {"dev-clean.tar.gz", "dev-other.tar.gz"}


def test_running_again_fetches_nothing_changes_nothing_and_says_so(server: Served, tmp_path: Path) -> None:
    call("dev-clean", "--labels", "none")
    before, asked = content(tmp_path / "data"), len(server.log)
    written = {name: (tmp_path / "data" / name).stat().st_mtime_ns for name in before}
    assert "packed already" in call("dev-clean", "--labels", "none")
    assert content(tmp_path / "data") == before
    assert {name: (tmp_path / "data" / name).stat().st_mtime_ns for name in before} == written, "nothing is rewritten"
    assert len(server.log) == asked
    assert "dev-other: dev-other.tar.gz verified" in call("dev-clean", "dev-other", "--labels", "none")
    assert len(server.log) == asked + 1, "only what is missing is fetched"


def test_a_packed_corpus_needs_its_audio_no_more(server: Served, tmp_path: Path) -> None:
    call("dev-clean", "--labels", "none")
    call("dev-clean", "--labels", "none", "--no-keep-archives")
    assert not list((tmp_path / "data/archives").iterdir()), "those of a killed run go too"
    asked = len(server.log)
    (tmp_path / "data/LibriSpeech").rename(tmp_path / "elsewhere")
    assert "dev-clean: packed already" in call("dev-clean", "--labels", "none")
    assert len(server.log) == asked
    with pytest.raises(InputError, match=r"out=data/dev-clean: holds another packed corpus .*'shard': \[1, 1\]"):
        call("dev-clean", "--labels", "none", "--shard", "1/2")
    (tmp_path / "data/dev-clean/librispeech.json").unlink()
    with pytest.raises(InputError, match="not LibriSpeech"):
        call("dev-clean", "--labels", "none")


@pytest.mark.parametrize("place", ["LibriSpeech", "above", "subset"])
def test_what_is_on_disk_gives_the_same_corpus(server: Served, tree: Path, tmp_path: Path, place: str) -> None:
    call("dev-clean", "--labels", "none")
    asked = len(server.log)
    folder = {"LibriSpeech": tree, "above": tree.parent, "subset": tree / "dev-clean"}[place]
    call("dev-clean", "--labels", "none", "--from", folder, "--out", "other")
    assert content(tmp_path / "other" / "dev-clean") == content(tmp_path / "data" / "dev-clean")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["dev-clean"]
    assert len(server.log) == asked


def test_a_folder_of_archives_is_a_source_that_is_never_touched(server: Served, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "dev-clean.tar.gz").write_bytes(server.files["12/dev-clean.tar.gz"])
    call("dev-clean", "--labels", "none", "--source", shelf, "--no-keep-archives")
    assert content(shelf) == {"dev-clean.tar.gz": server.files["12/dev-clean.tar.gz"]}
    assert not (tmp_path / "data/archives").exists()
    assert server.log == []
    (shelf / "dev-other.tar.gz").write_bytes(b"spoilt")
    with pytest.raises(InputError, match=r"dev-other\.tar\.gz: wrong checksum: expected md5:"):
        call("dev-other", "--labels", "none", "--source", shelf)


def test_a_mirror_by_its_address(server: Served, tmp_path: Path) -> None:
    with serve(server.files) as other:
        call("dev-clean", "--labels", "none", "--source", other.url)
        assert server.log == []
        assert len(other.log) == 1


def test_the_paper_s_labels_are_taken(server: Served, tree: Path, tmp_path: Path) -> None:
    ids = sorted(transcripts(tree / "dev-clean"))
    call("dev-clean", "--labels", "none")
    corpus = Corpus.open(tmp_path / "data/dev-clean")
    # The paper's number of labels for n samples is 1 + (n - 400) // 160.
    counts = [1 + (int(corpus.samples[corpus.row(id)]) - 400) // 160 for id in ids]
    lines = [
        f"{id} {' '.join(str(place % 5) for place in range(count))}" for id, count in zip(ids, counts, strict=True)
    ]
    (tmp_path / "converted_aligned_phones.txt").write_text("\n".join(lines))
    call("dev-clean", "--labels", "converted_aligned_phones.txt")
    labels = corpus.labels()
    assert len(labels) == len(ids)
    assert "phone labels are there already" in call("dev-clean"), "labels that were given are not replaced"
    call("dev-clean", "--labels", "converted_aligned_phones.txt", "--from", tree, "--shard", "1/2", "--out", "part")
    assert len(Corpus.open(tmp_path / "part/dev-clean").labels()) == len(ids) // 2, "the file may cover more"


@pytest.mark.slow
def test_by_default_phones_are_aligned_to_the_transcripts(server: Served, tree: Path, tmp_path: Path) -> None:
    assert "aligned 12 of 12 utterances" in call("dev-other", "--from", tree, "--workers", "1")
    labels = Corpus.open(tmp_path / "data/dev-other").labels()
    assert labels.inventory == list(PHONES)
    assert len(labels) == 12
    assert "phone labels are there already" in call("dev-other", "--from", tree)


def test_shards_are_parts_of_one_corpus(server: Served, tree: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        call("dev-clean", "--labels", "none", "--shard", f"{number}/2", "--out", f"part{number}", "--from", tree)
    ids = [Corpus.open(tmp_path / f"part{number}" / "dev-clean").ids for number in (1, 2)]
    assert [*ids[0], *ids[1]] == sorted(transcripts(tree / "dev-clean"))
    assert abs(len(ids[0]) - len(ids[1])) <= 1
    with pytest.raises(InputError, match="holds a packed corpus of other files"):
        call("dev-clean", "--labels", "none", "--shard", "2/2", "--out", "part1", "--from", tree)


def test_one_bad_archive_does_not_stop_the_others_and_is_one_line(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults.missing = {"12/dev-clean.tar.gz"}
    with pytest.raises(
        InputError, match=r"^dev-clean.tar.gz: no mirror gives it .*404 Not Found.*\(prepared: dev-other\)$"
    ):
        call("dev-clean", "dev-other", "--labels", "none")
    assert len(Corpus.open(tmp_path / "data/dev-other")) == 12
    server.faults.missing, asked = set(), len(server.log)
    call("dev-clean", "dev-other", "--labels", "none")
    assert [path for path, _, _ in server.log[asked:]] == ["12/dev-clean.tar.gz"]
    assert len(Corpus.open(tmp_path / "data/dev-clean")) == 18


def test_a_hostile_archive_with_the_right_checksum_is_refused(server: Served, tmp_path: Path) -> None:
    link = tarfile.TarInfo("LibriSpeech/dev-clean/passwords")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    server.files["12/dev-clean.tar.gz"] = tarball([(link, b"")])
    write_catalogue(tmp_path / "own.json", catalogue(server))
    with pytest.raises(
        InputError, match=r"'LibriSpeech/dev-clean/passwords' is a symbolic link.*\(prepared: dev-other\)"
    ):
        call("dev-clean", "dev-other", "--labels", "none")
    assert not (tmp_path / "data/LibriSpeech/dev-clean").exists()
    assert not (tmp_path / "data/dev-clean").exists()


def test_a_wrong_checksum_names_expected_and_got(server: Served, tmp_path: Path) -> None:
    own = (tmp_path / "own.json").read_text()
    (tmp_path / "own.json").write_text(own.replace(catalogue(server).archives["dev-clean"].checksum, f"md5:{0:032}"))
    with pytest.raises(InputError, match=rf"wrong checksum: expected md5:{0:032}, got md5:\w+ from http.*, got md5:"):
        call("dev-clean", "--labels", "none")
    assert not list((tmp_path / "data/archives").iterdir()), "a wrong archive is removed"
    assert not (tmp_path / "data/LibriSpeech").exists()


def test_a_truncated_flac_is_skipped_and_said(server: Served, tree: Path, tmp_path: Path) -> None:
    copy = make_tree(tree, tmp_path / "copy")
    victim = sorted((copy / "dev-clean").rglob("*.flac"))[0]
    victim.write_bytes(victim.read_bytes()[:40])
    output = call("dev-clean", "--labels", "none", "--from", copy)
    assert "skipped 1 files that give no usable audio: see data/dev-clean/skipped.tsv" in output
    assert len(Corpus.open(tmp_path / "data/dev-clean")) == 17


def test_an_incomplete_copy_is_noted(server: Served, tree: Path, tmp_path: Path) -> None:
    copy = make_tree(tree, tmp_path / "copy")
    sorted((copy / "dev-clean").rglob("*.flac"))[0].unlink()
    (copy / "SPEAKERS.TXT").unlink()
    own = (tmp_path / "own.json").read_text()
    (tmp_path / "own.json").write_text(own.replace('"hours"', '"utterances": 18, "hours"'))
    output = call("dev-clean", "--labels", "none", "--from", copy)
    assert "note: copy/dev-clean holds 17 utterances, the published dev-clean has 18" in " ".join(output.split())
    assert "no SPEAKERS.TXT" in output


def make_tree(tree: Path, copy: Path) -> Path:
    import shutil

    shutil.copytree(tree, copy)
    return copy.relative_to(Path.cwd())


MISTAKES = {
    "dev-clan": r"subset=dev-clan: no such subset; did you mean dev-clean\? \(subsets: dev-clean, dev-other\)",
    "dev-clean --labels algn": "labels=algn: must be align, none, or the file",
    "dev-clean --source shelf": "source=shelf: no such folder; give a folder of archives or an address",
    "dev-clean --from absent": "from=absent: holds neither dev-clean/ nor LibriSpeech/dev-clean/; name the folder",
    "dev-clean --from a --source b": "source=b: has no use beside --from a",
    "dev-clean --shard 3/2": "shard=3/2: must be I/N",
    "dev-clean --out own.json": r"out=own.json: .* cannot be written",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_found_before_anything_is_fetched(server: Served, tmp_path: Path, words: str) -> None:
    before = content(tmp_path)
    with pytest.raises(InputError, match=MISTAKES[words]):
        call(*words.split())
    assert server.log == []
    assert content(tmp_path) == before


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(server: Served, tmp_path: Path) -> None:
    own = (tmp_path / "own.json").read_text()
    (tmp_path / "own.json").write_text(own.replace('"hours": 0.01', '"hours": 10000000000'))
    rule = (
        r"out=data: needs 1\.2 EB \(archives .*, unpacked .*, packed 1\.2 EB\), .* are free; name a folder on another"
    )
    with pytest.raises(InputError, match=rule):
        call("dev-clean", "--labels", "none")
    assert server.log == []
    assert not (tmp_path / "data").exists()


def test_the_most_that_is_needed_at_a_time() -> None:
    """Two subsets, archives of 10 and 20: both come first (30), then 11 + 40 and 21 + 80 more, archives kept or not."""
    needs = [SpaceNeeded(10, 11, 40), SpaceNeeded(20, 21, 80)]
    assert peak(needs, keep=True) == 30 + 51 + 101
    # Without archives: 30 + 11 - 10 + 40 = 71, + 21 = 92, - 20 + 80 = 152.
    assert peak(needs, keep=False) == 152
    assert peak([SpaceNeeded(100, 50, 1)], keep=False) == 150, "archive and files lie beside each other while unpacking"
    assert peak([], keep=True) == 0


def test_what_is_there_needs_no_server(server: Served, tmp_path: Path) -> None:
    call("dev-clean", "--labels", "none")
    assert "packed already" in call("dev-clean", "--labels", "none", "--source", "http://127.0.0.1:1")


def test_the_command_line_without_a_terminal(server: Served, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "data_prep.librispeech", "--catalogue", "own.json", "--labels", "none", "dev-clean"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "18 utterances" in done.stdout
    done = subprocess.run([*line, "dev-clan"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: subset=dev-clan: ")


def test_measure_knows_both_algorithms(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the examples of RFC 1321 and FIPS 180-2
    assert measure(tmp_path / "abc", "md5") == "md5:900150983cd24fb0d6963f7d28e17f72"
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert measure(tmp_path / "abc", "sha256") == f"sha256:{digest}"
