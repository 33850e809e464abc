"""`empo survey` from responses to the report, and what it refuses."""

from __future__ import annotations

import csv
import importlib
import json
import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from small_survey import BOX, SLIDERS, Browser, Served, build, in_thread, tokens, write_responses

from empo.agree import agreement_command
from empo.records import UserError, sha256
from empo.reporting.survey_results import read_survey
from empo.runs import alone
from empo.survey.plan import balance_of, read_plan
from empo.survey.store import Answer, Store
from empo.survey_commands import survey_command

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "eval"))


def run(*words: object) -> int:
    return survey_command(list(map(str, words)))


def answer_all(folder: Path, seed: int = 0) -> int:
    """Everybody answers, the first system 25 points better; returns the number of replies rated."""
    plan, store, rng = read_plan(folder), Store(folder / "answers.sqlite"), random.Random(seed)
    best = plan["systems"][0]
    count = 0
    for token, batch in zip(tokens(folder), plan["batches"], strict=True):
        person = store.participant(token).id
        store.consent(person, token)
        for place, (_, system) in enumerate(batch["places"]):
            middle = 60 if system == best else 35
            values = [min(100, max(0, round(rng.gauss(middle, 10)))) for _ in SLIDERS]
            ratings = {**dict(zip(SLIDERS, values, strict=True)), BOX: rng.randint(0, 1)}
            store.keep(person, Answer(place, ratings, 20.5))
            count += 1
    return count


def test_a_plan_says_how_even_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = read_plan(folder)
    assert plan["systems"] == ["xqa", "xqbb", "human"]
    balance = plan["balance"]
    assert balance == balance_of(plan["batches"])
    assert balance["ratings"] == [3, 3] and balance["batches"] == 9 and balance["item_twice"] == 0
    assert balance["places"] == dict.fromkeys(sorted(plan["systems"]), [3] * 6)
    assert len(balance["orders"]) == 6 and set(balance["orders"].values()) == {1}
    assert sorted(item["emotion"] for item in plan["items"]) == [
        "joyful",
        "joyful",
        "proud",
        "proud",
        "sad",
        "sad",
    ]
    assert plan["design"]["ratings"] == 3 and len(plan["inputs"]) == 2
    links = (folder / "links.csv").read_text()
    assert links.count("http://127.0.0.1:8000/s/") == 9
    assert stat.S_IMODE(os.stat(folder / "links.csv").st_mode) == 0o600
    assert not any(token in (folder / "plan.json").read_text() for token in tokens(folder))


def test_from_answers_to_the_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="nobody has answered yet"):
        run("export", folder, "--output", tmp_path / "tidy.csv")
    with pytest.raises(UserError, match="nobody has answered yet"):
        run("analyse", folder, "--output", tmp_path / "out")
    assert answer_all(folder) == 54
    assert run("status", folder) == 0
    assert (
        "replies rated: 54 of 54; links: 9, 0 not used, 0 begun, 9 finished"
        in capsys.readouterr().out
    )

    tidy = tmp_path / "tidy.csv"
    assert run("export", folder, "--output", tidy) == 0
    with tidy.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 54 * 5
    plan = read_plan(folder)
    first = plan["batches"][0]
    item, system = first["places"][0]
    exchange = plan["items"][item]
    assert rows[0] | {"value": ""} == {
        "item": f"{exchange['id']}/{system}", "rater": "r0001", "aspect": SLIDERS[0], "value": "",
        "system": system, "exchange": exchange["id"], "emotion": exchange["emotion"], "batch": "1",
        "kind": first["kind"], "place": "1", "seconds": "20.5",
        "characters": str(len(exchange["responses"][system])),
    }  # fmt: skip
    assert agreement_command(["--input", str(tidy), "--resamples", "100"]) == 0
    assert "18 items by 9 raters" in capsys.readouterr().out

    one, other = tmp_path / "one", tmp_path / "other"
    assert run("analyse", folder, "--output", one, "--resamples", 199) == 0
    assert run("analyse", "--input", tidy, "--output", other, "--resamples", 199) == 0
    found, again = (read_survey(path / "survey.json") for path in (one, other))
    assert [facts["file"] for facts in found["inputs"]] == ["plan.json", "exported ratings"]
    assert found["inputs"][1]["sha256"] == sha256(tidy) == again["inputs"][0]["sha256"]
    for system, of in found["all"]["systems"].items():
        for aspect, described in of.items():
            there = again["all"]["systems"][system][aspect]
            for key in ("n", "mean", "quantiles", "ratings", "fewest"):
                assert there[key] == pytest.approx(described[key])
    rows = {(r["a"], r["b"], r["metric"]): r for r in found["all"]["comparisons"]}
    row = rows["xqa", "human", SLIDERS[0]]
    assert row["n"] == 6 and row["difference"] == pytest.approx(25, abs=12)
    assert row["mixed"]["p_holm"] < 0.001
    assert found["flagged"] == [] and found["without_flagged"] is None
    text = (one / "survey.md").read_text()
    assert "9 raters, 270 ratings, 6 exchanges, 3 systems" in text
    assert "Nobody is." in text and "The reply is consistent and fluent." in text
    for name in ("survey.svg", "survey-comparisons.svg"):
        assert (one / name).read_text().count("</svg>") == 1 and name in text


