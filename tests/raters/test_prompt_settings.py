from __future__ import annotations

from typing import Any

import pytest

from empo.raters.prompt_settings import url_problem
from empo.raters.settings import RaterSettings


def problems(**given: Any) -> str:
    base = {"data": "d", "architecture": "prompt", "loss": "none", "encoder": "a/b", "seeds": [1]}
    return " ".join(RaterSettings(**(base | given)).problems())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ""),
        ({"base_url": "http://localhost:8000/v1", "concurrency": 2, "dtype": "bfloat16"}, ""),
        ({"loss": "cross_entropy"}, "architecture prompt and loss none belong together"),
        ({"architecture": "scoring_lm", "loss": "none"}, "belong together"),
        ({"encoder": "minilm"}, "encoder: minilm is no chat model"),
        ({"encoder": "scratch"}, "encoder: scratch is no chat model"),
        ({"base_url": "api.openai.com/v1"}, "'api.openai.com/v1' does not begin with https://"),
        ({"base_url": "ftp://x/v1"}, "does not begin with https://"),
        ({"base_url": "https://"}, "does not begin with https://"),
        ({"base_url": "https://me:secret@host/v1"}, "it holds a user or password"),
        (
            {"base_url": "https://host/v1?api_key=secret"},
            "base_url: it holds a query or a fragment",
        ),
        ({"base_url": "https://host/v1#secret"}, "it holds a query or a fragment"),
        ({"base_url": "http://host/v1"}, "and host could read the key in OPENAI_API_KEY. Give an"),
        ({"base_url": "http://192.0.2.7:8000/v1"}, "could read the key in OPENAI_API_KEY"),
        ({"base_url": "http://localhost.example/v1"}, "could read the key in OPENAI_API_KEY"),
        ({"base_url": "http://host/v1", "key_variable": None}, ""),
        ({"base_url": "http://127.0.0.1:8000/v1"}, ""),
        ({"base_url": "http://[::1]:8000/v1"}, ""),
        ({"seeds": [1, 2]}, "without examples nothing is drawn; give one seed"),
        ({"seeds": [1, 2], "shots": "few"}, ""),
        ({"concurrency": 2}, "concurrency: only an endpoint has this; base_url is missing"),
        ({"development": 0}, "development: 0 is too few"),
        ({"base_url": "https://a/v1", "concurrency": 0}, "concurrency: 0 is too few"),
        ({"base_url": "https://a/v1", "requests_per_minute": 0.0}, "requests_per_minute: 0 is not"),
        ({"base_url": "https://a/v1", "request_timeout": 0.0}, "request_timeout and request_ret"),
        ({"base_url": "https://a/v1", "input_price": 1.0}, "belong together; give both"),
        (
            {"base_url": "https://a/v1", "input_price": -1.0, "output_price": 1.0},
            "a price is 0 or more",
        ),
        ({"base_url": "https://a/v1", "request": {"model": "m"}}, "request: model cannot be set"),
        (
            {"base_url": "https://a/v1", "request": {"max_token": 16}},
            "request: max_token is no field of a chat completion; did you mean max_tokens?",
        ),
        (
            {"base_url": "https://a/v1", "request": {"extra_headers": {"X": "secret"}}},
            "request: extra_headers is refused, since these fields are written into files",
        ),
        ({"base_url": "https://a/v1", "request": {"extra_body": {}}}, "extra_body is refused"),
        ({"base_url": "https://a/v1", "request": {"extra_query": {}}}, "extra_query is refused"),
        ({"base_url": "https://a/v1", "request": {"timeout": 3}}, "timeout is refused"),
        ({"base_url": "https://a/v1", "request": {"self": 3}}, "self is no field"),
        ({"base_url": "https://a/v1", "request": {"top_p": 0.5, "seed": 1, "stop": "\n"}}, ""),
        ({"variants": []}, "variants: different names are expected"),
        ({"dropout": 0.5}, "dropout: only raters of levels have this"),
        ({"lora_r": 4}, "lora_r: only the architecture scoring_lm has this"),
        (
            {"encoder": "minilm", "architecture": "window", "loss": "focal", "shots": "few"},
            "shots:",
        ),
    ],
)
def test_settings_that_cannot_work_are_told(given: dict[str, Any], expected: str) -> None:
    found = problems(**given)
    assert expected in found if expected else found == ""
    assert "secret" not in found


def test_an_address_is_never_shown_with_its_password() -> None:
    assert "geheim" not in str(url_problem("nothing://anna:geheim@host", None))
    assert "geheim" not in str(url_problem("host/v1?key=geheim", None))
    assert "no address" in str(url_problem("http://[bad", None))
