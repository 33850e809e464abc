"""Training of a scoring language model: a seed and a split in, the best epoch out.

trl's SFTTrainer on rows that are tokenised here, with the loss on the answer alone: the level, the
turn of a role-play, the comparison and both levels, or an explanation and the level.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from datasets import Dataset
from transformers.trainer_utils import set_seed
from trl import SFTConfig, SFTTrainer

from empo import models, small_models
from empo.checkpoints.trainer import SealedTrainer
from empo.corpora.labelled import Example
from empo.prompts import ChatFormat
from empo.raters.calibrated import CalibratedRater
from empo.raters.collapse import Collapse, collapse_of_rater
from empo.raters.contrastive_pairs import contrastive_pairs
from empo.raters.encoders import SCRATCH, resolve_encoder
from empo.raters.explanations import read_explanations
from empo.raters.fit import fit
from empo.raters.level_table import LevelTable
from empo.raters.losses import MISSING
from empo.raters.scoring_lm import ScoringLM, scoring_config
from empo.raters.scoring_prompts import Prompt, PromptWriter
from empo.raters.scoring_templates import comparison, explained, load_templates
from empo.raters.settings import RaterSettings
from empo.raters.training_task import TrainingTask, training_texts
from empo.records import UserError


class _Trainer(SealedTrainer, SFTTrainer):
    """trl's, with sealed checkpoints."""


@dataclass
class Rows:
    """Training rows of `input_ids` and `labels`, and what was cut, left out and drawn for them."""

    writer: PromptWriter
    rows: list[dict[str, list[int]]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, family: str, prompt: Prompt | None, answer: str, skipped: int = 0) -> None:
        """A prompt and its answer with an end-of-text token; only the answer carries a loss.

        And of that only what comes after its first `skipped` characters.
        """
        tokenizer = self.writer.chat.tokenizer
        if prompt is not None:
            ids = list(tokenizer(prompt.text).input_ids)
            coded = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
            target = [*coded.input_ids, tokenizer.eos_token_id]
            first = sum(end <= skipped for _, end in coded.offset_mapping)
            if len(ids) + len(target) <= self.writer.max_length:
                labels = [MISSING] * (len(ids) + first) + target[first:]
                self.rows.append({"input_ids": ids + target, "labels": labels})
                self.counts[f"{family} rows"] += 1
                self.counts["rows with cut context"] += prompt.context_cut
                self.counts["rows with a cut item"] += prompt.item_cut
                return
        self.counts[f"{family} rows without room"] += 1


def train_scoring_lm(
    task: TrainingTask,
) -> tuple[ScoringLM | CalibratedRater, float, dict[str, Any]]:
    """A rater whose epoch is chosen by the loss of the scores on the validation part.

    Also returned are the validation score (minus the loss) and facts: the level tables' sizes, counts
    of rows, pairs.

    Raises UserError for labels, templates or a model that cannot be used.
    """
    settings = task.settings
    set_seed(task.seed)
    tables = _tables(task)
    templates = load_templates(settings.item, settings.templates)
    model, tokenizer = _language_model(settings, task.train, templates.texts.values())
    chat = ChatFormat(tokenizer, settings.chat_template, None, training=False)
    tokenizer.chat_template = chat.plain_template
    limit = getattr(model.config, "max_position_embeddings", settings.max_length)
    if settings.max_length > limit:
        raise UserError(
            f"max_length: {settings.max_length} is more than the {limit} tokens that the model can read."
        )
    writer = PromptWriter(chat, templates, settings.max_length, settings.turns, settings.cut_item)
    rows, drawn = _training_rows(task, tables, writer)
    judged = Rows(writer)
    _scored_rows(judged, task.validation, tables, settings, score_alone=True)
    if not rows.rows or not judged.rows:
        raise UserError("no row of the training or the validation part fits; raise max_length.")
    trainer = _Trainer(
        model=model,
        args=_arguments(task),
        train_dataset=Dataset.from_list(rows.rows),
        eval_dataset=Dataset.from_list(judged.rows),
        processing_class=tokenizer,
        peft_config=_adapter(settings),
    )
    fit(trainer, task.run, settings.patience)
    best = trainer.state.best_metric
    trained = trainer.model.merge_and_unload() if settings.lora_r else trainer.model
    own = [replace(d, levels=t.values) for d, t in zip(task.dimensions, tables, strict=True)]
    config = scoring_config(task.name, own, _kept(task))
    device = "cpu" if trainer.args.use_cpu else None
    rater: ScoringLM | CalibratedRater = ScoringLM(
        trained, tokenizer, config, templates, device=device
    )
    collapsed = _collapse(rater, task) if "standard" in settings.families else {}
    if settings.anchors:
        rater = CalibratedRater.of(
            rater,
            task.train,
            per_level=settings.anchors,
            weights=settings.anchor_weights,
            order=settings.anchor_order,
            seed=task.seed,
        )
    facts = {
        "validation_loss": best,
        "epochs": trainer.state.epoch,
        "levels": {table.name: len(table) for table in tables},
        "rows": dict(rows.counts),
        "validation_rows": dict(judged.counts),
        "contrastive_pairs": drawn,
        "collapse": collapsed,
    }
    return rater, -best, facts


