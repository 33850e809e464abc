"""Scoring language models from scratch on toys that can be learnt: trained, saved, loaded, doubted."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from empo.corpora.labelled import Example
from empo.raters.calibrated import CalibratedRater
from empo.raters.collapse import collapse_of_rater
from empo.raters.explanations import write_explanations
from empo.raters.kinds import train_rater
from empo.raters.level_table import LevelTable
from empo.raters.loading import load_rater
from empo.raters.scoring_lm import Question
from empo.raters.scoring_prompts import PromptWriter
from empo.raters.scoring_training import Rows, train_scoring_lm
from empo.raters.settings import RaterSettings
from empo.raters.training_task import TrainingTask
from empo.rating import Dimension, RatingInput
from empo.records import UserError, read_json, write_json
from empo.runs import Run

WORDS = ("awful", "okay", "fine", "great")
LEVELS = (0.0, 0.5, 1.5, 4.0)
MOOD = Dimension("mood", 0.0, 5.0, "interval")
RUN = Run(Path("run"), {"command": "rater", "settings": {"loss": "answer"}})
SIMILAR = Dimension("event", 1.0, 4.0, "interval")
FAST: dict[str, Any] = {"use_cpu": True, "learning_rate": 1e-2, "num_train_epochs": 9}
FAST |= {"per_device_train_batch_size": 16, "lr_scheduler_type": "constant", "disable_tqdm": True}
FAST |= {"logging_strategy": "no", "save_total_limit": 1}
TEMPLATES = """
response:
  standard: "{context}{text} {label}?"
  contrastive: "{first}, {second} {label}?"
  role_play: "{scores}:"
stories:
  standard: "{first} {second} {label}?"
  explained: "{first} {second} {label}, why?"
