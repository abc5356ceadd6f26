"""The Python package on a real mount: blocks, savepoints, threads, tasks, forks, interrupts, errors, and its manual."""
import asyncio
import contextvars
import errno
import gc
import linecache
import os
import subprocess
import sys
import threading
import time

from harness import NOBODY, Skip, check, ctl, equal, exists, in_child, ls, named_open, needs_root, quick, read, wait_until, write
from docs import PACKAGE, PYTHON, ROOT, blocks, run_python

sys.dont_write_bytecode = True
sys.path.insert(0, PACKAGE)
import txnfs  # noqa: E402
from txnfs import _atomic  # noqa: E402


class Oops(Exception):
    pass


def put(path, text):
    with txnfs.open(path, "w") as f:
        f.write(text)


def raises(kinds, fn, *args, **kw):
    try:
        r = fn(*args, **kw)
    except kinds as e:
        return e
    check(False, f"{fn} gave {r!r} where {kinds} is right")


def at_rest(m):
    gc.collect()
    equal(named_open(m.mnt), [], "open transactions")
    equal(_atomic._current.get(), None, "the context's block")


# ---- blocks ----

@quick
def test_blocks(t):
    m = t.mount()
    with txnfs.atomic(m.mnt) as tx:
        put(m("a"), "1")
        check(not exists(m("a")), "nobody else sees it")
        equal(read(str(tx.path / "a")), b"1")
        equal(tx.changes(), ["A a"])
        check(txnfs.current() is tx and txnfs.current(m.mnt) is tx)
    equal(read(m("a")), b"1")
    at_rest(m)
    raises(txnfs.TransactionError, tx.open, "a")
    try:
        with txnfs.atomic(m.mnt):
            put(m("a"), "2")
            raise Oops
    except Oops:
        pass
    equal(read(m("a")), b"1")
    check(txnfs.current() is None)
    at_rest(m)


@quick
def test_savepoints(t):
    m = t.mount()
    with txnfs.atomic(m.mnt) as tx:
        put(m("outer"), "1")
        with txnfs.atomic(m.mnt) as same:
            check(same is tx)
            put(m("kept"), "1")
        for depth in (1, 2):
            try:
                with txnfs.atomic(m.mnt):
                    put(m(f"lost{depth}"), "1")
                    with txnfs.atomic(m.mnt):
                        put(m("lost"), "1")
                        if depth == 2:
                            raise Oops
                    raise Oops
            except Oops:
                pass
        text = read(m(".txn", tx.name, "status")).decode()
        check("savepoints: \n" in text, "savepoints are released:", text)
    equal(sorted(ls(m.mnt)), ["kept", "outer"])
    at_rest(m)


def test_without_savepoint(t):
    m = t.mount()

    def failing_inner():
        try:
            with txnfs.atomic(m.mnt, savepoint=False):
                put(m("inner"), "1")
                raise Oops
        except Oops:
            pass
    with txnfs.atomic(m.mnt):
        put(m("outer"), "1")

        def middle():
            with txnfs.atomic(m.mnt):
                put(m("middle"), "1")
                failing_inner()
        raises(txnfs.RolledBack, middle)  # rolled back up to the next savepoint, and it says so
    equal(sorted(ls(m.mnt)), ["outer"])

    def whole():
        with txnfs.atomic(m.mnt):
            put(m("whole"), "1")
            failing_inner()
    raises(txnfs.RolledBack, whole)
    with txnfs.atomic(m.mnt) as tx:  # asked for
        put(m("whole"), "1")
        with txnfs.atomic(m.mnt):
            tx.set_rollback(True)
        tx.set_rollback(True)
    with txnfs.atomic(m.mnt, savepoint=False):
        with txnfs.atomic(m.mnt, savepoint=False):
            put(m("both"), "1")
    equal(sorted(ls(m.mnt)), ["both", "outer"])
    at_rest(m)


