"""Downloads from a real server on loopback that cuts, lies, forgets and is busy: the file is right, or the error is."""

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from cpc.config import InputError
from data_prep import download
from data_prep.download import (
    LIBRISPEECH,
    Archive,
    Transfer,
    fetch_all,
    find_archive,
    measure,
    read_catalogue,
    show_transfer,
)
from tests.openslr import Served, entry, serve

BODY = np.random.default_rng(0).bytes(3_000_000)  # what archives consist of does not matter here
PATH = "12/dev-clean.tar.gz"
ONE = {"dev-clean": entry(PATH, BODY)}
NAME = ONE["dev-clean"].name


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Served]:
    with serve({PATH: BODY}) as served:
        yield served


def get(folder: Path, *mirrors: str, archives: dict[str, Archive] = ONE) -> Path:
    """Fetch the one archive; raises what kept it from coming."""
    (result,) = fetch_all(archives, mirrors, folder, pause=0.001, progress=False).values()
    if isinstance(result, InputError):
        raise result
    return result


def test_a_file_comes_whole_and_a_second_call_asks_for_nothing(server: Served, tmp_path: Path) -> None:
    got = get(tmp_path / "archives", server.url)
    assert got.read_bytes() == BODY
    assert [path.name for path in got.parent.iterdir()] == [NAME]
    assert get(tmp_path / "archives", server.url) == got
    assert server.log == [(PATH, "", 200)]


def test_a_part_is_continued_by_a_range(server: Served, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:1_234_567])
    assert get(tmp_path, server.url).read_bytes() == BODY
    assert server.log == [(PATH, "bytes=1234567-", 206)]


def test_a_part_that_is_complete_is_only_checked(server: Served, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(BODY)
    assert get(tmp_path, server.url).read_bytes() == BODY
    assert server.log == []


@pytest.mark.parametrize("hide_length", [False, True])
def test_cut_connections_are_continued_where_they_broke(server: Served, tmp_path: Path, hide_length: bool) -> None:
    server.faults.cut_after, server.faults.hide_length = 700_000, hide_length
    assert get(tmp_path, server.url).read_bytes() == BODY
    asked = ["", *(f"bytes={700_000 * cut}-" for cut in range(1, 5))]  # 3,000,000 = 4 · 700,000 + 200,000
    assert server.ranges() == asked


def test_a_server_that_ignores_ranges_begins_again(server: Served, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:1000])
    server.faults.ignore_ranges, server.faults.cut_after, server.faults.cuts = True, 2_000_000, 1
    assert get(tmp_path, server.url).read_bytes() == BODY
    assert server.log == [(PATH, "bytes=1000-", 200), (PATH, "bytes=2000000-", 200)]


def test_a_server_that_always_cuts_at_the_same_place_is_given_up_for_the_next(server: Served, tmp_path: Path) -> None:
    """It ignores ranges too, so nothing new ever comes: five tries after the first, then the other mirror."""
    server.faults.ignore_ranges, server.faults.cut_after = True, 1_000_000
    with serve({PATH: BODY}) as other:
        assert get(tmp_path, server.url, other.url).read_bytes() == BODY
        assert len(server.log) == 1 + download.TRIES
        assert other.ranges() == ["bytes=1000000-"]
    with pytest.raises(InputError, match=r"gave up after 5 tries without a new byte \(.*run the same again later"):
        get(tmp_path / "alone", server.url)
    assert (tmp_path / "alone" / f"{NAME}.part").read_bytes() == BODY[:1_000_000], "what came is kept"


def test_a_busy_server_is_asked_again(server: Served, tmp_path: Path) -> None:
    server.faults.busy = 2
    assert get(tmp_path, server.url).read_bytes() == BODY
    assert [status for _, _, status in server.log] == [503, 503, 200]


def test_a_missing_file_is_looked_for_at_the_next_mirror(server: Served, tmp_path: Path) -> None:
    with serve({}) as empty:
        assert get(tmp_path, empty.url, server.url).read_bytes() == BODY
        assert empty.log == [(PATH, "", 404)]
        with pytest.raises(InputError) as caught:
            get(tmp_path / "other", empty.url)
    said = str(caught.value)
    assert said.startswith(f"{NAME}: no mirror gives it ({empty.url}/{PATH}: 404 Not Found; {empty.url}/{NAME}: 404")
    assert "\n" not in said


