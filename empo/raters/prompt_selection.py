"""A prompted rater from a labelled corpus: examples from train, the wording by validation.

Nothing is trained. Of the wordings the one that does best on a part of the validation examples is
taken, and how each did is kept with the rater.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from empo.corpora.labelled import Example
from empo.raters.asking import Asking
from empo.raters.baselines import characters
from empo.raters.chat_models import ChatAnswer, ChatModel, ChatQuestion, load_local
from empo.raters.encoders import encoder_identity, resolve_encoder
from empo.raters.endpoint import Endpoint
from empo.raters.endpoint_requests import Access
from empo.raters.endpoint_trust import trust
from empo.raters.evaluation import MEANS, evaluate_predictions
from empo.raters.folder import RaterConfig
from empo.raters.predictions import RATER, Predictions, nearest_level, task
from empo.raters.prompt_questions import Shot
from empo.raters.prompt_rater import KIND, PromptRater
from empo.raters.prompt_templates import TOLERANCE, Asked, load_prompts
from empo.raters.settings import RaterSettings
from empo.raters.splits import label_matrix
from empo.rating import Dimension, RatingInput
from empo.records import Message, UserError

BATCH = 16


class Remembering:
    """A chat model that answers the same question once as long as it lives."""

    def __init__(self, model: ChatModel) -> None:
        self.model, self.limit = model, model.limit
        self._known: dict[ChatQuestion, ChatAnswer] = {}

    def length(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt, as the model counts them."""
        return self.model.length(messages)

    def answers(self, questions: Sequence[ChatQuestion], batch_size: int) -> list[ChatAnswer]:
        """Answers in the order of the questions."""
        new = [question for question in dict.fromkeys(questions) if question not in self._known]
        self._known |= zip(new, self.model.answers(new, batch_size), strict=True)
        return [self._known[question] for question in questions]


