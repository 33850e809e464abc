"""Replies of a model to a split: batched, greedy by default, restartable; or the best of n.

Exchanges are sorted by prompt length and cut into fixed batches; every finished batch is kept, with
a digest, in a partial file beside the output. A run that was stopped does only the missing batches, and ends in
the same file as one that was not: batches do not depend on what was done before, and each has its
own seed where replies are sampled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel
from transformers.trainer_utils import set_seed

from empo.choosing import BestOf
from empo.dialogues import Exchange
from empo.partial_replies import explained, keep, read_partial
from empo.prompts import ChatFormat
from empo.records import (
    RESPONSES_SCHEMA,
    UserError,
    read_object,
    sha256,
    write_json,
    write_jsonl,
)
from empo.runs import now, versions
from empo.sampling import numbers_of, own_sampling

logger = logging.getLogger(__name__)

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s|$)")


@dataclass(frozen=True)
class Decoding:
    """How replies are decoded; temperature 0 is greedy. `max_prompt_tokens` drops oldest turns."""

    max_new_tokens: int = 60
    temperature: float = 0.0
    top_p: float = 1.0
    batch_size: int = 32
    seed: int = 42
    max_prompt_tokens: int = 512
    cut_at_sentence: bool = False


def cut_at_last_sentence(text: str) -> str:
    """The text up to its last full sentence; unchanged where there is none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


