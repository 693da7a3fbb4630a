"""Writes the charts and the tables of BENCHMARKS.md from the records in benches/record.

    python3 benches/report            writes them
    python3 benches/report --check    fails where they are not those of the records, and where a
                                      figure that a page quotes is not in the record that it links

A page quotes a figure in bold, in a paragraph or an item that links a record: `**19 ms**`. The
number must be in that record, rounded to the digits that the page has, or there in thousands or
millions.
"""

import math
import re
import sys

import records
from chart import SMALL, WIDE, Bar, Panel, chart
from records import ENGINES, MACHINES, RECORD, ROOT, SPECIAL, WORKLOADS

PAGE = ROOT / "BENCHMARKS.md"
CHARTS = ROOT / "benches/charts"
QUOTING = ["README.md", "README.zh-CN.md", "BENCHMARKS.md", "gte-core/README.md", "gte-server/README.md"]
QUOTING += ["gte-py/README.md", "docs/scheduling.md", "docs/precision.md", "docs/operations.md", "docs/migrating.md"]
MARKS = re.compile(r"(<!-- report: (\S+) -->\n).*?(<!-- end of report -->)", re.S)
TITLE = "Tokens per second: longer bars are faster"


def machine_name(machine):
    return MACHINES.get(machine, machine)


def bars(record, workload):
    for row in sorted(record.rows[workload], key=lambda row: -row.tokens_per_second):
        ours = row.engine == "gte"
        note = f" ({record.best(workload)[1].ratio:.2f} ×)" if ours else ""
        yield Bar(ENGINES.get(row.engine, row.engine), row.tokens_per_second, note, ours)


def panel(title, all_records, workload):
    with_it = [record for record in all_records if workload in record.rows]
    return Panel(title, [(record.precision, list(bars(record, workload))) for record in with_it])


def subtitle(machine):
    return [f"{machine_name(machine)}, 2 threads", "(n ×): gte over the fastest peer, measured in turn"]


def write_charts(by_machine):
    """Every chart by its file's name: the one of README, and one per machine."""
    machine, found = next(iter(by_machine.items()))
    large = [record for record in found if record.name == "gte-large-zh"]
    titles = {"mixed64": "64 texts of mixed lengths", "query1x16": "one query of 16 tokens"}
    both = [panel(f"gte-large-zh, {title}", large, w) for w, title in titles.items()]
    yield from pair("speed", chart_of(machine, both))
    for machine, found in by_machine.items():
        shapes = dict.fromkeys(record.name for record in found if "mixed64" in record.rows)
        of = lambda shape: [record for record in found if record.name == shape]
        panels = [panel(f"{shape}, mixed lengths", of(shape), "mixed64") for shape in shapes]
        yield from pair(machine, chart_of(machine, panels))


def chart_of(machine, panels):
    return lambda columns: chart(TITLE, subtitle(machine), panels, columns)


def pair(name, drawn):
    yield f"{name}.svg", drawn(WIDE)
    yield f"{name}-small.svg", drawn(SMALL)


def link(record, text):
    return f"[{text}]({record.text.relative_to(ROOT)})"


def cell(record, workload):
    if workload not in record.rows:
        return "–"
    ours, best = record.best(workload)
    return f"{ours.tokens_per_second:,.0f}<br>{best.ratio:.2f}\N{NO-BREAK SPACE}×"


def table(found):
    used = [w for w in WORKLOADS if any(w in record.rows for record in found)]
    yield f"| shape | precision | {' | '.join(WORKLOADS[w] for w in used)} |"
    yield f"|---|---|{'--:|' * len(used)}"
    for record in found:
        if any(w in record.rows for w in used):
            cells = " | ".join(cell(record, w) for w in used)
            yield f"| {record.shape} | {link(record, record.precision)} | {cells} |"
    special = [(record, w) for record in found for w in record.rows if w not in WORKLOADS]
    if special:
        yield ""
        yield "| shape | precision | work | seconds | best peer |"
        yield "|---|---|---|--:|--:|"
    for record, w in special:
        ours, best = record.best(w)
        peer = f"{best.ratio:.2f} × {ENGINES.get(best.engine, best.engine)}"
        cells = [record.shape, link(record, record.precision), SPECIAL.get(w, w)]
        yield f"| {' | '.join(cells)} | {ours.seconds:.2f} | {peer} |"


def floor4(value):
    """Four digits, never rounded up to 1."""
    return f"{math.floor(value * 1e4) / 1e4:.4f}"


