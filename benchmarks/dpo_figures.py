"""Figures of the rounds of benchmarks/dpo_step.py, and the table of them that it prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from dpo_modes import EPOCHS, MODES, OURS

if TYPE_CHECKING:
    from dpo_modes import Trainers

RATIOS = {
    "ratio_vs_trl_best": ("trl best", OURS),
    "ratio_vs_trl_redraw": ("trl best, re-draw", OURS),
    "ratio_vs_trl_redraw_amortised": ("trl best, re-draw", OURS),
    "ratio_vs_trl_defaults": ("trl defaults", OURS),
    "ratio_with_checkpointing": ("trl best, checkpointing", "shared prefix, checkpointing"),
    "ratio_k3_to_k1": ("shared prefix, K=3", OURS),
}
"""Seconds of one mode over those of another in the same round; see `ratio` for the amortised one."""


def summary(
    rounds: Sequence[dict[str, Any]],
    trainers: Trainers,
    facts: dict[str, Any],
    memory: dict[str, float],
) -> dict[str, Any]:
    """Figures of every mode over these rounds: medians and quartiles, per step or as said.

    `useful_mfu` is (4 N_base + 6 N_adapters) FLOP for every token that has to be computed, prompts
    once and nothing padded, over what the device could do in that time. The pass before training
    covers all epochs; a step of one epoch bears its share.
    """
    base = trainers.parameters["base"] - trainers.parameters["embeddings"]
    flop = 4 * base + 6 * trainers.parameters["adapters"]
    modes: dict[str, Any] = {}
    for name in MODES:
        steps = [r["steps"][name] for r in rounds if name in r["steps"]]
        if name in trainers.out_of_memory:
            modes[name] = {"seconds": None, "reasons": {"seconds": "out of memory"}}
        elif steps:
            modes[name] = {
                "seconds": quartiles([step["seconds"] for step in steps]),
                "per_round": [r["steps"].get(name, {}).get("seconds") for r in rounds],
                "losses": [r["steps"].get(name, {}).get("loss") for r in rounds],
                "ratio_to_ours": ratio(rounds, name, OURS),
                "collating_seconds": quartiles([step["collating"] for step in steps]),
                "tokens_per_pair": mean(step["tokens_per_pair"] for step in steps),
                "real_tokens_per_pair": mean(step["real_tokens_per_pair"] for step in steps),
            }
            if "memory" in steps[0] or name in memory:
                peaks = [step["memory"] for step in steps if "memory" in step]
                modes[name]["peak_memory_mb"] = max(peaks) if peaks else memory[name]
            if facts.get("peak_tflops"):
                could = facts["peak_tflops"] * 1e12
                done = [flop * step["useful_tokens"] / step["seconds"] / could for step in steps]
                modes[name]["useful_mfu"] = quartiles(done)
    return {
        "rounds": len(rounds),
        "modes": modes,
        "reference_pass": {
            "epochs": EPOCHS,
            "seconds_per_step": quartiles([r["reference_pass"] / EPOCHS for r in rounds]),
        },
    }


def ratio(
    rounds: Sequence[dict[str, Any]], name: str, to: str, amortised: bool = False
) -> dict[str, Any]:
    """Seconds of a mode over those of another in the same round.

    `amortised` adds to the second its share of the pass before training.
    """
    values = [
        r["steps"][name]["seconds"]
        / (r["steps"][to]["seconds"] + (r["reference_pass"] / EPOCHS if amortised else 0))
        for r in rounds
        if name in r["steps"] and to in r["steps"]
    ]
    return quartiles(values, f"no round has both {name} and {to}")


def quartiles(values: Sequence[float], reason: str = "no round") -> dict[str, Any]:
    """Median and quartiles, and of how many values; None with a reason where there is none."""
    if not values:
        return {"median": None, "low": None, "high": None, "n": 0, "reasons": {"median": reason}}
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "low": low, "high": high, "n": len(values)}


def mean(values: Any) -> float:
    """Arithmetic mean."""
    return float(np.mean(list(values)))


def show(result: dict[str, Any], measured: dict[str, Any]) -> None:
    """Print the figures of one rank."""
    print(
        f"\n{result['shape']['name']} shape, r={measured['lora_r']}, {result['dtype']}, "
        f"{result['pairs']} pairs a step; seconds are {result['seconds_are']}"
    )
    for kind in ("random", "length_grouped"):
        of = measured[kind]
        if of["rounds"]:
            _table(f"{kind} pairs, {of['rounds']} rounds".replace("_", "-"), of["modes"])
            share = of["reference_pass"]["seconds_per_step"]
            print(f"{'pass before training, share of a step':<38}{share['n']:>3}", end="")
            print(f"{_spread(share, 3):>27}")
    print()
    for name in RATIOS:
        print(f"{name:<34}{_spread(measured[name], 2)}")
    print(f"largest difference between losses: {measured['largest_loss_difference']:.2g}")
    if "gpu" in result["machine"]:
        peak = result["machine"]["peak_tflops"] or "unknown"
        print(f"{result['machine']['gpu']}, assumed peak: {peak} TFLOP/s")
    print(f"peak memory of the process so far: {measured['peak_process_mb']:,.0f} MB")
    print(f"load average at the start, then here: {result['machine']['load_average']}")


def _table(title: str, modes: dict[str, Any]) -> None:
    print(f"\n{title:<38}{'n':>3}{'seconds':>27}{'ratio to ours':>24}{'tokens/pair':>12}", end="")
    print(f"{'real':>6}{'collating ms':>13}{'peak MB':>9}{'MFU':>6}")
    for name, mode in modes.items():
        if mode["seconds"] is None:
            print(f"{name:<41}{mode['reasons']['seconds']:>27}")
            continue
        memory = f"{mode['peak_memory_mb']:,.0f}" if "peak_memory_mb" in mode else ""
        mfu = f"{mode['useful_mfu']['median']:.2f}" if "useful_mfu" in mode else ""
        print(
            f"{name:<38}{mode['seconds']['n']:>3}{_spread(mode['seconds'], 3):>27}"
            f"{_spread(mode['ratio_to_ours'], 2):>24}{mode['tokens_per_pair']:>12.0f}"
            f"{mode['real_tokens_per_pair']:>6.0f}"
            f"{1e3 * mode['collating_seconds']['median']:>13.1f}{memory:>9}{mfu:>6}"
        )


def _spread(of: dict[str, Any], digits: int) -> str:
    if of["median"] is None:
        return of["reasons"]["median"]
    median, low, high = (f"{of[key]:.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"
