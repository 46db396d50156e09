"""The best run's model under a name in MLflow's model registry, with an alias such as `best`."""

from dataclasses import dataclass
from pathlib import Path

from cpc.config import InputError
from cpc.evaluation.experiment import Row, best_row, is_error, tasks
from cpc.evaluation.saved import headings
from cpc.tracking import RUNS, connect


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, and the result for which it was chosen."""

    name: str
    version: str
    alias: str | None
    run: str
    task: str
    value: float

    @property
    def uri(self) -> str:
        """What mlflow.pyfunc.load_model takes."""
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


def register(
    table: list[Row], name: str, alias: str | None = None, by: str | None = None, root: Path = RUNS
) -> Registered:
    """Register the model of the finished run that is best at a task (`by`: as in the table, the first by default).

    A run whose model is registered under that name already gets the alias, and no second version.

    Raises:
        InputError: no finished run has that result, or the best one has no model.
    """
    trained = [row for row in table if not row.is_baseline and row.status == "FINISHED"]
    known = headings(tasks(trained))
    if not known or (by is not None and by not in (*known, *known.values())):
        rule = f"results of finished runs: {', '.join(known.values()) or 'none; probe a run first'}"
        raise InputError(f"by={by}: no finished run has this result; {rule}")
    task = next(name for name, heading in known.items() if by in (None, name, heading))
    row = best_row(trained, task)
    client = connect(root)
    versions = client.search_model_versions(f"name = '{_checked(name)}'")
    own = [version for version in versions if version.run_id == row.run_id]
    version = str(own[0].version) if own else _version(name, row)
    if alias:
        client.set_registered_model_alias(name, alias, version)
    client.set_model_version_tag(name, version, "chosen_for", f"{task} {row.metrics[task][0]:.4f} ({row.features})")
    return Registered(name, version, alias, row.run, known[task], row.metrics[task][0])


def _version(name: str, row: Row) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return str(mlflow.register_model(f"runs:/{row.run_id}/model", name).version)
    except MlflowException as error:
        reason = " ".join(str(error).split())
        raise InputError(f"run={row.run}: its model cannot be registered as {name}: {reason}") from None


def _checked(name: str) -> str:
    if not name or any(character in name for character in "/:.%\"'"):
        raise InputError(f"register={name}: a name of letters, digits, spaces, - and _; not / : . % or quotes")
    return name


def sentence(done: Registered) -> str:
    """What was registered and why, in one line."""
    kind = "error" if is_error(done.task) else "accuracy"
    where = f"{done.name}, version {done.version}" + (f", alias {done.alias}" if done.alias else "")
    return f"registered: {where}: run {done.run}, best at {done.task} ({kind} {done.value:.1%}); load it by {done.uri}"
