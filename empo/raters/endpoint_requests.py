"""One request to an OpenAI-compatible endpoint: the client, the reading of a reply, the reasons.

The only file that knows the `openai` package.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from empo.json_values import decoded
from empo.raters.answer_store import Said
from empo.records import UserError

if TYPE_CHECKING:
    import openai

EXCERPT = 500
"""Characters kept of a body that is no chat completion."""
_FILTERED = "content"
"""In the code of a refusal because of what a text says (content_filter, content_policy_violation)."""


_OURS = ("model", "messages", "stream", "n")
"""Fields of a request that are set here."""
_NOT_OF_THE_MODEL = ("extra_headers", "extra_query", "extra_body", "timeout")
"""What the client takes beside the fields of a request: it could hold a key, and moves no answer."""


@dataclass(frozen=True)
class Access:
    """How an endpoint is reached; nothing of it moves an answer.

    `key_variable` names the environment variable with the key, None where the endpoint wants none.
    Prices are per million tokens, in any currency.
    """

    key_variable: str | None = "OPENAI_API_KEY"
    concurrency: PositiveInt = 8
    requests_per_minute: PositiveFloat | None = None
    timeout: PositiveFloat = 60.0
    retries: NonNegativeInt = 6
    input_price: NonNegativeFloat | None = None
    output_price: NonNegativeFloat | None = None


def request_problem(names: Iterable[str]) -> str | None:
    """Why fields of a request cannot be sent; None where they can, or openai is not installed.

    Names only are shown.
    """
    try:
        from openai.resources.chat.completions import Completions
    except ImportError:
        return None  # `client_of` says so where something has to be asked
    taken = (*_OURS, *_NOT_OF_THE_MODEL, "self")
    known = [name for name in inspect.signature(Completions.create).parameters if name not in taken]
    found = []
    for name in names:
        if name in _OURS:
            found.append(f"{name} cannot be set here.")
        elif name in _NOT_OF_THE_MODEL:
            found.append(
                f"{name} is refused, since these fields are written into files; a key comes from the "
                "environment (key_variable), a time from request_timeout."
            )
        elif name not in known:
            near = get_close_matches(name, known, 1)
            found.append(
                f"{name} is no field of a chat completion"
                + (f"; did you mean {near[0]}?" if near else ".")
            )
    return f"request: {' '.join(found)}" if found else None


def key_of(base_url: str, key_variable: str | None) -> str:
    """The key of an endpoint, from the environment only; empty where it wants none.

    Raises UserError where the key, or the package that sends it, is missing.
    """
    if find_spec("openai") is None:
        raise UserError(
            "an endpoint needs the package openai, which is not installed. Install it with "
            "`pip install empo[api]`."
        )
    if key_variable is None:
        return ""
    key = os.environ.get(key_variable, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {key_variable} with the key of {base_url} is not "
            f"set. Set it (`export {key_variable}=...`), name another one with "
            "`key_variable`, or set that to null where the endpoint wants no key."
        )
    return key


def client_of(
    base_url: str, access: Access, before: Callable[[Any], None]
) -> tuple[openai.OpenAI, str]:
    """The client and the key; `before` is called before every request.

    Raises UserError as `key_of`.
    """
    key = key_of(base_url, access.key_variable)
    import openai

    client = openai.OpenAI(
        api_key=key or "none",
        base_url=base_url,
        timeout=access.timeout,
        max_retries=access.retries,
        http_client=openai.DefaultHttpxClient(event_hooks={"request": [before]}),
    )
    return client, key


def said_by(client: openai.OpenAI, body: Mapping[str, Any]) -> Said:
    """Send one request, with the client's retries, and read the reply strictly.

    A refusal because of what the texts say is a reply, too. Raises what the client raises.
    """
    import openai

    try:
        raw = client.chat.completions.with_raw_response.create(**body)
    except openai.BadRequestError as error:
        if _FILTERED not in str(error.code):
            raise
        return Said(f"refused ({error.code})", well_formed=False)
    return _read(raw.text)


def _read(body: str) -> Said:
    try:
        reply = decoded(body)
        choice = reply["choices"][0]
        message, whole = choice["message"], choice.get("finish_reason") != "length"
        said = message.get("content")
        if said is None:
            said = message.get("refusal") or ""
        if not isinstance(said, str):
            raise TypeError
    except (ValueError, LookupError, TypeError, AttributeError):
        return Said(body[:EXCERPT], well_formed=False)
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    served = reply.get("model")
    return Said(
        said,
        whole,
        *(number if isinstance(number, int) else 0 for number in tokens),
        served if isinstance(served, str) else "",
    )


def why_not(error: Exception, model: str, base_url: str, access: Access) -> str | None:
    """Why there was no reply, and what to do about it; None where the endpoint is not to blame."""
    import openai

    if not isinstance(error, openai.APIError):
        return None
    status = getattr(error, "status_code", None)
    shown = " ".join(str(error).split())[:300].rstrip(".")
    if status == 404:
        return (
            f"{base_url}: it does not know the model {model!r} (404: {shown}). Check the name "
            f"(`encoder`) and `base_url`; {base_url.rstrip('/')}/models lists what it has."
        )
    if status in (401, 403):
        return (
            f"{base_url}: the key is refused ({shown}). Check the environment variable "
            f"{access.key_variable} and what the key may use."
        )
    tries = f"after {access.retries + 1} tries"
    if status is None:
        slow = isinstance(error, openai.APITimeoutError)
        what = f"no answer within {access.timeout:g} seconds" if slow else "no connection"
        return f"{base_url}: {what} {tries} ({shown}). Check that the endpoint runs."
    if status == 429 or status >= 500:
        return (
            f"{base_url}: it answers {status} {tries} ({shown}). Wait, lower `concurrency` or set "
            "`requests_per_minute`."
        )
    if getattr(error, "code", None) == "context_length_exceeded":
        return (
            f"{base_url}: a prompt is longer than the model can read ({shown}). Lower `max_length`."
        )
    return f"{base_url}: it refuses the request ({shown}). Check the fields of `request`."
