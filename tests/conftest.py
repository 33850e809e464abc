"""No test leaves this machine; the real corpora are where EMPO_DATA says."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before a library reads it, and for processes
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def is_local(host: Any) -> bool:
    """Whether a host is this machine, by its name or number."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname(), socket.getfqdn()):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse to look up or connect to anything but this machine, in the process of the tests."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def refuse(host: Any) -> None:
        raise AssertionError(f"a test wants to reach {host!r}; tests use this machine only")

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX and not is_local(address[0]):
            refuse(address)
        return connect(self, address)

    def guarded_look_up(host: Any, *rest: Any, **options: Any) -> Any:
        return look_up(host, *rest, **options) if is_local(host) else refuse(host)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of the real corpora; tests that need it skip without."""
    if "EMPO_DATA" not in os.environ:
        pytest.skip("EMPO_DATA is not set to a folder with the real corpora")
    return Path(os.environ["EMPO_DATA"])
