"""Runs the demo: servers, schema, programs, clinic, history, then live until told to stop; then stops everything."""

import asyncio
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from deploy.demo.board import Board
from deploy.demo.clinic import DOCTOR, DemoClinic, LogIn, admit, log_ins, open_clinic, provisioning
from deploy.demo.errors import DemoFailed
from deploy.demo.feed import Alert, AlertFeed, ApiAddress
from deploy.demo.programs import Programs
from deploy.extras import missing_extra
from deploy.migrate import migrate
from deploy.stack import processes
from deploy.stack.local import LocalStack
from firmware_sim.broker import Broker
from firmware_sim.fleet import Fleet, FleetSettings, Progress
from firmware_sim.meter import Summary
from gateway.runtime import clock
from gateway.runtime.process import cancelled

PROGRAMS = ("gateway", "worker", "api")
API_PORT = 8000
READY_WITHIN_S = 60.0
CAUGHT_UP_WITHIN_S = 180.0
_LOOK_EVERY_S = 0.1
_LOOK_AT_SERVERS_EVERY_S = 2.0
_STOPPING = (signal.SIGINT, signal.SIGTERM)

SETTINGS = {
    # A visitor will not wait two minutes for a missed dose; the box's status comes just before its backfill.
    "VIGIL_CONTACT_GRACE_SECONDS": "5",
    "VIGIL_RECEIPT_INTERVAL_SECONDS": "1",
}

_T = TypeVar("_T")


