//! A file's bytes to plain text. Offsets of pieces and passages count in the text that comes out
//! here, which the page shows. A file that cannot be read gives a sentence that says why.

use std::path::Path;

use ego_tree::NodeRef;
use encoding_rs::{Encoding, GB18030};
use scraper::{Html, Node};

use crate::radicals;
use crate::terms::is_chinese;

/// What a document is, by the extension of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `.txt`
    Text,
    /// `.md`, `.markdown`: kept as it is written.
    Markdown,
    /// `.html`, `.htm`: the text that a reader sees.
    Html,
    /// `.pdf` with text in it; a scanned one is a picture.
    Pdf,
}

/// The text of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// The title that the document has, else the name of its file without the extension.
    pub title: String,
    /// The text, with `\n` at the ends of lines.
    pub text: String,
}

impl Kind {
    /// The kind of a file; `None` for a file that is not a document.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "txt" => Some(Self::Text),
            "md" | "markdown" => Some(Self::Markdown),
            "html" | "htm" => Some(Self::Html),
            "pdf" => Some(Self::Pdf),
            _ => None,
        }
    }

    /// A word for the database and the page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Markdown => "markdown",
            Self::Html => "html",
            Self::Pdf => "pdf",
        }
    }
}

/// The text of a file of that name.
///
/// # Errors
/// A sentence that says what is wrong with the file.
pub fn extract(kind: Kind, path: &Path, bytes: &[u8]) -> Result<Extracted, String> {
    let (title, text) = match kind {
        Kind::Text => {
            let text = clean(&decode(bytes, None)?);
            (first_line(&text), text)
        }
        Kind::Markdown => {
            let text = clean(&decode(bytes, None)?);
            let title = text.lines().find_map(|line| line.strip_prefix("# ")).map(|title| title.trim().to_owned());
            (title, text)
        }
        Kind::Html => html(&decode(bytes, declared_encoding(bytes))?),
        Kind::Pdf => {
            let text = clean(&pdf(bytes)?);
            (first_line(&text), text)
        }
    };
    if text.trim().is_empty() {
        return Err(match kind {
            Kind::Pdf => "no text in it: a scanned PDF has to go through character recognition (OCR) first".to_owned(),
            _ => "no text in it".to_owned(),
        });
    }
    let title = title.filter(|title| !title.is_empty());
    let title = title.unwrap_or_else(|| path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
    Ok(Extracted { title, text })
}

/// UTF-8, UTF-16 with a byte order mark, the encoding that a page declares, or GB 18030 (and so GBK
/// and GB 2312), in which Windows has long saved Chinese text.
fn decode(bytes: &[u8], declared: Option<&'static Encoding>) -> Result<String, String> {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        let (text, _, malformed) = encoding.decode(bytes);
        return if malformed { Err(format!("not valid {}", encoding.name())) } else { Ok(text.into_owned()) };
    }
    if bytes.contains(&0) {
        return Err("not a text: it has zero bytes".to_owned());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Ok(text.to_owned());
    }
    for encoding in declared.into_iter().chain([GB18030]) {
        if let Some(text) = encoding.decode_without_bom_handling_and_without_replacement(bytes) {
            return Ok(text.into_owned());
        }
    }
    Err("in an unknown encoding: neither UTF-8 nor GB 18030; save it as UTF-8".to_owned())
}

/// What `<meta charset=…>` says within the first kilobyte, as browsers read it.
fn declared_encoding(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).to_ascii_lowercase();
    let (_, value) = head.split_once("charset=")?;
    let label: String = value.trim_start_matches(['"', '\'']).chars().take_while(|c| !"\"' />;".contains(*c)).collect();
    Encoding::for_label(label.as_bytes())
}

/// One kind of line end, characters for radicals, and no zero characters, which PostgreSQL does not
/// store.
fn clean(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n").replace('\0', " ");
    text.trim_end().chars().map(radicals::character).collect()
}

