"""An instructed encoder-decoder as a rater: the answer that it finds most likely is the level.

Rank classification (Xu and Jiang, EMNLP Findings 2024): of the answers allowed in a dimension, that
with the highest log-likelihood as the whole output, so there always is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from empo.raters.answers import option_log_likelihoods
from empo.raters.encoder_rater import BARLESS, check_inputs, chunks, level_ratings
from empo.raters.encoders import load_saved_tokenizer, load_seq2seq, positions
from empo.raters.folder import (
    RATER_CONFIG,
    RaterConfig,
    require_tokenizer,
    weights_digest,
)
from empo.raters.inputs import InputSettings, PairTokenizer, Row
from empo.raters.instructions import Instruction
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import UserError, make_readable, read_object, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KIND = "seq2seq"
INSTRUCTIONS = "instructions.json"
"""File of a rater folder with the instruction of every dimension."""


class Questions:
    """Inputs and answers of every dimension as tokens."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
        dimensions: Sequence[Dimension],
        instructions: Mapping[str, Instruction],
        inputs: InputSettings,
        *,
        instruct: bool,
        label_tokens: bool,
    ) -> None:
        limit = positions(model.config, tokenizer)
        self.readers: list[PairTokenizer] = []
        self.options: list[list[list[int]]] = []
        for dimension in dimensions:
            asked = instructions[dimension.name]
            text = asked.text if instruct else ""
            self.readers.append(PairTokenizer(tokenizer, "seq2seq", inputs, limit, text))
            answers = [label_token(o) if label_tokens else o for o in asked.options]
            ids = tokenizer(answers, add_special_tokens=False).input_ids
            self.options.append([[*answer, tokenizer.eos_token_id] for answer in ids])

    def log_likelihoods(
        self,
        model: PreTrainedModel,
        rows: Sequence[Row],
        dimension: int,
        device: str | torch.device,
    ) -> torch.Tensor:
        """Log-likelihood of every answer of a dimension for each row, (n, levels)."""
        batch = self.readers[dimension].batch(rows)
        ids, mask = (batch[name].to(device) for name in ("input_ids", "attention_mask"))
        return option_log_likelihoods(model, ids, mask, self.options[dimension])


class Seq2SeqRater:
    """Levels of every dimension by rank classification, with the probabilities of all levels.

    The probabilities are those of the answers among each other. A blank response, or one that does
    not fit beside the instruction, gets NaN.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: RaterConfig,
        instructions: Mapping[str, Instruction],
        *,
        weights: str,
        device: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.instructions = dict(instructions)
        self.dimensions = config.dimensions
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.questions = Questions(
            tokenizer,
            model,
            config.dimensions,
            instructions,
            InputSettings(**config.settings["inputs"]),
            instruct=config.settings["instruct"],
            label_tokens=config.settings["label_tokens"],
        )
        self.signature = config.signature(weights)
        self.warnings = config.warnings(weights)

    def score(self, pairs: Sequence[RatingInput], *, batch_size: int = 32) -> Ratings:
        """Ratings of the pairs, in their order; the batch size changes nothing but the speed."""
        self.model.to(self.device).eval()
        found = []
        cut = np.zeros((2, len(pairs)), bool)
        total = len(pairs) * len(self.dimensions)
        bar = tqdm(total=total, desc="rating", unit="answer", delay=2, disable=total <= BARLESS)
        with torch.inference_mode(), bar:
            for d, dimension in enumerate(self.dimensions):
                rows = self.questions.readers[d].rows(pairs)
                places = [i for i, row in enumerate(rows) if row is not None]
                places.sort(key=lambda i, rows=rows: rows[i].length)
                logits = np.full((len(rows), len(dimension.levels or ())), np.nan)
                for chunk in chunks(places, batch_size):
                    asked = [rows[i] for i in chunk]
                    likely = self.questions.log_likelihoods(self.model, asked, d, self.device)
                    logits[chunk] = likely.cpu().numpy()
                    bar.update(len(chunk))
                found.append(logits)
                for i in places:
                    cut[:, i] |= (rows[i].truncated, rows[i].response_truncated)
        return level_ratings(
            self.dimensions,
            found,
            self.signature,
            warnings=self.warnings,
            truncated=cut[0],
            response_truncated=cut[1],
        )

    def save(self, folder: str | Path) -> None:
        """Write weights, tokenizer, instructions and, last, rater_config.json."""
        folder = Path(folder)
        (folder / RATER_CONFIG).unlink(missing_ok=True)  # there again only when all is written
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        facts = {name: asked.facts() for name, asked in self.instructions.items()}
        write_json(folder / INSTRUCTIONS, facts)
        make_readable(folder)
        dataclasses.replace(self.config, evidence=None).write(folder)

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> Seq2SeqRater:
        """The rater of a folder.

        Raises UserError where files are missing, damaged or do not belong together.
        """
        config = RaterConfig.read(folder)
        check_inputs(folder, config)
        for name in ("instruct", "label_tokens"):
            if type(config.settings.get(name)) is not bool:
                raise UserError(f"{Path(folder) / RATER_CONFIG}, settings, {name}: true or false.")
        path = Path(folder) / INSTRUCTIONS
        saved, instructions = read_object(path), {}
        for dimension in config.dimensions:
            where = f"{path}, {dimension.name}"
            if not isinstance(saved.get(dimension.name), dict):
                raise UserError(f"{where}: the instruction is missing. Restore the rater's files.")
            asked = Instruction.from_facts(saved[dimension.name], where)
            if len(asked.options) != len(dimension.levels or ()):
                raise UserError(f"{where}, options: one answer per level is expected.")
            instructions[dimension.name] = asked
        require_tokenizer(folder)
        weights = weights_digest(folder)
        model, _ = load_seq2seq(str(folder))
        tokenizer = load_saved_tokenizer(folder)
        return cls(model, tokenizer, config, instructions, weights=weights, device=device)


def label_token(option: str) -> str:
    """The token that stands for an answer where answers are new tokens."""
    return f"<{option.replace(' ', '_')}>"
