"""What needs no mount. `python3 -m unittest discover tools/python/tests`"""
import asyncio
import errno
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import txnfs  # noqa: E402
from txnfs import _control, _errors, _transaction  # noqa: E402


class Names(unittest.TestCase):
    def test_quote(self):
        self.assertEqual(_control.quote("a"), '"a"')
        self.assertEqual(_control.quote('say "a"; b'), '"say ""a""; b"')
        self.assertRaises(ValueError, _control.quote, "")

    def test_unquote(self):
        for field, want in ((b"plain", "plain"), (b'"two words"', "two words"), (rb'"a\tb\n\"\\"', 'a\tb\n"\\'),
                            (rb'"\303\244\x41"', "\u00e4A"), (rb'"\0017"', "\x017"), (b'"', '"')):
            self.assertEqual(_control.unquote(field), want)

    def test_prepared(self):
        (p, q) = _control.parse_prepared(b'g\t0\t2026-11-28T19:46:09Z\t3\n"a\\tb"\t1000\t2026-11-28T19:46:10Z\t0\n')
        self.assertEqual((p.gid, p.uid, p.changes, p.time.isoformat()), ("g", 0, 3, "2026-11-28T19:46:09+00:00"))
        self.assertEqual((q.gid, q.uid), ("a\tb", 1000))
        self.assertEqual(_control.parse_prepared(b""), [])

    def test_options(self):
        self.assertEqual(_control.options(None, None), "")
        self.assertEqual(_control.options("snapshot", 1.5), " isolation snapshot timeout 1.500")
        for isolation, timeout in (("", None), ("Serializable", None), (None, -1), (None, float("nan"))):
            self.assertRaises(ValueError, _control.options, isolation, timeout)

    def test_within(self):
        for directory, path, want in (("/m", "/m", ""), ("/m", "/m/a/b", "a/b"), ("/m", "/mm", None), ("/", "/a", "a"),
                                      ("/m", "/", None)):
            self.assertEqual(_transaction.within(directory, path), want)


class Errors(unittest.TestCase):
    def test_by_number(self):
        e = _errors.from_answer(errno.EBUSY, 'error: "f" is being changed by transaction 1 of uid 0 (EBUSY)\nmore\n')
        self.assertIsInstance(e, txnfs.Conflict)
        self.assertIsInstance(e, OSError)
        self.assertEqual((e.errno, e.strerror), (errno.EBUSY, '"f" is being changed by transaction 1 of uid 0'))
        self.assertIsInstance(_errors.from_answer(errno.ENOTCONN, ""), txnfs.Disconnected)
        self.assertIsInstance(_errors.from_answer(errno.ENOTCONN, "error: ended (ENOTCONN)"), txnfs.NotInTransaction)
        e = _errors.from_answer(errno.ERANGE, "")
        self.assertEqual((type(e), e.strerror), (txnfs.Error, os.strerror(errno.ERANGE)))


class Outside(unittest.TestCase):
    """Where there is no mount, and no block."""

    def test_no_mount(self):
        with tempfile.TemporaryDirectory() as d:
            for fn in (txnfs.find_mount, txnfs.prepared, txnfs.Transaction, lambda d: txnfs.commit_prepared(d, "g"),
                       lambda d: txnfs.atomic(d).__enter__()):
                with self.assertRaises(txnfs.NotFound) as c:
                    fn(d)
                self.assertIn(d, str(c.exception))

    def test_no_block(self):
        with tempfile.TemporaryDirectory() as d:
            name = os.path.join(d, "f")
            with txnfs.open(name, "w") as f:
                f.write("1")
            self.assertEqual(str(txnfs.path(name)), name)
            self.assertIsNone(txnfs.current())
            called = []
            txnfs.on_commit(lambda: called.append(1))
            self.assertEqual(called, [1])
            self.assertRaises(FileNotFoundError, txnfs.open, os.path.join(d, "none"))

    def test_misuse(self):
        self.assertRaises(TypeError, txnfs.atomic, print)
        self.assertRaises(TypeError, txnfs.atomic)
        self.assertRaises(ValueError, txnfs.atomic, "/", ambient="thread")
        self.assertRaises(ValueError, txnfs.retry, attempts=0)
        self.assertRaises(TypeError, txnfs.on_commit, None)


class Retry(unittest.TestCase):
    def calls(self, failures, **kw):
        seen = []

        @txnfs.retry(delay=0, **kw)
        def fn():
            seen.append(1)
            if len(seen) <= len(failures):
                raise failures[len(seen) - 1]
        try:
            fn()
        except Exception as e:
            return len(seen), type(e)
        return len(seen), None

    def test_counts(self):
        canceled = [txnfs.SerializationFailure(errno.ECANCELED, "x")]
        self.assertEqual(self.calls([]), (1, None))
        self.assertEqual(self.calls(canceled * 3), (4, None))
        self.assertEqual(self.calls(canceled * 99), (10, txnfs.SerializationFailure))
        self.assertEqual(self.calls(canceled * 99, attempts=1), (1, txnfs.SerializationFailure))
        self.assertEqual(self.calls([txnfs.Deadlock(errno.EDEADLK, "x")]), (2, None))
        self.assertEqual(self.calls([txnfs.Conflict(errno.EBUSY, "x")]), (1, txnfs.Conflict))
        self.assertEqual(self.calls([KeyError()], on=(KeyError,)), (2, None))

    def test_async(self):
        seen = []

        @txnfs.retry(delay=0)
        async def fn():
            seen.append(1)
            if len(seen) < 3:
                raise txnfs.Deadlock(errno.EDEADLK, "x")
            return "done"
        self.assertEqual(asyncio.run(fn()), "done")


if __name__ == "__main__":
    unittest.main()
