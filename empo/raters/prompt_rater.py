"""A chat model as a rater by prompting: nothing is trained, the answers are levels in words.

The folder of such a rater holds no weights: prompts.json says what is asked, with which examples
and of which model, and its digest stands for the rater; model_access.json says where the model is,
which moves no score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from empo.raters.asking import REMEDY, UNKNOWN, Asking
from empo.raters.chat_models import ChatAnswer, ChatModel, load_local
from empo.raters.endpoint import Endpoint
from empo.raters.endpoint_requests import Access, request_problem
from empo.raters.endpoint_trust import require_trust
from empo.raters.folder import MODEL_ACCESS, PROMPTS, RATER_CONFIG, RaterConfig, weights_digest
from empo.raters.prompt_questions import Fitted, QuestionWriter
from empo.raters.prompt_settings import url_problem
from empo.raters.prompt_templates import TEXTS
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import UserError, read_object, shown, write_json

KIND = "prompt"
_ACCESS = TypeAdapter(Access)
UNSAVED = "unsaved"
_SETTINGS: dict[str, type] = {"item": str, "turns": int, "max_length": int, "variant": str}
_LEAST = {"turns": 0, "max_length": 1}


@with_config(extra="forbid")
class _EndpointFacts(TypedDict):
    kind: str
    name: str
    base_url: str
    request: dict[str, Any]


_ENDPOINT = TypeAdapter(_EndpointFacts)


@dataclasses.dataclass(frozen=True)
class Judged:
    """Scores by order, shape (orders, n, D); two orders where both texts are alike, else one.

    `probabilities` per dimension, shape (n, levels), or None. `truncated`, `response_truncated`,
    `failed` (n,) flags, `valid` (n,) answers that were read; `unread` texts that were no answer;
    `unfit` (n,), whether a question was too long to be asked.
    """

    scores: np.ndarray
    probabilities: tuple[np.ndarray | None, ...]
    truncated: np.ndarray
    response_truncated: np.ndarray
    failed: np.ndarray
    valid: np.ndarray
    unread: tuple[str, ...]
    unfit: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The mean over the orders that have a score, shape (n, D)."""
        known = np.isfinite(self.scores)
        counts = known.sum(axis=0)
        total = np.where(known, self.scores, 0.0).sum(axis=0)
        return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)

    def swaps(self, dimensions: Sequence[Dimension]) -> dict[str, dict[str, Any]]:
        """How far the two orders disagree, per dimension, on the inputs scored in both.

        The share of inputs whose score is another, the mean absolute difference in native units,
        and n; empty where there is one order, None where n is 0.
        """
        if len(self.scores) < 2:
            return {}
        gaps = np.abs(self.scores[0] - self.scores[1])
        found = {}
        for d, dimension in enumerate(dimensions):
            known = gaps[np.isfinite(gaps[:, d]), d]
            found[dimension.name] = {
                "n": len(known),
                "share_that_differ": float((known > 0).mean()) if len(known) else None,
                "mean_absolute_difference": float(known.mean()) if len(known) else None,
            }
        return found


