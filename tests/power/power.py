#!/usr/bin/python3
"""
What is left of txnfs after a power cut, on real filesystems. tests/power.sh calls this, in namespaces of its own, so that
mounts, loop devices and processes go when it ends, however it ends.

    record    a load runs on txnfs on ext4, xfs or btrfs on a loop device on the recorder (recorder.c)
    images    cuts of the recorded stream: what the disk may hold after a power cut there (disk.py)
    trials    the kernel mounts an image, txnfs recovers, and everything that was promised must be there (work.py)
"""
import argparse
import bisect
import ctypes
import errno
import json
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from disk import (KINDS, Base, Cut, Image, Loop, Recorder, Recording, Unavailable, Unmountable, honest, must,  # noqa: E402
                  run, sync_filesystem, umount)
from work import DEAD, Book, Wrong, verify, workers  # noqa: E402

OPTIONS = "segment_mib=1,checkpoint_mib=2,checkpoint_seconds=1"
HOWS = ("recover", "recover", "killed", "mount", "twice")
ROUND = 1.5  # seconds between two ends of the daemon
ENOUGH = 10  # failures

opt = None


def say(*words):
    print(*words, flush=True)


# ---- the daemon ----

class Daemon:
    """txnfs in the foreground, mounted."""

    def __init__(self, source, mnt, log):
        self.mnt, self.log = mnt, log
        os.makedirs(mnt, exist_ok=True)
        before = os.stat(mnt).st_dev
        with open(log, "ab") as out:
            self.proc = subprocess.Popen([opt.txnfs, "mount", "-f", "-o", OPTIONS, source, mnt],
                                         stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        end = time.monotonic() + 60
        while os.stat(mnt).st_dev == before:
            if self.proc.poll() is not None or time.monotonic() > end:
                self.proc.kill()
                raise Wrong(f"txnfs mount: status {self.proc.wait()}: {self.text()}")
            time.sleep(0.002)

    def text(self):
        with open(self.log, errors="replace", encoding="utf-8") as f:
            return f.read()[-3000:].strip()

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def detach(self):
        libc_detach(self.mnt)

    def end(self):
        status, out = run(opt.txnfs, "umount", self.mnt)
        if status or self.proc.wait(60):
            raise Wrong(f"txnfs umount: status {status}, daemon {self.proc.poll()}: {out} {self.text()}")

    def release(self):
        if self.proc.poll() is None:
            self.kill()
        libc_detach(self.mnt)


def libc_detach(path):
    ctypes.CDLL(None).umount2(os.fsencode(path), 2)


# ---- recording ----

def child(worker, mnt, book_path, position, first, stop, seed, out):
    """The life of a worker's process; its trouble goes to out."""
    trouble = ""
    book = Book(book_path, position)
    try:
        worker.loop(mnt, book, first, lambda: stop[0], random.Random(seed))
    except OSError as e:
        if not (stop[1] and e.errno in DEAD):  # the daemon was killed
            trouble = f"{worker.name}: {traceback.format_exc()}"
    except BaseException:
        trouble = f"{worker.name}: {traceback.format_exc()}"
    os.write(out, trouble.encode()[-4000:])
    os._exit(0)


class Load:
    """Workers in processes: in the first round all, later some, because one's fsync may hide that another's was forgotten."""

    def __init__(self, home, mnt, position, seed, number):
        self.stop = mmap.mmap(-1, 4096)  # [0]: stop; [1]: errors of a dead daemon are expected
        self.pids = []
        everyone = workers(seed)[1]
        rng = random.Random(f"{seed}:{number}")
        busy = {w.name for w in (rng.sample(everyone, rng.randint(2, 6)) if number else everyone)}
        for w in everyone:
            path = os.path.join(home, f"book.{w.name}")
            book = Book(path, position)
            first = w.settle(mnt, book)
            os.close(book.fd)
            if w.name not in busy:
                continue
            r, out = os.pipe()
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                child(w, mnt, path, position, first, self.stop, f"{seed}:{number}:{w.name}", out)
            os.close(out)
            self.pids.append((pid, r))

    def wait(self):
        self.stop[0] = 1
        troubles = []
        for pid, r in self.pids:
            with os.fdopen(r, "rb") as f:
                troubles.append(f.read().decode(errors="replace"))
            os.waitpid(pid, 0)
        self.pids = []
        troubles = [t for t in troubles if t]
        if troubles:
            raise Wrong("the load: " + "\n".join(troubles))

    def kill(self):
        for pid, r in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(r)
        self.pids = []


def until(end, daemon):
    while time.monotonic() < end:
        if daemon.proc.poll() is not None:
            raise Wrong(f"the daemon ended under load: status {daemon.proc.poll()}: {daemon.text()}")
        time.sleep(min(0.05, max(0.0, end - time.monotonic())))


def load_rounds(home, source, mnt, position, marks):
    """The daemon is killed and mounted again, or unmounted and mounted again, every few seconds."""
    rounds = max(2, round(opt.seconds / ROUND))
    daemon = Daemon(source, mnt, os.path.join(home, "daemon.log"))
    load = None
    try:
        marks["mounted"] = position()
        marks["between"] = []  # from the end of one daemon until the next one is ready
        for i in range(rounds):
            load = Load(home, mnt, position, opt.seed, i)
            until(time.monotonic() + opt.seconds / rounds, daemon)
            if i == rounds - 1 or i % 2:
                load.wait()
                daemon.end()
            else:
                load.stop[1] = 1
                daemon.kill()
                load.wait()
                daemon.detach()
            between = position()
            if i < rounds - 1:
                daemon = Daemon(source, mnt, os.path.join(home, "daemon.log"))
            marks["between"].append((between, position()))
    finally:
        if load:
            load.kill()
        daemon.release()


def record(kind, home):
    """A load on this filesystem: log, books and meta.json in home."""
    disk, mnt = os.path.join(home, "disk"), os.path.join(home, "mnt")
    source, log = os.path.join(disk, "source"), os.path.join(home, "log")
    marks = {"fs": kind.name, "mib": kind.mib, "seed": opt.seed}
    os.makedirs(disk, exist_ok=True)
    with Recorder(opt.recorder, log, kind.mib, os.path.join(home, "recorder")) as recorder:
        kind.make(recorder.device)
        kind.mount(recorder.device, disk)
        try:
            os.mkdir(source)
            for w in workers(opt.seed)[0]:
                w.prepare(source)
            sync_filesystem(disk)
            marks["made"] = recorder.position()
            for w in workers(opt.seed)[0]:
                w.prepare_late(source)
            load_rounds(home, source, mnt, recorder.position, marks)
            marks["end"] = recorder.position()
        finally:
            umount(disk)
        marks["crc"] = recorder.checksum()
    with open(os.path.join(home, "meta.json"), "w", encoding="utf-8") as f:
        json.dump(marks, f)


class Recorded:
    """A finished recording."""

    def __init__(self, home):
        self.home = home
        with open(os.path.join(home, "meta.json"), encoding="utf-8") as f:
            self.meta = json.load(f)
        self.kind = KINDS[self.meta["fs"]]
        self.rec = Recording(os.path.join(home, "log"))
        self.books = {w.name: Book(os.path.join(home, f"book.{w.name}")) for w in workers(self.meta["seed"])[1]}
        self.size = self.meta["mib"] << 20
        self.acked = sorted(p for b in self.books.values() for _, p, *_ in b.acked if p > self.meta["mounted"])

    def flushes(self):
        return len(self.rec.flushes)


# ---- which cuts ----

def choose(rec, count, rng):
    """Cuts in the order of the stream, and what is done with each."""
    made, end, mounted = rec.meta["made"], len(rec.rec), rec.meta["mounted"]
    flushes = [i for i in rec.rec.flushes if i >= mounted]
    # What there is between two flushes: where the next one would begin, and how many writes would be lost then.
    gaps = [(b, b - a - 1) for a, b in zip(flushes, flushes[1:] + [end]) if b - a > 1]
    places, weights = [g[0] for g in gaps], [g[1] for g in gaps]
    out = []
    for i in range(count):
        seed, grain = rng.randrange(1 << 30), rng.choice((0, 512, 512))
        way = i % 6
        if i % 24 == 11:  # while txnfs makes its state directory
            cut = Cut(rng.randint(made, mounted), rng.choice((0, 50, 100)), grain, seed)
        elif i % 12 == 5:  # while it recovers from a kill, or ends
            cut = Cut(rng.randint(*rng.choice(rec.meta["between"])), rng.choice((0, 50, 80, 100)), grain, seed)
        elif way == 0:  # just when a flush is done: all of it, and nothing else
            cut = Cut(rng.choice(flushes) + 1, 0, 0, seed)
        elif way == 1:  # just when a commit was acknowledged
            cut = Cut(rng.choice(rec.acked), rng.choice((0, 0, 50)), grain, seed)
        elif i % 12 == 2:  # the same, soon after a mount
            mount = rng.choice([mounted, mounted] + [b[1] for b in rec.meta["between"][:-1]])
            first = bisect.bisect_right(rec.acked, mount)
            cut = Cut(rng.choice(rec.acked[first:first + 60] or [mount]), 0, 0, seed)
        elif way == 2:  # anywhere, with nothing lost
            cut = Cut(rng.randint(mounted, end), 100, 0, seed)
        elif way == 3:  # just before a flush
            cut = Cut(rng.choice(places), rng.choice((20, 50, 80, 95)), grain, seed)
        elif way == 4:  # the same, rather where much was written
            cut = Cut(rng.choices(places, weights)[0], rng.choice((20, 50, 80, 95)), grain, seed)
        else:  # anywhere
            cut = Cut(rng.randint(mounted, end), rng.choice((0, 50, 80, 95)), grain, seed)
        out.append((cut, HOWS[rng.randrange(len(HOWS))] if cut.cut > mounted else "mount"))
    return sorted(out, key=lambda c: c[0].cut)


# ---- trials ----

class Trial:
    """One image, recovered and verified."""

    def __init__(self, rec, how, scratch, verbose=False):
        self.rec, self.how, self.scratch, self.verbose = rec, how, scratch, verbose
        self.disk, self.mnt = os.path.join(scratch, "disk"), os.path.join(scratch, "mnt")
        self.source = os.path.join(self.disk, "source")
        os.makedirs(self.disk, exist_ok=True)

    def tool(self, *args, statuses=(0,)):
        status, out = run(opt.txnfs, *args, quiet=not self.verbose)
        if status not in statuses:
            raise Wrong(f"txnfs {' '.join(args)}: status {status}: {out.strip()}")
        return out

    def kernel_mounts(self, path, work, *args):
        """work(...) while the image is mounted; its loop device is gone afterwards."""
        with Loop(path) as loop:
            self.rec.kind.mount(loop.path, self.disk)
            try:
                loop.close()
                return work(*args)
            finally:
                umount(self.disk)

    def verify(self, where, cut):
        return verify(where, self.rec.meta["seed"], self.rec.books, cut)

    def recover_and_verify(self, cut):
        unsound = ""
        try:
            self.tool("check", self.source)  # a log with a torn end is sound
        except Wrong as e:
            unsound = f"{e}"
        try:
            self.tool("recover", *(["-v"] if self.verbose else []), self.source)
            done = self.verify(self.source, cut)
        except Wrong as e:
            raise Wrong(f"{unsound}\n{e}".strip()) from None
        if unsound:
            raise Wrong(f"before recovery: {unsound}\nrecovery then did what it should")
        self.tool("check", self.source)
        left = [os.path.join(d, name) for d in ("stage", "trash") for name in os.listdir(f"{self.source}/.txnfs/{d}")]
        if left:
            raise Wrong(f"left in the state directory: {left}")
        again = self.tool("recover", self.source)
        if not re.search("nothing|clean", again):
            raise Wrong(f"recovering twice: {again.strip()}")
        return done

    def mount_and_verify(self, cut):
        """Recovery by a mount, which must then be good for a transaction."""
        log = os.path.join(self.scratch, "daemon.log")
        if os.path.exists(log):
            os.unlink(log)
        daemon = Daemon(self.source, self.mnt, log)
        try:
            done = self.verify(self.mnt, cut)
            self.one_more()
            daemon.end()
        finally:
            daemon.release()
        self.verify(self.source, cut)
        self.tool("check", self.source)
        return done

    def one_more(self):
        d = os.path.join(self.mnt, ".txn", "more")
        os.mkdir(d)
        for name, text in (("root/a", "x"), ("root/b", "x"), ("ctl", "commit")):
            with open(os.path.join(d, name), "w", encoding="ascii") as f:
                f.write(text)
        for name in ("a", "b"):
            os.unlink(os.path.join(self.mnt, name))

    def kill_recovery(self, rng):
        """A recovery that is killed somewhere, once or twice."""
        for _ in range(rng.randrange(1, 3)):
            p = subprocess.Popen([opt.txnfs, "recover", self.source], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                p.wait(rng.random() * 0.03)
            except subprocess.TimeoutExpired:
                p.kill()
            if p.wait() not in (0, -signal.SIGKILL):
                raise Wrong(f"txnfs recover: status {p.returncode}")

    def recover_on(self, path, log):
        """Recover on a recorder over the image; where in the log the recovery was."""
        with Recorder(opt.recorder, log, self.rec.meta["mib"], os.path.join(self.scratch, "recorder"),
                      "--base", path) as recorder:
            self.rec.kind.mount(recorder.device, self.disk)
            try:
                first = recorder.position()
                self.tool("recover", self.source)
                last = recorder.position()
            finally:
                umount(self.disk)
        return first, last

    def cut_recovery(self, path, cut, rng, second):
        """
        The power fails during recovery, too; the image becomes what is left then. second: the cut of a recovery that was
        recorded before.
        """
        log = os.path.join(self.rec.home, f"twice.{cut}.log")
        if not second:
            first, last = self.recover_on(path, log)
            second = Cut(rng.randint(first, last), rng.choice((0, 50, 80, 100)), 512, rng.randrange(1 << 30))
        self.how = f"twice/{second}"
        stream = Recording(log)
        with Image(path) as image:
            for i in range(stream.flushed(second.cut)):
                image.put(stream, i)
            second.apply(stream, image, self.rec.kind.supers)
        return log

    def run(self, path, cut):
        """How many acknowledged commits were verified. Raises Wrong and Unmountable."""
        rng = random.Random(cut.seed + 1)
        how, _, second = self.how.partition("/")
        log = None
        if how == "mount":
            return self.kernel_mounts(path, self.mount_and_verify, cut.cut)
        if how == "twice":
            log = self.cut_recovery(path, cut, rng, Cut.parse(second) if second else None)
        if how == "killed":
            self.kernel_mounts(path, self.kill_recovery, rng)
        done = self.kernel_mounts(path, self.recover_and_verify, cut.cut)
        if log and not second:
            os.unlink(log)
        return done

    def fsck(self, path):
        """None, or what the filesystem's own checker says about it."""
        status, out = run(*self.rec.kind.fsck, path)
        return out.strip() if status else None


class Result:
    """Of one filesystem."""

    def __init__(self, name):
        self.name = name
        self.records = self.flushes = self.commits = self.images = self.verified = self.fscks = 0
        self.hows, self.kept, self.torn, self.lost = {}, 0, 0, 0
        self.failures, self.unmountable = [], []

    def row(self):
        hows = " ".join(f"{n} {how}" for how, n in sorted(self.hows.items()))
        return (self.name, self.records, self.flushes, self.commits, self.images, self.torn, self.lost, self.verified,
                self.fscks, len(self.unmountable), len(self.failures), hows)


def replay_command(rec, cut, how):
    return f"tests/power.sh --replay '{rec.home}:{cut}:{how}'"


def why_unmountable(rec, base, cut, path, scratch):
    """What it takes for the kernel to mount the image: a word on whether the cut or the filesystem is to blame."""
    for what, other in (("when no block of 4096 bytes is torn", Cut(cut.cut, cut.keep, 4096, cut.seed)),
                        ("when no write is torn", Cut(cut.cut, cut.keep, 0, cut.seed)),
                        ("when no write is lost", Cut(cut.cut, 100, 0, 0)),
                        ("when only what was flushed is there", Cut(cut.cut, 0, 0, 0))):
        image, *_ = base.make(other, path)
        image.close()
        try:
            Trial(rec, "", scratch).kernel_mounts(path, lambda: None)
            return f"it can be mounted {what}"
        except Unmountable:
            pass
        finally:
            os.unlink(path)
    return "it cannot be mounted either when the writes since the last flush are all there, or all lost"


def try_image(rec, base, cut, how, result, scratch, number):
    path = os.path.join(scratch, "image")
    image, kept, torn, lost = base.make(cut, path)
    image.close()
    trial = Trial(rec, how, scratch)
    result.images += 1
    result.kept, result.torn, result.lost = result.kept + kept, result.torn + torn, result.lost + lost
    result.hows[how] = result.hows.get(how, 0) + 1
    try:
        result.verified += trial.run(path, cut)
        if number % 10 == 0:
            result.fscks += 1
            trouble = trial.fsck(path)
            if trouble:
                raise Wrong(f"{' '.join(rec.kind.fsck)}: {trouble}")
    except Unmountable as e:
        os.unlink(path)
        why = why_unmountable(rec, base, cut, path, scratch)
        result.unmountable.append((cut, trial.how))
        say(f"  {rec.kind.name}: image {cut} cannot be mounted by the kernel: {e}; {why}\n"
            f"    {replay_command(rec, cut, trial.how)}")
    except (Wrong, OSError, RuntimeError, subprocess.TimeoutExpired) as e:
        result.failures.append((cut, trial.how))
        say(f"  FAILED: {rec.kind.name}, image {number + 1}, {cut} ({kept} writes kept, {torn} torn, {lost} lost), "
            f"{trial.how}:\n"
            + "\n".join("    " + line for line in str(e).splitlines()) + f"\n    {replay_command(rec, cut, trial.how)}")
    finally:
        if os.path.exists(path):
            os.unlink(path)


def run_trials(rec, result, scratch):
    rng = random.Random(f"{opt.seed}:{rec.kind.name}")
    base = Base(rec.rec, os.path.join(scratch, "base"), rec.size, rec.kind.supers)
    began = told = time.monotonic()
    for i, (cut, how) in enumerate(choose(rec, opt.images, rng)):
        try_image(rec, base, cut, how, result, scratch, i)
        if time.monotonic() - told > 5:
            told = time.monotonic()
            say(f"  {rec.kind.name}: {i + 1} of {opt.images} images, {told - began:.0f} s, "
                f"{len(result.failures)} failures")
        if len(result.failures) >= ENOUGH:
            say(f"  {rec.kind.name}: {ENOUGH} failures: giving up on this filesystem")
            break
    # The rebuilder itself: all records together are the disk.
    base.forward(len(rec.rec))
    if base.image.checksum() != rec.meta["crc"]:
        result.failures.append((None, ""))
        say(f"  FAILED: {rec.kind.name}: the records together do not make the disk that was recorded")
    base.image.close()
    os.unlink(base.image.path)


def one_filesystem(kind):
    home = os.path.join(opt.dir, kind.name)
    scratch = os.path.join(opt.dir, "ram")
    result = Result(kind.name)
    os.makedirs(home)
    say(f"{kind.name}: {opt.seconds:g} seconds of load, seed {opt.seed}")
    try:
        record(kind, home)
    except Wrong as e:
        result.failures.append((None, ""))
        say(f"  FAILED: {kind.name}, while it was recorded: {e}\n"
            f"    tests/power.sh --fs {kind.name} --seconds {opt.seconds:g} --seed {opt.seed}")
        return result
    rec = Recorded(home)
    result.records, result.flushes, result.commits = len(rec.rec), rec.flushes(), len(rec.acked)
    say(f"  {result.records} records, {result.flushes} flushes, {os.path.getsize(home + '/log') >> 20} MiB, "
        f"{result.commits} acknowledged commits and fsyncs")
    run_trials(rec, result, scratch)
    return result


def replay(spec):
    """One image of a kept recording, with all that the programs print; the image stays."""
    home, cut, how = spec.rsplit(":", 2)
    rec, cut = Recorded(os.path.abspath(home)), Cut.parse(cut)
    opt.seed = rec.meta["seed"]
    scratch = os.path.join(opt.dir, "ram")
    base = Base(rec.rec, os.path.join(scratch, "base"), rec.size, rec.kind.supers)
    path = os.path.join(scratch, "image")
    image, kept, torn, lost = base.make(cut, path)
    saved = os.path.join(rec.home, f"image.{cut}")
    image.copy(saved).close()
    image.close()
    say(f"{rec.kind.name}: records 0 to {rec.rec.flushed(cut.cut)} are there; of those to {cut.cut} {kept} were kept, "
        f"{torn} torn, {lost} lost\nthe image is {saved}")
    trial = Trial(rec, how, scratch, verbose=True)
    try:
        done = trial.run(path, cut)
        say(f"passed: {done} acknowledged commits and fsyncs are there")
        return 0
    except Unmountable as e:
        say(f"the kernel cannot mount it: {e}")
    except (Wrong, OSError, RuntimeError) as e:
        say(f"FAILED: {e}")
    return 1


def table(results):
    head = ("fs", "records", "flushes", "commits", "images", "torn", "lost", "verified", "fsck", "unmountable",
            "failures", "")
    rows = [head] + [r.row() for r in results]
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(head))]
    say()
    for row in rows:
        say("  ".join(str(c).ljust(w) if i in (0, len(head) - 1) else str(c).rjust(w)
                      for i, (c, w) in enumerate(zip(row, widths))).rstrip())
    say("torn, lost: writes since the last flush before a cut; verified: acknowledged commits and fsyncs that had to be "
        "there,\nin all images together; fsck: images checked with the filesystem's own tool; unmountable: by the kernel")


