"""Pairs per second of the rater architectures, interleaved in one process on the same pairs.

    python benchmarks/raters.py --output raters.json

Modes: a cross-encoder; a bi-encoder that embeds every text; a bi-encoder whose embeddings are kept
by text (they are looked up and its heads run); and any rater behind its cache on disk. Reported are medians with quartiles
over the rounds, and ratios to the cross-encoder of the same round.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from empo.process import run
from empo.records import write_json
from empo.runs import now, versions
from empo.settings import option, parse

if TYPE_CHECKING:
    import torch

    from empo.raters.encoder_rater import EncoderRater
    from empo.rating import RatingInput

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Settings:
    """What to measure."""

    output: str | None = option(None, help="JSON file for the figures")
    dialogues: str = option(str(ROOT / "data" / "sample"), help="corpus whose test pairs are rated")
    encoder: str = option("minilm", help="encoder of all architectures")
    pairs: int = option(256, help="pairs per round")
    rounds: int = option(5, help="rounds; every mode runs once in each")
    batch_size: int = option(64, help="pairs per batch")
    threads: int | None = option(None, help="CPU threads (default: all)")
    device: str = option("cpu", help="cpu, cuda, ...")
    seed: int = option(0, help="seed of the untrained heads")


def main(argv: Sequence[str] | None = None) -> int:
    """Build the modes, run the rounds, print and save the figures."""
    (settings,) = parse(argv, Settings, prog="benchmarks/raters.py", description=__doc__ or "")
    import torch

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        modes, tokens = _modes(settings, Path(folder))
        for mode in modes.values():
            mode()  # the first call warms up, and fills the cache
        seconds = {name: [] for name in modes}
        for _ in range(settings.rounds):
            for name, mode in modes.items():
                begin = time.perf_counter()
                mode()
                seconds[name].append(time.perf_counter() - begin)
    times = {name: np.array(values) for name, values in seconds.items()}
    figures = {
        name: {
            "pairs_per_second": _quartiles(settings.pairs / values),
            "ratio_to_cross_encoder": _quartiles(times["cross_encoder"] / values),
        }
        for name, values in times.items()
    }
    result = {
        "created": now(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "device": settings.device,
        "encoder": settings.encoder,
        "pairs": settings.pairs,
        "rounds": settings.rounds,
        "mean_tokens_per_pair": tokens,
        "modes": figures,
    }
    print(f"{'mode':<28}{'pairs/s':>12}{'quartiles':>22}{'ratio':>10}{'quartiles':>20}")
    for name, figure in figures.items():
        speed, ratio = figure["pairs_per_second"], figure["ratio_to_cross_encoder"]
        print(
            f"{name:<28}{speed['median']:>12,.0f}"
            f"{'{:,.0f} to {:,.0f}'.format(speed['low'], speed['high']):>22}"
            f"{ratio['median']:>10.2f}{'{:.2f} to {:.2f}'.format(ratio['low'], ratio['high']):>20}"
        )
    if settings.output:
        write_json(settings.output, result)
        print(settings.output)
    return 0


def _modes(settings: Settings, folder: Path) -> tuple[dict[str, Callable[[], object]], float]:
    """Name to a function that rates all pairs once; and the mean tokens of a pair."""
    import torch

    from empo.corpora import load_corpus
    from empo.raters.classifier import PairClassifier, PairClassifierConfig
    from empo.raters.combined import CachedRater
    from empo.raters.encoder_rater import EncoderRater, rater_config
    from empo.raters.encoders import load_encoder, resolve_encoder
    from empo.raters.inputs import InputSettings
    from empo.rating import MECHANISMS, Dimension, RatingInput

    dimensions = [Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0)) for name in MECHANISMS]
    encoder, tokenizer = load_encoder(resolve_encoder(settings.encoder)[0])
    raters = {}
    for architecture in ("cross_encoder", "bi_encoder"):
        config = PairClassifierConfig(architecture=architecture, classes=[3, 3, 3])
        model = PairClassifier.from_encoder(encoder, config)
        described = rater_config(architecture, dimensions, InputSettings())
        raters[architecture] = EncoderRater(
            model, tokenizer, described, weights="", device=settings.device
        )
    exchanges = load_corpus(settings.dialogues, "test").exchanges()
    texts = [(e.context[-1].text, e.reply) for e in exchanges]
    pairs = [RatingInput(*texts[i % len(texts)]) for i in range(settings.pairs)]
    rows = raters["cross_encoder"].inputs.rows(pairs)
    kept = _embedded(raters["bi_encoder"], pairs)
    bi = raters["bi_encoder"].model

    def heads() -> object:
        with torch.inference_mode():
            context = torch.stack([kept[pair.context] for pair in pairs])
            response = torch.stack([kept[pair.response] for pair in pairs])
            return bi.classify(torch.cat([context, response], dim=-1)).cpu().numpy()

    cached = CachedRater(raters["cross_encoder"], folder / "ratings.sqlite")
    size = settings.batch_size
    modes = {
        "cross_encoder": lambda: raters["cross_encoder"].score(pairs, batch_size=size),
        "bi_encoder": lambda: raters["bi_encoder"].score(pairs, batch_size=size),
        "bi_encoder, embeddings kept": heads,
        "cache on disk": lambda: cached.score(pairs, batch_size=size),
    }
    return modes, float(np.mean([row.length for row in rows if row is not None]))


def _embedded(rater: EncoderRater, pairs: Sequence[RatingInput]) -> dict[str, torch.Tensor]:
    """The vector of every text, as the rater reads it."""
    import torch

    kept: dict[str, torch.Tensor] = {}
    model = rater.model.to(rater.device).eval()
    with torch.inference_mode():
        for pair, row in zip(pairs, rater.inputs.rows(pairs), strict=True):
            for text, ids in ((pair.context, row.context_ids), (pair.response, row.ids)):
                if text not in kept:
                    tensors = (part.to(rater.device) for part in rater.inputs.single([ids]))
                    kept[text] = model.embed(*tensors)[0]
    return kept


def _quartiles(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    run(main)
