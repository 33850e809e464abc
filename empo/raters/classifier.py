"""PairClassifier: one encoder or two, one head per dimension, saved and loaded strictly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ModelOutput

from empo.raters.encoders import UNLOADABLE, reason
from empo.raters.losses import cross_entropy
from empo.records import UserError


class PairClassifierConfig(PreTrainedConfig):
    """Shape of a `PairClassifier`.

    `encoder` is the configuration of the encoder. `classes` are the number of levels per dimension.
    `architecture`: `bi_encoder` (both texts by one encoder, their vectors side by side),
    `seeker_attention` (two encoders, the response attends to the context; Sharma et al. 2020),
    `cross_encoder` (one sequence with both texts), `window` (one sequence of turns). `pooling` turns
    states into a vector: `first` token, `mean` over the response (over all tokens of a text that
    stands alone), or `both` side by side. `head`: `linear`, or `mlp` with one hidden layer.
    `mask_context`: whether seeker attention leaves out the padding of the context. The published
    classifiers attend to it; then `pad_context_to` is the length to which every context is padded,
    so that the result does not depend on the batch.
    """

    model_type = "empo_pair_classifier"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        architecture: str = "cross_encoder",
        classes: list[int] | None = None,
        pooling: str = "first",
        head: str = "mlp",
        dropout: float = 0.1,
        rationales: bool = False,
        freeze_context_encoder: bool = False,
        mask_context: bool = True,
        pad_context_to: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not mask_context and pad_context_to is None:
            raise UserError(
                "mask_context: false needs pad_context_to; else the scores depend on the batch."
            )
        self.encoder = encoder
        self.architecture = architecture
        self.classes = classes or []
        self.pooling = pooling
        self.head = head
        self.dropout = dropout
        self.rationales = rationales
        self.freeze_context_encoder = freeze_context_encoder
        self.mask_context = mask_context
        self.pad_context_to = pad_context_to
        super().__init__(**kwargs)


@dataclass
class PairOutput(ModelOutput):
    """`logits`: (n, sum of classes), the dimensions side by side; `rationale_loss`: a scalar, the
    cross-entropy of marking the response's tokens, where marks were given."""

    logits: torch.FloatTensor | None = None
    rationale_loss: torch.FloatTensor | None = None