def test_arguments(t):
    m = t.mount()
    with txnfs.atomic(m.mnt, durable=True, name="deploy", isolation="snapshot", timeout=0.5) as tx:
        text = read(m(".txn/deploy/status")).decode()
        check("isolation: snapshot\n" in text and "timeout: 0.5\n" in text and f"owner: {os.getpid()}\n" in text, text)
        raises(txnfs.TransactionError, txnfs.atomic(m.mnt, durable=True).__enter__)
        raises(txnfs.TransactionError, txnfs.atomic(m.mnt, isolation="serializable").__enter__)
        raises(txnfs.TransactionError, txnfs.atomic(m.mnt, timeout=1).__enter__)
        raises(txnfs.TransactionError, txnfs.atomic(m.mnt, ambient=True).__enter__)
        with txnfs.atomic(m.mnt, isolation="snapshot"):
            tx.open("f", "w").close()
        e = raises(txnfs.InUse, txnfs.Transaction, m.mnt, name="deploy")
        check("deploy" in str(e), str(e))
    equal(ls(m.mnt), ["f"])
    raises(ValueError, txnfs.atomic, m.mnt, isolation="strong")
    raises(ValueError, txnfs.atomic, m.mnt, timeout=-1)
    raises(TypeError, txnfs.atomic, lambda: None)
    e = raises(txnfs.NotFound, txnfs.atomic(t.dir).__enter__)
    check(t.dir in str(e) and "mount" in str(e), str(e))
    os.mkdir(m("sub"))
    with txnfs.atomic(m("sub")) as tx:  # any path in the mount
        equal(tx.mount, m.mnt)
    at_rest(m)


def test_on_commit(t):
    m = t.mount()
    calls = []

    def note(x):
        def fn():
            check(txnfs.current() is None and not exists(m("late")) or x == "nested")
            calls.append((x, exists(m("a"))))
        return fn
    with txnfs.atomic(m.mnt):
        put(m("a"), "1")
        txnfs.on_commit(note(1))
        try:
            with txnfs.atomic(m.mnt):
                txnfs.on_commit(note("dropped with its savepoint"))
                with txnfs.atomic(m.mnt):
                    txnfs.on_commit(note("released into it, dropped with it"))
                raise Oops
        except Oops:
            pass
        with txnfs.atomic(m.mnt):
            txnfs.on_commit(note(2))
        equal(calls, [])
    equal(calls, [(1, True), (2, True)])
    txnfs.on_commit(note(3))
    equal(calls.pop(), (3, True), "outside: at once")
    try:
        with txnfs.atomic(m.mnt):
            txnfs.on_commit(note("dropped"))
            raise Oops
    except Oops:
        pass
    # Exceptions come out after the commit, and end the calls, unless they are robust.
    calls.clear()

    def bad():
        raise Oops

    def block():
        with txnfs.atomic(m.mnt):
            put(m("b"), "1")
            txnfs.on_commit(bad, robust=True)
            txnfs.on_commit(note(4))
            txnfs.on_commit(bad)
            txnfs.on_commit(note("not called"))
    raises(Oops, block)
    equal(read(m("b")), b"1")
    equal(calls, [(4, True)])
    raises(TypeError, txnfs.on_commit, 7)
    with txnfs.atomic(m.mnt):
        async def coroutine():
            pass
        raises(TypeError, txnfs.on_commit, coroutine)
    at_rest(m)


def test_decorator(t):
    m = t.mount()

    @txnfs.atomic(m.mnt)
    def save(n, fail=False):
        put(m(f"f{n}"), "1")
        if n:
            save(n - 1)
        if fail:
            raise Oops
        return n
    equal(save(2), 2)
    raises(Oops, save, 3, fail=True)
    equal(sorted(ls(m.mnt)), ["f0", "f1", "f2"])

    def generator():
        yield

    async def async_generator():
        yield
    for fn in (generator, async_generator):
        raises(TypeError, txnfs.atomic(m.mnt), fn)
        raises(TypeError, txnfs.retry, fn)

    @txnfs.atomic(m.mnt)
    async def async_save(n, fail=False):
        put(m(f"async{n}"), "1")
        await asyncio.sleep(0)
        if fail:
            raise Oops
        return n
    equal(asyncio.run(async_save(1)), 1)
    raises(Oops, asyncio.run, async_save(2, fail=True))
    check(exists(m("async1")) and not exists(m("async2")))
    again = txnfs.atomic(m.mnt)  # one object, several times, nested too
    with again:
        put(m("once"), "1")
        with again:
            put(m("twice"), "1")
    with again:
        put(m("thrice"), "1")
    check(exists(m("once")) and exists(m("twice")) and exists(m("thrice")))
    at_rest(m)


