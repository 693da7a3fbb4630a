"""Writes the pages of tests/pages as text, Markdown, HTML and PDF files: python folder.py FOLDER

One source file has many pages, each behind a line `=== path`. Its text is Markdown of the simplest
kind, and the path's extension says what is made of it. Chromium prints the PDFs, with the fonts of
the machine in them.
"""
import html
import pathlib
import re
import sys

PAGES = pathlib.Path(__file__).parent / "pages"
FRAME = """<!doctype html>
<html lang="zh"><head><meta charset="utf-8"><title>{title}</title><style>body {{ font-size: 12pt }}</style></head>
<body>{nav}<main>
{body}
</main>{footer}</body></html>
"""


def pages():
    """Path and text of every page."""
    for source in sorted(PAGES.glob("*.txt")):
        for page in re.split(r"^=== ", source.read_text("utf-8"), flags=re.M)[1:]:
            path, text = page.split("\n", 1)
            yield path, text.strip() + "\n"


def to_html(text, frame=True):
    """Headings, lists and paragraphs, one per line; with a frame, as on a web site."""
    out, title = [], ""
    for line in text.splitlines():
        line = html.escape(line)
        line = re.sub(r"`([^`]+)`", r"<code>\1</code>", line)
        if line.startswith("# "):
            title = line[2:]
            out.append(f"<h1>{title}</h1>")
        elif line.startswith("## "):
            out.append(f"<h2>{line[3:]}</h2>")
        elif line.startswith("- "):
            out.append(f"<li>{line[2:]}</li>")
        elif line:
            out.append(f"<p>{line}</p>")
    nav, footer = ("<nav><a href='/'>首页</a> <a href='/all'>全部文档</a></nav>", "<script>count()</script>") if frame else ("", "")
    return FRAME.format(title=title, body="\n".join(out), nav=nav, footer=footer)


def chromium(playwright):
    return playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])


def write(folder, browser):
    printer = browser.new_page()
    for path, text in pages():
        file = pathlib.Path(folder) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        match file.suffix:
            case ".md":
                file.write_text(text, "utf-8")
            case ".txt":
                # Half of the world's Chinese text files are not in UTF-8.
                file.write_text(re.sub(r"^#+ ", "", text, flags=re.M), "gb18030" if len(path) % 4 == 0 else "utf-8")
            case ".html":
                file.write_text(to_html(text), "utf-8")
            case ".pdf":
                printer.set_content(to_html(text, frame=False))
                printer.pdf(path=file, format="A5", margin={side: "15mm" for side in ("top", "bottom", "left", "right")})
    printer.close()


if __name__ == "__main__":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = chromium(playwright)
        write(sys.argv[1], browser)
        browser.close()
