"""
Model-based test: long random sequences of all operations, begin, savepoint, rollback to, release, commit, rollback,
remount and kill -9, on the mount and on a simple tree in memory. Results, errors and whole trees must agree, from
inside each view, from outside, and in the backing directory.

Several lanes work at once, each a process with a subtree of its own: outside of transactions, in ambient and in named
ones, changing between them. A failing sequence is cut down to the few operations that are needed.
"""
import itertools
import os
import random
import sys
import time

from harness import OPT, Failure, check, ctl, deadline, name_of, quick, snapshot, snapshot_diff
from model import ANY, HANDLES, SKIP, Chooser, Tree, real

SAVEPOINTS = ["a", "b", "c"]


class Mismatch(Failure):
    pass


class Lane:
    """One process and its subtree."""

    def __init__(self, world, number, modes):
        self.world, self.number, self.modes = world, number, modes
        self.dir = f"lane{number}"
        self.committed = Tree()
        self.view = self.committed  # the same object while no transaction is open
        self.mode = "plain"
        self.savepoints = []
        self.serial = 0
        self.actor = world.t.actor()

    @property
    def tx(self):
        return f"n{self.number}" if self.mode == "named" else None

    def root(self):
        m = self.world.m
        return m(".txn", self.tx, "root", self.dir) if self.mode == "named" else m(self.dir)

    def lost(self):
        """The daemon was stopped: an open transaction is gone."""
        self.committed.handles.clear()
        self.view, self.mode, self.savepoints = self.committed, "plain", []

    # ---- choosing ----

    def choose(self, rng):
        r = rng.random()
        if self.mode == "plain":
            if r < (0.04 if "plain" in self.modes else 0.5):
                modes = [x for x in self.modes if x != "plain"]
                if modes:
                    return ("begin", rng.choice(modes))
        elif r < 0.02:
            return ("commit",)
        elif r < 0.03:
            return ("rollback",)
        elif r < 0.06:
            return ("savepoint", rng.choice(SAVEPOINTS))
        elif r < 0.085:
            return ("rollback to", rng.choice(SAVEPOINTS))
        elif r < 0.095:
            return ("release", rng.choice(SAVEPOINTS))
        return Chooser(rng).op(self.view)

    # ---- doing ----

    def run(self, op):
        """The model's result and the mount's."""
        control = getattr(self, "do_" + op[0].replace(" ", "_"), None)
        if control:
            return control(*op[1:])
        try:
            want = self.view.apply(op)
        except LookupError:
            want = SKIP
        return want, SKIP if want is SKIP else self.actor(real, self.root(), op)

    def close_handles(self):
        for h in list(self.view.handles):
            self.view.apply(("close", h))
            self.actor(real, self.root(), ("close", h))

    def _ctl(self, text):
        try:
            self.actor(ctl, self.world.m.mnt, text, self.tx)
            return None
        except OSError as e:
            return name_of(e)

    def do_begin(self, mode):
        if self.mode != "plain":
            return SKIP, SKIP
        self.close_handles()
        self.view = self.committed.clone()
        self.mode = mode
        try:
            if mode == "named":
                self.actor(os.mkdir, self.world.m(".txn", self.tx))
            else:
                self.actor(ctl, self.world.m.mnt, "begin")
            return None, None
        except OSError as e:
            return None, name_of(e)

    def do_commit(self):
        if self.mode == "plain":
            return SKIP, SKIP
        r = self._ctl("commit")
        self.committed, self.mode, self.savepoints = self.view, "plain", []
        return None, r

    def do_rollback(self):
        if self.mode == "plain":
            return SKIP, SKIP
        self.close_handles()
        r = self._ctl("rollback")
        self.view, self.mode, self.savepoints = self.committed, "plain", []
        return None, r

    def do_savepoint(self, name):
        if self.mode == "plain":
            return SKIP, SKIP
        self.savepoints.append((name, self.view.clone()))
        return None, self._ctl(f"savepoint {name}")

    def _newest(self, name):
        return next((i for i in range(len(self.savepoints) - 1, -1, -1) if self.savepoints[i][0] == name), None)

    def do_rollback_to(self, name):
        if self.mode == "plain":
            return SKIP, SKIP
        i = self._newest(name)
        if i is not None:
            self.close_handles()
            del self.savepoints[i + 1:]
            self.view = self.savepoints[i][1].clone()
        return None if i is not None else "ENOENT", self._ctl(f"rollback to {name}")

    def do_release(self, name):
        if self.mode == "plain":
            return SKIP, SKIP
        i = self._newest(name)
        if i is not None:
            del self.savepoints[i:]
        return None if i is not None else "ENOENT", self._ctl(f"release {name}")

    # ---- comparing ----

    def compare_inside(self):
        compare(self.actor(snapshot, self.root()), self.view, f"{self.dir} from inside ({self.mode})")

    def compare_outside(self):
        compare(snapshot(self.world.m(self.dir)), self.committed, f"{self.dir} from outside")


