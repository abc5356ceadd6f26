"""What the clients of the bank do, in processes of their own, until the daemon is gone; and what they saw."""
import errno
import os
import random
import signal
import subprocess
import sys
import time
import traceback

import bank
from bank import ACCOUNTS, BUSY, GONE, PLAIN, Ledger, Notes, Torn, Watcher
from harness import OPT, Failure, ctl


STRICT = ("serializable", "snapshot")  # named transactions of these levels


def conflict(e, how):
    """
    Someone else was there first, or, for the strict levels, has changed what was read or is to be changed. An ambient member can also be told ESTALE, when a file is replaced by someone's commit
    just while the kernel asks again for the member's own version of it.
    """
    return e.errno in (errno.EBUSY, errno.EDEADLK) or e.errno == errno.ECANCELED and how in STRICT or e.errno == errno.ESTALE and how == "ambient" and \
        bank.replaced(int(os.path.basename(e.filename)[:2]))


def transfers(mnt, how, ledger, number, rng):
    """Transfer after transfer; yields after each, True when it was acknowledged."""
    book = Ledger(ledger)
    while True:
        number += 1
        try:
            if how == "run":
                if not by_run(mnt, ledger, number, rng):
                    yield False
                    continue
            elif how == "ambient":
                ctl(mnt, "begin")
                in_transaction(mnt, None, how, book, number, rng)
            else:
                name = f"w{number:x}"
                os.mkdir(f"{mnt}/.txn/{name}")
                if how in STRICT:
                    ctl(mnt, f"isolation {how}", name)
                in_transaction(mnt, name, how, book, number, rng)
        except OSError as e:
            if not conflict(e, how):
                raise
            yield False
            continue
        book.acknowledge(number)
        yield True


def in_transaction(mnt, tx, how, book, number, rng):
    try:
        bank.transfer(f"{mnt}/.txn/{tx}/root" if tx else mnt, book, number, rng, lambda c: ctl(mnt, c, tx))
    except OSError as e:
        if conflict(e, how):
            ctl(mnt, "rollback", tx)
        raise
    ctl(mnt, "commit", tx)


def by_run(mnt, ledger, number, rng):
    r = subprocess.run([OPT.txnfs, "run", mnt, "--", sys.executable, "-I", "-S", bank.__file__, mnt, ledger,
                        str(rng.random()), str(number)],
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if r.returncode in (0, BUSY, -signal.SIGKILL):
        return r.returncode == 0
    if r.returncode != GONE:
        os.listdir(mnt)  # which says whether the daemon has gone
        raise Failure(f"run: {r.returncode} {r.stderr.decode(errors='replace')[-2000:]}")
    raise OSError(errno.ENOTCONN, "the daemon has gone")


def plain_changes(mnt, ledger, number, rng):
    """Plain changes of accounts: those that returned survive a kill of the daemon."""
    notes = Notes(ledger)
    while True:
        number += 1
        account = rng.randrange(ACCOUNTS)
        account -= account % PLAIN
        if bank.replaced(account):
            continue
        try:
            notes.intend(account, number)
            os.setxattr(bank.path_of(mnt, account), "user.seen", b"%d" % number)
        except OSError as e:
            if e.errno not in (errno.EBUSY, errno.EDEADLK):
                raise
            yield False
            continue
        notes.acknowledge(account, number)
        yield True
        time.sleep(rng.random() * 0.005)  # transfers build on them, and must make them durable first


def large_transactions(mnt, which, ledger, number):
    notes = Notes(ledger)
    while True:
        number += 1
        os.mkdir(f"{mnt}/.txn/b{number:x}")
        bank.bulk(f"{mnt}/.txn/b{number:x}/root", which, number)
        notes.intend(which, number)
        ctl(mnt, "commit", f"b{number:x}")
        notes.acknowledge(which, number)
        yield True


def reads(mnt, how, number, rng):
    """From outside, and in transactions that change nothing."""
    w = Watcher(rng)
    while True:
        number += 1
        if how == "outside":
            w.read(mnt)
        elif number % 2:
            ctl(mnt, "begin")
            for _ in range(10):
                w.read(mnt)
            ctl(mnt, "rollback")
        else:
            d = f"{mnt}/.txn/r{number:x}"
            os.mkdir(d)
            for _ in range(10):
                w.read(f"{d}/root")
            os.rmdir(d)
        yield w
        time.sleep(rng.random() * 0.002)


def frozen(mnt, number, rng):
    """Snapshots: all accounts, at whatever pace, show one moment, and twice the same."""
    while True:
        number += 1
        d = f"{mnt}/.txn/z{number:x}"
        os.mkdir(d)
        ctl(mnt, "isolation snapshot", os.path.basename(d))
        first = [bank.look(f"{d}/root", i) for i in range(ACCOUNTS)]
        for i in rng.sample(range(ACCOUNTS), ACCOUNTS):
            again = bank.look(f"{d}/root", i)
            if again != first[i]:
                raise Failure(f"snapshot: account {i} shows {again} after {first[i]}")
            if first[i].peer_version > first[first[i].peer].version:
                raise Failure(f"snapshot: account {i} shows {first[i]}, its peer {first[first[i].peer]}")
            time.sleep(rng.random() * 0.002)
        os.rmdir(d)
        if sum(entry.balance for entry in first) != ACCOUNTS * bank.FUNDS:
            raise Failure(f"snapshot: the sum is {sum(entry.balance for entry in first)}: {first}")
        yield True


def client(mnt, how, ledger, number, seed):
    """(what it did, what it was refused, reads, those that spanned a commit, what should not have been)"""
    rng = random.Random(seed)
    done = refused = 0
    w = Watcher(rng)
    try:
        if how in ("outside", "inside"):
            for w in reads(mnt, how, number, rng):
                pass
        if how == "plain":
            work = plain_changes(mnt, ledger, number, rng)
        elif how.startswith("bulk"):
            work = large_transactions(mnt, int(how[4:]), ledger, number)
        else:
            work = transfers(mnt, how, ledger, number, rng)
        for ok in work:
            done += ok
            refused += not ok
    except (Failure, Torn) as e:
        return done, refused, w.reads, w.spans, f"{how}: {e}"
    except OSError as e:
        if e.errno not in bank.DEAD:
            return done, refused, w.reads, w.spans, f"{how}: {e!r} {getattr(e, 'line', '')}\n{traceback.format_exc()}"
    return done, refused, w.reads, w.spans, None