def prepare_machine(scratch):
    """A filesystem in memory for images; a word on what is missing."""
    os.makedirs(scratch)
    try:
        must("mount", "-t", "tmpfs", "-o", "size=2g", "power", scratch)
    except RuntimeError as e:
        raise Unavailable(str(e)) from None
    supported = [line.split()[-1] for line in open("/proc/filesystems", encoding="ascii")]
    for name in opt.fs:
        if name not in supported:
            raise Unavailable(f"the kernel has no {name}")
    wrong = honest(opt.recorder, scratch)
    if wrong:
        raise Unavailable(f"the loop device does not pass flushes on: {wrong}")
    if not honest(opt.recorder, scratch, "--no-fsync"):
        raise RuntimeError("a disk that cannot be flushed was not noticed")


def arguments():
    p = argparse.ArgumentParser(prog="tests/power.sh")
    p.add_argument("--fs", action="append", choices=sorted(KINDS))
    p.add_argument("--seconds", type=float, default=10)
    p.add_argument("--images", type=int, default=100)
    p.add_argument("--seed", type=int, default=int(os.environ.get("TXNFS_SEED") or random.randrange(1 << 30)))
    p.add_argument("--replay")
    for name in ("--dir", "--txnfs", "--recorder"):
        p.add_argument(name, required=True)
    a = p.parse_args()
    a.fs = a.fs or list(KINDS)
    return a


def main():
    global opt
    opt = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        prepare_machine(os.path.join(opt.dir, "ram"))
        if opt.replay:
            return replay(opt.replay)
        results = []
        for name in opt.fs:
            results.append(one_filesystem(KINDS[name]))
            if not results[-1].failures and not results[-1].unmountable:
                shutil.rmtree(os.path.join(opt.dir, name))
    except Unavailable as e:
        say(f"power.sh: skipped: {e}")
        return 77
    except OSError as e:
        if e.errno not in (errno.ENOSPC,):
            raise
        say(f"power.sh: {e}")
        return 1
    table(results)
    bad = [r for r in results if r.failures or r.unmountable]
    for r in bad:
        for cut, how in r.failures + r.unmountable:
            if cut:
                say(f"replay: tests/power.sh --replay '{os.path.join(opt.dir, r.name)}:{cut}:{how}'")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
