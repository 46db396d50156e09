"""Who speaks: from paths, patterns and tables; and what a file is called."""

from pathlib import Path

import pytest

from cpc.config import InputError
from cpc.data.shards import Source
from data_prep.metadata import Join, Table, compile_pattern, describe, name_by_pattern, one_line


def sources(root: Path, *names: str) -> list[Source]:
    return list(describe([root / name for name in names], root))


def test_a_pattern_names_speaker_chapter_sex_and_subset(tmp_path: Path) -> None:
    made = sources(tmp_path, "day1/s07-f_take2.wav", "day2/s11-m_take1.wav")
    pattern = compile_pattern(r"(?P<chapter>day\d)/(?P<speaker>s\d+)-(?P<sex>[fm])_(?P<subset>take)")
    named = list(name_by_pattern(made, pattern, tmp_path))
    assert [(s.speaker, s.chapter, s.sex, s.subset) for s in named] == [
        ("s07", "day1", "f", "take"),
        ("s11", "day2", "m", "take"),
    ]
    assert [s.id for s in named] == ["day1-s07-f_take2", "day2-s11-m_take1"]


def test_a_group_that_took_no_part_leaves_what_is_known(tmp_path: Path) -> None:
    made = [Source("a", tmp_path / "x_a.wav", "old", chapter="kept")]
    named = list(name_by_pattern(made, compile_pattern(r"(?P<speaker>[a-z])_(?P<chapter>\d)?"), tmp_path))
    assert (named[0].speaker, named[0].chapter) == ("x", "kept")


def test_files_without_a_speaker_are_counted_and_shown(tmp_path: Path) -> None:
    made = sources(tmp_path, "s1_a.wav", "notes.wav", "b/other.wav")
    with pytest.raises(InputError, match=r"no speaker in 2 of 3 files, for example notes\.wav, b/other\.wav; give"):
        list(name_by_pattern(made, compile_pattern("(?P<speaker>s[0-9])_"), tmp_path))
    with pytest.raises(InputError, match="in 3 of 3 files"):
        list(name_by_pattern(made, compile_pattern("(?P<speaker>q?)"), tmp_path))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?P<speaker>", "not a regular expression"),
        ("s[0-9]+", r"needs a group \(\?P<speaker>"),
        ("(?P<speaker>.)(?P<age>.)", "others may be"),
    ],
)
def test_a_bad_pattern_says_what_it_needs(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compile_pattern(pattern)


def test_names_become_one_printable_line(tmp_path: Path) -> None:
    assert one_line("größe 日本") == "größe 日本"
    assert one_line(" at 3.04\u202fPM\n") == "at 3.04 PM"
    assert one_line("tab\there") == "tab here"
    assert one_line("odd\udce4byte") == "odd\\udce4byte"
    made = sources(tmp_path, "Ann\u00a0B./take one .wav")
    assert (made[0].id, made[0].speaker) == ("Ann B.-take one", "Ann B.")


def test_links_in_circles_do_not_stop_a_table(tmp_path: Path) -> None:
    (tmp_path / "self.wav").symlink_to("self.wav")
    rows = [{"id": "self", "speaker": "bob", "path": "self.wav"}, {"id": "x", "path": "loop/x.wav"}]
    (tmp_path / "loop").symlink_to("loop")
    join = Join(Table(rows, [tmp_path]))
    joined = list(join(sources(tmp_path, "self.wav")))
    assert (joined[0].speaker, join.table.unused, join.without) == ("bob", 1, 0)


def test_a_table_that_must_name_every_speaker_says_whom_it_lacks(tmp_path: Path) -> None:
    table = Table([{"id": "a", "speaker": "ann"}, {"id": "b", "speaker": ""}, {"id": "ghost", "speaker": "x"}], [])
    made = sources(tmp_path, "a.wav", "b.wav", "c.wav")
    with pytest.raises(InputError, match=r"no speaker for 2 of 3 files, for example .*b\.wav, .*c\.wav; add rows"):
        list(Join(table, must=True)(made))
    join = Join(table)
    assert [source.speaker for source in join(made)] == ["ann", tmp_path.name, tmp_path.name]
    assert (table.unused, join.without) == (1, 1)
