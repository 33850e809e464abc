import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from empo.metrics.evaluation import evaluate
from empo.records import Response, UserError, read_json, write_json
from empo.reporting.harness_results import write_harness
from empo.reporting.results import write_results
from empo.reporting.runs_report import render_runs

SCRIPT = Path(__file__).parents[2] / "eval" / "report.py"
WORDS = "i am so sad and glad for you my dear friend oh no what a day".split()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("eval_report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def text(seed, i):
    length = 1 + (5 * seed + 3 * i) % 7
    return " ".join(WORDS[(3 * seed + i * (j + 2)) % len(WORDS)] for j in range(length))


def measure(folder, seeds, trained=None):
    """Write what eval/responses.py writes; `seeds` maps a system to the seed of its replies."""
    systems = {
        name: [
            Response(
                id=f"hit:{i}_conv:{i}",
                emotion="sad",
                context=[{"role": "user", "content": "my day was bad"}],
                reference=text(99, i),
                response=text(seed, i),
                system=name,
            )
            for i in range(6)
        ]
        for name, seed in seeds.items()
    }
    results = evaluate(systems, metrics=("trie", "length"), resamples=99)
    for name, of in (trained or {}).items():
        results["systems"][name]["trained"] = of
    write_results(folder / "results.json", results)


def score(folder, system, value, trained=None):
    figure = {"value": value, "stderr": 0.01, "metric": "acc", "n": 100, "shots": 5, "truncated": 0}
    facts = {
        "schema": "empo.harness/1",
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"lm_eval": "0.4"},
        "seed": 42,
        "command": "python eval/harness.py",
        "system": system,
        "model": {"name": "base"},
        "trained": trained,
        "settings": {},
        "tasks": {"mmlu": figure | {"metrics": {}, "version": "1", "dataset": "d"}},
        "groups": {},
        "comparisons": [],
        "not_run": [],
    }
    write_harness(folder / "harness.json", facts)


def trained(seed, alpha):
    return {"command": "dpo", "seed": seed, "settings": {"lora_alpha": alpha}}


@pytest.fixture
def folders(tmp_path):
    """Two seeds of two cells, with one baseline; language understanding beside them."""
    found = []
    for alpha in (16, 256):
        for seed in (1, 2):
            folder = tmp_path / f"alpha-{alpha}-seed-{seed}"
            of = {"dpo": trained(seed, alpha)}
            measure(folder, {"baseline": 50, "dpo": alpha + seed}, of)
            score(folder / "harness" / "dpo", "dpo", 0.5 + alpha / 9999, of["dpo"])
            found.append(str(folder))
    return found


