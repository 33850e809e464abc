"""What is on the hub: told shortly where it cannot be had, and never asked for in tests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import datasets
import huggingface_hub
import pytest

from empo import hub
from empo.models import load_model, load_tokenizer, resolve
from empo.raters.encoders import encoder_identity, load_cross_encoder, load_embedder, load_encoder
from empo.records import UserError

LOADS = {
    "tokenizer": lambda: load_tokenizer(resolve("owner/name")),
    "model": lambda: load_model(resolve("owner/name")),
    "encoder": lambda: load_encoder("owner/name"),
    "embedder": lambda: load_embedder("owner/name"),
    "cross-encoder": lambda: load_cross_encoder("owner/name", outputs=1),
    "identity": lambda: encoder_identity("owner/name"),
}


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Not offline by its setting, and a hub that hangs up; the list has an entry per call."""
    calls: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    connection, (_, port) = server.accept()
                except OSError:  # closed: the test is over
                    return
                calls.append(port)
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        hub._reachable.cache_clear()
        yield calls
        hub._reachable.cache_clear()
        server.shutdown(socket.SHUT_RDWR)


TOLD = (
    "owner/name: the model is not in the cache of the hub, and the hub cannot be asked "
    "(HF_HUB_OFFLINE is set, or there is no network). Where there is a network, run `hf download "
    "owner/name`; or fetch it with `--local-dir FOLDER` and give that folder."
)


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_offline_by_its_setting(
    load: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        load()
    assert str(error.value) == TOLD


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_without_a_network_one_request_finds_out(
    load: Callable[[], object], unreachable: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError) as error:
        load()
    assert str(error.value) == TOLD
    assert len(unreachable) == 1  # the library tries each of several files six times
    assert "cannot be reached: only the cache is used" in caplog.text
    assert huggingface_hub.constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE


def test_a_url_is_no_hub_id_and_is_not_shown_with_its_password() -> None:
    with pytest.raises(UserError) as error:
        resolve("https://anna:geheim@example.org/model")
    assert str(error.value) == (
        "https://<hidden>@example.org/model: no such model folder, and not a hub id (owner/name)."
    )


def test_no_test_leaves_this_machine() -> None:
    for host in ("example.org", "192.0.2.1"):
        with pytest.raises(AssertionError, match="tests use this machine only"):
            socket.create_connection((host, 80), timeout=1)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        socket.create_connection(listening.getsockname(), timeout=1).close()
