"""Chat templates from elsewhere: unsafe, endless, oversized and broken ones are refused in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from empo.models import load_tokenizer, resolve
from empo.prompts import ZEPHYR_TEMPLATE, ChatFormat
from empo.records import UserError
from empo.templates import check_template


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ ''.__class__ }}", "line 1: access to '__class__' is unsafe"),
        ("{{ ''['__class__'] }}", "line 1: access to '__class__' is unsafe"),
        ("{{ ''|attr('__cl' ~ 'ass__') }}", "access to '__class__' is unsafe"),
        ("a\n{% if messages|length > 999 %}{{ x.__init__ }}{% endif %}", "line 2: access to"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "it does not end within 3 seconds, or takes more than a GiB",
        ),
        ("{{ 'a' * 10 ** 10 }}", "more than a GiB"),
        ("{% set x = 'a' * 999 %}{% for i in range(9999) %}{{ x }}{% endfor %}", "a million"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{% if messages %}", "line 1: "),
    ],
)
def test_templates_that_are_refused(folder: Path, template: str, said: str) -> None:
    (folder / "base" / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError) as error:
        load_tokenizer(resolve(str(folder / "base")))
    message = str(error.value)
    assert message.startswith(
        f"{folder / 'base'}: the chat template of the tokenizer is not used: "
    )
    assert said in message and "set `chat_template: zephyr`" in message


@pytest.mark.parametrize(
    "template",
    [
        ZEPHYR_TEMPLATE,
        "{% for m in messages %}{{ m.role | upper }}: {{ m['content'] | trim }}{% endfor %}",
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}x",
        "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{{ messages | tojson }}",
        "{% set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}"
        "{% if loop.first %}{% continue %}{% endif %}{% endfor %}{{ ns.n }}",
    ],
)
def test_templates_as_they_are(template: str) -> None:
    check_template(template, "name")


def test_a_template_that_is_tried_is_the_one_that_is_used(folder: Path) -> None:
    chat = ChatFormat(load_tokenizer(resolve(str(folder / "base"))))
    assert chat.template == ZEPHYR_TEMPLATE


def test_transformers_renders_in_a_sandbox(folder: Path) -> None:
    from jinja2.exceptions import SecurityError

    tokenizer = load_tokenizer(resolve(str(folder / "base")))
    for template in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        with pytest.raises(SecurityError):
            tokenizer.apply_chat_template(
                [{"role": "user", "content": "Hi."}], chat_template=template, tokenize=False
            )
