"""`empo survey`: build batches, serve the page, see how far it is, export and analyse the ratings."""

from __future__ import annotations

import shlex
import socket
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empo.records import UserError
from empo.redaction import redacted
from empo.runs import alone
from empo.settings import option, parse

EXTRA = "The survey's page needs `pip install 'empo[survey]'`"


@dataclass
class BuildSettings:
    """Settings of `empo survey build`."""

    responses: list[str] = option(help="responses files of the systems, all of the same exchanges")
    output: str = option(help="new folder for plan.json, texts.yaml, links.csv, answers.sqlite")
    contact: str = option(help="who asks: name and address for questions, shown on every page")
    url: str = option("http://127.0.0.1:8000", help="address under which people reach the page")
    human: bool = option(True, help="rate the references too, as the system human")
    items: int = option(135, help="exchanges to rate, a multiple of --batch")
    per_emotion: int | None = option(
        None, help="exchanges of every emotion; the rest is drawn one by one over emotions"
    )
    batch: int = option(15, help="items that one person rates, a multiple of --block")
    block: int = option(5, help="items of one system in a row")
    ratings: int = option(3, help="people who rate an item under a system")
    single_system: int = option(
        1, help="how many of these ratings come from batches that show one system only"
    )
    texts: str | None = option(None, help="YAML with the words of the page, for a translation")
    seed: int = option(42, help="seed of the draw and the orders")

    def problems(self) -> list[str]:
        """What cannot work."""
        from empo.survey.design import MOST_BLOCKS

        found = []
        for name in ("items", "batch", "block", "ratings"):
            if getattr(self, name) < 1:
                found.append(f"--{name}: {getattr(self, name)} is too few; at least 1 is needed.")
        if found:
            return found
        if self.batch % self.block:
            found.append(
                f"--block: {self.block} does not divide a batch of {self.batch}; every system "
                "could not have equal shares. Take a divisor."
            )
        elif self.batch // self.block > MOST_BLOCKS:
            found.append(
                f"--block: a batch of {self.batch} has {self.batch // self.block} blocks of "
                f"{self.block}; at most {MOST_BLOCKS} are possible. Take larger blocks."
            )
        if self.items % self.batch:
            below = self.items // self.batch * self.batch
            near = [str(n) for n in (below, below + self.batch) if n]
            found.append(
                f"--items: {self.items} is no multiple of --batch {self.batch}; take "
                f"{' or '.join(near)}."
            )
        if self.ratings < 3:
            found.append(
                f"--ratings: {self.ratings} is too few; with fewer than 3 people per item their "
                "agreement says nothing."
            )
        if not 0 <= self.single_system <= self.ratings:
            found.append(
                f"--single-system: {self.single_system} is not between 0 and --ratings "
                f"{self.ratings}."
            )
        if not self.url.startswith(("http://", "https://")):
            found.append(f"--url: {self.url!r} does not begin with http:// or https://.")
        if self.seed < 0:
            found.append(f"--seed: {self.seed} is negative; 0 or more is needed.")
        return found


def build_command(argv: Sequence[str]) -> int:
    """Draw items, lay out batches, make a personal link for each.

    From responses of two or more systems to the same exchanges: a number of exchanges of every emotion
    is drawn; each is rated under every system by --ratings people. A batch shows --batch exchanges,
    each once, in blocks of one system; the orders of the systems are used as evenly as can be, and in
    every place of the page each system stands equally often. plan.json has it all, and a table that
    shows how even it is. links.csv has one link per batch: whoever has the link can answer, so send
    each to one person and delete the file afterwards.

    Example: empo survey build --responses runs/demo/responses/*.jsonl --output survey
                 --contact "Ada Example, ada@example.org"
    """
    (settings,) = parse(
        argv, BuildSettings, prog="empo survey build", description=build_command.__doc__ or ""
    )
    from empo.survey.design import MOST_SYSTEMS
    from empo.survey.plan import make_plan, write_survey_folder
    from empo.survey.sampling import read_systems
    from empo.survey.texts import DEFAULT, load_texts

    texts = Path(settings.texts or DEFAULT)
    load_texts(texts)
    systems = read_systems(settings.responses, human=settings.human)
    if not 2 <= len(systems) <= MOST_SYSTEMS:
        raise UserError(
            f"--responses: {len(systems)} system{'s' * (len(systems) != 1)} in all; a survey "
            f"compares 2 to {MOST_SYSTEMS}."
        )
    design = {
        name: getattr(settings, name)
        for name in ("items", "per_emotion", "batch", "block", "ratings", "single_system")
    }
    plan = make_plan(
        systems,
        items=settings.items,
        per_emotion=settings.per_emotion,
        size=settings.batch,
        block=settings.block,
        ratings=settings.ratings,
        single=settings.single_system,
        seed=settings.seed,
    )
    output = Path(settings.output)
    with alone(output.with_name(f".{output.name}.lock"), output):
        links = write_survey_folder(
            output,
            plan,
            texts,
            settings.responses,
            {
                "command": redacted(shlex.join(["empo", "survey", "build", *argv])),
                "seed": settings.seed,
                "design": design,
                "contact": settings.contact,
                "url": settings.url,
            },
        )
    print(balance_table(plan))
    print(f"\n{len(plan['batches']):,} links, one per person: {links} (keep it secret)")
    print(f"plan: {output / 'plan.json'}; next: empo survey serve --survey {output}")
    return 0


