"""Audio files of every format become the same mono float32."""

import os
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from cpc.audio import decode as audio
from cpc.audio import integrity as damage
from cpc.audio.decode import SUFFIXES, Reader, decode, find_audio, probe, to_int16
from cpc.audio.integrity import Undecodable
from cpc.audio.waveform import read_audio
from cpc.config import InputError

RATE = 16000


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def strongest_hertz(samples: np.ndarray, rate: int = RATE) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


def test_every_int16_survives_the_way_through_float() -> None:
    steps = np.arange(-32768, 32768, dtype=np.int16)
    assert np.array_equal(to_int16(steps.astype(np.float32) / 32768), steps)


@given(st.floats(-4, 4, width=32))
def test_to_int16_rounds_to_the_nearest_step_and_clips(value: float) -> None:
    exact = min(max(value * 32768, -32768), 32767)
    assert abs(float(to_int16(np.array([value], np.float32))[0]) - exact) <= 0.5


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff", ".w64"])
def test_lossless_files_come_back_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    soundfile.write(tmp_path / f"a{suffix}", noise, RATE, subtype="PCM_16")
    assert np.array_equal(to_int16(decode(tmp_path / f"a{suffix}")), noise)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".ogg", {}), (".mp3", {}), (".opus", {"format": "OGG", "subtype": "OPUS"})]
)
def test_lossy_files_keep_length_and_pitch(tmp_path: Path, suffix: str, kind: dict[str, str]) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, tone(1000), RATE, **kind)
    assert probe(path) == (RATE, RATE, 1)
    assert len(decode(path)) == RATE
    assert strongest_hertz(decode(path)) == 1000


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = np.random.default_rng(1).integers(-9000, 9000, (2, 3000)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE)
    assert np.array_equal(decode(tmp_path / "a.wav"), (left / 32768 + right / 32768).astype(np.float32) / 2)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled_without_moving_pitch_time_or_level(tmp_path: Path, rate: int) -> None:
    silence = np.zeros(rate // 2, np.float32)
    soundfile.write(
        tmp_path / "a.wav", np.concatenate([silence, tone(1000, 1.0, rate), silence]), rate, subtype="FLOAT"
    )
    samples = read_audio(tmp_path / "a.wav").numpy()
    middle = samples[RATE // 2 : RATE // 2 + RATE]
    assert len(samples) == 2 * RATE
    assert strongest_hertz(middle) == 1000
    assert np.abs(middle[800:-800] - tone(1000)[800:-800]).max() < 1e-3  # same phase: nothing was delayed


def test_what_gives_no_audio_says_why_without_repeating_the_path(tmp_path: Path) -> None:
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "text.flac").write_bytes(b"this is not audio " * 50)
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan, np.inf], np.float32), RATE, subtype="FLOAT")
    reasons = {
        "zero.wav": "0 bytes",
        "text.flac": "cannot be",
        "none.wav": "no samples",
        "nan.wav": "2 samples are NaN",
    }
    for name, reason in (reasons | {"absent.wav": "no such file"}).items():
        with pytest.raises(Undecodable, match=name) as caught:
            decode(tmp_path / name)
        assert reason in caught.value.reason
        assert str(tmp_path) not in caught.value.reason


# Format, and whether soundfile can seek in it exactly: then a reader may do so too.
FORMATS = {
    "a.wav": ({}, True),
    "a.flac": ({}, True),
    "a.ogg": ({}, False),
    "mulaw.wav": ({"subtype": "ULAW"}, True),
    "a.opus": ({"format": "OGG", "subtype": "OPUS"}, False),
    "constant.mp3": ({"bitrate_mode": "CONSTANT"}, False),
    "variable.mp3": ({"bitrate_mode": "VARIABLE"}, False),
    "gsm.wav": ({"subtype": "GSM610"}, False),
    "adpcm.wav": ({"subtype": "IMA_ADPCM"}, False),
    "alac.caf": ({"subtype": "ALAC_16"}, False),
}


