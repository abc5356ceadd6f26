"""What every test needs: verdicts, waiting with a deadline, and files read and written whole."""
import errno
import os
import time

POLL = 0.004
PATIENCE = 10  # times what a wait takes on a machine that has nothing else to do


class Options:
    """Of this run; set by run.py before a test starts."""
    txnfs = ""
    quick = False
    seed = 0
    keep = False
    slow = 1.0  # factor for deadlines: a sanitizer build takes its time


OPT = Options()


class Skip(Exception):
    """This test cannot run here; the text says why."""


class Failure(AssertionError):
    """A test's own verdict; the text is what the reader sees first."""


# ---- small things ----

def check(cond, text="", *more):
    if not cond:
        raise Failure(" ".join([str(text)] + [repr(m) for m in more]) or "a check failed")


def equal(got, want, text=""):
    if got != want:
        raise Failure(f"{text or 'values differ'}\n  got:  {got!r}\n  want: {want!r}")


def name_of(e):
    return errno.errorcode.get(e.errno, str(e.errno)) if isinstance(e, OSError) else repr(e)


def expect(codes, fn, *args, **kw):
    """fn must fail with this errno, or one of these; the error is returned."""
    codes = codes if isinstance(codes, (tuple, list, set)) else (codes,)
    want = "/".join(errno.errorcode[c] for c in codes)
    try:
        r = fn(*args, **kw)
    except OSError as e:
        if e.errno not in codes:
            raise Failure(f"{getattr(fn, '__name__', fn)}{args}: {name_of(e)} ({e}) where {want} is right") from e
        return e
    raise Failure(f"{getattr(fn, '__name__', fn)}{args}: succeeded with {r!r} where {want} is right")


def patience(seconds):
    """How long to wait for something that takes less than this on an idle machine, before it is called a failure."""
    return seconds * OPT.slow * PATIENCE


def wait_until(fn, seconds=5.0, what="a condition"):
    """Poll until fn() is true; its value is returned."""
    end = time.monotonic() + patience(seconds)
    while True:
        late = time.monotonic() > end
        r = fn()
        if r:
            return r
        if late:
            raise Failure(f"waited {patience(seconds):.0f} s in vain for {what}")
        time.sleep(POLL)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data, mode=0o644):
    """Create or replace with O_TRUNC."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


def write_all(fd, data):
    data = data.encode() if isinstance(data, str) else data
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def append(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


def exists(path):
    return os.path.lexists(path)


CONTROL_FILES = {"ctl", "prepared", "status", "transactions"}


def named_open(mnt, control=".txn"):
    """The named transactions that are open (and the caller's to see)."""
    return [name for name in ls(os.path.join(mnt, control)) if name not in CONTROL_FILES]


def ls(path):
    return sorted(os.listdir(path))
