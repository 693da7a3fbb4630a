// Tests Hugging Face's client and the Vercel AI SDK against the server at the address in argv[2].
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { InferenceClient } from "@huggingface/inference";
import { cosineSimilarity, embed, embedMany } from "ai";

const url = process.argv[2];
const texts = ["How do I return a kettle?", "The weather is lovely today.", "怎么退货？"];
const plain = async (body) => (await fetch(`${url}/embed`, { method: "POST", body: JSON.stringify(body) })).json();
const expected = await plain({ inputs: texts });

for (const endpointUrl of [url, `${url}/embed`]) {
  const client = new InferenceClient("none", { endpointUrl });
  assert.deepEqual(await client.featureExtraction({ inputs: texts }), expected);
  assert.deepEqual(await client.featureExtraction({ inputs: texts, normalize: false }), await plain({ inputs: texts, normalize: false }));
  assert.deepEqual(
    await client.featureExtraction({ inputs: "kettle ".repeat(900), truncate: true, truncation_direction: "left" }),
    await plain({ inputs: "kettle ".repeat(900), truncation_direction: "left" }),
  );
  await assert.rejects(client.featureExtraction({ inputs: "a", prompt_name: "nonsense" }), /prompt_name.*nonsense/);
}
const scores = await new InferenceClient("none", { endpointUrl: url }).sentenceSimilarity({
  inputs: { source_sentence: texts[0], sentences: texts.slice(1) },
});
scores.forEach((score, i) => assert.ok(Math.abs(score - cosineSimilarity(expected[0], expected[i + 1])) < 1e-6));
console.log("@huggingface/inference: passed");

const provider = createOpenAICompatible({ name: "gte", baseURL: `${url}/v1`, apiKey: "none" });
const model = provider.textEmbeddingModel("any");
assert.deepEqual((await embed({ model, value: texts[0] })).embedding, expected[0]);
const many = await embedMany({ model, values: texts });
assert.deepEqual(many.embeddings, expected);
assert.ok(many.usage.tokens > 10);
const short = await embed({ model, value: "a", providerOptions: { gte: { dimensions: 64 } } });
assert.equal(short.embedding.length, 64);
await assert.rejects(
  embed({ model, value: "a", maxRetries: 0, providerOptions: { gte: { dimensions: 9999 } } }),
  (e) => e.statusCode === 422 && /dimensions/.test(e.message) && e.isRetryable === false,
);
console.log("ai: passed");
