"""Keep processes alive: some that serve, and one that must outlive them. Knows nothing of what they do.

It runs no event loop: it waits for signals and for children. A child that dies is started again with backoff; one that cannot
even start the first time stops everything with its exit code. A supervisor that dies takes its children with it: each watches
a channel whose other end it alone holds open. Through these they agree on what a reload changes (`muxx.agreement`).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from .agreement import READY, Agreement, Change, Channel
from .crashes import describe_crash
from .errors import StartError
from .watchdog import Pulse, Silence

log = logging.getLogger("muxx")

FIRST_BACKOFF = 0.2
LONGEST_BACKOFF = 30.0
HURRIED_SECONDS = 2.0
"""What the servers get to end once they have been told to hurry: they give up themselves before (`muxx.worker`)."""
STORING_SECONDS = 5.0
"""What the recorder gets then."""
HEALTHY_SECONDS = 10.0
"""A child that lived this long is started again at once."""

CRASHED = 70
"""Exit code of a child that failed in a way nobody foresaw (EX_SOFTWARE)."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Lifeline(NamedTuple):
    """What ties a child to its supervisor."""

    channel: Channel
    """It ends when the supervisor does."""
    pulse: Pulse
    """Where the child may let itself be heard; once it has, it is replaced when it falls silent."""


Body = Callable[[Lifeline], None]
"""What a child does. May raise `StartError`."""


class Child:
    """A process to be kept alive. Where one that is `vital` cannot start at first, there is no service."""

    def __init__(self, name: str, body: Body, *, vital: bool = True) -> None:
        self.name = name
        self.body = body
        self.vital = vital
        self.pulse = Pulse()
        self.silence = Silence(self.pulse)
        self.pid = 0
        self.channel: Channel | None = None
        """The supervisor's end, while it runs."""
        self.starts = 0
        self.started = 0.0
        self.due = 0.0
        """When to start it, while it does not run (monotonic)."""
        self.backoff = FIRST_BACKOFF

    def ended(self, now: float, in_order: bool) -> None:
        """Plan the next start: at once after a healthy life or an ordered end, later and later after short ones."""
        self.pid = 0
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        if in_order or now - self.started >= HEALTHY_SECONDS:
            self.backoff = FIRST_BACKOFF
            self.due = now
        else:
            self.due = now + self.backoff
            self.backoff = min(LONGEST_BACKOFF, self.backoff * 2)

    def signal(self, number: int) -> None:
        if self.pid:
            os.kill(self.pid, number)


