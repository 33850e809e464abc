"""Training of the two sentence-transformers raters on judged pairs of texts.

Pairs are read as the raters read them (`empo/raters/similarity.py`). After every epoch the model is
judged on the validation pairs, and the best one is returned: by the loss where it is a mean over
single pairs, by Spearman's correlation of cosine and label where it compares pairs with each other.
The same call continues from the newest checkpoint of the same run in `output_dir`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from transformers import set_seed

from empo.checkpoints.trainer import SealedTrainer
from empo.corpora.labelled import Example
from empo.raters.encoders import load_cross_encoder, load_embedder, resolve_encoder
from empo.raters.fit import fit
from empo.raters.fitting import fit_pair, token_counts
from empo.raters.similarity import ScoreScale
from empo.raters.similarity_losses import (
    OBJECTIVES,
    OUTPUT_LOSSES,
    GradedOutputLoss,
    Objective,
)
from empo.raters.similarity_pairs import TextPair, cosine_targets, split_at, text_pairs, triplets
from empo.rating import Dimension
from empo.records import UserError, finite
from empo.runs import Run

OURS = frozenset(
    "output_dir seed data_seed eval_strategy save_strategy load_best_model_at_end report_to "
    "metric_for_best_model greater_is_better".split()
)
"""Training arguments that the functions here set themselves."""


class _EmbeddingTrainer(SealedTrainer, SentenceTransformerTrainer):
    """The library's trainer with sealed checkpoints."""


class _CrossEncoderTrainer(SealedTrainer, CrossEncoderTrainer):
    """The library's trainer with sealed checkpoints."""


@dataclass(frozen=True)
class Trained:
    """A trained model, what it was trained on, and its evaluations, one per epoch.

    `facts` are counts of the training data (left out and why, cut, positive, mined) and the
    threshold where there is one.
    """

    model: Any
    facts: dict[str, float]
    evaluations: list[dict[str, float | None]]


def train_embedding(
    train: Sequence[Example],
    valid: Sequence[Example],
    dimension: Dimension,
    *,
    encoder: str,
    loss: str,
    scale: ScoreScale,
    output_dir: str | Path,
    seed: int,
    run: Run,
    args: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    threshold: float | None = None,
    margin: float = 0.5,
    patience: int | None = None,
) -> Trained:
    """A SentenceTransformer whose cosine, on `scale`, follows a dimension's labels.

    `args` are fields of the library's training arguments; checkpoints are those of `run`; `threshold` separates positive pairs
    where the loss needs them (None: the median of the training labels); `margin` is that of
    `contrastive`; `patience` is the number of epochs without a better validation result after which
    training stops (None: never).

    Raises UserError where the loss is unknown, the labels do not fit it, or too few pairs are left.
    """
    if loss not in OBJECTIVES:
        raise UserError(f"{loss}: no such loss for embeddings; there are {', '.join(OBJECTIVES)}.")
    objective = OBJECTIVES[loss]
    pairs, facts = text_pairs(train, dimension, "train")
    judged, _ = text_pairs(valid, dimension, "valid")
    data, found = _training_data(pairs, objective, loss, scale, threshold, seed)
    set_seed(seed)
    model = load_embedder(resolve_encoder(encoder)[0], max_length=max_length)
    texts = {text for pair in pairs for text in (pair.first, pair.second)}
    lengths = token_counts(model.tokenizer, sorted(texts))
    facts |= {"pairs": len(pairs), **found}
    facts |= {"texts": len(texts), "texts_cut": sum(n > model.max_seq_length for n in lengths)}
    check: dict[str, Any] = {}
    if objective.data == "target":
        check["eval_dataset"] = _graded(judged, cosine_targets(judged, scale, loss, objective.low))
    else:
        check["evaluator"] = EmbeddingSimilarityEvaluator(
            [pair.first for pair in judged],
            [pair.second for pair in judged],
            [pair.label for pair in judged],
            main_similarity="cosine",
            similarity_fn_names=["cosine"],
            write_csv=False,
        )
    given = {**(args or {})}
    if objective.data == "positives":  # a positive of one pair would be a negative of its double
        given.setdefault("batch_sampler", "no_duplicates")
    trainer = _EmbeddingTrainer(
        model=model,
        args=_arguments(
            SentenceTransformerTrainingArguments,
            given,
            output_dir,
            seed,
            "eval_spearman_cosine" if "evaluator" in check else "eval_loss",
        ),
        train_dataset=data,
        loss=objective.build(model, margin),
        **check,
    )
    return Trained(model, facts, _run(trainer, run, patience))


