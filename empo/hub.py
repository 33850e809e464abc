"""The hub of models and data sets: whether it can be reached, and what to do where it cannot."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from empo.records import UserError
from empo.redaction import redacted

logger = logging.getLogger(__name__)

SECONDS = 5.0
"""How long one answer is waited for; the libraries try every file six times, for half a minute."""


def offline() -> bool:
    """Whether only what is in the cache can be had.

    True with HF_HUB_OFFLINE, and where one request to the hub finds no way; then the libraries are
    told so, for they would go on trying for minutes.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    if _reachable():
        return False
    logger.warning("%s cannot be reached: only the cache is used", constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = True
    try:
        import datasets
    except ImportError:
        pass  # a library that is not installed asks for nothing
    else:
        datasets.config.HF_HUB_OFFLINE = True
    return True


def fetch(name: str, files: Iterable[str], revision: str | None = None) -> list[Path]:
    """Those of `files` that a model has, from the cache or the hub.

    Raises UserError where nothing of it can be had, and why.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    alone, found = offline(), []
    for file in files:
        try:
            found.append(Path(hf_hub_download(name, file, revision=revision)))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) and not alone:  # it may have one
                raise not_in_cache("model", name) from None
            continue
        except (HfHubHTTPError, HFValidationError) as error:
            raise UserError(
                f"{name}: the hub does not give it: {redacted(' '.join(str(error).split()))[:400]} "
                "Check name and revision, and that you may see it (`hf auth login`)."
            ) from None
    if alone and not found:
        raise not_in_cache("model", name)
    return found


def not_in_cache(what: str, name: str, kind: str = "model") -> UserError:
    """The error for something of the hub that is neither in the cache nor to be had now.

    `what` is the part that was wanted (tokenizer, encoder); `kind` is model or dataset.
    """
    option = "" if kind == "model" else f" --repo-type {kind}"
    return UserError(
        f"{name}: the {what} is not in the cache of the hub, and the hub cannot be asked "
        "(HF_HUB_OFFLINE is set, or there is no network). Where there is a network, run "
        f"`hf download {name}{option}`; or fetch it with `--local-dir FOLDER` and give that folder."
    )


@cache
def _reachable() -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # of a class of the client that this version of the library has
        return False
    return True