class Supervisor:
    """Keeps `servers` and one `recorder` alive. On stopping the servers go first; the recorder ends when they have."""

    def __init__(
        self,
        servers: Sequence[Child],
        recorder: Child,
        *,
        patience: float,
        hung_after: float,
        reload: Callable[[], Change | None],
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        self.servers = servers
        self.recorder = recorder
        self._patience_s = patience
        """Seconds the servers get to end before they are killed, and after them the recorder."""
        self._hung_after = hung_after or float("inf")
        """Seconds of silence after which a child is replaced; 0: never."""
        self._reload = reload
        """Gives what the servers are to change over to; the recorder ends when they do, and starts with it."""
        self._on_start = on_start
        """Called once signals are heard, whichever thread they come to, and before any child is there."""
        self._on_stop = on_stop
        self._agreement: Agreement | None = None
        self._changes = 0
        self._stopping = False
        self._recorder_told = False
        self._deadline = float("inf")
        self._exit_code = 0

    @property
    def children(self) -> list[Child]:
        return [*self.servers, self.recorder]

    def run(self) -> int:
        """Supervise until told to stop and every child has ended; the exit code."""
        wakeup, wakeup_end = socket.socketpair()
        wakeup.setblocking(False)
        wakeup_end.setblocking(False)
        signal.set_wakeup_fd(wakeup_end.fileno())
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        self._on_start()
        while True:
            self._start_due()
            if self._stopping:
                self._press()
                if not any(child.pid for child in self.children):
                    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a late one would kill Python, which first unlearns them
                    return self._exit_code
            listened_to: list[socket.socket | Channel] = [wakeup, *self._asked()]
            heard, _, _ = select.select(listened_to, [], [], self._wait())
            for arrived in _taken(wakeup):
                self._signalled(arrived)
            for server in self.servers:
                if server.channel is not None and server.channel in heard:
                    self._answered(server, server.channel)
            self._kill_silent()
            self._reap()

    def _serving(self) -> bool:
        return any(server.pid for server in self.servers)

    def _wait(self) -> float:
        now = time.monotonic()
        waiting = [child.due - now for child in self.children if not child.pid and not self._stopping]
        return max(0.01, min([1.0, *waiting]))

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self.children:
            wanted = not self._stopping or (child is self.recorder and self._serving())
            if not child.pid and now >= child.due and wanted:
                self._fork(child)

    def _press(self) -> None:
        """While stopping: the recorder is told when the last server has gone. Who is far too late is killed; what the recorder
        has not stored by then is in the journal."""
        if not self._serving() and not self._recorder_told:
            self._recorder_told = True
            self._deadline = time.monotonic() + self._patience_s
            self.recorder.signal(signal.SIGTERM)
        elif time.monotonic() > self._deadline:
            self._deadline = time.monotonic() + self._patience_s
            for child in self.servers if self._serving() else [self.recorder]:
                if child.pid:
                    log.error("%s does not end, and is killed", child.name)
                    child.signal(signal.SIGKILL)

    def _kill_silent(self) -> None:
        """Replace who has fallen silent: connections that wait for it would wait for ever."""
        now = time.monotonic()
        for child in self.children:
            seconds = child.silence.seconds(now)
            if child.pid and seconds >= self._hung_after:
                child.pulse.forget()
                text = "%s has done nothing for %.0f s, and is killed; a line before this names what held it, if anything could"
                log.error(text, child.name, seconds)
                child.signal(signal.SIGKILL)

    def _fork(self, child: Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # or a child still with our handlers would hand its signals to us
        child.started = time.monotonic()
        child.pulse.forget()
        own: Channel | None = None
        try:
            child.channel, own = Channel.pair()
            child.pid = os.fork()
        except OSError as error:  # out of memory or processes, which passes; those who serve go on meanwhile
            child.ended(child.started, in_order=False)
            wait = child.due - child.started
            log.error("%s cannot be started: %s; trying again in %.1f s", child.name, error.strerror, wait)
        else:
            if child.pid == 0:
                self._become(child, own)
            child.starts += 1
        if own is not None:
            own.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if child.pid and child is not self.recorder:
            self._ask(child)

    def _become(self, child: Child, channel: Channel) -> NoReturn:
        """In the child: run its body and nothing of the supervisor's.

        Signals stay blocked until the body calls `hear_signals`: one that comes while it starts waits, and is obeyed then.
        """
        code = CRASHED
        try:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            for held in filter(None, (other.channel for other in self.children)):
                held.close()
            child.body(Lifeline(channel, child.pulse))
            code = 0
        except StartError as error:
            log.error("%s cannot start: %s", child.name, error)
            code = error.exit_code
        except BaseException as error:
            log.error("%s failed: %s", child.name, describe_crash(error))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        for child in self.children:
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        in_order = code == 0
        if not self._stopping and self._agreement is not None and self._agreement.concerns(child.channel):
            self._refuse(f"{child.name} ended meanwhile")
        child.ended(time.monotonic(), in_order)
        if self._stopping or in_order:
            return
        if child.vital and child.starts == 1 and not child.pulse.last and 0 < code < CRASHED:  # it never came to serve
            self._exit_code = code
            self._stop(signal.SIGTERM)
            return
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        log.error("%s ended (%s); starting it again in %.1f s", child.name, how, max(0.0, child.due - time.monotonic()))

    def _signalled(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop(number)
        elif number == signal.SIGHUP and not self._stopping:
            self._change()

    def _change(self) -> None:
        """Ask the servers to make ready for what there is to change to. What they were asked before is off."""
        if self._agreement is not None:
            self._agreement.withdraw()
            self._agreement = None
        change = self._reload()
        if change is None:
            return
        self._reap()  # who died before this has no part in it
        self._changes += 1
        try:
            self._agreement = Agreement(self._changes, change)
        except OSError as error:
            change.refuse(f"no memory to hand it on: {error.strerror}")
            return
        for server in self.servers:
            self._ask(server)
        self._conclude()

    def _asked(self) -> list[Channel]:
        """Whose answers are awaited."""
        return [server.channel for server in self.servers if server.channel is not None] if self._agreement else []

    def _ask(self, server: Child) -> None:
        if self._agreement is not None and server.channel is not None:
            try:
                self._agreement.ask(server.channel)
            except OSError as error:
                self._refuse(f"{server.name} cannot be told: {error.strerror}")

    def _answered(self, server: Child, channel: Channel) -> None:
        message = channel.receive()
        if self._stopping or self._agreement is None or message is None or message.number != self._agreement.number:
            return
        if message.word == READY:
            self._agreement.is_ready(channel)
            self._conclude()
        else:
            self._refuse(f"{server.name}: {message.text}")

    def _conclude(self) -> None:
        if self._agreement is not None and self._agreement.is_unanimous:
            self._agreement.conclude()
            self._agreement = None
            self.recorder.signal(signal.SIGTERM)  # it stores what there is, ends, and starts with the new settings

    def _refuse(self, reason: str) -> None:
        if self._agreement is not None:
            self._agreement.refuse(reason)
            self._agreement = None

    def _stop(self, number: int) -> None:
        """Pass the signal on: the first SIGTERM lets running streams finish, a second one or SIGINT makes everybody hurry."""
        now = time.monotonic()
        if self._stopping or number == signal.SIGINT:
            self._patience_s = min(self._patience_s, STORING_SECONDS)
            self._deadline = min(self._deadline, now + HURRIED_SECONDS)
        self._deadline = min(self._deadline, now + self._patience_s)
        if not self._stopping:
            self._stopping = True
            self._on_stop()
        for server in self.servers:
            server.signal(number)


def hear_signals() -> None:
    """For a child's body, once its handlers are in place."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _taken(wakeup: socket.socket) -> bytes:
    try:
        return wakeup.recv(4096)
    except BlockingIOError:
        return b""
