"""What a browser sends back: whether it comes from our own page, and whether it can be an answer."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlsplit

from empo.survey.texts import LARGEST

MOST_BYTES = 16_384
"""Of a body; the largest real one has a few hundred."""
_MOST_FIELDS = 100
_NUMBER = re.compile(r"\d{1,3}")
_STAMP = re.compile(r"(\d{1,12})\.([0-9a-f]{16})\.([0-9a-f]{64})")


def same_site(headers: Mapping[str, str], url: str) -> bool:
    """Whether a request says that it comes from a page of this site.

    Browsers send Origin and Sec-Fetch-Site with every form; a tool that sends neither still needs a
    stamp of the page.
    """
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    return urlsplit(origin).netloc in {headers.get("host", ""), urlsplit(url).netloc} - {""}


def stamp(key: bytes, *parts: object) -> str:
    """A hidden field that only this server can make, for this page and person, with the time.

    It shows that a form comes from our page, and how long the page was open. No two are equal.
    """
    tenths, nonce = round(time.time() * 10), secrets.token_hex(8)
    return f"{tenths}.{nonce}.{_seal(key, tenths, nonce, *parts)}"


def seconds_since(key: bytes, sent: str, *parts: object) -> float | None:
    """Seconds (0.1) since a stamp with the same parts was made; None where it is none of ours."""
    match = _STAMP.fullmatch(sent)
    if match is None or not hmac.compare_digest(match[3], _seal(key, match[1], match[2], *parts)):
        return None
    return max(0, round(time.time() * 10) - int(match[1])) / 10


def cookie_of(key: bytes, sent: str) -> str:
    """The cookie of the browser that sends the page of consent with this stamp.

    The same form sent again, as after an answer that was lost on its way, gets the same one.
    """
    return _seal(key, "cookie", sent)


def _seal(key: bytes, *parts: object) -> str:
    return hmac.digest(key, "\n".join(map(str, parts)).encode(), "sha256").hex()


def fields(body: bytes) -> dict[str, str] | None:
    """The fields of a form as browsers encode it; None where it is none or has a field twice."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        return None
    found = dict(pairs)
    return found if len(found) == len(pairs) else None


def read_ratings(
    form: Mapping[str, str], sliders: Sequence[str], box: str
) -> tuple[dict[str, int], dict[str, str]]:
    """The ratings of a form, and what is wrong: aspect -> `unset` or `range`.

    A slider takes a whole number from 0 to LARGEST; a box that is not sent is not ticked.
    """
    ratings: dict[str, int] = {}
    wrong: dict[str, str] = {}
    for name in sliders:
        text = form.get(name, "").strip()
        if not text:
            wrong[name] = "unset"
        elif not (text.isascii() and _NUMBER.fullmatch(text)) or int(text) > LARGEST:
            wrong[name] = "range"
        else:
            ratings[name] = int(text)
    sent = form.get(box)
    if sent in (None, "1"):
        ratings[box] = int(sent == "1")
    else:
        wrong[box] = "range"
    return ratings, wrong
