"""An OpenSLR of our own on loopback: archives in LibriSpeech's exact layout, and a real server that can misbehave."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from data_prep.download import Archive, Catalogue

PIPED = "A | name | with bars"  # of the first speaker in SPEAKERS.TXT


@dataclass
class Faults:
    """What the server does wrong. Counts go down as the faults happen."""

    cut_after: int | None = None  # bytes of a body, then the connection is cut
    cuts: int = 1 << 30
    ignore_ranges: bool = False
    hide_length: bool = False
    missing: set[str] = field(default_factory=set)  # answered by 404
    corrupt: int = 0  # bodies with a wrong first byte
    busy: int = 0  # answers by 503
    late: float = 0.0  # seconds before each body
    rate: float = 0.0  # bytes a second; 0 is as fast as it goes


@dataclass
class Served:
    """A running server: its address, what it was asked for, and its faults."""

    url: str
    faults: Faults
    files: dict[str, bytes]
    log: list[tuple[str, str, int]] = field(default_factory=list)  # path, Range, status
    at_work: int = 0  # bodies being sent
    most_at_work: int = 0

    def ranges(self) -> list[str]:
        return [asked for _, asked, _ in self.log]


@contextmanager
def serve(files: dict[str, bytes], **faults: object) -> Iterator[Served]:
    """Serve `files` (by path, without a leading slash) from a thread while the block runs."""
    served = Served("", Faults(**faults), files)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, served)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a client that was killed

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def answer(request: BaseHTTPRequestHandler, served: Served) -> None:
    faults, path, asked = served.faults, request.path.lstrip("/"), request.headers.get("Range", "")
    if faults.busy:
        faults.busy -= 1
        return refuse(request, served, 503)
    if path not in served.files or path in faults.missing:
        return refuse(request, served, 404)
    body = served.files[path]
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not faults.ignore_ranges else 0
    if start >= len(body):
        return refuse(request, served, 416)
    served.log.append((path, asked, 206 if start else 200))
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    if faults.hide_length:
        request.send_header("Connection", "close")
    else:
        request.send_header("Content-Length", str(len(body) - start))
    request.end_headers()
    served.at_work += 1
    served.most_at_work = max(served.most_at_work, served.at_work)
    try:
        send(request, faults, body[start:])
    finally:
        served.at_work -= 1
    return None


def refuse(request: BaseHTTPRequestHandler, served: Served, status: int) -> None:
    served.log.append((request.path.lstrip("/"), request.headers.get("Range", ""), status))
    request.send_response(status)
    request.send_header("Content-Length", "0")
    request.end_headers()


def send(request: BaseHTTPRequestHandler, faults: Faults, body: bytes) -> None:
    time.sleep(faults.late)
    if faults.corrupt:
        faults.corrupt -= 1
        body = bytes([body[0] ^ 1]) + body[1:]
    cut = faults.cut_after if faults.cuts and faults.cut_after is not None else None
    if cut is not None and cut < len(body):
        faults.cuts -= 1
        body = body[:cut]
        request.close_connection = True
    if faults.hide_length:
        request.close_connection = True
    step = 1 << 16
    for start in range(0, len(body), step):
        request.wfile.write(body[start : start + step])
        if faults.rate:
            time.sleep(step / faults.rate)


def tarball(members: dict[str, bytes] | list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A .tar.gz, the same bytes each time: files by name, or any members."""
    pairs = list(members.items()) if isinstance(members, dict) else members
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for member, content in pairs:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), 1, mtime=0)


def tar_folder(root: Path, subset: str) -> bytes:
    """The archive of one subset of ROOT/LibriSpeech, as OpenSLR has it: the subset's folder and the texts."""
    top = root / "LibriSpeech"
    files = sorted(path for path in (top / subset).rglob("*") if path.is_file())
    files += sorted(path for path in top.iterdir() if path.is_file())
    return tarball({path.relative_to(root).as_posix(): path.read_bytes() for path in files})


def entry(path: str, content: bytes, hours: float = 0.01, utterances: int = 0) -> Archive:
    """An archive's line in a catalogue."""
    return Archive(path, len(content), f"md5:{hashlib.md5(content).hexdigest()}", hours, utterances)


def write_catalogue(file: Path, catalogue: Catalogue) -> Path:
    """A catalogue as the JSON that --catalogue reads."""
    archives = {
        subset: {"path": one.path, "size": one.size, "checksum": one.checksum, "hours": one.hours}
        for subset, one in catalogue.archives.items()
    }
    file.write_text(json.dumps({"archives": archives, "mirrors": list(catalogue.mirrors)}))
    return file


def make_librispeech(root: Path, subsets: dict[str, int], hours: float, seed: int = 0) -> Path:
    """ROOT/LibriSpeech from synthetic speech with real words: so many speakers a subset.

    The first speaker's name has a `|`, as chapters' titles do. `hours` are of all subsets together; a chapter has at
    least two utterances.
    """
    from data_prep.synthetic import build

    made = root / "made"
    build(made, speakers=max(4, sum(subsets.values())), hours=hours, seed=seed, audio_only=True, progress=False)
    speakers = sorted(made.glob("audio/*/*"), key=lambda path: path.name)
    top = root / "LibriSpeech"
    people = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    chapters = [";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE"]
    for subset, count in subsets.items():
        for number in range(count):
            speaker = speakers.pop(0)
            name = PIPED if len(people) == 1 else f"Reader {number}"
            people.append(f"{speaker.name:<5}| {'FM'[len(people) % 2]} | {subset:<17}| 25.03 | {name}")
            for chapter in sorted(speaker.iterdir()):
                shutil.copytree(
                    chapter, top / subset / speaker.name / chapter.name, ignore=shutil.ignore_patterns("*.tsv")
                )
                chapters.append(f"{chapter.name:<7}| {speaker.name:<5}| 1.00 | {subset:<17}| 0 | 0 | One | of|many |")
    texts = {
        "SPEAKERS": people,
        "CHAPTERS": chapters,
        "BOOKS": ["; none"],
        "README": ["Tiny."],
        "LICENSE": ["CC BY 4.0"],
    }
    for name, lines in texts.items():
        (top / f"{name}.TXT").write_text("\n".join(lines) + "\n")
    shutil.rmtree(made)
    return top
