"""The load of tests/load.sh for some seconds."""
import os

import load
from harness import deadline


@deadline(180)
def test_some_seconds_of_everything(t):
    """TXNFS_LOAD_SECONDS=N: longer."""
    seconds = float(os.environ.get("TXNFS_LOAD_SECONDS", 6))
    one = load.Load(t, lambda text: None)
    half, end = one.run(seconds)
    done = sum(one.shared.get(i)[0] for i in range(len(load.KINDS)))
    t.note(f"{done} units of work, {half['memory_kib']} and {end['memory_kib']} KiB of memory")
