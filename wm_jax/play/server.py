"""`wm-jax play`: the page, and beside its dream the actual environment, over one WebSocket.

A message is JSON: {"begin": seed} or {"step": [A numbers], or null where C is to act}. The answer is the moment that
follows, {"frame", "seen", "earned", "steps", "over"}, pictures as base64; {"error": why} for anything else, which changes
nothing; or {"wait": why} before the connection is closed, where all places are taken.
"""

import asyncio
import ipaddress
import json
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np

from wm_jax.agent import LARGEST_SEED
from wm_jax.errors import ForeignError, UserError
from wm_jax.extras import need
from wm_jax.pipeline.bundle import Bundle
from wm_jax.play.game import Game, Moment
from wm_jax.rollouts.workers import usable_cores
from wm_jax.tasks.calls import checked_action

EXTRA = "play"
VISITORS = 10
"""Games at a time; more are told to wait."""
LARGEST = 1024
"""Bytes of a message; the connection of a larger one is closed."""
IDLE = 120.0
"""Seconds without a message after which a visitor's place is free for another."""
HURRY = 2
"""How many times the task's own speed a visitor may play; the answer to a faster one waits."""
CONNECTIONS = 100
"""At a time, those among them that have no place."""

Result = TypeVar("Result")


class Malformed(Exception):
    """A message that is not understood; says why."""


class Room:
    """The games of all visitors, played in as many threads as there are cores."""

    def __init__(self, found: Bundle):
        self.found, self.taken = found, 0
        self.pace = 1 / (HURRY * found.models.task.frames_per_second)
        self.size = found.models.task.action_size

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """While the server runs."""
        with ThreadPoolExecutor(usable_cores()) as self.threads:
            yield

    def warm(self) -> None:
        """Play a step, so that what is missing or wrong is known, and what has to be compiled is, before anybody comes."""
        with closing(Game(self.found)) as game:
            game.begin(0)
            game.step(None)

    async def visit(self, connection: Any) -> None:
        """Answer one visitor's messages until the connection ends."""
        if self.taken >= VISITORS:
            await _send(connection, json.dumps({"wait": f"{VISITORS} visitors play now; try again in a minute"}))
            return
        self.taken += 1
        game = None
        try:
            game = await self._do(Game, self.found)
            await self._serve(connection, game)
        except (UserError, ForeignError) as error:
            await _send(connection, json.dumps({"error": str(error)}))
        finally:
            self.taken -= 1
            if game is not None:
                with suppress(UserError, ForeignError):
                    await asyncio.shield(self._do(game.close))

    async def _serve(self, connection: Any, game: Game) -> None:
        begun, loop = False, asyncio.get_running_loop()
        while True:
            try:
                message = await asyncio.wait_for(connection.receive(), IDLE)
            except TimeoutError:
                await _send(connection, json.dumps({"wait": f"nothing was asked for {IDLE:.0f} seconds"}))
                return
            if message["type"] == "websocket.disconnect":
                return
            due = loop.time() + self.pace
            try:
                order, value = self._understood(message.get("text"), begun)
            except Malformed as error:
                await _send(connection, json.dumps({"error": str(error)}))
            else:
                moment = await self._do(game.begin if order == "begin" else game.step, value)
                begun = True
                await _send(connection, told(moment))
            await asyncio.sleep(due - loop.time())

    def _understood(self, message: str | None, begun: bool) -> tuple[str, Any]:
        """("begin", seed) or ("step", action or None). Raises `Malformed`."""
        try:
            asked = json.loads(message or "")
        except (ValueError, RecursionError):
            raise Malformed("expected JSON, as text") from None
        if not isinstance(asked, dict) or len(asked) != 1 or next(iter(asked)) not in ("begin", "step"):
            raise Malformed('expected {"begin": seed} or {"step": action}')
        order, value = next(iter(asked.items()))
        if order == "begin":
            if type(value) is not int or not 0 <= value <= LARGEST_SEED:
                raise Malformed(f"expected a seed from 0 to {LARGEST_SEED}")
            return order, value
        if not begun:
            raise Malformed('expected {"begin": seed} before a step')
        if value is None:
            return order, None
        if not isinstance(value, list) or not all(type(number) in (int, float) for number in value):
            raise Malformed(f"expected an action of {self.size} numbers from -1 to 1, or null")
        try:
            return order, checked_action("", np.asarray(value, np.float32), self.size)
        except (UserError, OverflowError):
            raise Malformed(f"expected an action of {self.size} numbers from -1 to 1, or null") from None

    async def _do(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run what takes a while, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, partial(function, *arguments))


