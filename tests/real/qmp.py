"""A small QMP client for the tests, with a deadline on every wait.

It knows nothing of qmpctl, so that what it finds on control.sock is what any other client would find.
"""
import array
import itertools
import json
import os
import select
import socket
import time

# Seconds that the tests wait for what must come: a busy machine may have no time for us, and who waits longer asserts no less.
# QMPCTL_PATIENCE: a machine that is slower than any busy one.
PATIENCE = int(os.environ.get("QMPCTL_PATIENCE", 60))


class QmpError(Exception):
    """The peer answered with an error: .cls is its class, .data the whole error object."""

    def __init__(self, command, error):
        self.data = error if isinstance(error, dict) else {"desc": error}
        self.cls = self.data.get("class")
        self.desc = self.data.get("desc")
        super().__init__(f"{command}: {self.cls}: {self.desc}")


class QmpTimeout(AssertionError):
    """Something that was due did not come."""


class QmpClosed(Exception):
    """The peer ended the connection."""


def connect_unix(path, timeout=PATIENCE):
    """A connected stream socket; PATH may be longer than a socket address has room for."""
    folder = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        except BaseException:
            sock.close()
            raise
        return sock
    finally:
        os.close(folder)


class Qmp:
    """One connection. Replies are kept by id and events in the order of their arrival until asked for."""

    def __init__(self, path, timeout=PATIENCE, negotiate=True):
        self.sock = connect_unix(path, timeout)
        self.buffer = b""
        self.replies = {}
        self.events = []
        self.stray = []
        self.ids = itertools.count(1)
        self.timeout = timeout
        try:
            hello = self._next(time.monotonic() + timeout)
            self.greeting = hello["QMP"]
            if negotiate:
                self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- bytes

    def _next(self, deadline):
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise QmpTimeout(f"nothing came in time; unasked so far: {self.events[-5:]}")
            chunk = self.sock.recv(1 << 16)
            if not chunk:
                raise QmpClosed("the peer closed the connection")
            self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line) if line.strip() else self._next(deadline)

    def _pump(self, deadline):
        message = self._next(deadline)
        if "event" in message:
            self.events.append(message)
        elif "id" in message:
            self.replies[json.dumps(message["id"])] = message
        else:
            self.stray.append(message)

    # -- commands

    def send(self, command, arguments=None, fds=(), ident=None, oob=False):
        """Sends and returns the id, without waiting: the way to have many in flight."""
        ident = next(self.ids) if ident is None else ident
        message = {"exec-oob" if oob else "execute": command, "id": ident}
        if arguments is not None:
            message["arguments"] = arguments
        text = json.dumps(message).encode() + b"\r\n"
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self.sock.sendmsg([text], ancillary)
        if text[sent:]:
            self.sock.sendall(text[sent:])
        return ident

    def reply(self, ident, timeout=None, command="command"):
        """The answer to IDENT: its return value, or QmpError."""
        key = json.dumps(ident)
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while key not in self.replies:
            try:
                self._pump(deadline)
            except QmpTimeout as why:
                raise QmpTimeout(f"{command} (id {ident}) was not answered: {why}") from None
        message = self.replies.pop(key)
        if "error" in message:
            raise QmpError(command, message["error"])
        return message["return"]

    def execute(self, command, arguments=None, timeout=None, fds=(), oob=False):
        ident = self.send(command, arguments, fds, oob=oob)
        return self.reply(ident, timeout, command)

    # -- events

    def event(self, name, match=None, timeout=None):
        """Takes the first event NAME whose data hold all of MATCH, of those that came or will come."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        seen = 0
        while True:
            for i in range(seen, len(self.events)):
                event = self.events[i]
                data = event.get("data") or {}
                if event["event"] == name and all(data.get(k) == v for k, v in (match or {}).items()):
                    return self.events.pop(i)
            seen = len(self.events)
            try:
                self._pump(deadline)
            except QmpTimeout:
                names = [e["event"] for e in self.events]
                raise QmpTimeout(f"no event {name} {match or ''} in time; came: {names[-20:]}") from None
