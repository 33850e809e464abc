"""States of the random generators of a process, kept without a pickle."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from empo.records import UserError

logger = logging.getLogger(__name__)


def save_random_state(path: Path, device: torch.device) -> None:
    """Write the states of the random generators of Python, numpy, torch and the device.

    One safetensors file: words of the states as tensors, the rest as JSON in its metadata.
    """
    kind, words, *rest = np.random.get_state()
    tensors = {"numpy": torch.from_numpy(words), "torch": torch.random.get_rng_state()}
    if device.type != "cpu":
        tensors[device.type] = torch.get_device_module(device).get_rng_state()
    save_file(
        tensors,
        path,
        {"python": json.dumps(random.getstate()), "numpy": json.dumps([kind, *rest])},
    )


def load_random_state(path: Path, device: torch.device) -> None:
    """Restore what `save_random_state` wrote; a state of another kind of device is left out, aloud.

    Raises UserError where the file does not hold such states.
    """
    try:
        _restore(path, device)
    except _NO_STATES as error:
        raise UserError(
            f"{path}: these are no states of random generators ({type(error).__name__}: {error}). "
            "Delete its checkpoint; the run then goes on from the one before."
        ) from None


_NO_STATES = (
    *(SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError, OverflowError),
    *(RecursionError, AttributeError, IndexError),
)


def _restore(path: Path, device: torch.device) -> None:
    with safe_open(path, "pt") as file:
        version, words, gauss = json.loads(file.metadata()["python"])
        random.setstate((version, tuple(words), gauss))
        kind, *rest = json.loads(file.metadata()["numpy"])
        np.random.set_state((kind, file.get_tensor("numpy").numpy(), *rest))
        torch.random.set_rng_state(file.get_tensor("torch"))
        if device.type == "cpu":
            return
        if device.type not in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            logger.warning(
                "%s has no random state of a %s: the run goes on with other random numbers",
                path,
                device.type,
            )
            return
        torch.get_device_module(device).set_rng_state(file.get_tensor(device.type))