def write_sweep(path: Path, seconds: float = 8.0) -> np.ndarray:
    """A gliding tone in noise, in the format of that name; what one read of the whole file gives."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).normal(0, 0.02, len(time))
    wave = 0.3 * np.sin(2 * np.pi * (200 * time + 150 * np.sin(time))) * (0.6 + 0.4 * np.sin(20 * time)) + noise
    soundfile.write(path, wave.astype(np.float32), RATE, **FORMATS[path.name][0])
    return damage._sound_file()(str(path)).read(1 << 20, dtype="float32")


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_join_to_what_one_read_gives(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_sweep(tmp_path / name)
    monkeypatch.setattr(audio, "_BLOCK", 12345)
    assert len(whole) >= 8 * RATE
    assert np.array_equal(decode(tmp_path / name), whole)


@pytest.mark.parametrize("name", FORMATS)
def test_a_segment_is_a_slice_of_the_whole_in_any_order(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_sweep(tmp_path / name)
    monkeypatch.setattr(audio, "_BLOCK", 5000)
    edges = np.random.default_rng(1).integers(0, len(whole) - 1, (12, 2))
    with closing(Reader(tmp_path / name)) as reader:
        for first, second in edges.tolist():
            start, stop = min(first, second), max(first, second) + 1
            assert np.array_equal(reader.decode(RATE, start, stop), whole[start:stop]), (start, stop)
    assert np.array_equal(decode(tmp_path / name, RATE, 7777), whole[7777:])


@pytest.mark.parametrize("name", FORMATS)
def test_segments_in_their_order_cost_one_pass(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_sweep(tmp_path / name)
    read = []
    once = Reader._read

    def counted(reader: Reader, frames: int) -> np.ndarray:
        block = once(reader, frames)
        read.append(len(block))
        return block

    monkeypatch.setattr(Reader, "_read", counted)
    with closing(Reader(tmp_path / name)) as reader:
        for start in range(0, 120000, 20000):  # 15000 taken, 5000 left out
            assert np.array_equal(reader.decode(RATE, start, start + 15000), whole[start : start + 15000])
    seeks = FORMATS[name][1]
    assert sum(read) == 6 * 15000 + (0 if seeks else 5 * 5000)


def test_a_segment_at_another_rate_is_resampled_on_its_own(tmp_path: Path) -> None:
    stereo = np.random.default_rng(2).integers(-9000, 9000, (44100, 2)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", stereo, 44100)
    mono = (stereo / 32768).astype(np.float32).mean(axis=1, dtype=np.float32)
    expected = audio.resample(mono[1000:30000], 44100, RATE)
    assert np.array_equal(decode(tmp_path / "a.wav", RATE, 1000, 30000), expected)


def write_noise(path: Path, samples: int = 100000) -> np.ndarray:
    noise = np.random.default_rng(2).integers(-32768, 32768, samples).astype(np.int16)
    soundfile.write(path, noise, RATE)
    return noise


@pytest.mark.parametrize("share", [0.3, 0.5, 0.999])
def test_a_truncated_flac_says_how_much_is_there(tmp_path: Path, share: float) -> None:
    noise = write_noise(tmp_path / "a.flac")
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: int(share * len(whole))])
    with closing(Reader(tmp_path / "a.flac")) as reader:
        there = np.concatenate(list(reader.blocks()))
        assert reader.damaged
    assert np.array_equal(to_int16(there), noise[: len(there)])
    assert share * 100000 - 10000 < len(there) <= share * 100000  # a FLAC's blocks are 4096 samples or fewer
    with pytest.raises(Undecodable, match=f"cut short or damaged: only {len(there)} of 100000 samples can be decoded"):
        decode(tmp_path / "a.flac")
    assert np.array_equal(to_int16(decode(tmp_path / "a.flac", RATE, 100, len(there))), noise[100 : len(there)])
    with pytest.raises(Undecodable, match=f"only 0 of {100000 - len(there)} samples"):
        decode(tmp_path / "a.flac", RATE, len(there), 100000)


def test_a_flac_with_damage_in_its_middle_is_reported(tmp_path: Path) -> None:
    noise = write_noise(tmp_path / "a.flac")
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 300] = bytes(300)
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(Undecodable, match=r"damaged: only \d+ of 100000 samples"):
        decode(tmp_path / "a.flac")
    assert np.array_equal(to_int16(decode(tmp_path / "a.flac", RATE, 0, 40000)), noise[:40000])


def test_a_flac_without_a_length_and_one_with_a_tag_at_its_end_are_whole(tmp_path: Path) -> None:
    noise = write_noise(tmp_path / "a.flac")
    content = bytearray((tmp_path / "a.flac").read_bytes())
    (tmp_path / "tag.flac").write_bytes(content + b"TAG" + bytes(125))
    content[21] &= 0xF0  # the last 36 bits before the checksum of the STREAMINFO block: the number of samples
    content[22:26] = bytes(4)
    (tmp_path / "piped.flac").write_bytes(content)
    assert probe(tmp_path / "piped.flac") == (0, RATE, 1)
    assert probe(tmp_path / "tag.flac") == (100000, RATE, 1)
    for name in ("tag.flac", "piped.flac"):
        assert np.array_equal(to_int16(decode(tmp_path / name)), noise)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "rf64"])
def test_what_ends_before_its_header_says_so_is_reported(
    tmp_path: Path, suffix: str, subtype: str, channels: int
) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.9, 0.9, (10000, channels)), RATE, subtype=subtype)
    whole, content = decode(path), path.read_bytes()
    assert len(whole) == 10000
    path.write_bytes(content[: len(content) // 3 * 2 + 1])  # not at the end of a frame
    assert probe(path).samples == 10000
    with closing(Reader(path)) as reader:
        there = np.concatenate(list(reader.blocks()))
    assert 6000 < len(there) < 6800
    assert np.array_equal(there, whole[: len(there)])
    with pytest.raises(Undecodable, match=f"cut short or damaged: only {len(there)} of 10000 samples can be decoded"):
        decode(path)
    assert np.array_equal(decode(path, RATE, 100, 6000), whole[100:6000])
    with pytest.raises(Undecodable, match=f"only 0 of {10000 - len(there)} samples"):
        decode(path, RATE, len(there))


@pytest.mark.parametrize("size", [0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_and_one_with_more_behind_its_audio_are_whole(tmp_path: Path, size: int) -> None:
    noise = write_noise(tmp_path / "a.wav", 1000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    (tmp_path / "more.wav").write_bytes(content + b"LIST" + (4).to_bytes(4, "little") + b"INFO" + b"junk")
    content[4:8] = content[40:44] = size.to_bytes(4, "little")  # RIFF and data, which its writer could not fill in
    (tmp_path / "piped.wav").write_bytes(content)
    for name in ("more.wav", "piped.wav"):
        assert np.array_equal(to_int16(decode(tmp_path / name)), noise)


# Where a file says how long its audio is: its suffix, subtype, the bytes before that length, and how it is written.
LENGTHS = {
    "wav": ("PCM_16", b"data", "<I"),
    "wav, stereo float": ("FLOAT", b"data", "<I"),
    "wav, ADPCM": ("IMA_ADPCM", b"data", "<I"),
    "aiff": ("PCM_24", b"SSND", ">I"),
    "au": ("PCM_16", b".snd\0\0\0\x18", ">I"),
    "w64": ("PCM_16", b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0O\x8e\xdb\x8a", "<Q"),
    "rf64": ("PCM_16", b"ds64\x1c\0\0\0", "<QQQ"),
    "caf": ("PCM_16", b"data", ">Q"),
}


def open_length(path: Path, kind: str, value: int) -> None:
    """Put `value` where the header of the file says how long its audio is, as a writer to a pipe does."""
    _, before, form = LENGTHS[kind]
    content = bytearray(path.read_bytes())
    place = content.index(before) + len(before)
    struct.pack_into(form, content, place, *[value] * len(form.strip("<>")))
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((kind, value) for kind in ("wav", "wav, stereo float", "au") for value in (0, 0x7FFFFFFF, 0xFFFFFFFF)),
        *(("wav", value) for value in (0x7FFFF000, 0x80000000)),
        *(("aiff", value) for value in (0, 8, 0x7F000008, 0xFFFFFFFF)),
        ("wav, ADPCM", 0),
        *(("rf64", value) for value in (0, (1 << 63) - 1, (1 << 64) - 1)),
        *(("w64", value) for value in (0, 24, (1 << 63) - 1)),
        ("caf", (1 << 64) - 1),
    ],
)
def test_a_length_that_is_left_open_is_that_of_the_file(tmp_path: Path, kind: str, value: int) -> None:
    path = tmp_path / f"a.{kind.partition(',')[0]}"
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (10000, 2 if "stereo" in kind else 1))
    soundfile.write(path, noise, RATE, subtype=LENGTHS[kind][0])
    whole = decode(path)
    assert len(whole) >= 10000
    open_length(path, kind, value)
    assert probe(path) == (len(whole), RATE, noise.shape[1])
    assert np.array_equal(decode(path), whole)
    assert np.array_equal(decode(path, RATE, 9000, 9500), whole[9000:9500])
    with closing(Reader(path, strict=True)) as reader:
        assert reader.note == f"its header leaves the length open: taken to the end of the file, {len(whole)} samples"
        assert np.array_equal(reader.decode(RATE, 9000, 9500), whole[9000:9500])
        assert np.array_equal(reader.decode(RATE, 10, 500), whole[10:500])  # opened again
    with pytest.warns(UserWarning, match=r"its header leaves the length open"):
        assert np.array_equal(read_audio(path).numpy(), whole)


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "w64"])
def test_no_audio_is_no_audio_whatever_follows(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, np.zeros(0), RATE, subtype="PCM_16")
    with pytest.raises(Undecodable, match=r"empty: no samples"):
        decode(path)
    if kind == "wav":
        path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 12) + b"INFOISFT\0\0\0\0")
        with pytest.raises(Undecodable, match=r"empty: no samples"):
            decode(path)


@pytest.mark.parametrize("kind", ["wav", "wav, stereo float", "aiff", "au", "w64", "rf64", "nist"])
def test_a_file_that_lacks_a_little_is_taken_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind.partition(',')[0]}"
    channels, subtype = (2, "FLOAT") if "stereo" in kind else (1, "PCM_16")
    size = 8 if "stereo" in kind else 2
    soundfile.write(path, np.random.default_rng(0).uniform(-0.9, 0.9, (10000, channels)), RATE, subtype=subtype)
    whole, content = decode(path), path.read_bytes()
    with closing(Reader(path)) as reader:
        assert reader.note == ""
    for lack in (1, 799, 800):  # 50 ms are 800 samples
        path.write_bytes(content[: len(content) - size * lack])
        assert probe(path).samples == 10000 - lack
        assert np.array_equal(decode(path), whole[: 10000 - lack])
        with closing(Reader(path)) as reader:
            assert reader.note == f"holds {lack} samples less than the 10000 of its header: taken as it is"
        with pytest.warns(UserWarning, match=f"holds {lack} samples less"):
            read_audio(path)
        with pytest.raises(Undecodable, match=rf"only {10000 - lack} of 10000 samples can be decoded"):
            decode(path, strict=True)
    path.write_bytes(content[: len(content) - size * 801])
    with pytest.raises(Undecodable, match=r"only 9199 of 10000 samples can be decoded"):
        decode(path)


@pytest.mark.parametrize("kind", ["VORBIS", "OPUS"])
def test_an_ogg_that_ends_within_a_page_is_reported(tmp_path: Path, kind: str) -> None:
    soundfile.write(tmp_path / "a.ogg", tone(300, 20.0), RATE, format="OGG", subtype=kind)
    content = (tmp_path / "a.ogg").read_bytes()
    whole = decode(tmp_path / "a.ogg")
    pages = [place for place in range(len(content)) if content.startswith(b"OggS", place)]
    for end in (pages[-1] - 1, pages[-1] + 20, pages[-1] + 27, len(content) - 1):
        (tmp_path / "a.ogg").write_bytes(content[:end])
        with pytest.raises(Undecodable, match=r"damaged: only the first \d+ samples can be decoded") as caught:
            decode(tmp_path / "a.ogg")
        there = int(caught.value.reason.split()[4])
        assert probe(tmp_path / "a.ogg").samples == 0  # cannot be told
        assert np.array_equal(decode(tmp_path / "a.ogg", RATE, 0, there), whole[:there])
    (tmp_path / "a.ogg").write_bytes(content + b"TAG" + bytes(125))
    assert np.array_equal(decode(tmp_path / "a.ogg"), whole)
    (tmp_path / "a.ogg").write_bytes(content[: pages[-1]])  # between two pages nothing tells
    assert len(decode(tmp_path / "a.ogg")) < len(whole)


def test_an_mp3_that_breaks_off_gives_what_is_there(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.mp3")
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(content[: len(content) // 2])
    assert 40000 < len(decode(tmp_path / "a.mp3")) < 51000


@pytest.mark.parametrize(
    ("subtype", "steps"), [("PCM_U8", 1 << 7), ("PCM_24", 1 << 23), ("PCM_32", 1 << 31), ("FLOAT", None)]
)
def test_every_depth_is_rounded_to_the_nearest_of_16_bits(tmp_path: Path, subtype: str, steps: int | None) -> None:
    values = np.random.default_rng(3).uniform(-1.2 if steps is None else -1, 1.2 if steps is None else 0.99, 5000)
    soundfile.write(tmp_path / "a.wav", values, RATE, subtype=subtype)
    stored = values.astype(np.float32) if steps is None else np.floor(values * steps + 0.5) / steps
    packed = to_int16(decode(tmp_path / "a.wav"))
    # Half a step of 16 bits for our own rounding, one step of the file for that of libsndfile's writer.
    slack = 0.5 + (0 if steps is None else 32768 / steps)
    assert np.abs(packed - np.clip(stored * 32768, -32768, 32767)).max() <= slack + 1e-3
    if subtype == "PCM_24":
        exact = soundfile.read(tmp_path / "a.wav", dtype="int32")[0] / 65536
        assert np.array_equal(packed, np.clip(np.rint(exact), -32768, 32767))


def test_96_khz_stereo_keeps_pitch_time_and_level(tmp_path: Path) -> None:
    wave = tone(1000, 1.0, 96000)
    soundfile.write(tmp_path / "a.wav", np.stack([wave, 0.5 * wave], 1), 96000, subtype="PCM_24")
    samples = decode(tmp_path / "a.wav")
    assert len(samples) == RATE
    assert np.abs(samples - 0.75 * tone(1000))[800:-800].max() < 1e-3


@contextmanager
def nobody() -> Iterator[None]:
    """Act as an ordinary user, whom file permissions bind."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_file_that_may_not_be_read_says_so(shared_folder: Path) -> None:
    for name in ("open.wav", "closed.wav"):
        write_noise(shared_folder / name, 100)
        decode(shared_folder / name)
    (shared_folder / "closed.wav").chmod(0)
    with nobody():
        with pytest.raises(Undecodable) as caught:
            decode(shared_folder / "closed.wav")
        assert len(decode(shared_folder / "open.wav")) == 100
    assert caught.value.reason == "cannot be read: permission denied"