def test_paths(t):
    m = t.mount()
    os.mkdir(m("releases"))
    os.mkdir(m("releases/1"))
    os.symlink(m("releases/1"), m("absolute"))
    os.symlink("releases/1", m("relative"))
    os.symlink(m.mnt, t.path("way"))
    write(t.path("elsewhere"), "e")
    with txnfs.atomic(m.mnt) as tx:
        for i, p in enumerate(("absolute/x", m("absolute/y"), "relative/z", t.path("way", "w"), str(tx.path / "v"))):
            tx.open(p, "w").close()
        put(t.path("way", "u"), "1")
        os.chdir(m.mnt)
        put("releases/s", "1")
        os.chdir("/")
        equal(sorted(tx.changes()), sorted(["A releases/1/x", "A releases/1/y", "A releases/1/z", "A w", "A v", "A u",
                                            "A releases/s"]))
        raises(ValueError, tx.open, "../x", "w")
        raises(ValueError, tx.open, t.path("elsewhere"))
        equal(txnfs.open(t.path("elsewhere")).read(), "e")
        equal(str(txnfs.path(t.path("elsewhere"))), t.path("elsewhere"))
        with txnfs.open(os.fsencode(m("v")), "rb", 0) as raw:
            equal(txnfs.open(os.dup(raw.fileno())).read(), "")
        tx.set_rollback(True)
    equal(txnfs.path("x"), tx.path.__class__("x"))


def test_ways_around_are_refused(t):
    m = t.mount()
    write(m("f"), "f")
    with txnfs.atomic(m.mnt) as tx:
        for fn, *args in ((open, m("g"), "w"), (open, m("f"), "a"), (os.unlink, m("f")), (os.mkdir, m("d")),
                          (os.rename, m("f"), m("g")), (os.rename, tx.path / "f", m("g")), (os.truncate, m("f"), 0),
                          (os.chmod, m("f"), 0o600), (os.symlink, "x", m("l")), (os.open, m("g"), os.O_CREAT)):
            e = raises(txnfs.OutsideTransaction, fn, *args)
            check("txnfs.open" in str(e), str(e))
        equal(read(m("f")), b"f")
        write(t.path("elsewhere"), "e")
        os.unlink(tx.path / "f")
    check(not exists(m("f")))
    with txnfs.atomic(m.mnt, guard=False):
        write(m("f"), "f")
        os.mkdir(m("d"))
    write(m("f"), "after")


def test_two_mounts(t):
    m, other = t.mount(), t.mount("other")
    try:
        with txnfs.atomic(m.mnt):
            put(m("a"), "1")
            with txnfs.atomic(other.mnt) as inner:
                put(other("b"), "1")
                put(m("c"), "1")
                with txnfs.atomic(m.mnt):
                    put(m("d"), "1")
                    txnfs.on_commit(lambda: None, mount=other.mnt)
                check(txnfs.current() is inner)
            equal(ls(other.mnt), ["b"], "a transaction of its own")
            raise Oops
    except Oops:
        pass
    equal((ls(m.mnt), ls(other.mnt)), ([], ["b"]))
    at_rest(m)
    at_rest(other)


def test_generators(t):
    """A block in a generator spans its yields; what is not properly nested is found, and rolled back."""
    m = t.mount()

    def steps(name):
        with txnfs.atomic(m.mnt):
            put(m(name), "1")
            yield
            put(m(name + "2"), "1")
    for _ in steps("g"):
        pass
    equal(sorted(ls(m.mnt)), ["g", "g2"])
    at_rest(m)
    g = steps("closed")
    next(g)
    g.close()
    check(not exists(m("closed")))
    at_rest(m)
    # The outer block ends while the inner one is open.
    outer = txnfs.atomic(m.mnt)
    outer.__enter__()
    g = steps("inner")
    next(g)
    raises(txnfs.RolledBack, outer.__exit__, None, None, None)
    raises(txnfs.TransactionError, list, g)
    equal(sorted(ls(m.mnt)), ["g", "g2"])
    _atomic._current.set(None)
    del g, outer
    at_rest(m)
    # Abandoned without an end.
    g = steps("garbage")
    next(g)
    del g
    at_rest(m)
    check(not exists(m("garbage")))
    tx = txnfs.Transaction(m.mnt)
    tx.open("garbage", "w").close()
    del tx
    at_rest(m)


# ---- threads and tasks ----

