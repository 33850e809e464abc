"""Secrets kept out of what is written and shown."""

from __future__ import annotations

import os
import re

HIDDEN = "<hidden>"

_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/\s@'\"]+@")
_LIKE_A_KEY = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|gh[opsu]_[A-Za-z0-9]{20,})")
_SHORTEST = 8
"""Shorter values of the environment are switches, not secrets, and would be found everywhere."""


def redacted(text: str) -> str:
    """A text without user and password of a URL, and without tokens.

    Tokens are values of environment variables whose name says so (HF_TOKEN, WANDB_API_KEY, ...),
    and what looks like a key of the hub, OpenAI or GitHub.
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _NAMES.search(name) and not os.path.exists(value):
            text = text.replace(value, HIDDEN)
    return _LIKE_A_KEY.sub(HIDDEN, _USER.sub(f"{HIDDEN}@", text))


def reason(error: Exception) -> str:
    """An error of a library on one line; one of a key or type says little without its kind."""
    said = redacted(" ".join(str(error).split()))[:400].rstrip(".")
    plain = isinstance(error, OSError | ValueError | RuntimeError | ImportError)
    return f"{said}." if plain else f"{type(error).__name__}: {said}."
