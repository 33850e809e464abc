"""`empo survey build`: items drawn, batches laid out, a personal link for each."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from empo.records import UserError, shown
from empo.redaction import redacted
from empo.runs import alone
from empo.settings import option, parse


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
        if wrong := _wrong_address(self.url):
            found.append(
                f"--url: {shown(self.url)} {wrong}. Give scheme, host and port alone, as in "
                "https://survey.example.org; the page lies at the top of its site."
            )
        if not self.contact.strip():
            found.append("--contact: it is blank. Say whom people can ask, for example by mail.")
        if self.seed < 0:
            found.append(f"--seed: {self.seed} is negative; 0 or more is needed.")
        return found


def _wrong_address(url: str) -> str | None:
    """What is wrong with the address of a site, to which links add their paths."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
    except ValueError:
        return "is no address"
    if parts.scheme not in ("http", "https"):
        return "does not begin with http:// or https://"
    if not parts.hostname or re.search(r"[\s\\<>\"]", url):
        return "has no host, or signs that no address has"
    if "@" in parts.netloc:
        return "has a name or password, which would stand in every link"
    if parts.path.strip("/") or "?" in url or "#" in url:
        return "has a path, query or fragment, with which links would lead nowhere"
    return None


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
