// The page shows what the models of this server compute for a query and some texts. It reads the
// list of models from /v1/models and /info, offers what they can do, and loads nothing from
// elsewhere.
"use strict";

const TEXTS = {
  zh: {
    docs: "接口文档", metrics: "监控指标", other: "English", otherLang: "en", models: "模型", access: "API 密钥", key: "密钥，服务端要求时填写",
    query: "查询", candidates: "候选文本（每行一条）", go: "计算",
    embed: "向量模型", rerank: "重排模型", classify: "分类模型", none: "不使用",
    embedder: "向量模型", reranker: "重排模型", classifier: "分类模型", loading: "正在加载…",
    dense: (n) => `${n} 维向量`, sparse: "词权重", colbert: "逐词元向量", count: (n) => `${n} 个标签`, longest: (n) => `最长 ${n} 个词元`,
    ranking: "排序", rankingNote: "点击列名，按该列排序。", place: "名次", text: "文本",
    rerankScore: "重排", denseScore: "余弦", sparseScore: "词权重", colbertScore: "ColBERT",
    terms: "词权重", termsNote: "每条文本权重最大的词元；粗框表示查询中也有。", shared: "（查询中也有）", noTerms: "没有词元",
    labels: "分类", heatmap: "相似度热图", heatmapNote: "任意两条文本向量的余弦；Q 为查询，数字为候选文本的行号。最多显示 12 条。",
    vectors: "向量预览", vectorsNote: "每格一个数：蓝色为正，红色为负，颜色越深绝对值越大。最多显示 12 条。", values: "前几个数",
    busy: "计算中…", nothing: "请至少输入一条候选文本。",
    done: (t) => `${t.texts} 条文本，${t.tokens} 个词元，往返 ${t.total} 毫秒（最慢的请求：计算 ${t.compute} 毫秒，排队 ${t.queue} 毫秒）`,
    sample: ["怎样退货？", "七天内可以无理由退货，请保留包装。", "今天天气真好，适合出去散步。", "退款一般在三个工作日内到账。", "How can I send an item back?"],
  },
  en: {
    docs: "API", metrics: "Metrics", other: "中文", otherLang: "zh", models: "Models", access: "API key", key: "Key, if the server requires one",
    query: "Query", candidates: "Texts, one per line", go: "Compute",
    embed: "Embedding model", rerank: "Reranking model", classify: "Classification model", none: "none",
    embedder: "embedding", reranker: "reranking", classifier: "classification", loading: "loading…",
    dense: (n) => `${n} dimensions`, sparse: "term weights", colbert: "a vector per token", count: (n) => `${n} labels`, longest: (n) => `up to ${n} tokens`,
    ranking: "Ranking", rankingNote: "Click a column name to sort by it.", place: "Rank", text: "Text",
    rerankScore: "Reranker", denseScore: "Cosine", sparseScore: "Terms", colbertScore: "ColBERT",
    terms: "Terms", termsNote: "The tokens with the largest weights in each text. Tokens with a thick border also occur in the query.", shared: " (also in the query)", noTerms: "no terms",
    labels: "Labels", heatmap: "Similarity", heatmapNote: "Cosine similarity between all pairs of texts. Q is the query, numbers are line numbers. At most 12 texts are shown.",
    vectors: "Vectors", vectorsNote: "One cell per value: blue is positive, red is negative, and stronger colours are larger values. At most 12 texts are shown.", values: "first values:",
    busy: "Computing…", nothing: "Enter at least one text.",
    done: (t) => `${t.texts} texts, ${t.tokens} tokens, ${t.total} ms (slowest request: ${t.compute} ms computing, ${t.queue} ms queued)`,
    sample: ["How can I return an item?", "Items can be sent back within seven days; keep the box.", "The weather is lovely, let us take a walk.", "Refunds arrive within three working days.", "怎样退货？"],
  },
};
// The largest number of texts in a table.
const SHOWN_TEXTS = 12;
const SHOWN_TERMS = 12;
const RETRY_MS = 2000;

