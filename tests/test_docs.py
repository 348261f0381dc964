"""The README is true: its tables are the code's, its commands exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from serve.settings import table as variables
from train.hyperparameters import ALIASES
from train.hyperparameters import table as hyperparameters
from train.metrics import METRIC_REGEX

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))


def rows(heading: str) -> list[tuple[str, ...]]:
    """Return the cells of the table under a heading, without its first two lines."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines[2:]]


def test_the_table_of_hyperparameters_is_the_codes() -> None:
    assert rows("Hyperparameters") == [
        (f"`{name}`", default, allowed, recipes, meaning)
        for name, default, allowed, recipes, meaning in hyperparameters()
    ]


def test_every_alias_is_named() -> None:
    for alias, name in ALIASES.items():
        assert f"`{alias}` for `{name}`" in README


def test_the_table_of_variables_is_the_codes() -> None:
    assert rows("Environment of `serve`") == [
        (f"`{name}`", f"`{default}`", meaning) for name, default, meaning in variables()
    ]


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"make ([a-z][a-z-]+)", README)) - {"a"}
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert targets >= {"demo", "test", "setup", "lock"}
    assert targets <= known


@pytest.mark.parametrize("script", sorted(set(re.findall(r"^(\S+\.sh)", COMMANDS, re.MULTILINE))))
def test_every_script_runs_and_knows_the_options_shown(script: str) -> None:
    done = subprocess.run([ROOT / script, "--help"], capture_output=True, text=True, check=True)
    for line in COMMANDS.splitlines():
        if script in line:
            for option in re.findall(r" (--[a-z][a-z-]+)", line.partition("#")[0]):
                assert option in done.stdout


def test_the_regex_shown_is_the_one_that_finds_a_metric() -> None:
    shown = re.findall(r'"Regex": "(.*?)"}', README)
    assert shown == [METRIC_REGEX.format(name="test_accuracy").replace("\\", "\\\\")]
    found = re.search(METRIC_REGEX.format(name="loss"), "INFO [metric] loss=1.5e-05")
    assert found
    assert float(found[1]) == 1.5e-05
    assert not re.search(METRIC_REGEX.format(name="loss"), "[metric] val_loss=1")


def test_every_local_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists()
