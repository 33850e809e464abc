"""Settings of recipes/rater.py that belong to scoring language models alone."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

from empo.raters.contrastive_pairs import KEEP, QUOTA
from empo.raters.explanations import read_explanations
from empo.raters.prompt_settings import PROMPT
from empo.raters.scoring_templates import Family, Item, load_templates
from empo.settings import option

SCORING_LM = "scoring_lm"
"""The architecture: a causal language model that answers with a level."""
WITH_PROMPT = frozenset({"dtype", "chat_template"})
"""Settings that the architecture `prompt` has, too."""
ANSWER = "answer"
"""Its loss: cross-entropy on the tokens of the answer."""


@dataclass(kw_only=True)
class ScoringSettings:
    """What a scoring language model is asked and how it is tuned."""

    item: Item = option(
        "response", help="scoring_lm: what is scored: response, turn, dialogue, essay, stories"
    )
    families: list[Family] = option(
        default_factory=lambda: ["standard"],
        help="scoring_lm: what it learns: standard, role_play, contrastive; stories also explained "
        "(an explanation, then the score)",
    )
    cut_item: bool = option(
        False,
        help="scoring_lm: cut the beginning of what is scored where it is too long, instead of giving "
        "no score (stories lose their ends in any case)",
    )
    templates: str | None = option(None, help="scoring_lm: YAML file that replaces templates")
    chat_template: str | None = option(
        None, help="scoring_lm, prompt: zephyr or a .jinja file (default: the model's own)"
    )
    explanations: str | None = option(
        None, help="explained: jsonl file that recipes/explanations.py wrote"
    )
    max_explanation: int = option(256, help="explained: tokens of an explanation, more are cut")
    pair_quota: int = option(QUOTA, help="contrastive: random pairs per label")
    pair_keep: list[float] = option(
        default_factory=lambda: list(KEEP),
        help="contrastive: probability of keeping a pair whose levels differ by 0, 1, 2 or more",
    )
    anchors: int = option(
        0, help="contrastive: compare every item with so many training items per level (0: never)"
    )
    anchor_weights: Literal["uniform", "prior"] = option(
        "uniform", help="anchors: levels weigh alike, or as often as they occur in training"
    )
    anchor_order: Literal["random", "both"] = option(
        "random", help="anchors: which of the two comes first"
    )
    lora_r: int = option(8, help="scoring_lm: rank of LoRA; 0 trains all weights")
    lora_alpha: int = option(16, help="scoring_lm: scale of LoRA")
    lora_dropout: float = option(0.0, help="scoring_lm: dropout of LoRA")
    lora_targets: list[str] = option(
        default_factory=lambda: "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split(),
        help="scoring_lm: linear layers that LoRA adapts",
    )
    dtype: Literal["float32", "bfloat16"] = option(
        "float32", help="scoring_lm, prompt: its weights"
    )

    def scoring_problems(self, architecture: str) -> list[str]:
        """What cannot work, for the architecture of the rater."""
        if architecture != SCORING_LM:
            also = WITH_PROMPT if architecture == PROMPT else frozenset()
            given = [
                name
                for name, default in _DEFAULTS.items()
                if getattr(self, name) != default and name not in also
            ]
            of = f"only the architecture {SCORING_LM} has this."
            return [f"{', '.join(given)}: {of}"] if given else []
        found = []
        reads = "explained" if "explained" in self.families else "standard"
        if reads not in self.families:
            found.append(
                "families: a rater needs standard (or explained); its scores come from it."
            )
        if {"standard", "explained"} <= set(self.families):
            found.append("families: standard and explained answer one question; choose one.")
        if len(set(self.families)) < len(self.families):
            found.append("families: one stands there twice.")
        if self.explanations is not None and reads != "explained":
            found.append("explanations: only the family explained learns them.")
        if reads == "explained" and self.explanations is None:
            found.append("explanations: missing; recipes/explanations.py writes them.")
        if self.item == "stories" and set(self.families) - {"standard", "explained"}:
            found.append("families: stories have standard and explained only.")
        if self.anchors < 0 or (self.anchors and "contrastive" not in self.families):
            found.append("anchors: 0 or more, and above 0 only with the family contrastive.")
        if self.pair_quota < 1:
            found.append(f"pair_quota: {self.pair_quota} is too few.")
        if len(self.pair_keep) != 3 or not all(0 <= p <= 1 for p in self.pair_keep):
            found.append(
                "pair_keep: three probabilities are expected, for differences of 0, 1, 2+."
            )
        if self.lora_r < 0 or self.lora_alpha < 1 or not 0 <= self.lora_dropout < 1:
            found.append("lora_r, lora_alpha, lora_dropout: 0 or more, 1 or more, in [0, 1).")
        return found

    def check_templates(self) -> None:
        """What cannot be asked whatever the data are: look before they are read.

        Raises UserError for a file of templates or of explanations, or a family without a template.
        """
        templates = load_templates(self.item, self.templates)
        for family in self.families:
            templates.of(family)
        if self.explanations is not None:
            read_explanations(self.explanations)


_DEFAULTS: dict[str, Any] = {
    f.name: f.default_factory() if f.default is MISSING else f.default
    for f in fields(ScoringSettings)
}
SCORING_FIELDS = frozenset(_DEFAULTS)
"""Names of these settings."""
