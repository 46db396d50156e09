"""The verb that asks whether two utterances are by one speaker."""

from pathlib import Path
from typing import Annotated

import typer

from cpc.cli.arguments import Baselines, CorpusFolder, Device, RunFolder, console, open_device


def verify(
    run: RunFolder,
    corpus: CorpusFolder,
    train: Annotated[str, typer.Option(help="Split whose mean is taken from all vectors.")] = "speaker_train",
    test: Annotated[str, typer.Option(help="Split that the trials are drawn from.")] = "speaker_test",
    layer: Annotated[list[str] | None, typer.Option(help="z, c, z+c; may be repeated. Default: z and c.")] = None,
    other_chapters: Annotated[
        bool, typer.Option("--other-chapters", help="Target trials of different recording sessions only.")
    ] = False,
    trials: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A list in VoxCeleb's format, in place of the test split.")
    ] = None,
    most: Annotated[int, typer.Option(help="Trials of each kind, at most.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the trials drawn, and of the intervals.")] = 0,
    baselines: Baselines = True,
    write_trials: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the trials to this file.")] = None,
    device: Device = "auto",
) -> None:
    """Whether two utterances are by one speaker, by the cosine of their mean features: EER and minDCF."""
    from cpc.evaluation.verification.command import Asked, evaluate
    from cpc.evaluation.verification.material import Choice
    from cpc.evaluation.verification.show import verification_table

    choice = Choice(train, test, trials, other_chapters, most, seed)
    asked = Asked(choice, layer or ("z", "c"), baselines, write_trials, open_device(device))
    results = evaluate(run, corpus, asked)
    console().print(verification_table(results))
    for note in dict.fromkeys(note for result in results for note in result.notes):
        print(f"note: {note}")