class PromptRater:
    """Levels of every dimension as a chat model answers them, in native units.

    Two alike texts are asked about in both orders, and the score is the mean. NaN where what is
    scored is blank or does not fit, or no answer could be read (`parse_failed`). `n_valid` counts
    the answers of an input. Probabilities are there where the model gives likelihoods and the
    dimension has levels, of one order only. What does not fit has no flag, since nothing was cut or
    answered: a warning counts it.
    """

    def __init__(
        self,
        model: ChatModel,
        config: RaterConfig,
        asking: Asking,
        access: Mapping[str, Any],
        *,
        weights: str = UNSAVED,
    ) -> None:
        self.model, self.config, self.asking, self.access = model, config, asking, dict(access)
        self.dimensions = config.dimensions
        self.signature = config.signature(weights)
        self.warnings = config.warnings(weights)
        settings = config.settings
        self.symmetric = settings["item"] == "stories"
        self.writer = QuestionWriter(
            model, settings["item"], asking.wording, settings["turns"], settings["max_length"]
        )

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order."""
        judged = self.judged(pairs, batch_size)
        scores = judged.mean
        return Ratings.of(
            self.dimensions,
            scores,
            self.signature,
            probabilities=judged.probabilities,
            warnings=(*self.warnings, *self._troubles(pairs, judged, scores)),
            truncated=judged.truncated,
            response_truncated=judged.response_truncated,
            parse_failed=judged.failed,
            n_valid=judged.valid,
        )

    def judged(self, pairs: Sequence[RatingInput], batch_size: int = 32) -> Judged:
        """What the model says about every pair, in every order."""
        orders = (False, True) if self.symmetric else (False,)
        places: list[tuple[int, int, int]] = []
        fitted: list[Fitted] = []
        unfit = np.zeros(len(pairs), bool)
        for o, reverse in enumerate(orders):
            for i, pair in enumerate(pairs):
                for d, asked in enumerate(self.asking.asked):
                    shots = self.asking.shots.get(asked.dimension, ())
                    found = self.writer.question(pair, asked, shots, reverse)
                    if found is None:
                        unfit[i] = not self._blank(pair)
                    else:
                        places.append((o, i, d))
                        fitted.append(found)
        answers = self.model.answers([found.question for found in fitted], batch_size)
        n = len(pairs)
        scores = np.full((len(orders), n, len(self.dimensions)), np.nan)
        flags = np.zeros((3, n), bool)
        for (o, i, d), found, answer in zip(places, fitted, answers, strict=True):
            flags[:, i] |= (found.context_cut, found.response_cut, answer.choice is None)
            if answer.choice is not None:
                scores[o, i, d] = self.asking.asked[d].values[answer.choice]
        return Judged(
            scores,
            self._probabilities(n, places, answers),
            *flags,
            np.isfinite(scores).sum(axis=(0, 2)),
            tuple(text for answer in answers if answer.choice is None for text in answer.unread),
            unfit,
        )

    def _blank(self, pair: RatingInput) -> bool:
        return not pair.response.strip() or (self.symmetric and not pair.prompt.strip())

    def _probabilities(
        self, n: int, places: Sequence[tuple[int, int, int]], answers: Sequence[ChatAnswer]
    ) -> tuple[np.ndarray | None, ...]:
        tables: list[np.ndarray | None] = [None] * len(self.dimensions)
        if self.symmetric:
            return tuple(tables)
        for (_, i, d), answer in zip(places, answers, strict=True):
            if answer.log_probs is None or self.dimensions[d].levels is None:
                continue
            likely = np.exp(np.array(answer.log_probs) - max(answer.log_probs))
            table = tables[d]
            if table is None:
                table = tables[d] = np.full((n, len(likely)), np.nan)
            table[i] = likely / likely.sum()
        return tuple(tables)

    def _troubles(
        self, pairs: Sequence[RatingInput], judged: Judged, scores: np.ndarray
    ) -> list[str]:
        """What stands between these inputs and their scores, beside blank texts."""
        found = []
        if judged.failed.any():
            such = f", such as {shown(judged.unread[0], 60)}" if judged.unread else ""
            found.append(
                f"Rater {self.config.name}: to {int(judged.failed.sum())} of {len(pairs)} inputs the "
                f"model gave answers that cannot be read{such}."
            )
        unfit = judged.unfit & np.isnan(scores).any(axis=1)
        if unfit.any():
            found.append(
                f"Rater {self.config.name}: {int(unfit.sum())} of {len(pairs)} inputs do not fit into "
                f"max_length {self.config.settings['max_length']} and have no score, or not in every "
                "dimension."
            )
        return found

    def save(self, folder: str | Path) -> None:
        """Write what is asked, where the model is and, last, rater_config.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RATER_CONFIG).unlink(missing_ok=True)  # there again only when all is written
        self.asking.write(folder)
        write_json(folder / MODEL_ACCESS, self.access)
        dataclasses.replace(self.config, evidence=None).write(folder)

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> PromptRater:
        """The rater of a folder; an endpoint is asked nothing yet.

        Raises UserError where files are missing or damaged, or the model is not there or another.
        """
        folder = Path(folder)
        config = RaterConfig.read(folder)
        _check(folder, config)
        asking = Asking.read(folder)
        if [a.dimension for a in asking.asked] != [d.name for d in config.dimensions]:
            raise UserError(
                f"{folder / PROMPTS}: its dimensions are not those of the rater. {REMEDY}"
            )
        access = read_object(folder / MODEL_ACCESS)
        model = open_model(asking.model, access, device, str(folder / MODEL_ACCESS))
        return cls(model, config, asking, access, weights=weights_digest(folder))


