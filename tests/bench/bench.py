"""The driver of tests/bench.sh: runs cases in rounds, all subjects of a case side by side in each, and shows the results."""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time

import cases_commit
import cases_files
import cases_more
import chart
import rig as rigs
import selftest
import stats
from rig import Context, Missing, Rig, Trouble

GROUPS = {
    "commit": ("Commit of n files of 4 KiB", cases_commit.commit),
    "small": ("Small durable transactions", cases_commit.small),
    "plain": ("No transaction open", cases_files.plain),
    "large": ("Large transactions", cases_files.large),
    "sqlite": ("SQLite", cases_more.sqlite),
    "recovery": ("Recovery and mounting", cases_more.recovery),
    "many": ("Many small files in one transaction", cases_files.many),
    "git": ("Git inside one transaction", cases_files.git),
    "flat": ("Flatness", cases_more.flat),
}


def options():
    p = argparse.ArgumentParser(prog="tests/bench.sh", add_help=False)
    p.add_argument("--txnfs", default="")
    p.add_argument("--tools", default="")
    p.add_argument("--dir", default="")
    p.add_argument("--out", default="build/bench")
    p.add_argument("--fs", choices=["ext4", "xfs", "btrfs", "here"], default="")
    p.add_argument("--group", action="append", choices=list(GROUPS), default=[])
    p.add_argument("--case", action="append", default=[])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--json", default="")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--list", action="store_true")
    p.add_argument("--self-test", action="store_true")
    opt = p.parse_args()
    if opt.rounds < 1:
        p.error("--rounds must be 1 or more")
    opt.fs = opt.fs or ("ext4" if os.geteuid() == 0 and os.path.exists("/dev/loop-control") else "here")
    opt.image_mib = 3072 if opt.quick else 12288
    return opt