def test_a_folder_that_may_not_be_read_is_not_passed_over(shared_folder: Path) -> None:
    (shared_folder / "closed").mkdir(mode=0o700)
    write_noise(shared_folder / "open.wav", 100)
    (shared_folder / "closed").chmod(0)
    with nobody(), pytest.raises(InputError, match=r"folder .*closed cannot be read \(Permission denied\)"):
        find_audio(shared_folder)


def test_what_is_no_file_is_found_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    write_noise(tmp_path / "folder.wav" / "a.wav", 100)
    (tmp_path / "self.wav").symlink_to("self.wav")
    (tmp_path / "broken.wav").symlink_to("absent.wav")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    os.mkfifo(tmp_path / "pipe.wav")
    found = find_audio(tmp_path)
    assert [path.name for path in found] == ["broken.wav", "a.wav", "pipe.wav", "self.wav"]
    reasons = []
    for path in found:
        try:
            reasons.append(str(len(decode(path))))
        except Undecodable as error:
            reasons.append(error.reason)
    assert reasons == ["a link that leads to no file", "100", "not a file", "a link that leads to no file"]


@pytest.mark.parametrize("name", ["größe Ñ 日本.wav", "two  blanks .wav", "percent%20&'\"(1).wav"])
def test_any_name_is_read(tmp_path: Path, name: str) -> None:
    noise = write_noise(tmp_path / name, 100)
    assert np.array_equal(to_int16(decode(find_audio(tmp_path)[0])), noise)


