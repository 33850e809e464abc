"""Settings of recipes/rater.py that belong to instructed encoder-decoders alone."""

from __future__ import annotations

from dataclasses import dataclass, fields

from empo.settings import option

SEQ2SEQ = "seq2seq"
"""The architecture: an encoder-decoder that reads an instruction and a window, and answers."""


@dataclass(kw_only=True)
class Seq2SeqSettings:
    """What an encoder-decoder is told, and how its answers are written."""

    instructions: str | None = option(
        None,
        help="seq2seq: YAML file with instructions for dimensions of your own, or in place of ours",
    )
    instruct: bool = option(
        True, help="seq2seq: read the instruction before the window; without, the window alone"
    )
    label_tokens: bool = option(
        False, help="seq2seq: answer with a new token per answer, not with its words"
    )

    def seq2seq_problems(self, architecture: str) -> list[str]:
        """What cannot work, for the architecture of the rater."""
        given = [f.name for f in fields(Seq2SeqSettings) if getattr(self, f.name) != f.default]
        if architecture == SEQ2SEQ or not given:
            return []
        return [f"{', '.join(given)}: only the architecture {SEQ2SEQ} has this."]


SEQ2SEQ_FIELDS = frozenset(field.name for field in fields(Seq2SeqSettings))
"""Names of these settings."""
