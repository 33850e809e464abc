"""Settings of recipes/rater.py; light to import, so that mistakes show before torch loads."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, get_args

from empo.raters.prompt_settings import PROMPT, PROMPT_FIELDS, UNTRAINED, PromptSettings
from empo.raters.scoring_settings import (
    ANSWER,
    SCORING_FIELDS,
    SCORING_LM,
    WITH_PROMPT,
    ScoringSettings,
)
from empo.raters.scratch_settings import SCRATCH, SCRATCH_FIELDS, ScratchSettings
from empo.raters.seq2seq_settings import SEQ2SEQ, SEQ2SEQ_FIELDS, Seq2SeqSettings
from empo.settings import option

PACKAGED = "minilm"
"""The preset whose weights come as a Python package, so that it works without the hub."""

ClassLoss = Literal["cross_entropy", "focal", "ldam", "soft_label_kl"]
Loss = Literal[
    ClassLoss,
    "mse",
    "mae",
    "contrastive",
    "cosine_embedding",
    "cosine",
    "cosent",
    "angle",
    "contrastive_binary",
    "online_contrastive",
    "multiple_negatives",
    "triplet",
    "answer",
    "none",
]
CLASS_LOSSES: tuple[str, ...] = get_args(ClassLoss)
"""Losses that learn levels; the others learn a number or compare vectors."""
KEEP_LEVELS = (*CLASS_LOSSES, UNTRAINED)
"""Losses with which the dimensions stay as the corpus has them."""
Architecture = Literal[
    "bi_encoder",
    "seeker_attention",
    "cross_encoder",
    "window",
    "seq2seq",
    "scoring_lm",
    "prompt",
]


@dataclass(kw_only=True)
class RaterSettings(ScoringSettings, PromptSettings, Seq2SeqSettings, ScratchSettings):
    """What a rater learns from, what it is, and how it is shown to work."""

    data: str = option(help="judged corpus: file or folder (EPITOME, ESConv, stories, own jsonl)")
    schema: str | None = option(None, help="schema of the data (default: seen from the file)")
    definitions: str | None = option(
        None, help="YAML file that says what the labels of an own jsonl or of intents mean"
    )
    test: str | None = option(
        None, help="held-out corpus of the same schema (default: groups of `data` are held out)"
    )
    dimensions: list[str] | None = option(
        None, help="names of the dimensions to learn (default: those of the corpus, none derived)"
    )
    agreement: str | None = option(
        None, help="agreement.json made by `empo agreement`, for the card"
    )
    note: str | None = option(
        None,
        help="a sentence that every report with this rater repeats, such as what it cannot show",
    )
    licence: str = option("not stated", help="licence of the data, for the card")
    limit: int | None = option(None, help="use only N groups, drawn by split_seed")
    apart_from: str | None = option(
        None,
        help="folder of a rater whose groups are left out: one rewards, the other measures",
    )
    articles: str | None = option(None, help="WASSA: csv of the news articles, article_id and text")
    incomplete: Literal["drop", "keep"] = option(
        "drop", help="WASSA: rows that miss a label: dropped (official), or kept with the others"
    )
    text: Literal["story", "summary"] = option("story", help="which text of a story pair is read")

    encoder: str = option(
        "minilm",
        help="minilm (packaged, offline), roberta-base, roberta-large, bert-large, mpnet, "
        "flan-t5-small..xl, a hub id or a folder; for scoring_lm llama-3-8b-instruct; for scoring_lm "
        "and seq2seq scratch: a small model made from the training texts; for prompt a chat model, or "
        "a name at base_url",
    )
    architecture: Architecture = option(
        "cross_encoder",
        help="bi_encoder, seeker_attention (Sharma et al.), cross_encoder, window (turns around "
        "the response, its tokens pooled), seq2seq (an encoder-decoder that is told what to judge and "
        "answers), scoring_lm (a language model that answers with a level), prompt (a chat model that "
        "is asked, untrained)",
    )
    pooling: Literal["first", "mean", "both"] = option(
        "first", help="vector of a text: first token, mean of its (the response's) tokens, or both"
    )
    head: Literal["linear", "mlp"] = option("mlp", help="classification head")
    dropout: float = option(0.1, help="dropout of the heads")
    one_model_per_dimension: bool = option(
        False, help="as published: a model for every dimension instead of one with several heads"
    )
    freeze_context_encoder: bool = option(
        True, help="seeker_attention: keep the context's encoder as it is"
    )

    max_length: int = option(
        256,
        help="tokens of the context; of the whole window; with special tokens of each text where "
        "vectors are compared; of prompt and answer for scoring_lm and prompt",
    )
    response_max_length: int | None = option(
        None, help="cut responses to this many tokens, as published raters do (default: never cut)"
    )
    lowercase: bool = option(False, help="read all texts in lower case")
    turns: int = option(1, help="context turns that are read; 0: the response alone")
    following: int = option(0, help="turns after the response that a window reads")

    loss: Loss = option(
        "cross_entropy",
        help="cross_entropy, focal, ldam, soft_label_kl; mse, mae, contrastive, cosine_embedding; "
        "for story similarity also cosine, cosent, angle, contrastive_binary, online_contrastive, "
        "multiple_negatives, triplet; for scoring_lm answer; for prompt none",
    )
    class_weighting: float = option(
        0.0, help="cross_entropy: classes weigh (n / n of the class) to this power"
    )
    label_smoothing: float = option(
        0.0, help="cross_entropy: share of every label spread over all levels"
    )
    focal_gamma: float = option(2.0, help="focal: how much less easy examples count")
    focal_alpha: float | None = option(None, help="focal: constant factor")
    ldam_margin: float = option(0.5, help="ldam: margin of the rarest class")
    ldam_scale: float = option(30.0, help="ldam: scale of the logits")
    contrastive_margin: float = option(0.5, help="contrastive: margin of the distance")
    rationale_weight: float = option(
        0.0, help="weight of marking the words that justify a level, where the data has them"
    )
    scale: Literal["affine", "times4", "unit"] = option(
        "affine", help="from cosine to score: 1 + 3 cos, 4 cos, or cos"
    )
    threshold: float | None = option(
        None, help="pair losses: a pair above it is positive (default: the median of the labels)"
    )
    head_learning_rate: float | None = option(
        None, help="learning rate of the fresh heads (default: learning_rate)"
    )

    ema_decay: float = option(
        0.0, help="levels: keep a moving average of the weights with this decay (0: the last ones)"
    )

    seeds: list[int] = option(default_factory=lambda: [1, 2, 3], help="one training per seed")
    folds: int = option(1, help="1: one fixed split; more: cross validation over groups")
    test_share: float = option(0.2, help="with one fold: share of the groups that is held out")
    validation_share: float = option(
        0.1, help="share of the training groups that chooses the best epoch"
    )
    split_seed: int = option(0, help="seed of the split, the same for every training seed")
    patience: int = option(5, help="stop after this many epochs without a better validation score")

    grid_architectures: list[Architecture] | None = option(
        None, help="a grid: train every architecture with every loss, one table at the end"
    )
    grid_losses: list[Loss] | None = option(None, help="a grid: its losses")
    fresh: bool = option(
        False, help="train in a new folder beside output_dir (output_dir-2, ...), not go on in it"
    )
    threads: int | None = option(None, help="CPU threads (default: all)")
    processes: int = option(1, help="processes; a rater trains on one")

    def problems(self) -> list[str]:
        """What cannot work."""
        found = []
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            found.append(f"seeds: {self.seeds} must be different numbers, at least one.")
        if self.folds < 1:
            found.append(f"folds: {self.folds} is too few; 1 is a fixed split.")
        if self.test is not None and self.folds > 1:
            found.append("folds: a test corpus is given, so there is nothing to cross-validate.")
        if self.test is not None and self.apart_from is not None:
            found.append("apart_from: it leaves out groups of `data`, not of a test corpus.")
        for name in ("test_share", "validation_share"):
            if not 0 < getattr(self, name) <= 0.5:
                found.append(f"{name}: {getattr(self, name)} is not in (0, 0.5].")
        if self.class_weighting < 0:
            found.append(f"class_weighting: {self.class_weighting} is negative.")
        if not 0 <= self.ema_decay < 1:
            found.append(f"ema_decay: {self.ema_decay} is not in [0, 1).")
        if not 0 <= self.label_smoothing < 1:
            found.append(f"label_smoothing: {self.label_smoothing} is not in [0, 1).")
        if self.class_weighting and "cross_entropy" not in (self.grid_losses or [self.loss]):
            found.append("class_weighting: only the loss cross_entropy weighs classes.")
        if self.processes != 1:
            found.append(
                "processes: a rater trains on one process; run seeds side by side instead."
            )
        if (self.grid_architectures is None) != (self.grid_losses is None):
            found.append("grid_architectures and grid_losses belong together; give both.")
        if self.following and self.architecture not in ("window", SEQ2SEQ):
            found.append("following: only window and seq2seq read turns after the response.")
        if self.turns < 0 or self.following < 0:
            found.append("turns and following: a number of turns is expected, 0 or more.")
        if self.max_length < 1 or (self.response_max_length or 1) < 1:
            found.append("max_length and response_max_length: at least 1 token is needed.")
        if self.rationale_weight and self.architecture == "bi_encoder":
            found.append("rationale_weight: a bi_encoder has no states of the response to mark.")
        if self.limit is not None and self.limit < 1:
            found.append(f"limit: {self.limit} leaves no group; at least 1 is needed.")
        if self.threads is not None and self.threads < 1:
            found.append(f"threads: {self.threads} is no number of threads.")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout: {self.dropout} is not in [0, 1).")
        if self.grid_losses is None and self.loss not in CLASS_LOSSES:
            read = {"turns"} if self.architecture in (SCORING_LM, PROMPT) else set()
            names = [name for name in _LEVELS_ONLY if name not in read]
            ignored = [name for name in names if getattr(self, name) != _DEFAULTS[name]]
            if ignored:
                found.append(
                    f"{', '.join(ignored)}: only raters of levels have this; {self.loss} compares "
                    "vectors or learns one number."
                )
        if self.grid_losses is None and (problem := unfit(self.architecture, self.loss)):
            found.append(problem)
        if self.grid_losses is None:
            found += self._architecture_problems()
        return found

    def _architecture_problems(self) -> list[str]:
        """What the architecture does not have, or needs."""
        found = self.scoring_problems(self.architecture) + self.seq2seq_problems(self.architecture)
        found += self.prompt_problems(self.architecture, self.encoder, len(self.seeds))
        made = (SEQ2SEQ, SCORING_LM, PROMPT)
        found += self.scratch_problems(self.encoder, self.architecture in made)
        if self.architecture == SEQ2SEQ:
            if given := [name for name in _HEADS_ONLY if getattr(self, name) != _DEFAULTS[name]]:
                found.append(f"{', '.join(given)}: {SEQ2SEQ} has no heads; it answers.")
            if self.encoder == PACKAGED:
                found.append(
                    f"encoder: {PACKAGED} has no decoder; {SEQ2SEQ} needs one (flan-t5-small)."
                )
        return found

    def facts(self) -> dict[str, Any]:
        """What is set and concerns this architecture, for cards and results."""
        other = SCORING_FIELDS | PROMPT_FIELDS | SEQ2SEQ_FIELDS | SCRATCH_FIELDS
        if self.architecture == SCORING_LM:
            other -= SCORING_FIELDS
        if self.architecture == PROMPT:
            other -= PROMPT_FIELDS | WITH_PROMPT
        if self.architecture == SEQ2SEQ:
            other -= SEQ2SEQ_FIELDS
        if self.encoder == SCRATCH:
            other -= SCRATCH_FIELDS
        return {k: v for k, v in asdict(self).items() if v is not None and k not in other}


def unfit(architecture: str, loss: str) -> str | None:
    """Why an architecture cannot be trained with a loss; None where it can."""
    if (architecture == SCORING_LM) != (loss == ANSWER):
        return f"architecture {SCORING_LM} and loss {ANSWER} belong together; give both."
    if (architecture == PROMPT) != (loss == UNTRAINED):
        return f"architecture {PROMPT} and loss {UNTRAINED} belong together; give both."
    if architecture == SEQ2SEQ:
        fits = loss in CLASS_LOSSES and loss != "soft_label_kl"
        return (
            None if fits else f"loss: {loss} is not for {SEQ2SEQ}; it learns levels, one per input."
        )
    if loss in CLASS_LOSSES or architecture in ("bi_encoder", SCORING_LM, PROMPT):
        return None
    if architecture == "cross_encoder" and loss in ("mse", "mae", "contrastive"):
        return None
    return f"loss: {loss} compares two vectors or a scalar; {architecture} has none."


_LEVELS_ONLY = (
    *("pooling", "head", "dropout", "one_model_per_dimension", "lowercase", "turns", "following"),
    *("class_weighting", "label_smoothing", "rationale_weight", "ema_decay", "head_learning_rate"),
)
_HEADS_ONLY = (
    *("pooling", "head", "dropout", "freeze_context_encoder", "rationale_weight", "ema_decay"),
    "head_learning_rate",
)
_DEFAULTS = {
    field.name: field.default for field in fields(RaterSettings) if field.default is not MISSING
}