def open_model(
    facts: Mapping[str, Any], access: Mapping[str, Any], device: str | None, where: str
) -> ChatModel:
    """The model that a rater asks.

    `facts` tell it from others: base_url, name and request of an endpoint; name, identity (digest of
    a folder, commit of a hub model), dtype and chat template of a model that runs here. `access` is
    how to get at it: fields of `Access`, or `path`. Raises UserError where they do not fit (`where`
    names the file), the user has never named the endpoint, or the model in the folder is another.
    """
    try:
        if facts["kind"] == "endpoint":
            reached = _ACCESS.validate_python(access)
            model = _ENDPOINT.validate_python(dict(facts), strict=True)
            problem = url_problem(model["base_url"], reached.key_variable)
            if problem := problem or request_problem(model["request"]):
                raise UserError(f"{where}: {problem}")
            require_trust(model["base_url"], reached.key_variable, where)
            return Endpoint(model["name"], model["base_url"], model["request"], reached)
        path, identity = str(access["path"]), str(facts["identity"])
        dtype, template = str(facts["dtype"]), facts["chat_template"]
        if not isinstance(template, str | None):
            raise TypeError("chat_template")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: a field is missing or unknown ({shown(error)}). {REMEDY}"
        ) from None
    from empo.raters.encoders import encoder_identity

    if Path(path).is_absolute() and not Path(path).is_dir():
        raise UserError(
            f"{where}, field 'path': there is no model in {path}. Write there where the model "
            f"{facts['name']!r} is now."
        )
    local = Path(path).is_dir()
    if local and (found := encoder_identity(path)) != identity:
        raise UserError(
            f"{path}: this is another model than the rater was made with (digest {found[:12]}, not "
            f"{identity[:12]}). Restore it, or make the rater again."
        )
    if not local and identity == UNKNOWN:
        raise UserError(
            f"{where}: which commit of {path} the rater was made with is not known, so another one "
            "could answer. Put the model into a folder and make the rater again with that as "
            "`encoder`, or make it again where the hub can be reached."
        )
    return load_local(
        path, revision=None if local else identity, dtype=dtype, template=template, device=device
    )


def _check(folder: Path, config: RaterConfig) -> None:
    """Raise UserError where a setting that the scores need is missing or impossible."""
    path = folder / RATER_CONFIG
    for name, expected in _SETTINGS.items():
        value: Any = config.settings.get(name)
        if type(value) is not expected:
            raise UserError(
                f"{path}, settings, {name}: {expected.__name__} is expected, not {shown(value)}."
            )
    item = config.settings["item"]
    if item not in TEXTS:
        known = " or ".join(TEXTS)
        raise UserError(f"{path}, settings, item: {shown(item)} is unknown; {known} is expected.")
    for name, least in _LEAST.items():
        if (number := config.settings[name]) < least:
            raise UserError(f"{path}, settings, {name}: {number} is too few; at least {least}.")
