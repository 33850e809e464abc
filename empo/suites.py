"""Suites: which metrics, raters, language-understanding tasks and tests make up an evaluation.

A suite is a YAML file with a section per command that measures, `responses` (eval/responses.py) and
`harness` (eval/harness.py), whose keys are the settings of that command. `--suite quick` takes
eval/suites/quick.yaml; whatever is given beside it, in `--config` or on the command line, wins.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from empo.records import UserError, shown
from empo.settings import load_yaml, resolve

FOLDER = Path(__file__).resolve().parents[1] / "eval" / "suites"
SECTIONS = ("responses", "harness")
HELP = "suite that says what is measured: paper, quick, or a YAML file"


def parse_with_suite(
    argv: Sequence[str], settings: type, section: str, *, prog: str, description: str
) -> Any:
    """Settings of a command, over those of the suite that `--suite` or the `--config` file names."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--suite")
    peek.add_argument("--config")
    known, _ = peek.parse_known_args(argv)
    name = known.suite
    if name is None and known.config is not None:
        name = load_yaml(known.config).get("suite")
    path = suite_path(name) if isinstance(name, str) else None
    suite = load_suite(path) if path else {}
    if path and section not in suite:
        raise UserError(f"{path}: this suite has no section {section!r}, so it asks for nothing.")
    (parsed,), _ = resolve(
        argv,
        settings,
        prog=prog,
        description=description,
        defaults=suite.get(section),
        defaults_from=str(path),
    )
    return parsed


def suite_path(name: str) -> Path:
    """The file of a suite: one of ours by name, or a path."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        ours = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"--suite: no suite {shown(name)}; there are {ours}, or give a .yaml file.")
    return path


def load_suite(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a suite; UserError names an unknown one."""
    content = load_yaml(path)
    for key, section in content.items():
        if key not in SECTIONS:
            raise UserError(f"{path}: no such section: {shown(key)}; known: {', '.join(SECTIONS)}.")
        if not isinstance(section, dict):
            raise UserError(f"{path}: section {shown(key)}: settings are expected (key: value).")
    return content
