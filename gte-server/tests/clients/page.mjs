// The page in a real Chromium: node page.mjs URL FOLDER; writes screenshots to FOLDER.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [url, folder] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const page = await browser.newPage({ locale: "zh-CN", viewport: { width: 1000, height: 1400 } });
  const problems = [];
  page.on("pageerror", (e) => problems.push(String(e)));
  page.on("console", (m) => m.type() === "error" && problems.push(m.text()));
  page.on("request", (r) => !r.url().startsWith(url) && !r.url().startsWith("data:") && problems.push(`asks elsewhere: ${r.url()}`));
  await page.goto(url);
  await page.waitForFunction(() => document.querySelector("#model").textContent.includes("384"));
  assert.equal(await page.textContent("#go"), "计算");
  await page.click("#go");
  await page.waitForSelector("#results:not([hidden])");
  assert.equal(await page.locator("#ranking li").count(), 4);
  assert.equal(await page.locator("#heatmap tr").count(), 6);
  assert.equal(await page.locator("#vectors canvas").count(), 5);
  await page.screenshot({ path: `${folder}/page-zh.png`, fullPage: true });

  // English, with texts that the model knows well: the order must be right.
  await page.click("#language");
  await page.fill("#query", "How can I get my money back?");
  await page.fill("#candidates", "The weather is lovely today.\nRefunds are paid within three days.\n\n<b>not bold</b>");
  await page.click("#go");
  await page.waitForFunction(() => document.querySelectorAll("#ranking li").length === 3);
  const first = await page.locator("#ranking li").first().textContent();
  assert.ok(first.includes("Refunds are paid"), first);
  assert.equal(await page.locator("#results b").count(), 0, "texts are shown as text");
  assert.match(await page.textContent("#status"), /4 texts, \d+ tokens, \d+ ms/);
  await page.screenshot({ path: `${folder}/page-en.png`, fullPage: true });

  await page.goto(`${url}/docs/`);
  await page.waitForSelector(".opblock");
  assert.ok((await page.locator(".opblock").count()) >= 13, "the operations are listed");
  await page.screenshot({ path: `${folder}/docs.png` });
  assert.deepEqual(problems, []);
} finally {
  await browser.close();
}
console.log("page: passed");
