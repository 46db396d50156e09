"""The one door: bases, overrides, and errors that name file, key, value and remedy, all at once."""

from pathlib import Path

import pytest

import cpc
from cpc.config import InputError, dump, flatten, load
from cpc.contrast import All, Uniform
from cpc.training.recipe import Recipe


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_base_override_and_defaults(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "base: small\ndata: {corpus: here}\noptim: {lr: 1e-3, clip: 2}\n")
    (tmp_path / "sub").mkdir()
    recipe = cpc.load_config(
        write(tmp_path / "sub" / "mine.yaml", "base: ../base.yaml\noptim: {lr: 3e-4}\n"), ["loss.steps=5", "seed=7"]
    )
    assert recipe.optim.lr == 3e-4  # the recipe wins over its base; YAML reads 3e-4 as text, pydantic as a number
    assert recipe.optim.clip == 2
    assert (recipe.loss.steps, recipe.seed) == (5, 7)
    assert (recipe.model.encoder.channels, recipe.model.encoder.norm) == (256, "channel")  # of the preset
    assert recipe.windows.samples == 20480  # a default


def test_every_error_at_once_with_file_key_value_and_remedy(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bad.yaml",
        "data: {corpus: x}\nmodel: {encoder: {chanels: 3, norm: layer}}\noptim: {lr: -1}\nlosss: {}\n",
    )
    with pytest.raises(cpc.InputError) as caught:
        cpc.load_config(path, ["windows.batch=many"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    text = "\n".join(lines)
    assert f"{path}: model.encoder.chanels=3: no such key; did you mean model.encoder.channels?" in text
    assert f"{path}: model.encoder.norm=layer: input should be 'none', 'channel' or 'batch'" in text
    assert f"{path}: optim.lr=-1: input should be greater than 0" in text
    assert f"{path}: losss={{}}: no such key; did you mean loss?" in text
    assert "command line: windows.batch=many: input should be a valid integer" in text


def test_a_key_in_the_wrong_place_finds_its_place() -> None:
    with pytest.raises(cpc.InputError, match=r"lr=1: no such key; did you mean optim.lr\?"):
        cpc.load_config({"data": {"corpus": "x"}, "lr": 1})


def test_missing_corpus_is_said() -> None:
    with pytest.raises(cpc.InputError, match=r"data.corpus: must be given"):
        cpc.load_config({})


def test_another_kind_replaces_the_settings_of_the_old_one() -> None:
    tree = {"data": {"corpus": "x"}, "loss": {"negatives": {"kind": "all"}}}
    assert cpc.load_config(tree).loss.negatives == All()
    tree["loss"] = {"negatives": {"count": 64}}
    assert cpc.load_config(tree).loss.negatives == Uniform(count=64)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(cpc.InputError, match=r"loss.negatives=.*'uniform', 'all', 'within', 'hardest'"):
        cpc.load_config({"data": {"corpus": "x"}, "loss": {"negatives": {"kind": "hardestt"}}})


def test_dump_and_load_are_inverse() -> None:
    recipe = cpc.load_config({"data": {"corpus": "x"}, "loss": {"negatives": {"kind": "all"}}, "optim": {"clip": 1}})
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
        ("training.steps=true", "command line: training.steps=true: must be a number"),
        ("model.encoder.kernels=[on, 8, 4, 4, 4]", r"command line: model.encoder.kernels.0=true: must be a number"),
        ("augment.past=[{kind: gain, db: [false, 6]}]", "command line: augment.past.0.db.0=false: must be a number"),
        ("loss.negatives.count=true", "command line: loss.negatives.count=true: must be a number"),
    ],
)
def test_a_bool_is_no_number(override: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        cpc.load_config({"data": {"corpus": "x"}}, [override])
    assert cpc.load_config({"data": {"corpus": "x"}}, ["loss.gather=yes", "training.compile=true"]).loss.gather
