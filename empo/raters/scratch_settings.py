"""Settings of recipes/rater.py for small models that are made from the training texts."""

from __future__ import annotations

from dataclasses import dataclass, fields

from empo.settings import option

SCRATCH = "scratch"
"""In place of a model for scoring_lm and seq2seq: a small one, made from the training texts."""


@dataclass(kw_only=True)
class ScratchSettings:
    """The size of a small model."""

    hidden_size: int = option(128, help="encoder scratch: width of the small model")
    layers: int = option(2, help="encoder scratch: layers")
    heads: int = option(4, help="encoder scratch: attention heads")
    vocab_size: int = option(2000, help="encoder scratch: tokens of its vocabulary")

    def scratch_problems(self, encoder: str, suited: bool) -> list[str]:
        """What cannot work; `suited` says whether the architecture can be made from scratch."""
        found = []
        given = [f.name for f in fields(ScratchSettings) if getattr(self, f.name) != f.default]
        if given and encoder != SCRATCH:
            found.append(f"{', '.join(given)}: only the encoder {SCRATCH} has this.")
        if encoder == SCRATCH and not suited:
            found.append(f"encoder {SCRATCH}: only language models are made from scratch.")
        if min(self.hidden_size, self.layers, self.heads) < 1 or self.hidden_size % self.heads:
            found.append("hidden_size must be a multiple of heads; layers at least 1.")
        if self.vocab_size < 300:
            found.append(f"vocab_size: {self.vocab_size} is too few; bytes alone are 256.")
        return found


SCRATCH_FIELDS = frozenset(field.name for field in fields(ScratchSettings))
"""Names of these settings."""
