"""Readers around language models that rate: judged corpora, instructions, templates, folders, replies."""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from inputs import Sample
from light_readers import Reader, on
from model_readers import RATER, files_of_model

from empo.corpora import articles, wassa
from empo.corpora.examples import load_labelled
from empo.corpora.labelled import Example
from empo.dialogues import Turn
from empo.raters import (
    explanations,
    instructions,
    prompt_templates,
    scoring_templates,
    seq2seq_rater,
    synthetic_pairs,
)
from empo.raters.calibrated import CalibratedRater
from empo.raters.prompt_rater import PromptRater
from empo.raters.scoring_lm import Question, ScoringLM
from empo.rating import Dimension, RatingInput
from empo.small_models import small_seq2seq, train_tokenizer

PERCEIVED = wassa.DIALOGUES["perceived_empathy"][0]
TURN_ROWS = [
    ["article_id", "conversation_id", "turn_id", "speaker", "text", "person_id_1", "person_id_2",
     "Emotion", "EmotionalPolarity", "Empathy", "SelfDisclosure"],
    ["7", "1", "0", "Person 1", "It rained.", "p1", "p2", "1", "2", "3", "1.5"],
    ["7", "1", "1", "Person 2", "All day?", "p1", "p2", "0.5", "1", "2", "NULL"],
    ["7", "1", "2", "Person 1", "All week.", "p1", "p2", "9", "1", "2", "3"],
    ["8", "2", "0", "Person 2", "A dry year.", "p3", "p4", "2.5", "0", "4.6667", "1"],
]  # fmt: skip
DIALOGUE_ROWS = [
    ["conversation_id", "article_id", "person_id_1", PERCEIVED],
    ["1", "7", "p2", "6"],
    ["1", "7", "p1", "3"],
    ["3", "7", "p1", "unknown"],
]
ESSAY_ROWS = [
    ["conversation_id", "article_id", "person_id", "person_essay", "person_empathy", "person_distress"],
    ["1", "7", "p1", "All was wet.", "2", "3.5"],
    ["1", "7", "p2", "So much rain.", "6.8333", "1"],
    ["2", "8", "p1", "All was wet.", "1", "unknown"],
]  # fmt: skip
ARTICLE_ROWS = [
    ["article_id", "text", "title", "object"],
    ["7", "It rained.", "Rain", "people"],
    ["8", "It was dry.", "", ""],
]
ARTICLES = Sample("csv", ARTICLE_ROWS)

WARMTH = Dimension("warmth", 1.0, 3.0, "ordinal", (1.0, 2.0, 3.0))
INSTRUCTED = {
    "template": "{task} ({domain}) {options}", "domain": "A chat.", "task": "How warm is it?",
    "options": {1: "cold", 2.0: "mild", 3: "warm"},
    "dimensions": {"warmth": {"definition": "Warmth is care."}, "asks": {"options": {0: "No"}}},
}  # fmt: skip
ASKED = {
    "response": {"standard": "{context}How {label} is {text}, {lowest} to {highest}?",
                 "contrastive": "{first} or {second}: {label}?"},
    "stories": {"explained": "{first}, {second}: {label}"},
}  # fmt: skip
PAIR = RatingInput((Turn("user", "It rained."), Turn("assistant", "All day?")), "All week.")
TEXTS = Sample("json", {"chat": "{{ messages[0]['content'] }}", "texts": ASKED["response"]})
SCORING = {"item": "response", "turns": 2, "max_length": 300, "explanation_tokens": 0}
SCORING |= {"as_values": False, "dtype": "float32"}
DRAWN = {"per_level": 1, "weights": "uniform", "order": "random", "seed": 0}
POOL = [
    {"id": f"e{i}", "group": f"g{i}", "context": [["user", "Hi."]], "response": f"Hm {i}.",
     "labels": {"warmth": float(i)}} for i in (0, 1, 2)
]  # fmt: skip
MODEL = files_of_model(
    "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"
)
INPUTS = {"max_length": 60, "response_max_length": None, "lowercase": False, "turns": 1,
          "following": 0, "context_side": "left"}  # fmt: skip
QUESTION = {"task": "How warm is it?", "definition": "", "domain": "", "options": ["no", "bit", "so"],
            "template": "{task} {options}"}  # fmt: skip
NAMED = Example("p1", "g", RatingInput("A story.", "A tale."), {"event": 2.5, "moral": 1})
EXPLAINED = [
    {"id": "p1", "label": label, "gold": gold, "explanation": "Both are short.",
     "model": {"name": "tiny"}, "prompt": explanations.PROMPT_DIGEST, "created": "2026-01-01",
     "messages": explanations.messages_digest(NAMED, label, 1.0, 4.0)}
    for label, gold in (("event", 2.5), ("moral", 1))
]  # fmt: skip
WRITTEN = [
    {"story_A": f"My dog ran away {i}.", "story_B": "I lost my cat.", "score": 3.5, "theme_A": "loss",
     "theme_B": "loss", "reason": "Both lost an animal."} for i in range(3)
]  # fmt: skip


