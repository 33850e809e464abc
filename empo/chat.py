"""`empo chat`: tell one or two systems the same and read their replies side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from empo.alignment.launching import quiet_dependencies
from empo.prompts import SYSTEM_MESSAGE
from empo.settings import option, parse


@dataclass
class ChatSettings:
    """Settings of `empo chat`."""

    model: list[str] = option(help="one or two models: hub ids, model folders or run folders")
    device: str = option("cpu", help="cpu, cuda, ...")
    max_new_tokens: int = option(60, help="longest reply")
    temperature: float = option(0.0, help="0 is greedy")
    seed: int = option(42, help="seed for sampling")
    trust_remote_code: bool = option(
        False, help="run the code that comes with these models, if they bring any"
    )

    def problems(self) -> list[str]:
        """What cannot work."""
        return [] if len(self.model) <= 2 else ["--model: at most two systems fit side by side."]


def chat_command(argv: Sequence[str]) -> int:
    """Talk to one or two systems side by side, in the terminal.

    Each system goes on with its own replies. An empty line begins anew, ctrl-d ends.

    Example: empo chat --model runs/demo/base runs/demo/dpo
    """
    (settings,) = parse(
        argv, ChatSettings, prog="empo chat", description=chat_command.__doc__ or ""
    )
    quiet_dependencies()
    from empo import models
    from empo.generation import Decoding, reply_to
    from empo.prompts import ChatFormat

    decoding = Decoding(settings.max_new_tokens, settings.temperature, seed=settings.seed)
    systems = {}
    for name in settings.model:
        source = models.resolve(name, trust_remote_code=settings.trust_remote_code)
        tokenizer = models.load_tokenizer(source)
        message = source.run.get("system_message", SYSTEM_MESSAGE)
        form = ChatFormat(tokenizer, system_message=message, training=False)
        systems[name] = (models.load_model(source, device=settings.device).eval(), form)
    histories: dict[str, list[dict[str, str]]] = {name: [] for name in systems}
    turn = 0
    while True:
        try:
            text = input("you> ").strip()
        except EOFError:
            print()
            return 0
        if not text:
            histories = {name: [] for name in systems}
            print("(begun anew)")
            continue
        for name, (model, form) in systems.items():
            history = histories[name]
            history.append({"role": "user", "content": text})
            prompt, _ = form.fitting_prompt(history, decoding.max_prompt_tokens)
            if prompt is None:
                print(f"{name}> (this is longer than {decoding.max_prompt_tokens} tokens)")
                history.pop()
                continue
            reply = reply_to(model, form, [prompt], decoding, turn)[0]["response"]
            history.append({"role": "assistant", "content": reply})
            print(f"{name}> {reply}")
        turn += 1
