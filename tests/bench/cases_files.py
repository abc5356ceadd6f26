"""Groups plain, large, many and git: ordinary work outside of transactions, and much work inside of one."""
import json
import os
import resource
import subprocess
import time

import sources
from rig import Case, Trouble, cpu_of
from stats import Goal

MIB = 1 << 20
PEERS = {"txnfs": ("txnfs", None), "passthrough": ("passthrough", None), "bindfs": ("bindfs", None), "plain": ("plain", None),
         "plain-xfs": ("plain", "xfs"), "plain-btrfs": ("plain", "btrfs")}
FLOOR = "passthrough"


def simple(subject, kind, **args):
    """One run of `work KIND` on a file or directory of its own."""
    fs_kind, fs = PEERS[subject]

    def go(c):
        m = c.mount(fs_kind, fs)
        place = c.place(m)
        where = {"dir" if kind == "meta" else "file": f"{m.mnt}/{place}"}
        extra = {k: v for k, v in args.items() if k != "dropped"}
        if args.get("dropped"):
            extra["home"] = f"{m.home}/{place}"
        return c.work(m, kind, clean=place, **where, **extra)
    return go


def shell(subject, argv, prepare=None):
    """A command in a directory of its own; words may contain {dir}."""
    fs_kind, fs = PEERS[subject]

    def go(c):
        m = c.mount(fs_kind, fs)
        place = c.place(m)
        top = f"{m.mnt}/{place}"
        os.mkdir(top)
        if prepare:
            prepare(c, top)
        return c.work(m, "in", clean=place, cwd=top, argv=[w.replace("{dir}", top) for w in argv(c)])
    return go


def fio(subject, words, quick):
    fs_kind, fs = PEERS[subject]
    length, size = ("400ms", 16) if quick else ("5s", 256)

    def go(c):
        m = c.mount(fs_kind, fs)
        place = c.place(m)
        top = f"{m.mnt}/{place}"
        os.mkdir(top)
        m.calm()
        cmd = ["fio", "--name=mix", f"--directory={top}", f"--size={size}m", "--ioengine=psync", "--time_based",
               f"--runtime={length}", "--group_reporting", "--output-format=json", f"--randseed={c.opt.seed}", *words]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        daemon = cpu_of(m.pid) if m.pid else 0
        p = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           check=False, timeout=300)
        if p.returncode:
            raise Trouble(f"fio: {p.stderr.strip()[-500:]}")
        job = json.loads(p.stdout[p.stdout.index("{"):])["jobs"][0]
        rate = job["read"]["iops"] + job["write"]["iops"]
        done = job["read"]["total_ios"] + job["write"]["total_ios"]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = {"seconds": 1 / rate, "per_second": rate,
               "cpu": (after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime) / done}
        if m.pid:
            m.calm(forget=False)
            out["daemon"] = (cpu_of(m.pid) - daemon) / done
            with open(f"/proc/{m.pid}/status", encoding="ascii", errors="replace") as f:
                out["peak"] = next(int(x.split()[1]) * 1024 for x in f if x.startswith("VmHWM"))
        for name in os.listdir(top):
            os.unlink(os.path.join(top, name))
        os.rmdir(top)
        return out
    return go


def plain_case(name, about, make, goals=None):
    return Case("plain." + name, about, {s: make(s) for s in PEERS}, goals or [Goal("speed", 1, FLOOR, target=1)], FLOOR)