def test_raters_who_are_flagged_are_left_out_once_more(folder: Path, tmp_path: Path) -> None:
    answer_all(folder)
    tidy, out = tmp_path / "tidy.csv", tmp_path / "out"
    run("export", folder, "--output", tidy)
    lines = tidy.read_text().splitlines()
    tidy.write_text(
        "\n".join(line.replace(",20.5,", ",1.5,") if ",r0003," in line else line for line in lines)
    )
    assert run("analyse", "--input", tidy, "--output", out, "--resamples", 199) == 0
    found = read_survey(out / "survey.json")
    assert [(row["rater"], row["reasons"]) for row in found["flagged"]] == [("r0003", ["too fast"])]
    assert found["all"]["raters"] == 9 and found["without_flagged"]["raters"] == 8
    text = (out / "survey.md").read_text()
    assert (
        "Raters flagged as inattentive: 1" in text
        and "Without them (8 raters, 240 ratings)" in text
    )


@pytest.mark.parametrize("aspects", [("twice", "once"), ("once", "twice")])
def test_a_table_with_more_ratings_of_one_aspect_than_of_another(
    tmp_path: Path, aspects: tuple[str, str]
) -> None:
    tidy, out = tmp_path / "tidy.csv", tmp_path / "out"
    rows = ["item,rater,aspect,value,system"]
    for aspect in aspects:
        raters = ("r1", "r2") if aspect == "twice" else ("r1",)
        rows += [
            f"i{i},{rater},{aspect},{(7 * i + 3 * len(system) + j) % 10 + i % 3 * j},{system}"
            for i in range(12)
            for j, rater in enumerate(raters)
            for system in ("a", "bb")
        ]
    tidy.write_text("\n".join(rows) + "\n")
    assert run("analyse", "--input", tidy, "--output", out, "--resamples", 199) == 0
    text = (out / "survey.md").read_text()
    assert "variance of reply" in text and "random intercepts of reply, rater" in text


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path: Path) -> None:
    tidy, out = tmp_path / "tidy.csv", tmp_path / "out"
    names = ("$\\frac$", "a\\$_{b$", "$_$ and $^$")
    rows = ["item,rater,aspect,value,system"]
    rows += [
        f"i{i},r{i % 3},{aspect},{i * (1 + len(system)) % 7},{system}"
        for aspect in names
        for i in range(12)
        for system in names[:2]
    ]
    tidy.write_text("\n".join(rows) + "\n")
    assert run("analyse", "--input", tidy, "--output", out, "--resamples", 199) == 0
    assert (out / "survey-comparisons.svg").is_file()