def _rater(kind: str, **settings: Any) -> Sample:
    return Sample("json", {**RATER, "kind": kind, "settings": settings, "evidence": None})


def _corpus(name: str, schema: str, **files: str) -> Callable[[Path], object]:
    """A corpus of the shared task, as the one who trains on it reads it, with both ways of a gap."""

    def read(folder: Path) -> object:
        given: dict[str, Any] = {key: folder / of for key, of in files.items()}
        kept = load_labelled(folder / name, schema, incomplete="keep", **given)
        return kept.summary(), load_labelled(folder / name, schema, **given).facts()

    return read


def _templates(folder: Path) -> object:
    found = [scoring_templates.load_templates(item, folder / "a.yaml") for item in ASKED]
    said = dict.fromkeys(("context", "text", "first", "second", "label", "lowest", "highest"), "x")
    return [
        text.format(**said)
        for of in found
        for name, text in of.texts.items()
        if name != "role_play"
    ]


def _scoring(folder: Path) -> object:
    return _prompts(ScoringLM.load(folder, "cpu"))


def _calibrated(folder: Path) -> object:
    rater = CalibratedRater.load(folder, "cpu")
    asked = []
    for d in range(len(rater.dimensions)):
        drawn = rater._drawn(PAIR, d, {"g0"})
        asked += [Question(PAIR, anchor.input, d) for _, anchor, _ in drawn]
        assert all(rater._weight(d, level) > 0 for level, _, _ in drawn)
    return _prompts(rater.base, asked)  # type: ignore[arg-type]


def _prompts(rater: ScoringLM, asked: Sequence[Question] = ()) -> object:
    """What the rater would ask; an answer costs a run of the model, and no file has a part in it."""
    family: Any = "explained" if rater.config.settings["explanation_tokens"] else "standard"
    scored = [rater.prompts.scored(PAIR, table, family) for table in rater.tables]
    pairs = [rater.prompts.contrasted(q.first, q.second, rater.tables[q.dimension]) for q in asked]
    return scored, pairs, rater.signature, rater.warnings


@cache
def _seq2seq_model() -> Path:
    """A folder with a tiny encoder-decoder and its tokenizer."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = train_tokenizer(["How warm is it? speaker: listener: no bit so"] * 3, 300)
    small_seq2seq(tokenizer, 8, 1, 2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _seq2seq(folder: Path) -> object:
    for file in _seq2seq_model().iterdir():
        (folder / file.name).symlink_to(file)
    rater = seq2seq_rater.Seq2SeqRater.load(folder, "cpu")
    return [reader.rows([PAIR]) for reader in rater.questions.readers], rater.signature


def _explained(folder: Path) -> object:
    labels, path = {"event": (1.0, 4.0), "moral": (1.0, 4.0)}, folder / "a.jsonl"
    model = EXPLAINED[0]["model"]

    def chat(asked: Sequence[Any]) -> list[str]:
        return ["Both are short."] * len(asked)

    counts = explanations.write_explanations([NAMED], labels, chat, model, path)
    assert counts["there"] + counts["written"] == 2
    return explanations.read_explanations(path)


def _reply(folder: Path) -> object:
    text = (folder / "reply.json").read_bytes().decode("utf-8", "replace")
    found, rejected = synthetic_pairs.parse_pairs(text, (3, 6))
    json.dumps([dataclasses.asdict(pair) for pair in found], allow_nan=False).encode()
    assert all(len(reason) < 300 and reason.encode() for _, reason in rejected)
    return found


AT = "http://127.0.0.1:9/v1"
PROMPTED = {
    "schema": "empo.prompts/1",
    "wording": {"system": "{task} {definition}", "user": "{context} {response} {options}"},
    "asked": [{"dimension": "warmth", "task": "How warm?", "definition": "Care.",
               "answers": [[0.0, "no"], [1.0, "bit"], [2.0, "so"]]}],
    "shots": {"warmth": [{"context": [["user", "Hi."]], "response": "Hm.", "answer": "no"}]},
    "model": {"kind": "endpoint", "name": "m", "base_url": AT, "request": {"temperature": 0}},
}  # fmt: skip
REACHED = {"key_variable": None, "concurrency": 2, "requests_per_minute": None, "timeout": 1.0,
           "retries": 0, "input_price": None, "output_price": None}  # fmt: skip
WORDED = {
    "response": {"mine": {"system": "{task}", "user": "{response} {options}"}},
    "dimensions": {"warmth": {"task": "t", "definition": "d", "answers": {0: "no", 1: "bit", 2: "so"}}},
}  # fmt: skip


def _prompted(folder: Path) -> object:
    """As a user for whom the endpoints are trusted that a file in the folder names."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        rater = PromptRater.load(folder)
        return rater.signature, rater.writer.question(PAIR, rater.asking.asked[0])
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


