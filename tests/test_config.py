"""The one door: bases, overrides, and errors that name file, key, value and remedy, all at once."""

from pathlib import Path

import pytest

import cpc
from cpc.config import InputError, _walk, describe, dump, flatten, load, upgrade
from cpc.losses.negatives import All, Uniform
from cpc.training.recipe import Recipe


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_base_override_and_defaults(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "base: classic\ndata: {corpus: here}\noptim: {lr: 1e-3, max_grad_norm: 2}\n")
    (tmp_path / "sub").mkdir()
    recipe = cpc.load_config(
        write(tmp_path / "sub" / "mine.yaml", "base: ../base.yaml\noptim: {lr: 3e-4}\n"),
        ["loss.prediction_steps=5", "seed=7"],
    )
    assert recipe.optim.lr == 3e-4  # the recipe wins over its base; YAML reads 3e-4 as text, pydantic as a number
    assert recipe.optim.max_grad_norm == 2
    assert (recipe.loss.prediction_steps, recipe.seed) == (5, 7)
    assert (recipe.model.encoder.channels, recipe.model.encoder.norm) == (256, "channel")  # of the preset
    assert recipe.data.window_size == 20480  # a default


def test_every_error_at_once_with_file_key_value_and_remedy(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bad.yaml",
        "data: {corpus: x}\nmodel: {encoder: {chanels: 3, norm: layer}}\noptim: {lr: -1}\nlosss: {}\n",
    )
    with pytest.raises(cpc.InputError) as caught:
        cpc.load_config(path, ["data.batch_size=many"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    text = "\n".join(lines)
    assert f"{path}: model.encoder.chanels=3: no such key; did you mean model.encoder.channels?" in text
    assert f"{path}: model.encoder.norm=layer: input should be 'none', 'channel', 'channel_unbiased' or 'batch'" in text
    assert f"{path}: optim.lr=-1: input should be greater than 0" in text
    assert f"{path}: losss={{}}: no such key; did you mean loss?" in text
    assert "command line: data.batch_size=many: input should be a valid integer" in text


def test_a_key_in_the_wrong_place_finds_its_place() -> None:
    with pytest.raises(cpc.InputError, match=r"lr=1: no such key; did you mean optim.lr\?"):
        cpc.load_config({"data": {"corpus": "x"}, "lr": 1})


def test_missing_corpus_is_said() -> None:
    with pytest.raises(cpc.InputError, match=r"data.corpus: must be given"):
        cpc.load_config({})


def test_another_kind_replaces_the_settings_of_the_old_one() -> None:
    tree = {"data": {"corpus": "x"}, "loss": {"negatives": {"kind": "all"}}}
    assert cpc.load_config(tree).loss.negatives == All()
    tree["loss"] = {"negatives": {"num_negatives": 64}}
    assert cpc.load_config(tree).loss.negatives == Uniform(num_negatives=64)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(cpc.InputError, match=r"loss.negatives=.*'uniform', 'all', 'within', 'hardest'"):
        cpc.load_config({"data": {"corpus": "x"}, "loss": {"negatives": {"kind": "hardestt"}}})


def test_dump_and_load_are_inverse() -> None:
    recipe = cpc.load_config(
        {"data": {"corpus": "x"}, "loss": {"negatives": {"kind": "all"}}, "optim": {"max_grad_norm": 1}}
    )
    assert load(Recipe, dump(recipe)) == recipe
    flat = flatten(dump(recipe))
    assert flat["loss.negatives.kind"] == "all"
    assert flat["data.corpus"] == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2\n", "a recipe is a mapping"),
        ("base: nowhere.yaml\n", "recipe nowhere.yaml: no such file"),
        ("base: bad.yaml\n", "is its own base"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(cpc.InputError, match=message):
        cpc.load_config(write(tmp_path / "bad.yaml", text))


def test_broken_override() -> None:
    with pytest.raises(cpc.InputError, match="must be key=value"):
        cpc.load_config({"data": {"corpus": "x"}}, ["optim.lr"])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optim.lr=yes", "command line: optim.lr=true: must be a number, not true or false"),
        ("training.max_steps=true", "command line: training.max_steps=true: must be a number"),
        ("model.encoder.kernels=[on, 8, 4, 4, 4]", r"command line: model.encoder.kernels.0=true: must be a number"),
        ("augment.past=[{kind: gain, db: [false, 6]}]", "command line: augment.past.0.db.0=false: must be a number"),
        ("loss.negatives.num_negatives=true", "command line: loss.negatives.num_negatives=true: must be a number"),
    ],
)
def test_a_bool_is_no_number(override: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        cpc.load_config({"data": {"corpus": "x"}}, [override])
    assert cpc.load_config(
        {"data": {"corpus": "x"}}, ["loss.gather_distributed=yes", "training.compile=true"]
    ).loss.gather_distributed


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("windows.samples=1", "windows.samples=1: this key is now called data.window_size; rename it"),
        ("loss.steps=4", "loss.steps=4: this key is now called loss.prediction_steps; rename it"),
        ("loss.negatives.count=4", "loss.negatives.count=4: this key is now called loss.negatives.num_negatives"),
        ("optim.clip=1", "optim.clip=1: this key is now called optim.max_grad_norm; rename it"),
        ("loss.kind=utterance", "loss.kind=utterance: this kind is now called instance; rename it"),
        ("augment.past=[{kind: pitch}]", "augment.past.0.kind=pitch: this kind is now called pitch_shift; rename it"),
    ],
)
def test_an_old_key_is_answered_with_the_new_one(override: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        cpc.load_config({"data": {"corpus": "x"}}, [override])
    assert f"command line: {line}" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["loss.aligned_predictions=13"], "loss.aligned_predictions=13: must be at most prediction_steps=12"),
        (
            ["loss.negatives={kind: all, cross_weight: 0.5}", "loss.objective={kind: nce}"],
            "loss.negatives.cross_weight=0.5: weighing negatives is for",
        ),
    ],
)
def test_a_rule_of_several_fields_names_the_one_that_breaks_it(overrides: list[str], line: str) -> None:
    """And not the whole section."""
    with pytest.raises(InputError) as caught:
        cpc.load_config({"data": {"corpus": "x"}}, overrides)
    assert str(caught.value).partition("command line: ")[2].startswith(line)


