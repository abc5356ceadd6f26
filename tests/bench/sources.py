"""Trees, archives and repositories that the cases work on: made once in a run, the same for the same seed."""
import os
import random

from rig import run


def tree(rig, files, mean):
    """A source tree: directories of 40 files, sizes as of source code, some bytes that do not compress."""
    key = ("tree", files, mean)
    if key not in rig.made:
        top = os.path.join(rig.dir, f"tree{files}")
        rng = random.Random(f"{rig.opt.seed}:{files}")
        block = bytes(rng.getrandbits(7) | 1 for _ in range(1 << 16)) * 4
        for i in range(files):
            place = os.path.join(top, f"part{i // 1000}", f"dir{i // 40}")
            if i % 40 == 0:
                os.makedirs(place, exist_ok=True)
            size = min(len(block) // 2, int(rng.expovariate(1 / mean)) + 1)
            at = rng.randrange(len(block) // 2)
            with open(os.path.join(place, f"file{i}.c"), "wb") as f:
                f.write(block[at:at + size])
        rig.made[key] = top
    return rig.made[key]


def archive(rig, files, mean):
    key = ("tar", files, mean)
    if key not in rig.made:
        top = tree(rig, files, mean)
        run("tar", "cf", top + ".tar", "-C", top, ".")
        rig.made[key] = top + ".tar"
    return rig.made[key]


def repository(rig, files, mean):
    key = ("git", files, mean)
    if key not in rig.made:
        top = tree(rig, files, mean)
        git = ["git", "-C", top, "-c", "user.name=b", "-c", "user.email=b@b", "-c", "gc.auto=0"]
        run(*git, "init", "-q")
        run(*git, "add", "-A")
        run(*git, "commit", "-q", "-m", "base")
        rig.made[key] = top
    return rig.made[key]