def test_a_batch_that_was_left_gets_a_new_link(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tokens(folder)
    store = Store(folder / "answers.sqlite")
    store.consent(3, "mine")
    store.keep(3, Answer(0, {"a": 1}, 1))
    assert run("status", folder, "--reissue", 3, 5) == 0
    out = capsys.readouterr().out
    assert (
        "2 new links at the end of" in out
        and "replies rated: 0 of 54; links: 9, 9 not used, 0 begun, 0 finished; 2 replaced, with 1 "
        "replies rated that do not count"
        in out
    )
    after = tokens(folder)
    assert after[:9] == before and len(set(after)) == 11
    assert store.participant(after[9]).batch == 3 and store.participant(after[10]).batch == 5
    assert stat.S_IMODE(os.stat(folder / "links.csv").st_mode) == 0o600
    with pytest.raises(UserError, match="--reissue: there is no batch 10; they go from 1 to 9"):
        run("status", folder, "--reissue", 10)


def test_who_begins_again_by_a_new_link_is_one_rater(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(folder / "answers.sqlite")
    ratings = {**dict.fromkeys(SLIDERS, 99), BOX: 1}
    store.consent(1, "mine")
    for place in range(4):
        store.keep(1, Answer(place, ratings, 20))
    run("status", folder, "--reissue", 1)
    folder_tokens = tokens(folder)
    plan = read_plan(folder)
    rng = random.Random(0)
    for token in folder_tokens[1:]:
        person = store.participant(token)
        store.consent(person.id, token)
        for place in range(6):
            values = [rng.randint(0, 100) for _ in SLIDERS]
            given = {**dict(zip(SLIDERS, values, strict=True)), BOX: rng.randint(0, 1)}
            store.keep(person.id, Answer(place, given, 20))
    assert len(plan["batches"]) == 9
    run("export", folder, "--output", tmp_path / "tidy.csv")
    assert "270 ratings by 9 raters (4 replies rated by links that were" in capsys.readouterr().out
    assert ",r0001," not in (tmp_path / "tidy.csv").read_text()
    run("analyse", folder, "--output", tmp_path / "out", "--resamples", 199)
    found = read_survey(tmp_path / "out" / "survey.json")
    assert found["all"]["raters"] == 9 and found["replaced"] == 4


def test_links_that_two_processes_make_at_once_are_all_in_the_file(folder: Path) -> None:
    command = [sys.executable, "-m", "empo.cli", "survey", "status", str(folder), "--reissue"]
    both = [
        subprocess.Popen([*command, *map(str, numbers)], stderr=subprocess.PIPE, text=True)
        for numbers in ([1] * 150, [2] * 150)
    ]
    errors = [process.communicate(timeout=60)[1] for process in both]
    for process, error in zip(both, errors, strict=True):
        assert process.returncode == 0 or "another process" in error
    store = Store(folder / "answers.sqlite")
    found = tokens(folder)
    assert len(found) == len(store.progress()) and all(map(store.participant, found))


def test_a_file_of_links_that_another_process_writes_is_left_alone(folder: Path) -> None:
    before, people = tokens(folder), len(Store(folder / "answers.sqlite").progress())
    with (
        alone(folder / ".links.lock", folder / "links.csv"),
        pytest.raises(UserError, match=r"links.csv: another process is at work on it"),
    ):
        run("status", folder, "--reissue", 1)
    assert tokens(folder) == before
    assert len(Store(folder / "answers.sqlite").progress()) == people


def test_output_that_nobody_reads_to_its_end(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "empo.cli", "survey", "status", str(folder)]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_codes_are_listed_when_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = Store(folder / "answers.sqlite").code(tokens(folder)[0])
    run("status", folder)
    assert code not in capsys.readouterr().out
    run("status", folder, "--codes")
    assert code in capsys.readouterr().out


def test_the_command_serves_stops_and_goes_on(served: Served) -> None:
    person = Browser(served.port, tokens(served.folder)[0])
    person.agree()
    person.answer(1, (1, 2, 3, 4))
    with pytest.raises(UserError, match="another process"):
        run("serve", served.folder, "--port", 0)
    served.kill()
    served.start()
    assert person.get().headers["location"].endswith("/item/2")
    code, printed = served.stop()
    assert code == 143 and printed.strip().splitlines() == [
        "warning: the links lead to port 8000. They reach this page only where a web server passes them "
        "on. Else serve on that port, or build with the right --url.",
        "stopped by SIGTERM. What is done is kept: the same command goes on with what is missing.",
    ], "no log of requests"


def test_a_port_that_is_taken(folder: Path, template: Path) -> None:
    with (
        in_thread(folder) as port,
        pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be listened on"),
    ):
        run("serve", template, "--port", port)


def test_cookies_of_a_survey_under_https_are_sent_over_https_only(tmp_path: Path) -> None:
    folder = build(tmp_path / "survey", url="https://survey.example.org/")
    assert "https://survey.example.org/s/" in (folder / "links.csv").read_text()
    with in_thread(folder) as port:
        assert "; secure" in Browser(port, tokens(folder)[0]).agree().headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"items": 12, "batch": 24}, "--items: 12 is no multiple of --batch 24; take 24."),
        (
            {"items": 40, "batch": 20, "block": 10},
            "--batch: 20 items are more than the 12 exchanges",
        ),
        ({"items": 24}, "--items: 24 are asked for, but the responses are of 12 exchanges"),
        (
            {"items": 6, "per_emotion": 5},
            "5 of each of the 3 emotions are 15 exchanges, more than --items 6",
        ),
        ({"items": 7}, "--items: 7 is no multiple of --batch 6; take 6 or 12."),
        ({"block": 4}, "--block: 4 does not divide a batch of 6"),
        ({"items": 14, "batch": 14, "block": 2}, "has 7 blocks of 2; at most 6 are possible"),
        ({"ratings": 2}, "--ratings: 2 is too few"),
        ({"single_system": 4}, "--single-system: 4 is not between 0 and --ratings 3"),
        ({"url": "survey.example.org"}, "--url: 'survey.example.org' does not begin with http"),
        ({"url": "https://"}, "--url: 'https://' has no host"),
        ({"url": "http://a b.org"}, "--url: 'http://a b.org' has no host, or signs"),
        ({"url": "http://a.org:x"}, "--url: 'http://a.org:x' is no address"),
        ({"url": "https://a.org/survey"}, "has a path, query or fragment"),
        ({"url": "https://a.org?x=1"}, "has a path, query or fragment"),
        ({"url": "https://a.org/#x"}, "has a path, query or fragment"),
        ({"url": "https://me:secret@a.org"}, "has a name or password"),
        ({"contact": " "}, "--contact: it is blank"),
        ({"block": 0}, "--block: 0 is too few; at least 1 is needed"),
        (
            {"systems": ("alone",), "human": "false"},
            "--responses: 1 system in all; a survey compares 2 to 8",
        ),
        ({"texts": "nowhere.yaml"}, "nowhere.yaml: no such file"),
    ],
)
def test_what_cannot_be_built(tmp_path: Path, options: dict, message: str) -> None:
    folder = tmp_path / "survey"
    with pytest.raises(UserError) as error:
        build(folder, **options)
    assert message in str(error.value) and not folder.exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_too_few_responses_of_an_emotion(tmp_path: Path) -> None:
    emotions = ["joyful"] * 11 + ["sad"]
    files = [write_responses(tmp_path / n, n, 12, emotions) for n in ("a", "b")]
    words = ["--items", 6, "--batch", 6, "--block", 2, "--contact", "x", "--output", tmp_path / "s"]
    with pytest.raises(
        UserError, match="field 'emotion': 3 exchanges of every emotion .* of sad 1"
    ):
        run("build", "--responses", *files, *words)


