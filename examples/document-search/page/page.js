// The page: a question in, passages out, each a way into its document. Positions count code points.

const TEXTS = {
  zh: {
    title: "文档搜索", refresh: "更新索引", language: "English", question: "问题或关键词", mode: "搜索方式", hybrid: "综合", dense: "按意思",
    words: "按字词", go: "搜索", close: "关闭", placeholder: "例如：水壶漏水怎么办？", answer: "最可能的答案",
    counts: (c) => `${c.documents} 篇文档，${c.pieces} 个段落`,
    hint: (s) => `在文件夹 ${s.folder} 里搜索。\n模型：${s.model}${s.reranker ? `，重排：${s.reranker}` : ""}。按 / 回到搜索框，用上下键在结果中移动，Esc 关闭文档。`,
    nothingIndexed: "文件夹里还没有能读的文档。放入 .txt、.md、.html 或 .pdf 文件，再点“更新索引”。",
    searching: "正在搜索……", found: (n) => `找到 ${n} 个段落`, none: "没有找到。换一种说法试试，或者改用“综合”。",
    indexing: (p) => `正在更新索引：${p.done} / ${p.total}`,
    refreshed: (r) => `索引已更新：新增 ${r.added}，修改 ${r.changed}，删除 ${r.removed}，未变 ${r.unchanged}`,
    problems: (n) => `${n} 个文件读不出来`, unreachable: "连不上服务器，它可能已经停止。",
    byMeaning: (rank, score) => `意思第 ${rank} 位（${score}）`, byWords: (rank, score) => `字词第 ${rank} 位（${score}）`, byReranker: (score) => `重排 ${score}`,
  },
  en: {
    title: "Document search", refresh: "Refresh", language: "中文", question: "Question or keywords", mode: "Search by", hybrid: "Meaning and words", dense: "Meaning",
    words: "Words", go: "Search", close: "Close", placeholder: "What do I do if the kettle leaks?", answer: "Most likely answer",
    counts: (c) => `${c.documents} documents, ${c.pieces} passages`,
    hint: (s) => `Searches the folder ${s.folder}.\nModel: ${s.model}${s.reranker ? `, reranker: ${s.reranker}` : ""}. Press / for the search box, up and down to move among results, Esc to close a document.`,
    nothingIndexed: "The folder has no document that can be read yet. Put .txt, .md, .html or .pdf files into it and press Refresh.",
    searching: "Searching…", found: (n) => `${n} ${n === 1 ? "passage" : "passages"} found`, none: "Nothing found. Try other words, or search by meaning and words.",
    indexing: (p) => `Refreshing: ${p.done} of ${p.total}`,
    refreshed: (r) => `Refreshed: ${r.added} added, ${r.changed} changed, ${r.removed} removed, ${r.unchanged} unchanged`,
    problems: (n) => `${n} ${n === 1 ? "file" : "files"} cannot be read`, unreachable: "The server does not answer. It may have been stopped.",
    byMeaning: (rank, score) => `meaning #${rank} (${score})`, byWords: (rank, score) => `words #${rank} (${score})`, byReranker: (score) => `reranker ${score}`,
  },
};

const $ = (id) => document.getElementById(id);
let language = navigator.language.startsWith("zh") ? "zh" : "en";
let status; // what /api/status said last
let answer; // what /api/search said last
let message = () => ({ text: "" }); // the line above the results, in the language of the moment
let opener; // the control that opened the document
let asked = 0; // counts questions, so that an answer that comes late is dropped
const texts = () => TEXTS[language];

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

async function get(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error(texts().unreachable);
  }
  const body = response.headers.get("content-type")?.includes("json") ? await response.json() : null;
  if (!response.ok) throw new Error(body?.error ?? `${response.status} ${response.statusText}`);
  return body;
}

function say(make) {
  message = make;
  const { text, error } = make();
  $("status").textContent = text;
  $("status").className = error ? "error" : "";
}
const fail = (error) => say(() => ({ text: error.message, error: true }));

