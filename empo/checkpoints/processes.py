"""What one process finds and all processes act on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from empo.records import UserError

Found = TypeVar("Found")


def from_main(find: Callable[[], Found]) -> Found:
    """What the main process finds, on all processes; where it fails all do, with a UserError."""
    found: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            found[0] = find()
        except UserError as error:
            found[1] = str(error)
        except Exception as error:  # the others are told before it goes on its way
            found[1] = f"the main process has failed ({type(error).__name__}: {error})"
            broadcast_object_list(found)
            raise
    value, problem = broadcast_object_list(found)
    if problem is not None:
        raise UserError(problem)
    return value