def compare(got, tree, text):
    want = tree.snapshot()
    for path, e in want.items():
        if e.get("mtime") is ANY:
            del e["mtime"]
            got.get(path, {}).pop("mtime", None)
    lines = snapshot_diff(got, want)
    if lines:
        raise Mismatch(f"{text}:\n  " + "\n  ".join(lines[:8]))


numbers = itertools.count()
LOOK = ("begin", "commit", "rollback", "rollback to")  # after these the trees are compared


class World:
    """A mount and its lanes."""

    def __init__(self, t, lanes, name):
        self.t = t
        self.lanes = []
        self.m = t.mount(f"{name}{next(numbers)}", "segment_mib=1,checkpoint_mib=4,checkpoint_seconds=1")
        os.umask(0)
        for i, modes in enumerate(lanes):
            lane = Lane(self, i, modes)
            lane.actor(os.umask, 0)
            os.mkdir(self.m(lane.dir), 0o755)
            self.lanes.append(lane)

    def close(self):
        for lane in self.lanes:
            lane.actor.kill()
        self.m.release()
        if sys.exc_info()[0] is None and not self.m.complains():  # else its log is wanted
            self.t.mounts.remove(self.m)

    def run(self, number, op):
        """One step; an operation of lane None is about the mount."""
        if number is None:
            return self.whole(op[0])
        lane = self.lanes[number]
        want, got = lane.run(op)
        if want != got:
            raise Mismatch(f"{lane.dir} ({lane.mode}) {op}: got {got!r}, want {want!r}")
        return None

    def whole(self, what):
        for lane in self.lanes:
            lane.close_handles()
        if what == "crash":
            self.m.crash()
        else:
            self.m.umount()
        for lane in self.lanes:
            lane.lost()
        if what == "remount":
            for lane in self.lanes:
                compare(snapshot(self.m.home(lane.dir)), lane.committed, f"{lane.dir} in the backing directory")
            self.m.start()
        self.compare_all()

    def compare_all(self):
        for lane in self.lanes:
            lane.compare_outside()
            lane.compare_inside()


def sequence(t, lanes, rng, length, until, steps, restarts):
    """Run a random sequence, appending what it does to steps. Raises Mismatch."""
    w = World(t, lanes, "run")
    try:
        for i in range(length):
            if time.monotonic() > until:
                break
            if restarts and rng.random() < 0.004:
                step = (None, (rng.choice(["remount", "crash"]),))
            else:
                number = rng.randrange(len(lanes))
                step = (number, w.lanes[number].choose(rng))
            steps.append(step)
            w.run(*step)
            if step[0] is None:
                continue
            lane = w.lanes[step[0]]
            if step[1][0] in LOOK or i % 5 == 0:
                lane.compare_inside()
            if step[1][0] in ("commit", "rollback") or i % 12 == 0:
                lane.compare_outside()
        steps.append((None, ("remount",)))
        w.run(None, ("remount",))
    finally:
        w.close()


