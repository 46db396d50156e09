"""What `cpc verify` does: a run or a checkpoint on the trials of a corpus, with what belongs to a run recorded."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cpc.corpus import Corpus
from cpc.evaluation.record import pretrain_ids
from cpc.evaluation.verification.listing import write_trials
from cpc.evaluation.verification.material import Choice
from cpc.evaluation.verification.record import record
from cpc.evaluation.verification.result import VerificationResult
from cpc.evaluation.verification.session import verify_run


@dataclass(frozen=True)
class Asked:
    """What the user asked for besides RUN and CORPUS; `keep_trials` is a file to write the trials to."""

    choice: Choice = field(default_factory=Choice)
    layers: Sequence[str] = ("z", "c")
    baselines: bool = True
    keep_trials: Path | None = None
    device: str = "cpu"
    progress: bool = True


def evaluate(run: Path, source: Path, asked: Asked | None = None) -> list[VerificationResult]:
    """Verification by RUN on the packed corpus SOURCE; what belongs to a run is recorded in its folder and in MLflow.

    Raises InputError for whatever of it cannot be.
    """
    asked = asked or Asked()
    corpus, tracked = Corpus.open(source), (run / "run.json").is_file()
    material, results = verify_run(
        run,
        corpus,
        asked.choice,
        layers=asked.layers,
        baselines=asked.baselines,
        cache=run.parent / ".cache" if tracked else None,
        device=asked.device,
        progress=asked.progress,
        pretrain_ids=pretrain_ids(run) if tracked else None,
    )
    if asked.keep_trials is not None:
        write_trials(asked.keep_trials, material.trials, corpus)
    if tracked:
        record(results, run)
    return results
