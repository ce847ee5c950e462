"""`muxx` without its start: a process that has imported it forks a child for each command of a page.

As a script it is the server (`docs_forks.py SOCKET`) and, with words behind the socket, what stands for `muxx` in a page's folder.
It is run without site-packages in the second case, so it imports muxx only in the first.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

LARGEST = 1 << 20
"""Bytes of a request: the words, the folder and the environment of a command."""


def ask(path: str, words: list[str]) -> int:
    """Have one command run with this process's folder, environment, and standard streams; its exit code."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(server, [request], [0, 1, 2])
        server.shutdown(socket.SHUT_WR)
        code = server.recv(1)
    return code[0] if code else 1


def serve(path: str) -> None:
    """Fork a child for each command, until terminated. Children are reaped by the kernel."""
    from muxx.cli import cli

    cli(["--help"], standalone_mode=False)  # imports the commands of every plugin
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _run(client)
            client.close()


def _run(client: socket.socket) -> None:
    """One command, in the child that is there for it."""
    from muxx.__main__ import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, streams, _, _ = socket.recv_fds(client, LARGEST, 3)
    while piece := client.recv(LARGEST):
        request += piece
    words, folder, environment = json.loads(request)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["muxx", *words]
    code = 1
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        client.send(bytes([code]))
        os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
