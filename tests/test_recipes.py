"""Every recipe and preset that is shipped is valid, small, and gives a model that can be built."""

from pathlib import Path

import pytest
import yaml

import cpc
from cpc.config import PRESETS
from cpc.scale.sweep import plan

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("recipes/*/*.yaml"))
SWEEPS = [path for path in FILES if {"recipe", "recipes"} & yaml.safe_load(path.read_text()).keys()]
RECIPES = [path for path in FILES if path not in SWEEPS]
SCRIPTS = sorted(ROOT.glob("recipes/*/run.sh"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_recipe_is_valid_and_a_short_diff(path: Path) -> None:
    recipe = cpc.load_config(path)
    assert min(recipe.model.encoder.widths) > 0
    flat = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(flat) <= 20
    assert "base" in yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_sweep_is_valid_and_its_runs_differ(path: Path) -> None:
    config, planned = plan(path)
    assert len({name for name, _ in planned}) == len(planned) > 1
    assert len({str(recipe) for _, recipe in planned}) == len(planned)
    assert config.probes


@pytest.mark.parametrize("preset", ["paper", "classic", "small"])
def test_preset(preset: str) -> None:
    recipe = cpc.load_config(PRESETS / f"{preset}.yaml", ["data.corpus=x"])
    assert recipe.model.context.hidden == 256
    assert recipe.loss.kind == "cpc"
    assert recipe.loss.prediction_steps == 12
    assert recipe.model.encoder.widths[-1] == {"paper": 512, "classic": 256, "small": 256}[preset]
    assert recipe.model.encoder.norm == {"paper": "none", "classic": "channel", "small": "channel"}[preset]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.parent.name)
def test_scripts_are_short_and_strict(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 30
    assert any(line.startswith("set -euo pipefail") for line in lines)
    assert path.stat().st_mode & 0o111, "must be executable"