def test_a_mirror_may_hold_its_archives_side_by_side(tmp_path: Path) -> None:
    with serve({f"deep/{NAME}": BODY}) as flat:
        assert get(tmp_path, f"{flat.url}/deep/").read_bytes() == BODY


def test_nobody_answers(tmp_path: Path) -> None:
    with serve({}) as gone:
        pass
    with pytest.raises(InputError, match=rf"{gone.url}/{PATH}: .*[Cc]onnection refused\)?; .*run the same again later"):
        get(tmp_path, gone.url)


def test_a_wrong_checksum_is_fetched_once_more_from_the_next_mirror(server: Served, tmp_path: Path) -> None:
    with serve({PATH: BODY}, corrupt=1) as liar:
        assert get(tmp_path / "a", liar.url, server.url).read_bytes() == BODY
        assert (len(liar.log), len(server.log)) == (1, 1)
        liar.faults.corrupt = 1
        assert get(tmp_path / "b", liar.url).read_bytes() == BODY, "the only mirror is asked again"


def test_two_wrong_checksums_are_an_error_that_names_file_expected_and_got(server: Served, tmp_path: Path) -> None:
    server.faults.corrupt = 9
    with pytest.raises(InputError) as caught:
        get(tmp_path, server.url)
    flipped = tmp_path / "flipped"
    flipped.write_bytes(bytes([BODY[0] ^ 1]) + BODY[1:])
    expected, got = ONE["dev-clean"].checksum, measure(flipped, "md5")
    rule = f"wrong checksum: expected {expected}, got {got} from {server.url}/{PATH}"
    assert str(caught.value).startswith(f"{tmp_path / NAME}: {rule}")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["flipped"], "the wrong file is removed"
    assert [status for _, _, status in server.log].count(200) == 2


def test_a_file_of_another_size_is_refused_before_it_is_fetched(server: Served, tmp_path: Path) -> None:
    with serve({PATH: BODY[:-1]}) as other:
        with pytest.raises(InputError, match="has a file of 2999999 bytes, not of 3000000"):
            get(tmp_path / "a", other.url)
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / f"{NAME}.part").write_bytes(BODY[:1000])
        assert get(tmp_path / "b", other.url, server.url).read_bytes() == BODY
        assert other.ranges()[-1] == server.ranges()[-1] == "bytes=1000-", "a range of another file is refused too"