"""


def toy(n: int, seed: int = 0) -> list[Example]:
    """A word decides the level."""
    rng = random.Random(seed)
    found = []
    for i in range(n):
        level = rng.randrange(4)
        text = " ".join(
            [*rng.choices(["the", "day", "was", "a"], k=rng.randrange(3)), WORDS[level]]
        )
        pair = RatingInput("my dog", text)
        found.append(Example(f"e{i}", f"g{i // 2}", pair, {"mood": LEVELS[level]}))
    return found


def as_stories(examples: Sequence[Example]) -> list[Example]:
    return [replace(e, labels={"event": 1.0 + LEVELS.index(e.labels["mood"])}) for e in examples]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("templates") / "own.yaml"
    path.write_text(TEMPLATES)
    return str(path)


def settings(templates: str, **changed: Any) -> RaterSettings:
    own: dict[str, Any] = {"data": "x", "architecture": "scoring_lm", "loss": "answer"}
    own |= {"encoder": "scratch", "hidden_size": 32, "layers": 2, "heads": 2, "vocab_size": 330}
    own |= {"max_length": 90, "lora_r": 0, "turns": 0, "templates": templates, "patience": 20}
    found = RaterSettings(**own | changed)
    assert found.problems() == []
    return found


def task(
    train: Sequence[Example],
    validation: Sequence[Example],
    own: RaterSettings,
    folder: Path,
    dimension: Dimension = MOOD,
    **args: Any,
) -> TrainingTask:
    return TrainingTask(
        train=train,
        validation=validation,
        dimensions=[dimension],
        settings=own,
        arguments=FAST | args,
        folder=folder,
        run=RUN,
        seed=1,
        name="toy",
    )


def trained(
    examples: Sequence[Example],
    own: RaterSettings,
    folder: Path,
    dimension: Dimension = MOOD,
    **args: Any,
) -> tuple[Any, float, dict[str, Any]]:
    cut = len(examples) * 5 // 6
    return train_scoring_lm(task(examples[:cut], examples[cut:], own, folder, dimension, **args))


@pytest.fixture(scope="module")
def learnt(
    templates: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CalibratedRater, dict[str, Any]]:
    """Learnt from 240 examples and 300 comparisons, one anchor per level around it."""
    own = settings(templates, families=["standard", "contrastive"], pair_quota=300, anchors=1)
    slow = {"learning_rate": 4e-3, "num_train_epochs": 12}  # faster it hangs on the last digits
    rater, score, facts = trained(toy(240), own, tmp_path_factory.mktemp("learnt"), **slow)
    assert score == -facts["validation_loss"]
    return rater, facts


HELD_OUT = toy(60, seed=1)
INPUTS = [example.input for example in HELD_OUT]
GOLD = np.array([example.labels["mood"] for example in HELD_OUT])


def test_it_learns_levels_and_gives_them_back_in_native_units(
    learnt: tuple[CalibratedRater, dict[str, Any]],
) -> None:
    rater, facts = learnt
    found = rater.base.score(INPUTS)
    assert (found.scores[:, 0] == GOLD).mean() > 0.9
    assert rater.dimensions == (replace(MOOD, levels=LEVELS),)
    assert facts["levels"] == {"mood": 4}
    assert facts["contrastive_pairs"]["mood"]["kept"] == 300
    assert facts["rows"]["standard rows"] == 200 and facts["rows"]["contrastive rows"] == 300
    blank = rater.base.score([RatingInput("my dog", " "), INPUTS[0]])
    assert np.isnan(blank.scores[0, 0]) and blank.scores[1, 0] == found.scores[0, 0]
    assert blank.n_valid.tolist() == [0, 1]


def test_scores_do_not_depend_on_the_batch(
    learnt: tuple[CalibratedRater, dict[str, Any]],
) -> None:
    whole = learnt[0].base.score(INPUTS, batch_size=64).scores
    np.testing.assert_array_equal(learnt[0].base.score(INPUTS, batch_size=7).scores, whole)


def test_comparisons_are_learnt_and_calibration_counts_its_answers(
    learnt: tuple[CalibratedRater, dict[str, Any]],
) -> None:
    rater, _ = learnt
    questions = [Question(a, b, 0) for a, b in itertools.pairwise(INPUTS)]
    answers = rater.base.compared(questions, batch_size=16)
    valid = [answer for answer in answers if answer is not None]
    assert len(valid) > 0.5 * len(answers)
    found = rater.score(INPUTS)
    assert rater.counts["asked"] == 4 * len(INPUTS)
    assert rater.counts["valid"] == found.n_valid.sum()
    assert np.corrcoef(found.scores[:, 0], GOLD)[0, 1] > 0.6


def test_a_saved_rater_gives_the_same_scores_and_warns(
    learnt: tuple[CalibratedRater, dict[str, Any]], tmp_path: Path
) -> None:
    rater, _ = learnt
    rater.save(tmp_path / "rater")
    loaded = load_rater(tmp_path / "rater", "cpu")
    expected, found = rater.score(INPUTS[:20]), loaded.score(INPUTS[:20])
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-12)
    assert found.signature == loaded.signature != rater.signature
    assert found.warnings[0] == (
        "Rater toy: nothing shows that it beats a constant and the length of the response on held-out "
        "groups. Its scores are no measure."
    )
    assert "(calibrated; mood;" in loaded.signature
    rater.base.save(tmp_path / "base")
    base = load_rater(tmp_path / "base", "cpu")
    np.testing.assert_array_equal(base.score(INPUTS).scores, rater.base.score(INPUTS).scores)
    changed = read_json(tmp_path / "base" / "templates.json")
    changed["texts"]["standard"] = "{label}"
    write_json(tmp_path / "base" / "templates.json", changed)
    assert load_rater(tmp_path / "base", "cpu").signature != base.signature


def test_a_damaged_folder_is_refused(
    learnt: tuple[CalibratedRater, dict[str, Any]], tmp_path: Path
) -> None:
    learnt[0].save(tmp_path)
    config = read_json(tmp_path / "rater_config.json")
    for path, value, message in (
        (("settings", "turns"), "1", "settings, turns: int is expected, not '1'"),
        (("settings", "cut_item"), 1, "settings, cut_item: bool is expected, not 1"),
        (("settings", "anchors"), {"per": 1}, "the anchors cannot be read"),
    ):
        damaged = {**config, path[0]: {**config[path[0]], path[1]: value}}
        write_json(tmp_path / "rater_config.json", damaged)
        with pytest.raises(UserError, match=message):
            load_rater(tmp_path, "cpu")
    level = [{**config["dimensions"][0], "levels": None}]
    write_json(tmp_path / "rater_config.json", {**config, "dimensions": level})
    with pytest.raises(UserError, match="dimensions, mood: its level table is missing"):
        load_rater(tmp_path, "cpu")


def test_only_the_answer_carries_a_loss(
    learnt: tuple[CalibratedRater, dict[str, Any]],
) -> None:
    writer: PromptWriter = learnt[0].base.prompts
    rows, table = Rows(writer), LevelTable("mood", LEVELS)
    rows.add("standard", writer.scored(INPUTS[0], table), "2")
    ((row),) = rows.rows
    tokenizer = writer.chat.tokenizer
    answer = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(answer) == "2</s>"
    assert row["input_ids"][-len(answer) :] == answer and len(answer) == 2
    assert tokenizer.decode(row["input_ids"]).startswith("<s><|user|>")
    assert row["input_ids"].count(tokenizer.bos_token_id) == 1


def test_a_row_without_room_is_counted_and_an_essay_is_cut_never_its_answer(
    learnt: tuple[CalibratedRater, dict[str, Any]],
) -> None:
    chat = learnt[0].base.prompts.chat
    table = LevelTable("mood", LEVELS)
    short = PromptWriter(chat, learnt[0].base.templates, 60, 0, cut_item=True)
    rows = Rows(short)
    long = RatingInput("", "the day was " * 40 + "great")
    rows.add("standard", short.scored(long, table), "3")
    rows.add("standard", short.scored(long, table), "the day was a " * 20)
    assert rows.counts["rows with a cut item"] == 1
    assert rows.counts["standard rows without room"] == 1
    ((row),) = rows.rows
    assert len(row["input_ids"]) <= 60
    assert "was great" in chat.tokenizer.decode(row["input_ids"])
    assert chat.tokenizer.decode([t for t in row["labels"] if t != -100]) == "3</s>"


def test_all_families_with_an_adapter_and_labels_that_miss(templates: str, tmp_path: Path) -> None:
    examples = toy(48)
    examples[0] = replace(examples[0], labels={})
    examples[1] = replace(examples[1], labels={**examples[1].labels, "self_disclosure": 2.0})
    examples[2] = replace(examples[2], labels={**examples[2].labels, "self_disclosure": 3.0})
    families = ["standard", "role_play", "contrastive"]
    own = settings(templates, families=families, lora_r=4, pair_quota=20)
    rater, _, facts = trained(examples, own, tmp_path / "run", num_train_epochs=1)
    assert facts["rows"]["no label: mood"] == 1 and facts["rows"]["standard rows"] == 39
    assert facts["rows"]["role_play rows"] == 40 and facts["rows"]["contrastive rows"] == 20
    rater.save(tmp_path / "rater")
    assert not list((tmp_path / "rater").glob("adapter*"))
    loaded = load_rater(tmp_path / "rater", "cpu")
    np.testing.assert_array_equal(loaded.score(INPUTS).scores, rater.score(INPUTS).scores)


def test_what_cannot_be_trained_is_refused(templates: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mood: the training part has 1 different labels"):
        same = [replace(example, labels={"mood": 1.0}) for example in toy(24)]
        trained(same, settings(templates), tmp_path)
    own = settings(templates, item="stories")
    with pytest.raises(UserError, match="item: stories does not fit the data"):
        train_rater(task(toy(9), toy(9), own, tmp_path))


# --- story pairs: the score alone, or an explanation first ---


@pytest.mark.slow
def test_the_collapse_diagnostic_fires_on_shuffled_labels_only(
    templates: str, tmp_path: Path
) -> None:
    pairs, new = as_stories(toy(180)), as_stories(HELD_OUT)
    own = settings(templates, item="stories")
    rater, _, facts = trained(pairs, own, tmp_path / "learnt", SIMILAR)
    assert facts["collapse"]["event"]["collapsed"] is False
    assert rater.tables[0].answers == ("1", "2", "3", "4")
    found = collapse_of_rater(rater, new)["event"]
    assert not found.collapsed and found.distance > 0.3
    labels = [pair.labels for pair in pairs]
    random.Random(5).shuffle(labels)
    shuffled = [replace(pair, labels=given) for pair, given in zip(pairs, labels, strict=True)]
    lost, _, _ = trained(shuffled, own, tmp_path / "shuffled", SIMILAR, num_train_epochs=4)
    found = collapse_of_rater(lost, new)["event"]
    assert found.collapsed, found.summary()


def explained_by(path: Path, pairs: Sequence[Example], templates: str) -> RaterSettings:
    """Settings with explanations of a word, which is one of the first story."""

    def chat(conversations: Sequence[Sequence[dict[str, str]]]) -> list[str]:
        asked = [messages[0]["content"] for messages in conversations]
        return [next(word for word in WORDS if word in text) for text in asked]

    write_explanations(pairs, {"event": (1.0, 4.0)}, chat, {"name": "toy"}, path)
    more = {"families": ["explained"], "explanations": str(path), "max_explanation": 16}
    return settings(templates, item="stories", **more)


def test_the_epoch_is_chosen_by_the_score_and_not_by_the_explanation(
    templates: str, tmp_path: Path
) -> None:
    pairs = as_stories(toy(24))
    own = explained_by(tmp_path / "explanations.jsonl", pairs, templates)
    rater, _, facts = trained(pairs, own, tmp_path / "run", SIMILAR, num_train_epochs=1)
    (table,), tokenizer = rater.tables, rater.tokenizer
    losses = []
    for pair in pairs[20:]:
        word = next(word for word in WORDS if word in pair.input.response)
        score = table.answers[table.nearest(pair.labels["event"])]
        prompt = rater.prompts.scored(pair.input, table, "explained").text
        before = tokenizer(f"{prompt}{word}\nScore:").input_ids
        after = tokenizer(f" {score}", add_special_tokens=False).input_ids
        assert tokenizer(f"{prompt}{word}\nScore: {score}").input_ids == [*before, *after]
        spoken = [*after[-1:], tokenizer.eos_token_id]  # a space before it is a token of its own
        ids = torch.tensor([[*before, *after, tokenizer.eos_token_id]])
        with torch.inference_mode():
            likely = rater.model(ids).logits[0].float().log_softmax(-1)
        losses += [-likely[k - 1, ids[0, k]].item() for k in range(-len(spoken), 0)]
    assert facts["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.slow
def test_an_explanation_comes_first_and_its_last_line_is_the_score(
    templates: str, tmp_path: Path
) -> None:
    pairs = as_stories(toy(180))
    own = explained_by(tmp_path / "explanations.jsonl", pairs, templates)
    more = {"num_train_epochs": 12, "per_device_train_batch_size": 8}
    rater, _, facts = trained(pairs, own, tmp_path / "run", SIMILAR, **more)
    assert facts["rows"] == {"explained rows": 150, "explanations cut": 0} | {
        name: facts["rows"][name] for name in ("rows with cut context", "rows with a cut item")
    }
    new = as_stories(HELD_OUT)
    found = rater.score([pair.input for pair in new])
    known = np.isfinite(found.scores[:, 0])
    assert (found.parse_failed == ~known).all() and known.mean() > 0.8
    gold = np.array([pair.labels["event"] for pair in new])
    assert (found.scores[known, 0] == gold[known]).mean() > 0.5  # chance: 0.25
    with pytest.raises(UserError, match=r"there is no explanation of event for 'x'\. Run recipes"):
        trained([*pairs, replace(pairs[0], id="x")], own, tmp_path / "other", SIMILAR)
