"""`wm-jax play`: serves the page, and the actual environment beside its dream through one WebSocket.

A message is JSON: {"begin": seed} or {"step": [A numbers], or null to let C act}. The answer is the next moment,
{"frame", "seen", "earned", "steps", "over"}, with pictures as base64. Any other message is answered by {"error": why}
and changes nothing. If all places are taken, {"wait": why} is sent before the connection is closed.
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
"""Maximum number of games at a time; further visitors are asked to wait."""
LARGEST = 1024
"""Maximum bytes of a message; a larger one closes the connection."""
IDLE = 120.0
"""Seconds without a message after which a visitor loses the place."""
HURRY = 2
"""Maximum speed of play, as a multiple of the task's own; faster messages are answered with a delay."""
CONNECTIONS = 100
"""Maximum number of connections, including those without a place."""

Result = TypeVar("Result")


class Malformed(Exception):
    """An invalid message; says why."""


class Room:
    """The games of all visitors, played in as many threads as there are cores."""

    def __init__(self, found: Bundle):
        self.found, self.taken = found, 0
        self.pace = 1 / (HURRY * found.models.task.frames_per_second)
        self.size = found.models.task.action_size

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep the games' threads while the server runs."""
        with ThreadPoolExecutor(usable_cores()) as self.threads:
            yield

    def warm(self) -> None:
        """Play one step before visitors come: it finds errors and missing packages, and compiles the programs."""
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
                await _send(connection, json.dumps({"wait": f"no message for {IDLE:.0f} seconds"}))
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
                await _send(connection, encoded(moment))
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
        """Run a slow function in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, partial(function, *arguments))


async def _send(connection: Any, text: str) -> None:
    """Send to a visitor. Raises `TimeoutError` if the visitor does not read."""
    await asyncio.wait_for(connection.send_text(text), IDLE)


def encoded(moment: Moment) -> str:
    """A moment, encoded for the page."""
    pictures = {name: b64encode(getattr(moment, name).tobytes()).decode() for name in ("frame", "seen")}
    return json.dumps({**pictures, "earned": moment.earned, "steps": moment.steps, "over": moment.over})


def known(header: str, host: str) -> bool:
    """Whether a request's Host header is a numeric address, this machine's usual name, or the served `host`. This
    blocks DNS rebinding: a foreign site whose name resolves to this machine is refused."""
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() else header
    return name in ("localhost", host) or _address(name) is not None


def _address(host: str) -> ipaddress.IPv4Address | None:
    """A numeric address; None for a name."""
    with suppress(ValueError):
        return ipaddress.IPv4Address(host)
    return None


def _local(host: str) -> bool:
    """Whether only this machine can reach this address."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def application(page: bytes, room: Room, host: str) -> Any:
    """The ASGI application: the page at /, the games at /actual. It refuses requests for an unknown host, and
    connections opened by another site's page."""
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
    """Raise `UserError` if the server's packages are not installed."""
    for module in ("starlette", "uvicorn", "websockets"):
        need(module, EXTRA)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there; closed at the end. Raises `UserError` if the address is not available."""
    if not host:
        raise UserError("--host is empty; give an address such as 127.0.0.1, or leave it out")
    with closing(socket.socket()) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, port))
            found.listen()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", error)
            raise UserError(f"cannot listen on {host}:{port} ({reason}); give an IPv4 address of this machine, and "
                            "another port with --port (0: any free port)") from error  # fmt: skip
        yield found


def serve(found: socket.socket, host: str, page: bytes, room: Room, say: Callable[[str], None]) -> None:
    """Serve on the socket `found`, which listens on `host`, until Ctrl-C."""
    room.warm()
    address = f"http://{host}:{found.getsockname()[1]}"
    if not _local(host):
        say(f"anyone who can reach {address} can play, unencrypted; without --host, only this machine can")
    say(f"{address}   Ctrl-C stops it")
    uvicorn = need("uvicorn", EXTRA)
    server = uvicorn.Server(uvicorn.Config(
        application(page, room, host), log_level="warning", ws="websockets-sansio", ws_max_size=LARGEST,
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=2,
    ))  # fmt: skip
    with suppress(KeyboardInterrupt):
        server.run([found])
    say("the server has stopped")
