// Tests the page in a real Chromium: node page.mjs URL FOLDER. Screenshots are written to FOLDER.
// The expectations come from /info, so run it with one model and with several.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [url, folder] = process.argv.slice(2);
const get = async (path) => (await fetch(`${url}/${path}`)).json();
const models = await Promise.all((await get("v1/models")).data.map(({ id }) => get(`info?model=${encodeURIComponent(id)}`)));
const has = (kind) => models.some((model) => kind in model.model_type);
const embedder = models.find((model) => "embedding" in model.model_type);
const name = models.length === 1 ? "page" : "page-models";
// The number of score columns in the ranking, with this embedder.
const columns = (embedder) => [has("reranker"), true, embedder.sparse, embedder.colbert].filter(Boolean).length;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const problems = [];

async function open(options) {
  const page = await browser.newPage({ deviceScaleFactor: 1, ...options });
  page.on("pageerror", (e) => problems.push(String(e)));
  page.on("console", (m) => m.type() === "error" && problems.push(m.text()));
  page.on("request", (r) => !r.url().startsWith(url) && !r.url().startsWith("data:") && problems.push(`asks elsewhere: ${r.url()}`));
  await page.goto(url);
  await page.waitForFunction((count) => document.querySelectorAll("#models li").length === count && !document.querySelector("#go").disabled, models.length);
  return page;
}

async function computed(page, act) {
  await page.evaluate(() => { document.querySelector("#status").textContent = ""; });
  await act();
  await page.waitForFunction(() => /ms|毫秒/.test(document.querySelector("#status").textContent));
  assert.equal(await page.getAttribute("#status", "class"), "", await page.textContent("#status"));
}

// Nothing is cut off, and the page does not scroll sideways.
async function fits(page, width) {
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width, `the page is wider than ${width}`);
}

try {
  for (const [width, height, colorScheme] of [[1280, 900, "light"], [1280, 900, "dark"], [390, 844, "light"], [390, 844, "dark"]]) {
    const page = await open({ locale: "zh-CN", viewport: { width, height }, colorScheme });
    assert.equal(await page.textContent("#go"), "计算");
    assert.ok((await page.textContent("#models")).includes(`${embedder.dimension} 维`), "the models are described");
    await computed(page, () => page.click("#go"));
    assert.equal(await page.locator("#ranking tbody tr").count(), 4);
    assert.equal(await page.locator("#ranking tbody tr").first().locator(".score").count(), columns(embedder));
    assert.equal(await page.locator("#heatmap tr").count(), 6);
    assert.equal(await page.locator("#vectors canvas").count(), 5);
    assert.equal(await page.isVisible("#terms-part"), embedder.sparse);
    assert.equal(await page.isVisible("#labels-part"), has("classifier"));
    assert.equal(await page.locator("#rerank").count(), has("reranker") ? 1 : 0);
    await fits(page, width);
    await page.screenshot({ path: `${folder}/${name}-${width}-${colorScheme}.png`, fullPage: true });
    await page.close();
  }

  // Without a mouse, by the names that a screen reader says. Texts are shown as text, whatever they
  // contain.
  const page = await open({ locale: "en-US", viewport: { width: 1280, height: 900 } });
  await page.getByLabel("Query").fill("How can I get my money back?");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "candidates", "the texts come after the query");
  await page.getByLabel("Texts, one per line").fill("The weather is lovely today.\nRefunds are paid within three days.\n\n<b>not bold</b>");
  await page.getByLabel("Query").focus();
  await computed(page, () => page.keyboard.press("Enter"));
  assert.match(await page.textContent("#status"), /4 texts, \d+ tokens, \d+ ms/);
  const ranking = page.getByRole("table", { name: "Ranking" });
  const rows = ranking.locator("tbody tr");
  assert.equal(await rows.count(), 3);
  assert.equal(await page.locator("#results b").count(), 0, "texts are shown as text");
  // The model puts these texts in the right order by their cosine. If there is a reranker, its
  // order is shown first.
  const falls = async (column) => {
    const scores = (await rows.locator(`.score:nth-of-type(${column + 2})`).allTextContents()).map(Number);
    assert.deepEqual(scores, scores.toSorted((a, b) => b - a), "best first");
  };
  await falls(1);
  if (columns(embedder) > 1) {
    await ranking.getByRole("button", { name: /^Cosine/ }).focus();
    await page.keyboard.press("Enter");
    assert.match(await ranking.locator("[aria-sort=descending]").textContent(), /^Cosine/);
    assert.match(await page.evaluate(() => document.activeElement.textContent), /^Cosine/, "the focus stays");
    await falls(2);
  }
  assert.ok((await rows.first().textContent()).includes("Refunds are paid"), await rows.first().textContent());
  // Every control has a name.
  for (const control of await page.locator("input, textarea, select, button, canvas, table, [tabindex]").all()) {
    const element = await control.evaluate((e) => ({ html: e.outerHTML.slice(0, 80), name: e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.labels?.[0]?.textContent || e.textContent }));
    assert.ok(element.name.trim(), `no name: ${element.html}`);
  }

  // Another model with the same task may be chosen, or none; then its part of the results
  // disappears.
  const sparse = models.find((model) => model.sparse);
  if (sparse) {
    await page.getByLabel("Embedding model").selectOption(sparse.served_model_name);
    await computed(page, () => page.click("#go"));
    assert.equal(await rows.first().locator(".score").count(), columns(sparse));
    assert.equal(await page.locator("#terms .terms").count(), 4);
    assert.ok((await page.locator("#terms li").count()) >= 4, "every text has terms, or says that it has none");
    await page.screenshot({ path: `${folder}/${name}-terms-1280.png`, fullPage: true });
    await page.setViewportSize({ width: 390, height: 844 });
    await fits(page, 390);
    await page.screenshot({ path: `${folder}/${name}-terms-390.png`, fullPage: true });
  }
  if (has("reranker")) {
    await page.getByLabel("Reranking model").selectOption("");
    await computed(page, () => page.click("#go"));
    assert.equal(await ranking.getByRole("button", { name: /^Reranker/ }).count(), 0, "no column for a model that was not used");
  }
  // What the user has entered survives a change of the language.
  await page.click("#language");
  assert.equal(await page.getByLabel("查询").inputValue(), "How can I get my money back?");
  assert.equal(await page.evaluate(() => document.documentElement.lang), "zh");
  await page.close();

  const docs = await open({ locale: "en-US", viewport: { width: 1280, height: 900 } });
  await docs.goto(`${url}/docs/`);
  await docs.waitForSelector(".opblock");
  assert.ok((await docs.locator(".opblock").count()) >= 13, "the operations are listed");
  await docs.screenshot({ path: `${folder}/docs.png` });
  assert.deepEqual(problems, []);
} finally {
  await browser.close();
}
console.log(`page: passed with ${models.length === 1 ? "one model" : `${models.length} models`}`);
