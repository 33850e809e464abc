"""A rater of a few thousand weights in a folder: it has learnt nothing, and its scores differ."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "raters"))
import torch
from tiny_encoders import shaken, write_encoders
from transformers import AutoTokenizer, BertConfig, BertModel

from empo.raters.classifier import PairClassifier, PairClassifierConfig
from empo.raters.encoder_rater import EncoderRater, rater_config
from empo.raters.inputs import InputSettings
from empo.rating import MECHANISMS, Dimension

POSITIONS = 256
"""Tokens that it reads: enough for every exchange of the sample."""


def tiny_rater(folder: Path, seed: int = 0) -> Path:
    """A rater of the three EPITOME mechanisms; tiny encoders lie beside it in `encoders`."""
    encoders = folder.parent / "encoders"
    if not encoders.is_dir():
        write_encoders(encoders)
    tokenizer = AutoTokenizer.from_pretrained(
        encoders / "tiny-bert", model_max_length=POSITIONS, local_files_only=True
    )
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 16, "max_position_embeddings": POSITIONS}
    weights = BertModel(BertConfig(vocab_size=len(tokenizer), **shape), add_pooling_layer=False)
    config = PairClassifierConfig(architecture="cross_encoder", classes=[3, 3, 3])
    model = shaken(PairClassifier.from_encoder(weights, config), seed)
    levels = [Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0)) for name in MECHANISMS]
    described = rater_config(folder.name, levels, InputSettings(max_length=POSITIONS))
    EncoderRater(model, tokenizer, described, weights="", device="cpu").save(folder, None)
    return folder
