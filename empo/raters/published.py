"""The published EPITOME classifiers (Sharma et al. 2020) as raters: `.pth` files to safetensors.

A `.pth` file is a pickle. It is read with `weights_only=True`, which runs no code, once, here.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import torch

from empo.raters.classifier import PairClassifier, PairClassifierConfig
from empo.raters.encoder_rater import EncoderRater, rater_config
from empo.raters.encoders import load_encoder, resolve_encoder
from empo.raters.folder import JOINED, RaterConfig
from empo.raters.inputs import InputSettings
from empo.rating import Dimension
from empo.records import UserError

TOKENS = 64
"""Of a text, with the two special ones; the published code cuts and pads both texts to them."""
INPUTS = InputSettings(
    max_length=TOKENS - 2, response_max_length=TOKENS - 2, lowercase=True, context_side="right"
)
"""As published: lower case, both texts cut on the right."""

_NO_WEIGHTS = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OverflowError, MemoryError),
    *(IndexError, KeyError, TypeError, AttributeError, AssertionError, OSError, struct.error),
)
"""What torch raises for a file that is no pickle of weights, or a damaged one."""
_UNUSED = re.compile(r"norm\.|.*(position_ids|pooler\.|lm_head\.)")
_RENAMED = (
    (re.compile(r"^seeker_encoder\.(roberta\.)?"), "context_encoder."),
    (re.compile(r"^responder_encoder\.(roberta\.)?"), "encoder."),
    (re.compile(r"^attn\.out\."), "attention.out_proj."),
    (re.compile(r"^empathy_classifier\.dense\."), "heads.0.1."),
    (re.compile(r"^empathy_classifier\.out_proj\."), "heads.0.4."),
    (re.compile(r"^rationale_classifier\."), "rationale_head."),
)


def convert(files: Mapping[str, str | Path], output: str | Path, encoder: str) -> Path:
    """Write a rater folder from one published `.pth` file per mechanism.

    `files` maps the name of a dimension (0..2) to its file. `encoder` gives shape and tokenizer, as
    published roberta-base. Levels are those of the published code, which attends to the padding of
    the context, too, and whose tokenizer (transformers 2.7) puts a blank before a text. Blanks at
    the end of a text are no tokens there; here they are. The raters warn for good: they have no
    evidence, because nothing shows on which posts they were trained.

    Raises UserError where a file is no plain state dictionary, or weights are missing, surplus or
    of another size.
    """
    output = Path(output)
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output}: the folder is not empty; choose another one.")
    path, encoder_name = resolve_encoder(encoder)
    base, tokenizer = load_encoder(path)
    tokenizer = type(tokenizer).from_pretrained(path, add_prefix_space=True)
    raters = []
    for name, file in files.items():
        dimension = Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0))
        config = PairClassifierConfig(
            architecture="seeker_attention",
            classes=[3],
            rationales=True,
            dropout=0.1,
            mask_context=False,
            pad_context_to=TOKENS,
        )
        model = PairClassifier.from_encoder(base, config)
        _load(model, _renamed(_read(file)), file)
        kept = {"encoder": encoder_name, "converted_from": Path(file).name}
        described = rater_config(f"epitome-{name}", [dimension], INPUTS, **kept)
        raters.append(EncoderRater(model, tokenizer, described, weights=""))
    for name, rater in zip(files, raters, strict=True):  # when all files were found good
        rater.save(output / name)
    dimensions = tuple(dimension for rater in raters for dimension in rater.dimensions)
    RaterConfig(JOINED, output.name, dimensions, {"members": list(files)}).write(output)
    return output


def _read(file: str | Path) -> Mapping[str, torch.Tensor]:
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Check the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _NO_WEIGHTS as error:
        raise UserError(
            f"{path}: this is no plain table of weights, so it is not opened "
            f"({' '.join(str(error).split())[:200]})."
        ) from None
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise UserError(f"{path}: a state dictionary (name to tensor) is expected.")
    return state


def _renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Published names to ours; query, key and value become torch's one input projection."""
    found: dict[str, torch.Tensor] = {}
    for kind in ("weight", "bias"):
        parts = [f"attn.{side}_linear.{kind}" for side in "qkv"]
        if all(part in state for part in parts):
            found[f"attention.in_proj_{kind}"] = torch.cat([state[part] for part in parts])
    for name, value in state.items():
        if _UNUSED.match(name) or re.match(r"attn\.[qkv]_linear\.", name):
            continue
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
        found[name] = value
    return found


def _load(model: PairClassifier, state: Mapping[str, torch.Tensor], file: str | Path) -> None:
    expected = model.state_dict()
    wrong = [f"{name} is missing" for name in expected.keys() - state.keys()]
    wrong += [f"{name} is not expected" for name in state.keys() - expected.keys()]
    wrong += [
        f"{name} has the shape {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    ]
    if wrong:
        raise UserError(
            f"{file}: these are not the weights of a published EPITOME classifier with this encoder: "
            f"{'; '.join(sorted(wrong)[:3])} ({len(wrong)} in all)."
        )
    model.load_state_dict(state)