/// The first line, where it is short enough to be a title and does not end like a sentence.
fn first_line(text: &str) -> Option<String> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let is_title = line.chars().count() <= 40 && !line.ends_with(['。', '，', '；', '.', ',', ';']);
    is_title.then(|| line.to_owned())
}

/// Elements whose content nobody reads, and those that begin a line.
const UNREAD: [&str; 10] =
    ["script", "style", "noscript", "template", "head", "nav", "svg", "button", "select", "iframe"];
const BLOCKS: [&str; 32] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "caption",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "main",
    "ol",
    "p",
    "section",
    "summary",
    "table",
    "tr",
    "ul",
];

/// The title of a page and the text that its reader sees.
fn html(source: &str) -> (Option<String>, String) {
    let page = Html::parse_document(source);
    let mut text = String::new();
    read(page.tree.root(), false, &mut text);
    let title = ["title", "h1"].iter().find_map(|name| {
        let element = page.tree.nodes().find(|node| node.value().as_element().is_some_and(|e| e.name() == *name))?;
        let title: String =
            element.descendants().filter_map(|node| node.value().as_text().map(|text| &*text.text)).collect();
        let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
        (!title.is_empty()).then_some(title)
    });
    (title, clean(text.trim()))
}

fn read(node: NodeRef<'_, Node>, preformatted: bool, out: &mut String) {
    match node.value() {
        Node::Text(text) if preformatted => out.push_str(&text.text),
        Node::Text(text) => {
            let mut wrapped = false;
            for c in text.text.chars() {
                if c.is_whitespace() {
                    wrapped |= c == '\n';
                    if !out.is_empty() && !out.ends_with([' ', '\n', '\t']) {
                        out.push(' ');
                    }
                    continue;
                }
                // A line that was wrapped in the source does not mean a space between
                // Chinese characters.
                if std::mem::take(&mut wrapped) && is_chinese(c) && out.ends_with(' ') {
                    let before = out.trim_end_matches(' ');
                    if before.ends_with(|c: char| is_chinese(c) || "，。、；：？！）」』”".contains(c)) {
                        out.truncate(before.len());
                    }
                }
                out.push(c);
            }
        }
        Node::Element(element) => {
            let name = element.name();
            if UNREAD.contains(&name) {
                return;
            }
            let is_block = BLOCKS.contains(&name) || name == "pre";
            if is_block || name == "br" {
                end_line(out);
            }
            if ["h1", "h2", "h3", "h4", "h5", "h6"].contains(&name) {
                // A blank line, at which pieces are cut first, so that a heading stays with its
                // section.
                end_section(out);
            }
            for child in node.children() {
                read(child, preformatted || name == "pre", out);
            }
            match name {
                "td" | "th" => out.push('\t'),
                _ if is_block => end_line(out),
                _ => {}
            }
        }
        _ => node.children().for_each(|child| read(child, preformatted, out)),
    }
}

fn end_line(out: &mut String) {
    out.truncate(out.trim_end_matches([' ', '\t']).len());
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
}

fn end_section(out: &mut String) {
    if !out.is_empty() && !out.ends_with("\n\n") {
        out.push('\n');
    }
}

/// The name of the thread that reads a PDF: a panic there is a finding about the file, not a crash.
pub const PDF_THREAD: &str = "pdf";

/// The text of a PDF, page by page, in paragraphs.
fn pdf(bytes: &[u8]) -> Result<String, String> {
    // The parser panics on some broken files. A thread of its own turns that into an error, and has
    // a stack for deeply nested ones.
    let pages = std::thread::scope(|scope| {
        let parse = || pdf_extract::extract_text_from_mem_by_pages(bytes);
        let thread = std::thread::Builder::new().name(PDF_THREAD.to_owned()).stack_size(64 << 20);
        let running = thread.spawn_scoped(scope, parse).map_err(|e| format!("no thread to read it: {e}"))?;
        let broken = |_| "a PDF that is broken, or uses what the reader does not know".to_owned();
        running.join().map_err(broken)?.map_err(|e| format!("not a readable PDF: {e}"))
    })?;
    Ok(pages.iter().map(|page| paragraphs(page)).collect::<Vec<_>>().join("\n\n"))
}

