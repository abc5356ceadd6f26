"""A group's results as one SVG picture: a bar per subject, as long as its time, on a logarithmic scale per picture."""
import math
from xml.sax.saxutils import escape

import stats

LEFT, BAR, WIDTH, RIGHT = 190, 15, 520, 190
COLORS = {"txnfs": "#c2410c", "floor": "#1f2937", "passthrough": "#1d4ed8"}
OTHERS = "#94a3b8"


def color(subject):
    return COLORS.get(subject, COLORS["txnfs"] if subject.startswith("txnfs") else OTHERS)


def draw(title, results, caveat):
    """results: as of stats.summary, of one group."""
    bars = []  # (y, what)
    y = 74
    ratios = []
    for r in results:
        for s in r["subjects"].values():
            if s["ratio"]:
                ratios.append(s["ratio"])
    low = math.floor(math.log10(min(ratios + [1])) * 2) / 2 - 0.25
    high = max(math.ceil(math.log10(max(ratios + [1])) * 2) / 2, low + 1)

    def x(ratio):
        return LEFT + (math.log10(ratio) - low) / (high - low) * WIDTH

    for r in results:
        y += 12
        bars.append(f'<text x="8" y="{y + 11}" class="c">{escape(r["case"])}</text>'
                    f'<text x="{LEFT}" y="{y + 11}" class="s">{escape(r["about"])}</text>')
        y += BAR + 3
        for name, s in r["subjects"].items():
            if not s["ratio"]:
                continue
            text = f"{stats.show('seconds', s['median']['seconds'])}  ({s['ratio']:.2f}×)"
            bars.append(f'<text x="{LEFT - 6}" y="{y + 11}" class="n">{escape(name)}</text>'
                        f'<rect x="{LEFT}" y="{y + 1}" width="{max(1, x(s["ratio"]) - LEFT):.1f}" height="{BAR - 3}" '
                        f'fill="{color(name)}"/>'
                        f'<text x="{x(s["ratio"]) + 5:.1f}" y="{y + 11}" class="s">{escape(text)}</text>')
            y += BAR
    height = y + 40
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{height}" '
           f'viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}">',
           "<style>text{font:12px sans-serif;fill:#111}.t{font-size:16px;font-weight:bold}.c{font-weight:bold}"
           ".n{text-anchor:end}.s{fill:#475569;font-size:11px}line{stroke:#cbd5e1}</style>",
           '<rect width="100%" height="100%" fill="#fff"/>',
           f'<text x="8" y="24" class="t">{escape(title)}</text>',
           f'<text x="8" y="42" class="s">Time relative to each case\'s reference (1×), logarithmic; shorter is faster.</text>',
           f'<text x="8" y="58" class="s">{escape(caveat)}</text>']
    for p in range(math.ceil(low), math.floor(high) + 1):
        out.append(f'<line x1="{x(10.0 ** p):.1f}" y1="68" x2="{x(10.0 ** p):.1f}" y2="{height - 24}"/>'
                   f'<text x="{x(10.0 ** p):.1f}" y="{height - 8}" class="s" text-anchor="middle">{10.0 ** p:g}×</text>')
    return "\n".join(out + bars + ["</svg>", ""])
