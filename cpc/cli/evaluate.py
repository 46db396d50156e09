"""Verbs that evaluate what was learnt, and compare."""

from pathlib import Path
from typing import Annotated

import typer

from cpc.cli.arguments import (
    Address,
    Baselines,
    CorpusFolder,
    Cpus,
    Device,
    EngineName,
    Gpus,
    RunFolder,
    TestSplit,
    TrainSplit,
    Workers,
    console,
    open_device,
)


def evaluate(
    run: RunFolder,
    corpus: CorpusFolder,
    suite: Annotated[str, typer.Option(help="paper: Table 1 of van den Oord et al. 2018.")] = "paper",
    others: Annotated[
        list[Path] | None, typer.Option("--with", help="A run of the same recipe with another seed; may be repeated.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often random init, hidden layer and topline are done.")] = 1,
    topline_steps: Annotated[int | None, typer.Option(min=1, help="Steps of the supervised topline, at most.")] = None,
    disjoint: Annotated[bool, typer.Option(help="Also speakers by other chapters than the classifier saw.")] = False,
    device: Device = "auto",
) -> None:
    """Random init, MFCC, CPC by two classifiers and a supervised topline, on phones and speakers, with intervals."""
    from cpc.config import InputError
    from cpc.scale.suite import COLUMNS, DISJOINT, order_lines, paper_suite, suite_table
    from cpc.scale.topline import Topline

    if suite != "paper":
        raise InputError(f"suite={suite}: must be paper")
    found = paper_suite(
        run,
        corpus,
        columns=(*COLUMNS, DISJOINT) if disjoint else COLUMNS,
        others=others or (),
        seeds=seeds,
        how=Topline(max_steps=topline_steps) if topline_steps else None,
        device=open_device(device),
    )
    console().print(suite_table(found))
    for line in order_lines(found):
        print(line)
    for note in dict.fromkeys(note for cell in found.cells for result in cell.results for note in result.notes):
        print(f"note: {note}")


def abx(
    features: Annotated[Path, typer.Argument(metavar="RUN|FOLDER", help="A run, a checkpoint, or a folder of .npy.")],
    source: Annotated[Path, typer.Argument(metavar="CORPUS|ITEMS", help="A packed corpus, or a .item file.")],
    speaker: Annotated[str, typer.Option(help="within or across speakers.")] = "within",
    context: Annotated[str, typer.Option(help="within the same context, or any.")] = "within",
    unit: Annotated[str | None, typer.Option(help="triphone (the default for within) or phone.")] = None,
    distance: Annotated[str, typer.Option(help="angular or euclidean.")] = "angular",
    slicing: Annotated[str, typer.Option(help="centre, or librilight, which drops the last frame.")] = "centre",
    split: Annotated[str | None, typer.Option(help="A split or a subset of the corpus. Default: all of it.")] = None,
    items: Annotated[Path | None, typer.Option(help="A .item file in place of the corpus's alignment.")] = None,
    layer: Annotated[list[str] | None, typer.Option(help="z, c, z+c; may be repeated. Default: z and c.")] = None,
    baselines: Baselines = True,
    hop: Annotated[float | None, typer.Option(help="Seconds from frame to frame, for a folder of .npy.")] = None,
    first_centre: Annotated[float | None, typer.Option(help="Seconds at the centre of frame 0.")] = None,
    write_items: Annotated[Path | None, typer.Option(help="Write the items to this .item file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the results to this JSON file.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sub-sampling.")] = 0,
    device: Device = "auto",
) -> None:
    """Whether an instance of a phone is nearer to another of its kind than to one of another kind; no training."""
    from cpc.evaluation.abx.run import ABXConfig, evaluate
    from cpc.evaluation.abx.task import abx_table

    asked = ABXConfig(
        speaker,
        context,
        unit,
        distance,
        slicing,
        seed=seed,
        split=split,
        items=items,
        layers=layer or ("z", "c"),
        baselines=baselines,
        hop=hop,
        first_centre=first_centre,
        keep_items=write_items,
        out=out,
        device=open_device(device),
    )
    results = evaluate(features, source, asked)
    console().print(abx_table(results))
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
    from cpc.evaluation.report import ReportOptions, show

    shown = show(names, out, ReportOptions(html, register, alias, by))
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
    from cpc.evaluation.plots.gallery import draw_all

    draw_all(run, corpus, train, test, out=out, most=most, device=open_device(device), say=print)


# --- The verb that asks whether two utterances are by one speaker.


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
    from cpc.evaluation.trials import TrialChoice
    from cpc.evaluation.verification import VerificationConfig, evaluate, verification_table

    choice = TrialChoice(train, test, trials, other_chapters, most, seed)
    asked = VerificationConfig(choice, layer or ("z", "c"), baselines, write_trials, open_device(device))
    results = evaluate(run, corpus, asked)
    console().print(verification_table(results))
    for note in dict.fromkeys(note for result in results for note in result.notes):
        print(f"note: {note}")


# --- The verb that turns speech into discrete units.


def units(
    run: RunFolder,
    corpus: CorpusFolder,
    k: Annotated[int, typer.Option("--k", min=2, help="Number of units.")] = 100,
    layer: Annotated[str, typer.Option(help="z, c, a layer below c such as c1, or side by side as z+c.")] = "c",
    train: Annotated[str, typer.Option(help="Split that is clustered.")] = "phone_train",
    test: Annotated[str, typer.Option(help="Split on which the units are evaluated.")] = "phone_test",
    split: Annotated[
        str | None, typer.Option(help="Utterances whose units are written. Default: the whole corpus.")
    ] = None,
    codebook: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A codebook made before, instead of clustering.")
    ] = None,
    labels: Annotated[str, typer.Option(help="Labels of the phones.")] = "phones",
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Default: RUN/units/LAYER-K.")] = None,
    seed: Annotated[int, typer.Option(help="Of the clustering.")] = 0,
    device: Device = "auto",
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Discrete units: cluster a layer by k-means, write the units of every utterance, say how they stand for phones."""
    from cpc.evaluation.units import UnitsConfig, discover, units_table
    from cpc.scale.ray import engine_named

    with engine_named(engine, address, workers, cpus, gpus) as chosen:
        where = "cpu" if chosen else open_device(device)
        asked = UnitsConfig(k, layer, train, test, split, labels, seed, out, codebook, where)
        result, folder = discover(run, corpus, asked, chosen)
    console().print(units_table([result]))
    for note in result.notes:
        print(f"note: {note}")
    print(f"units: {folder / 'units.txt'}, without repetitions {folder / 'units-deduplicated.txt'}")
    print(f"codebook: {folder / 'codebook.safetensors'}")