def agreement(found):
    """The least agreement with PyTorch in f32, of ours and of each peer, by precision."""
    least = {}
    for record in found:
        for rows in record.rows.values():
            for row in rows:
                if row.agreement:
                    key = (record.shape, record.precision)
                    by_engine = least.setdefault(key, {})
                    by_engine[row.engine] = min(row.agreement, by_engine.get(row.engine, 1))
    engines = [e for e in ENGINES if any(e in by_engine for by_engine in least.values())]
    yield f"| shape | precision | {' | '.join(ENGINES[e] for e in engines)} |"
    yield f"|---|---|{'--:|' * len(engines)}"
    for (shape, precision), by_engine in least.items():
        value = lambda e: floor4(by_engine[e]) if e in by_engine else "–"
        yield f"| {shape} | {precision} | {' | '.join(map(value, engines))} |"


def section(machine, found):
    dates = sorted({record.date for record in found})
    yield f"### {machine_name(machine)}"
    yield ""
    yield "<picture>"
    yield f'  <source media="(max-width: 600px)" srcset="benches/charts/{machine}-small.svg">'
    yield f'  <img alt="Tokens per second on this machine, gte beside its peers" src="benches/charts/{machine}.svg">'
    yield "</picture>"
    yield ""
    yield f"Measured on {' and '.join(dates)}. Each cell: tokens per second of gte, and how many times the"
    yield "fastest peer that is. Every peer's own figure is in the record."
    yield ""
    yield from table(found)
    yield ""
    yield "The least agreement with PyTorch in f32 over all workloads: a cosine for vectors, for scores 1"
    yield "less the relative difference."
    yield ""
    yield from agreement(found)
    yield ""


def with_tables(page, by_machine):
    parts = {"machines": [line for machine, found in by_machine.items() for line in section(machine, found)]}
    return MARKS.sub(lambda m: m[1] + "\n" + "\n".join(parts[m[2]]) + "\n" + m[3], page)


# A number of a record with its place: 1,234.5 and 0.34 and 130260.
NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")
BOLD = re.compile(r"\*\*(.+?)\*\*")
LINK = re.compile(r"\]\(([^)\s]*benches/record/[^)\s]+|[^)\s]*record/[^)\s]+\.(?:txt|csv|md))\)")


def numbers(text):
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def in_record(quoted, found):
    """Whether one of the numbers found is the one that is quoted, as far as its digits go."""
    mantissa, _, exponent = quoted.partition("e")
    digits = len(mantissa.partition(".")[2])
    wanted = float(quoted.replace(",", ""))
    if exponent:
        return any(float(f"{number:.{digits}e}") == wanted for number in found)
    scales = (1, 1e-3, 1e-6, 1e3, 100)  # 100: millions in 万
    return any(round(number * scale, digits) == wanted for number in found for scale in scales)


def paragraphs(text):
    """Paragraphs, items of lists and rows of tables, each with its whole text."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = re.sub(r"(<!-- report: \S+ -->\n).*?(<!-- end of report -->)", "", text, flags=re.S)
    yield from re.split(r"\n\s*\n|\n(?=\s*[-*] |\||\d+\. )", text)


def quoted(page):
    """Figures in bold with the records that stand beside them."""
    for paragraph in paragraphs(page.read_text(encoding="utf8")):
        links = [target.partition("#")[0] for target in LINK.findall(paragraph)]
        figures = [number for bold in BOLD.findall(paragraph) for number in NUMBER.findall(bold)]
        if links:
            yield links, figures, " ".join(paragraph.split())[:90]


def wrong_figures():
    for name in QUOTING:
        page = ROOT / name
        if not page.exists():
            continue
        for links, figures, where in quoted(page):
            files = [(page.parent / target).resolve() for target in links]
            missing = [target for target, file in zip(links, files) if not file.exists()]
            if missing:
                yield f"{name}: {missing[0]} is no record: {where}"
                continue
            text = "\n".join(file.read_text(encoding="utf8") for file in files if file.is_file())
            found = numbers(text)
            if not figures:
                yield f"{name}: a record is linked, and no figure of it stands in bold: {where}"
            for figure in figures:
                if not in_record(figure, found):
                    yield f"{name}: {figure} is not in {' or '.join(links)}: {where}"


def main():
    by_machine = {}
    for record in records.newest():
        by_machine.setdefault(record.machine, []).append(record)
    wanted = {CHARTS / name: content for name, content in write_charts(by_machine)}
    wanted[PAGE] = with_tables(PAGE.read_text(encoding="utf8"), by_machine)
    current = lambda path: path.exists() and path.read_text(encoding="utf8") == wanted[path]
    stale = [path for path in wanted if not current(path)]
    if "--check" not in sys.argv[1:]:
        CHARTS.mkdir(exist_ok=True)
        for path in stale:
            path.write_text(wanted[path], encoding="utf8")
            print(f"wrote {path.relative_to(ROOT)}")
        stale = []
    problems = [f"{path.relative_to(ROOT)} is not that of the records: run python3 benches/report" for path in stale]
    problems += wrong_figures()
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
