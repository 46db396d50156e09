"""A run folder with a model that nobody has trained, for tests that need its files and not its worth."""

import json
from pathlib import Path

import yaml

from cpc.config import dump
from cpc.tracking.mlflow import connect, experiment_id
from cpc.training.trainer import Trainer
from tests.tiny import tiny


def save_untrained(corpus: Path, folder: Path, tracked: bool = False, *changes: str) -> Path:
    """runs/NAME as training leaves it at step 0; with `tracked`, MLflow knows it as a finished run of `exp`."""
    recipe = tiny(corpus, "data.window_size=8000", *changes, data={"corpus": str(corpus)})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(dump(recipe)))
    run_id = "0" * 32
    if tracked:
        client = connect(folder.parent)
        run_id = client.create_run(experiment_id(client, "exp", folder.parent), run_name=folder.name).info.run_id
        client.set_terminated(run_id)
    (folder / "run.json").write_text(json.dumps({"run_id": run_id, "experiment": "exp", "name": folder.name}))
    Trainer.start(recipe).save(folder / "last.safetensors")
    return folder
