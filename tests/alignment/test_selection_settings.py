"""What is refused where a checkpoint is to be chosen: settings that cannot work or contradict."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import recipe
from trl import SFTConfig

from empo.alignment.selection_settings import choose_best
from empo.alignment.settings import SftSettings
from empo.records import UserError


def refusal(name: str, *words: str) -> str:
    given = ["--dialogues", "nowhere", "--model", "nowhere", "--output_dir", "nowhere"]
    given += ["--use_cpu", "true", "--bf16", "false", *words]
    with pytest.raises(UserError) as error:
        recipe(name)(given)
    return str(error.value)


def test_all_that_is_wrong_with_the_settings_is_said_at_once() -> None:
    said = refusal(
        "sft",
        *("--select_metrics", "diff_epitome", "iva", "bleu", "--select_sample", "0"),
        *("--select_by", "reward_accuracy", "--valid", "ed/test.csv"),
    )
    for text in (
        "select_metrics: bleu is unknown; known: diff_epitome, bertscore, nidf, iva, length, trie.",
        "select_sample: 0 is no sample",
        "select_rater: diff_epitome needs raters of the three EPITOME mechanisms",
        "select_lexicons: iva needs the NRC lexicons",
        "valid: ed/test.csv is a test split by its name.",
        "select_by: only DPO has a reward_accuracy",
    ):
        assert f"  - {text}" in said
    assert "6 problems" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--select_by", "bleu"], "select_by: 'bleu' is unknown; known: loss, reward_accuracy,"),
        (["--select_rater", "x"], "select_rater: only diff_epitome uses it"),
        (
            ["--select_by", "diff_epitome", "--select_rater", "no/where"],
            "select_rater: no/where: no such folder.",
        ),
        (["--select_by", "loss"], "select_by: every evaluation needs its checkpoint; set eval_st"),
        (
            ["--select_by", "loss", "--eval_strategy", "epoch", "--save_strategy", "steps"],
            "select_by: every evaluation needs its checkpoint",
        ),
        (
            [
                *("--select_by", "loss", "--eval_strategy", "steps", "--save_strategy", "steps"),
                *("--eval_steps", "10", "--save_steps", "20"),
            ],
            "select_by: every evaluation needs its checkpoint; set eval_strategy and save_strategy "
            "both to `epoch`, or both to `steps` with equal eval_steps and save_steps.",
        ),
        (["--select_metrics", "length"], "eval_strategy: nothing is ever evaluated"),
        (
            ["--select_by", "reward_accuracy", "--metric_for_best_model", "loss"],
            "metric_for_best_model: eval_loss contradicts select_by: reward_accuracy.",
        ),
        (
            ["--select_by", "loss", "--load_best_model_at_end", "false"],
            "load_best_model_at_end: false contradicts select_by.",
        ),
        (
            ["--select_by", "bertscore", "--greater_is_better", "false"],
            "greater_is_better: false is wrong, more bertscore is better.",
        ),
        (
            ["--select_by", "nidf"],
            "select_by: neither more nor less nidf is better as such. Say which with "
            "greater_is_better, or choose by loss, reward_accuracy, diff_epitome, bertscore.",
        ),
        (
            ["--metric_for_best_model", "diff_epitome"],
            "metric_for_best_model: set `select_by: diff_epitome` instead",
        ),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(words: list[str], told: str) -> None:
    assert f"  - {told}" in refusal("dpo", *words)


def test_replies_under_fsdp_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that fell back to something else is refused before."""
    args = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, eval_strategy="epoch")
    settings = SftSettings(dialogues="-", model="-", select_metrics=["trie"])
    choose_best(settings, args, {})
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="no replies can be generated from weights that FSDP has"):
        choose_best(settings, args, {})
    choose_best(SftSettings(dialogues="-", model="-"), args, {})


def test_contradictions_are_said_at_once() -> None:
    words = ["--select_by", "nidf", "--metric_for_best_model", "eval_loss"]
    said = refusal("dpo", *words, "--load_best_model_at_end", "false")
    assert said.count("\n  - ") == 4
