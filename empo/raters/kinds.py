"""Which kind of rater an architecture and a loss make, and its training on one split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from empo.corpora.labelled import Example
from empo.raters.combined import JoinedRater
from empo.raters.encoders import encoder_identity, resolve_encoder
from empo.raters.folder import JOINED, RaterConfig
from empo.raters.prompt_settings import PROMPT
from empo.raters.scoring_settings import SCORING_LM
from empo.raters.seq2seq_settings import SEQ2SEQ
from empo.raters.settings import CLASS_LOSSES, RaterSettings
from empo.raters.training_task import TrainingTask
from empo.rating import Rater, RatingInput, Ratings
from empo.records import UserError

SPECIAL = 4
"""Special tokens around two texts; of RoBERTa, the most of any preset."""


class SavedRater(Rater, Protocol):
    """A rater that can be written into a folder."""

    def save(self, folder: Path) -> object:
        """Write weights and, last, rater_config.json."""


def nothing_more(examples: Sequence[Example]) -> Mapping[str, Any]:
    """No further facts about the held-out examples."""
    return {}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained rater; `score` on the inner validation part, higher is better; counts and epochs.

    `held_out` says about the held-out examples what their scores alone do not show.
    """

    rater: SavedRater
    score: float
    facts: Mapping[str, Any]
    held_out: Callable[[Sequence[Example]], Mapping[str, Any]] = nothing_more


def model_facts(settings: RaterSettings) -> dict[str, str]:
    """Name and identity of the model that a rater is made on, for runs and cards.

    Raises UserError as `resolve_encoder` and `encoder_identity`.
    """
    if settings.base_url is not None:
        return {"name": settings.encoder, "identity": f"endpoint {settings.base_url}"}
    path, name = resolve_encoder(settings.encoder)
    return {"name": name, "identity": encoder_identity(path)}


def train_rater(task: TrainingTask) -> Trained:
    """Train what the settings describe.

    Raises UserError where the labels do not suit the loss.
    """
    settings = task.settings
    if settings.architecture == SCORING_LM:
        if task.symmetric != (settings.item == "stories"):
            raise UserError(
                f"item: {settings.item} does not fit the data; stories are for pairs of alike texts."
            )
        from empo.raters.scoring_training import train_scoring_lm

        return Trained(*train_scoring_lm(task))
    if settings.architecture == PROMPT:
        from empo.raters.prompt_selection import select_prompt

        chosen = select_prompt(
            task.train,
            task.validation,
            task.dimensions,
            settings,
            task.arguments,
            seed=task.seed,
            name=task.name,
            symmetric=task.symmetric,
        )
        return Trained(chosen.rater, chosen.score, chosen.facts, chosen.held_out)
    if settings.loss not in CLASS_LOSSES:
        return _similarity(task)
    if settings.architecture == SEQ2SEQ:
        from empo.raters.seq2seq_training import train_seq2seq as train_levels
    else:
        from empo.raters.training import train_classifier as train_levels

    if len(task.dimensions) == 1 or not settings.one_model_per_dimension:
        rater, facts = train_levels(task)
        return Trained(rater, facts["validation_macro_f1"], facts)
    members, facts = [], {}
    for dimension in task.dimensions:
        member, facts[dimension.name] = train_levels(
            dataclasses.replace(
                task,
                dimensions=[dimension],
                folder=task.folder / dimension.name,
                name=f"{task.name}-{dimension.name}",
            )
        )
        members.append(member)
    score = float(np.mean([fact["validation_macro_f1"] for fact in facts.values()]))
    return Trained(SideBySide(members, task.name), score, {"models": facts})


class SideBySide:
    """Raters of one dimension each, trained together and saved as one folder."""

    def __init__(self, members: Sequence[Any], name: str) -> None:
        self.members = list(members)
        self.name = name
        self.dimensions = tuple(d for member in members for d in member.dimensions)

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """The dimensions of all members."""
        return JoinedRater(self.members).score(pairs, batch_size=batch_size)

    def save(self, folder: Path) -> None:
        """One sub-folder per dimension, and the config that joins them."""
        for member in self.members:
            member.save(folder / member.dimensions[0].name)
        names = {"members": [dimension.name for dimension in self.dimensions]}
        RaterConfig(JOINED, self.name, self.dimensions, names).write(folder)


def _similarity(task: TrainingTask) -> Trained:
    from empo.raters.similarity import CrossEncoderRater, EmbeddingRater, ScoreScale
    from empo.raters.similarity_training import OURS, train_cross_encoder, train_embedding

    settings, dimensions = task.settings, task.dimensions
    if len(dimensions) != 1:
        raise UserError(
            f"loss {settings.loss}: a rater with one number learns one dimension, but there are "
            f"{', '.join(d.name for d in dimensions)}. Choose one with `dimensions`."
        )
    common: dict[str, Any] = {
        "encoder": settings.encoder,
        "loss": settings.loss,
        "output_dir": task.folder,
        "seed": task.seed,
        "run": task.run,
        "args": {key: value for key, value in task.arguments.items() if key not in OURS},
        "margin": settings.contrastive_margin,
        "patience": settings.patience,
    }
    kept = {
        "encoder": resolve_encoder(settings.encoder)[1],
        "loss": settings.loss,
        "seed": task.seed,
    }
    kept["note"] = settings.note
    (dimension,) = dimensions
    if settings.architecture == "cross_encoder":
        cut = settings.response_max_length
        found = train_cross_encoder(
            task.train,
            task.validation,
            dimension,
            symmetric=task.symmetric,
            response_max_length=cut,
            # where responses are never cut: as much as the encoder reads
            max_length=None if cut is None else settings.max_length + cut + SPECIAL,
            **common,
        )
        rater = CrossEncoderRater.of(
            found.model,
            name=task.name,
            dimension=dimension,
            symmetric=task.symmetric,
            response_max_length=cut,
            settings=kept,
        )
    else:
        scale = ScoreScale.of(settings.scale)
        found = train_embedding(
            task.train,
            task.validation,
            dimension,
            scale=scale,
            threshold=settings.threshold,
            max_length=settings.max_length,
            **common,
        )
        rater = EmbeddingRater.of(
            found.model, name=task.name, dimension=dimension.name, scale=scale, settings=kept
        )
    measured = [
        (entry["eval_spearman_cosine"], 1)
        if "eval_spearman_cosine" in entry
        else (entry["eval_loss"], -1)
        for entry in found.evaluations
    ]
    scores = [sign * value for value, sign in measured if value is not None]
    if not scores:
        raise UserError(
            f"loss {settings.loss}: after every epoch all validation pairs had the same cosine, so "
            "no epoch can be chosen. Lower the learning rate."
        )
    facts = {**found.facts, "epochs": len(measured), "evaluations": found.evaluations}
    return Trained(rater, max(scores), facts)