def test_a_part_that_is_too_long_begins_again(server: Served, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(BODY + b"x")
    assert get(tmp_path, server.url).read_bytes() == BODY
    assert server.ranges() == [""]


def test_a_spoilt_file_under_the_final_name_is_replaced(server: Served, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"spoilt")
    assert get(tmp_path, server.url).read_bytes() == BODY


def test_several_come_at_a_time_and_one_failure_does_not_stop_the_others(server: Served, tmp_path: Path) -> None:
    archives = {name: entry(f"12/{name}.tar.gz", BODY) for name in ("a", "b", "c", "d")}
    server.files.update({one.path: BODY for name, one in archives.items() if name != "c"})
    server.faults.late = 0.3
    results = fetch_all(archives, [server.url], tmp_path, pause=0.001, progress=False)
    assert server.most_at_work >= 2
    assert isinstance(results["c"], InputError)
    assert {name: (tmp_path / f"{name}.tar.gz").read_bytes() == BODY for name in "abd"} == dict.fromkeys("abd", True)
    assert list(results) == list(archives)


def test_a_second_process_is_told_to_wait(server: Served, tmp_path: Path) -> None:
    with (
        download.claimed(tmp_path / f"{NAME}.part"),
        pytest.raises(InputError, match="another process is at work on it"),
    ):
        get(tmp_path, server.url)
    assert get(tmp_path, server.url).read_bytes() == BODY


def test_a_plain_folder_is_a_source_and_stays_as_it_is(tmp_path: Path) -> None:
    for place in (tmp_path / "flat" / NAME, tmp_path / "deep" / PATH):
        place.parent.mkdir(parents=True)
        place.write_bytes(BODY)
    assert find_archive(ONE["dev-clean"], tmp_path / "flat") == tmp_path / "flat" / NAME
    assert find_archive(ONE["dev-clean"], tmp_path / "deep") == tmp_path / "deep" / PATH
    (tmp_path / "flat" / NAME).write_bytes(b"spoilt")
    with pytest.raises(InputError, match=rf"{NAME}: wrong checksum: expected md5:\w+, got md5:\w+; .*--catalogue"):
        find_archive(ONE["dev-clean"], tmp_path / "flat")
    assert (tmp_path / "flat" / NAME).read_bytes() == b"spoilt", "a user's own file is never removed"
    with pytest.raises(InputError, match=f"holds neither {NAME} nor {PATH}"):
        find_archive(ONE["dev-clean"], tmp_path)


def test_progress_in_words() -> None:
    state = Transfer("fetching", {"a": 3_000_000, "b": 1_000_000}, shown=False)
    state.found("a", 1_000_000)
    assert state.line(1.0) == "fetching: 1.0 MB of 4.0 MB, 0 bytes/s"
    state.add("b", 500_000)
    # 0.5 MB in 2 s: the other 2.5 MB take 10 s more.
    assert state.line(2.0) == "fetching: 1.5 MB of 4.0 MB, 250.0 kB/s, 10 s left"


def test_plain_lines_come_at_intervals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.download.PLAIN_EVERY", 0.0)
    state = Transfer("fetching", {"a": 2_000_000}, shown=True)
    state.add("a", 1_000_000)
    state.add("a", 1_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("fetching: 2.0 MB of 2.0 MB, ")


def test_a_terminal_gets_a_bar_for_each_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with show_transfer("fetching", {"a.tar.gz": 2_000_000, "b.tar.gz": 1_000_000}, shown=True) as state:
        state.found("a.tar.gz", 500_000)
        state.add("b.tar.gz", 1_000_000)
    shown = capsys.readouterr().err
    assert "a.tar.gz" in shown
    assert "0.5/2.0 MB" in shown
    assert "1.0/1.0 MB" in shown


def _interruptible(url: str, folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin by ignoring it
    fetch_all(ONE, [url], folder)


def test_ctrl_c_ends_soon_and_keeps_what_came(server: Served, tmp_path: Path) -> None:
    server.faults.rate = len(BODY) / 30  # half a minute for all of it
    process = get_context("fork").Process(target=_interruptible, args=(server.url, tmp_path))
    process.start()
    part = tmp_path / f"{NAME}.part"
    while not (part.is_file() and part.stat().st_size):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(15)
    assert process.exitcode not in (0, None)
    server.faults.rate = 0.0
    held = part.stat().st_size
    assert 0 < held < len(BODY)
    assert get(tmp_path, server.url).read_bytes() == BODY
    assert server.ranges()[-1] == f"bytes={held}-"


def test_the_catalogue_holds_every_subset() -> None:
    subsets = "dev-clean dev-other test-clean test-other train-clean-100 train-clean-360 train-other-500"
    assert set(LIBRISPEECH.archives) == {*subsets.split(), "dev-clean-2", "train-clean-5"}
    for subset, archive in LIBRISPEECH.archives.items():
        resource = 31 if subset in ("dev-clean-2", "train-clean-5") else 12
        assert archive.path == f"{resource}/{subset}.tar.gz"
        # FLAC of read speech at 16 kHz takes about half of its 115.2 MB an hour.
        assert 0.5 < archive.size / archive.packed < 0.6
    assert len({archive.checksum for archive in LIBRISPEECH.archives.values()}) == 9


def test_an_unknown_subset_gives_the_nearest_name_and_the_list() -> None:
    with pytest.raises(InputError, match=r"subset=train-clean100: .*did you mean train-clean-100\? .*dev-clean, dev-o"):
        LIBRISPEECH.choose(["dev-clean", "train-clean100"])


BAD = {
    '{"archives": {"x": {"path": "x.tar.gz", "size": 0, "checksum": "md5:1"}}}': r"x\.size=0.*\n.*checksum=md5:1: must",
    '{"archives": {"x": {"path": "../x.tar.gz", "size": 1}}}': r"path=\.\./x\.tar\.gz: must be a path below.*\n?",
    '{"archives": {"../x": {"path": "x.tar.gz", "size": 1, "checksum": "md5:%s"}}}' % ("0" * 32): "a folder's name",
    '{"archive": {}}': "archive=.*did you mean archives",
    "[1": "not valid YAML",
}


@pytest.mark.parametrize(("text", "message"), BAD.items())
def test_a_catalogue_that_is_wrong_says_where(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_catalogue(file)
    with pytest.raises(InputError, match="no such file"):
        read_catalogue(tmp_path / "absent.json")
