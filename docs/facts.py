"""What the documents say of the repository, held to it: links, complete lists, languages."""

import re

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
COMMAND = re.compile(r"^ {4,}(?:make|cargo|curl|pip|python3?|docker|podman|kubectl|gte-server|\$) ", re.M)
# Pages that are made by a program, and logs of whole sessions.
LOGS = ("deploy/record/", "docs/model-files.md")


def facts(root, pages):
    """Everything that is wrong, in words."""
    text = {page: (root / page).read_text(encoding="utf8") for page in pages}
    for page in pages:
        yield from broken_links(root, page, text)
        if not page.startswith(LOGS):
            yield from loose_commands(page, text[page])
    yield from languages(text["README.md"], text["README.zh-CN.md"])
    yield from rust(root, text)
    yield from alerts(root, text["docs/operations.md"])
    yield from layers(root, text["docs/ARCHITECTURE.md"])
    yield from (f"README.md has {n} lines, at most 150" for n in [text["README.md"].count("\n")] if n > 150)


def anchor(heading):
    """As GitHub makes it."""
    heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")


def anchors(text):
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.M)}


def broken_links(root, page, text):
    for found in LINK.finditer(FENCE.sub("", text[page])):
        link = found[1] or found[2]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, part = link.partition("#")
        target = (root / page).parent / path if path else root / page
        if not target.exists():
            yield f"{page}: {link} does not exist"
        elif part and target.suffix == ".md" and part not in anchors(target.read_text(encoding="utf8")):
            yield f"{page}: {link}: no such heading"


def loose_commands(page, text):
    """Commands that stand outside of a fence are not run by anybody."""
    for found in COMMAND.finditer(FENCE.sub("", text)):
        yield f"{page}: {found[0].strip()} … stands outside of a block: write ```sh"
    for block in FENCE.findall(text):
        if block.startswith("```\n") and COMMAND.search(block.replace("\n", "\n    ")):
            yield f"{page}: a block of commands has no language: write ```sh"


def skeleton(text):
    """What two languages of a page have in common: the levels of the headings, the commands and
    code without their comments, the figures, the first cells of tables, the links.
    """
    code = [re.sub(r"\s*(#|//) .*$", "", block, flags=re.M) for block in FENCE.findall(text)]
    plain = FENCE.sub("", text)
    links = {found[1] or found[2] for found in LINK.finditer(plain)}
    figures = re.findall(r"(\d[\d.,e-]*)( million| 万)?", " ".join(re.findall(r"\*\*([^*]+)\*\*", plain)))
    units = {"": 1, " million": 1e6, " 万": 1e4}
    return {
        "headings": [len(level) for level in re.findall(r"^(#+) ", plain, re.M)],
        "commands": code,
        "figures in bold": sorted(round(float(number.replace(",", "")) * units[unit], 12) for number, unit in figures),
        "models": [row.rstrip(",") for row in re.findall(r"^\| ([\w.-]+/[\w{},.-]+)", plain, re.M)],
        "rows of tables": len(re.findall(r"^\|", plain, re.M)),
        "links": sorted(link for link in links if not link.startswith("README")),
    }


def languages(english, chinese):
    one, two = skeleton(english), skeleton(chinese)
    for part in one:
        if one[part] != two[part]:
            yield f"README.zh-CN.md is not in step: {part}\n  {one[part]}\n  {two[part]}"


def rust(root, text):
    """A page with blocks of Rust is one of those whose blocks are compiled and run."""
    source = (root / "examples/build.rs").read_text(encoding="utf8")
    pages = re.search(r"const PAGES: \[.*?\] = \[(.*?)\];", source, re.S)[1]
    for page in text:
        if re.search(r"^```rust$", text[page], re.M) and f'"{page}"' not in pages:
            yield f"{page}: its blocks of Rust are not run: mark them rust,ignore, or add it to examples/build.rs"


def alerts(root, operations):
    rules = (root / "deploy/monitoring/rules.yaml").read_text(encoding="utf8")
    names = re.findall(r"- alert: (\w+)", rules)
    told = set(re.findall(r"^### (\w+)$", operations, re.M))
    yield from (f"docs/operations.md does not tell of the alert {name}" for name in names if name not in told)
    yield from (f"docs/operations.md: {name} is no alert" for name in told if name not in names)


def layers(root, architecture):
    """The lists of layers are those of the tests that hold them."""
    for crate in ("gte-core", "gte-server"):
        source = (root / crate / "tests/layers.rs").read_text(encoding="utf8")
        order = re.findall(r'"([\w/]+)"', re.search(r"const ORDER: \[&str; \d+\] = \[(.*?)\];", source, re.S)[1])
        found = re.search(rf"<!-- layers of {crate} -->(.*?)<!-- end -->", architecture, re.S)
        told = re.findall(r"^\| `([\w/]+)` ", found[1] if found else "", re.M)
        if order != told:
            missing, more = [n for n in order if n not in told], [n for n in told if n not in order]
            yield f"docs/ARCHITECTURE.md: the layers of {crate} are {order}; missing {missing}, unknown {more}"
