"""The verb that probes: phones and speakers, frame by frame or in sequence."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cpc.cli.arguments import Baselines, CorpusFolder, Device, RunFolder, console, open_device
from cpc.config import InputError

if TYPE_CHECKING:
    from cpc.evaluation.probes.protocol import ProbeProtocol


class ProbeName(StrEnum):
    """What is read off the features."""

    phone = "phone"
    sequence = "sequence"
    speaker = "speaker"
    speaker_last = "speaker-last"


TASKS = (
    "phone: frame by frame, the CPC paper's probe. sequence: a linear layer trained with CTC, evaluated by its phone"
    " error rate. speaker: by single frames and by utterance means, two different numbers. speaker-last: by the last"
    " frame of each window of 20480 samples, as in CPC_audio, a third number."
)
OPTIONS = {  # those that only some tasks have
    "classifier": (ProbeName.phone, ProbeName.speaker, ProbeName.speaker_last),
    "context": (ProbeName.phone,),
    "folds": (ProbeName.phone,),
    "max_frames": (ProbeName.phone, ProbeName.speaker),
}


def probe(
    task: Annotated[ProbeName, typer.Argument(metavar="phone|sequence|speaker|speaker-last", help=TASKS)],
    run: RunFolder,
    corpus: CorpusFolder,
    train: Annotated[
        str | None,
        typer.Option(
            help="Split to fit the classifier on. Default: phone_train, or speaker_train.", show_default=False
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(help="Split to evaluate it on. Default: phone_test, or speaker_test.", show_default=False),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", help="z, c, or side by side as z+c; may be repeated. Default: z and c."),
    ] = None,
    classifier: Annotated[str, typer.Option(help="linear, or mlp: one hidden layer. Not for sequence.")] = "linear",
    context: Annotated[int, typer.Option(help="phone: frames on either side that each frame is seen with.")] = 0,
    budget: Annotated[
        list[float] | None,
        typer.Option(help="Percent of the training utterances whose labels are used; may be repeated."),
    ] = None,
    folds: Annotated[
        int, typer.Option(help="phone: cross-validate over the speakers of both splits in so many folds; 0: no.")
    ] = 0,
    max_frames: Annotated[
        int | None,
        typer.Option(
            min=1000,
            help="Train the linear classifier on so many frames, drawn once. Default: all.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is held out, of the budget, and of what training draws.")] = 0,
    baselines: Baselines = True,
    device: Device = "auto",
) -> None:
    """Evaluate a run's features: a classifier on frozen features, with MFCC, log-mel and random init beside them."""
    from cpc.evaluation.probes.probe import probe_and_record
    from cpc.evaluation.results import probe_table

    given = {"classifier": classifier != "linear" and classifier, "context": context, "folds": folds}
    _fits(task, given | {"max_frames": max_frames})
    if max_frames and classifier != "linear":
        raise InputError(f"max_frames={max_frames}: is for classifier=linear, not {classifier}; drop --max-frames")
    kind = "phone" if task in (ProbeName.phone, ProbeName.sequence) else "speaker"
    results = probe_and_record(
        "phone_sequence" if task is ProbeName.sequence else task.value.replace("-", "_"),
        run,
        corpus,
        train or f"{kind}_train",
        test or f"{kind}_test",
        layers=layer or ["z", "c"],
        baselines=baselines,
        device=open_device(device),
        protocols=_protocols(classifier, context, budget or [100.0], seed, max_frames),
        folds=folds,
    )
    console().print(probe_table(results))
    for note in dict.fromkeys(note for result in results for note in result.notes):
        print(f"note: {note}")


def _fits(task: ProbeName, given: dict[str, object]) -> None:

    for name, value in given.items():
        if value and task not in OPTIONS[name]:
            tasks = ", ".join(OPTIONS[name])
            raise InputError(
                f"{name}={value}: {task.value} has no such choice (only {tasks}); drop --{name.replace('_', '-')}"
            )


def _protocols(
    classifier: str, context: int, budgets: list[float], seed: int, max_frames: int | None
) -> "list[ProbeProtocol]":
    from cpc.evaluation.probes.linear import Fitting
    from cpc.evaluation.probes.protocol import ProbeProtocol

    if classifier not in ("linear", "mlp"):
        raise InputError(f"classifier={classifier}: must be linear or mlp")
    kind: Literal["linear", "mlp"] = "linear" if classifier == "linear" else "mlp"
    fitting = Fitting(max_frames=max_frames)
    return [ProbeProtocol(kind, context, budget, seed=seed, fitting=fitting) for budget in budgets]