def balance_table(plan: Mapping[str, Any]) -> str:
    """The evenness of a plan for a terminal."""
    from empo.reporting.markdown import aligned

    balance, items = plan["balance"], plan["items"]
    emotions = Counter(item["emotion"] for item in items)
    kinds = Counter(batch["kind"] for batch in plan["batches"])
    used = balance["orders"].values()

    def spread(counts: Collection[int]) -> str:
        low, high = min(counts), max(counts)
        return str(low) if low == high else f"{low} to {high}"

    lines = [
        f"{len(items):,} exchanges, {spread(emotions.values())} of each of "
        f"{len(emotions)} emotions; {len(plan['systems'])} systems",
        f"{balance['batches']:,} batches ({kinds['mixed']} mixed, {kinds['single']} of one system); "
        f"ratings of an exchange under a system: {spread(balance['ratings'])}; batches that show an exchange "
        f"twice: {balance['item_twice']}",
    ]
    if used:
        lines.append(f"{len(used)} orders of systems, each in {spread(used)} of the mixed batches")
    rows = [["system", "fewest in a place", "most in a place"]]
    rows += [[name, str(min(of)), str(max(of))] for name, of in balance["places"].items()]
    return "\n".join(lines) + "\n\n" + aligned(rows)


@dataclass
class ServeSettings:
    """Settings of `empo survey serve`."""

    survey: str = option(
        help="folder that `empo survey build` made; the option's name can be left out"
    )
    host: str = option("127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    port: int = option(8000, help="port to listen on")


def serve_command(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C; may be stopped and started again at any time.

    An answer is on the disk before the next page is shown. There is no log of requests. Behind a web
    server that does https, build with --url https://..., so that cookies are sent over https only.

    Example: empo survey serve survey --port 8000
    """
    (settings,) = parse(
        with_option(argv, "--survey"),
        ServeSettings,
        prog="empo survey serve",
        description=serve_command.__doc__ or "",
    )
    try:
        import uvicorn

        from empo.survey.app import Survey
    except ImportError as error:
        raise UserError(f"{error.name} is not installed. {EXTRA}.") from None
    folder = Path(settings.survey)
    survey = Survey(folder)
    with alone(folder / ".lock", folder):
        try:
            place = socket.create_server((settings.host, settings.port), reuse_port=False)
        except OSError as error:
            raise UserError(
                f"--port: {settings.host}:{settings.port} cannot be listened on "
                f"({error.strerror}). Stop what listens there, or choose another port."
            ) from None
        print(
            f"serving on http://{settings.host}:{place.getsockname()[1]} (links: "
            f"{survey.plan['url']}/s/...); Ctrl-C stops",
            flush=True,
        )
        server = uvicorn.Server(
            uvicorn.Config(
                survey.app(),
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
            )
        )
        server.run(sockets=[place])
    return 0


@dataclass
class StatusSettings:
    """Settings of `empo survey status`."""

    survey: str = option(help="folder of the survey; the option's name can be left out")
    reissue: list[int] | None = option(
        None, help="numbers of batches that get a new link, for people who did not come to the end"
    )
    codes: bool = option(False, help="list the codes of those who have finished, sorted")


def status_command(argv: Sequence[str]) -> int:
    """How far the survey is, batch by batch; new links for batches that were left.

    Example: empo survey status survey --reissue 3 17
    """
    (settings,) = parse(
        with_option(argv, "--survey"),
        StatusSettings,
        prog="empo survey status",
        description=status_command.__doc__ or "",
    )
    from empo.reporting.markdown import aligned
    from empo.survey.plan import LINKS, append_links, open_answers, read_plan

    folder = Path(settings.survey)
    plan = read_plan(folder)
    store = open_answers(folder, plan)
    sizes = {batch["number"]: len(batch["places"]) for batch in plan["batches"]}
    if unknown := [number for number in settings.reissue or () if number not in sizes]:
        raise UserError(
            f"--reissue: there is no batch {unknown[0]}; they go from 1 to {len(sizes)}."
        )
    if settings.reissue:
        append_links(
            folder / LINKS, plan["url"], settings.reissue, store.add_links(settings.reissue)
        )
        print(f"{len(settings.reissue)} new links at the end of {folder / LINKS}\n")
    progress = store.progress()
    states = Counter(_state(begun, count, sizes[batch]) for _, batch, begun, count in progress)
    answered = sum(count for *_, count in progress)
    print(
        f"replies rated: {answered:,} of {sum(sizes.values()):,}; links: {len(progress):,}, "
        f"{states['not used']:,} not used, {states['begun']:,} begun, {states['finished']:,} finished"
    )
    rows = [["batch", "rater", "rated", "state"]]
    rows += [
        [str(batch), f"r{rater:04d}", f"{count} of {sizes[batch]}", "begun"]
        for rater, batch, begun, count in progress
        if _state(begun, count, sizes[batch]) == "begun"
    ]
    if len(rows) > 1:
        print(f"\n{aligned(rows)}")
    if settings.codes:
        print("\ncodes of those who have finished:", *store.codes(), sep="\n")
    return 0


def _state(begun: bool, count: int, size: int) -> str:
    return "finished" if count == size else "begun" if begun else "not used"


@dataclass
class ExportSettings:
    """Settings of `empo survey export`."""

    survey: str = option(help="folder of the survey; the option's name can be left out")
    output: str = option(help="csv file for the tidy table")


def export_command(argv: Sequence[str]) -> int:
    """The ratings as a tidy csv, one row per rating, as `empo agreement` and `analyse` read it.

    Example: empo survey export survey --output survey/tidy.csv
    """
    (settings,) = parse(
        with_option(argv, "--survey"),
        ExportSettings,
        prog="empo survey export",
        description=export_command.__doc__ or "",
    )
    from empo.survey.plan import open_answers, read_plan
    from empo.survey.ratings import rating_rows, write_tidy

    folder = Path(settings.survey)
    plan = read_plan(folder)
    rows = list(rating_rows(plan, open_answers(folder, plan)))
    if not rows:
        raise UserError(f"{folder}: nobody has answered yet.")
    write_tidy(settings.output, rows)
    raters = len({row["rater"] for row in rows})
    print(f"{len(rows):,} ratings by {raters:,} raters: {settings.output}")
    return 0


@dataclass
class AnalyseSettings:
    """Settings of `empo survey analyse`."""

    output: str = option(help="folder for survey.json, survey.md and figures")
    survey: str | None = option(
        None, help="folder of the survey; the option's name can be left out"
    )
    input: str | None = option(
        None, help="instead: tidy csv from anywhere; columns item, rater, aspect, value, system"
    )
    straight_share: float = option(
        0.8, help="share of items with all sliders equal from which a rater is flagged"
    )
    fast_seconds: float = option(5.0, help="median seconds per item below which a rater is flagged")
    resamples: int = option(9_999, help="resamples of tests and intervals")
    seed: int = option(0, help="seed of the resampling")

    def problems(self) -> list[str]:
        """What cannot work."""
        found = []
        if (self.survey is None) == (self.input is None):
            found.append("give the folder of a survey, or --input with a tidy csv.")
        if not 0 < self.straight_share <= 1:
            found.append(f"--straight-share: {self.straight_share:g} is not between 0 and 1.")
        if self.fast_seconds < 0:
            found.append(f"--fast-seconds: {self.fast_seconds:g} is negative.")
        if self.resamples < 199:
            found.append(f"--resamples: {self.resamples} is too few; at least 199 are needed.")
        if self.seed < 0:
            found.append(f"--seed: {self.seed} is negative; 0 or more is needed.")
        return found


def analyse_command(argv: Sequence[str]) -> int:
    """Compare systems by people's ratings: means, tests, effects, agreement, a mixed model.

    Of a survey's folder, or of a tidy csv (item, rater, aspect, value, system; optional: exchange, by
    which systems are paired, seconds, characters). Two-sided paired tests on item means, a mixed model
    with raters and items, both with Holm's correction; Cohen's d, ICC(1) and ICC(k) with 95 %
    intervals; correlation with the length of the reply. Raters who set all sliders to the same place
    or answer faster than one can read are flagged, and everything is computed with and without them.
    eval/report.py takes the folder like any other results folder.

    Example: empo survey analyse survey --output results
             empo survey analyse --input tidy.csv --output results
    """
    (settings,) = parse(
        with_option(argv, "--survey"),
        AnalyseSettings,
        prog="empo survey analyse",
        description=analyse_command.__doc__ or "",
    )
    from empo.records import file_facts, write_text
    from empo.reporting.survey_figures import draw_survey
    from empo.reporting.survey_results import SURVEY_FILE, SURVEY_SCHEMA, write_survey
    from empo.reporting.survey_section import survey_report
    from empo.runs import now, versions
    from empo.survey.attention import flagged_raters

    ratings, systems, statements, missing = _ratings(settings)
    rules = {"straight_share": settings.straight_share, "fast_seconds": settings.fast_seconds}
    flagged = flagged_raters(ratings, **rules)
    found, without = _analyses(settings, ratings, systems, {row["rater"] for row in flagged})
    source = settings.input or str(Path(settings.survey or "") / "plan.json")
    results = {
        "schema": SURVEY_SCHEMA,
        "created": now(),
        "versions": versions(),
        "seed": settings.seed,
        "resamples": settings.resamples,
        "command": redacted(shlex.join(["empo", "survey", "analyse", *argv])),
        "inputs": [file_facts(source)],
        "aspects": list(found["agreement"]),
        "statements": statements,
        "missing": missing,
        "rules": rules,
        "flagged": flagged,
        "all": found,
        "without_flagged": without,
    }
    folder = Path(settings.output)
    write_survey(folder / SURVEY_FILE, results)
    figures = draw_survey(results, folder, "survey")
    write_text(folder / "survey.md", survey_report(results, figures))
    print(
        f"{found['ratings']:,} ratings by {found['raters']:,} raters ({len(flagged)} flagged): "
        f"{folder / 'survey.md'}, {folder / SURVEY_FILE}"
    )
    return 0


def _ratings(settings: AnalyseSettings) -> tuple[Any, list[str], dict[str, str], int]:
    """Ratings, systems in the order of the comparisons, words of the aspects, rows without a value."""
    from empo.survey.plan import TEXTS, open_answers, read_plan
    from empo.survey.ratings import rating_rows, ratings_of, read_ratings_table
    from empo.survey.texts import load_texts

    if settings.input is not None:
        ratings, missing = read_ratings_table(settings.input)
        return ratings, sorted(dict.fromkeys(ratings.system), key="human".__eq__), {}, missing
    folder = Path(settings.survey or "")
    plan = read_plan(folder)
    rows = list(rating_rows(plan, open_answers(folder, plan)))
    if not rows:
        raise UserError(f"{folder}: nobody has answered yet.")
    texts = load_texts(folder / TEXTS)
    there = {row["system"] for row in rows}
    systems = [name for name in plan["systems"] if name in there]
    return ratings_of(rows), systems, {**texts.statements, **texts.checkbox}, 0


def _analyses(
    settings: AnalyseSettings, ratings: Any, systems: Sequence[str], flagged: set[str]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The analysis of all ratings, and of those by raters who are not flagged, where some are left."""
    import numpy as np

    from empo.survey.analysis import analyse

    options = {"seed": settings.seed, "resamples": settings.resamples}
    found = analyse(ratings, systems, **options)
    kept = ratings.where(np.array([rater not in flagged for rater in ratings.rater]))
    left = [name for name in systems if name in set(kept.system)]
    if not flagged or len(left) < 2:
        return found, None
    try:
        return found, analyse(kept, left, **options)
    except UserError:  # no exchange is left under two systems
        return found, None


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
        return 0
    if argv[0] not in COMMANDS:
        raise UserError(f"empo survey {argv[0]}: no such command; known: {', '.join(COMMANDS)}")
    return COMMANDS[argv[0]](argv[1:])


def with_option(argv: Sequence[str], name: str) -> list[str]:
    """The command line with the option's name before a first word that has none."""
    return [name, *argv] if argv and not argv[0].startswith("-") else list(argv)
