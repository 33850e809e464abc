"""`empo survey`: build batches, serve the page, see how far it is, export and analyse the ratings."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from empo.records import UserError
from empo.survey_commands.analysing import analyse_command
from empo.survey_commands.building import build_command
from empo.survey_commands.serving import export_command, serve_command, status_command

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "build": build_command,
    "serve": serve_command,
    "status": status_command,
    "export": export_command,
    "analyse": analyse_command,
}


def survey_command(argv: Sequence[str]) -> int:
    """One of the commands of `empo survey`."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: empo survey COMMAND [--help] [--key value ...]\n\ncommands:")
        for name, command in COMMANDS.items():
            print(f"  {name:<8} {(command.__doc__ or '').splitlines()[0]}")
        print("\nExample: empo survey analyse --help")
        return 0
    if argv[0] not in COMMANDS:
        raise UserError(f"empo survey {argv[0]}: no such command; known: {', '.join(COMMANDS)}")
    try:
        code = COMMANDS[argv[0]](argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # who read it has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code