/// A page's lines joined to paragraphs: a line that runs to the margin goes on in the next.
fn paragraphs(page: &str) -> String {
    let width = |line: &str| line.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum::<usize>();
    let lines: Vec<&str> = page.lines().map(str::trim).collect();
    let margin = lines.iter().map(|line| width(line)).max().unwrap_or(0);
    let mut out = String::new();
    let mut goes_on = false;
    for line in lines {
        let next = line.chars().next();
        if goes_on && next.is_some() {
            // Chinese has no space between the lines.
            let last = out.chars().next_back();
            let wide = |c: Option<char>| c.is_some_and(|c| is_chinese(c) || !c.is_ascii() && !c.is_alphanumeric());
            if !wide(last) && !wide(next) {
                out.push(' ');
            }
        } else if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(line);
        goes_on = !line.is_empty() && width(line) * 10 >= margin * 9;
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn text(name: &str, bytes: &[u8]) -> Result<Extracted, String> {
        extract(Kind::of(Path::new(name)).unwrap(), Path::new(name), bytes)
    }

    #[test]
    fn a_text_is_read_in_the_encodings_that_china_writes() {
        let utf8 = text("退货.txt", "退货说明\r\n七天内可退。\r\n".as_bytes()).unwrap();
        assert_eq!((utf8.title.as_str(), utf8.text.as_str()), ("退货说明", "退货说明\n七天内可退。"));
        let (gbk, _, _) = encoding_rs::GBK.encode("退货说明\n七天内可退。");
        assert_eq!(text("x.txt", &gbk).unwrap(), utf8);
        let utf16: Vec<u8> = "\u{feff}退货说明\n七天内可退。".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(text("x.txt", &utf16).unwrap(), utf8);
    }

    #[test]
    fn what_is_no_text_is_refused_with_a_reason() {
        assert!(text("x.txt", b"\x00\x01").unwrap_err().contains("zero bytes"));
        assert!(text("x.txt", b"\xff\xff\xff").unwrap_err().contains("encoding"));
        assert!(text("x.md", b" \n ").unwrap_err().contains("no text"));
        assert!(text("x.pdf", b"%PDF-1.4 broken").unwrap_err().contains("PDF"));
    }

    #[test]
    fn a_sentence_is_no_title() {
        assert_eq!(text("目录/说明.txt", "七天内可退。".as_bytes()).unwrap().title, "说明");
        assert_eq!(text("x.md", "前言\n# 退货 \n正文".as_bytes()).unwrap().title, "退货");
    }

    #[test]
    fn a_page_is_what_its_reader_sees() {
        let page = "<html><head><title> 退货 \n说明</title><style>p{}</style></head><body><nav>首页</nav>\
            <h1>退货</h1><p>七天\n  内<b>可</b>退。</p><ul><li>一</li><li>二</li></ul>\
            <table><tr><td>顺丰</td><td>12 元</td></tr></table><script>1</script><pre>a\n b</pre></body></html>";
        let page = text("x.html", page.as_bytes()).unwrap();
        assert_eq!(page.title, "退货 说明");
        assert_eq!(page.text, "退货\n七天内可退。\n一\n二\n顺丰\t12 元\na\n b");
        let (gbk, _, _) = encoding_rs::GBK.encode("<meta charset='gbk'><p>退货");
        assert_eq!(text("x.htm", &gbk).unwrap().text, "退货");
    }

    #[test]
    fn lines_of_a_pdf_are_joined_where_they_run_to_the_margin() {
        let page = "退货说明\n\n顾客收到货物之后七天以内可以退\n货，运费由商店承担。\n第二段。\n";
        assert_eq!(paragraphs(page), "退货说明\n\n顾客收到货物之后七天以内可以退货，运费由商店承担。\n第二段。");
        assert_eq!(paragraphs("A kettle may be\nreturned now"), "A kettle may be returned now");
    }
}