def replay(t, lanes, steps, watch):
    """
    What goes wrong when these steps are run; None when nothing does. watch: everything is compared after each step,
    else only where a transaction begins or ends (looking changes what the kernel has in its caches).
    """
    w = World(t, lanes, "replay")
    try:
        for number, op in steps:
            w.run(number, op)
            if number is not None and (watch or op[0] in LOOK):
                w.lanes[number].compare_inside()
                w.lanes[number].compare_outside()
        w.run(None, ("remount",))
        return None
    except (Failure, OSError) as e:
        return str(e)
    finally:
        w.close()


def shrink(t, lanes, steps, seconds):
    """The shortest failing sequence that can be found in this time (Zeller's ddmin), and its failure."""
    end = time.monotonic() + seconds
    for watch in (True, False):
        text = replay(t, lanes, steps, watch)
        if text is not None:
            break
    else:
        return steps, None
    for lane in range(len(lanes)):  # most failures need one of them only
        rest = [x for x in steps if x[0] != lane]
        bad = replay(t, lanes, rest, watch)
        if bad is not None:
            steps, text = rest, bad
    n = 2
    while len(steps) > 1 and time.monotonic() < end:
        size = max(1, len(steps) // n)
        for i in range(0, len(steps), size):
            if time.monotonic() > end:
                break
            rest = steps[:i] + steps[i + size:]
            bad = replay(t, lanes, rest, watch)
            if bad is not None:
                steps, text, n = rest, bad, max(2, n - 1)
                break
        else:
            if size == 1:
                break
            n = min(len(steps), n * 2)
    return steps, text


def model(t, lanes, quick_seconds, full_seconds, restarts=True, length=400):
    only = t.settings and int(t.settings[0])
    until = time.monotonic() + (quick_seconds if OPT.quick else full_seconds)
    count = number = 0
    while time.monotonic() < until or (t.settings and number <= only):
        if t.settings:
            number = only
            until = time.monotonic() + 600
        rng = random.Random(f"{OPT.seed}:{t.name}:{number}")
        steps = []
        try:
            sequence(t, lanes, rng, length, until, steps, restarts)
        except (Mismatch, OSError) as e:
            short, text = shrink(t, lanes, steps, 40)
            lines = [f"  lane {n}: {op}" if n is not None else f"  all: {op}" for n, op in short[-40:]]
            what = f"cut down to {len(short)} of {len(steps)} steps: {text}" if text else \
                f"(not repeatable by replaying; the last steps of {len(steps)})"
            t.settings = [str(number)]
            raise Failure(f"sequence {number}: {e}\n{what}\n" + "\n".join(lines)
                          + f"\nonly this sequence: run.py --seed {OPT.seed} '{t.name}[{number}]'") from e
        finally:
            count += len(steps)
        number += 1
        if t.settings:
            break
    t.note(f"{number} sequences, {count} steps")


@quick
def test_the_model_agrees_with_the_host(t):
    """The model is right: the same operations on the host's own filesystem."""
    until = time.monotonic() + (1 if OPT.quick else 4)
    number = 0
    os.umask(0)
    while time.monotonic() < until:
        rng = random.Random(f"{OPT.seed}:{t.name}:{number}")
        root = t.path(f"host{number}")
        os.mkdir(root, 0o755)
        tree, ops = Tree(), []
        for i in range(300):
            op = Chooser(rng).op(tree)
            ops.append(op)
            want = tree.apply(op)
            got = SKIP if want is SKIP else real(root, op)
            check(want == got, f"{ops[-5:]}: host {got!r}, model {want!r}")
            if i % 20 == 0:
                compare(snapshot(root), tree, f"after {ops[-20:]}")
        for h in list(tree.handles):
            real(root, ("close", h))
        HANDLES.clear()
        number += 1


@quick
@deadline(150)
def test_model_plain(t):
    model(t, [["plain"], ["plain"]], 2, 8)


@quick
@deadline(150)
def test_model_named(t):
    model(t, [["named"], ["named", "plain"]], 3, 10)


@quick
@deadline(150)
def test_model_ambient(t):
    model(t, [["ambient"], ["ambient", "plain"]], 3, 10)


@quick
@deadline(180)
def test_model_mixed(t):
    model(t, [["plain", "ambient", "named"], ["named"], ["ambient"], ["plain"]], 4, 12, length=700)
