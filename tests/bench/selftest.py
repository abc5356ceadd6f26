"""The arithmetic, the table, the JSON and the charts, on samples whose results are known."""
import json
import xml.etree.ElementTree

import chart
import stats
from rig import Case
from stats import Goal


def equal(got, want, what):
    if got != want:
        raise SystemExit(f"bench self-test: {what}: got {got!r}, want {want!r}")


def sample(seconds, **more):
    return {"seconds": seconds, "cpu": seconds / 2, **more}


ROUNDS = [
    # The second round was slow for everyone, the third for txnfs alone: the median of ratios sees neither.
    {"txnfs": sample(2e-3, daemon=1e-3, peak=5 << 20, growth=3000), "floor": sample(1e-3, growth=1000)},
    {"txnfs": sample(20e-3, daemon=1e-3, peak=6 << 20, growth=3000), "floor": sample(10e-3, growth=1000)},
    {"txnfs": sample(9e-3, daemon=1e-3, peak=7 << 20, growth=9000), "floor": sample(1e-3, growth=1000)},
]


def main():
    goals = [Goal("time", 2, "floor", target=2), Goal("time", 1.9, "floor"), Goal("speed", 0.5, "floor"),
             Goal("speed", 0.6, "floor"), Goal("value", 10e-3), Goal("value", 5e-3),
             Goal("excess", 20, "floor", measure="growth", units=100), Goal("time", 1, "absent")]
    got = [g.verdict(ROUNDS) for g in goals]
    equal([g["met"] for g in got], [True, False, True, False, True, False, True, None], "which goals are met")
    equal([g["value"] for g in got], [2.0, 2.0, 0.5, 0.5, 9e-3, 9e-3, 20.0, None], "the medians of ratios")

    equal([stats.verdict_line(g).rsplit(": ", 1)[1] for g in got],
          ["2.00×, met", "2.00×, MISSED", "0.50×, met", "0.50×, MISSED", "9 ms, met", "9 ms, MISSED", "20 B, met", "not measured"],
          "the lines of goals")

    case = Case("a.b", "an <example> & more", {"txnfs": None, "floor": None, "gone": None}, goals)
    case.skipped["gone"] = "not here"
    result = stats.summary(case, ROUNDS)
    equal(result["subjects"]["txnfs"]["median"]["seconds"], 9e-3, "the median")
    equal(result["subjects"]["txnfs"]["spread"], 10.0, "the spread")
    equal(result["subjects"]["floor"]["ratio"], 1.0, "the reference's ratio")
    equal(json.loads(json.dumps(result)), result, "JSON there and back")
    lines = stats.table(result)
    equal([x.split() for x in lines[2:4]],
          [["txnfs", "9", "ms", "2.00×", "10.0×", "4.5", "ms", "1", "ms", "6", "MiB"],
           ["floor", "1", "ms", "1.00×", "10.0×", "500", "µs", "-", "-"]], "the table")
    equal(lines[4].strip(), "gone: skipped: not here", "the line of what is skipped")
    equal(lines[5].strip(), "target 2: txnfs ≤ 2× the time of floor: 2.00×, met", "the line of a goal")
    equal([stats.show("seconds", x) for x in (1.5, 0.25, 999.7e-6, 3e-6, 4e-9)],
          ["1.5 s", "250 ms", "1000 µs", "3 µs", "4 ns"], "times")
    equal([stats.show("peak", x) for x in (12, 3 << 10, 3 << 30)], ["12 B", "3 KiB", "3 GiB"], "sizes")

    svg = xml.etree.ElementTree.fromstring(chart.draw("A & B", [result], "Linux <1>"))
    bars = {r.get("fill"): float(r.get("width")) for r in svg.iter("{http://www.w3.org/2000/svg}rect") if r.get("x")}
    equal(sorted(bars), sorted([chart.COLORS["txnfs"], chart.COLORS["floor"]]), "a bar per subject")
    if bars[chart.COLORS["txnfs"]] <= bars[chart.COLORS["floor"]]:
        raise SystemExit("bench self-test: twice the time has no longer bar")
    print("bench self-test: ok")
    return 0