READERS = [
    Reader(
        "rater: prompts of one's own", {"a.yaml": Sample("yaml", WORDED)},
        lambda folder: prompt_templates.load_prompts("response", folder / "a.yaml").wordings,
        ("raters.prompt_templates.load_prompts",),
    ),
    Reader(
        "rater: a prompted model behind an endpoint",
        {"prompts.json": Sample("json", PROMPTED), "model_access.json": Sample("json", REACHED),
         "rater_config.json": _rater("prompt", item="response", turns=2, max_length=300, variant="mine"),
         "empo/endpoints.json": Sample("json", {AT: [None, "KEY"]})},
        _prompted,
        ("raters.prompt_rater.PromptRater.load", "raters.asking.Asking.read", "raters.endpoint_trust._known"),
    ),
    Reader(
        "judged: turns with an article", {"a.csv": Sample("csv", TURN_ROWS), "articles.csv": ARTICLES},
        _corpus("a.csv", "wassa_turns", articles="articles.csv"),
        ("corpora.wassa.read_wassa_turns", "corpora.wassa._dialogue_rows", "corpora.articles.read_articles"),
    ),
    Reader(
        "judged: dialogues with an article",
        {"trac1_CONVD_a.csv": Sample("csv", DIALOGUE_ROWS), "trac2_CONVT_a.csv": Sample("csv", TURN_ROWS),
         "articles.csv": ARTICLES},
        _corpus("trac1_CONVD_a.csv", "wassa_dialogues", articles="articles.csv"),
        ("corpora.wassa.read_wassa_dialogues", "corpora.wassa._dialogue_rows", "corpora.articles.read_articles"),
        found="a person who judges a dialogue twice was two examples with one id",
    ),
    Reader(
        "judged: essays with an article", {"a.csv": Sample("csv", ESSAY_ROWS), "articles.csv": ARTICLES},
        _corpus("a.csv", "wassa_essays", articles="articles.csv"),
        ("corpora.wassa.read_wassa_essays", "corpora.articles.read_articles"),
        found="two essays of one person in one conversation were two examples with one id",
    ),
    Reader("judged: articles", {"a.csv": ARTICLES}, on("a.csv", articles.read_articles), ("corpora.articles.read_articles",)),
    Reader(
        "rater: instructions", {"a.yaml": Sample("yaml", INSTRUCTED)},
        lambda folder: instructions.load_instructions([WARMTH], folder / "a.yaml")["warmth"].text,
        ("raters.instructions.load_instructions",), found="placeholders and answers were told in full",
    ),
    Reader("rater: templates of one's own", {"a.yaml": Sample("yaml", ASKED)}, _templates, ("raters.scoring_templates.load_templates",), found="placeholders, families and values were told in full"),
    Reader(
        "rater: a scoring language model",
        {"rater_config.json": _rater("scoring_lm", **SCORING), "templates.json": TEXTS, **MODEL},
        _scoring, ("raters.scoring_lm._saved_templates", "raters.scoring_lm.ScoringLM.load"),
        found="a chat template was used untried; templates that cannot be filled, other types, missing keys",
    ),
    Reader(
        "rater: with anchors",
        {"anchors.json": Sample("json", POOL), "rater_config.json": _rater("calibrated", **SCORING, anchors=DRAWN),
         "templates.json": TEXTS, **MODEL},
        _calibrated, ("raters.calibrated._pool", "raters.calibrated.CalibratedRater.load", "raters.scoring_lm._saved_templates"),
        found="no list, other types, no template that compares",
    ),
    Reader(
        "rater: an encoder-decoder",
        {"instructions.json": Sample("json", {"warmth": QUESTION}),
         "rater_config.json": _rater("seq2seq", inputs=INPUTS, instruct=True, label_tokens=False)},
        _seq2seq, ("raters.seq2seq_rater.Seq2SeqRater.load",),
        found="values of `inputs` were told in full; `1.0` was taken for a whole number",
    ),
    Reader(
        "explanations", {"a.jsonl": Sample("jsonl", EXPLAINED)}, _explained,
        ("raters.explanations.write_explanations", "raters.explanations._done", "raters.explanations._lines"),
        found="a file that is no JSON, other types; an explanation that stands twice, and a last line "
        "without an end, were lost",
    ),
    Reader(
        "reply with pairs of stories", {"reply.json": Sample("json", WRITTEN)}, _reply,
        ("raters.synthetic_pairs.parse_pairs",), takes_all=True,
        found="deep nesting, numbers of 5,000 digits; a key twice (one value was lost)",
    ),
]  # fmt: skip
