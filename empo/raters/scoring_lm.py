"""A causal language model as a rater: asked for a level, and it answers with one.

Its answer is the most likely of the allowed ones, so there always is one. Where it explains first,
the answer is written freely and read strictly; what cannot be read gets no score and a flag.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import softmax
from tqdm import tqdm
from transformers import GenerationConfig

from empo.prompts import ChatFormat
from empo.raters.answers import answer_log_probs, left_padded
from empo.raters.fitting import token_counts
from empo.raters.folder import (
    RATER_CONFIG,
    UNSAVED,
    RaterConfig,
    require_tokenizer,
    weights_digest,
)
from empo.raters.level_table import LevelTable
from empo.raters.scoring_prompts import Prompt, PromptWriter
from empo.raters.scoring_templates import (
    Templates,
    check_texts,
    comparison,
    explained,
    read_comparison,
    read_explained,
)
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import UserError, listed, make_readable, read_object, shown, write_json
from empo.templates import check_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KIND = "scoring_lm"
TEMPLATES = "templates.json"
"""File of a rater folder with its chat template and the templates of its item."""
_SETTINGS: dict[str, type] = {"item": str, "turns": int, "max_length": int}
_SETTINGS |= {"explanation_tokens": int, "as_values": bool}
_DTYPES = ("float32", "bfloat16")
_SLACK = 8
"""Tokens beyond the longest answer: one that goes on is told from one that ends."""


@dataclasses.dataclass(frozen=True)
class Question:
    """Two items to compare in one dimension, by its index."""

    first: RatingInput
    second: RatingInput
    dimension: int


class ScoringLM:
    """Levels of every dimension as a language model answers them, in native units.

    `config.dimensions` hold the level tables. NaN where what is scored is blank, does not fit (a
    warning counts these, which have no flag), or an explanation ends in no readable score
    (`parse_failed`). What is scored is cut only with the setting `cut_item`. Probabilities are those
    of the answers among each other; a rater that explains first has none. `n_valid` counts the
    answers of an input.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: RaterConfig,
        templates: Templates,
        *,
        weights: str = UNSAVED,
        device: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.dimensions = config.dimensions
        self.templates = templates
        self.tables = tables_of(config.dimensions, config.settings["as_values"])
        self.prompts = PromptWriter(
            ChatFormat(tokenizer, None, None, training=False),
            templates,
            config.settings["max_length"],
            config.settings["turns"],
            config.settings.get("cut_item", False),
        )
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.signature = config.signature(weights)
        self.warnings = config.warnings(weights)

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order."""
        shape = (len(pairs), len(self.dimensions))
        codes = np.full(shape, -1)
        failed = np.zeros(shape, bool)
        flags = np.zeros((len(pairs), 2), bool)
        probabilities: list[np.ndarray | None] = []
        too_long: set[int] = set()
        explanation = self.config.settings["explanation_tokens"]
        for d, table in enumerate(self.tables):
            if explanation:
                room = explanation + self._room(
                    explained("", code, table) for code in range(len(table))
                )
                prompts = self._prompts(
                    pairs, lambda p, t=table, r=room: self.prompts.scored(p, t, "explained", r)
                )
            else:
                prompts = self._prompts(pairs, lambda p, t=table: self.prompts.scored(p, t))
            too_long |= {i for i, prompt in prompts.items() if prompt is None}
            prompts = {i: prompt for i, prompt in prompts.items() if prompt is not None}
            places = list(prompts)
            texts = [prompts[i].text for i in places]
            likely = None if explanation else np.full((len(pairs), len(table)), np.nan)
            probabilities.append(likely)
            if explanation:
                written = self.completions(texts, room, batch_size)
                read = [read_explained(text, table) for text in written]
                failed[places, d] = [code is None for code in read]
                codes[places, d] = [-1 if code is None else code for code in read]
            elif places:
                self._ready()
                logs = answer_log_probs(
                    self.model, self.tokenizer, texts, table.answers, batch_size
                )
                likely[places] = softmax(logs, axis=1)
                codes[places, d] = logs.argmax(axis=1)
            for i in places:
                flags[i] |= (prompts[i].context_cut, prompts[i].item_cut)
        scores = np.full(shape, np.nan)
        for d, table in enumerate(self.tables):
            known = codes[:, d] >= 0
            scores[known, d] = np.array(table.values)[codes[known, d]]
        return Ratings.of(
            self.dimensions,
            scores,
            self.signature,
            probabilities=probabilities,
            warnings=(*self.warnings, *self._unscored(len(too_long), len(pairs))),
            truncated=flags[:, 0],
            response_truncated=flags[:, 1],
            parse_failed=failed.any(axis=1),
            n_valid=(codes >= 0).sum(axis=1),
        )

    def compared(
        self, questions: Sequence[Question], batch_size: int = 32
    ) -> list[tuple[float, float] | None]:
        """What the model gives to both items of every question, in native units.

        Written freely and read strictly: None where the answer is not of the form that it was
        taught, or the prompt does not fit.
        """
        prompts = {}
        for i, question in enumerate(questions):
            table = self.tables[question.dimension]
            prompt = self.prompts.contrasted(question.first, question.second, table)
            if prompt is not None:
                prompts[i] = prompt.text
        asked = {question.dimension for question in questions}
        room = self._room(
            comparison(*levels, self.tables[d])
            for d in asked
            for levels in itertools.product(range(len(self.tables[d])), repeat=2)
        )
        written = self.completions(list(prompts.values()), room, batch_size)
        found: list[tuple[float, float] | None] = [None] * len(questions)
        for i, text in zip(prompts, written, strict=True):
            table = self.tables[questions[i].dimension]
            levels = read_comparison(text, table)
            found[i] = None if levels is None else (table.value(levels[0]), table.value(levels[1]))
        return found

    def completions(
        self, prompts: Sequence[str], max_new_tokens: int, batch_size: int
    ) -> list[str]:
        """What the model writes after every prompt, greedily, up to its end-of-text token."""
        self._ready()
        found = [""] * len(prompts)
        encoded = [list(ids) for ids in self.tokenizer(list(prompts)).input_ids] if prompts else []
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        padding = self.tokenizer.pad_token_id
        greedy = GenerationConfig(  # what is not set would come from the model's folder
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=padding,
        )
        bar = tqdm(total=len(order), desc="answers", unit="prompt", delay=5, leave=False)
        with torch.inference_mode(), bar:
            for start in range(0, len(order), batch_size):
                places = order[start : start + batch_size]
                batch = left_padded([encoded[i] for i in places], padding, self.model.device)
                written = self.model.generate(**batch, generation_config=greedy)
                written = written[:, batch["input_ids"].shape[1] :]
                texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
                for i, text in zip(places, texts, strict=True):
                    found[i] = text
                bar.update(len(places))
        return found

    def _room(self, answers: Iterable[str]) -> int:
        """Tokens to write for the longest of these answers."""
        return max(token_counts(self.tokenizer, list(answers), special=False), default=0) + _SLACK

    def _prompts(self, pairs: Sequence[RatingInput], ask: Any) -> dict[int, Prompt | None]:
        """Prompts by the place of their input, of those that have a text; None where it is too long."""
        both = self.templates.item == "stories"
        return {
            i: ask(pair)
            for i, pair in enumerate(pairs)
            if pair.response.strip() and (not both or pair.prompt.strip())
        }

    def _unscored(self, too_long: int, n: int) -> list[str]:
        if not too_long:
            return []
        return [
            f"Rater {self.config.name}: {too_long:,} of {n:,} inputs do not fit into "
            f"{self.prompts.max_length:,} tokens and have no score, or not in every dimension."
        ]

    def _ready(self) -> None:
        self.model.to(self.device).eval()

    def save(self, folder: str | Path) -> None:
        """Write weights, tokenizer, templates and, last, rater_config.json."""
        folder = Path(folder)
        (folder / RATER_CONFIG).unlink(missing_ok=True)  # there again only when all is written
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        chat = self.tokenizer.chat_template
        write_json(folder / TEMPLATES, {"chat": chat, "texts": dict(self.templates.texts)})
        make_readable(folder)
        dataclasses.replace(self.config, evidence=None).write(folder)

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> ScoringLM:
        """The rater of a folder.

        Raises UserError where files are missing, damaged or do not belong together.
        """
        from empo.models import ModelSource, load_model, load_tokenizer

        config = RaterConfig.read(folder)
        check_settings(folder, config)
        require_tokenizer(folder)
        weights = weights_digest(folder)
        chat, texts = _saved_templates(folder, config)
        source = ModelSource(str(folder))
        tokenizer = load_tokenizer(source)
        tokenizer.chat_template = chat
        model = load_model(source, config.settings.get("dtype", "float32"))
        templates = Templates(config.settings["item"], texts)
        return cls(model, tokenizer, config, templates, weights=weights, device=device)


def tables_of(dimensions: Sequence[Dimension], as_values: bool) -> list[LevelTable]:
    """The level tables that a rater's dimensions hold."""
    return [LevelTable(d.name, d.levels or (), as_values) for d in dimensions]


