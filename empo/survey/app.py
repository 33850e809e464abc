"""The survey's page as a web application: consent, instructions, an example, an item per page, a code.

Everything is rendered on the server and works without JavaScript; with it, number fields become
sliders. Nothing is kept before consent, and nothing of a person but the ratings and their seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from empo.records import UserError
from empo.survey import forms
from empo.survey.plan import TEXTS, open_answers, read_plan
from empo.survey.store import Answer, Participant
from empo.survey.texts import LARGEST, load_texts

HERE = Path(__file__).parent
COOKIE = "survey"
COOKIE_SECONDS = 30 * 24 * 3600
SECONDS_PER_ITEM = 45
"""From which the page of consent tells how long a batch takes."""

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # not no-referrer: with it browsers send `Origin: null` with our own forms
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-robots-tag": "noindex",
}


class Headers:
    """Puts HEADERS on every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                if not scope["path"].startswith("/static/"):
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        await self.app(scope, receive, with_headers)


class Refused(Exception):
    """A request that gets a page with a reason; `what` is the key of its text in `errors`."""

    def __init__(self, what: str, status: int) -> None:
        super().__init__(what)
        self.what, self.status = what, status


class Survey:
    """The pages of one survey's folder."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.plan = read_plan(folder)
        self.texts = load_texts(folder / TEXTS)
        self.store = open_answers(folder, self.plan)
        self.opened: dict[tuple[int, int], str] = {}
        """(participant, place) to the stamp of its first opening: a reload does not begin it anew."""
        self.batches = {batch["number"]: batch for batch in self.plan["batches"]}
        self.templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined
        )

    def app(self) -> ASGIApp:
        """The application, to be served by uvicorn or another ASGI server."""
        link = "/s/{token:str}"
        routes = [
            Route(link, self.begin),
            Route(f"{link}/consent", self.consent, methods=["POST"]),
            Route(f"{link}/instructions", self.instructions),
            Route(f"{link}/example", self.example),
            Route(f"{link}/item/{{number:int}}", self.item),
            Route(f"{link}/item/{{number:int}}", self.answer, methods=["POST"]),
            Route(f"{link}/done", self.done),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        handlers: Mapping[Any, Any] = {
            Refused: self._refused,
            UserError: self._busy,
            HTTPException: self._unknown,
        }
        return Headers(Starlette(routes=routes, exception_handlers=handlers))

    async def begin(self, request: Request) -> Response:
        """The link itself: consent, or wherever the person has got to."""
        participant = await self._participant(request)
        if participant.session is None:
            return self._consent_page(request, participant)
        self._own(request, participant)
        return await self._onward(request, participant)

    async def consent(self, request: Request) -> Response:
        """Consent binds the link to this browser; nothing is kept before."""
        form = await self._form(request)
        participant = await self._participant(request)
        token = request.path_params["token"]
        sent = form.get("stamp", "")
        if forms.seconds_since(self.store.key, sent, "consent", token) is None:
            raise Refused("refused", 403)
        cookie = forms.cookie_of(self.store.key, sent)
        if participant.session is None:
            if form.get("agree") != "1":
                return self._consent_page(request, participant, needed=True)
            await run_in_threadpool(self.store.consent, participant.id, cookie)
            participant = await self._participant(request)  # another browser may have been first
        if not participant.is_of(cookie):
            raise Refused("used", 403)
        response = await self._onward(request, participant)
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=COOKIE_SECONDS,
            path=f"/s/{token}",
            secure=self.plan["url"].startswith("https:"),
            httponly=True,
            samesite="lax",  # strict would lock out who comes back by the link in a mail
        )
        return response

    async def instructions(self, request: Request) -> Response:
        """What to do."""
        await self._bound(request)
        return self._page("instructions.html", request, page=self.texts.instructions)

    async def example(self, request: Request) -> Response:
        """A reply with ratings."""
        await self._bound(request)
        return self._page("example.html", request, example=self.texts.example)

    async def item(self, request: Request) -> Response:
        """The next item as a form; one that was answered as it was answered."""
        participant = await self._bound(request)
        answers = await run_in_threadpool(self.store.answers, participant.id)
        place = request.path_params["number"] - 1
        if not 0 <= place <= len(answers) or place >= self._length(participant):
            return await self._onward(request, participant)
        given = answers[place].ratings if place < len(answers) else {}
        return self._item_page(request, participant, place, given, answered=place < len(answers))

    async def answer(self, request: Request) -> Response:
        """Keep the ratings of the next item and go on; what cannot be kept comes back with a reason."""
        form = await self._form(request)
        participant = await self._bound(request)
        place = request.path_params["number"] - 1
        seconds = forms.seconds_since(
            self.store.key, form.get("stamp", ""), "item", request.cookies[COOKIE], place
        )
        if seconds is None or not 0 <= place < self._length(participant):
            raise Refused("refused", 403)
        ratings, wrong = forms.read_ratings(form, self.texts.sliders, self.texts.box)
        if wrong:
            if place < len(await run_in_threadpool(self.store.answers, participant.id)):
                raise Refused("answered", 409)
            return self._item_page(
                request, participant, place, ratings, wrong=wrong, sent=form["stamp"]
            )
        kept = await run_in_threadpool(
            self.store.keep, participant.id, Answer(place, ratings, seconds)
        )
        self.opened.pop((participant.id, place), None)
        if kept is not None and kept.ratings != ratings:
            raise Refused("answered", 409)
        return await self._onward(request, participant)

    async def done(self, request: Request) -> Response:
        """The code, once all items are answered."""
        participant = await self._bound(request)
        answers = await run_in_threadpool(self.store.answers, participant.id)
        if len(answers) < self._length(participant):
            return await self._onward(request, participant)
        code = await run_in_threadpool(self.store.code, request.cookies[COOKIE])
        return self._page("done.html", request, code=code)

    async def _participant(self, request: Request) -> Participant:
        token = request.path_params["token"]
        participant = await run_in_threadpool(self.store.participant, token)
        if participant is None:
            raise Refused("unknown", 404)
        if participant.replaced:
            raise Refused("replaced", 410)
        return participant

    async def _bound(self, request: Request) -> Participant:
        """Whoever has the link, in the browser that gave consent."""
        participant = await self._participant(request)
        self._own(request, participant)
        return participant

    def _own(self, request: Request, participant: Participant) -> None:
        if not participant.is_of(request.cookies.get(COOKIE)):
            raise Refused("refused" if participant.session is None else "used", 403)

    async def _form(self, request: Request) -> dict[str, str]:
        if not forms.same_site(request.headers, self.plan["url"]):
            raise Refused("refused", 403)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > forms.MOST_BYTES:
                raise Refused("refused", 413)
        found = forms.fields(body)
        if found is None:
            raise Refused("refused", 400)
        return found

    async def _onward(self, request: Request, participant: Participant) -> Response:
        answers = await run_in_threadpool(self.store.answers, participant.id)
        last = len(answers) == self._length(participant)
        there = "done" if last else f"item/{len(answers) + 1}" if answers else "instructions"
        return RedirectResponse(f"/s/{request.path_params['token']}/{there}", 303)

    def _length(self, participant: Participant) -> int:
        return len(self.batches[participant.batch]["places"])

    def _consent_page(
        self, request: Request, participant: Participant, needed: bool = False
    ) -> Response:
        stamp = forms.stamp(self.store.key, "consent", request.path_params["token"])
        items = self._length(participant)
        filled = {"items": items, "minutes": -(-items * SECONDS_PER_ITEM // 60)}
        return self._page(
            "consent.html", request, 422 if needed else 200, needed=needed, stamp=stamp, **filled
        )

    def _item_page(
        self,
        request: Request,
        participant: Participant,
        place: int,
        given: Mapping[str, int],
        *,
        answered: bool = False,
        wrong: Mapping[str, str] | None = None,
        sent: str | None = None,
    ) -> Response:
        """An item; `sent` is the stamp of its form that comes back, which may be of before a restart."""
        batch = self.batches[participant.batch]
        number, system = batch["places"][place]
        item = self.plan["items"][number]
        stamp = forms.stamp(self.store.key, "item", request.cookies[COOKIE], place)
        if not answered:
            stamp = self.opened.setdefault((participant.id, place), sent or stamp)
        return self._page(
            "item.html",
            request,
            422 if wrong else 200,
            context=item["context"],
            reply=item["responses"][system],
            number=place + 1,
            items=len(batch["places"]),
            given=given,
            answered=answered,
            wrong=wrong or {},
            stamp=stamp,
        )

    def _page(self, name: str, request: Request, status: int = 200, **values: Any) -> Response:
        def fill(text: str) -> str:
            return text.format(contact=self.plan["contact"], **values)

        html = self.templates.get_template(name).render(
            texts=self.texts,
            fill=fill,
            largest=LARGEST,
            link=f"/s/{request.path_params.get('token', '')}",
            **values,
        )
        return HTMLResponse(html, status)

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return self._page("message.html", request, error.status, what=error.what)

    async def _busy(self, request: Request, error: Exception) -> Response:
        print(f"error: {error}", flush=True)
        return self._page("message.html", request, 503, what="busy")

    async def _unknown(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return self._page("message.html", request, status, what="unknown")
