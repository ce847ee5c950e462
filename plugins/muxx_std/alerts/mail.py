"""Delivery by mail. smtplib blocks, so each mail has a thread: a daemon, for a server that hangs must not hold up muxx's end."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from . import message
from .settings import Receiver, Smtp
from .store import Event, Outcome

SECONDS = 60.0
"""For a whole delivery: mail servers let strangers wait for a greeting on purpose, and read a mail before they take it."""
TIMED_OUT = f"no answer within {SECONDS:.0f} s"


class Try:
    """A delivery that is under way in its thread, and may be ended from outside: what is told as failed, and tried again, must
    not arrive after all."""

    def __init__(self) -> None:
        self._server: smtplib.SMTP | None = None
        self._is_over = False

    def connected(self, server: smtplib.SMTP) -> None:
        self._server = server
        if self._is_over:
            raise TimeoutError

    def end(self) -> None:
        self._is_over = True
        sock = None if self._server is None else self._server.sock  # which the thread may take away
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


async def send(smtp: Smtp, receiver: Receiver, event: Event) -> Outcome:
    this = Try()
    try:
        async with asyncio.timeout(SECONDS):
            return await _in_thread(lambda: _send(smtp, receiver, event, this))
    except TimeoutError:
        return Outcome(problem=TIMED_OUT)
    finally:
        this.end()


async def _in_thread(work: Callable[[], Outcome]) -> Outcome:
    answer: Future[Outcome] = Future()

    def run() -> None:
        answer.set_running_or_notify_cancel()  # from here on nobody can cancel it, so its result can always be set
        try:
            answer.set_result(work())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="muxx-mail", daemon=True).start()
    return await asyncio.wrap_future(answer)


def _send(smtp: Smtp, receiver: Receiver, event: Event, this: Try) -> Outcome:
    """None of what the server says is kept but its codes."""
    try:
        server = _connected(smtp)
        try:
            this.connected(server)
            if smtp.user is not None and smtp.password is not None:
                server.login(smtp.user, smtp.password.get_secret_value())
            refused = server.send_message(message.mail(event, smtp, receiver.to))
        finally:
            _leave(server)
    except smtplib.SMTPResponseException as error:
        return Outcome(error.smtp_code, f"the mail server answered {error.smtp_code}")
    except smtplib.SMTPRecipientsRefused as error:
        code = next(iter(error.recipients.values()))[0]
        return Outcome(code, f"the mail server refused every address, with {code}")
    except smtplib.SMTPNotSupportedError:
        return Outcome(problem="the mail server does not offer what is set: see security and user")
    except ssl.SSLError:
        return Outcome(problem="no safe connection to the mail server: its certificate is not trusted, or security is another")
    except TimeoutError:
        return Outcome(problem=TIMED_OUT)
    except (OSError, smtplib.SMTPException):
        return Outcome(problem="no connection to the mail server")
    if refused:
        return Outcome(250, f"the mail server refused {len(refused)} of {len(receiver.to)} addresses", in_part=True)
    return Outcome(250)


def _leave(server: smtplib.SMTP) -> None:
    """Say good-bye and wait for no answer: what it has taken it has, whatever it says to that, and however long it takes."""
    with suppress(OSError):
        server.putcmd("QUIT")
    server.close()


def _connected(smtp: Smtp) -> smtplib.SMTP:
    """A connection that is safe before anything is said on it, where it is to be."""
    if smtp.security == "tls":
        return smtplib.SMTP_SSL(smtp.host, smtp.port_used, timeout=SECONDS, context=ssl.create_default_context())
    server = smtplib.SMTP(smtp.host, smtp.port_used, timeout=SECONDS)
    if smtp.security == "starttls":
        try:
            server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
    return server
