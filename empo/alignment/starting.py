"""What DPO and GRPO start from: merged weights or an adapter, the prompts of its SFT, the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig

from empo.alignment.settings import DpoSettings, TuningSettings
from empo.models import ModelSource, load_model, load_tokenizer, resolve
from empo.prompts import ChatFormat
from empo.records import UserError
from empo.runs import Run


def hand_over(settings: DpoSettings, trust_remote_code: bool = False) -> ModelSource:
    """Where policy and reference start: the merged SFT weights, or base and SFT adapter.

    Raises UserError where the SFT model is not there in the form that `sft_adapter` asks for: with
    `merge` base, reference and the system `sft` have to be the same weights.
    """
    if settings.sft_adapter == "merge":
        return merged_model(
            settings.model, settings.revision, trust_remote_code, ", or set `sft_adapter: keep`"
        )
    source = resolve(
        settings.model,
        revision=settings.revision,
        merged=False,
        trust_remote_code=trust_remote_code,
    )
    if not source.adapters:
        raise UserError(f"{settings.model}: sft_adapter: keep needs an adapter, this is a model.")
    return source


def merged_model(
    model: str, revision: str | None, trust_remote_code: bool = False, otherwise: str = ""
) -> ModelSource:
    """A model whose weights lie in one folder; UserError where an adapter is not merged."""
    source = resolve(model, revision=revision, merged=True, trust_remote_code=trust_remote_code)
    if source.adapters:
        raise UserError(
            f"{model}: the adapter is not merged. Run `empo merge --model {model}` first{otherwise}."
        )
    return source


def chat_as_trained(
    source: ModelSource, settings: TuningSettings, job: Run
) -> tuple[PreTrainedTokenizerBase, ChatFormat]:
    """Tokenizer and prompts of a model that goes on learning: those of its SFT where none are given.

    The tokenizer gets the template that others can use. Raises UserError as `check_prompts`.
    """
    tokenizer = load_tokenizer(source)
    trained_with = source.run.get("system_message", settings.system_message)
    message = job.facts["settings"].get("system_message", trained_with)
    chat = ChatFormat(tokenizer, settings.chat_template, message)
    check_prompts(chat, source)
    tokenizer.chat_template = chat.plain_template
    return tokenizer, chat


def check_prompts(chat: ChatFormat, source: ModelSource) -> None:
    """Refuse to align a model under other prompts than it was fine-tuned with."""
    trained = source.run.get("template_sha256")
    if trained is not None and trained != chat.sha256:
        raise UserError(
            f"{source.base}: SFT used the system message {source.run.get('system_message')!r} and "
            f"its chat template; here it is {chat.system_message!r}. Set system_message and "
            "chat_template as in SFT."
        )


def policy_and_reference(
    settings: DpoSettings, source: ModelSource, args: DPOConfig
) -> tuple[PreTrainedModel, PreTrainedModel | None, str]:
    """The policy, the reference model where one is needed beside it, and the reference in words.

    With adapters there is one set of base weights: the reference is the base without the fresh
    adapter, or with the frozen copy of the SFT adapter that trl makes. Where the reference is run
    before training, the policy itself is it.
    """

    def load() -> PreTrainedModel:
        return load_model(
            source, settings.dtype, settings.attention, settings.load_in_4bit, trainable=True
        )

    if settings.full_training:
        beside = None if args.precompute_ref_log_probs else load()
        return load(), beside, f"a frozen copy of {source.base}"
    if source.adapters:
        return load(), None, f"a frozen copy of the adapter {source.adapters[-1]}"
    return load(), None, f"{source.base} without the adapter"


def rewarded_by(
    source: ModelSource, more: Sequence[Mapping[str, Any]] = ()
) -> dict[str, list[Mapping[str, Any]]]:
    """`reward` of run.json: the raters behind this training, then those behind its start, each once.

    Whoever measures with the same weights is warned. Empty where no rater took part.
    """
    weights = [rater["weights"] for rater in more]
    before = [r for r in source.run.get("reward", ()) if r["weights"] not in weights]
    return {"reward": [*more, *before]} if more or before else {}
