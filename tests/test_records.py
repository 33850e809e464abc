"""Files are written whole or not at all, and what is refused is named by file, line and field."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from empo.records import (
    UserError,
    atomic,
    file_facts,
    finite,
    listed,
    read_json,
    read_jsonl,
    read_object,
    read_responses,
    read_text,
    read_typed,
    shown,
    write_json,
    write_jsonl,
    write_text,
)

# --- writing ---


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "a.txt"
    with atomic(path) as file:
        file.write("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error), atomic(path) as file:
        file.write("half of the new")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_lines_that_fail_on_the_way_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert write_jsonl(path, [{"a": 1}]) == 1
    with pytest.raises(ZeroDivisionError):
        write_jsonl(path, ({"a": 1 // n} for n in (1, 0)))
    assert path.read_text() == '{"a": 1}\n'
    assert os.listdir(tmp_path) == ["a.jsonl"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_json_number_is_never_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"mean": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(tmp_path / "a.jsonl", [{"mean": 1.0}, {"mean": value}])
    assert os.listdir(tmp_path) == []


def test_text_is_written_in_utf8_with_plain_line_ends(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "très 😀"})
    data = (tmp_path / "a.json").read_bytes()
    assert "très 😀".encode() in data and b"\r" not in data and data.endswith(b"}\n")


def test_results_can_be_read_by_others(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "value, expected",
    [(1, 1.0), (0.5, 0.5), (None, None), (float("nan"), None), (float("inf"), None)],
)
def test_a_value_that_is_no_finite_number_becomes_none(
    value: float | None, expected: float | None
) -> None:
    assert finite(value) == expected


def test_facts_of_a_file_are_name_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc")
    assert file_facts(tmp_path / "a.txt") == {
        "file": "a.txt",
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }


# --- reading ---


def test_a_byte_order_mark_is_dropped_and_line_ends_stay(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert read_text(tmp_path / "a.txt") == "a\r\nb\n"


PICKLED = bytes.fromhex("80049508000000000000005d948c016194612e")
"""The list ["a"], as protocol 4 writes it."""


@pytest.mark.parametrize(
    "content, told",
    [
        (None, ": no such file. Check the path."),
        (b"", ": the file is empty."),
        (b" \n\t\n", ": the file is empty."),
        (b"\xef\xbb\xbf", ": the file is empty."),
        (b"a\nb \xff\n", ", line 2: byte 0xff is not UTF-8. Convert the file, for example with "),
        (
            "é".encode("utf-16"),
            ", line 1: byte 0xff is not UTF-8. Convert the file, for example with `iconv "
            "-f utf-16 -t utf-8`.",
        ),
        (
            PICKLED,
            ": this is no text file: it holds zero bytes, as pickles, archives and weights do.",
        ),
    ],
)
def test_a_text_that_cannot_be_read(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_text(path)
    assert str(error.value).startswith(f"{path}{told}")


def test_json_with_a_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n  "a": 1,\n  "b" 2\n}\n')
    with pytest.raises(
        UserError, match=r"a\.json, line 3: not JSON \(Expecting ':' delimiter\)\.$"
    ):
        read_json(tmp_path / "a.json")


def test_json_lines_keep_their_numbers_over_blank_lines_and_odd_line_separators(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"a": "x\u2028y"}\r\n\n{"a": 2}', encoding="utf-8", newline=""
    )
    assert list(read_jsonl(tmp_path / "a.jsonl")) == [(1, {"a": "x\u2028y"}), (3, {"a": 2})]


@pytest.mark.parametrize(
    "line, told",
    [
        ('{"a": 1', "line 2: not JSON ("),
        ("[1]", "line 2: a JSON object is expected, not list."),
        ('"a"', "line 2: a JSON object is expected, not str."),
    ],
)
def test_a_line_that_is_no_object_is_told(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(UserError) as error:
        list(read_jsonl(tmp_path / "a.jsonl"))
    assert f"a.jsonl, {told}" in str(error.value)


# --- responses ---

CONTRACT = (
    '{"id": "hit:0_conv:1", "emotion": "sentimental", "context": [{"role": "user", "content": "…"}], '
    '"reference": "…", "response": "…", "system": "dpo"}\n'
)


def responses(tmp_path: Path, *changes: dict[str, Any]) -> Path:
    """A responses file with the line of the contract, changed; a value None drops the key."""
    path = tmp_path / "responses.jsonl"
    rows = [{**json.loads(CONTRACT), **change} for change in changes]
    rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_line_of_the_contract_is_read(tmp_path: Path) -> None:
    (tmp_path / "responses.jsonl").write_text(CONTRACT, encoding="utf-8")
    (response,) = read_responses(tmp_path / "responses.jsonl")
    assert response.model_dump() == json.loads(CONTRACT)
    assert response.prompt == "…"


def test_further_keys_are_kept(tmp_path: Path) -> None:
    (response,) = read_responses(responses(tmp_path, {"finished": True, "note": {"by": "me"}}))
    assert response.model_dump()["note"] == {"by": "me"}


def test_an_id_may_occur_once_per_system(tmp_path: Path) -> None:
    found = read_responses(responses(tmp_path, {}, {"system": "sft"}, {"id": "other"}))
    assert [(one.system, one.id) for one in found] == [
        ("dpo", "hit:0_conv:1"), ("sft", "hit:0_conv:1"), ("dpo", "other"),
    ]  # fmt: skip
    with pytest.raises(UserError) as error:
        read_responses(responses(tmp_path, {}, {"system": "sft"}, {}))
    assert str(error.value).endswith(
        "responses.jsonl, line 3, field 'id': 'hit:0_conv:1' stands on line 1 already for system "
        "'dpo'."
    )


SPEAKER, LISTENER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    "change, field, message",
    [
        ({"reference": None}, "reference", "Field required."),
        ({"response": 5}, "response", "Input should be a valid string."),
        ({"id": 5}, "id", "Input should be a valid string."),
        ({"context": "text"}, "context", "Input should be a valid list."),
        ({"context": [{"role": "user"}]}, "context.0.content", "Field required."),
        (
            {"context": [{"role": "bot", "content": "a"}]},
            "context.0.role",
            "Input should be 'system', 'user' or 'assistant'.",
        ),
        ({"context": []}, "context", "its last message must be the speaker's (role 'user')."),
        (
            {"context": [SPEAKER, LISTENER]},
            "context",
            "its last message must be the speaker's (role 'user').",
        ),
    ],
)
def test_a_response_that_cannot_be_used_is_told_with_line_and_field(
    tmp_path: Path, change: dict[str, Any], field: str, message: str
) -> None:
    path = responses(tmp_path, {"id": "fine"}, change)
    with pytest.raises(UserError) as error:
        read_responses(path)
    assert str(error.value).startswith(f"{path}, line 2, field {field!r}: {message}")


def test_a_line_without_a_key_says_what_a_line_has(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "1"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="keys id, emotion, context, reference, response, system"):
        read_responses(path)
    with pytest.raises(UserError, match="this is a folder. Give a file"):
        read_responses(tmp_path)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_refused(tmp_path, constant):
    path = tmp_path / "x.json"
    path.write_text(f'{{"a": {constant}}}', encoding="utf-8")
    with pytest.raises(UserError, match=f"x.json: {constant} is no JSON"):
        read_json(path)


NESTED = '{"a": ' * 100 + "1" + "}" * 100


@pytest.mark.parametrize(
    "text, told",
    [
        (
            '{"a": {"b": 1, "b": 2}}',
            "the key 'b' stands twice in one object. Remove one of the two.",
        ),
        ('{"a": 1e999}', "1e999 is larger than any number can be here."),
        ('{"a": -1e999}', "-1e999 is larger than any number can be here."),
        (
            f'{{"a": {"9" * 5000}}}',
            "9... (5,000 characters) is larger than any number can be here.",
        ),
        (
            '{"a": "x\\ud800"}',
            "\\ud800 is half of a surrogate pair and stands alone, so it is no char",
        ),
        ('{"\\udfff": 1}', "\\udfff is half of a surrogate pair"),
        (f'{{"b": {NESTED}}}', "more than 100 lists or objects stand within each other."),
        ('{"a": ' + "[" * 100_000, "more than 100 lists or objects stand within each other."),
        ('{"a": NaN}', "NaN is no JSON. Write null where there is no value."),
    ],
)
def test_what_no_json_of_ours_may_hold(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": 1}}\n{text}\n')
    with pytest.raises(UserError) as error:
        list(read_jsonl(path))
    assert str(error.value).startswith(f"{path}, line 2: ") and told in str(error.value)
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: ") and told in str(error.value)


def test_json_at_the_bounds_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(NESTED)
    assert str(read_json(path)).count("{") == 100
    path.write_text('["\\ud83d\\ude00", "\\\\ud800", 1e308, ' + "9" * 300 + "]")
    assert read_json(path) == ["😀", "\\ud800", 1e308, int("9" * 300)]


def test_up_to_five_bad_lines_are_named_at_once_and_the_others_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n[]\n{"a": 2}\nx\n\n' + "1\n" * 5)
    rows = read_jsonl(path)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(UserError) as error:
        next(rows)
    assert str(error.value).split("\n  ") == [
        f"{path}, line 2: a JSON object is expected, not list.",
        "line 4: not JSON (Expecting value).",
        "line 6: a JSON object is expected, not int.",
        "line 7: a JSON object is expected, not int.",
        "line 8: a JSON object is expected, not int.",
        "and 2 more lines",
    ]


def test_an_object_is_told_from_other_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_object(path) == {"a": 1}
    path.write_text("[1]")
    with pytest.raises(UserError, match=r"a\.json: a JSON object is expected, not list\.$"):
        read_object(path)


def test_a_schema_is_strict_about_texts_and_numbers(tmp_path: Path) -> None:
    adapter = TypeAdapter(TypedDict("Point", {"schema": str, "x": float, "at": tuple[int, int]}))
    path = tmp_path / "a.json"
    path.write_text('{"schema": "s", "x": 1, "at": [1, 2]}')
    assert read_typed(path, "s", adapter, "Mend it.")["x"] == 1
    path.write_text('{"schema": "s", "x": "1", "at": [1, 2]}')
    with pytest.raises(UserError, match="a.json, field 'x': Input should be a valid number."):
        read_typed(path, "s", adapter, "Mend it.")


def test_values_and_names_of_a_file_are_cut_in_messages() -> None:
    assert shown("a\0b") == r"'a\x00b'"
    assert shown("x" * 80) == f"'{'x' * 80}'"
    assert shown("x" * 81) == f"'{'x' * 79}..."
    assert listed(["a", "b" * 50]) == f"a, {'b' * 40}..."
    assert listed(map(str, range(14))) == f"{', '.join(map(str, range(12)))} and 2 more"
