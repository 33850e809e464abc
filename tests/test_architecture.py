"""The house: imports run downward only, light commands stay light, no machine shows in the files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = {
    1: {
        "settings",
        "process",
        "runs",
        "records",
        "sqlite_file",
        "rating",
        "cards",
        "rater_cards",
        "dialogues",
        "emotions",
        "hub",
        "untrusted",
        "templates",
        "adapters",
        "redaction",
        "json_values",
        "yaml_values",
        "pair_files",
        "pair_rules",
        "length_effect",
    },
    2: {
        "preferences",
        "prompts",
        "corpora",
        "models",
        "small_models",
        "checkpoints",
        "choosing",
        "sampling",
        "partial_replies",
    },
    3: {"alignment", "generation", "harness", "metrics", "raters", "mining"},
    4: {"reporting", "survey"},
    5: {
        "recipes",
        "eval",
        "cli",
        "chat",
        "demo",
        "preview",
        "rate",
        "agree",
        "intents",
        "pairs",
        "judging",
        "measure",
        "suites",
        "selection",
        "survey_commands",
        "sweep",
    },
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
OPEN_ON_FLOOR_1 = {"records", "dialogues", "untrusted", "redaction", "json_values", "yaml_values"}
OPEN_ON_FLOOR_1 |= {"pair_rules"}

EXCEPTIONS: set[str] = set()

FRAMEWORKS = {"torch", "transformers", "trl", "peft", "accelerate", "deepspeed"}
HEAVY = {"torch", "transformers", "trl"}


def sources() -> list[Path]:
    """Every Python file of the library and its entry scripts."""
    return sorted(
        path.relative_to(ROOT)
        for folder in ("empo", "recipes", "eval")
        for path in (ROOT / folder).rglob("*.py")
    )


def imported(source: str) -> set[str]:
    """Dotted names of everything a source imports, wherever in it; `from a import b` is `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute in this repository"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    """The room a file belongs to: `empo/corpora/tables.py` to corpora, `eval/x.py` to eval."""
    inside = path.parts[1] if path.parts[0] == "empo" else path.parts[0]
    return inside.removesuffix(".py")


def may_import(here: str, there: str) -> bool:
    """Whether a file of one room may import from another room."""
    floor, other = FLOOR_OF.get(here, 0), FLOOR_OF[there]
    if floor != other or here == there or floor == 5:
        return floor >= other
    return floor == 1 and there in OPEN_ON_FLOOR_1


@pytest.mark.parametrize(
    "here, there, allowed",
    [
        ("cli", "models", True),
        ("models", "cli", False),
        ("prompts", "settings", True),
        ("settings", "prompts", False),
        ("metrics", "raters", False),
        ("metrics", "metrics", True),
        ("runs", "records", True),
        ("runs", "settings", False),
        ("cli", "demo", True),
    ],
)
def test_the_rule_of_the_floors(here: str, there: str, allowed: bool) -> None:
    assert may_import(here, there) is allowed


def test_imports_are_found_inside_functions_and_in_the_form_from_empo() -> None:
    source = "import json\ndef f():\n    from empo import models\n    import empo.cards as c\n"
    assert imported(source) == {"json", "empo.models", "empo.cards"}


def test_every_file_of_the_library_lies_on_a_floor() -> None:
    rooms = {room_of(path) for path in sources()} - {"__init__"}
    assert rooms <= FLOOR_OF.keys(), "give the new room a floor, here and in docs/architecture.md"


def test_imports_run_downward_only() -> None:
    found = set()
    for path in sources():
        here = room_of(path)
        names = {
            name.split(".")[1]
            for name in imported((ROOT / path).read_text())
            if name.startswith("empo.")
        }
        for there in names & FLOOR_OF.keys():
            if not may_import(here, there):
                found.add(f"{path.as_posix()} imports {there}")
    assert found == EXCEPTIONS


@pytest.mark.parametrize(
    "room", [*"metrics reporting survey preferences corpora choosing mining".split()]
)
def test_rooms_that_know_no_model_framework(room: str) -> None:
    found = {
        (path.as_posix(), name)
        for path in sources()
        if room_of(path) == room
        for name in imported((ROOT / path).read_text())
        if name.split(".")[0] in FRAMEWORKS
    }
    assert found == set()


PAIRS = """
import sys
sys.argv = ["empo", "pairs", "--dialogues", "data/sample/valid.csv", "--epochs", "1"]
sys.argv += ["--output", OUTPUT]
from empo.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
"""
TRIE = """
import sys
from empo.metrics.trie import trie
from empo.records import Response
message = {"role": "user", "content": "?"}
replies = [
    Response(id=str(i), emotion="sad", context=[message], reference="", response="oh no", system="s")
    for i in range(2)
]
assert trie(replies).values["templates"] == 1
"""


@pytest.mark.parametrize("program", [PAIRS, TRIE], ids=["empo pairs", "trie metric"])
def test_light_commands_load_no_model_framework(program: str, tmp_path: Path) -> None:
    report = f"print('LOADED', *sorted({HEAVY!r} & sys.modules.keys()))"
    code = program.replace("OUTPUT", repr(str(tmp_path / "pairs"))) + report
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"


MACHINE = {
    "path of a machine": re.compile(r"(?<![\w.~-])/(?:work|root|home|Users)/"),
    "package registry": re.compile(
        r"index-url|trusted-host|https?://[^\s/]*(?:artifactory|jfrog|nexus|devpi|mirror|registry)"
        r"|https?://[^\s/]+/(?:\S*/)?simple(?:[/\s\"']|$)",
        re.IGNORECASE,
    ),
    "private host": re.compile(r"https?://(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d"),
}
WRITTEN_OUT = {("tests/test_architecture.py", "package registry")}  # the pattern above itself


def test_no_file_names_a_machine_or_a_registry() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so there is no list of the repository's files")
    found = set()
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8", errors="replace")
        found |= {(name, what) for what, pattern in MACHINE.items() if pattern.search(text)}
    assert found - WRITTEN_OUT == set()


@pytest.mark.parametrize(
    "line",
    [
        "see /" + "work/main",
        'open("/' + 'root/x")',
        "pip install --extra-index" + "-url x",
        "https://" + "artifactory.example.org/api",
        "http://" + "10.0.0.7:80/x",
    ],
)
def test_the_patterns_find_what_they_look_for(line: str) -> None:
    assert any(pattern.search(line) for pattern in MACHINE.values())