class _StopSignal:
    """Whether a signal has told us to stop. Raising alone is not enough: Python swallows exceptions in destructors."""

    def __init__(self) -> None:
        self.to_stop = False

    def interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal: interrupt whatever runs now."""
        self.to_stop = True
        raise KeyboardInterrupt

    def heed(self) -> None:
        """Raise KeyboardInterrupt if a signal came, whoever swallowed it."""
        if self.to_stop:
            raise KeyboardInterrupt


def run_demo(folder: Path, seconds: float | None) -> list[str]:
    """Run until told to stop, or `seconds` after everything was up; return the expected rules that raised no alert.

    SIGINT and SIGTERM stop it in order, at any stage. However it ends, no process stays behind: programs and servers
    are stopped here, and the kernel ends them should this process be killed. (Containers, if the stack is Docker's,
    would outlive a SIGKILL.) Raises DemoFailed, StackError, MigrationError.
    """
    folder = folder.absolute()
    board = Board()
    began = clock.monotonic()
    stack = LocalStack(folder)
    programs: Programs | None = None
    signal_seen = _StopSignal()
    with _only_one(folder):
        _on_signals(signal_seen.interrupt)
        try:
            with board.stage("TimescaleDB and Mosquitto") as status:
                stack.up(report=status.update, die_with_parent=True)
            signal_seen.heed()
            settings = {**stack.environment(), **SETTINGS}
            with board.stage("Schema"):
                migrate(settings["VIGIL_DATABASE_URL"], clock.now())
            api = ApiAddress(API_PORT if processes.is_free(API_PORT) else processes.free_port())
            programs = Programs(folder)
            for name in PROGRAMS:
                programs.start(name, {**settings, "VIGIL_API_HOST": api.host, "VIGIL_API_PORT": str(api.port)})
            asyncio.run(_Demo(stack, settings, api, programs, board, began).run(seconds, signal_seen))
        except KeyboardInterrupt:
            return board.missing
        finally:
            _on_signals(signal.SIG_IGN)
            with board.stage("Stopping"):
                if programs is not None:
                    programs.stop()
                stack.down()
                _stop_children()
    return board.missing


class _Demo:
    """The part that runs while servers and programs are up."""

    def __init__(
        self,
        stack: LocalStack,
        settings: dict[str, str],
        api: ApiAddress,
        programs: Programs,
        board: Board,
        began: float,
    ) -> None:
        self._stack = stack
        self._folder = stack.folder
        self._settings = settings
        self._api = api
        self._programs = programs
        self._board = board
        self._began = began

    async def run(self, seconds: float | None, signal_seen: _StopSignal) -> None:
        """Return when told to stop or after `seconds` live. Raises DemoFailed if anything ends that should not."""
        stop = asyncio.Event()
        for number in _STOPPING:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        signal_seen.heed()
        ends = [
            asyncio.create_task(stop.wait(), name="stop signal"),
            asyncio.create_task(self._programs.watch(), name="programs"),
            asyncio.create_task(self._watch_servers(), name="servers"),
            asyncio.create_task(self._live(seconds), name="live"),
        ]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancelled(ends)

    async def _watch_servers(self) -> NoReturn:
        while True:
            await asyncio.sleep(_LOOK_AT_SERVERS_EVERY_S)
            stopped = [server.name for server in await asyncio.to_thread(self._stack.status) if not server.running]
            if stopped:
                raise DemoFailed(f"{' and '.join(stopped)} ended; the logs lie in {self._folder}.")

    async def _live(self, seconds: float | None) -> None:
        people = log_ins(self._folder)
        with self._board.stage("Clinic"):
            async with provisioning(self._settings, clock.now()) as clinic:
                await open_clinic(clinic, people)
                ward = await admit(clinic, clock.now_ms())
        with self._board.stage("Gateway, worker and API"):
            await _until_ready(self._api)
        self._board.admit(ward.wearers)
        feed = self._feed(people)
        try:
            if not await asyncio.to_thread(feed.begin):
                raise DemoFailed("The API's stream of alerts did not open.")
            await self._simulate(people, ward, seconds)
        finally:
            feed.stop()

    def _feed(self, people: list[LogIn]) -> AlertFeed:
        loop = asyncio.get_running_loop()
        doctor = next(person for person in people if person.email == DOCTOR)

        def on_alert(alert: Alert) -> None:
            with suppress(RuntimeError):  # the loop is closed: the demo is over
                loop.call_soon_threadsafe(self._board.show_alert, alert)

        return AlertFeed(self._api, doctor, on_alert)

    async def _simulate(self, people: list[LogIn], ward: DemoClinic, seconds: float | None) -> None:
        """Have the devices send their history, then live for `seconds` (None: until cancelled), with the edge box."""

        def show(progress: Progress) -> None:
            if not fleet.caught_up.is_set():
                status.update(f"A month of history: {progress.history:.0%}, {progress.readings} readings")

        broker = Broker.from_url(self._settings["VIGIL_MQTT_URL"])
        fleet = Fleet(ward.devices, ward.secrets, broker, FleetSettings(ward.history_from_ms), clock.now_ms, show)
        async with _running(fleet.run()) as running:
            with self._board.stage("A month of history") as status:
                await _caught_up(fleet, running)
            self._board.show_addresses(self._api, people, self._folder, clock.monotonic() - self._began)
            async with _running(self._bedside(ward.run)) as beside:
                done, _ = await asyncio.wait({running, beside}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()

    async def _bedside(self, run: int) -> None:
        """Start the edge box; only now, so that everything is up as early as without one."""
        try:
            live = await asyncio.to_thread(_bluetooth)
        except ModuleNotFoundError as error:
            reason = missing_extra(error)
            if reason is None:
                raise
            self._board.show_no_bluetooth(reason)
            await asyncio.Event().wait()
        else:
            await live(self._settings, self._folder, run, self._programs, self._board)


def _bluetooth() -> Callable[[Mapping[str, str], Path, int, Programs, Board], Awaitable[None]]:
    """Import the part that needs the extra `sim`. Raises ModuleNotFoundError without it."""
    from deploy.demo.bedside import live_at_the_bedside  # noqa: PLC0415

    return live_at_the_bedside


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, _T]) -> AsyncIterator[asyncio.Task[_T]]:
    """Do the work while the block runs."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        await cancelled([task])


async def _caught_up(fleet: Fleet, running: asyncio.Task[Summary]) -> None:
    """Wait until every device is live and its history receipted."""
    caught_up = asyncio.create_task(fleet.caught_up.wait(), name="caught up")
    try:
        await asyncio.wait({caught_up, running}, timeout=CAUGHT_UP_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        if not caught_up.done():
            raise DemoFailed(f"The history was not taken in within {CAUGHT_UP_WITHIN_S:.0f} s.")
    finally:
        caught_up.cancel()


async def _until_ready(api: ApiAddress) -> None:
    deadline = clock.monotonic() + READY_WITHIN_S
    while not await asyncio.to_thread(api.is_ready):
        if clock.monotonic() > deadline:
            raise DemoFailed(f"The API was not ready within {READY_WITHIN_S:.0f} s.")
        await asyncio.sleep(_LOOK_EVERY_S)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two demos in one folder would stop each other's servers."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoFailed(f"A demo runs in {folder} already; choose another --dir.") from None
        yield


def _stop_children() -> None:
    """Stop what a signal caught between its start and its entry in a list: a server, or the package manager."""
    for child in processes.children(os.getpid()):
        processes.stop(child, signal.SIGINT, within_seconds=10)


def _on_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in _STOPPING:
        signal.signal(number, handler)
