"""Replies of a model: restartable to the byte, in corpus order, whole batches or one at a time."""

from __future__ import annotations

import itertools
import json
import logging
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from empo.corpora import load_corpus
from empo.dialogues import Exchange, Turn
from empo.generation import Decoding, cut_at_last_sentence, generate
from empo.models import ModelSource, load_model, load_tokenizer
from empo.prompts import LENGTH_CONTROLLED_MESSAGE, ChatFormat
from empo.records import UserError, read_json, read_responses
from empo.runs import alone

sys.path.insert(0, str(Path(__file__).parent / "recipes"))
sys.path.insert(0, str(Path(__file__).parent))
from killed import asked_to_stop, contents, killed_before
from tiny_runs import ROOT, Shelf, command, recipe, shelf

__all__ = ["shelf"]

GREEDY = Decoding(batch_size=6, max_new_tokens=20)
SAMPLED = replace(GREEDY, temperature=0.9, top_p=0.95)
FACTS = {"model": "m", "data": "d"}


class Interrupted(Exception):
    """What a stopped job looks like from inside."""


@pytest.fixture(scope="module")
def chat(shelf: Shelf) -> ChatFormat:
    tokenizer = load_tokenizer(ModelSource(str(shelf.base)))
    return ChatFormat(tokenizer, system_message="You are a kind listener.", training=False)


@pytest.fixture
def model(shelf: Shelf) -> PreTrainedModel:
    return load_model(ModelSource(str(shelf.base))).eval()


@pytest.fixture(scope="module")
def exchanges(shelf: Shelf) -> list[Exchange]:
    return load_corpus(shelf.corpus, "test").exchanges()


@pytest.fixture
def write(
    model: PreTrainedModel, chat: ChatFormat, exchanges: list[Exchange], tmp_path: Path
) -> Callable[..., Path]:
    """Write replies to all exchanges and return the file."""

    def go(name: str, decoding: Decoding = GREEDY, facts: Any = FACTS, with_model: Any = model):
        output = tmp_path / name
        generate(with_model, chat, exchanges, "s", output, decoding, facts)
        return output

    return go


def stop_after(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, batches: int) -> list[int]:
    """Let the model reply to some batches and then be interrupted; counts the batches replied to."""
    real, done = model.generate, []

    def replying(**inputs: Any) -> torch.Tensor:
        if len(done) == batches:
            raise Interrupted
        done.append(len(inputs["input_ids"]))
        return real(**inputs)

    monkeypatch.setattr(model, "generate", replying)
    return done


def texts(path: Path) -> list[str]:
    return [response.response for response in read_responses(path)]


# --- restart ---


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_a_run_that_was_stopped_ends_in_the_same_file(
    write: Callable[..., Path],
    model: PreTrainedModel,
    monkeypatch: pytest.MonkeyPatch,
    decoding: Decoding,
    torn: bool,
) -> None:
    whole = write("whole.jsonl", decoding)
    with monkeypatch.context() as stopped:
        assert stop_after(model, stopped, 2) == []
        with pytest.raises(Interrupted):
            write("stopped.jsonl", decoding)
    partial = whole.with_name(".stopped.jsonl.partial")
    assert len(partial.read_text().splitlines()) == 2
    assert not whole.with_name("stopped.jsonl").exists()
    if torn:
        partial.write_bytes(partial.read_bytes()[:-7])
    with monkeypatch.context() as counted:
        done = stop_after(model, counted, 99)
        again = write("stopped.jsonl", decoding)
    assert len(done) == (3 if torn else 2)  # of four batches
    assert again.read_bytes() == whole.read_bytes()
    assert not partial.exists()
    manifests = [read_json(f"{path}.manifest.json") for path in (whole, again)]
    for manifest in manifests:
        del manifest["created"]
    assert manifests[0] == manifests[1]