// Text with marks: `marks` are [start, stop, class] in code points; they may lie in each other.
function marked(text, marks) {
  const characters = Array.from(text);
  const edges = [...new Set([0, characters.length, ...marks.flatMap(([start, stop]) => [start, stop])])].sort((a, b) => a - b);
  const out = document.createDocumentFragment();
  for (let i = 0; i + 1 < edges.length; i++) {
    const [from, to] = [edges[i], edges[i + 1]];
    const classes = marks.filter(([start, stop]) => start <= from && to <= stop).map(([, , name]) => name);
    const part = characters.slice(from, to).join("");
    out.append(classes.length ? element("mark", { className: classes.join(" ") }, part) : part);
  }
  return out;
}

// Where the words of the question stand in a text, those that touch as one.
function termMarks(text, terms) {
  const characters = Array.from(text.toLowerCase());
  const hit = new Array(characters.length).fill(false);
  for (const term of terms) {
    const wanted = Array.from(term);
    for (let i = 0; i + wanted.length <= characters.length; i++) {
      if (wanted.every((c, j) => characters[i + j] === c)) hit.fill(true, i, i + wanted.length);
    }
  }
  const marks = [];
  hit.forEach((is, i) => { if (is && !hit[i - 1]) marks.push([i, hit.indexOf(false, i) < 0 ? hit.length : hit.indexOf(false, i), "term"]); });
  return marks;
}

function ranks({ dense, words, reranked }) {
  const parts = [];
  if (reranked !== null) parts.push(texts().byReranker(reranked.toFixed(3)));
  if (dense) parts.push(texts().byMeaning(dense[0], dense[1].toFixed(3)));
  if (words) parts.push(texts().byWords(words[0], words[1].toFixed(2)));
  return parts.join(" · ");
}

function showResults() {
  const hits = answer?.hits ?? [];
  $("results").replaceChildren(...hits.map((hit, i) => {
    const item = element("li", { className: i === 0 ? "answer" : "" });
    if (i === 0) item.append(element("span", { className: "kind", textContent: texts().answer }));
    const open = element("button", { type: "button" }, hit.title, element("span", { className: "path", textContent: hit.path }));
    open.addEventListener("click", () => openDocument(hit, item, open));
    const marks = [...termMarks(hit.text, answer.terms), ...(hit.sentence ? [[...hit.sentence, "sentence"]] : [])];
    const text = element("p", { className: "text" }, marked(hit.text, marks));
    // A result has few lines: none of them is empty.
    for (const part of text.childNodes) part.textContent = part.textContent.replace(/\n\s*\n/g, "\n");
    item.append(open, text, element("p", { className: "ranks", textContent: ranks(hit) }));
    return item;
  }));
}

async function search(question, mode) {
  const mine = ++asked;
  closeDocument();
  $("question").value = question;
  $("mode").value = mode;
  document.title = question ? `${question} · ${texts().title}` : texts().title;
  answer = undefined;
  showResults();
  if (!question) return showStatus();
  say(() => ({ text: texts().searching }));
  try {
    const found = await get(`api/search?${new URLSearchParams({ q: question, mode })}`);
    if (mine !== asked) return;
    answer = found;
    showResults();
    const count = found.hits.length;
    say(() => ({ text: count ? texts().found(count) : texts().none }));
  } catch (error) {
    if (mine === asked) fail(error);
  }
}