def _tables(task: TrainingTask) -> list[LevelTable]:
    """The levels of every dimension in the training part; also printed."""
    stories = task.settings.item == "stories"
    tables = []
    for dimension in task.dimensions:
        labels = (e.labels[dimension.name] for e in task.train if dimension.name in e.labels)
        tables.append(LevelTable.of(dimension.name, labels, as_values=stories))
    for table in tables:
        print(
            f"{table.name}: {len(table)} levels, answers {table.answers[0]} to {table.answers[-1]}"
        )
    return tables


def _kept(task: TrainingTask) -> dict[str, Any]:
    """The settings that belong to the rater."""
    settings = task.settings
    return {
        "item": settings.item,
        "turns": settings.turns,
        "max_length": settings.max_length,
        "cut_item": settings.cut_item,
        "as_values": settings.item == "stories",
        "explanation_tokens": settings.max_explanation if "explained" in settings.families else 0,
        "dtype": settings.dtype,
        "encoder": resolve_encoder(settings.encoder)[1],
        "families": list(settings.families),
        "seed": task.seed,
        "note": settings.note,
    }


def _collapse(rater: ScoringLM, task: TrainingTask) -> dict[str, Any]:
    """Whether the answers have collapsed on the validation part, by dimension; also printed."""
    facts: dict[str, Any] = {}
    for name, found in collapse_of_rater(rater, task.validation, seed=task.seed).items():
        measured = isinstance(found, Collapse)
        facts[name] = found.facts() if measured else {"not_run": found}
        told = found.summary() if measured else f"not measured: {found}"
        print(f"{name}, the answer by gold class:\n{told}", flush=True)
    return facts


def _training_rows(
    task: TrainingTask, tables: Sequence[LevelTable], writer: PromptWriter
) -> tuple[Rows, dict[str, Any]]:
    """The rows of all families, and the facts of the contrastive pairs by label."""
    train, settings = task.train, task.settings
    found, drawn = Rows(writer), {}
    _scored_rows(found, train, tables, settings)
    if "role_play" in settings.families:
        everything = {
            label for example in train for label in example.labels
        }  # with labels that are no dimension of the rater
        known = {table.name: table for table in tables}
        for label in sorted(everything - known.keys()):
            values = {e.labels[label] for e in train if label in e.labels}
            if len(values) > 1:
                known[label] = LevelTable.of(label, values)
        for example in train:
            answers = {
                label: known[label].answers[known[label].code(value)]
                for label, value in example.labels.items()
                if label in known
            }
            prompt, text = writer.played(example.input, answers)
            found.add("role_play", prompt, text)
    if "contrastive" in settings.families:
        for table in tables:
            pairs = contrastive_pairs(
                train,
                table,
                quota=settings.pair_quota,
                keep=settings.pair_keep,
                seed=task.seed,
                within_groups=settings.item == "dialogue",
            )
            print(pairs.summary(), flush=True)
            drawn[table.name] = pairs.facts()
            for a, b in pairs.pairs:
                codes = [table.code(train[i].labels[table.name]) for i in (a, b)]
                prompt = writer.contrasted(train[a].input, train[b].input, table)
                found.add("contrastive", prompt, comparison(*codes, table))
    return found, drawn