def test_settings_of_before_are_upgraded() -> None:
    """As they stand in the header of a checkpoint or in config.yaml of a run that was made before."""
    before = {
        "data": {"corpus": "x", "held_out": 0.1},
        "windows": {"samples": 4000, "batch": 4, "one_speaker": True},
        "loss": {
            "kind": "utterance",
            "same": "speaker",
            "views": {"augment": [{"kind": "tempo"}]},
            "learnt": ["temperature"],
        },
        "augment": {"past": [{"kind": "synthetic_room"}]},
        "optim": {"warmup": 3, "clip": 1.0, "floor": 0.1},
        "training": {"steps": 7, "accumulate": 1, "hold": 0.2},
    }
    recipe = load(Recipe, upgrade(before))
    assert (recipe.data.window_size, recipe.data.batch_size, recipe.data.same_speaker_batches) == (4000, 4, True)
    assert (recipe.data.val_fraction, recipe.optim.warmup_steps, recipe.optim.min_lr_ratio) == (0.1, 3, 0.1)
    assert (recipe.training.max_steps, recipe.training.gpu_cache_fraction) == (7, 0.2)
    assert recipe.loss.kind == "instance"
    assert recipe.loss.positives == "speaker"
    assert recipe.loss.views.augment[0].kind == "time_stretch"
    assert recipe.augment.past[0].kind == "synthetic_reverb"
    assert upgrade(dump(recipe)) == dump(recipe)


def test_every_setting_of_a_recipe_has_a_type_and_a_meaning() -> None:
    keys = list(describe(Recipe))
    assert [key.name for key in keys if not key.meaning or not key.type] == []
    found = {(key.name, key.within): key for key in keys}
    assert found["optim.lr", ""].type == "number > 0"
    assert found["training.max_steps", ""].default == "10000"
    assert found["data.corpus", ""].default == "required"
    assert found["loss.score.temperature", "cosine"].default == "0.1"
    assert found["model.context", ""].type == "mapping, kind: gru|lstm|transformer"


def test_described_settings_are_those_that_the_schema_takes() -> None:
    """The names are the schema's own: none that it does not know, and none missing but the kinds."""
    known = {key for key, *_ in _walk(Recipe) if key.rpartition(".")[2] != "kind" or key == "optim.kind"}
    sections = {name.rpartition(".")[0] for name in known}
    assert {key.name for key in describe(Recipe)} >= known - sections
    assert {key.name for key in describe(Recipe)} <= known
    filled = flatten(dump(load(Recipe, {"data": {"corpus": "packed"}})))  # by pydantic, which has its own schema
    assert {key for key in filled if not key.endswith(".kind")} <= known


def test_a_queue_of_frames_is_said_to_be_gone_and_what_to_do_instead() -> None:
    with pytest.raises(InputError, match=r"^command line: loss.queue=.*no longer negatives.*; remove it, or give"):
        cpc.load_config("classic", ["data.corpus=x", "loss.queue={size: 8}"])
    assert "queue" not in upgrade({"loss": {"kind": "cpc", "queue": None}})["loss"]  # of a run that had none


@pytest.mark.parametrize("name", ["compile", "cuda_graph"])
def test_a_switch_that_may_decide_by_itself_is_one_line(name: str) -> None:
    for given, found in (("true", True), ("false", False), ("auto", "auto")):
        recipe = cpc.load_config({"data": {"corpus": "x"}}, [f"training.{name}={given}"])
        assert getattr(recipe.training, name) is found or found == getattr(recipe.training, name) == "auto"
    with pytest.raises(
        InputError, match=rf"^command line: training.{name}=perhaps: input should be 'auto', True or False$"
    ):
        cpc.load_config({"data": {"corpus": "x"}}, [f"training.{name}=perhaps"])
