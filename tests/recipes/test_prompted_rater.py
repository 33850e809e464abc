"""Prompted raters by the commands of every rater, on a server that judges by the first story."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import ROOT, environment, recipe

from empo.rate import rate_command
from empo.raters.endpoint_trust import trust, trust_file
from empo.raters.folder import RaterConfig
from empo.raters.loading import load_rater
from empo.records import UserError, read_json, read_jsonl

sys.path.insert(0, str(ROOT / "tests" / "raters"))
from openai_server import KEY, Server
from tiny_language_models import untrained, write_tokenizer

ASPECTS = ("event", "emotion", "moral", "empathy")
PAIRS = 60
GOLDEN_QUESTIONS = 3 * 2 * 2
"""About the three inputs on the card, in both orders and dimensions, after the training."""


def story(number: int, length: int) -> str:
    return f"Tale {number}: " + " ".join(["walk"] * length)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose label in all aspects is half the words of the first story."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    columns = ["story_A", "story_B", *(f"similarity_{a}_human_AGG" for a in ASPECTS)]
    lengths = [2 + i % 7 for i in range(PAIRS)]
    rows = [
        [story(2 * i, n), story(2 * i + 1, 2 + (3 * i) % 7), *[n / 2] * 4]
        for i, n in enumerate(lengths)
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def judge(messages: list[dict[str, str]]) -> str:
    """Half the words of the tale that comes first, whatever the second is."""
    first = re.search(r"Tale \d+:((?: walk)*)", messages[-1]["content"])
    return "1.0" if first is None else str(first[1].count("walk") / 2)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(judge) as server:
        yield server


def words(pairs: Path, server: Server, output: Path, *more: str) -> list[str]:
    given = ["--config", str(ROOT / "recipes/raters/stories_prompted.yaml"), "--data", str(pairs)]
    given += ["--text", "story", "--base_url", server.base_url, "--requests_per_minute", "null"]
    given += ["--variants", "plain", "range", "--dimensions", "empathy", "event"]
    return [*given, "--output_dir", str(output), *more]


@pytest.fixture(scope="module")
def rated(pairs: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    output = tmp_path_factory.mktemp("run") / "judge"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.setenv("XDG_CACHE_HOME", str(output.parent / "cache"))
        prices = ["--input_price", "1", "--output_price", "10"]
        assert recipe("rater")(words(pairs, server, output, *prices)) == 0
        yield output


def test_the_recipe_writes_a_rater_with_orders_wordings_and_evidence(
    rated: Path, server: Server
) -> None:
    config = RaterConfig.read(rated)
    assert (config.kind, config.settings["item"]) == ("prompt", "stories")
    results = read_json(rated / "results.json")
    (training,) = results["trainings"]
    assert set(training["variants"]) == {"plain", "range"}
    assert training["variant"] in training["variants"] and training["development"] == 5
    usage, asked = training["usage"], server.total - GOLDEN_QUESTIONS
    assert (usage["asked"], usage["kept"], usage["input_tokens"]) == (asked, 0, 100 * asked)
    assert usage["cost"] == pytest.approx((100 * 1 + 2 * 10) * asked / 1e6)
    assert training["served"] == ["served-model"]
    held_out = results["split"]["sizes"][0]["test"]
    orders = training["orders"]["empathy"]
    assert orders["n"] == held_out and orders["share_that_differ"] > 0.5
    assert orders["standard"]["mse"]["value"] == 0, "it is right about the first story"
    assert orders["standard"]["pearson"]["value"] == pytest.approx(1)
    assert orders["reverse"]["mse"]["value"] > orders["mean"]["mse"]["value"] > 0
    measured = results["evaluation"]["dimensions"]["empathy"]["predictors"]["rater"]
    assert measured["mse"]["value"] == pytest.approx(orders["mean"]["mse"]["value"])
    assert set(config.evidence["dimensions"]["event"]) >= {"constant", "length"}
    assert results["encoder"]["name"] == "gpt-4o-mini"
    assert results["encoder"]["identity"].startswith("endpoint http://127.0.0.1")
    assert results["settings"]["shots"] == "zero" and "dropout" in results["settings"]
    assert "gpt-4o-mini" in results["signature"] and "rater" in (rated / "rater.md").read_text()
    assert "endpoint http" in (rated / "README.md").read_text()
    files = [path for path in rated.parent.rglob("*") if path.is_file()]
    assert any(path.name == "answers.sqlite" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_the_same_command_asks_nothing_again_even_in_another_folder(
    rated: Path, pairs: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(rated.parent / "cache"))
    before = server.total
    # 5 pairs in 2 wordings, 12 held out, 3 golden ones; all in 2 orders and 2 dimensions
    assert before == (5 * 2 + 12) * 4 + GOLDEN_QUESTIONS and set(server.sent.values()) == {1}
    prices = ["--input_price", "1", "--output_price", "10"]
    assert recipe("rater")(words(pairs, server, tmp_path / "judge", *prices)) == 0
    assert server.total == before
    usage = read_json(tmp_path / "judge/results.json")["trainings"][0]["usage"]
    assert (usage["asked"], usage["kept"]) == (0, before - GOLDEN_QUESTIONS)
    kept_cost = (100 * 1 + 2 * 10) * usage["kept"] / 1e6
    assert (usage["cost"], usage["kept_cost"]) == (0, pytest.approx(kept_cost))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY with the key of http"):
        recipe("rater")(words(pairs, server, tmp_path / "other", "--encoder", "another"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "the environment variable OPENAI_API_KEY with the key of http.* is not set"),
        (["--prompts", "no.yaml"], "no.yaml: no such file"),
        (["--variants", "plain", "plane"], "variants: no kind of item has plain and plane. There"),
    ],
)
def test_what_cannot_be_asked_is_told_before_data_are_read(
    given: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    config = str(ROOT / "recipes/raters/stories_prompted.yaml")
    missing = ["--config", config, "--data", "nowhere.csv", "--output_dir", str(tmp_path / "o")]
    with pytest.raises(UserError, match=expected):
        recipe("rater")([*missing, *given])
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    if not given:
        with pytest.raises(UserError, match="nowhere.csv: no such file"):
            recipe("rater")(missing)


def test_a_complete_run_needs_no_key(
    rated: Path, pairs: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(rated.parent / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY")
    before = server.total
    prices = ["--input_price", "1", "--output_price", "10"]
    assert recipe("rater")(words(pairs, server, rated, *prices)) == 0
    assert server.total == before


def test_the_other_commands_use_it_and_repeat_its_doubts(
    rated: Path, pairs: Path, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("eval_raters", ROOT / "eval" / "raters.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    trust(server.base_url, "OPENAI_API_KEY")
    output = tmp_path / "measured"
    given = ["--rater", str(rated), "--input", str(pairs), "--limit", "12"]
    assert module.main([*given, "--output", str(output)]) == 0
    entry = read_json(output / "rater.json")["raters"]["judge"]
    assert entry["parse_failed"] == 0
    assert any("was trained on a part of this input" in line for line in entry["warnings"])
    lines = [{"context": story(1, 3), "response": story(2, 8)}, {"context": "a", "response": " "}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scored = tmp_path / "out.jsonl"
    given = ["--rater", str(rated), "--input", str(tmp_path / "in.jsonl"), "--output", str(scored)]
    assert rate_command([*given, "--cache", str(tmp_path / "c")]) == 0
    rows = [row for _, row in read_jsonl(scored)]
    assert rows[0]["scores"] == {"empathy": 2.75, "event": 2.75}, "the mean of 1.5 and 4"
    assert rows[0]["n_valid"] == 4 and rows[1]["scores"] == {"empathy": None, "event": None}
    assert (
        "it is not shown to beat the baselines in: empathy (against length)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_a_stopped_command_goes_on_with_what_is_missing(
    number: int, rated: Path, tmp_path: Path
) -> None:
    """Everything that was answered is asked for once; of a kill at most what was under way twice."""
    lines = [{"context": story(i, 2), "response": story(500 + i, 4)} for i in range(40)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    started: list[subprocess.Popen[str]] = []

    def stops(messages: list[dict[str, str]]) -> Any:
        with server.lock:
            due = len(server.sent) == 20 and started and started[0].poll() is None
        if due:
            started[0].send_signal(number)
        return judge(messages)

    with Server(stops) as server:
        folder = copied(rated, tmp_path / "judge", server.base_url)
        trust(server.base_url, "OPENAI_API_KEY")
        cli = "from empo.cli import main; main()"
        command = [sys.executable, "-c", cli, "rate", "--rater", str(folder)]
        command += ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
        command += ["--cache", str(tmp_path / "ratings.sqlite")]
        started.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
            )
        )
        _, said = started[0].communicate(timeout=120)
        assert not (tmp_path / "out.jsonl").exists()
        if number == signal.SIGTERM:
            assert started[0].returncode == 143, said
            assert "stopped by SIGTERM. Answers that came are kept in" in said
        else:
            assert started[0].returncode == -signal.SIGKILL
        answered = server.total
        assert 20 <= answered < 160
        assert rate_command(command[4:]) == 0
        assert len(server.sent) == 160, "40 pairs, 2 orders, 2 dimensions"
        twice = sum(server.sent.values()) - 160
        assert twice == 0 or (number == signal.SIGKILL and twice <= 2)
    rows = [row for _, row in read_jsonl(tmp_path / "out.jsonl")]
    assert [row["scores"]["empathy"] for row in rows] == [1.5] * 40


def test_a_folder_cannot_choose_where_texts_and_a_key_go(rated: Path, tmp_path: Path) -> None:
    with Server(judge) as server:
        folder = copied(rated, tmp_path / "judge", server.base_url)
        told = rf"{server.base_url}, with the key in OPENAI_API_KEY, and you have not named this"
        with pytest.raises(UserError, match=told):
            load_rater(folder)
        trust("https://elsewhere/v1", "OTHER_KEY")
        trust(server.base_url, None)
        with pytest.raises(UserError) as told:
            load_rater(folder)
        entries = {"https://elsewhere/v1": ["OTHER_KEY"]}
        entries[server.base_url] = [None, "OPENAI_API_KEY"]
        assert f"{trust_file()} hold {json.dumps(entries)}, which keeps" in str(told.value)
        trust(server.base_url, "OPENAI_API_KEY")
        assert read_json(trust_file()) == entries
        load_rater(folder)
        access = read_json(folder / "model_access.json")
        for key, value, expected in [
            ("key_variable", "HF_TOKEN", "with the key in HF_TOKEN, and you have not"),
            ("concurrency", 0, "model_access.json: a field is missing or unknown"),
            ("timeout", "soon", "model_access.json: a field is missing or unknown"),
        ]:
            (folder / "model_access.json").write_text(json.dumps(access | {key: value}))
            with pytest.raises(UserError, match=expected):
                load_rater(folder)
        trust_file().write_text('{"http://a": "KEY"}')
        with pytest.raises(UserError, match="endpoints.json, field 'http://a': .* Delete it, or"):
            load_rater(copied(rated, tmp_path / "again", server.base_url))
        assert server.total == 0


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("request", {"extra_headers": {}}, "model_access.json: request: extra_headers is refused"),
        ("request", {"temperatur": 0}, "no field of a chat completion; did you mean temperature"),
        ("base_url", "https://host/v1?key=x", "model_access.json: base_url: it holds a query"),
        ("base_url", "http://host/v1", "model_access.json: base_url: over http anybody"),
    ],
)
def test_a_folder_cannot_change_how_an_endpoint_is_reached(
    field: str, value: Any, expected: str, rated: Path, server: Server, tmp_path: Path
) -> None:
    trust(server.base_url, "OPENAI_API_KEY")
    folder = copied(rated, tmp_path / "judge", server.base_url)
    prompts = read_json(folder / "prompts.json")
    prompts["model"][field] = value
    (folder / "prompts.json").write_text(json.dumps(prompts))
    with pytest.raises(UserError, match=expected):
        load_rater(folder)


def copied(rater: Path, folder: Path, base_url: str) -> Path:
    """The rater at another address, two questions at a time."""
    folder.mkdir()
    config = read_json(rater / "rater_config.json")
    config["settings"]["model"]["base_url"] = base_url
    prompts = read_json(rater / "prompts.json")
    prompts["model"]["base_url"] = base_url
    access = read_json(rater / "model_access.json") | {"concurrency": 2}
    files = {"rater_config": config, "prompts": prompts, "model_access": access}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_tiny_model_here_rates_responses_by_the_shipped_settings(tmp_path: Path) -> None:
    """With short wordings of one's own and few tokens, so that it is quick."""
    tokenizer = write_tokenizer()
    for part in (untrained(tokenizer), tokenizer):
        part.save_pretrained(tmp_path / "base")
    judged = tmp_path / "judged.jsonl"
    rows = [
        {
            "id": f"r{i}",
            "context": "I lost my job.",
            "response": f"that is {'hard' if i % 2 else 'good'} {i}",
            "labels": {"warmth": i % 2},
        }
        for i in range(40)
    ]
    judged.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = tmp_path / "own.yaml"
    own.write_text(
        "response:\n  plain: {system: '{definition}', user: '{context} {response} {options}'}\n"
        "dimensions:\n  warmth: {task: t, definition: is it hard, answers: {0: 'no', 1: 'hard'}}\n"
    )
    output = tmp_path / "run" / "tiny"
    given = ["--config", str(ROOT / "recipes/raters/epitome_prompted_cpu.yaml")]
    given += ["--schema", "examples", "--data", str(judged), "--prompts", str(own)]
    given += ["--encoder", str(tmp_path / "base"), "--max_length", "200", "--variants", "plain"]
    given += ["--shots", "few", "--seeds", "1", "2", "--threads", "1", "--output_dir", str(output)]
    assert recipe("rater")(given) == 0
    results = read_json(output / "results.json")
    assert len(results["trainings"]) == 2 and "orders" not in results["trainings"][0]
    assert sorted(results["trainings"][0]["shots"]["warmth"]) == ["hard", "no"]
    predictors = results["evaluation"]["dimensions"]["warmth"]["predictors"]
    assert {"rater", "constant", "length"} <= predictors.keys()
    assert 0 <= predictors["rater"]["macro_f1"]["value"] <= 1
    assert results["dimensions"][0]["levels"] == [0, 1]
    assert results["golden"][0]["probabilities"]["warmth"] is not None
    assert any("it is not shown to beat the baselines" in w for w in results["warnings"])