def _scored_rows(
    found: Rows,
    examples: Sequence[Example],
    tables: Sequence[LevelTable],
    settings: RaterSettings,
    score_alone: bool = False,
) -> None:
    """Add a row per example and label; a label that the table lacks counts as the nearest level.

    With `score_alone` an explanation before the score carries no loss.
    """
    explanations = (
        read_explanations(settings.explanations) if settings.explanations is not None else {}
    )
    tokenizer = found.writer.chat.tokenizer
    for example, table in ((e, t) for e in examples for t in tables):
        if table.name not in example.labels:
            found.counts[f"no label: {table.name}"] += 1
            continue
        code = table.nearest(example.labels[table.name])
        if not explanations:
            found.add("standard", found.writer.scored(example.input, table), table.answers[code])
            continue
        if (example.id, table.name) not in explanations:
            raise UserError(
                f"{settings.explanations}: there is no explanation of {table.name} for "
                f"{example.id!r}. Run recipes/explanations.py to its end on the same data."
            )
        ids = tokenizer(explanations[example.id, table.name], add_special_tokens=False).input_ids
        found.counts["explanations cut"] += len(ids) > settings.max_explanation
        text = tokenizer.decode(ids[: settings.max_explanation])
        answer = explained(text, code, table)
        room = len(tokenizer(answer, add_special_tokens=False).input_ids) + 1
        prompt = found.writer.scored(example.input, table, "explained", room)
        skipped = len(answer) - len(table.answers[code]) if score_alone else 0
        found.add("explained", prompt, answer, skipped)


def _language_model(
    settings: RaterSettings, train: Sequence[Example], templates: Iterator[str]
) -> tuple[Any, Any]:
    """Model and tokenizer: of a folder or hub id, or small and untrained, of the training texts."""
    if settings.encoder == SCRATCH:
        answers = [f"{number:02d}" for number in range(100)]
        tokenizer = small_models.train_tokenizer(
            [*training_texts(train), *answers, *templates], settings.vocab_size
        )
        tokenizer.name_or_path = SCRATCH
        tokenizer.chat_template = ChatFormat(tokenizer, "zephyr", None).plain_template
        tokenizer.model_max_length = settings.max_length
        shape = (settings.hidden_size, settings.layers, settings.heads, settings.max_length)
        return small_models.small_base(tokenizer, *shape), tokenizer
    source = models.resolve(resolve_encoder(settings.encoder)[0])
    return models.load_model(source, settings.dtype), models.load_tokenizer(source)


def _adapter(settings: RaterSettings) -> Any:
    if not settings.lora_r:
        return None
    return models.lora_config(
        settings.lora_r, settings.lora_alpha, settings.lora_dropout, settings.lora_targets
    )


def _arguments(task: TrainingTask) -> SFTConfig:
    """trl's arguments: those given, and what makes the rows ours and the best epoch kept."""
    try:
        return SFTConfig(
            **{
                "bf16": False,  # trl's own default is true
                "gradient_checkpointing": False,
                **task.arguments,
                "output_dir": str(task.folder),
                "seed": task.seed,
                "data_seed": task.seed,
                "eval_strategy": "epoch",
                "save_strategy": "epoch",
                "load_best_model_at_end": True,
                "metric_for_best_model": "eval_loss",
                "greater_is_better": False,
                "restore_callback_states_from_checkpoint": True,
                "report_to": "none",
                "remove_unused_columns": False,
                "max_length": None,
                "dataset_kwargs": {"skip_prepare_dataset": True},
            }
        )
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"training arguments: {' '.join(str(error).split())}") from None