async def _send(connection: Any, text: str) -> None:
    """Send to a visitor; raises `TimeoutError` for one who reads nothing."""
    await asyncio.wait_for(connection.send_text(text), IDLE)


def told(moment: Moment) -> str:
    """A moment as the page reads it."""
    pictures = {name: b64encode(getattr(moment, name).tobytes()).decode() for name in ("frame", "seen")}
    return json.dumps({**pictures, "earned": moment.earned, "steps": moment.steps, "over": moment.over})


def known(header: str, host: str) -> bool:
    """Whether a request's Host header is an address in numbers, this machine's usual name, or the `host` that is served: a
    site that has its own name lead here, to have its visitors' browsers ask for it, is none of them."""
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() else header
    return name in ("localhost", host) or _address(name) is not None


def _address(host: str) -> ipaddress.IPv4Address | None:
    """An address in numbers; None for a name."""
    with suppress(ValueError):
        return ipaddress.IPv4Address(host)
    return None


def _local(host: str) -> bool:
    """Whether only this machine reaches this address."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def application(page: bytes, room: Room, host: str) -> Any:
    """The ASGI application: the page at /, the games at /actual. Requests for an unknown host, and connections that another
    site's page asks for, are refused."""
    applications, routing = need("starlette.applications", EXTRA), need("starlette.routing", EXTRA)
    responses, websockets = need("starlette.responses", EXTRA), need("starlette.websockets", EXTRA)

    async def shown(request: Any) -> Any:
        if not known(request.headers.get("host", ""), host):
            return responses.PlainTextResponse("unknown host", 400)
        return responses.HTMLResponse(page)

    async def actual(connection: Any) -> None:
        asked = connection.headers.get("host", "")
        if not known(asked, host) or connection.headers.get("origin") != f"http://{asked}":
            await connection.close()
            return
        await connection.accept()
        with suppress(websockets.WebSocketDisconnect, TimeoutError):
            await room.visit(connection)
            await asyncio.wait_for(connection.close(), IDLE)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with room.open():
            yield

    routes = [routing.Route("/", shown), routing.WebSocketRoute("/actual", actual)]
    return applications.Starlette(routes=routes, lifespan=lifespan)


def require() -> None:
    """Raise `UserError` where the packages that serve are not installed."""
    for module in ("starlette", "uvicorn", "websockets"):
        need(module, EXTRA)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there, closed at the end. Raises `UserError` where the address cannot be had."""
    if not host:
        raise UserError("--host is empty; give an address, as 127.0.0.1, or leave it out")
    with closing(socket.socket()) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, port))
            found.listen()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", error)
            raise UserError(f"{host}:{port} cannot be listened on ({reason}); give an IPv4 address of this machine, and "
                            "another port by --port, 0 for any that is free") from error  # fmt: skip
        yield found


def serve(found: socket.socket, host: str, page: bytes, room: Room, say: Callable[[str], None]) -> None:
    """Serve on a socket that listens on `host`, until Ctrl-C."""
    room.warm()
    address = f"http://{host}:{found.getsockname()[1]}"
    if not _local(host):
        say(f"anybody who reaches {address} can play here, unencrypted; without --host only this machine can")
    say(f"{address}   Ctrl-C ends it")
    uvicorn = need("uvicorn", EXTRA)
    server = uvicorn.Server(uvicorn.Config(
        application(page, room, host), log_level="warning", ws="websockets-sansio", ws_max_size=LARGEST,
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=2,
    ))  # fmt: skip
    with suppress(KeyboardInterrupt):
        server.run([found])
    say("ended")