@quick
def test_threads(t):
    m = t.mount()
    write(m("shared"), "")
    errors = []

    def work(i):
        try:
            for k in range(5):
                try:
                    with txnfs.atomic(m.mnt):
                        put(m(f"t{i}-{k}"), "1")
                        if k % 2:
                            raise Oops
                except Oops:
                    pass
            check(txnfs.current() is None)
        except BaseException as e:
            errors.append(e)
    with txnfs.atomic(m.mnt) as tx:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        threads.append(threading.Thread(target=lambda: tx.open("by thread", "w").close()))
        for x in threads:
            x.start()
        for x in threads:
            x.join()
        equal(tx.changes(), ["A by thread"], "threads have transactions of their own, and may use this one")
    equal(errors, [])
    equal(sorted(ls(m.mnt)), sorted(["shared", "by thread"] + [f"t{i}-{k}" for i in range(4) for k in (0, 2, 4)]))
    at_rest(m)


def test_threads_inside_a_block(t):
    """Threads that take the context with them: inner blocks one at a time."""
    m = t.mount()
    inside, leave = threading.Event(), threading.Event()
    found = []

    def first():
        with txnfs.atomic(m.mnt) as tx:
            tx.open("first", "w").close()
            inside.set()
            leave.wait()

    def second():
        inside.wait()
        found.append(raises(txnfs.TransactionError, txnfs.atomic(m.mnt).__enter__))
        leave.set()
    with txnfs.atomic(m.mnt) as tx:
        threads = [threading.Thread(target=contextvars.copy_context().run, args=(fn,)) for fn in (first, second)]
        for x in threads:
            x.start()
        for x in threads:
            x.join()
        equal((len(found), tx.changes()), (1, ["A first"]))
        # Savepoints, files and names from many threads at once: nothing is lost, and the transaction stays whole.
        errors = []

        def many(i):
            try:
                for k in range(10):
                    (tx.path / f"m{i}-{k}").write_text("1")
                    tx.savepoint(f"s{i}")
                    tx.on_commit(lambda: None)
            except BaseException as e:
                errors.append(e)
        threads = [threading.Thread(target=many, args=(i,)) for i in range(4)]
        for x in threads:
            x.start()
        for x in threads:
            x.join()
        equal(errors, [])
    equal(len(ls(m.mnt)), 41)
    at_rest(m)


@quick
def test_tasks(t):
    m = t.mount()

    async def one(i):
        try:
            async with txnfs.atomic(m.mnt) as tx:
                await asyncio.sleep(0.001)
                put(m(f"task{i}"), "1")
                equal(tx.changes(), [f"A task{i}"])
                await asyncio.to_thread(put, m(f"thread{i}"), "1")
                if i % 2:
                    raise Oops
        except Oops:
            pass

    async def side_by_side():
        opened = asyncio.Event()

        async def inner(name, wait):
            async with txnfs.atomic(m.mnt):
                put(m(name), "1")
                opened.set()
                await asyncio.sleep(0)
                if wait:
                    await wait.wait()
        async with txnfs.atomic(m.mnt):
            release = asyncio.Event()
            first = asyncio.create_task(inner("first", release))
            await opened.wait()
            try:
                await asyncio.create_task(inner("second", None))
                check(False, "two inner blocks side by side")
            except txnfs.TransactionError:
                pass
            release.set()
            await first

    async def straggler():
        go = asyncio.Event()

        async def late():
            await go.wait()
            raises(txnfs.TransactionError, put, m("late"), "1")
            equal(txnfs.current(), None)
            async with txnfs.atomic(m.mnt):
                put(m("own"), "1")
        async with txnfs.atomic(m.mnt):
            task = asyncio.create_task(late())
        go.set()
        await task

    async def callbacks():
        called = []

        async def fn():
            await asyncio.sleep(0)
            called.append(exists(m("called")))
        async with txnfs.atomic(m.mnt):
            put(m("called"), "1")
            txnfs.on_commit(fn)
            txnfs.on_commit(lambda: called.append("plain"))
        equal(called, [True, "plain"])

    async def cancelled():
        for wait in (0, 0.0005, 0.001, 0.002, 0.01):
            async def body(n):
                async with txnfs.atomic(m.mnt):
                    put(m(f"cancel{n}"), "1")
                    await asyncio.sleep(0.001)
            task = asyncio.create_task(body(wait))
            await asyncio.sleep(wait)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            equal(named_open(m.mnt), [])

    async def main():
        await asyncio.gather(*(one(i) for i in range(6)))
        await side_by_side()
        await straggler()
        await callbacks()
        await cancelled()
    asyncio.run(main())
    for i in range(6):
        equal((exists(m(f"task{i}")), exists(m(f"thread{i}"))), (i % 2 == 0, i % 2 == 0))
    check(exists(m("first")) and not exists(m("second")) and not exists(m("late")) and exists(m("own")))
    at_rest(m)


