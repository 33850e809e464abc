"""Settings of recipes/rater.py that belong to prompted chat models alone."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

from empo.raters.endpoint_requests import key_of, request_problem
from empo.raters.prompt_templates import ITEMS, load_prompts
from empo.records import UserError
from empo.settings import option

PROMPT = "prompt"
"""The architecture: a chat model that is asked, and not trained."""
UNTRAINED = "none"
"""Its loss."""
NOT_CHAT = ("minilm", "scratch")
"""Encoders that are no chat models."""


@dataclass(kw_only=True)
class PromptSettings:
    """What a chat model is asked, where it is, and how it is reached."""

    prompts: str | None = option(
        None, help="prompt: YAML file that replaces or adds wordings and dimensions"
    )
    variants: list[str] | None = option(
        None, help="prompt: wordings to choose from (default: all that the kind of item has)"
    )
    shots: Literal["zero", "few"] = option(
        "zero", help="prompt: few shows one example per level, drawn from train by the seed"
    )
    development: int = option(
        100, help="prompt: examples of the validation part on which the wording is chosen"
    )
    base_url: str | None = option(
        None,
        help="prompt: address of an OpenAI-compatible endpoint, such as https://api.openai.com/v1; "
        "`encoder` is then a model's name there (default: the model runs here)",
    )
    key_variable: str | None = option(
        "OPENAI_API_KEY",
        help="endpoint: environment variable that holds its key; null where it wants none",
    )
    request: dict[str, Any] = option(
        default_factory=lambda: {"temperature": 0, "max_tokens": 16},
        help="endpoint: fields of every request beside model and messages",
    )
    concurrency: int = option(8, help="endpoint: requests under way at once")
    requests_per_minute: float | None = option(
        None, help="endpoint: requests a minute, retries counted (default: no limit)"
    )
    request_timeout: float = option(60.0, help="endpoint: seconds to wait for an answer")
    request_retries: int = option(
        6, help="endpoint: tries after 429, 5xx, a timeout or a lost connection"
    )
    input_price: float | None = option(
        None, help="endpoint: price of a million tokens read (default: no cost is reported)"
    )
    output_price: float | None = option(None, help="endpoint: price of a million tokens written")

    def prompt_problems(self, architecture: str, encoder: str, seeds: int) -> list[str]:
        """What cannot work, for the architecture of the rater."""
        if architecture != PROMPT:
            given = [name for name, default in _DEFAULTS.items() if getattr(self, name) != default]
            of = f"only the architecture {PROMPT} has this."
            return [f"{', '.join(given)}: {of}"] if given else []
        found = []
        if encoder in NOT_CHAT:
            found.append(
                f"encoder: {encoder} is no chat model. Give a hub id, a folder, a preset such as "
                "llama-3-8b-instruct, or base_url and a model's name there."
            )
        if self.base_url is None:
            given = [name for name in ENDPOINT_ONLY if getattr(self, name) != _DEFAULTS[name]]
            if given:
                found.append(f"{', '.join(given)}: only an endpoint has this; base_url is missing.")
        elif problem := url_problem(self.base_url, self.key_variable):
            found.append(problem)
        if self.shots == "zero" and seeds > 1:
            found.append("seeds: without examples nothing is drawn; give one seed.")
        if self.variants is not None and len(set(self.variants)) < max(1, len(self.variants)):
            found.append("variants: different names are expected, at least one.")
        for name in ("development", "concurrency"):
            if getattr(self, name) < 1:
                found.append(f"{name}: {getattr(self, name)} is too few; at least 1.")
        if self.request_timeout <= 0 or self.request_retries < 0:
            found.append("request_timeout and request_retries: above 0, and 0 or more.")
        if self.requests_per_minute is not None and self.requests_per_minute <= 0:
            found.append(f"requests_per_minute: {self.requests_per_minute:g} is not above 0.")
        prices = (self.input_price, self.output_price)
        if (None in prices) != (prices == (None, None)):
            found.append("input_price and output_price belong together; give both.")
        if any(price is not None and price < 0 for price in prices):
            found.append("input_price, output_price: a price is 0 or more.")
        if self.base_url is not None and (problem := request_problem(self.request)):
            found.append(problem)
        return found

    def check_prompts(self) -> None:
        """What cannot be asked whatever the data are: look before they are read.

        Raises UserError for a file of prompts, a wording that no kind of item has, or a missing key.
        """
        prompts = [load_prompts(item, self.prompts) for item in ITEMS]
        wanted = set(self.variants or ())
        if not any(wanted <= of.wordings.keys() for of in prompts):
            there = "; ".join(f"{of.item}: {', '.join(of.wordings)}" for of in prompts)
            raise UserError(
                f"variants: no kind of item has {' and '.join(self.variants or ())}. There are: {there}."
            )
        if self.base_url is not None:
            key_of(self.base_url, self.key_variable)


def url_problem(url: str, key_variable: str | None) -> str | None:
    """Why an address cannot be that of an endpoint; None where it can.

    Never shows a user, password, query or fragment.
    """
    try:
        parts = urlsplit(url)
        host, user = parts.hostname, parts.username
    except ValueError:
        return "base_url: this is no address. It looks like https://api.openai.com/v1."
    if parts.scheme not in ("http", "https") or not host:
        shown = "the address" if any(mark in url for mark in "@?#") else repr(url)
        return (
            f"base_url: {shown} does not begin with https:// (or http://) and a host. It looks like "
            "https://api.openai.com/v1."
        )
    if user is not None:
        return (
            "base_url: it holds a user or password. Leave them out; a key comes from the environment "
            "(key_variable)."
        )
    if "?" in url or "#" in url:
        return (
            "base_url: it holds a query or a fragment (from ? or # on), and it is written into files. "
            "Leave them out; a key comes from the environment (key_variable)."
        )
    if parts.scheme == "http" and key_variable is not None and not _is_here(host):
        return (
            f"base_url: over http anybody between here and {host} could read the key in "
            f"{key_variable}. Give an address with https://, or set key_variable to null where the "
            "endpoint wants no key."
        )
    return None


def _is_here(host: str) -> bool:
    """Whether a host is this machine, by its name or loopback address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


_DEFAULTS: dict[str, Any] = {
    f.name: f.default_factory() if f.default is MISSING else f.default
    for f in fields(PromptSettings)
}
PROMPT_FIELDS = frozenset(_DEFAULTS)
"""Names of these settings."""
ENDPOINT_ONLY = tuple(
    name
    for name in _DEFAULTS
    if name not in ("prompts", "variants", "shots", "development", "base_url")
)
