"""The paths, as FastAPI knows them: questions in, models of `status` out. What is asked comes from a `Source`."""

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from pipeline import __version__, answers
from pipeline.config import Config, Mode, Word
from pipeline.errors import ControlError, NotRunningError, NotSubscribedError, UnknownSymbolError
from pipeline.requests import MAX_PAGE, FindParams
from pipeline.status import (
    ConnectionStatus,
    HealthResponse,
    InstrumentPage,
    InstrumentSubscription,
    Metrics,
    Process,
    Storage,
)
from pipeline.web import prometheus
from pipeline.web.events import EventStream, Hub
from pipeline.web.guard import PROBE
from pipeline.web.page import Page
from pipeline.web.source import Source

ABOUT = """What the recorder does, read-only. Times are ISO 8601 with offset. All figures come from counters and are at
most a second old. What goes wrong is answered with `{"detail": "..."}`."""

_None = SkipJsonSchema[None]  # of a parameter that is not given; "null" cannot be
MAX_DIGITS = 20  # of a number that is worth reading
SHOWN_CHARS, SHOWN_PROBLEMS = 100, 5  # of what a request has wrong


class Refusal(BaseModel):
    """Why there is no answer."""

    detail: str


class Live(BaseModel):
    """The HTTP process works."""

    status: Literal["live"] = "live"


class Silence(BaseModel):
    """Nobody records, as far as can be seen from here: the service does not answer."""

    status: Literal["down"] = "down"
    reasons: list[str]


class MetricsResponse(Metrics):
    """Counts and rates, and how these compare to the rate that is aimed at."""

    target_tick_rate: int
    performance_pct: float


class Wanted(BaseModel):
    """The instruments that are asked for; the bounds are those of `FindParams`."""

    model_config = ConfigDict(extra="forbid")

    connection: Annotated[int, Field(ge=1, le=3)] | _None = Field(None, description="That records it.")
    mode: Mode | _None = None
    stale: bool | _None = Field(None, description="Only those that have not ticked for `stale_s`, or only the others.")
    stale_s: float = Field(60.0, ge=0, le=86_400 * 365)
    search: Annotated[str, Field(min_length=1, max_length=64)] | _None = Field(
        None, description="Is part of the token or the symbol."
    )
    offset: int = Field(0, ge=0, le=1_000_000)
    limit: int = Field(FindParams().limit, ge=1, le=MAX_PAGE)


def create(config: Config, source: Source, hub: Hub, page: Page) -> FastAPI:
    """Return the application. What every request has to pass before it is `guard`'s."""
    app: FastAPI = FastAPIOffline(
        redoc_url=None,
        title="Market data recorder",
        version=__version__,
        description=ABOUT,
        redirect_slashes=False,
        responses=_refusals({400: "The Host header names another server.", 503: "The service does not answer."}),
    )
    _add_errors(app)
    _Paths(source, hub, page).add_to(app)
    if config.http.token.get_secret_value():
        _ask_for_token(app)
    return app


def _as_word(text: str) -> int | str:
    """Return what a part of a path means. Raises ValueError."""
    if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS:
        return int(text)
    if ":" not in text:
        raise ValueError("should be an integer, the token, or a symbol like NSE:INFY")
    return text


_WORD_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 2**32 - 1},
        {"type": "string", "pattern": "^[A-Z]{2,5}:[A-Z0-9&-]{1,40}$"},
    ]
}


