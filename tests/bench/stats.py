"""Numbers of the benchmark: cases, samples, goals, the text of the table, and what goes into the JSON file."""
import statistics


class Goal:
    """
    What a case should reach: the case's subject `ours` against a peer, or by itself.

    time    ours / peer <= factor
    speed   peer / ours >= factor (both are times: the peer takes so many times longer)
    value   ours <= factor, in seconds or bytes
    excess  (ours - peer) / units <= factor
    """

    def __init__(self, kind, factor, peer=None, measure="seconds", peer_measure=None, ours="txnfs", target=0, units=1):
        self.kind, self.factor, self.peer, self.ours = kind, factor, peer, ours
        self.measure, self.peer_measure = measure, peer_measure or measure
        self.target, self.units = target, units

    def text(self):
        mine = "" if self.measure == "seconds" else f" {NAMES.get(self.measure, self.measure)}"
        theirs = "" if self.peer_measure == self.measure else f" {NAMES.get(self.peer_measure, self.peer_measure)}"
        if self.kind == "time":
            return f"{self.ours}{mine} ≤ {self.factor:g}× the time of {self.peer}{theirs}"
        if self.kind == "speed":
            return f"{self.ours}{mine} ≥ {self.factor:g}× the speed of {self.peer}{theirs}"
        if self.kind == "excess":
            return f"{self.ours}{mine} − {self.peer} ≤ {show(self.measure, self.factor)} each"
        return f"{self.ours}{mine} ≤ {show(self.measure, self.factor)}"

    def ratio(self, rounds):
        """The median of the rounds' ratios (each round has run all subjects side by side); None: nothing to compare."""
        out = []
        for samples in rounds:
            ours = samples.get(self.ours, {}).get(self.measure)
            peer = samples.get(self.peer, {}).get(self.peer_measure) if self.peer else 1
            if ours is None or peer is None:
                continue
            if self.kind == "speed":
                ours, peer = peer, ours
            if self.kind == "excess":
                out.append((ours - peer) / self.units)
            elif peer:
                out.append(ours / peer)
        return statistics.median(out) if out else None

    def met(self, ratio):
        return ratio >= self.factor if self.kind == "speed" else ratio <= self.factor

    def verdict(self, rounds):
        ratio = self.ratio(rounds)
        return {"goal": self.text(), "target": self.target, "kind": self.kind, "measure": self.measure, "factor": self.factor,
                "value": ratio, "met": None if ratio is None else self.met(ratio)}


NAMES = {"seconds": "time", "end": "ending", "growth": "memory", "peak": "peak memory", "processor": "processor time"}


def show(measure, value):
    """A measure for people."""
    if value is None:
        return "-"
    if measure in ("growth", "peak"):
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if abs(value) >= size:
                return f"{value / size:.3g} {unit}"
        return f"{value:.0f} B"
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return digits(value / size) + " " + unit
    return f"{value / 1e-9:.0f} ns"


def digits(x):
    """Three of them, never as a power of ten."""
    return f"{x:.0f}" if x >= 99.95 else f"{x:.3g}"


def medians(rounds, subject):
    """measure -> median over the rounds."""
    samples = [r[subject] for r in rounds if subject in r]
    measures = sorted({m for s in samples for m in s})
    return {m: statistics.median([s[m] for s in samples if m in s]) for m in measures}


def spread(rounds, subject, measure="seconds"):
    """Largest sample over the smallest one."""
    values = [r[subject][measure] for r in rounds if measure in r.get(subject, {})]
    return max(values) / min(values) if values and min(values) > 0 else None


def summary(case, rounds):
    """All of a case that is worth keeping."""
    subjects = [s for s in case.runners if any(s in r for r in rounds)]
    out = {"case": case.name, "about": case.about, "reference": case.reference, "subjects": {}}
    for s in subjects:
        middle = medians(rounds, s)
        out["subjects"][s] = {"median": middle, "spread": spread(rounds, s), "samples": [r[s] for r in rounds if s in r],
                              "ratio": Goal("time", 1, case.reference, ours=s).ratio(rounds)}
    out["skipped"] = case.skipped
    out["goals"] = [g.verdict(rounds) for g in case.goals]
    return out


def table(result):
    """Lines of a case's block."""
    reference = result["reference"]
    extra = [m for m in ("operation", "end", "commit", "create", "stat", "unlink", "behind") if
             any(m in s["median"] for s in result["subjects"].values())]
    heads = ["", "time", f"/ {reference}", "spread"] + [NAMES.get(m, m) for m in extra] + ["cpu client", "cpu daemon", "memory"]
    rows = [heads]
    for name, s in result["subjects"].items():
        m = s["median"]
        rows.append([name, show("seconds", m.get("seconds")),
                     "-" if s["ratio"] is None else f"{s['ratio']:.2f}×",
                     "-" if s["spread"] is None else f"{s['spread']:.1f}×"] + [show(e, m.get(e)) for e in extra] +
                    [show("cpu", m.get("cpu")), show("cpu", m.get("daemon")),
                     show("peak", m.get("peak"))])
    lines = [f"{result['case']}: {result['about']}"] + columns(rows)
    for name, why in result["skipped"].items():
        lines.append(f"    {name}: skipped: {why}")
    for g in result["goals"]:
        lines.append("    " + verdict_line(g))
    return lines


def verdict_line(g):
    if g["value"] is None:
        return f"target {g['target']}: {g['goal']}: not measured"
    value = f"{g['value']:.2f}×" if g["kind"] in ("time", "speed") else show(g["measure"], g["value"])
    return f"target {g['target']}: {g['goal']}: {value}, {'met' if g['met'] else 'MISSED'}"


def columns(rows):
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return ["    " + "  ".join([r[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(r[1:], widths[1:])]).rstrip()
            for r in rows]