class Progress:
    """One line on a terminal that is overwritten; nothing elsewhere."""

    def __init__(self):
        self.on = sys.stderr.isatty()
        self.begin = time.monotonic()

    def show(self, text):
        if self.on:
            took = int(time.monotonic() - self.begin)
            sys.stderr.write(f"\r\033[K[{took // 60}:{took % 60:02}] {text}"[:160])
            sys.stderr.flush()

    def clear(self):
        if self.on:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def machine(opt):
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    load = os.getloadavg()
    cores = len(os.sched_getaffinity(0))
    where = opt.fs if opt.fs != "here" else "the filesystem of " + opt.dir
    under = subprocess.run(["stat", "-f", "-c", "%T", opt.dir], stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    if opt.fs != "here":
        where += f" on a loop device in an image on {under}"  # ext4 calls itself by its older names
    return {"kernel": os.uname().release, "cores": cores, "processor": model, "filesystem": where,
            "load": [round(x, 2) for x in load], "busy": load[0] > 0.3 * cores}


def caveat(m):
    return (f"Linux {m['kernel']}, {m['cores']} cores ({m['processor']}), {m['filesystem']}, "
            f"load average {m['load'][0]:.2f}")


def run_case(rig, case, opt, progress):
    """The rounds' samples: a list of subject -> sample. A subject that fails is left out from then on."""
    rounds = []
    context = Context(rig)
    failed = []
    try:
        for r in range(opt.rounds):
            samples = {}
            order = [s for s in case.runners if s not in case.skipped]
            random.Random(f"{opt.seed}:{case.name}:{r}").shuffle(order)
            for s in order:
                progress.show(f"{case.name}  round {r + 1} of {opt.rounds}  {s}")
                context.round = r
                try:
                    samples[s] = case.runners[s](context)
                except Missing as e:
                    case.skipped[s] = str(e)
                except (Trouble, OSError, ValueError, subprocess.TimeoutExpired) as e:
                    case.skipped[s] = f"FAILED: {e}"
                    failed.append(f"{case.name}: {s}: {e}")
            rounds.append(samples)
            if case.fresh:
                context.close()
        context.close()
    except Trouble as e:
        failed.append(f"{case.name}: {e}")
    return rounds, failed


def selected(opt, rig):
    """(group, title, cases) of what was asked for."""
    known = set()
    for group, (title, make) in GROUPS.items():
        if opt.group and group not in opt.group:
            continue
        cases = make(rig)
        known |= {c.name for c in cases}
        if opt.case:
            cases = [c for c in cases if any(c.name == name or c.name.startswith(name + ".") for name in opt.case)]
        if cases:
            yield group, title, cases
    wrong = [c for c in opt.case if not any(k == c or k.startswith(c + ".") for k in known)]
    if wrong:
        raise Trouble(f"there is no case {', '.join(wrong)}; --list shows them")


def measure(opt, rig, progress):
    plan = list(selected(opt, rig))
    if opt.list:
        for _, _, cases in plan:
            for c in cases:
                print(f"{c.name:24} {c.about}")
        return 0
    about = machine(opt)
    print(caveat(about))
    if about["busy"]:
        print("WARNING: the machine is busy; these figures are good for nothing but trying the benchmark")
    print(f"medians of {opt.rounds} rounds, seed {opt.seed}{', quick: small sizes' if opt.quick else ''}")
    print("ending: the commit, rollback, fsync or sync at the end; behind: how long the daemon works on after it has returned\n")
    out = {"machine": about, "quick": opt.quick, "rounds": opt.rounds, "seed": opt.seed, "groups": []}
    failures = []
    for group, title, cases in plan:
        results = []
        print(f"== {group}: {title}\n")
        for case in cases:
            begin = time.monotonic()
            rounds, failed = run_case(rig, case, opt, progress)
            failures += failed
            result = stats.summary(case, rounds)
            result["took"] = time.monotonic() - begin
            results.append(result)
            progress.clear()
            print("\n".join(stats.table(result)) + "\n", flush=True)
        out["groups"].append({"group": group, "title": title, "cases": results})
        svg = os.path.join(opt.out, group + ".svg")
        with open(svg, "w", encoding="utf-8") as f:
            f.write(chart.draw(title, results, caveat(about)))
    out["load_after"] = os.getloadavg()
    report(opt, out, failures, about)
    return 1 if failures else 0


def report(opt, out, failures, about):
    goals = [(c["case"], g) for group in out["groups"] for c in group["cases"] for g in c["goals"]]
    if goals:
        print("== targets\n")
        for case, g in sorted(goals, key=lambda x: x[1]["target"]):
            print(f"    {case}: {stats.verdict_line(g)}")
        met = sum(1 for _, g in goals if g["met"])
        missed = sum(1 for _, g in goals if g["met"] is False)
        print(f"\n{met} met, {missed} missed, {len(goals) - met - missed} not measured"
              + (" (the machine was busy)" if about["busy"] else ""))
    for f in failures:
        print(f"FAILED: {f}")
    out["failures"] = failures
    print(f"charts are in {opt.out}")
    if opt.json:
        with open(opt.json, "w", encoding="utf-8") as f:
            json.dump(out, f, indent=1)


def main():
    opt = options()
    if opt.self_test:
        return selftest.main()
    if opt.list:
        try:
            return measure(opt, Rig(opt), Progress())
        except Trouble as e:
            print(f"bench.sh: {e}", file=sys.stderr)
            return 2
    rigs.on_signals()
    os.makedirs(opt.out, exist_ok=True)
    os.makedirs(opt.dir, exist_ok=True)
    rig = Rig(opt)
    progress = Progress()
    rig.tell = progress.show
    try:
        free = shutil.disk_usage(opt.dir).free >> 20
        need = 6000 if opt.quick else 26000
        if free < need:
            raise Trouble(f"{opt.dir} has {free} MiB free, {need} are needed; --dir chooses another place")
        return measure(opt, rig, progress)
    except Trouble as e:
        progress.clear()
        print(f"bench.sh: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress.clear()
        print("bench.sh: interrupted", file=sys.stderr)
        return 130
    finally:
        rig.clean()


if __name__ == "__main__":
    sys.exit(main())
