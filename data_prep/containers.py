"""Pack audio that lies inside other files, without unpacking it: Hugging Face datasets on disk, WebDataset's tars.

cpc data huggingface FOLDER --out OUT [--speaker COLUMN] [--text COLUMN] [--id COLUMN|row] [--audio COLUMN]
cpc data webdataset TAR_OR_FOLDER ... --out OUT

An utterance is a run of bytes of a tar or of an Arrow file, read where it lies; a tar may be a URL.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any

import typer

from cpc.audio.decode import SUFFIXES
from cpc.audio.location import Member, Remote, locate
from cpc.config import InputError
from cpc.data.shards import Source

from .console import run
from .manifests import Out, Splits, Strict, Workers, find_listed, pack_listed
from .metadata import one_line

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

# The names that the field's data sets give to what is known of an utterance, the first that is there.
KNOWN = {
    "id": ("id", "utt_id", "utterance_id", "segment_id"),
    "speaker": ("speaker_id", "speaker", "client_id", "spk_id"),
    "chapter": ("chapter_id", "chapter", "session_id", "recording_id"),
    "sex": ("sex", "gender"),
    "text": ("text", "sentence", "transcription", "transcript", "raw_text", "normalized_text", "txt"),
}
TEXT_BYTES = 1 << 20  # of a JSON or text file in a tar at most
ROW = "row"

Id = Annotated[
    str | None,
    typer.Option(help="Column with the ids; row for SPLIT-NUMBER. Default: id, utt_id …, else the audio's file name."),
]
Speaker = Annotated[
    str | None, typer.Option(help=f"Column or key. Default: the first of {', '.join(KNOWN['speaker'])}.")
]
Text = Annotated[str | None, typer.Option(help=f"Column or key. Default: the first of {', '.join(KNOWN['text'])}.")]


@app.command()
def huggingface(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What save_to_disk of datasets wrote.")],
    *,
    out: Out,
    audio: Annotated[str | None, typer.Option(help="Column of audio. Default: the only one of type Audio.")] = None,
    speaker: Speaker = None,
    text: Text = None,
    id: Id = None,
    workers: Workers = None,
    strict: Strict = False,
) -> None:
    """Pack a Hugging Face dataset that was saved to disk (Dataset or DatasetDict; each split becomes a split).

    Neither datasets nor a network is needed. A dataset of the hub is first brought to disk, with its own library:
    load_dataset(NAME).save_to_disk(FOLDER).
    """
    chosen = {"speaker": speaker, "text": text, "id": id}
    sources: list[Source] = []
    splits: Splits = {}
    for name, part in _saved_splits(folder).items():
        own = list(read_huggingface(part, audio, chosen, name or folder.resolve().name))
        sources += own
        if name:
            splits[name] = [source.id for source in own]
    pack_listed(sources, splits, out, workers, strict)


@app.command()
def webdataset(
    tars: Annotated[
        list[str], typer.Argument(metavar="TAR...", help="Tars, URLs of tars, or folders of them; a folder is a split.")
    ],
    *,
    out: Out,
    speaker: Speaker = None,
    text: Text = None,
    workers: Workers = None,
    strict: Strict = False,
) -> None:
    """Pack WebDataset's tars: a sample is the files that share a name up to its first dot, such as a.flac and a.json.

    What is known of it is taken from .json (keys as in a dataset's columns), .txt (its text) and .spk (its speaker).
    """
    sources: list[Source] = []
    splits: Splits = {}
    for given in tars:
        place = locate(given)
        files = [place]
        if place.is_dir():
            files = sorted(path for path in place.glob("*") if path.name.endswith((".tar", ".tar.gz", ".tgz")))
            if not files:
                raise InputError(f"tar={given}: the folder holds no .tar")
        own = [source for file in files for source in read_webdataset(file, {"speaker": speaker, "text": text})]
        sources += own
        if place.is_dir():
            splits.setdefault(place.absolute().name, []).extend(source.id for source in own)
    pack_listed(sources, splits, out, workers, strict)


# --- Hugging Face: Arrow streams whose audio column is a struct of bytes and path.


def _saved_splits(folder: Path) -> dict[str, Path]:
    """Name ("" for a Dataset, which has none) and folder of each split. Raises InputError."""
    if (folder / "dataset_dict.json").is_file():
        names = _json(folder / "dataset_dict.json").get("splits")
        if not isinstance(names, list) or not all(
            isinstance(name, str) and PurePosixPath(name).name == name for name in names
        ):
            raise InputError(f"{folder / 'dataset_dict.json'}: splits must be a list of folder names")
        return {name: folder / name for name in names}
    if not (folder / "state.json").is_file():
        rule = "is no saved dataset (neither dataset_dict.json nor state.json is there)"
        raise InputError(f"folder={folder}: {rule}; write one with: dataset.save_to_disk(FOLDER)")
    return {"": folder}


def read_huggingface(
    folder: Path, audio: str | None = None, columns: Mapping[str, str | None] | None = None, name: str = "row"
) -> Iterator[Source]:
    """The utterances of one saved dataset. Their audio is bytes of its Arrow files, which are not copied.

    Args:
        folder: it holds state.json, dataset_info.json and the Arrow files that state.json names.
        audio: column of type Audio; None for the only one.
        columns: columns of `id`, `speaker`, `text` where they are not called as usual (`KNOWN`).
        name: ids are `name-00000017` where no column and no file name gives them.

    Raises:
        InputError: files that are missing or no Arrow stream, a column that is not there or is no audio.
    """
    state, info = _json(folder / "state.json"), _json(folder / "dataset_info.json")
    features = info.get("features") or {}
    files = [str(each.get("filename", "")) for each in state.get("_data_files") or []]
    if not files or any(not file or PurePosixPath(file).name != file for file in files):
        raise InputError(f"{folder / 'state.json'}: must name Arrow files beside it")
    column = _audio_column(folder, features, audio)
    chosen = {what: _choose(folder, what, (columns or {}).get(what), features) for what in KNOWN}
    row = 0
    for file in files:
        for batch, where in _batches(folder / file):
            values = {what: _texts(batch.column(found), features.get(found)) for what, found in chosen.items() if found}
            for place, (path, held) in enumerate(_audio(batch.column(column), folder / file, column, where)):
                known = {what: column[place] for what, column in values.items()}
                stem = "" if (columns or {}).get("id") == ROW else PurePosixPath(path.replace("\\", "/")).stem
                id = one_line(known.pop("id", "") or stem or f"{name}-{row:08d}")
                if isinstance(held, tuple):
                    suffix = PurePosixPath(path).suffix.lower()
                    source: Path = Member.of(folder / file, f"{row:08d}{suffix}", *held)
                else:
                    source = find_listed(path, None, folder)
                yield _source(id, source, known, name)
                row += 1


def _source(id: str, path: Path, known: Mapping[str, str], subset: str) -> Source:
    sex = known.get("sex", "").strip()[:1].upper()
    return Source(
        id, path, one_line(known.get("speaker", "")), one_line(known.get("chapter", "")),
        sex if sex in ("F", "M") else "", one_line(subset), known.get("text", ""),
    )  # fmt: skip


def _audio_column(folder: Path, features: Mapping[str, Any], wanted: str | None) -> str:
    found = [name for name, each in features.items() if isinstance(each, dict) and each.get("_type") == "Audio"]
    if wanted is not None and wanted not in found:
        kind = f"is {features[wanted].get('_type')}" if isinstance(features.get(wanted), dict) else "is not there"
        rule = "must be of type Audio; before saving: dataset.cast_column(NAME, Audio())"
        raise InputError(f"audio={wanted}: {kind} in {folder} (Audio: {', '.join(found) or 'none'}); {rule}")
    if wanted is None and len(found) != 1:
        remedy = "name one with --audio" if found else "before saving: dataset.cast_column(NAME, Audio())"
        raise InputError(f"{folder}: has {len(found)} columns of type Audio ({', '.join(found) or 'none'}); {remedy}")
    return wanted or found[0]


def _choose(folder: Path, what: str, wanted: str | None, features: Mapping[str, Any]) -> str | None:
    """The column with what is to be known of an utterance, None if there is none. Raises InputError."""
    if wanted == ROW and what == "id":
        return None
    if wanted is not None and wanted not in features:
        raise InputError(f"{what}={wanted}: no such column in {folder} (columns: {', '.join(features)})")
    return wanted or next((name for name in KNOWN[what] if name in features), None)


def _texts(column: Any, feature: Any) -> list[str]:
    """A column's values as text; those of a ClassLabel by their names."""
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    values = column.to_pylist()
    if names:
        values = [names[value] if isinstance(value, int) and 0 <= value < len(names) else None for value in values]
    return ["" if value is None else str(value) for value in values]


def _batches(file: Path) -> Iterator[tuple[Any, int]]:
    """Record batches of an Arrow file, which is mapped, and the address at which it begins in memory."""
    import pyarrow as pa

    if not file.is_file():
        raise InputError(f"{file}: no such file; copy or save the dataset again")
    try:
        with pa.memory_map(str(file)) as mapped:
            base = mapped.read_buffer(1).address
            mapped.seek(0)
            try:
                batches: Any = pa.ipc.open_stream(mapped)
            except pa.ArrowInvalid:
                mapped.seek(0)
                opened = pa.ipc.open_file(mapped)
                batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
            for batch in batches:
                yield batch, base
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: is no whole Arrow file ({' '.join(str(error).split())}); save it again") from None


def _audio(column: Any, file: Path, name: str, base: int) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Of each row the path that it names, and place and length of its bytes in `file`; None where it has no bytes."""
    import numpy as np
    import pyarrow as pa

    kind = column.type
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise InputError(f"{file}: its column {name} is {kind}; must be a struct of bytes and path, as Audio() saves")
    held = column.field("bytes")
    names = column.field("path").to_pylist() if kind.get_field_index("path") >= 0 else [None] * len(column)
    if pa.types.is_null(held.type):
        yield from ((str(path or ""), None) for path in names)
        return
    width = np.int64 if pa.types.is_large_binary(held.type) else np.int32
    _, ends, content = held.buffers()
    places = np.frombuffer(ends, width)[held.offset : held.offset + len(held) + 1].astype(np.int64)
    start = (content.address if content is not None else base) - base
    whole = file.stat().st_size
    for path, there, first, end in zip(names, held.is_valid().to_pylist(), places[:-1], places[1:], strict=True):
        if there and not 0 <= start + first <= start + end <= whole:
            raise InputError(f"{file}: is compressed, and audio cannot be read in place; save it without compression")
        if not there and not path:
            raise InputError(f"{file}: a row of {name} has neither bytes nor a path")
        yield str(path or ""), (int(start + first), int(end - first)) if there else None


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; save the dataset again") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}: must be a JSON object")
    return found


# --- WebDataset: tars in which the files of one sample lie beside each other.


def read_webdataset(tar: Path, keys: Mapping[str, str | None] | None = None) -> Iterator[Source]:
    """The samples of one tar that hold audio. Nothing is unpacked: an utterance is the member's bytes in the tar.

    Raises:
        InputError: no tar, a compressed one, or JSON that is none.
    """
    sample: dict[str, tarfile.TarInfo] = {}
    key = ""
    with _opened(tar) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as opened:
                for member in opened:
                    opened.members = []  # type: ignore[attr-defined]  # else it keeps every header that it has read
                    if not member.isfile():
                        continue
                    folder, _, base = member.name.removeprefix("./").rpartition("/")
                    first, _, ending = base.partition(".")
                    this = f"{folder}/{first}" if folder else first
                    if this != key:
                        yield from _sample(tar, file, key, sample, keys or {})
                        key, sample = this, {}
                    sample["." + ending.lower()] = member
                yield from _sample(tar, file, key, sample, keys or {})
        except tarfile.TarError as error:
            remedy = "gunzip it: audio is read in place" if tar.suffix in (".gz", ".tgz") else "copy it again"
            raise InputError(f"tar={tar}: is no whole tar ({error}); {remedy}") from None


def _opened(tar: Path) -> Any:
    """A tar for reading its headers; of a remote one only these travel."""
    if not tar.is_file():
        raise InputError(f"tar={tar}: no such file")
    if isinstance(tar, Remote):
        return tar.opened()
    return tar.open("rb")


def _sample(
    tar: Path, file: IO[bytes], key: str, sample: Mapping[str, tarfile.TarInfo], keys: Mapping[str, str | None]
) -> Iterator[Source]:
    """The utterance of one sample, one for each of its audio files: KEY, or KEY-NAME where there are several."""
    found = {ending: member for ending, member in sample.items() if PurePosixPath("x" + ending).suffix in SUFFIXES}
    if not found:
        return
    known: dict[str, str] = {}
    if ".json" in sample:
        try:
            record = json.loads(_content(tar, file, sample[".json"]))
        except ValueError as error:
            raise InputError(f"tar={tar}: {sample['.json'].name}: is no JSON ({error})") from None
        record = record if isinstance(record, dict) else {}
        for what, usual in KNOWN.items():
            names = [name] if (name := keys.get(what)) else usual
            if value := next((record[name] for name in names if record.get(name) is not None), None):
                known[what] = str(value)
    for ending, what in ((".txt", "text"), (".spk", "speaker")):
        if ending in sample:
            known[what] = _content(tar, file, sample[ending]).decode("utf-8", "replace").strip()
    stem = one_line(known.pop("id", "") or key.replace("/", "-"))
    for ending, member in found.items():
        id = stem if len(found) == 1 else f"{stem}-{ending[1:].rpartition('.')[0] or ending[1:]}"
        path = Member.of(tar, member.name.removeprefix("./"), member.offset_data, member.size)
        yield _source(id, path, known, "")


def _content(tar: Path, file: IO[bytes], member: tarfile.TarInfo) -> bytes:
    if member.size > TEXT_BYTES:
        raise InputError(f"tar={tar}: {member.name}: {member.size} bytes; must be at most {TEXT_BYTES}")
    place = file.tell()
    file.seek(member.offset_data)
    content = file.read(member.size)
    file.seek(place)
    return content


if __name__ == "__main__":
    run(app)
