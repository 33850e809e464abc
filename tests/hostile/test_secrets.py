"""Secrets: in no file that is written, and on no screen."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from tiny_runs import ROOT, cut_corpus, recipe

from empo.redaction import redacted

SECRETS = {
    "HF_TOKEN": "hf_" + "Ab1" * 11,
    "WANDB_API_KEY": "0123456789abcdef" * 2,
    "OPENAI_API_KEY": "sk-" + "proj" * 8,
    "MY_PASSWORD": "correct horse battery",
}


def test_no_secret_of_the_environment_is_written_or_shown(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    corpus = cut_corpus(tmp_path / "corpus", {"train": 2, "valid": 2, "test": 2})
    out = tmp_path / "out"
    trained = ["--config", ROOT / "recipes/tiny/sft.yaml", "--dialogues", corpus]
    trained += ["--model", folder / "base", "--output_dir", out / "sft", "--max_steps", 2]
    trained += ["--full_training", "false", "--lora_r", 4, "--max_length", 128]
    assert recipe("sft")(list(map(str, trained))) == 0
    replied = ["--model", out / "sft", "--dialogues", corpus, "--system", "sft"]
    replied += ["--output", out / "sft.jsonl", "--max_new_tokens", 4, "--max_prompt_tokens", 120]
    assert recipe("generate")(list(map(str, replied))) == 0
    spec = importlib.util.spec_from_file_location("eval_responses", ROOT / "eval/responses.py")
    assert spec is not None and spec.loader is not None
    measure = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, measure)
    spec.loader.exec_module(measure)
    measured = ["--responses", out / "sft.jsonl", "--output", out / "eval"]
    measure.main(list(map(str, [*measured, "--metrics", "length,distinct_n"])))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"run.json", "sft.jsonl", "sft.jsonl.manifest.json", "results.json"} <= names
    shown = capfd.readouterr()
    for name, value in SECRETS.items():
        assert [path for path in files if value.encode() in path.read_bytes()] == [], name
        assert value not in shown.out + shown.err, name


def test_what_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
        assert redacted(f"said {value}!") == "said <hidden>!"
    assert redacted("git clone https://anna:geheim@host/x") == "git clone https://<hidden>@host/x"
    assert redacted("https://hf_token@host") == "https://<hidden>@host"
    monkeypatch.delenv("HF_TOKEN")
    assert redacted(f"--hub_token {SECRETS['HF_TOKEN']}") == "--hub_token <hidden>"


@pytest.mark.parametrize(
    "text",
    [
        "anna@example.org wrote",
        "https://example.org/a@b",
        "hf_hub_download",
        "runs/dpo/checkpoint-16 is passed over",
    ],
)
def test_what_is_no_secret(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("SOME_API_KEY", "")
    assert redacted(text) == text


def test_a_short_value_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_TOKENS", "60")
    assert redacted("60 tokens") == "60 tokens"