def test_a_command_killed_before_any_change_of_a_file_ends_in_the_same_files(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    few = replace(GREEDY, max_new_tokens=6)
    whole = write("whole/a.jsonl", few)
    manifest = read_json(f"{whole}.manifest.json")
    for change in itertools.count(1):
        folder = tmp_path / str(change)
        killed = killed_before(change, folder, lambda: write(f"{change}/a.jsonl", few))  # noqa: B023
        again = write(f"{change}/a.jsonl", few)
        assert again.read_bytes() == whole.read_bytes(), change
        found = read_json(f"{again}.manifest.json")
        assert found | {"created": ""} == manifest | {"created": ""}
        assert contents(folder).keys() == contents(whole.parent).keys()
        assert not (folder / ".a.jsonl.partial").exists()
        if not killed:
            break
    assert change > 4 + 6  # batches; the output, its manifest and the partial file


@pytest.fixture
def partial(write: Callable[..., Path], model: PreTrainedModel, tmp_path: Path) -> Path:
    """The partial file of a.jsonl, stopped after three of four batches."""
    with pytest.MonkeyPatch.context() as stopped:
        stop_after(model, stopped, 3)
        with pytest.raises(Interrupted):
            write("a.jsonl")
    return tmp_path / ".a.jsonl.partial"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a letter": lambda line: line.replace(b'"response": "', b'"response": "x', 1),
    "a count": lambda line: line.replace(b'"response_tokens": 20', b'"response_tokens": 21', 1),
    "the key": lambda line: line.replace(b'{"key": "', b'{"key": "0', 1),
    "no text": lambda line: b"\xff" * len(line),
    "no object": lambda line: b"3",
    "zeros": lambda line: bytes(len(line)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_replies_are_named_and_made_again(
    write: Callable[..., Path],
    model: PreTrainedModel,
    partial: Path,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = partial.read_bytes().splitlines()
    changed = DAMAGE[damage](lines[1])
    assert changed != lines[1]
    partial.write_bytes(b"\n".join([lines[0], changed, lines[2], b""]))
    done = stop_after(model, monkeypatch, 99)
    with caplog.at_level(logging.WARNING):
        again = write("a.jsonl")
    assert len(done) == 2  # the damaged batch, and the one that was missing
    assert caplog.messages == [f"{partial}, line 2: damaged; these replies are made again"]
    assert again.read_bytes() == write("whole.jsonl").read_bytes()


@pytest.mark.parametrize("content", [b"my notes\n", bytes(100), b"\xff\xfe", b'{"id": 3}\n'])
def test_a_file_of_something_else_is_no_partial_file(
    write: Callable[..., Path], tmp_path: Path, content: bytes
) -> None:
    partial = tmp_path / ".a.jsonl.partial"
    partial.write_bytes(content)
    with pytest.raises(UserError) as error:
        write("a.jsonl")
    assert str(error.value) == (
        f"{partial}: this is no file of unfinished replies, or its beginning is damaged. Delete it, "
        "or choose another --output."
    )
    assert partial.read_bytes() == content


def test_responses_without_their_manifest_are_not_taken_for_ones_own(
    write: Callable[..., Path], partial: Path
) -> None:
    unfinished = partial.read_bytes()
    output = write("a.jsonl")
    Path(f"{output}.manifest.json").unlink()
    with pytest.raises(UserError) as error:
        write("a.jsonl")
    assert str(error.value) == (
        f"{output}: there is no a.jsonl.manifest.json beside it, so nothing says which model and "
        "settings made it. Put the manifest back, delete the file to have its replies made again, or "
        "choose another --output."
    )
    partial.write_bytes(unfinished)
    with pytest.raises(UserError) as error:
        write("a.jsonl")
    assert str(error.value) == (
        f"{output}: there is no a.jsonl.manifest.json beside it, and it is not what the unfinished "
        "replies in .a.jsonl.partial have become. Delete the file of the two that you do not need, "
        "or choose another --output."
    )


@pytest.mark.parametrize(("limit", "file"), [(700, ".a.jsonl.partial"), (6_000, "a.jsonl")])
def test_a_full_disk_is_told_with_the_file_and_costs_nothing(
    write: Callable[..., Path], tmp_path: Path, limit: int, file: str
) -> None:
    said = tmp_path / "said.txt"

    def on_a_full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # writes beyond fail
        with pytest.raises(UserError) as error:
            write("a.jsonl")
        said.write_text(str(error.value))

    assert not killed_before(0, tmp_path, on_a_full_disk)
    text = said.read_text()
    assert text.startswith(f"{tmp_path / file}: it could not be written (File too large); ")
    assert text.endswith(
        "and give the same command again: it goes on with the replies that are missing."
    )
    assert not (tmp_path / "a.jsonl").exists()
    assert write("a.jsonl").read_bytes() == write("whole.jsonl").read_bytes()


def test_another_run_is_refused_while_one_writes(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    words = ["--model", "no-such-model", "--dialogues", "no-such-corpus", "--system", "s"]
    with alone(tmp_path / ".a.jsonl.lock", output), pytest.raises(UserError) as error:
        recipe("generate")([*words, "--output", str(output)])
    assert str(error.value) == (
        f"{output}: another process is at work on it. Wait until it has ended, stop it, or choose "
        "another place for this one."
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_asked_to_stop_says_so_and_goes_on_later(
    shelf: Shelf, tmp_path: Path, number: int, code: int
) -> None:
    given = ["--model", shelf.dpo, "--dialogues", shelf.corpus, "--system", "dpo"]
    words = [*map(str, given), "--batch_size", "1", "--output", str(tmp_path / "a.jsonl")]
    partial, said = tmp_path / ".a.jsonl.partial", tmp_path / "said.txt"
    ended = asked_to_stop(number, partial.exists, said, lambda: recipe("generate")(words))
    assert ended == code
    assert said.read_text().endswith(
        f"stopped by {signal.Signals(number).name}. What is done is kept: the same command goes on "
        "with what is missing.\n"
    )
    assert not (tmp_path / "a.jsonl").exists()
    assert recipe("generate")(words) == 0
    assert recipe("generate")([*map(str, given), "--output", str(tmp_path / "b.jsonl")]) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_another_run_never_continues_a_partial_file(
    write: Callable[..., Path], model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as stopped:
        stop_after(model, stopped, 1)
        with pytest.raises(Interrupted):
            write("a.jsonl")
    for changed in ({"decoding": SAMPLED}, {"facts": {**FACTS, "model": "other"}}):
        with pytest.raises(UserError) as error:
            write("a.jsonl", **changed)
        assert str(error.value).endswith(
            ".a.jsonl.partial: these are the unfinished replies of another model, corpus or "
            "setting. Choose another --output, or delete the file."
        )
    write("a.jsonl")


def test_a_file_that_is_done_is_kept_and_needs_no_model(write: Callable[..., Path]) -> None:
    output = write("a.jsonl")
    before = output.stat().st_mtime_ns
    assert write("a.jsonl", with_model=None).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"decoding": replace(GREEDY, max_new_tokens=21)}, "decoding"),
        ({"facts": {**FACTS, "model": "other"}}, "model"),
        ({"facts": {"model": "x", "data": "y"}, "decoding": SAMPLED}, "decoding, model, data"),
    ],
)
def test_a_file_of_other_settings_is_refused(
    write: Callable[..., Path], changed: dict[str, Any], named: str
) -> None:
    output = write("a.jsonl")
    content = output.read_bytes()
    with pytest.raises(UserError) as error:
        write("a.jsonl", **changed)
    assert str(error.value) == (
        f"{output}: the file holds other responses (it differs in {named}). "
        "Choose another --output, or delete the file."
    )
    assert output.read_bytes() == content


def test_a_file_that_was_edited_since_is_refused(write: Callable[..., Path]) -> None:
    output = write("a.jsonl")
    lines = output.read_text("utf-8").splitlines(keepends=True)
    output.write_text("".join(lines[:-1]), "utf-8")
    with pytest.raises(UserError) as error:
        write("a.jsonl", with_model=None)
    assert str(error.value) == (
        f"{output}: the file has been edited since its replies were written (its digest is not that "
        "of a.jsonl.manifest.json). Delete it to have them written anew, or choose another --output."
    )
    output.unlink()
    assert write("a.jsonl").read_text("utf-8") == "".join(lines)


# --- content ---


def test_replies_stand_in_corpus_order(
    write: Callable[..., Path], exchanges: list[Exchange], chat: ChatFormat
) -> None:
    responses = read_responses(write("a.jsonl"))
    assert [r.id for r in responses] == [e.id for e in exchanges]
    lengths = [len(chat.prompt(e.messages())) for e in exchanges]
    assert lengths != sorted(lengths, reverse=True)  # the order in which they are generated
    for response, exchange, length in zip(responses, exchanges, lengths, strict=True):
        assert [m.model_dump() for m in response.context] == exchange.messages()
        assert (response.reference, response.emotion) == (exchange.reply, exchange.emotion)
        assert (response.system, response.prompt_tokens) == ("s", length)


def test_a_batch_of_one_says_what_a_batch_of_eight_says(write: Callable[..., Path]) -> None:
    one, eight = (write(f"{n}.jsonl", replace(GREEDY, batch_size=n)) for n in (1, 8))
    assert one.read_bytes() == eight.read_bytes()
    assert len(set(texts(one))) > 1


def test_tokens_are_counted_up_to_the_end_of_the_reply(
    write: Callable[..., Path],
    model: PreTrainedModel,
    chat: ChatFormat,
    exchanges: list[Exchange],
) -> None:
    output = write("a.jsonl", replace(GREEDY, max_new_tokens=40))
    responses = read_responses(output)
    for response, exchange in zip(responses, exchanges, strict=True):
        ids = torch.tensor([chat.prompt(exchange.messages())])
        new: list[int] = []
        with torch.inference_mode():
            while len(new) < 40 and chat.eos not in new:
                new.append(int(model(ids).logits[0, -1].argmax()))
                ids = torch.cat([ids, torch.tensor([new[-1:]])], dim=1)
        assert response.response_tokens == len(new)
        assert response.finished == (new[-1] == chat.eos)
        text = chat.tokenizer.decode(new, skip_special_tokens=True)
        assert response.response == text.strip()
    manifest = read_json(f"{output}.manifest.json")
    finished = sum(response.finished for response in responses)
    assert 0 < finished < len(responses)
    assert manifest["finished"] == finished and manifest["responses"] == len(responses)


def test_sampling_depends_on_the_seed(write: Callable[..., Path]) -> None:
    first, same, other = (
        texts(write(f"{name}.jsonl", replace(SAMPLED, seed=seed)))
        for name, seed in [("a", 1), ("b", 1), ("c", 2)]
    )
    assert first == same != other


def test_empty_replies_are_kept_and_counted(
    write: Callable[..., Path], model: PreTrainedModel, exchanges: list[Exchange]
) -> None:
    with torch.no_grad():
        model.model.norm.weight.zero_()  # every token as likely; the first is <pad>
    output = write("a.jsonl")
    responses = read_responses(output)
    assert [r.response for r in responses] == [""] * len(exchanges)
    assert {(r.finished, r.response_tokens) for r in responses} == {(False, 20)}
    assert read_json(f"{output}.manifest.json")["empty"] == len(exchanges)


def test_long_contexts_lose_their_oldest_turns_and_are_counted(
    write: Callable[..., Path], chat: ChatFormat, exchanges: list[Exchange]
) -> None:
    lengths = [len(chat.prompt(e.messages())) for e in exchanges]
    least = max(len(chat.prompt(e.messages()[-1:])) for e in exchanges)
    longer = sum(length > least for length in lengths)
    output = write("a.jsonl", replace(GREEDY, max_prompt_tokens=least))
    assert read_json(f"{output}.manifest.json")["prompts_shortened"] == longer > 0
    responses = read_responses(output)
    assert max(r.prompt_tokens for r in responses) <= least
    assert [len(r.context) for r in responses] == [len(e.context) for e in exchanges]
    with pytest.raises(
        UserError, match=rf"the last speaker turn alone is longer than {least - 1} "
    ):
        write("b.jsonl", replace(GREEDY, max_prompt_tokens=least - 1))


def test_prompt_and_reply_never_exceed_the_positions_of_the_model(
    model: PreTrainedModel, chat: ChatFormat, tmp_path: Path
) -> None:
    room = model.config.max_position_embeddings - GREEDY.max_new_tokens
    turns = [Turn("assistant" if i % 2 else "user", f"It hurt so much {i}.") for i in range(41)]
    long = Exchange("long", "sad", tuple(turns), "Oh.")
    assert room < len(chat.prompt(long.messages())) <= GREEDY.max_prompt_tokens * 2
    output = tmp_path / "a.jsonl"
    manifest = generate(model, chat, [long], "s", output, GREEDY, FACTS)
    assert manifest["prompts_shortened"] == 1
    assert room - 60 < read_responses(output)[0].prompt_tokens <= room

    alone = Exchange("hit:7", "sad", (Turn("user", "so " * 600),), "Oh.")
    with pytest.raises(UserError) as error:
        generate(model, chat, [alone], "s", tmp_path / "b.jsonl", GREEDY, FACTS)
    assert str(error.value) == (
        f"exchange 'hit:7': the last speaker turn alone is longer than {room} tokens "
        "(--max-prompt-tokens, or what the model can hold)."
    )


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("I am sorry. What hap", "I am sorry."),
        ("One. Two! Three? And", "One. Two! Three?"),
        ("All of it.", "All of it."),
        ('He said "stop." And then', 'He said "stop."'),
        ("It was 3.5 miles. Then I", "It was 3.5 miles."),
        ("no sentence end at all", "no sentence end at all"),
        ("", ""),
    ],
)
def test_a_reply_is_cut_at_its_last_full_sentence(text: str, cut: str) -> None:
    assert cut_at_last_sentence(text) == cut


