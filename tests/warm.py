"""Real processes of ``rsr`` that start in milliseconds: they are forked from one that has imported everything.

``python warm.py serve SOCKET`` is that one, until its stdin ends. ``python warm.py ask SOCKET ARGUMENT...`` has it run
``rsr ARGUMENT...`` with the caller's streams, directory and environment, and ends as that process does.
"""

import atexit
import os
import signal
import socket
import sys


def start(path: str, arguments: list[str], environment: dict[str, str], files: list[int]) -> tuple[socket.socket, int]:
    """Have a command line run with three streams in a directory; return what its exit status comes from, and its id."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect(path)
    words = [f"{name}={value}" for name, value in environment.items()]
    request = "\0".join([str(len(arguments)), *arguments, *words])
    socket.send_fds(server, [os.fsencode(request)], files)
    return server, int(server.recv(16))


def ask(path: str, arguments: list[str]) -> None:
    """Have a command line run, and end as it did."""
    server, _ = start(path, arguments, dict(os.environ), [0, 1, 2, os.open(".", os.O_RDONLY)])
    status = int(server.recv(16))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _draw() -> None:
    """Import what figures need, and list the fonts, as figures do: without a trace in the user's directories."""
    import sklearn.manifold  # noqa: F401

    from rsr_cli.core.figures.canvas import style, width_in

    with style():
        import matplotlib.backends.backend_agg
        import matplotlib.backends.backend_pdf  # noqa: F401

        width_in("text", 7)


def serve(path: str) -> None:
    """Wait for requests; return in a new process for each, which is to run the command line in ``sys.argv``."""
    import gc
    import importlib
    import pkgutil
    import select

    import rsr_cli.main

    for module in pkgutil.walk_packages(rsr_cli.__path__, "rsr_cli."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as missing:
            if missing.name != "torch":  # which a search-only installation lacks
                raise
    _draw()
    gc.freeze()  # or the first collection in each process would copy everything
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for the others
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if not os.fork():
                break
            connection.close()
        else:
            os._exit(0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until rsr heeds it, as while a program is loaded
    request, (*streams, directory), _, _ = socket.recv_fds(connection, 1 << 20, 4)
    if process := os.fork():
        connection.send(str(process).encode())
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        connection.send(str(status).encode())
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.fchdir(directory)
    os.close(directory)
    count, *words = os.fsdecode(request).split("\0")
    sys.argv[1:] = words[: int(count)]
    os.environ.clear()
    os.environ.update(word.split("=", 1) for word in words[int(count) :])


if __name__ == "__main__":
    _, task, place, *words = sys.argv
    if task == "ask":
        ask(place, words)
    serve(place)
    try:
        sys.modules["rsr_cli.main"].main()
    except SystemExit as ended:
        # as at an ordinary end, but all that was imported would take a second to be taken apart
        atexit._run_exitfuncs()
        os._exit(ended.code)