def plain(rig):
    quick = rig.opt.quick
    size, count = (16 * MIB, 2000) if quick else (512 * MIB, 50000)
    files = 300 if quick else 10000

    def file_case(name, about, kind, **args):
        return plain_case(name, about, lambda s: simple(s, kind, bytes=size, **args))

    def clone_first(c, top):
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", sources.repository(c.rig, files, 6000), top + "/r"], check=True,
                       stdin=subprocess.DEVNULL)

    def fio_case(name, about, *words):
        return plain_case(name, about, lambda s: fio(s, words, quick))

    meta = [Goal("speed", 1, FLOOR, measure=m, target=1) for m in ("create", "stat", "unlink")]
    return [
        file_case("write.seq", "a new file written in order, per MiB", "write", block=MIB),
        file_case("write.seq4k", "the same in blocks of 4 KiB, per block", "write", block=4096),
        file_case("write.rand", "4 KiB written at random places, per block", "write", block=4096, count=count, random=1),
        file_case("read.seq", "a file read in order, not in the cache of the mount, per 128 KiB", "read", block=MIB // 8,
                  dropped=1),
        file_case("read.rand", "4 KiB read at random places, not in the cache of the mount", "read", block=4096, count=count,
                  random=1, dropped=1),
        file_case("read.cached", "4 KiB read in order from the cache", "read", block=4096),
        file_case("read.cold", "a file read in order from the disk, per 128 KiB", "read", block=MIB // 8, dropped=1, cold=1),
        plain_case("meta", "create, stat and unlink of files, per file",
                   lambda s: simple(s, "meta", n=1000 if quick else 20000), meta),
        plain_case("untar", f"tar unpacks {files} files", lambda s: shell(
            s, lambda c: ["tar", "xf", sources.archive(c.rig, files, 6000), "-C", "{dir}"])),
        plain_case("git.clone", f"git clone of {files} files", lambda s: shell(
            s, lambda c: ["git", "clone", "-q", "--no-hardlinks", sources.repository(c.rig, files, 6000), "{dir}/r"])),
        plain_case("git.status", f"git status with {files} files", lambda s: shell(
            s, lambda c: ["git", "-C", "{dir}/r", "status", "-s"], clone_first)),
        fio_case("fio.mix", "fio: 70% reads, 30% writes of 4 KiB, 4 jobs", "--rw=randrw", "--rwmixread=70", "--bs=4k",
                 "--numjobs=4"),
        fio_case("fio.fsync", "fio: writes of 4 KiB at random, fdatasync after each", "--rw=randwrite", "--bs=4k",
                 "--fdatasync=1"),
        fio_case("fio.seq", "fio: reads and writes of 128 KiB in order, 2 jobs", "--rw=rw", "--bs=128k", "--numjobs=2"),
    ]


# ---- large transactions ----

def big(subject, kind, size, end="commit"):
    fs_kind = subject if subject in ("passthrough", "plain") else "txnfs"

    def go(c):
        # Mounts of their own: memory that a daemon keeps from the round before would hide what this one takes.
        m = c.mount(fs_kind, key=subject)
        place = c.place(m)
        return c.work(m, "big", change=kind, file=f"{m.mnt}/{place}", bytes=size, end=end,
                      ctl=m.ctl if fs_kind == "txnfs" else None)
    return go


def large(rig):
    size = (64 if rig.opt.quick else 1024) * MIB
    about = {"new": "a new file", "trunc": "a file rewritten through O_TRUNC", "append": "appended to a file",
             "over": "a file overwritten in place"}
    out = []
    for kind, text in about.items():
        runners = {s: big(s, kind, size) for s in ("txnfs", FLOOR, "plain")}
        runners["txnfs-rollback"] = big("txnfs-rollback", kind, size, "rollback")
        goals = [Goal("speed", 0.45 if kind == "over" else 0.9, FLOOR, target=4),
                 Goal("time", 1, FLOOR, measure="end", target=4),
                 Goal("value", 64 * MIB, measure="growth", target=4),
                 Goal("time", 0.5, "txnfs", measure="end", ours="txnfs-rollback", target=10)]
        out.append(Case(f"large.{kind}", f"{size // MIB} MiB: {text}, in one transaction; peers: write and fsync", runners,
                        goals, FLOOR, fresh=True))
    return out


# ---- a source tree in one transaction ----

def unpack(subject, files, mean, end="commit"):
    fs_kind = subject if subject in ("passthrough", "plain") else "txnfs"

    def go(c):
        m = c.mount(fs_kind, key=subject)
        place = c.place(m)
        os.mkdir(f"{m.mnt}/{place}")
        tar = sources.archive(c.rig, files, mean)
        return c.work(m, "in", end=end, ctl=m.ctl if fs_kind == "txnfs" else None, sync=m.bed,
                      argv=["tar", "xf", tar, "-C", f"{m.mnt}/{place}"])
    return go


def many(rig):
    files, mean = (3000, 8000) if rig.opt.quick else (100000, 11000)
    runners = {s: unpack(s, files, mean) for s in ("txnfs", FLOOR, "plain")}
    runners["txnfs-rollback"] = unpack("txnfs-rollback", files, mean, "rollback")
    runners["txnfs-tenth"] = unpack("txnfs-tenth", files // 10, mean)
    goals = [Goal("time", 1.2, FLOOR, target=5),
             Goal("excess", 600, FLOOR, measure="growth", target=5, units=files),
             Goal("time", 1.5, "txnfs-tenth", measure="behind", target=5),
             Goal("time", 0.5, "txnfs", measure="end", ours="txnfs-rollback", target=10)]
    return [Case("many.untar", f"tar unpacks {files} files in one transaction; peers: untar and sync", runners, goals, FLOOR,
                 fresh=True)]


SCRIPT = r"""
set -e
git clone -q --no-hardlinks "$1" r
cd r
git config user.name b
git config user.email b@b
git config gc.auto 0
for round in 1 2 3; do
	git checkout -q -b branch$round
	for f in part0/dir$round/*.c; do
		echo "changed $round" >> "$f"
	done
	mkdir new$round
	for i in 1 2 3 4 5 6 7 8 9; do
		echo "$i" > new$round/file$i
	done
	git add -A
	git commit -q -m "round $round"
	git status -s
done
git checkout -q branch1
git checkout -q branch3
git mv part0 moved
git commit -q -m moved
git gc -q
"""


def git_work(subject, files):
    fs_kind = subject if subject in ("passthrough", "plain") else "txnfs"

    def go(c):
        m = c.mount(fs_kind)
        place = c.place(m)
        os.mkdir(f"{m.mnt}/{place}")
        return c.work(m, "in", clean=place, cwd=f"{m.mnt}/{place}", sync=m.bed, ctl=m.ctl if fs_kind == "txnfs" else None,
                      argv=["sh", "-c", SCRIPT, "sh", sources.repository(c.rig, files, 6000)])
    return go


def git(rig):
    files = 300 if rig.opt.quick else 10000
    return [Case("git.mixed", f"clone of {files} files, branches, edits, commits, a move, gc; peers: the same and sync",
                 {s: git_work(s, files) for s in ("txnfs", FLOOR, "plain")}, [Goal("time", 1.5, FLOOR, target=6)], FLOOR)]