def test_a_second_build_into_the_same_folder(folder: Path) -> None:
    before = (folder / "plan.json").read_bytes()
    with pytest.raises(
        UserError, match="holds a survey already, and answers are never overwritten"
    ):
        build(folder)
    assert (folder / "plan.json").read_bytes() == before


def test_the_same_seed_builds_the_same_plan_with_other_links(
    template: Path, tmp_path: Path
) -> None:
    folder = build(tmp_path / "again")
    one, two = read_plan(template), read_plan(folder)
    assert (one["items"], one["batches"]) == (two["items"], two["batches"])
    assert not set(tokens(template)) & set(tokens(folder))
    other = read_plan(build(tmp_path / "third", seed=7))
    assert other["batches"] != one["batches"]


def test_a_plan_or_texts_that_were_changed_are_refused(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    plan["batches"][0]["places"][0] = plan["batches"][0]["places"][1]
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match="field 'balance': it is not that of the batches"):
        read_plan(folder)


def test_a_plan_with_other_replies_is_not_that_of_the_answers(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    replies = plan["items"][0]["responses"]
    replies["xqa"], replies["human"] = replies["human"], replies["xqa"]
    (folder / "plan.json").write_text(json.dumps(plan))
    for words in (["status", folder], ["analyse", folder, "--output", folder / "out"]):
        with pytest.raises(UserError, match="plan.json: it was changed since the survey was built"):
            run(*words)


def test_texts_that_were_changed_are_refused(folder: Path) -> None:
    with (folder / "texts.yaml").open("a") as file:
        file.write("# more\n")
    with pytest.raises(UserError, match="missing or was changed since the survey was built"):
        read_plan(folder)


def test_no_survey(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no plan.json. Make the folder with"):
        run("status", tmp_path)
    with pytest.raises(UserError, match="give the folder of a survey, or --input"):
        run("analyse", "--output", tmp_path / "x")


def test_a_translation(tmp_path: Path, template: Path) -> None:
    texts = (template / "texts.yaml").read_text().replace("language: en", "language: de")
    own = tmp_path / "texte.yaml"
    own.write_text(texts.replace("Before you begin", "Bevor Sie beginnen"))
    with in_thread(build(tmp_path / "survey", texts=own)) as port:
        text = Browser(port, tokens(tmp_path / "survey")[0]).get().text
    assert '<html lang="de">' in text and "Bevor Sie beginnen" in text


def test_the_commands_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("build", "serve", "status", "export", "analyse"))
    with pytest.raises(UserError, match="empo survey paint: no such command; known: build"):
        run("paint")


def test_the_report_takes_the_folder(folder: Path, tmp_path: Path) -> None:
    answer_all(folder)
    run("analyse", folder, "--output", tmp_path / "out", "--resamples", 199)
    report = importlib.import_module("report")
    assert report.main([str(tmp_path / "out"), "--output", str(tmp_path / "all.md")]) == 0
    text = (tmp_path / "all.md").read_text()
    assert "## Human survey" in text and "all-survey.svg" in text
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["surveys"]["out"] == read_survey(tmp_path / "out" / "survey.json")


@pytest.mark.parametrize("package", ["uvicorn", "starlette.applications", "jinja2"])
def test_the_page_says_which_extra_it_needs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "empo.survey.app", raising=False)
    with pytest.raises(UserError, match=r"is not installed. .* `pip install 'empo\[survey\]'`"):
        run("serve", folder)