const $ = (id) => document.getElementById(id);
let language = (navigator.language || "zh").startsWith("zh") ? "zh" : "en";
let models = []; // the response of /info for each; { served_model_name, loading: true } while it loads
let outcome = null; // the last results
let sortBy = null; // the name of a column in the ranking

const say = (name) => TEXTS[language][name];

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// No minus sign before zero.
const number = (value, digits) => value.toFixed(digits).replace(/^-(?=0\.0*$)/, "");

// The strength of a colour or the length of a bar, from 0 to 1.
function shaded(element, share) {
  element.style.setProperty("--share", Math.max(0, Math.min(1, share)).toFixed(3));
  return element;
}

async function ask(path, body) {
  const key = $("key").value;
  const headers = { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
  const response = await fetch(path, body === undefined ? { headers } : { headers, method: "POST", body: JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const message = answer.message || (typeof answer.error === "string" ? answer.error : answer.error?.message) || `HTTP ${response.status}`;
    throw Object.assign(new Error(message), { status: response.status });
  }
  return { answer, headers: response.headers };
}

// ---- models

const kind = (model) => ["embedding", "reranker", "classifier"].find((name) => model.model_type && name in model.model_type);
const TASKS = { embed: "embedding", rerank: "reranker", classify: "classifier" };

async function describe() {
  const problem = $("problem");
  problem.hidden = true;
  try {
    const [{ answer: listed }, { answer: first }] = await Promise.all([ask("v1/models"), ask("info")]);
    const loaded = new Set(listed.data.map(({ id }) => id));
    // /v1/models lists the loaded models, /info the names of all models.
    const describeOne = async (name) => (await ask(`info?model=${encodeURIComponent(name)}`)).answer;
    models = await Promise.all(first.models.map((name) => (loaded.has(name) ? describeOne(name) : { served_model_name: name, loading: true })));
    // Some models may still be loading, so ask again.
    if (models.some((model) => model.loading)) setTimeout(describe, RETRY_MS);
  } catch (error) {
    models = [];
    problem.textContent = error.message;
    problem.hidden = false;
    if (error.status === 401) $("access").open = true;
  }
  showModels();
  showChoices();
}

function facts(model) {
  if (model.loading) return [say("loading")];
  const outputs = {
    embedding: [say("embedder"), say("dense")(model.dimension), ...["sparse", "colbert"].filter((name) => model[name]).map(say)],
    reranker: [say("reranker")],
    classifier: [say("classifier"), say("count")(model.dimension)],
  };
  return [...(outputs[kind(model)] ?? []), say("longest")(model.max_input_length), model.model_dtype, model.isa];
}

function showModels() {
  $("models").replaceChildren(...models.map((model) => {
    const row = make("li");
    const id = model.model_id && model.model_id !== model.served_model_name ? ` ${model.model_id}` : "";
    // Lines break between the facts, and not at a hyphen within one.
    const list = make("span", id, { class: "facts" });
    list.append(...facts(model).flatMap((fact) => ["\u00a0· ", make("span", fact, { class: "fact" })]));
    row.append(make("strong", model.served_model_name), list);
    return row;
  }));
}

// For each task that the server has a model for, a select with its models and "none".
function showChoices() {
  const chosen = Object.fromEntries([...$("choices").querySelectorAll("select")].map((select) => [select.id, select.value]));
  const choices = Object.entries(TASKS).flatMap(([task, wanted]) => {
    const names = models.filter((model) => !model.loading && kind(model) === wanted).map((model) => model.served_model_name);
    if (!names.length) return [];
    const select = make("select", undefined, { id: task });
    select.append(...names.map((name) => make("option", name, { value: name })), make("option", say("none"), { value: "" }));
    if (task in chosen && [...names, ""].includes(chosen[task])) select.value = chosen[task];
    const choice = make("div");
    choice.append(make("label", say(task), { for: task }), select);
    return [choice];
  });
  // With a single model there is nothing to choose.
  $("choices").hidden = models.length === 1;
  $("choices").replaceChildren(...choices);
  $("go").disabled = !choices.length;
}

const choice = (task) => $(task)?.value || null;

// ---- computation

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

// The product of the weights of each term that both have, summed.
function commonTerms(a, b) {
  const weights = new Map(a.indices.map((id, i) => [id, a.values[i]]));
  return b.indices.reduce((sum, id, i) => sum + (weights.get(id) ?? 0) * b.values[i], 0);
}

// For each token of the query the similarity of the most similar token of the text; the mean of
// these.
const lateInteraction = (query, text) =>
  query.length && text.length ? query.reduce((sum, token) => sum + Math.max(...text.map((other) => dot(token, other))), 0) / query.length : 0;

function largestTerms({ indices, values }) {
  return indices.map((id, i) => ({ id, weight: values[i] })).sort((a, b) => b.weight - a.weight).slice(0, SHOWN_TERMS);
}

// Vectors of the query and of the texts, each with the model's own prompt, and all other outputs
// that the model has.
async function embed(model, query, texts) {
  const [first, rest] = await Promise.all([
    ask("v1/outputs", { model, input: [query], input_type: "query" }),
    ask("v1/outputs", { model, input: texts, input_type: "document" }),
  ]);
  const rows = [...first.answer.data, ...rest.answer.data];
  const [head, ...tail] = rows;
  const scores = { dense: tail.map((row) => dot(head.dense, row.dense)) };
  if (head.sparse) scores.sparse = tail.map((row) => commonTerms(head.sparse, row.sparse));
  if (head.colbert) scores.colbert = tail.map((row) => lateInteraction(head.colbert, row.colbert));
  const part = { vectors: rows.map((row) => row.dense), scores, replies: [first, rest] };
  if (head.sparse) {
    const shown = rows.slice(0, SHOWN_TEXTS).map((row) => largestTerms(row.sparse));
    const ids = [...new Set(shown.flat().map((term) => term.id))];
    const names = ids.length ? (await ask("decode", { model, ids: ids.map((id) => [id]) })).answer : [];
    const name = new Map(ids.map((id, i) => [id, names[i] || `#${id}`]));
    const ofQuery = new Set(head.sparse.indices);
    part.terms = shown.map((terms) => terms.map((term) => ({ ...term, name: name.get(term.id), shared: ofQuery.has(term.id) })));
  }
  return part;
}

async function rerank(model, query, texts) {
  const reply = await ask("v1/rerank", { model, query, documents: texts });
  const scores = Array(texts.length).fill(0);
  for (const { index, relevance_score } of reply.answer.results) scores[index] = relevance_score;
  return { scores: { rerank: scores }, replies: [reply] };
}

async function classify(model, query, texts) {
  const reply = await ask("predict", { model, inputs: [query, ...texts].slice(0, SHOWN_TEXTS).map((text) => [text]) });
  return { labels: reply.answer, replies: [reply] };
}

async function compute(event) {
  event.preventDefault();
  const query = $("query").value;
  const texts = $("candidates").value.split("\n").filter((line) => line.trim());
  const status = $("status");
  status.className = texts.length ? "" : "error";
  status.textContent = say(texts.length ? "busy" : "nothing");
  if (!texts.length) return;
  $("go").disabled = true;
  const start = performance.now();
  const work = Object.entries({ embed, rerank, classify }).filter(([task]) => choice(task)).map(([task, run]) => [choice(task), run]);
  const ends = await Promise.allSettled(work.map(([model, run]) => run(model, query, texts)));
  const total = Math.round(performance.now() - start);
  const parts = ends.filter((end) => end.status === "fulfilled").map((end) => end.value);
  const failures = ends.flatMap((end, i) => (end.status === "rejected" ? [`${work[i][0]}: ${end.reason.message}`] : []));
  outcome = { query, texts, failures, total, ...Object.assign({}, ...parts), scores: Object.assign({}, ...parts.map((part) => part.scores)), replies: parts.flatMap((part) => part.replies) };
  if (!(sortBy in outcome.scores)) sortBy = ["rerank", "dense"].find((column) => column in outcome.scores);
  $("go").disabled = false;
  showStatus();
  showResults();
}

// ---- results

function showStatus() {
  const { texts, failures, total, replies } = outcome;
  // Requests run side by side, so their times cannot be added up.
  const times = replies.map(({ headers }) => ["x-inference-time", "x-queue-time"].map((name) => Number(headers.get(name) ?? 0)));
  const [compute, queue] = times.sort((a, b) => b[0] + b[1] - (a[0] + a[1]))[0] ?? [0, 0];
  const tokens = replies.reduce((all, { answer, headers }) => all + (answer.usage?.total_tokens ?? Number(headers.get("x-compute-tokens") ?? 0)), 0);
  const done = { texts: texts.length + 1, tokens, total, compute, queue };
  $("status").className = failures.length ? "error" : "";
  $("status").textContent = [...failures, ...(replies.length ? [say("done")(done)] : [])].join("\n");
}

function showResults() {
  const { scores, vectors, terms, labels } = outcome;
  const parts = { ranking: Object.keys(scores).length > 0, terms: Boolean(terms), labels: Boolean(labels), heatmap: Boolean(vectors), vectors: Boolean(vectors) };
  for (const [name, there] of Object.entries(parts)) $(`${name}-part`).hidden = !there;
  if (parts.ranking) showRanking();
  if (parts.terms) showTerms();
  if (parts.labels) showLabels();
  if (parts.vectors) showHeatmap();
  if (parts.vectors) showVectors();
  $("results").hidden = !Object.values(parts).some(Boolean);
}

function showRanking() {
  const { texts, scores } = outcome;
  const columns = ["rerank", "dense", "sparse", "colbert"].filter((name) => name in scores);
  // On a small screen a row is displayed as a grid, and without these roles a screen reader would
  // not recognize its cells.
  const head = make("tr", undefined, { role: "row" });
  const heading = { scope: "col", role: "columnheader" };
  head.append(make("th", "#", { ...heading, class: "place", "aria-label": say("place") }), make("th", say("text"), { ...heading, class: "text" }));
  head.append(...columns.map((column) => {
    const name = say(`${column}Score`);
    if (columns.length === 1) return make("th", name, { ...heading, class: "score" });
    const cell = make("th", undefined, { ...heading, class: "score", ...(column === sortBy && { "aria-sort": "descending" }) });
    const button = make("button", name, { type: "button" });
    if (column === sortBy) button.append(make("span", " ↓", { "aria-hidden": true }));
    button.addEventListener("click", () => {
      sortBy = column;
      showRanking();
      $("ranking").querySelector("[aria-sort] button").focus();
    });
    cell.append(button);
    return cell;
  }));
  const order = texts.map((_, i) => i).sort((a, b) => scores[sortBy][b] - scores[sortBy][a]);
  const most = Object.fromEntries(columns.map((column) => [column, Math.max(1, ...(column === "sparse" ? scores[column] : []))]));
  const rows = order.map((at, place) => {
    const row = make("tr", undefined, { role: "row" });
    row.append(make("td", `${place + 1}`, { class: "place", role: "cell" }), make("td", texts[at], { class: "text", role: "cell" }));
    row.append(...columns.map((column) => {
      const cell = make("td", number(scores[column][at], 4), { class: "score", role: "cell" });
      cell.append(shaded(make("span", undefined, { class: "bar" }), scores[column][at] / most[column]));
      return cell;
    }));
    return row;
  });
  const [thead, tbody] = [make("thead", undefined, { role: "rowgroup" }), make("tbody", undefined, { role: "rowgroup" })];
  thead.append(head);
  tbody.append(...rows);
  $("ranking").replaceChildren(thead, tbody);
  $("ranking").style.setProperty("--columns", columns.length);
  $("ranking-note").hidden = columns.length === 1;
}

// A text beside a list of items with numbers.
function listed(text, items) {
  const row = make("div", undefined, { class: "terms" });
  const list = make("ul", undefined, { "aria-label": text });
  list.append(...items);
  row.append(make("p", text), list);
  return row;
}

function showTerms() {
  const texts = [outcome.query, ...outcome.texts];
  const most = Math.max(...outcome.terms.flat().map((term) => term.weight), 1e-9);
  $("terms").replaceChildren(...outcome.terms.map((terms, i) => {
    const items = terms.map(({ name, weight, shared }) => {
      const item = make("li", `${name} `, i && shared ? { class: "shared" } : {});
      item.append(make("small", weight.toFixed(2)));
      if (i && shared) item.append(make("span", say("shared"), { class: "unseen" }));
      return shaded(item, weight / most);
    });
    return listed(texts[i], items.length ? items : [shaded(make("li", say("noTerms")), 0)]);
  }));
}

function showLabels() {
  const texts = [outcome.query, ...outcome.texts];
  $("labels").replaceChildren(...outcome.labels.map((labels, i) => listed(texts[i], labels.map(({ label, score }) => {
    const item = make("li", `${label} `);
    item.append(make("small", score.toFixed(2)));
    return shaded(item, score);
  }))));
}

function showHeatmap() {
  const texts = [outcome.query, ...outcome.texts].slice(0, SHOWN_TEXTS);
  const vectors = outcome.vectors.slice(0, SHOWN_TEXTS);
  const name = (i) => (i === 0 ? "Q" : `${i}`);
  const head = make("tr");
  head.append(make("td"), ...texts.map((text, i) => make("th", name(i), { scope: "col", title: text })));
  const rows = texts.map((text, i) => {
    const row = make("tr");
    row.append(make("th", `${name(i)} ${text}`, { scope: "row", title: text }), ...texts.map((_, j) => {
      const score = dot(vectors[i], vectors[j]);
      return shaded(make("td", number(score, 2)), score);
    }));
    return row;
  });
  const [thead, tbody] = [make("thead"), make("tbody")];
  thead.append(head);
  tbody.append(...rows);
  $("heatmap").replaceChildren(thead, tbody);
}

function showVectors() {
  const texts = [outcome.query, ...outcome.texts].slice(0, SHOWN_TEXTS);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const [zero, above, below] = dark ? [[24, 34, 48], [126, 176, 255], [255, 154, 143]] : [[255, 255, 255], [31, 95, 191], [217, 45, 32]];
  $("vectors").replaceChildren(...texts.map((text, i) => {
    const vector = outcome.vectors[i];
    const first = vector.slice(0, 8).map((value) => value.toFixed(4)).join(", ");
    const row = make("div", undefined, { class: "vector" });
    const canvas = make("canvas", undefined, { width: vector.length, height: 1, role: "img", title: `${first}, …`, "aria-label": `${text}: ${say("values")} ${first}` });
    const context = canvas.getContext("2d");
    const image = context.createImageData(vector.length, 1);
    const largest = Math.max(...vector.map(Math.abs));
    vector.forEach((value, at) => {
      const strength = Math.abs(value) / largest;
      const colour = value > 0 ? above : below;
      image.data.set([...zero.map((base, c) => base + (colour[c] - base) * strength), 255], 4 * at);
    });
    context.putImageData(image, 0, 0);
    row.append(make("span", text, { title: text }), canvas);
    return row;
  }));
}

// ---- language and events

function speak() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  $("language").textContent = say("other");
  $("language").lang = say("otherLang");
  showModels();
  showChoices();
  if (outcome) showStatus();
  if (outcome) showResults();
}

function example() {
  const [query, ...texts] = say("sample");
  return [query, texts.join("\n")];
}

function fill() {
  [$("query").value, $("candidates").value] = example();
}

$("form").addEventListener("submit", compute);
$("key").addEventListener("change", describe);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => outcome && showResults());
$("language").addEventListener("click", () => {
  const [query, texts] = example();
  const untouched = $("query").value === query && $("candidates").value === texts;
  language = language === "zh" ? "en" : "zh";
  speak();
  // Text that the user has entered is kept.
  if (untouched) fill();
});
speak();
fill();
describe();