class _Paths:
    def __init__(self, source: Source, hub: Hub, page: Page) -> None:
        self._source = source
        self._hub = hub
        self._page = page

    def add_to(self, app: FastAPI) -> None:
        app.get("/", include_in_schema=False)(self.dashboard)
        app.get("/favicon.ico", include_in_schema=False)(self.icon)
        app.get("/health", responses=_HEALTH)(self.health)
        app.get(PROBE, responses=_answer(Live))(self.live)
        app.get("/connections", responses=_answer(dict[str, ConnectionStatus]))(self.connections)
        app.get("/instruments", responses=_answer(InstrumentPage) | _INVALID)(self.instruments)
        app.get("/instruments/{token}", responses=_answer(InstrumentSubscription) | _INVALID | _UNKNOWN)(
            self.instrument
        )
        app.get("/storage", responses=_answer(Storage))(self.storage)
        app.get("/processes", responses=_answer(dict[str, Process]))(self.processes)
        app.get("/metrics", responses=_METRICS)(self.metrics)
        app.get("/events", responses=_EVENTS)(self.events)

    async def dashboard(self) -> Response:
        return Response(self._page.document, media_type="text/html")

    async def icon(self) -> Response:
        return Response(status_code=204)

    async def health(self) -> Response:
        """Is it recording, and if not wholly, why: 200 if healthy or degraded, 503 if down."""
        try:
            answer = (await self._source.overview()).health
        except (NotRunningError, ControlError) as error:
            return _json(Silence(reasons=[str(error)]), 503)
        return _json(answer, 503 if answer.status == "down" else 200)

    async def live(self) -> Response:
        """Tell that this process works, whatever the recorder does; whoever asks, without the token."""
        return _json(Live())

    async def connections(self) -> Response:
        """Return the three connections to Kite, keys "1", "2" and "3"."""
        return _json_of((await self._source.overview()).connections)

    async def instruments(self, wanted: Annotated[Wanted, Query()]) -> Response:
        """Return a page of the instruments that fulfil all that is asked for, in the order of their subscription."""
        given = wanted.model_dump()
        connection_id = given.pop("connection")
        found = await self._source.ask(lambda client: client.find_instruments(connection_id=connection_id, **given))
        return _json(found)

    async def instrument(
        self, token: Annotated[Word, Path(), BeforeValidator(_as_word), WithJsonSchema(_WORD_SCHEMA)]
    ) -> Response:
        """Return one subscribed instrument, by its token or its symbol."""
        return _json(await self._source.ask(lambda client: client.instrument(token)))

    async def storage(self) -> Response:
        """Return what the writer does."""
        return _json((await self._source.overview()).storage)

    async def processes(self) -> Response:
        """Return the processes of the service by role."""
        return _json_of((await self._source.overview()).processes)

    async def metrics(self, accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
        """Return counts and rates, for Prometheus (text format 0.0.4) or, if asked for, as JSON."""
        vary = {"vary": "Accept"}
        if wants_json(accept):
            return JSONResponse(answers.metrics((await self._source.overview()).metrics), headers=vary)
        try:
            text = await self._source.metrics()
        except (NotRunningError, ControlError):  # that is a figure too: mds_up 0
            text = prometheus.text(None)
        return Response(text, headers={**vary, "content-type": prometheus.CONTENT_TYPE})

    async def events(self, last_event_id: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
        """Send what happens as server-sent events.

        `series` (once), `status` (at once and every half second), `notice` (the latest, or those after
        `Last-Event-ID`, and each new one), and `gone` while the service does not answer.
        """
        return EventStream(self._hub, last_event_id)


def wants_json(accept: str) -> bool:
    """Tell whether an Accept header asks for JSON rather than for text; where it names neither, it does not."""
    weights = {"application/json": 0.0, "text/plain": 0.0, "application/openmetrics-text": 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind in weights:
            weights[kind] = max(weights[kind], _weight(parameters))
    wanted = weights.pop("application/json")
    return wanted > 0 and wanted >= max(weights.values())


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _json(model: BaseModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(), status, media_type="application/json")


def _json_of(models: dict[str, Any]) -> Response:
    return JSONResponse({name: model.model_dump() for name, model in models.items()})


# What the OpenAPI document says.

_Responses = dict[int | str, dict[str, Any]]


def _answer(model: Any) -> _Responses:
    return {200: {"model": model}}


def _refusals(why: dict[int, str]) -> _Responses:
    return {status: {"model": Refusal, "description": text} for status, text in why.items()}


_INVALID = _refusals({422: "A parameter is not one of these, or out of bounds."})
_UNKNOWN = _refusals({404: "The instrument is not subscribed."})
_HEALTH: _Responses = {
    200: {"model": HealthResponse, "description": "Healthy or degraded: all is recorded."},
    503: {"model": HealthResponse | Silence, "description": "Down: something is missed, or nobody answers."},
}
_METRICS: _Responses = {
    200: {"model": MetricsResponse, "content": {"text/plain": {"schema": {"type": "string"}}}},
}
_EVENTS: _Responses = {
    200: {"description": "The stream.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
}


def _ask_for_token(app: FastAPI) -> None:
    """Let the OpenAPI document say that each request but the probe needs the token."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        document["paths"][PROBE]["get"]["security"] = []
        for path in (path for name, path in document["paths"].items() if name != PROBE):
            path["get"]["responses"]["401"] = {
                "description": "The token is missing, or another one.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
            }
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI's documentation shows


def _add_errors(app: FastAPI) -> None:
    def refuse(status: int, detail: str) -> Response:
        return _json(Refusal(detail=detail), status)

    @app.exception_handler(NotRunningError)
    async def silent(_: Request, error: NotRunningError) -> Response:
        return refuse(503, str(error))

    @app.exception_handler(ControlError)
    async def refused(_: Request, error: ControlError) -> Response:
        return refuse(503, str(error))

    @app.exception_handler(NotSubscribedError)
    @app.exception_handler(UnknownSymbolError)
    async def unknown(_: Request, error: ControlError) -> Response:
        return refuse(404, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found: dict[str, str] = {}
        for problem in error.errors():  # of a value that may be several things, what is wrong with it as the first
            found.setdefault(str(problem["loc"][1])[:SHOWN_CHARS], problem["msg"].removeprefix("Value error, "))
        return refuse(422, "; ".join(f"{name}: {message}" for name, message in list(found.items())[:SHOWN_PROBLEMS]))

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        detail = "there is nothing here, /docs lists what there is" if error.status_code == 404 else str(error.detail)
        return refuse(error.status_code, detail)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:  # who called the application logs it
        return refuse(500, "this request has failed, the log of the service tells why")
