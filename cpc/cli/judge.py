"""Verbs that judge what was learnt, and compare."""

from pathlib import Path
from typing import Annotated

import typer

from cpc.cli.arguments import Baselines, CorpusFolder, Device, Layer, RunFolder, TestSplit, TrainSplit, console


def probe_phone(
    run: RunFolder,
    corpus: CorpusFolder,
    train: TrainSplit = "phone_train",
    test: TestSplit = "phone_test",
    layer: Annotated[list[Layer] | None, typer.Option(help="z, c, or both (the default).")] = None,
    baselines: Baselines = True,
    device: Device = "auto",
) -> None:
    """Phones, frame by frame: a linear softmax classifier on frozen features."""
    _probe("phone", run, corpus, train, test, layer, baselines, device)


def probe_speaker(
    run: RunFolder,
    corpus: CorpusFolder,
    train: TrainSplit = "speaker_train",
    test: TestSplit = "speaker_test",
    layer: Annotated[list[Layer] | None, typer.Option(help="z, c, or both (the default).")] = None,
    baselines: Baselines = True,
    device: Device = "auto",
) -> None:
    """Speakers, by single frames and by utterance means: two different numbers, each named."""
    _probe("speaker", run, corpus, train, test, layer, baselines, device)


def _probe(
    task: str,
    run: Path,
    corpus: Path,
    train: str,
    test: str,
    layer: list[Layer] | None,
    baselines: bool,
    device: str,
) -> None:
    from cpc.distributed import device as find_device
    from cpc.evaluation.record import probe_and_record
    from cpc.evaluation.show import probe_table

    results = probe_and_record(
        "phone" if task == "phone" else "speaker",
        run,
        corpus,
        train,
        test,
        layers=[each.value for each in layer or list(Layer)],
        baselines=baselines,
        device=str(find_device(device)),
    )
    console().print(probe_table(results))
    for note in dict.fromkeys(note for result in results for note in result.notes):
        print(f"note: {note}")


def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="EXPERIMENT | RUN RUN", help="An experiment in MLflow, or two runs (folder, name, id)."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the CSV and the picture.")] = Path("runs"),
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also one HTML page that opens offline.")] = None,
    register: Annotated[str | None, typer.Option(metavar="NAME", help="Register the best run's model.")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias of the registered version, such as best.")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="TASK/SPLIT", help="What the best is best at. Default: the first result.")
    ] = None,
) -> None:
    """An experiment's runs in one table, with what is within noise; or two runs side by side."""
    from cpc.evaluation.comparison import Wishes, show

    shown = show(names, out, Wishes(html, register, alias, by))
    for table in shown.tables:
        console().print(table)
    for line in shown.lines:
        print(line)
    print("everything in MLflow: make ui")


def figures(
    run: RunFolder,
    corpus: CorpusFolder,
    train: TrainSplit = "phone_train",
    test: TestSplit = "phone_test",
    out: Annotated[Path | None, typer.Option(help="Folder of the pictures. Default: RUN/figures.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Utterances that a picture looks at, at most.")] = 300,
    device: Device = "auto",
) -> None:
    """Pictures of a run: curves, horizon, variance, one utterance, t-SNE, UMAP, confusions. Also into MLflow."""
    from cpc.distributed import device as find_device
    from cpc.evaluation.figures.gallery import draw_all

    draw_all(run, corpus, train, test, out=out, most=most, device=str(find_device(device)), say=print)
