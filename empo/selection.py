"""What is measured on replies to validation exchanges while a model is trained.

At every evaluation the model replies greedily to one seeded sample of the validation split, and the
metrics of empo/metrics are computed on these replies, so that a checkpoint can be chosen by what
the model says and not by its loss. Training does not notice: random states, modes and the
tokenizer's padding are put back.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm import tqdm
from transformers import PreTrainedModel

from empo.alignment.selection_settings import SELECTABLE, SelectionSettings
from empo.dialogues import Dialogue, Exchange
from empo.generation import Decoding, reply_to
from empo.metrics import MetricResult
from empo.models import ModelSource, load_config, whole_weights
from empo.prompts import ChatFormat
from empo.records import Response, UserError, finite

Metric = Callable[[Sequence[Response]], MetricResult]

_VALUE: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "diff_epitome": lambda values: values["mean"],
    "bertscore": lambda values: values["f1"],
    "nidf": lambda values: values["mean"],
    "length": lambda values: values["mean_characters"],
    "trie_compression_ratio": lambda values: values["compression_ratio"],
    **{
        f"iva_{name}": lambda values, name=name: values[name]["mean_absolute"]
        for name in ("intensity", "valence", "arousal", "dominance")
    },
}
"""The one value of a metric that is logged, by its name in SELECTABLE."""


def validation_measure(
    settings: SelectionSettings,
    chat: ChatFormat,
    source: ModelSource,
    train: Sequence[Dialogue],
    valid: Sequence[Exchange],
    seed: int,
) -> ValidationMeasure | None:
    """What `settings` ask to be measured on replies, or None where that is nothing.

    The model begins as `source`; words are rare or frequent as in the dialogues of `train`. Raises
    UserError where a rater, encoder or lexicon cannot be used, or no exchange of `valid` fits.
    """
    if not settings.reply_metrics:
        return None
    metrics, sources = _metrics(settings, train, seed)
    decoding = Decoding(seed=seed)
    positions = load_config(source).max_position_embeddings
    limit = min(decoding.max_prompt_tokens, positions - decoding.max_new_tokens)
    fitting = {
        exchange.id: prompt
        for exchange in valid
        if (prompt := chat.fitting_prompt(exchange.messages(), limit)[0]) is not None
    }
    if not fitting:
        raise UserError(f"select_sample: no validation exchange fits into {limit} tokens.")
    ids = set(
        random.Random(seed).sample(sorted(fitting), min(settings.select_sample, len(fitting)))
    )
    drawn = [exchange for exchange in valid if exchange.id in ids]
    facts = {
        "split": "valid",
        "n": len(drawn),
        "too_long": len(valid) - len(fitting),
        "seed": seed,
        "ids_sha256": hashlib.sha256("\n".join(e.id for e in drawn).encode()).hexdigest(),
        "measured_with": sources,
        "decoding": asdict(decoding),
        "signatures": {},
    }
    return ValidationMeasure(chat, drawn, [fitting[e.id] for e in drawn], metrics, decoding, facts)


class ValidationMeasure:
    """Replies of a model to a fixed sample, and their metrics; `facts` say what they are of."""

    def __init__(
        self,
        chat: ChatFormat,
        exchanges: Sequence[Exchange],
        prompts: Sequence[list[int]],
        metrics: dict[str, Metric],
        decoding: Decoding,
        facts: dict[str, Any],
    ) -> None:
        self.chat = chat
        self.exchanges = exchanges
        self.metrics = metrics
        self.decoding = decoding
        self.facts = facts
        self._prompts = prompts

    def __call__(self, model: PreTrainedModel) -> dict[str, float | None]:
        """The values by their name in the log; None where no reply has one.

        Every process has to call it, since sharded weights are gathered by all: all reply to the
        whole sample, and have the values that the first one computes.
        """
        with as_it_was(model, self.chat):
            replies = self.replies(model)
            measured: list[dict[str, float | None]] = [{}]
            if PartialState().is_main_process:
                with whole_weights():
                    measured = [self._values(replies)]
            broadcast_object_list(measured)
        return measured[0]

    def replies(self, model: PreTrainedModel) -> list[Response]:
        """Greedy replies to the sample, in its order; long prompts with long ones."""
        order = sorted(range(len(self._prompts)), key=lambda i: (-len(self._prompts[i]), i))
        size = self.decoding.batch_size
        texts: dict[int, str] = {}
        quiet = not PartialState().is_main_process
        for start in tqdm(
            range(0, len(order), size), desc="validation replies", delay=2, disable=quiet
        ):
            batch = order[start : start + size]
            prompts = [self._prompts[i] for i in batch]
            found = reply_to(model, self.chat, prompts, self.decoding, start)
            texts |= {i: reply["response"] for i, reply in zip(batch, found, strict=True)}
        return [
            Response(
                id=exchange.id,
                emotion=exchange.emotion,
                context=exchange.messages(),
                reference=exchange.reply,
                response=texts[i],
                system="policy",
            )
            for i, exchange in enumerate(self.exchanges)
        ]

    def _values(self, replies: Sequence[Response]) -> dict[str, float | None]:
        values = {}
        for name, metric in self.metrics.items():
            result = metric(replies)
            self.facts["signatures"][name] = result.signature
            values |= {
                choice.key: finite(_VALUE[value](result.values))
                for value, choice in SELECTABLE.items()
                if choice.metric == name
            }
        return values


@contextmanager
def as_it_was(model: PreTrainedModel, chat: ChatFormat) -> Iterator[None]:
    """The model in evaluation mode; afterwards its mode, all random states and the padding side."""
    training, side = model.training, chat.tokenizer.padding_side
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    model.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        chat.tokenizer.padding_side = side
        model.train(training)


def _metrics(
    settings: SelectionSettings, train: Sequence[Dialogue], seed: int
) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics that are asked for, and what identifies the models and tables behind them."""
    from empo.metrics.bertscore import bertscore, load_scorer
    from empo.metrics.diff_epitome import RatedOnce, diff_epitome, require_mechanisms
    from empo.metrics.iva import iva, load_lexicons
    from empo.metrics.length import length
    from empo.metrics.nidf import build_table, nidf
    from empo.metrics.trie import trie

    ready: dict[str, Metric] = {"length": lambda r: length(r, seed), "trie": trie}
    sources: dict[str, str] = {}
    asked = settings.reply_metrics
    if "diff_epitome" in asked:
        from empo.raters.loading import load_raters

        rater = load_raters(settings.select_rater or ())
        require_mechanisms(rater)
        rated = RatedOnce(rater)  # the references are the same at every evaluation
        ready["diff_epitome"] = lambda replies: diff_epitome(replies, rated, seed)
        sources["diff_epitome"] = rater.signature
    if "bertscore" in asked:
        with whole_weights():
            scorer = load_scorer(settings.select_bertscore)
        ready["bertscore"] = lambda replies: bertscore(replies, scorer, seed)
        sources["bertscore"] = scorer.signature
    if "nidf" in asked:
        table = build_table(train)
        ready["nidf"] = lambda replies: nidf(replies, table, seed)
        sources["nidf"] = table["corpus_sha256"]
    if "iva" in asked:
        lexicons = load_lexicons(settings.select_lexicons or "")
        ready["iva"] = lambda replies: iva(replies, lexicons, seed)
        sources["iva"] = lexicons.signature
    return {name: ready[name] for name in asked}, sources
