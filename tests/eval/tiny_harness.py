"""Two tiny models, tiny tasks, and the command on them, that the tests share."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from empo import small_models
from empo.records import write_json, write_jsonl

SCRIPT = Path(__file__).parents[2] / "eval" / "harness.py"

CHOICE = """
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: options
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 2.0}
"""
GENERATE = """
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{options[answer]}}"
generation_kwargs: {max_gen_toks: 8, until: ["\\n"], do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "(xyz)"}, {function: take_first}]}
  - {name: loose, filter: [{function: take_first}]}
"""
FUNCTIONS = """
from pathlib import Path

def half(doc, results):
    return {"acc": 0.5}

def shaky(doc, results):
    if Path(__file__).with_name("broken").exists():
        raise RuntimeError("the power is gone")
    return {"acc": 1.0}
"""


def load_script():
    spec = importlib.util.spec_from_file_location("eval_harness", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


main = load_script().main


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny bases that answer differently, the first as a run with its settings."""
    folder = tmp_path_factory.mktemp("shelf")
    tokenizer = small_models.train_tokenizer(["How does the speaker feel? Answer: sad"] * 5, 300)
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        small_models.small_base(tokenizer, 16, 1, 2, 1024).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    facts = {"status": "complete", "command": "base", "seed": 3, "settings": {"layers": 1}}
    write_json(folder / "one" / "run.json", facts)
    return folder


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with task files: a group of two sizes, answers that are generated, odd ones."""
    folder = tmp_path / "tasks"
    for name, items in (("small", 5), ("large", 11)):
        docs = [
            {"question": f"{name} {i}: which?", "options": ["ab", "cd", "ef"], "answer": i % 3}
            for i in range(items)
        ]
        write_jsonl(folder / f"{name}.jsonl", docs)

    def task(name: str, data: str, text: str) -> None:
        kwargs = {"data_files": {"test": str(folder / data)}, "cache_dir": str(tmp_path / "cache")}
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {json.dumps(kwargs)}\n"
        (folder / f"{name}.yaml").write_text(head + text)

    task("tiny_small", "small.jsonl", CHOICE)
    task("tiny_large", "large.jsonl", CHOICE)
    task("tiny_words", "small.jsonl", GENERATE)
    task("tiny_long", "small.jsonl", GENERATE.replace("toks: 8", "toks: 2000"))
    task("tiny_half", "small.jsonl", CHOICE + "process_results: !function functions.half\n")
    task("tiny_shaky", "small.jsonl", CHOICE + "process_results: !function functions.shaky\n")
    task("tiny_code", "small.jsonl", CHOICE + "unsafe_code: true\n")
    task("tiny_absent", "absent.jsonl", CHOICE)
    (folder / "functions.py").write_text(FUNCTIONS)
    (folder / "group.yaml").write_text(
        "group: tiny\ntask: [tiny_small, tiny_large]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    return folder


@pytest.fixture
def run(shelf: Path, tasks: Path, tmp_path: Path) -> Callable[..., int]:
    """The command on the first model, its output in `out` where nothing else is given."""

    def command(names: str, *more: str | Path, model: str = "one", output: str = "out") -> int:
        argv = ["--model", shelf / model, "--tasks", names, "--output", tmp_path / output]
        return main([str(word) for word in (*argv, "--include-path", tasks, *more)])

    return command


def items(folder: Path, task: str) -> list[dict]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in the items")

    lines = (folder / "items" / f"{task}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def accuracy(rows: list[dict], metric: str = "acc") -> tuple[float, float]:
    """Mean and standard error of right and wrong, by the formula for a share."""
    values = [row["metrics"][metric] for row in rows]
    p, n = sum(values) / len(values), len(values)
    return p, math.sqrt(p * (1 - p) / (n - 1))