def check_settings(folder: str | Path, config: RaterConfig) -> None:
    """Raise UserError where a setting that the scores need is missing, of another type or below 0,
    or a dimension has no levels in ascending order."""
    path = Path(folder) / RATER_CONFIG
    for name, expected in _SETTINGS.items():
        value: Any = config.settings.get(name)
        if type(value) is not expected:
            raise UserError(
                f"{path}, settings, {name}: {expected.__name__} is expected, not {shown(value)}."
            )
        if expected is int and value < 0:
            raise UserError(f"{path}, settings, {name}: {shown(value)} is below 0.")
    if type(cut := config.settings.get("cut_item", False)) is not bool:
        raise UserError(f"{path}, settings, cut_item: bool is expected, not {shown(cut)}.")
    if (dtype := config.settings.get("dtype", _DTYPES[0])) not in _DTYPES:
        raise UserError(
            f"{path}, settings, dtype: {' or '.join(_DTYPES)} is expected, not {shown(dtype)}."
        )
    for dimension in config.dimensions:
        where = f"{path}, dimensions, {listed([dimension.name])}"
        levels = dimension.levels or ()
        if len(levels) < 2:
            raise UserError(f"{where}: its level table is missing.")
        if not np.isfinite(levels).all() or (np.diff(levels) <= 0).any():
            raise UserError(f"{where}: its levels must be numbers in ascending order.")


def _saved_templates(folder: str | Path, config: RaterConfig) -> tuple[str, dict[str, str]]:
    """The chat template and the templates of a rater's item, each of which can be filled."""
    path = Path(folder) / TEMPLATES
    saved = read_object(path)
    chat, texts = saved.get("chat"), saved.get("texts")
    if not isinstance(chat, str) or not isinstance(texts, dict):
        raise UserError(f"{path}: `chat`, a text, and `texts`, an object, are expected.")
    check_texts(texts, f"{path}, texts")
    family = "explained" if config.settings["explanation_tokens"] else "standard"
    if family not in texts:
        raise UserError(f"{path}, texts: {family} is missing, and the scores come from it.")
    check_template(chat, str(path))
    return chat, texts


def scoring_config(
    name: str, dimensions: Sequence[Dimension], settings: Mapping[str, Any]
) -> RaterConfig:
    """The config of a rater without evidence."""
    return RaterConfig(KIND, name, tuple(dimensions), dict(settings))
