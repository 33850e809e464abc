"""Write explanations of judged story pairs with a chat model that is told the human scores.

    python recipes/explanations.py --data pairs_train.csv --model MODEL --output explanations.jsonl

The file is for `explanations` of recipes/rater.py with the family `explained`. A second run does
only what is missing. A model that is told the score justifies it, right or wrong: read some.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from empo.alignment.launching import quiet_dependencies
from empo.process import run
from empo.records import UserError
from empo.settings import option, parse


@dataclass(kw_only=True)
class ExplanationSettings:
    """Settings of recipes/explanations.py."""

    data: str = option(help="judged story pairs")
    model: str = option(help="chat model: hub id, model folder or run folder")
    output: str = option(help="jsonl file to write, or to go on with")
    text: Literal["story", "summary"] = option("story", help="which text of a pair is read")
    dimensions: list[str] | None = option(None, help="labels to explain; all if not given")
    limit: int | None = option(None, help="only the first N pairs")
    dtype: Literal["float32", "bfloat16"] = option("float32", help="type of the weights")
    device: str | None = option(None, help="cpu, cuda, ... (default: a GPU where there is one)")
    chat_template: str | None = option(None, help="zephyr or a .jinja file (default: the model's)")
    max_new_tokens: int = option(256, help="longest explanation")
    max_prompt_tokens: int = option(2048, help="a pair whose prompt is longer is refused")
    batch_size: int = option(8, help="explanations written at once")

    def problems(self) -> list[str]:
        """Values that cannot be used."""
        names = ("max_new_tokens", "max_prompt_tokens", "batch_size", "limit")
        return [
            f"--{name.replace('_', '-')}: {getattr(self, name)} is no positive number."
            for name in names
            if getattr(self, name) is not None and getattr(self, name) < 1
        ]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, write, say where it is."""
    (settings,) = parse(
        argv, ExplanationSettings, prog="recipes/explanations.py", description=__doc__ or ""
    )
    quiet_dependencies()
    import torch

    from empo import models
    from empo.corpora.examples import load_labelled
    from empo.generation import Decoding, reply_to
    from empo.prompts import ChatFormat
    from empo.raters.cross_validation import chosen_dimensions
    from empo.raters.explanations import write_explanations

    corpus = load_labelled(settings.data, "stories", text=settings.text)
    print(corpus.summary())
    labels = {d.name: (d.low, d.high) for d in chosen_dimensions(corpus, settings.dimensions)}
    source = models.resolve(settings.model)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    chat = ChatFormat(models.load_tokenizer(source), settings.chat_template, None, training=False)
    model = models.load_model(source, settings.dtype, device=device).eval()
    decoding = Decoding(settings.max_new_tokens, batch_size=settings.batch_size)

    def replies(conversations: Sequence[Sequence[dict[str, str]]]) -> list[str]:
        prompts = [chat.prompt(messages) for messages in conversations]
        longest = max(map(len, prompts))
        if longest > settings.max_prompt_tokens:
            raise UserError(
                f"{settings.data}: a prompt has {longest} tokens, more than --max-prompt-tokens "
                f"{settings.max_prompt_tokens}. Raise it, or read summaries (--text summary)."
            )
        return [row["response"] for row in reply_to(model, chat, prompts, decoding, 0)]

    counts = write_explanations(
        corpus.examples[: settings.limit],
        labels,
        replies,
        {
            **source.facts(),
            "dtype": settings.dtype,
            "template": chat.sha256,
            "max_new_tokens": settings.max_new_tokens,
        },
        settings.output,
        settings.batch_size,
    )
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    print(settings.output)
    if counts["blank"] and not counts["written"]:
        print("the model wrote nothing: every reply was blank. Take another one.", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    run(main)
