// Tests OpenAI's client in a page of another origin, in a real Chromium: node openai_browser.mjs
// URL KEY. The server must run with --cors-origin '*'.
import assert from "node:assert/strict";
import http from "node:http";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const [url, apiKey] = process.argv.slice(2);
const script = `import OpenAI from "openai"; window.OpenAI = OpenAI;`;
const bundle = await build({ stdin: { contents: script, resolveDir: import.meta.dirname }, bundle: true, write: false, format: "iife", platform: "browser" });
const files = { "/": ["text/html", '<script src="/client.js"></script>'], "/client.js": ["text/javascript", bundle.outputFiles[0].text] };
const site = http.createServer((request, response) => {
  const [kind, content] = files[request.url] ?? ["text/plain", ""];
  response.writeHead(200, { "content-type": kind }).end(content);
});
await new Promise((done) => site.listen(0, "127.0.0.1", done));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const page = await browser.newPage();
  // `localhost` and `127.0.0.1` are different origins.
  await page.goto(`http://localhost:${site.address().port}/`);
  const found = await page.evaluate(async ([baseURL, apiKey]) => {
    const client = new window.OpenAI({ baseURL, apiKey, maxRetries: 0, dangerouslyAllowBrowser: true, defaultHeaders: { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" } });
    const many = await client.embeddings.create({ model: "gte", input: ["a", "b"] });
    const models = await client.models.list();
    const model = await client.models.retrieve(models.data[0].id);
    const wrong = await client.embeddings.create({ model: "gte", input: [] }).then(() => null, (e) => ({ status: e.status, param: e.param }));
    const stranger = new window.OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0, dangerouslyAllowBrowser: true });
    const refused = await stranger.embeddings.create({ model: "gte", input: "a" }).then(() => null, (e) => ({ status: e.status, message: e.message }));
    const raw = await client.embeddings.create({ model: "gte", input: "a" }).asResponse();
    return { lengths: many.data.map((d) => d.embedding.length), id: model.id, wrong, refused, tokens: raw.headers.get("x-compute-tokens") };
  }, [`${url}/v1`, apiKey]);
  assert.deepEqual(found.lengths, [384, 384]);
  assert.ok(found.id);
  assert.deepEqual(found.wrong, { status: 422, param: "input" });
  assert.equal(found.refused.status, 401);
  assert.match(found.refused.message, /API key/);
  assert.equal(found.tokens, "3", "the page may read the response's headers");
} finally {
  await browser.close();
  site.close();
}
console.log("openai in Chromium: passed");