def test_find_audio_is_sorted_follows_links_once_and_skips_the_rest(tmp_path: Path) -> None:
    for name in ("b/x.FLAC", "a.wav", "b/a.opus", "b/._a.opus", "notes.txt", ".hidden/z.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert find_audio(tmp_path) == [tmp_path / name for name in ("a.wav", "b/a.opus", "b/x.FLAC")]
    for name in ("b-c/z.wav", "b.wav", "b0/a.wav", "b/c/d.wav", "b/c.wav"):  # - and . sort before /, 0 after it
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_audio(tmp_path)]
    assert found == sorted(found)
    assert len(found) == 8
    assert find_audio(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    assert {".flac", ".wav", ".ogg", ".opus", ".mp3"} <= SUFFIXES


def test_find_audio_refuses_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_audio(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no audio"):
        find_audio(tmp_path)


def test_a_file_that_gives_no_audio_does_not_break_a_pool(tmp_path: Path) -> None:
    write_noise(tmp_path / "good.wav", 1000)
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        bad, good = (pool.submit(decode, tmp_path / name) for name in ("bad.wav", "good.wav"))
        assert len(good.result()) == 1000
        with pytest.raises(Undecodable) as caught:
            bad.result()
    with pytest.raises(Undecodable) as here:
        decode(tmp_path / "bad.wav")
    assert (str(caught.value), vars(caught.value)) == (str(here.value), vars(here.value))
    assert caught.value.path == tmp_path / "bad.wav"