@dataclasses.dataclass(frozen=True)
class Selected:
    """The rater with the best wording, its score on validation (higher is better), and facts."""

    rater: PromptRater
    score: float
    facts: Mapping[str, Any]
    seed: int

    def held_out(self, examples: Sequence[Example]) -> dict[str, Any]:
        """`orders` of the held-out examples, and, of an endpoint, the `usage` of everything that was
        asked till then, and the names of the models that `served` it.
        """
        found = self.orders(examples)
        model = self.rater.model
        asked = model.model if isinstance(model, Remembering) else model
        if isinstance(asked, Endpoint):
            found |= {"usage": asked.usage.facts(asked.access), "served": sorted(asked.served)}
        return found

    def orders(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Both orders of held-out pairs and their mean, measured alone, and how far they disagree.

        Empty where there is one order. Answers that were given before are not asked for again.
        """
        if not self.rater.symmetric:
            return {}
        inputs = [example.input for example in examples]
        judged = self.rater.judged(inputs, BATCH)
        dimensions = self.rater.dimensions
        found: dict[str, Any] = judged.swaps(dimensions)
        tables = {"standard": judged.scores[0], "reverse": judged.scores[1], "mean": judged.mean}
        for name, scores in tables.items():
            predictions = Predictions(
                gold=label_matrix(examples, dimensions),
                scores=scores,
                groups=np.array([example.group for example in examples]),
                lengths=np.array([characters(pair, True) for pair in inputs]),
            )
            measured = evaluate_predictions(predictions, dimensions, self.seed)["dimensions"]
            for dimension in dimensions:
                values = measured[dimension.name]["predictors"][RATER]
                keys = MEANS[task(dimension)]
                found[dimension.name][name] = {key: values[key] for key in keys}
        return {"orders": found}


def select_prompt(
    train: Sequence[Example],
    validation: Sequence[Example],
    dimensions: Sequence[Dimension],
    settings: RaterSettings,
    arguments: Mapping[str, Any],
    *,
    seed: int,
    name: str,
    symmetric: bool,
) -> Selected:
    """The rater with the wording that does best on up to `development` validation examples.

    They are drawn by `split_seed`, the same for every seed; examples to show are drawn from `train` by
    `seed`. Measured by macro-F1 in dimensions with levels, by the mean squared error in others; where
    no answer can be read, it counts as a wrong level or the largest error.

    Raises UserError for prompts, dimensions or a model that cannot be used.
    """
    prompts = load_prompts("stories" if symmetric else "response", settings.prompts)
    asked = tuple(prompts.asked(dimension) for dimension in dimensions)
    wordings = prompts.chosen(settings.variants)
    shots = {a.dimension: _shots(a, train, seed) if settings.shots == "few" else [] for a in asked}
    opened, facts, access = _opened(settings, bool(arguments.get("use_cpu")))
    if opened.limit is not None and settings.max_length > opened.limit:
        raise UserError(
            f"max_length: {settings.max_length} is more than the {opened.limit} tokens that the "
            "model can read."
        )
    model = Remembering(opened)
    drawn = range(len(validation))
    if len(validation) > settings.development:
        drawn = sorted(random.Random(settings.split_seed).sample(drawn, settings.development))
    development = [validation[i] for i in drawn]
    kept = {
        "item": prompts.item,
        "turns": settings.turns,
        "max_length": settings.max_length,
        "shots": settings.shots,
        "seed": seed,
        "model": {k: v for k, v in facts.items() if k != "chat_template"},
        "note": settings.note,
    }
    raters, tried = {}, {}
    for variant, wording in wordings.items():
        config = RaterConfig(KIND, name, tuple(dimensions), {**kept, "variant": variant})
        raters[variant] = PromptRater(model, config, Asking(wording, asked, shots, facts), access)
        tried[variant] = _measured(raters[variant], development)
        print(f"seed {seed}, wording {variant}: {_line(tried[variant])}", flush=True)
    best = max(tried, key=lambda variant: tried[variant]["score"])
    found = {
        "variant": best,
        "variants": tried,
        "development": len(development),
        "shots": {a.dimension: [shot.answer for shot in shots[a.dimension]] for a in asked},
    }
    return Selected(raters[best], tried[best]["score"], found, seed)


def _opened(
    settings: RaterSettings, use_cpu: bool
) -> tuple[ChatModel, dict[str, Any], dict[str, Any]]:
    """The model, what tells it from others, and how it is reached; see `open_model`."""
    if settings.base_url is not None:
        reached = Access(
            settings.key_variable,
            settings.concurrency,
            settings.requests_per_minute,
            settings.request_timeout,
            settings.request_retries,
            settings.input_price,
            settings.output_price,
        )
        trust(settings.base_url, settings.key_variable)
        facts: dict[str, Any] = {"kind": "endpoint", "name": settings.encoder}
        facts |= {"base_url": settings.base_url, "request": settings.request}
        model = Endpoint(settings.encoder, settings.base_url, settings.request, reached)
        return model, facts, dataclasses.asdict(reached)
    path, shown = resolve_encoder(settings.encoder)
    identity = encoder_identity(path)
    local = load_local(
        path,
        dtype=settings.dtype,
        chat_template=settings.chat_template,
        device="cpu" if use_cpu else None,
    )
    facts = {"kind": "local", "name": shown, "identity": identity, "dtype": settings.dtype}
    facts["chat_template"] = local.template
    return local, facts, {"path": str(Path(path).resolve()) if Path(path).is_dir() else path}


def _shots(asked: Asked, train: Sequence[Example], seed: int) -> list[Shot]:
    """One example per level that has any, in an order drawn by the seed.

    Drawn among the shorter half of a level's examples: all of them stand in every prompt.
    """
    draw = random.Random(f"{seed} {asked.dimension}")
    found = []
    for value, answer in asked.answers:
        of = [
            example.input
            for example in train
            if abs(example.labels.get(asked.dimension, np.nan) - value) < TOLERANCE
            and example.input.response.strip()
        ]
        if of:
            middle = statistics.median(map(_size, of))
            found.append(Shot(draw.choice([pair for pair in of if _size(pair) <= middle]), answer))
    draw.shuffle(found)
    return found


def _size(pair: RatingInput) -> int:
    return sum(len(turn.text) for turn in pair.turns) + len(pair.response)


def _measured(rater: PromptRater, examples: Sequence[Example]) -> dict[str, Any]:
    """How a wording does: the score, per dimension the value with n and the unread, and the swaps."""
    judged = rater.judged([example.input for example in examples], BATCH)
    gold = label_matrix(examples, rater.dimensions)
    values: dict[str, Any] = {}
    scores = []
    for d, dimension in enumerate(rater.dimensions):
        known = np.isfinite(gold[:, d])
        labels, said = gold[known, d], judged.mean[known, d]
        if not len(labels):
            values[dimension.name] = {"n": 0}
            continue
        read = np.isfinite(said)
        entry: dict[str, Any] = {"n": len(labels), "unread": int((~read).sum())}
        if task(dimension) == "classes":
            entry["macro_f1"] = macro_f1(labels, said, dimension.levels or ())
            scores.append(entry["macro_f1"])
        else:
            entry["mse"] = squared_error(labels, said, dimension)
            scores.append(-entry["mse"])
        values[dimension.name] = entry
    if not scores:
        raise UserError(
            "no example of the validation part has a label, so no wording can be chosen. Raise "
            "`development` or `validation_share`."
        )
    return {
        "score": float(np.mean(scores)),
        "dimensions": values,
        "swaps": judged.swaps(rater.dimensions),
    }


def macro_f1(gold: np.ndarray, scores: np.ndarray, levels: Sequence[float]) -> float:
    """Mean F1 over the levels that occur in gold; a score that is NaN is a wrong level."""
    read = np.isfinite(scores)
    predicted = np.full(len(scores), -1)
    predicted[read] = nearest_level(scores[read], levels)
    classes = nearest_level(gold, levels)
    return float(
        f1_score(classes, predicted, labels=np.unique(classes), average="macro", zero_division=0)
    )


def squared_error(gold: np.ndarray, scores: np.ndarray, dimension: Dimension) -> float:
    """The mean squared error in native units; a score that is NaN is as wrong as the range allows."""
    worst = np.maximum(gold - dimension.low, dimension.high - gold)
    errors = np.where(np.isfinite(scores), scores - gold, worst)
    return float((errors**2).mean())


def _line(tried: Mapping[str, Any]) -> str:
    parts = []
    for name, entry in tried["dimensions"].items():
        key = next((key for key in ("macro_f1", "mse") if key in entry), None)
        value = "no label" if key is None else f"{key} {entry[key]:.4f}, n {entry['n']}"
        unread = f", {entry['unread']} unread" if entry.get("unread") else ""
        parts.append(f"{name} {value}{unread}")
    for name, swap in tried["swaps"].items():
        if swap["n"]:
            parts.append(
                f"{name} in the other order: {swap['share_that_differ']:.1%} differ, by "
                f"{swap['mean_absolute_difference']:.2f} in the mean"
            )
    return "; ".join(parts)
