#!/usr/bin/python3
"""
Sixteen processes on one mount: transfers in ambient, named and run transactions and at each isolation level, large transactions, plain changes,
directories that come and go, and readers; while a watchdog proves that each of them makes progress. At half time and at
the end everything is drained, and the daemon must not have grown; then sums, names and contents must be right, and the
same after a remount. tests/load.sh runs it.
"""
import argparse
import collections
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import bank  # noqa: E402
import clients  # noqa: E402
import harness  # noqa: E402
from harness import OPT, Failure, check, ctl, equal, read, same_tree, snapshot, tool, wait_until  # noqa: E402

OPTIONS = "segment_mib=2,checkpoint_mib=8,checkpoint_seconds=2"
TRANSFERS = ("ambient", "named", "run") + clients.STRICT
KINDS = ["ambient"] * 2 + ["named"] + ["run"] * 2 + ["serializable", "snapshot"] + ["plain", "bulk0", "bulk1", "outside", "inside",
         "frozen", "churn", "churn-named", "churn-ambient"]
STALL = 60  # seconds, in which each process must have done something
RUN, PAUSE, STOP = 0, 1, 2


# ---- directories that come and go ----

def grow(d, rng, n):
    """A tree whose look follows from rng; what a listing of it must give."""
    os.mkdir(d)
    want = []
    for i in range(n):
        if rng.random() < 0.3:
            os.mkdir(f"{d}/d{i}")
            with open(f"{d}/d{i}/f", "wb") as f:
                f.write(b"x" * rng.randrange(9000))
            want.append(f"d{i}")
            if rng.random() < 0.5:
                os.rename(f"{d}/d{i}", f"{d}/e{i}")
                want[-1] = f"e{i}"
        else:
            with open(f"{d}/f{i}", "wb") as f:
                f.write(b"%d" % i)
            want.append(f"f{i}")
            if rng.random() < 0.3:
                os.link(f"{d}/f{i}", f"{d}/l{i}")
                want.append(f"l{i}")
    return sorted(want)


def listing(d, want, text):
    got = sorted(os.listdir(d))
    if got != want:
        raise Failure(f"{text}: {d} holds {got} where {want} is right")


def churn(mnt, how, number, rng):
    """Plainly or in transactions that end in one way or the other: trees are made, moved and removed."""
    top = f"{mnt}/churn{number >> 40}"
    os.mkdir(top)
    have = {}
    while True:
        number += 1
        tx = f"c{number:x}" if how == "churn-named" else None
        if tx:
            os.mkdir(f"{mnt}/.txn/{tx}")
        elif how == "churn-ambient":
            ctl(mnt, "begin")
        root = top.replace(mnt, f"{mnt}/.txn/{tx}/root", 1) if tx else top
        now = dict(have)
        new = f"t{number:x}"
        now[new] = grow(f"{root}/{new}", rng, rng.randrange(2, 12))
        if len(now) > 4:
            old = rng.choice(sorted(now))
            shutil.rmtree(f"{root}/{old}")
            del now[old]
        if now and rng.random() < 0.5:
            old = rng.choice(sorted(now))
            os.rename(f"{root}/{old}", f"{root}/{old}m")
            now[old + "m"] = now.pop(old)
        listing(root, sorted(now), how)
        if how == "churn":
            have = now
        elif rng.random() < 0.6:
            ctl(mnt, "commit", tx)
            have = now
        else:
            ctl(mnt, "rollback", tx)
        listing(top, sorted(have), f"{how}, outside")
        for d, want in have.items():
            listing(f"{top}/{d}", want, f"{how}, outside")
        yield True


# ---- the processes ----

class Shared:
    """What all processes see: the order to run, pause or stop, and of each its counter, conflicts and whether it
    pauses."""
    FORM = struct.Struct("<QQQ")

    def __init__(self, n):
        self.map = mmap.mmap(-1, 8 + n * self.FORM.size)
        self.n = n

    def order(self, what=None):
        if what is not None:
            self.map[:8] = struct.pack("<Q", what)
        return struct.unpack("<Q", self.map[:8])[0]

    def put(self, i, done, refused, idle):
        self.map[8 + i * self.FORM.size:8 + (i + 1) * self.FORM.size] = self.FORM.pack(done, refused, idle)

    def get(self, i):
        return self.FORM.unpack_from(self.map, 8 + i * self.FORM.size)


def work(mnt, how, ledger, number, rng):
    if how in ("outside", "inside"):
        return clients.reads(mnt, how, number, rng)
    if how == "frozen":
        return clients.frozen(mnt, number, rng)
    if how.startswith("churn"):
        return churn(mnt, how, number, rng)
    if how == "plain":
        return clients.plain_changes(mnt, ledger, number, rng)
    if how.startswith("bulk"):
        return clients.large_transactions(mnt, int(how[4:]), ledger, number)
    return clients.transfers(mnt, how, ledger, number, rng)