def test_a_slow_begin_or_commit_does_not_stop_the_loop(t):
    """async with: the commands are written by threads."""
    m = t.mount()
    seen = []

    async def main():
        command = txnfs._control.write

        def slow(f, text):
            seen.append((threading.current_thread() is threading.main_thread(), text.split()[0]))
            return command(f, text)
        txnfs._control.write = slow
        try:
            async with txnfs.atomic(m.mnt):
                async with txnfs.atomic(m.mnt):
                    pass
        finally:
            txnfs._control.write = command
    asyncio.run(main())
    equal(seen, [(False, "owner"), (False, "savepoint"), (False, "release"), (False, "commit")])


# ---- ambient ----

def ambient_block(m, fail=False, **kw):
    with txnfs.atomic(m, ambient=True, **kw) as tx:
        write(os.path.join(m, "a"), "1")
        subprocess.run(["sh", "-c", 'echo 1 > "$1"', "sh", os.path.join(m, "b")], check=True)
        equal(str(tx.path), m)
        equal(txnfs.path(os.path.join(m, "a")), tx.path / "a")
        if fail:
            raise Oops
        in_child(put, os.path.join(m, "by child"), "1")
        try:
            with txnfs.atomic(m):
                write(os.path.join(m, "c"), "1")
                raise Oops
        except Oops:
            pass


@quick
def test_ambient(t):
    m = t.mount()
    raises(Oops, in_child, ambient_block, m.mnt, True)
    equal(ls(m.mnt), [])
    in_child(ambient_block, m.mnt)
    equal(sorted(ls(m.mnt)), ["a", "b", "by child"])

    def in_thread():
        done = threading.Event()
        x = threading.Thread(target=done.wait)
        x.start()
        try:
            e = raises(txnfs.TransactionError, ambient_block, m.mnt)
            check("threads" in str(e), str(e))
            with txnfs.atomic(m.mnt, ambient="process"):
                pass
        finally:
            done.set()
            x.join()

    async def in_loop():
        raises(txnfs.TransactionError, ambient_block, m.mnt)
        raises(txnfs.TransactionError, txnfs.atomic(m.mnt, ambient=True)._begin, None, True)

    def nobody_knows():
        ctl(m.mnt, "begin")
        e = raises(txnfs.AlreadyInTransaction, ambient_block, m.mnt)
        check("savepoint" in str(e), str(e))
        ctl(m.mnt, "rollback")
    in_child(in_thread)
    in_child(lambda: asyncio.run(in_loop()))
    in_child(nobody_knows)
    e = raises(txnfs.NotSupported, txnfs.Transaction, m.mnt, ambient=True, isolation="snapshot")
    check("named" in str(e), str(e))
    at_rest(m)


def test_under_run(t):
    """A program that begins inside `txnfs run` is told what is so."""
    m = t.mount()
    code = f"import sys; sys.path.insert(0, {PACKAGE!r}); import txnfs\nwith txnfs.atomic({m.mnt!r}): pass"
    p = m.tool("run", m.mnt, "--", PYTHON, "-B", "-c", code, status=1)
    check("AlreadyInTransaction" in p.stderr, p.stderr)


# ---- errors ----

def test_conflicts(t):
    m = t.mount()
    write(m("f"), "0")
    holder = txnfs.Transaction(m.mnt, name="holder")
    with holder.open("f", "w") as f:
        f.write("1")

    def loser(how):
        with txnfs.atomic(m.mnt, timeout=0) as tx:
            how(tx)
    for how in (lambda tx: tx.open("f", "w"), lambda tx: put(m("f"), "2"),
                lambda tx: os.truncate(tx.path / "f", 0)):
        e = raises(txnfs.Conflict, loser, how)
        check(e.errno == errno.EBUSY and "holder" in str(e) and '"f"' in str(e), str(e))

    def unrelated(tx):
        raise OSError(errno.EBUSY, "of another kind")
    e = raises(OSError, loser, unrelated)
    check(not isinstance(e, txnfs.Error), e)
    holder.rollback()
    equal(holder.state, "rolled back")
    equal(read(m("f")), b"0")
    at_rest(m)