# --- the recipe ---


def test_the_length_controlled_system_is_short_and_ends_a_sentence(
    shelf: Shelf, tmp_path: Path
) -> None:
    given = ["--model", str(shelf.base), "--dialogues", str(shelf.corpus)]
    written = {}
    for system in ("baseline", "length-controlled"):
        written[system] = tmp_path / f"{system}.jsonl"
        words = [*given, "--system", system, "--output", str(written[system])]
        assert recipe("generate")(words) == 0
    manifest = read_json(f"{written['length-controlled']}.manifest.json")
    assert manifest["decoding"]["max_new_tokens"] == 30 and manifest["decoding"]["cut_at_sentence"]
    assert manifest["system_message"] == LENGTH_CONTROLLED_MESSAGE
    for response in read_responses(written["length-controlled"]):
        assert response.response_tokens <= 30
        assert response.response == cut_at_last_sentence(response.response)
    plain = read_json(f"{written['baseline']}.manifest.json")
    assert plain["decoding"]["max_new_tokens"] == 60 and not plain["decoding"]["cut_at_sentence"]
    assert plain["system_message"] == "You are a kind listener."


def test_a_run_folder_says_what_its_adapter_chain_says(shelf: Shelf, tmp_path: Path) -> None:
    for name, more in {
        "merged": ["--model", shelf.sft],
        "chain": ["--model", shelf.base, "--adapter", shelf.sft],
    }.items():
        words = [*more, "--dialogues", shelf.corpus, "--system", "sft", "--limit", "5"]
        words += ["--output", tmp_path / f"{name}.jsonl", "--max_new_tokens", "12"]
        assert recipe("generate")(list(map(str, words))) == 0
    assert texts(tmp_path / "merged.jsonl") == texts(tmp_path / "chain.jsonl")
    chain = read_json(tmp_path / "chain.jsonl.manifest.json")
    assert [adapter["name"] for adapter in chain["model"]["adapters"]] == [str(shelf.sft)]
    assert len(chain["model"]["adapters"][0]["sha256"]) == 64
    assert chain["data"]["exchanges"] == 5


def test_the_command_writes_lines_that_anyone_reads_and_refuses_other_names(
    shelf: Shelf, tmp_path: Path
) -> None:
    output = tmp_path / "dpo.jsonl"
    words = ["--model", shelf.dpo, "--dialogues", shelf.corpus / "test.csv", "--system", "dpo"]
    done = command([sys.executable, ROOT / "recipes/generate.py", *words, "--output", output])
    assert done.returncode == 0, done.stderr
    assert "20 replies of dpo, " in done.stdout and str(output) in done.stdout
    keys = {"id", "emotion", "context", "reference", "response", "system"}
    for line in output.read_text().splitlines():
        assert keys < json.loads(line).keys()
    with pytest.raises(UserError, match=r"dpo\.txt is no \.jsonl file\."):
        recipe("generate")([*map(str, words), "--output", "dpo.txt"])
