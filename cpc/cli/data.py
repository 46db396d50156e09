"""`cpc data VERB`: what touches the outside world, the package data_prep, loaded when it is asked for."""

import importlib
import importlib.util
from typing import Annotated

import typer

from cpc.config import InputError

VERBS = {
    "librispeech": "Fetch, verify, unpack and pack LibriSpeech and its mini subsets, with phone labels.",
    "librilight": "Fetch and pack Libri-Light.",
    "folder": "Pack a folder of recordings of your own.",
    "kaldi": "Pack Kaldi data folders.",
    "lhotse": "Pack Lhotse manifests of recordings and supervisions.",
    "commonvoice": "Pack a language of Common Voice.",
    "huggingface": "Pack a Hugging Face dataset that was saved to disk.",
    "webdataset": "Pack WebDataset's tars, local or at URLs.",
    "labels": "Give a corpus labels: the CPC paper's file, TextGrids, TIMIT's .PHN files, or an alignment.",
    "align": "Align a corpus's transcripts to its audio: labels --align.",
    "splits": "Draw splits of a corpus, take them in, compare them.",
    "synthetic": "Make the demo's corpus of synthetic speech.",
}
HOMES = {"align": "labels", "kaldi": "manifests", "lhotse": "manifests", "commonvoice": "manifests"}
HOMES |= {"huggingface": "containers", "webdataset": "containers"}


def data(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(metavar="VERB", help=", ".join(VERBS))] = "",
) -> None:
    """Prepare data: fetch, pack, label, split. `cpc data` lists the verbs, `cpc data VERB --help` explains one."""
    if verb in ("", "-h", "--help"):
        print("cpc data VERB …, where cpc data VERB --help explains one:")
        for name, meaning in VERBS.items():
            print(f"  {name:<12} {meaning}")
        return
    if verb not in VERBS:
        raise InputError(f"VERB={verb}: must be one of {', '.join(VERBS)}")
    package = "cpc.data_prep" if importlib.util.find_spec("cpc.data_prep") else "data_prep"  # installed, or a checkout
    module = importlib.import_module(f"{package}.{HOMES.get(verb, verb)}")
    words = [*context.args, *(["--align"] if verb == "align" and "--help" not in context.args else [])]
    several = HOMES.get(verb) in ("manifests", "containers")  # verbs of one program
    module.app(args=[verb, *words] if several else words, prog_name="cpc data" if several else f"cpc data {verb}")
