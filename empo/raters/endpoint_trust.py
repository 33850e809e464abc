"""Which endpoints the user has named: only they get texts and a key.

A rater's folder can come from anywhere, and it names an address and the variable with the key. If
that alone counted, a folder could have any variable of the environment sent to anybody. So an
endpoint that a recipe of the user's has named is noted in a file of the user's, and a folder can use
those only.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from empo.raters.answer_store import default_answers
from empo.records import UserError, misfit, read_object, write_json

_FILE = TypeAdapter(dict[str, list[str | None]])


def trust_file() -> Path:
    """endpoints.json in the user's cache folder: addresses, and the variables whose key each gets."""
    return default_answers().with_name("endpoints.json")


def trust(base_url: str, key_variable: str | None) -> None:
    """Note an endpoint that the user has named. Raises UserError where the file is damaged."""
    known = _known()
    if key_variable not in known.get(base_url, []):
        write_json(trust_file(), _with(known, base_url, key_variable))


def require_trust(base_url: str, key_variable: str | None, where: str) -> None:
    """Raise UserError where a file (`where`) names an endpoint that the user has not."""
    known = _known()
    if key_variable not in known.get(base_url, []):
        whole = json.dumps(_with(known, base_url, key_variable))
        raise UserError(
            f"{where}: this rater sends the texts to {base_url}, with the key in {key_variable}, and "
            f"you have not named this endpoint here before. If you trust it, let "
            f"{trust_file()} hold {whole}, which keeps what is there."
        )


def _with(
    known: dict[str, list[str | None]], base_url: str, key_variable: str | None
) -> dict[str, list[str | None]]:
    return known | {base_url: [*known.get(base_url, []), key_variable]}


def _known() -> dict[str, list[str | None]]:
    file = trust_file()
    if not file.is_file():
        return {}
    found = read_object(file)
    try:
        return _FILE.validate_python(found)
    except ValidationError as error:
        raise misfit(str(file), error, "Delete it, or mend the entry.") from None
