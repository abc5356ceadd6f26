"""
Examples in the documentation are run as they are written: the mount of the test stands at /mnt/site, in a mount
namespace of the example's own.
"""
import os
import re
import subprocess

from harness import Failure, check, patience

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
PACKAGE = os.path.join(ROOT, "tools/python")
PYTHON = "/usr/bin/python3"


def blocks(path, language, heading=None):
    """[(line, text)] of the code blocks in that language, of the whole page or below one heading."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        lines = f.readlines()
    found, inside, fence, below = [], None, None, 0 if heading is None else None
    for number, line in enumerate(lines, 1):
        level = len(line) - len(line.lstrip("#")) if fence is None and re.match("#+ ", line) else 0
        if level and heading is not None:
            if line.strip("# \n") == heading:
                below = level
            elif below is not None and level <= below:
                below = None
        if line.startswith("```"):
            if fence is None:
                fence, inside = line[3:].strip(), (number + 1, [])
            else:
                if fence == language and below is not None:
                    found.append((inside[0], "".join(inside[1])))
                fence = None
        elif fence is not None:
            inside[1].append(line)
    check(found, f"{path} has no {language} example{f' below {heading!r}' if heading else ''}")
    return found


def at_mnt_site(m, argv, seconds=20, env=None, **kw):
    """Run a command that has the mount at /mnt/site."""
    # Slave: what other tests unmount meanwhile goes here, too, so that their daemons end.
    command = ["unshare", "-m" if os.geteuid() == 0 else "-Urm", "--propagation", "slave", "sh", "-c",
               'mount -t tmpfs tmpfs /mnt && mkdir /mnt/site && mount --bind "$1" /mnt/site && shift && exec "$@"',
               "sh", m.mnt, *argv]
    env = {**os.environ, "PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       timeout=patience(seconds), env=env, text=True, check=False, **kw)
    if p.returncode:
        raise Failure(f"{argv} ended with {p.returncode}:\n{p.stdout[-4000:]}")
    return p.stdout


def run_python(m, where, line, text, **kw):
    """One example. The lines in a traceback are those of the page."""
    code = f"exec(compile({chr(10) * (line - 1) + text!r}, {where!r}, 'exec'), {{'__name__': '__main__'}})"
    return at_mnt_site(m, [PYTHON, "-W", "error", "-c", code], **kw)
