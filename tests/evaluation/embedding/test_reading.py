"""Reading: pieces of a file join to what `decode` gives in one, at any rate, and are refused as it refuses."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.audio.decode import decode
from cpc.audio.integrity import Undecodable
from cpc.evaluation.embed.inputs import ahead, pieces


def noise(path: Path, samples: int, rate: int, channels: int = 1) -> Path:
    values = np.random.default_rng(samples).uniform(-0.5, 0.5, (samples, channels))
    soundfile.write(path, values, rate)
    return path


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
@pytest.mark.parametrize("samples", [1, 1000, 123_457])
def test_pieces_join_to_the_whole(tmp_path: Path, rate: int, samples: int) -> None:
    path = noise(tmp_path / "a.wav", samples, rate, channels=2)
    parts = list(pieces(path, 16000, 5000))
    assert {len(part) for part in parts[:-1]} <= {5000}
    np.testing.assert_allclose(np.concatenate(parts), decode(path, 16000), atol=1e-6)


def test_several_blocks_of_a_file_join_without_a_seam(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.flac", (1 << 20) * 2 + 77, 22050)  # the reader gives 2^20 samples at a time
    np.testing.assert_allclose(np.concatenate(list(pieces(path, 16000, 1 << 16))), decode(path, 16000), atol=1e-6)


def reason(path: Path) -> str:
    with pytest.raises(Undecodable) as found:
        list(pieces(path, 16000, 4000))
    return found.value.reason


def test_damage_and_nan_are_found_as_decode_finds_them(tmp_path: Path) -> None:
    cut = noise(tmp_path / "cut.flac", 90_000, 16000)
    cut.write_bytes(cut.read_bytes()[:80_000])
    with pytest.raises(Undecodable) as whole:
        decode(cut)
    assert reason(cut) == whole.value.reason
    values = np.zeros(9000, np.float32)
    values[7] = np.nan
    soundfile.write(tmp_path / "nan.wav", values, 16000, subtype="FLOAT")
    assert reason(tmp_path / "nan.wav") == "1 samples are NaN or infinite"


def test_ahead_keeps_the_order_and_no_more_than_its_depth_under_way() -> None:
    taken: list[int] = []

    def items() -> object:
        for number in range(20):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(3) as pool:
        for place, value in enumerate(ahead(pool, lambda number: number**2, items(), 3)):
            assert value == place**2
            assert len(taken) <= place + 1 + 3
    assert taken == list(range(20))
