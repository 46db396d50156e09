"""Verbs that probe: phones and speakers, frame by frame or in sequence."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cpc.cli.arguments import Baselines, CorpusFolder, Device, RunFolder, TestSplit, TrainSplit, console

Layers = Annotated[
    list[str] | None, typer.Option("--layer", help="z, c, or side by side as z+c; may be repeated. Default: z and c.")
]
Classifier = Annotated[str, typer.Option(help="linear, or mlp: one hidden layer.")]
Beside = Annotated[int, typer.Option("--context", help="Frames on either side that each frame is seen with.")]
Budgets = Annotated[
    list[float] | None,
    typer.Option("--budget", help="Percent of the training utterances whose labels are used; may be repeated."),
]
Folds = Annotated[int, typer.Option(help="Cross-validate over the speakers of both splits in so many folds; 0: no.")]
Seed = Annotated[int, typer.Option(help="Of what is held out, of the budget, and of what training draws.")]

app = typer.Typer(help="Judge a run's features with a probe on frozen features.", no_args_is_help=True)


@app.command("phone")
def phone(
    run: RunFolder,
    corpus: CorpusFolder,
    train: TrainSplit = "phone_train",
    test: TestSplit = "phone_test",
    layer: Layers = None,
    classifier: Classifier = "linear",
    context: Beside = 0,
    budget: Budgets = None,
    folds: Folds = 0,
    seed: Seed = 0,
    baselines: Baselines = True,
    device: Device = "auto",
) -> None:
    """Phones, frame by frame: the CPC paper's probe."""
    _probe("phone", run, corpus, train, test, layer, baselines, device, (classifier, context, budget, seed), folds)


@app.command("sequence")
def sequence(
    run: RunFolder,
    corpus: CorpusFolder,
    train: TrainSplit = "phone_train",
    test: TestSplit = "phone_test",
    layer: Layers = None,
    budget: Budgets = None,
    seed: Seed = 0,
    baselines: Baselines = True,
    device: Device = "auto",
) -> None:
    """Phones in sequence: a linear layer trained with CTC, judged by its phone error rate."""
    _probe("phone_sequence", run, corpus, train, test, layer, baselines, device, ("linear", 0, budget, seed))


@app.command("speaker")
def speaker(
    run: RunFolder,
    corpus: CorpusFolder,
    train: TrainSplit = "speaker_train",
    test: TestSplit = "speaker_test",
    layer: Layers = None,
    classifier: Classifier = "linear",
    budget: Budgets = None,
    seed: Seed = 0,
    baselines: Baselines = True,
    device: Device = "auto",
) -> None:
    """Speakers, by single frames and by utterance means: two different numbers, each named."""
    _probe("speaker", run, corpus, train, test, layer, baselines, device, (classifier, 0, budget, seed))


@app.command("speaker-last")
def speaker_last(
    run: RunFolder,
    corpus: CorpusFolder,
    train: TrainSplit = "speaker_train",
    test: TestSplit = "speaker_test",
    layer: Layers = None,
    classifier: Classifier = "linear",
    budget: Budgets = None,
    seed: Seed = 0,
    baselines: Baselines = True,
    device: Device = "auto",
) -> None:
    """Speakers by the last frame of each window of 20480 samples, as in CPC_audio: a third number."""
    _probe("speaker_last", run, corpus, train, test, layer, baselines, device, (classifier, 0, budget, seed))


def _probe(
    task: str,
    run: Path,
    corpus: Path,
    train: str,
    test: str,
    layers: list[str] | None,
    baselines: bool,
    device: str,
    protocol: tuple[str, int, list[float] | None, int],
    folds: int = 0,
) -> None:
    from cpc.config import InputError
    from cpc.distributed import device as find_device
    from cpc.evaluation.protocol import Protocol
    from cpc.evaluation.record import probe_and_record
    from cpc.evaluation.show import probe_table

    classifier, context, budgets, seed = protocol
    if classifier not in ("linear", "mlp"):
        raise InputError(f"classifier={classifier}: must be linear or mlp")
    kind: Literal["linear", "mlp"] = "linear" if classifier == "linear" else "mlp"
    results = probe_and_record(
        task,
        run,
        corpus,
        train,
        test,
        layers=layers or ["z", "c"],
        baselines=baselines,
        device=str(find_device(device)),
        protocols=[Protocol(kind, context, budget, seed=seed) for budget in budgets or [100.0]],
        folds=folds,
    )
    console().print(probe_table(results))
    for note in dict.fromkeys(note for result in results for note in result.notes):
        print(f"note: {note}")