@needs_root
def test_begin_refused(t):
    m = t.mount(options="max_transactions=1")

    def limited():
        with txnfs.atomic(m.mnt):
            return str(raises(txnfs.LimitExceeded, txnfs.Transaction, m.mnt))
    text = in_child(limited, uid=NOBODY)  # root has no limits
    check("max_transactions" in text or "1" in text, text)
    with txnfs.atomic(m.mnt, name="roots") as tx:
        e = in_child(raises, txnfs.NotPermitted, txnfs._control.command, tx._ctl, "commit", uid=NOBODY)
        check(tx.name in str(e), str(e))
    e = raises(txnfs.Error, txnfs.Transaction, m.mnt, name="ctl")
    check("ctl" in str(e), str(e))
    raises(ValueError, txnfs.Transaction, m.mnt, name="a/b")
    raises(ValueError, txnfs.Transaction, m.mnt, name="x", ambient=True)
    at_rest(m)


def test_ended_by_others(t):
    m = t.mount()

    def ended():
        with txnfs.atomic(m.mnt) as tx:
            put(m("f"), "1")
            os.rmdir(m(".txn", tx.name))
    e = raises(txnfs.NotInTransaction, ended)
    check("nothing of it was committed" in str(e), str(e))

    def ended_and_failed():
        with txnfs.atomic(m.mnt) as tx:
            os.rmdir(m(".txn", tx.name))
            raise Oops
    raises(Oops, ended_and_failed)
    equal(ls(m.mnt), [])
    at_rest(m)


def test_retry(t):
    m = t.mount()
    write(m("n"), "0")
    calls = []

    @txnfs.retry(attempts=5, delay=0.001)
    @txnfs.atomic(m.mnt, isolation="serializable")
    def add(disturb):
        n = int(txnfs.open(m("n")).read())
        calls.append(n)
        if len(calls) <= disturb:
            in_child(write, m("n"), str(n + 10))
        put(m("m"), str(n + 1))
    add(2)
    equal((calls, read(m("m"))), ([0, 10, 20], b"21"))
    calls.clear()
    e = raises(txnfs.SerializationFailure, add, 99)
    equal(len(calls), 5)
    check("n has other contents" in str(e), str(e))
    calls.clear()

    @txnfs.retry
    async def add_async():
        async with txnfs.atomic(m.mnt, isolation="serializable"):
            n = int(txnfs.open(m("n")).read())
            calls.append(n)
            if len(calls) == 1:
                in_child(write, m("n"), "500")
            put(m("m"), str(n + 1))
    asyncio.run(add_async())
    equal(read(m("m")), b"501")

    # A failure after the commit, or inside a block, is not tried again.
    def fail():
        raise txnfs.SerializationFailure(errno.ECANCELED, "of something else")
    calls.clear()

    @txnfs.retry(delay=0)
    @txnfs.atomic(m.mnt)
    def with_callback():
        calls.append(1)
        txnfs.on_commit(fail)
    raises(txnfs.SerializationFailure, with_callback)
    equal(calls, [1])

    @txnfs.retry(delay=0)
    def inner():
        calls.append(1)
        fail()

    def outer():
        with txnfs.atomic(m.mnt):
            inner()
    calls.clear()
    raises(txnfs.SerializationFailure, outer)
    equal(calls, [1])
    at_rest(m)


def test_daemon_dies(t):
    m = t.mount()

    def block(how):
        with txnfs.atomic(m.mnt):
            put(m("f"), "1")
            m.kill9(detach=False)
            how()
    raises(txnfs.Disconnected, block, lambda: None)
    m.detach()
    m.start()

    def fail():
        raise Oops
    raises(Oops, block, fail)
    e = raises(txnfs.Disconnected, txnfs.atomic(m.mnt).__enter__)
    check("ended" in str(e), str(e))
    m.detach()
    m.start()
    equal(ls(m.mnt), [])

    def remounted():
        with txnfs.atomic(m.mnt):
            put(m("f"), "1")
            m.crash()
    raises(txnfs.NotInTransaction, remounted)
    equal(ls(m.mnt), [])
    at_rest(m)