def generate(
    model: PreTrainedModel,
    chat: ChatFormat,
    exchanges: Sequence[Exchange],
    system: str,
    output: str | Path,
    decoding: Decoding,
    facts: dict[str, Any],
    best_of: BestOf | None = None,
) -> dict[str, Any]:
    """Write `output` (one response per exchange, in corpus order) and `output`.manifest.json.

    With `best_of` n replies are sampled per exchange, each from random numbers of its own, and the
    chosen one is written.

    `facts` identify model and data; with the decoding parameters they key the partial file, so that
    another model never continues it. Returns the manifest. One process at a time: the caller holds
    the lock. Raises UserError where `output` holds responses of another run, a prompt's last turn
    alone is too long, or the disk is full.
    """
    output = Path(output)
    asked = {
        "schema": RESPONSES_SCHEMA,
        "system": system,
        "decoding": asdict(decoding),
        "template_sha256": chat.sha256,
        "system_message": chat.system_message,
        "best_of": best_of.facts() if best_of else None,
        "selected_by": list(best_of.selected_by) if best_of else None,
        **facts,
    }
    manifest_path = output.with_name(output.name + ".manifest.json")
    partial = output.with_name(f".{output.name}.partial")
    if output.exists() and (manifest_path.is_file() or not partial.exists()):
        manifest = _finished(output, manifest_path, asked)
        partial.unlink(missing_ok=True)  # it goes last, and a kill may have come before
        return manifest
    room = model.config.max_position_embeddings - decoding.max_new_tokens
    limit = min(decoding.max_prompt_tokens, room)
    prompts, shortened = _prompts(chat, exchanges, limit)
    several = best_of.n if best_of else 1
    batches = _batches(prompts, several, decoding.batch_size)
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    done = read_partial(partial, key)
    if output.exists() and len(done) < len(batches):
        raise UserError(
            f"{output}: there is no {manifest_path.name} beside it, and it is not what the unfinished "
            f"replies in {partial.name} have become. Delete the file of the two that you do not need, "
            "or choose another --output."
        )
    with explained(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
    for number in tqdm(
        range(len(batches)), desc=f"replies of {system}", unit="batch", disable=None
    ):
        if number in done:
            continue
        some = batches[number]
        own = [
            numbers_of(decoding.seed, exchanges[i].id, k, decoding.max_new_tokens)
            for i, k in (some if best_of else ())
        ]
        done[number] = reply_to(model, chat, [prompts[i] for i, _ in some], decoding, number, own)
        keep(partial, key, number, done[number])
    made = {
        place: _cut(reply) if decoding.cut_at_sentence else reply
        for number, batch in enumerate(batches)
        for place, reply in zip(batch, done[number], strict=True)
    }
    replies = [[made[i, k] for k in range(several)] for i in range(len(exchanges))]
    texts = [[reply["response"] for reply in of_one] for of_one in replies]
    choices = best_of.choose(exchanges, texts) if best_of else None
    for choice, of_one in zip(choices or (), replies, strict=choices is not None):
        for kept, reply in zip(choice["replies"], of_one, strict=True):
            kept["finished"] = reply["finished"]
    rows = [
        _row(exchange, system, len(prompts[i]), replies[i], choices[i] if choices else None)
        for i, exchange in enumerate(exchanges)
    ]
    manifest_path.unlink(missing_ok=True)  # of replies that somebody deleted
    with explained(output):
        write_jsonl(output, rows)
    manifest = {
        **asked,
        "created": now(),
        "responses": len(rows),
        "prompt_limit": limit,
        "prompts_shortened": shortened,
        "finished": sum(row["finished"] for row in rows),
        "empty": sum(not row["response"] for row in rows),
        **({"chosen": best_of.summary(choices, texts)} if best_of and choices else {}),
        "sha256": sha256(output),
        "versions": versions(),
    }
    with explained(manifest_path):
        write_json(manifest_path, manifest)
    partial.unlink()
    return manifest


def _prompts(
    chat: ChatFormat, exchanges: Sequence[Exchange], limit: int
) -> tuple[list[list[int]], int]:
    """Token ids of every prompt, and how many lost their oldest turns to fit into `limit`."""
    prompts, shortened = [], 0
    for exchange in exchanges:
        ids, dropped = chat.fitting_prompt(exchange.messages(), limit)
        if ids is None:
            raise UserError(
                f"exchange {exchange.id!r}: the last speaker turn alone is longer than "
                f"{limit} tokens (--max-prompt-tokens, or what the model can hold)."
            )
        shortened += dropped > 0
        prompts.append(ids)
    return prompts, shortened


def _batches(
    prompts: Sequence[Sequence[int]], several: int, size: int
) -> list[list[tuple[int, int]]]:
    """Places of exchanges, each with the number of its reply, the longest prompts first."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    wanted = [(i, k) for i in order for k in range(several)]
    return [wanted[start : start + size] for start in range(0, len(wanted), size)]


def _cut(reply: Mapping[str, Any]) -> dict[str, Any]:
    return {**reply, "response": cut_at_last_sentence(reply["response"])}


def _row(
    exchange: Exchange,
    system: str,
    prompt_tokens: int,
    replies: Sequence[dict[str, Any]],
    choice: dict[str, Any] | None,
) -> dict[str, Any]:
    """One line of the responses file."""
    reply = replies[choice["place"] if choice else 0]
    return {
        "id": exchange.id,
        "emotion": exchange.emotion,
        "context": exchange.messages(),
        "reference": exchange.reply,
        "response": reply["response"],
        "system": system,
        "prompt_tokens": prompt_tokens,
        "response_tokens": reply["response_tokens"],
        "finished": reply["finished"],
        **({"best_of": choice} if choice else {}),
    }


def reply_to(
    model: PreTrainedModel,
    chat: ChatFormat,
    prompts: list[list[int]],
    decoding: Decoding,
    number: int,
    own: Sequence[torch.Tensor] = (),
) -> list[dict[str, Any]]:
    """Replies to one batch of prompts: text, number of new tokens, whether the reply ended.

    `own` are random numbers for every reply (empo/sampling.py); without them a sampled batch is drawn
    from one stream, seeded by its `number`.
    """
    tokenizer = chat.tokenizer
    tokenizer.padding_side = "left"
    width = max(map(len, prompts))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    sampled = decoding.temperature > 0 and not own
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=sampled,
        temperature=decoding.temperature if sampled else None,
        top_p=decoding.top_p if sampled else None,
        top_k=0 if sampled else None,  # what is not set would come from the checkpoint
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=chat.eos,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    if sampled:
        set_seed(decoding.seed + number)
    drawn = own_sampling(own, decoding.temperature, decoding.top_p) if own else None
    device = model.device
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            logits_processor=drawn,
        )
    replies = []
    for row in out[:, width:].tolist():
        finished = chat.eos in row
        new = row[: row.index(chat.eos)] if finished else row
        text = tokenizer.decode(new, skip_special_tokens=True).strip()
        replies.append(
            {"response": text, "response_tokens": len(new) + finished, "finished": finished}
        )
    return replies


def _finished(output: Path, manifest_path: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The manifest of responses that are complete already, if they are what was asked for."""
    if not manifest_path.is_file():
        raise UserError(
            f"{output}: there is no {manifest_path.name} beside it, so nothing says which model and "
            "settings made it. Put the manifest back, delete the file to have its replies made "
            "again, or choose another --output."
        )
    manifest = read_object(manifest_path)
    differing = [name for name, value in asked.items() if manifest.get(name) != value]
    if differing:
        raise UserError(
            f"{output}: the file holds other responses (it differs in {', '.join(differing)}). "
            "Choose another --output, or delete the file."
        )
    if sha256(output) != manifest.get("sha256"):
        raise UserError(
            f"{output}: the file has been edited since its replies were written (its digest is not "
            f"that of {manifest_path.name}). Delete it to have them written anew, or choose another "
            "--output."
        )
    return manifest
