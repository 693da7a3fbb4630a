// The page: texts → /v1/embeddings → ranking, heat map, vectors. Nothing is loaded from elsewhere.
"use strict";

const TEXTS = {
  zh: {
    docs: "接口文档", metrics: "监控指标", other: "English", query: "查询", candidates: "候选文本（每行一条）", key: "API 密钥（如需要）",
    go: "计算", ranking: "排序", heatmap: "相似度热图", vectors: "向量预览", vectorsNote: "每格一个数：蓝色为正，红色为负，颜色越深绝对值越大。",
    busy: "计算中…", done: (t) => `${t.texts} 条文本，${t.tokens} 个词元，往返 ${t.total} 毫秒，其中计算 ${t.compute} 毫秒，排队 ${t.queue} 毫秒`,
    model: (i) => `${i.model_id} · ${i.dimension} 维 · ${i.model_dtype} · ${i.isa}`,
    sample: ["怎样退货？", "七天内可以无理由退货，请保留包装。", "今天天气真好，适合出去散步。", "退款一般在三个工作日内到账。", "How can I send an item back?"],
  },
  en: {
    docs: "API", metrics: "Metrics", other: "中文", query: "Query", candidates: "Candidates, one a line", key: "API key, if one is needed",
    go: "Compute", ranking: "Ranking", heatmap: "Similarity", vectors: "Vectors", vectorsNote: "One cell a value: blue is positive, red negative, deeper is larger.",
    busy: "Computing…", done: (t) => `${t.texts} texts, ${t.tokens} tokens, ${t.total} ms there and back: ${t.compute} ms computing, ${t.queue} ms queued`,
    model: (i) => `${i.model_id} · ${i.dimension} dimensions · ${i.model_dtype} · ${i.isa}`,
    sample: ["How can I return an item?", "Items can be sent back within seven days; keep the box.", "The weather is lovely, let us take a walk.", "Refunds arrive within three working days.", "怎样退货？"],
  },
};
const $ = (id) => document.getElementById(id);
let language = (navigator.language || "zh").startsWith("zh") ? "zh" : "en";
let info = null;

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function speak() {
  const texts = TEXTS[language];
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = texts[element.dataset.text];
  $("language").textContent = texts.other;
  if (info) $("model").textContent = texts.model(info);
}

function sample() {
  const [query, ...candidates] = TEXTS[language].sample;
  $("query").value = query;
  $("candidates").value = candidates.join("\n");
}

function headers() {
  const key = $("key").value;
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

async function ask(path, options) {
  const response = await fetch(path, { headers: headers(), ...options });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.message || body.error || `HTTP ${response.status}`);
  return [body, response.headers];
}

async function describe() {
  try {
    [info] = await ask("info");
    $("model").textContent = TEXTS[language].model(info);
  } catch (error) {
    $("model").textContent = error.message;
  }
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

function showRanking(texts, vectors) {
  const scored = texts.slice(1).map((text, i) => ({ text, score: dot(vectors[0], vectors[i + 1]) }));
  scored.sort((a, b) => b.score - a.score);
  $("ranking").replaceChildren(...scored.map(({ text, score }, i) => {
    const row = make("li");
    const meter = make("meter");
    Object.assign(meter, { min: 0, max: 1, value: Math.max(0, score) });
    row.append(make("span", `${i + 1}`), make("span", text), make("span", score.toFixed(4), "score"), meter);
    return row;
  }));
}

function showHeatmap(texts, vectors) {
  const head = make("tr");
  head.append(make("th"), ...texts.map((_, i) => make("th", i === 0 ? "Q" : `${i}`)));
  const rows = texts.map((text, i) => {
    const row = make("tr");
    const label = make("th", `${i === 0 ? "Q" : i} ${text}`);
    label.title = text;
    row.append(label, ...texts.map((_, j) => {
      const score = dot(vectors[i], vectors[j]);
      const cell = make("td", score.toFixed(2));
      const strength = Math.max(0, Math.min(1, score));
      cell.style.background = `hsl(215 70% ${95 - 55 * strength}%)`;
      cell.style.color = strength > 0.55 ? "#fff" : "#1c2330";
      return cell;
    }));
    return row;
  });
  $("heatmap").replaceChildren(head, ...rows);
}

function showVectors(texts, vectors) {
  $("vectors").replaceChildren(...vectors.map((vector, i) => {
    const row = make("div", undefined, "vector");
    const label = make("span", texts[i]);
    label.title = texts[i];
    const canvas = make("canvas");
    Object.assign(canvas, { width: vector.length, height: 1, title: vector.slice(0, 8).map((v) => v.toFixed(4)).join(", ") + ", …" });
    const context = canvas.getContext("2d");
    const image = context.createImageData(vector.length, 1);
    const largest = Math.max(...vector.map(Math.abs));
    vector.forEach((value, at) => {
      const strength = Math.abs(value) / largest;
      const colour = value > 0 ? [31, 95, 191] : [217, 45, 32];
      image.data.set([...colour.map((c) => 255 - (255 - c) * strength), 255], 4 * at);
    });
    context.putImageData(image, 0, 0);
    row.append(label, canvas);
    return row;
  }));
}

async function compute(event) {
  event.preventDefault();
  const texts = [$("query").value, ...$("candidates").value.split("\n").filter((line) => line.trim())];
  const status = $("status");
  status.className = "";
  status.textContent = TEXTS[language].busy;
  $("go").disabled = true;
  try {
    const start = performance.now();
    const [body, answer] = await ask("v1/embeddings", { method: "POST", body: JSON.stringify({ input: texts }) });
    const total = Math.round(performance.now() - start);
    const vectors = body.data.map((item) => item.embedding);
    showRanking(texts, vectors);
    showHeatmap(texts, vectors);
    showVectors(texts, vectors);
    $("results").hidden = false;
    const time = (name) => answer.get(name);
    status.textContent = TEXTS[language].done({ texts: texts.length, tokens: body.usage.total_tokens, total, compute: time("x-inference-time"), queue: time("x-queue-time") });
  } catch (error) {
    status.className = "error";
    status.textContent = error.message;
  } finally {
    $("go").disabled = false;
  }
}

$("form").addEventListener("submit", compute);
$("key").addEventListener("change", describe);
$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  speak();
  sample();
});
speak();
sample();
describe();