def test_prepare(t):
    m = t.mount(options="lock_timeout=0")
    gid = 'order "7"; two\twords'
    with txnfs.atomic(m.mnt) as tx:
        put(m("f"), "1")
        with txnfs.atomic(m.mnt):
            raises(txnfs.TransactionError, tx.prepare, "g")
        tx.prepare(gid)
        equal(tx.state, "prepared")
        raises(txnfs.TransactionError, tx.open, "f")
    (p,) = txnfs.prepared(m.mnt)
    equal((p.gid, p.uid), (gid, os.getuid()))
    check(abs(p.time.timestamp() - time.time()) < 100 and p.changes >= 1, p)
    check(not exists(m("f")))

    def same_gid():
        with txnfs.atomic(m.mnt) as tx:
            put(m("h"), "1")
            tx.prepare(gid)
    raises(txnfs.InUse, same_gid)
    txnfs.commit_prepared(m.mnt, gid)
    equal(read(m("f")), b"1")
    raises(txnfs.NotFound, txnfs.commit_prepared, m.mnt, gid)

    def after_it():
        with txnfs.atomic(m.mnt) as tx:
            put(m("g"), "1")
            tx.prepare("g")
            raise Oops
    raises(Oops, after_it)
    equal([p.gid for p in txnfs.prepared(m.mnt)], ["g"], "its outcome is the coordinator's")
    txnfs.rollback_prepared(m.mnt, "g")

    def callbacks():
        with txnfs.atomic(m.mnt) as tx:
            txnfs.on_commit(lambda: None)
            tx.prepare("g")
    raises(txnfs.TransactionError, callbacks)
    equal((txnfs.prepared(m.mnt), sorted(ls(m.mnt))), ([], ["f"]))
    at_rest(m)


# ---- forks and interrupts ----

def test_fork_in_a_block(t):
    m = t.mount()

    def child(tx):
        tx.open("by child", "w").close()
        raises(txnfs.TransactionError, tx.savepoint, "s")
        raises(txnfs.TransactionError, tx.commit)
        raises(txnfs.TransactionError, put, m("x"), "1")
        with txnfs.atomic(m.mnt) as own:
            check(own is not tx)
            put(m("own"), "1")
        return "done"

    def leaves(how):
        pid = os.fork()
        if pid == 0:
            how()
        equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    with txnfs.atomic(m.mnt) as tx:
        put(m("by parent"), "1")
        equal(in_child(child, tx), "done")
        equal(sorted(tx.changes()), ["A by child", "A by parent"])
    equal(sorted(ls(m.mnt)), ["by child", "by parent", "own"])

    # The child leaves the block by an exception, and by its end: the parent's transaction stays what it is.
    parent = os.getpid()
    for text in ("raise", "end"):
        try:
            with txnfs.atomic(m.mnt) as tx:
                put(m(text), "1")
                pid = os.fork()
                if pid == 0 and text == "raise":
                    raise Oops
                if pid:
                    equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
                    check(os.path.isdir(m(".txn", tx.name)))
        except BaseException as e:
            if os.getpid() != parent:
                os._exit(0 if isinstance(e, Oops if text == "raise" else txnfs.TransactionError) else 1)
            raise
        if os.getpid() != parent:
            os._exit(2)
        equal(read(m(text)), b"1")
    at_rest(m)


def test_death_rolls_back(t):
    m = t.mount()

    def child():
        txnfs.atomic(m.mnt).__enter__().open("f", "w").close()
        t2 = txnfs.atomic(m.mnt)
        t2.__enter__().open("g", "w").close()
        os._exit(0)
    pid = os.fork()
    if pid == 0:
        child()
    os.waitpid(pid, 0)
    wait_until(lambda: not named_open(m.mnt), 5, "the rollback")
    equal(ls(m.mnt), [])


def test_killed_before_it_had_an_owner(t):
    """It leaves an empty transaction, which the next process takes away; those of the living stay."""
    m = t.mount()

    def dies():
        def command(path, text):
            os._exit(0)
        txnfs._control.command = command
        txnfs.Transaction(m.mnt)
    pid = os.fork()
    if pid == 0:
        dies()
    os.waitpid(pid, 0)
    (left,) = named_open(m.mnt)
    check(f"-{pid}-" in left, left)
    with txnfs.atomic(m.mnt) as mine:
        equal(named_open(m.mnt), [mine.name])

        def other():
            with txnfs.atomic(m.mnt) as tx:
                return sorted(named_open(m.mnt)) == sorted([mine.name, tx.name])
        check(in_child(other), "the living's stay")
    at_rest(m)