class PairClassifier(PreTrainedModel):
    """Levels of several dimensions from a context and a response.

    In seeker attention the response's states (queries) attend to the context's (keys, values) with
    one head, the result is added to them, and the first token is classified; the published model
    froze the context's encoder (Sharma et al. 2020, section 4).
    """

    config_class = PairClassifierConfig
    base_model_prefix = "encoder"

    def __init__(self, config: PairClassifierConfig) -> None:
        super().__init__(config)
        self.encoder = _encoder(config.encoder)
        hidden = self.encoder.config.hidden_size
        if config.architecture == "seeker_attention":
            self.context_encoder = _encoder(config.encoder)
            self.attention = nn.MultiheadAttention(hidden, 1, config.dropout, batch_first=True)
            if config.freeze_context_encoder:
                self.context_encoder.requires_grad_(False)
        self.dropout = nn.Dropout(config.dropout)
        width = hidden * (2 if config.pooling == "both" else 1)
        width *= 2 if config.architecture == "bi_encoder" else 1
        self.heads = nn.ModuleList(self._head(width, hidden, n) for n in config.classes)
        if config.rationales:
            self.rationale_head = nn.Linear(hidden, 2 * len(config.classes))
        self.post_init()

    def _head(self, width: int, hidden: int, classes: int) -> nn.Module:
        dropout = self.config.dropout
        if self.config.head == "linear":
            return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))
        return nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def _init_weights(self, module: nn.Module) -> None:
        """Heads start small; the encoder brings its own weights or its own initialisation."""
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(std=0.02)
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.data.normal_(std=0.02)
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(1.0)
            module.bias.data.zero_()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        target_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        rationale_labels: torch.Tensor | None = None,
    ) -> PairOutput:
        """Logits of a batch; masks and ids have shape (n, L), those of the context (n, M).

        `rationale_labels`: (n, L, D), 0 or 1, -100 where nothing is to be learnt.
        """
        if self.config.architecture == "bi_encoder":
            context = self.embed(context_input_ids, context_attention_mask)
            response = self.embed(input_ids, attention_mask)
            return PairOutput(logits=self.classify(torch.cat([context, response], dim=-1)))
        states = self._states(self.encoder, input_ids, attention_mask, token_type_ids)
        if self.config.architecture == "seeker_attention":
            ids, mask = self._padded(context_input_ids, context_attention_mask)
            context = self._states(self.context_encoder, ids, mask, None)
            left_out = mask == 0 if self.config.mask_context else None
            attended, _ = self.attention(states, context, context, key_padding_mask=left_out)
            states = states + self.dropout(attended)
        output = PairOutput(logits=self.classify(self._pool(states, target_mask)))
        if rationale_labels is not None:
            marks = self.rationale_head(self.dropout(states))
            output.rationale_loss = cross_entropy(marks.view(-1, 2), rationale_labels.reshape(-1))
        return output

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Vectors of single texts, shape (n, width), for the bi-encoder; they can be kept."""
        types = torch.zeros_like(input_ids) if self._typed else None
        states = self._states(self.encoder, input_ids, attention_mask, types)
        return self._pool(states, attention_mask)

    def classify(self, vectors: torch.Tensor) -> torch.Tensor:
        """Logits (n, sum of classes) of pooled vectors (n, width)."""
        return torch.cat([head(vectors) for head in self.heads], dim=-1)

    def split(self, logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits per dimension, (n, classes) each."""
        return logits.split(self.config.classes, dim=-1)

    def _padded(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of the context, padded to `pad_context_to` where that is set."""
        missing = max(0, (self.config.pad_context_to or 0) - ids.shape[1])
        padding = self.context_encoder.config.pad_token_id or 0
        pad = nn.functional.pad
        return pad(ids, (0, missing), value=padding), pad(mask, (0, missing))

    @property
    def _typed(self) -> bool:
        return getattr(self.encoder.config, "type_vocab_size", 0) > 1

    def _states(
        self,
        encoder: nn.Module,
        ids: torch.Tensor,
        mask: torch.Tensor,
        types: torch.Tensor | None,
    ) -> torch.Tensor:
        typed = {} if types is None or not self._typed else {"token_type_ids": types}
        return encoder(input_ids=ids, attention_mask=mask, **typed).last_hidden_state.float()

    def _pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        first = states[:, 0]
        if self.config.pooling == "first":
            return first
        weights = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return mean if self.config.pooling == "mean" else torch.cat([first, mean], dim=-1)

    @classmethod
    def from_encoder(cls, encoder: nn.Module, config: PairClassifierConfig) -> PairClassifier:
        """A classifier with fresh heads on a pretrained encoder, whose weights are copied."""
        config.encoder = encoder.config.to_dict()
        model = cls(config)
        weights = encoder.state_dict()
        model.encoder.load_state_dict(weights)
        if config.architecture == "seeker_attention":
            model.context_encoder.load_state_dict(weights)
        return model

    @classmethod
    def load(cls, folder: str | Path) -> PairClassifier:
        """The classifier saved in a folder, exactly as it was saved.

        Raises UserError where weights are missing, surplus, of another size, damaged, or no
        safetensors, or config.json does not describe a classifier.
        """
        try:
            model, report = cls.from_pretrained(
                folder,
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # reported below, by name
            )
        except (UserError, *UNLOADABLE) as error:
            raise UserError(
                f"{folder}: the classifier cannot be loaded ({reason(error)})."
            ) from None
        wrong = {name: sorted(map(str, keys)) for name, keys in report.items() if keys}
        if wrong:
            raise UserError(
                f"{folder}: config.json and model.safetensors do not belong together: "
                + "; ".join(f"{name} {', '.join(keys[:3])}" for name, keys in wrong.items())
                + ". Train the rater again or restore its files."
            )
        return model.eval()


def _encoder(config: dict[str, Any] | None) -> nn.Module:
    """An encoder of this configuration without weights; decoders are left out."""
    if not isinstance(config, dict) or "model_type" not in config:
        raise UserError("config.json names no encoder with a model_type.")
    options = {key: value for key, value in config.items() if key != "model_type"}
    built = AutoConfig.for_model(config["model_type"], **options)
    # the encoder of an encoder-decoder says in its configuration that it is none
    encodes = type(built) in MODEL_FOR_TEXT_ENCODING_MAPPING
    auto = AutoModelForTextEncoding if encodes else AutoModel
    encoder = auto.from_config(built, trust_remote_code=False)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # no loss reaches it
    return encoder


AutoConfig.register(PairClassifierConfig.model_type, PairClassifierConfig, exist_ok=True)
