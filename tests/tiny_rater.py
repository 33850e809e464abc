"""A rater of a few thousand weights in a folder: it has learnt nothing, and its scores differ."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "raters"))
from tiny_encoders import POSITIONS, shaken, write_encoders

from empo.raters.classifier import PairClassifier, PairClassifierConfig
from empo.raters.encoder_rater import EncoderRater, rater_config
from empo.raters.encoders import load_encoder
from empo.raters.inputs import InputSettings
from empo.rating import MECHANISMS, Dimension


def tiny_rater(folder: Path, seed: int = 0) -> Path:
    """A rater of the three EPITOME mechanisms; its encoder lies beside it in `encoders`."""
    encoders = folder.parent / "encoders"
    if not encoders.is_dir():
        write_encoders(encoders)
    weights, tokenizer = load_encoder(str(encoders / "tiny-bert"))
    config = PairClassifierConfig(architecture="cross_encoder", classes=[3, 3, 3])
    model = shaken(PairClassifier.from_encoder(weights, config), seed)
    levels = [Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0)) for name in MECHANISMS]
    described = rater_config(folder.name, levels, InputSettings(max_length=POSITIONS))
    EncoderRater(model, tokenizer, described, weights="", device="cpu").save(folder, None)
    return folder
