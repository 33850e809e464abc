"""`empo survey serve`, `status` and `export`: the page, how far it is, its ratings."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from empo.records import UserError
from empo.runs import alone
from empo.settings import option, parse


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
        raise UserError(
            f"{error.name} is not installed. The survey's page needs `pip install 'empo[survey]'`."
        ) from None
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
        links = urlsplit(survey.plan["url"])
        if links.scheme == "http" and (links.port or 80) != place.getsockname()[1]:
            print(
                f"warning: the links lead to port {links.port or 80}. They reach this page only where a web "
                "server passes them on. Else serve on that port, or build with the right --url.",
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

    A new link replaces those of its batch that did not come to the end: they open no more, and their
    ratings are left out of the table and the analysis, since the same person may begin again.

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
    from empo.survey.ratings import replaced_answers

    folder = Path(settings.survey)
    plan = read_plan(folder)
    store = open_answers(folder, plan)
    sizes = {batch["number"]: len(batch["places"]) for batch in plan["batches"]}
    if unknown := [number for number in settings.reissue or () if number not in sizes]:
        raise UserError(
            f"--reissue: there is no batch {unknown[0]}; they go from 1 to {len(sizes)}."
        )
    if settings.reissue:
        with alone(
            folder / ".links.lock", folder / LINKS
        ):  # two would write over each other's links
            links = store.add_links(settings.reissue, sizes)
            append_links(folder / LINKS, plan["url"], settings.reissue, links)
        print(f"{len(links)} new links at the end of {folder / LINKS}\n")
    everybody = store.progress()
    progress = [row[:-1] for row in everybody if not row[-1]]
    replaced = len(everybody) - len(progress)
    states = Counter(_state(begun, count, sizes[batch]) for _, batch, begun, count in progress)
    answered = sum(count for *_, count in progress)
    print(
        f"replies rated: {answered:,} of {sum(sizes.values()):,}; links: {len(progress):,}, "
        f"{states['not used']:,} not used, {states['begun']:,} begun, {states['finished']:,} finished"
        + (
            f"; {replaced:,} replaced, with {replaced_answers(store):,} replies rated that do not count"
            if replaced
            else ""
        )
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
    from empo.survey.ratings import rating_rows, replaced_answers, write_tidy

    folder = Path(settings.survey)
    plan = read_plan(folder)
    store = open_answers(folder, plan)
    rows = list(rating_rows(plan, store))
    if not rows:
        raise UserError(f"{folder}: nobody has answered yet.")
    write_tidy(settings.output, rows)
    raters, replaced = len({row["rater"] for row in rows}), replaced_answers(store)
    left = f" ({replaced:,} replies rated by links that were replaced are left out)"
    print(f"{len(rows):,} ratings by {raters:,} raters{left * bool(replaced)}: {settings.output}")
    return 0


def with_option(argv: Sequence[str], name: str) -> list[str]:
    """The command line with the option's name before a first word that has none."""
    return [name, *argv] if argv and not argv[0].startswith("-") else list(argv)