async function openDocument(hit, item, control) {
  try {
    const found = await get(`api/documents/${hit.document}`);
    const sentence = hit.sentence ? [[hit.start + hit.sentence[0], hit.start + hit.sentence[1], "sentence"]] : [];
    $("document-title").textContent = found.title;
    $("document-path").textContent = found.path;
    $("document-text").replaceChildren(marked(found.text, [[hit.start, hit.stop, "passage"], ...sentence]));
    for (const other of document.querySelectorAll("#results .open")) other.classList.remove("open");
    item.classList.add("open");
    opener = control;
    $("document").hidden = false;
    document.querySelector("main").classList.add("two");
    const target = $("document-text").querySelector(".sentence, .passage");
    $("document-text").scrollTop = target.offsetTop - $("document-text").offsetTop - $("document-text").clientHeight / 3;
    $("document-title").focus({ preventScroll: true });
  } catch (error) {
    fail(error);
  }
}

function closeDocument() {
  if ($("document").hidden) return;
  $("document").hidden = true;
  document.querySelector("main").classList.remove("two");
  opener?.closest("li")?.classList.remove("open");
  opener?.focus();
}

function showStatus() {
  if (!status) return;
  const { counts, refresh } = status;
  $("counts").textContent = texts().counts(counts);
  $("indexing").hidden = !refresh.running;
  $("refresh").disabled = Boolean(refresh.running);
  if (refresh.running) {
    $("bar").max = refresh.running.total || 1;
    $("bar").value = refresh.running.done;
    $("indexed").textContent = texts().indexing(refresh.running);
  }
  $("problems").hidden = counts.problems.length === 0;
  $("problems").querySelector("summary").textContent = texts().problems(counts.problems.length);
  $("problems").querySelector("ul").replaceChildren(...counts.problems.map(([path, why]) => element("li", { textContent: `${path}: ${why}` })));
  if (answer || $("question").value) return;
  if (refresh.error) say(() => ({ text: refresh.error, error: true }));
  else say(() => ({ text: counts.documents ? texts().hint(status) : texts().nothingIndexed }));
}

async function readStatus() {
  status = await get("api/status");
  showStatus();
}

async function refresh() {
  $("refresh").disabled = true;
  try {
    await get("api/refresh", { method: "POST" });
    do {
      await new Promise((resolve) => setTimeout(resolve, 200));
      await readStatus();
    } while (status.refresh.running);
    const { error, report } = status.refresh;
    say(() => (error ? { text: error, error: true } : { text: texts().refreshed(report) }));
  } catch (error) {
    fail(error);
  }
  $("refresh").disabled = false;
}

function speak() {
  document.documentElement.lang = language;
  for (const part of document.querySelectorAll("[data-text]")) part.textContent = texts()[part.dataset.text];
  $("language").textContent = texts().language;
  $("question").placeholder = texts().placeholder;
  document.title = texts().title;
  showResults();
  showStatus();
  say(message);
}

const fromAddress = () => new URLSearchParams(location.search);
const asIs = () => search(fromAddress().get("q") ?? "", TEXTS.en[fromAddress().get("mode")] ? fromAddress().get("mode") : "hybrid");

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question) return;
  history.pushState(null, "", `?${new URLSearchParams({ q: question, mode: $("mode").value })}`);
  search(question, $("mode").value);
});
$("mode").addEventListener("change", () => { if ($("question").value.trim()) $("form").requestSubmit(); });
$("close").addEventListener("click", closeDocument);
$("refresh").addEventListener("click", refresh);
$("language").addEventListener("click", () => { language = language === "zh" ? "en" : "zh"; speak(); });
addEventListener("popstate", asIs);
addEventListener("keydown", (event) => {
  if (event.isComposing) return; // an input method of Chinese has the key
  if (event.key === "Escape") return closeDocument();
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("question").focus();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const controls = [...document.querySelectorAll("#results button")];
    const place = controls.indexOf(document.activeElement);
    if (place < 0 && document.activeElement !== $("question")) return;
    const next = place + (event.key === "ArrowDown" ? 1 : -1);
    if (next < 0 && place < 0) return;
    event.preventDefault();
    (controls[next] ?? (next < 0 ? $("question") : controls[place]))?.focus();
  }
});

speak();
readStatus().then(() => { if (status.refresh.running) refresh(); }, fail);
asIs();