def test_a_sweep_over_seeds_ends_in_one_report(script, folders, tmp_path, capsys):
    output = tmp_path / "out" / "all runs.md"
    assert script.main([*folders, "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n{output.with_suffix('.json')}\n"
    written = output.read_text("utf-8")
    report = json.loads(
        output.with_suffix(".json").read_text("utf-8"),
        parse_constant=lambda constant: pytest.fail(constant),
    )
    assert report["schema"] == "empo.report/1"
    assert report["command"].startswith("python eval/report.py ")
    assert list(report["systems"]) == [
        "baseline",
        "dpo (lora_alpha 16)",
        "dpo (lora_alpha 256)",
        "human",
    ]
    linked = re.findall(r"!\[[^]]+\]\(([^)]+)\)", written)
    assert [name.replace("%20", " ") for name in linked] == [
        "all runs-sweep-lora_alpha.svg",
        "all runs-stability.svg",
    ]
    assert all((output.parent / name.replace("%20", " ")).is_file() for name in linked)


def test_the_markdown_comes_from_the_json(script, folders, tmp_path):
    output = tmp_path / "r.md"
    script.main([*folders, "--output", str(output)])
    written = output.read_text("utf-8")
    figures = {
        caption.replace("\\", ""): file
        for caption, file in re.findall(r"!\[([^]]+)\]\(([^)]+)\)", written)
    }
    assert render_runs(read_json(tmp_path / "r.json"), figures) == written


def test_one_folder_is_the_report_of_one_run_with_its_scores(script, folders, tmp_path):
    output = Path(folders[0]) / "report.md"
    assert script.main([folders[0], "--output", str(output)]) == 0
    written = output.read_text("utf-8")
    assert written.startswith("# Responses measured")
    assert "| dpo | 0.502 ± 0.010 | standard error |\n" in written
    assert written.index("## Language understanding") < written.index("## Diversity")
    assert read_json(output.with_suffix(".json"))["runs"][0]["folder"] == folders[0]


def test_one_seed_of_a_sweep_shows_the_sweep(script, tmp_path):
    cells = {f"lora_alpha={alpha}": alpha for alpha in (16, 64, 256)}
    settings = {name: trained(1, alpha) for name, alpha in cells.items()}
    measure(tmp_path / "seed-1", {"start": 1, **cells}, settings)
    script.main([str(tmp_path / "seed-1"), "--output", str(tmp_path / "r.md")])
    written = (tmp_path / "r.md").read_text("utf-8")
    assert "](r-sweep-lora_alpha.svg)" in written
    assert (tmp_path / "r-sweep-lora_alpha.svg").is_file()
    assert "| lora\\_alpha | 16 | 64 | 256 |\n" in written
    assert "stability" not in written


def test_one_folder_without_scores_has_no_section_on_them(script, tmp_path):
    measure(tmp_path / "a", {"dpo": 1})
    script.main([str(tmp_path / "a"), "--output", str(tmp_path / "r.md")])
    assert "Language understanding" not in (tmp_path / "r.md").read_text("utf-8")


def test_harness_scores_alone_are_a_report(script, tmp_path):
    score(tmp_path / "a", "base", 0.25)
    script.main([str(tmp_path / "a"), "--output", str(tmp_path / "r.md")])
    written = (tmp_path / "r.md").read_text("utf-8")
    assert written.startswith("# Report over 1 run\n")
    assert "| base | 0.250 ± 0.010 | standard error |\n" in written


def test_the_published_rows_can_be_asked_for(script, folders, tmp_path):
    output = str(tmp_path / "r.md")
    script.main([*folders, "--output", output])
    assert ", published |" not in Path(output).read_text("utf-8")
    for folder in folders:
        with pytest.raises(
            UserError, match=f"^--published true: {folder}/results.json does not say"
        ):
            script.main([*folders, "--output", output, "--published", "true"])
        results = read_json(Path(folder) / "results.json")
        write_json(Path(folder) / "results.json", results | {"published": True})
    script.main([*folders, "--output", output, "--published", "true"])
    assert "| baseline, published | 2529 | 99.6 |" in Path(output).read_text("utf-8")


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["a", "b", "--output", "r.md"], ["--output", "r.md", "--results", "a", "b"]),
        (["--output", "r.md", "a", "b"], ["--output", "r.md", "--results", "a", "b"]),
        (
            ["--output=r.md", "a", "--published", "true"],
            ["--output=r.md", "--published", "true", "--results", "a"],
        ),
        (
            ["--results", "a", "b", "--output", "r.md"],
            ["--results", "a", "b", "--output", "r.md"],
        ),
        (["-h"], ["-h"]),
        (["a", "--help"], ["--help", "--results", "a"]),
        (["--output", "r.md"], ["--output", "r.md"]),
    ],
)
def test_folders_may_stand_without_an_option(script, argv, expected):
    assert script.with_results(argv) == expected


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["a", "--results", "b", "--output", "r.md"],
            "a: give all results folders after --results",
        ),
        (["--output", "r.md"], "--results: missing (results folders, one per run"),
        (["a"], "--output: missing"),
        (["a", "--output", "r.txt"], "--output: 'r.txt' does not end in .md."),
        (
            ["a", "--output", "r.md", "--result", "1"],
            "--result: no such option; did you mean --results?",
        ),
        (["nowhere", "--output", "r.md"], "nowhere: no such folder."),
    ],
)
def test_mistakes_are_named(script, argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        script.main(argv)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_results_are_never_replaced_by_the_report(script, folders):
    output = Path(folders[0]) / "results.md"
    with pytest.raises(UserError) as error:
        script.main([folders[0], "--output", str(output)])
    results = Path(folders[0]) / "results.json"
    assert str(error.value).startswith(f"--output: the report writes {results} too")
    assert read_json(results)["schema"] == "empo.results/1"


def test_a_report_replaces_an_earlier_one(script, folders, tmp_path):
    for number in (2, 3):
        script.main([*folders[:number], "--output", str(tmp_path / "r.md")])
        assert len(read_json(tmp_path / "r.json")["runs"]) == number


def test_a_key_that_is_missing_is_named_with_its_file(script, folders, tmp_path):
    file = Path(folders[0]) / "results.json"
    results = read_json(file)
    del results["systems"]["dpo"]["metrics"]["trie"]["compression_ratio"]
    write_json(file, results)
    with pytest.raises(UserError) as error:
        script.main([folders[0], "--output", str(tmp_path / "r.md")])
    assert str(error.value) == (
        f"{file}: the key 'compression_ratio', which the report needs, is missing. Measure the "
        "responses again with eval/responses.py."
    )
    assert script.main([*folders, "--output", str(tmp_path / "all.md")]) == 0
    assert "| dpo (lora\\_alpha 16) |" in (tmp_path / "all.md").read_text("utf-8")


def test_runs_that_cannot_be_compared_leave_nothing_behind(script, folders, tmp_path):
    results = read_json(Path(folders[1]) / "results.json")
    results["signatures"]["trie"] = "other tokens"
    write_json(Path(folders[1]) / "results.json", results)
    with pytest.raises(UserError, match="trie was not measured in the same way"):
        script.main([*folders, "--output", str(tmp_path / "out" / "r.md")])
    assert not (tmp_path / "out").exists()


def test_help_teaches_and_errors_end_in_one_message(tmp_path):
    def command(*argv):
        return subprocess.run(
            [sys.executable, str(SCRIPT), *argv], capture_output=True, text=True, cwd=tmp_path
        )

    shown = command("--help")
    assert shown.returncode == 0
    for word in ("eval/report.py", "--output", "--results", "--published", "Exit code"):
        assert word in shown.stdout
    failed = command("nowhere", "--output", "r.md")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: nowhere: no such folder.")
    assert "Traceback" not in failed.stderr
