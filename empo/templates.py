"""Chat templates from elsewhere, tried out where they can do no harm.

A chat template is a program in a tokenizer's files. transformers runs it in jinja's sandbox, from
which it reaches no file and no command; but nothing there bounds its time and memory. So it is
rendered once in a process of its own, which has little of both.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache

from empo.records import UserError

CPU_SECONDS = 3
"""For all dialogues of the trial; a usual template takes milliseconds."""
_WAIT = 60
_TURNS = 60

_TRIAL = f"""
import json, re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({CPU_SECONDS}, {CPU_SECONDS} + 1))
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
except (ImportError, ValueError, OSError):
    pass
import jinja2, jinja2.ext, jinja2.sandbox
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError

class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    def unsafe_undefined(self, value, attribute):
        raise SecurityError(f"access to {{attribute!r}} is unsafe")

def fail(*_):
    raise TemplateError("refused by the template itself")

source = re.sub(r"[{{]%-?\\s*(end)?generation\\s*-?%[}}]\\n?", "", sys.stdin.read())
sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
sandbox.globals.update(raise_exception=fail, strftime_now=lambda form: "1 Jan 2000")
sandbox.filters["tojson"] = lambda value, *_, **options: json.dumps(value)
try:
    for node in sandbox.parse(source).find_all((nodes.Getattr, nodes.Getitem)):
        name = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
        if isinstance(name, str) and name.startswith("__"):
            raise SecurityError(f"line {{node.lineno}}: access to {{name!r}} is unsafe")
    template = sandbox.from_string(source)
    turns = [dict(role=("user", "assistant")[i % 2], content="How are you? " * 9) for i in range({_TURNS})]
    system = [dict(role="system", content="Listen.")]
    for messages in (turns[:1], turns[:2], system + turns[:3], system + turns, turns[:-1]):
        for begun in (True, False):
            size = 0
            try:
                for piece in template.generate(
                    messages=messages, add_generation_prompt=begun, bos_token="<s>",
                    eos_token="</s>", pad_token="<p>", unk_token="<u>", tools=None, documents=None,
                ):
                    size += len(piece)
                    if size > 10**6:
                        raise OverflowError("it writes more than a million characters")
            except (SecurityError, OverflowError, RecursionError, MemoryError):
                raise
            except Exception:
                pass  # a template may refuse a dialogue
except TemplateSyntaxError as error:
    print(f"line {{error.lineno}}: {{error.message}}")
except SecurityError as error:
    print(error)
except (OverflowError, RecursionError, MemoryError) as error:
    print(str(error) or "it needs more than a GiB of memory")
else:
    print("-")
"""


@cache
def check_template(template: str, name: str) -> None:
    """Raise UserError where the chat template of `name` is unsafe, endless, oversized or broken.

    It is rendered on a few dialogues, up to 60 turns; what it does on others only, and what a
    template merely refuses, is not seen.
    """
    try:
        trial = subprocess.run(
            [sys.executable, "-P", "-c", _TRIAL],
            input=template.encode("utf-8", "surrogatepass"),
            capture_output=True,
            timeout=_WAIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"it does not end within {_WAIT} seconds"
    else:
        reason = trial.stdout.decode("utf-8", "replace").strip()
        if not reason:
            reason = f"it does not end within {CPU_SECONDS} seconds, or takes more than a GiB"
    if reason != "-":
        raise UserError(
            f"{name}: the chat template of the tokenizer is not used: {' '.join(reason.split())[:500]}. "
            "Take the template out of a copy of the model (chat_template.jinja, or the field "
            "chat_template of tokenizer_config.json) and set `chat_template: zephyr`."
        )
