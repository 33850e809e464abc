"""Encoders of a few thousand parameters, with tokenizers made from composed sentences."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

POSITIONS = 40
"""Tokens that each of these encoders can read."""

SENTENCES = (
    "I lost my job today and I do not know what to do.",
    "My dog was sick, but he is fine now!",
    "We went to the beach and it rained all day.",
    "Nobody came to my birthday party.",
    "That sounds hard. I am so sorry that you went through it.",
    "How did it start? Do you have a friend near you?",
    "I can see why you felt alone there.",
    "Yes, no, well, good, bad, weak, strong: a few words more.",
    "speaker: my sister moved away. listener: you must miss her.",
)


def write_encoders(folder: Path) -> dict[str, Path]:
    """Folders with an encoder each: `bert` (segment ids), `roberta` (positions with an offset,
    byte-level tokens), `t5` (relative positions, a decoder that raters leave out)."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 64, "initializer_range": 0.1}
    bert, roberta, t5 = _bert_tokenizer(), _roberta_tokenizer(), _t5_tokenizer()
    models_of = {
        "bert": BertModel(
            BertConfig(vocab_size=len(bert), max_position_embeddings=POSITIONS, **shape)
        ),
        "roberta": RobertaModel(
            RobertaConfig(
                vocab_size=len(roberta),
                max_position_embeddings=POSITIONS + 2,
                type_vocab_size=1,
                pad_token_id=1,
                **shape,
            )
        ),
        "t5": T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(t5),
                d_model=32,
                d_kv=16,
                d_ff=64,
                num_layers=2,
                num_heads=2,
                decoder_start_token_id=0,
            )
        ),
    }
    found = {}
    for name, tokenizer in (("bert", bert), ("roberta", roberta), ("t5", t5)):
        found[name] = folder / f"tiny-{name}"
        models_of[name].save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
    return found


def shaken(model: nn.Module, seed: int = 0, std: float = 0.2) -> nn.Module:
    """The model with noise on every weight, so that equal outputs are no matter of zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += std * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def _bert_tokenizer() -> PreTrainedTokenizerBase:
    """Words of up to four letters, longer ones in two pieces: long enough to be cut inside a word."""
    words = sorted({word for text in SENTENCES for word in re.findall(r"[a-z]+", text.lower())})
    pieces = [word[:4] for word in words] + [f"##{word[4:]}" for word in words if word[4:]]
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = dict.fromkeys([*special, *string.punctuation, *letters, *pieces])
    return BertTokenizer(
        vocab={token: i for i, token in enumerate(vocabulary)}, model_max_length=POSITIONS
    )


def _roberta_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=POSITIONS)


def _t5_tokenizer() -> PreTrainedTokenizerBase:
    words = sorted({f"\u2581{word}" for text in SENTENCES for word in re.findall(r"\w+", text)})
    pieces = [word[:5] for word in words] + [word[5:] for word in words if word[5:]]
    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = dict.fromkeys([*special, "\u2581", *string.ascii_letters, *".,:?!", *pieces])
    scores = [(piece, 0.0 if piece in special else -10.0 + len(piece)) for piece in vocabulary]
    return T5Tokenizer(vocab=scores, extra_ids=2, model_max_length=POSITIONS)