def train_cross_encoder(
    train: Sequence[Example],
    valid: Sequence[Example],
    dimension: Dimension,
    *,
    encoder: str,
    loss: str,
    output_dir: str | Path,
    seed: int,
    run: Run,
    args: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    symmetric: bool = False,
    response_max_length: int | None = None,
    margin: float = 0.5,
    patience: int | None = None,
) -> Trained:
    """A CrossEncoder with one output whose sigmoid follows the labels, mapped from their range to 0..1.

    `symmetric` says how pairs are cut that are too long (see `fit_pair`); the others are those of
    `train_embedding`. Raises UserError in the same cases.
    """
    if loss not in OUTPUT_LOSSES:
        why = ""
        if loss in OBJECTIVES:
            why = " It compares two vectors, and a cross-encoder has none."
        raise UserError(
            f"{loss}: no such loss for a cross-encoder; there are {', '.join(OUTPUT_LOSSES)}.{why}"
        )
    pairs, facts = text_pairs(train, dimension, "train")
    judged, _ = text_pairs(valid, dimension, "valid")
    set_seed(seed)
    model = load_cross_encoder(resolve_encoder(encoder)[0], outputs=1, max_length=max_length)
    fitted, cut = _fitted(model, pairs, symmetric, response_max_length)
    judged, _ = _fitted(model, judged, symmetric, response_max_length)
    facts |= {"pairs": len(fitted), "pairs_cut": cut, "no_room": len(pairs) - len(fitted)}
    if len(fitted) < 2 or len(judged) < 2:
        raise UserError(
            f"only {len(fitted)} training and {len(judged)} validation pairs fit into "
            f"{model.max_seq_length} tokens; at least 2 of each are needed. Raise max_length."
        )
    span = dimension.high - dimension.low
    unit = [
        _graded(part, [(pair.label - dimension.low) / span for pair in part])
        for part in (fitted, judged)
    ]
    trainer = _CrossEncoderTrainer(
        model=model,
        args=_arguments(CrossEncoderTrainingArguments, args or {}, output_dir, seed, "eval_loss"),
        train_dataset=unit[0],
        eval_dataset=unit[1],
        loss=GradedOutputLoss(model, OUTPUT_LOSSES[loss](margin)),
    )
    return Trained(model, facts, _run(trainer, run, patience))


def _training_data(
    pairs: Sequence[TextPair],
    objective: Objective,
    loss: str,
    scale: ScoreScale,
    threshold: float | None,
    seed: int,
) -> tuple[Dataset, dict[str, float]]:
    if objective.data == "target":
        return _graded(pairs, cosine_targets(pairs, scale, loss, objective.low)), {}
    if objective.data == "rank":
        return _graded(pairs, [pair.label for pair in pairs]), {}
    value, above, below = split_at(pairs, threshold)
    facts: dict[str, float] = {"threshold": value, "positive": len(above), "negative": len(below)}
    if objective.data == "binary":
        return _graded(pairs, [int(pair.label > value) for pair in pairs]), facts
    if objective.data == "positives":
        if len(above) < 2:
            raise UserError(
                f"{loss}: a single pair lies above the threshold {value:g}, and the negatives of a "
                "pair are the other pairs. Lower the threshold."
            )
        return _columns(["first", "second"], [(pair.first, pair.second) for pair in above]), facts
    mined, missing = triplets(above, below, seed)
    if not mined:
        raise UserError(
            f"{loss}: no text forms both a pair above and a pair at or below the threshold "
            f"{value:g}, so no triplet can be mined. Choose another loss."
        )
    facts |= {"triplets": len(mined), "anchors_without_negative": missing}
    return _columns(["anchor", "positive", "negative"], mined), facts


def _fitted(
    model: CrossEncoder,
    pairs: Sequence[TextPair],
    symmetric: bool,
    response_max_length: int | None,
) -> tuple[list[TextPair], int]:
    """The pairs cut to the model's length, without those that leave no room, and how many are cut."""
    kept: list[TextPair] = []
    cut = 0
    for pair in pairs:
        found = fit_pair(
            model.tokenizer,
            pair.first,
            pair.second,
            model.max_seq_length,
            symmetric=symmetric,
            response_max_length=response_max_length,
        )
        if found is not None:
            kept.append(TextPair(pair.id, found.context, found.response, pair.label))
            cut += found.context_cut or found.response_cut
    return kept, cut


def _graded(pairs: Sequence[TextPair], targets: Sequence[float]) -> Dataset:
    rows = [(p.first, p.second, target) for p, target in zip(pairs, targets, strict=True)]
    return _columns(["first", "second", "label"], rows)


def _columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Dataset:
    return Dataset.from_dict(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def _arguments(
    kind: type, given: Mapping[str, Any], output_dir: str | Path, seed: int, metric: str
) -> Any:
    if taken := sorted(OURS & given.keys()):
        raise UserError(f"training arguments that are set already: {', '.join(taken)}.")
    accelerated = torch.cuda.is_available()
    values = {
        "save_total_limit": 2,
        "logging_strategy": "epoch",
        "disable_tqdm": not sys.stderr.isatty(),
        "dataloader_pin_memory": accelerated,
        **given,
        "output_dir": str(output_dir),
        "seed": seed,
        "data_seed": seed,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "greater_is_better": metric != "eval_loss",
        "restore_callback_states_from_checkpoint": True,
        "report_to": "none",
        "use_cpu": bool(given.get("use_cpu")) or not accelerated,
    }
    try:
        return kind(**values)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"training arguments: {' '.join(str(error).split())}") from None


def _run(trainer: SealedTrainer, run: Run, patience: int | None) -> list[dict[str, float | None]]:
    """Train to the end; the evaluations, one per epoch."""
    fit(trainer, run, patience)
    return [
        {key: finite(value) for key, value in entry.items()}
        for entry in trainer.state.log_history
        if any(key.startswith("eval_") for key in entry)
    ]