def process(shared, i, mnt, how, ledger, seed):
    """Until it is told to stop; the trouble, or nothing."""
    done = refused = 0
    try:
        for ok in work(mnt, how, ledger, (i + 1) << 40, random.Random(f"{seed}:{i}")):
            done, refused = done + bool(ok), refused + (not ok)
            shared.put(i, done, refused, 0)
            while shared.order() == PAUSE:
                shared.put(i, done, refused, 1)
                time.sleep(0.02)
            if shared.order() == STOP:
                return None
    except (Failure, bank.Torn) as e:
        return f"{how}: {e}"
    except OSError as e:
        return f"{how}: {e!r} {getattr(e, 'line', '')}\n{traceback.format_exc()}"
    return f"{how}: it ended by itself"


class Load:
    def __init__(self, t, say):
        self.t, self.say = t, say
        src = t.path("m.src")
        os.mkdir(src)
        bank.make(src)
        self.base = [bank.look(src, i) for i in range(bank.ACCOUNTS)]
        self.m = t.mount(options=OPTIONS)
        self.shared = Shared(len(KINDS))
        self.ledgers = [t.path(f"ledger{i}") for i in range(len(KINDS))]
        self.pids, self.kinds = {}, []
        self.last = [(0, time.monotonic())] * len(KINDS)

    def start(self):
        for i, how in enumerate(KINDS):
            pid = os.fork()
            if pid == 0:
                trouble = "it died"
                try:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    trouble = process(self.shared, i, self.m.mnt, how, self.ledgers[i], self.t.seed)
                except BaseException:
                    trouble = traceback.format_exc()
                finally:
                    with open(self.t.path(f"end{i}"), "w") as f:
                        json.dump(trouble, f)
                    os._exit(0)
            self.pids[pid] = i

    def kill(self):
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.pids = {}

    def reap(self):
        for pid in list(self.pids):
            if os.waitpid(pid, os.WNOHANG)[0]:
                i = self.pids.pop(pid)
                with open(self.t.path(f"end{i}")) as f:
                    trouble = json.load(f)
                if trouble:
                    raise Failure(trouble)
        if self.m.proc.poll() is not None:
            raise Failure(f"the daemon has ended: {self.m.proc.returncode}")

    def stacks(self):
        if not shutil.which("gdb"):
            return "(no gdb)"
        p = subprocess.run(["gdb", "-p", str(self.m.proc.pid), "-batch", "-ex", "set pagination off", "-ex",
                            "thread apply all bt 25"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
                           stdin=subprocess.DEVNULL, text=True, errors="replace", timeout=120)
        return p.stdout[-60000:]

    def watch(self):
        """Each counter must have moved within the bound."""
        now = time.monotonic()
        for i in self.pids.values():
            done, refused, idle = self.shared.get(i)
            if done + refused != self.last[i][0] or idle:
                self.last[i] = done + refused, now
            elif now - self.last[i][1] > STALL * OPT.slow:
                raise Failure(f"process {i} ({KINDS[i]}) has done nothing for {now - self.last[i][1]:.0f} s\n"
                              f"{self.stacks()}")
        return all(self.shared.get(i)[2] for i in self.pids.values())

    def go_on(self, seconds, text):
        end = time.monotonic() + seconds
        self.last = [(n, time.monotonic()) for n, _ in self.last]
        while time.monotonic() < end:
            self.reap()
            self.watch()
            done = sum(self.shared.get(i)[0] for i in range(len(KINDS)))
            self.say(f"{text}, {end - time.monotonic():.0f} s left, {done} done")
            time.sleep(0.25)

    # ---- at rest ----

    def status(self):
        return dict(line.split(": ", 1) for line in read(self.m(".txn/status")).decode().splitlines())

    def drained(self):
        s = self.status()
        state = self.m.home(".txnfs")
        return s["open"] == s["installs_pending"] == s["logged_objects"] == "0" and \
            not os.listdir(f"{state}/stage") and not os.listdir(f"{state}/trash")

    def measure(self):
        """What the daemon holds when nothing is going on."""
        try:
            wait_until(self.drained, 4, "the daemon to come to rest")
        except Failure as e:
            state = self.m.home(".txnfs")
            raise Failure(f"{e}: {self.status()}, stage {os.listdir(state + '/stage')}, trash "
                          f"{os.listdir(state + '/trash')}\n{self.stacks()}") from None
        if os.geteuid() == 0:
            with open("/proc/sys/vm/drop_caches", "w") as f:
                f.write("3")
        proc = f"/proc/{self.m.proc.pid}"
        time.sleep(0.5)  # what the kernel forgets comes to the daemon a little later
        state = self.m.home(".txnfs")
        log = sum(os.lstat(os.path.join(d, f)).st_blocks * 512 for d, _, fs in os.walk(state) for f in fs)
        with open(f"{proc}/status") as f:
            status = dict(line.split(":", 1) for line in f)
        kinds = collections.Counter()
        for fd in os.listdir(f"{proc}/fd"):
            what = os.readlink(f"{proc}/fd/{fd}")
            kinds["/".join(what.split("/")[:5]) + " (deleted)" * what.endswith("(deleted)") if what.startswith("/")
                  else what.split(":")[0]] += 1
        self.kinds.append(dict(kinds))
        return {"descriptors": sum(kinds.values()),
                "deleted": sum(n for what, n in kinds.items() if "(deleted)" in what),
                "threads": int(status["Threads"]),
                "memory_kib": int(status["VmRSS"].split()[0]), "state_kib": log >> 10}

    def pause(self):
        self.shared.order(PAUSE)
        self.last = [(n, time.monotonic()) for n, _ in self.last]
        while not self.watch():
            self.reap()
            time.sleep(0.02)
        return self.measure()

    def stop(self):
        self.shared.order(STOP)
        self.last = [(n, time.monotonic()) for n, _ in self.last]
        while self.pids:
            self.reap()
            self.watch()
            time.sleep(0.02)

    def audit(self, root):
        intended, acknowledged = {}, set()
        for how, ledger in zip(KINDS, self.ledgers):
            if how in TRANSFERS:
                one, other = bank.Ledger(ledger).read()
                intended.update(one)
                acknowledged |= other
        bank.audit(root, self.base, intended, acknowledged)
        for which in range(bank.BULKS):
            least, may = bank.Notes(self.ledgers[KINDS.index(f"bulk{which}")]).read({which: 0})
            got = bank.audit_bulk(root, which)
            check(got == least[which], f"bulk{which} shows {got}, committed was {least[which]}", may[which])
        least, _ = bank.Notes(self.ledgers[KINDS.index("plain")]).read({})
        for account, number in least.items():
            if not bank.replaced(account):
                equal(int(os.getxattr(bank.path_of(root, account), "user.seen")), number, f"account {account}")

    def run(self, seconds):
        try:
            self.start()
            self.go_on(seconds / 2, "first half")
            half = self.pause()
            self.shared.order(RUN)
            self.go_on(seconds / 2, "second half")
            end = self.pause()
            self.stop()
        finally:
            self.kill()
        for i in range(len(KINDS)):
            check(self.shared.get(i)[0] > 0, f"process {i} ({KINDS[i]}) has done nothing")
        loose = 1.0 if OPT.slow == 1.0 else 2.0
        # Of each file that the kernel has not forgotten one may be kept; of removed ones none.
        room = {"descriptors": 16 + bank.ACCOUNTS, "deleted": 8, "threads": 4, "memory_kib": half["memory_kib"] // 4 + 24576 * loose,
                "state_kib": half["state_kib"] // 2 + 8192}
        for key, more in room.items():
            check(end[key] <= half[key] + more, f"{key} grew from {half[key]} to {end[key]}:", *self.kinds)
        for name in os.listdir(self.m.mnt):
            if name.startswith("churn"):
                shutil.rmtree(self.m(name))
        self.audit(self.m.mnt)
        before = snapshot(self.m.mnt)
        self.m.umount()
        check(not self.m.complains(), self.m.log_text()[-20000:])
        tool("check", self.m.src)
        self.audit(self.m.src)
        self.m.start()
        same_tree(snapshot(self.m.mnt), before, "after a remount")
        self.m.umount()
        return half, end


def table(load, half, end, seconds):
    lines = [f"{'process':<16}{'number':>8}{'done':>10}{'conflicts':>11}{'done/s':>10}"]
    for how in sorted(set(KINDS), key=KINDS.index):
        all_ = [load.shared.get(i) for i, k in enumerate(KINDS) if k == how]
        done, refused = sum(x[0] for x in all_), sum(x[1] for x in all_)
        lines.append(f"{how:<16}{len(all_):>8}{done:>10}{refused:>11}{done / seconds:>10.1f}")
    lines.append(f"\n{'at rest':<16}{'half time':>12}{'end':>12}")
    lines += [f"{key:<16}{half[key]:>12}{end[key]:>12}" for key in half]
    return "\n".join(lines)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seconds", type=float, default=600)
    ap.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    ap.add_argument("--txnfs", required=True)
    a = ap.parse_args()
    OPT.txnfs, OPT.seed = os.path.abspath(a.txnfs), a.seed
    with open(OPT.txnfs, "rb") as f:
        if any(mark in f.read() for mark in (b"__asan_init", b"__tsan_init")):
            OPT.slow = 4.0
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, lambda sig, frame: sys.exit(128 + sig))
    d = tempfile.mkdtemp(prefix="txnfs-load-")
    os.chmod(d, 0o755)
    shown = sys.stdout.isatty()

    def say(text):
        if shown:
            print(f"\r\033[K{text}", end="", flush=True)
    print(f"seed {a.seed}, {a.seconds:.0f} s, {len(KINDS)} processes", flush=True)
    t = harness.Test("load", d)
    text = None
    try:
        load = Load(t, say)
        half, end = load.run(a.seconds)
        text = table(load, half, end, a.seconds)
        say("")
    except (Failure, bank.Torn, OSError) as e:
        say("")
        print(f"{e}\n{traceback.format_exc()}")
        for _, log in t.logs():
            print(log[-20000:])
    finally:
        t.finish(text is None)
        shutil.rmtree(d, ignore_errors=True)
    print(f"{text}\nload: ok" if text else f"load: failed; again: tests/load.sh --seed {a.seed}")
    return 0 if text else 1


if __name__ == "__main__":
    sys.exit(main())
