"""A program on a terminal of its own (a pty, which is its controlling terminal), for tests of what people see."""
import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

from checks import Failure, equal, patience


class Terminal:
    def __init__(self, *argv, rows=50, columns=100, env=None):
        e = {k: v for k, v in os.environ.items() if k not in ("PAGER", "LESS", "NO_COLOR", "COLUMNS", "LINES")}
        e.update({"TERM": "xterm", "SHELL": "/bin/sh", "PS1": "view$ ", "ENV": ""})
        e.update(env or {})
        self.text = b""   # all that was shown
        self.seen = 0     # up to here it was waited for
        self.status = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.execvpe(argv[0], list(map(str, argv)), e)
            finally:
                os._exit(127)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _more(self, seconds):
        """Take in what is there; False when the other side has gone."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            data = b""
        self.text += data
        return bool(data)

    def expect(self, text, seconds=10):
        """Wait until this was shown, behind what was waited for before; all that came up to it is returned."""
        want = text.encode() if isinstance(text, str) else text
        end = time.monotonic() + patience(seconds)
        alive = True
        while True:
            at = self.text.find(want, self.seen)
            if at >= 0:
                begin, self.seen = self.seen, at + len(want)
                return self.text[begin:self.seen].decode("utf-8", "replace")
            if not alive or time.monotonic() > end:
                raise Failure(f"{want!r} was not shown; since the last one:\n" +
                              self.text[self.seen:].decode("utf-8", "replace"))
            alive = self._more(0.05)

    def send(self, text):
        os.write(self.fd, text.encode())

    def line(self, text):
        self.send(text + "\n")

    def end(self, status=None, seconds=20):
        """Wait for its end; all that was shown is returned."""
        end = time.monotonic() + patience(seconds)
        while self._more(0.05):
            if time.monotonic() > end:
                self.kill()
                raise Failure("it goes on:\n" + self.text.decode("utf-8", "replace"))
        self._reap()
        if status is not None:
            equal(self.status, status, "status of\n" + self.text.decode("utf-8", "replace"))
        return self.text.decode("utf-8", "replace")

    def leave(self, text, key="q", seconds=10):
        """Press a key until this is shown: less forgets what was typed before it noticed ^C."""
        end = time.monotonic() + patience(seconds)
        while self.text.find(text.encode(), self.seen) < 0 and time.monotonic() < end:
            self.send(key)
            self._more(0.2)
        return self.expect(text)

    def _reap(self):
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self.fd)

    def kill(self, sig=signal.SIGKILL):
        os.kill(self.pid, sig)
        if sig == signal.SIGKILL:
            self._reap()

    def modes(self):
        """Does the terminal echo, and turn ^C into a signal?"""
        flags = termios.tcgetattr(self.fd)[3]
        return bool(flags & termios.ECHO), bool(flags & termios.ISIG)


def plain(text):
    """Without colours and other things that steer a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]", "", text).replace("\r\n", "\n")