where = [""]


def interrupted(fn, at):
    """fn() with KeyboardInterrupt before line number `at` that it runs in the package; False: it ran to its end before."""
    left = [at]

    def local(frame, event, arg):
        # `try:` is no instruction: Python takes no signal there, and the block's handlers do not cover it.
        if event == "line" and linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() != "try:":
            left[0] -= 1
            if left[0] == 0:
                sys.settrace(None)
                where[:] = [f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"]
                raise KeyboardInterrupt
        return local

    def trace(frame, event, arg):
        # Python itself can be interrupted anywhere, but for its finalizers, which nobody would hear of.
        inside = frame.f_code.co_filename.startswith(PACKAGE) and frame.f_code.co_name != "__del__"
        return local if inside else None
    sys.settrace(trace)
    try:
        fn()
        return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)


def test_interrupt_at_each_line(t):
    """All or nothing, and nothing left behind, wherever it comes. Every fifth line; TXNFS_INTERRUPTS=1: each."""
    stride = 1 if os.environ.get("TXNFS_INTERRUPTS") else 5
    m = t.mount()
    known = {}

    def block():
        with txnfs.atomic(m.mnt) as tx:
            tx.open(f"a{n}", "w").close()
            with txnfs.atomic(m.mnt):
                tx.open(f"b{n}", "w").close()
    n = 1 + t.rng.randrange(stride)
    while interrupted(block, n):
        at_rest_after_interrupt(m, n)
        equal(exists(m(f"a{n}")), exists(m(f"b{n}")), f"at {where[0]}: all or nothing")
        known[exists(m(f"a{n}"))] = known.get(exists(m(f"a{n}")), 0) + 1
        n += stride
    check(n > 100 and known.get(True) and known.get(False), "points of both kinds were met:", n, known)
    t.note(f"{known[False] + known[True]} points, {known[True]} after the commit")

    def prepares():
        with txnfs.atomic(m.mnt) as tx:
            tx.open(f"p{n}", "w").close()
            tx.prepare(f"g{n}")
    first = n
    while interrupted(prepares, n - first + 1):
        at_rest_after_interrupt(m, n)
        for p in txnfs.prepared(m.mnt):
            equal(p.gid, f"g{n}")
            txnfs.rollback_prepared(m.mnt, p.gid)
        n += stride


def at_rest_after_interrupt(m, n):
    gc.collect()
    equal(named_open(m.mnt), [], f"at {where[0]}: open transactions")
    equal(txnfs.current(), None, f"at {where[0]}: the context's block")
    with txnfs.atomic(m.mnt):
        pass
    equal(_atomic._current.get(), None, f"at {where[0]}: the context")


# ---- installation and documentation ----

def test_install(t):
    """pip builds and installs it from the tree, without a network."""
    target = t.path("installed")
    env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "HOME": t.dir}
    env.pop("PYTHONPATH", None)
    p = subprocess.run([PYTHON, "-m", "pip", "install", "-q", "--no-cache-dir", "--target", target,
                        os.path.join(ROOT, "tools/python")], env=env, cwd="/", stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, check=False)
    if "No module named pip" in p.stdout:
        raise Skip("python3-pip is not installed: tools/deps.sh python3-pip")
    equal(p.returncode, 0, p.stdout)
    check(exists(os.path.join(target, "txnfs/py.typed")), ls(target))
    m = t.mount()
    code = f"import txnfs\nwith txnfs.atomic({m.mnt!r}) as tx: tx.open('f', 'w').close()\nprint(txnfs.__file__)"
    out = subprocess.run([PYTHON, "-B", "-c", code], env={**env, "PYTHONPATH": target}, check=True,
                         stdout=subprocess.PIPE, text=True).stdout
    check(out.startswith(target) and exists(m("f")), out)


def test_examples(t):
    """The manual's, and those of README.md, as they are written."""
    m = t.mount()
    write(m("account_a"), "100")
    write(m("account_b"), "200")
    for page, heading in (("tools/python/README.md", "Python"), ("README.md", "Python")):
        for line, text in blocks(page, "python", heading):
            run_python(m, page, line, text)
            equal(named_open(m.mnt), [], f"{page}:{line}")
            equal(txnfs.prepared(m.mnt), [], f"{page}:{line}")
