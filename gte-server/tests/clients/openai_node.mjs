// Tests the official Node client against the server at the address in argv[2].
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const one = await client.embeddings.create({ model: "gte", input: "How do I return a kettle?" });
const plain = await client.embeddings.create({ model: "gte", input: "How do I return a kettle?", encoding_format: "float" });
assert.equal(one.data[0].embedding.length, 384);
// Base64 contains every bit; the numbers in JSON are the shortest that give the same f32.
assert.deepEqual(one.data[0].embedding.map(Math.fround), plain.data[0].embedding.map(Math.fround));
const many = await client.embeddings.create({ model: "gte", input: ["a", "b"] });
assert.deepEqual(many.data.map((item) => item.index), [0, 1]);
assert.equal((await client.embeddings.create({ model: "gte", input: "a", dimensions: 32 })).data[0].embedding.length, 32);
await assert.rejects(client.embeddings.create({ model: "gte", input: [] }), (e) => e.status === 422 && e.param === "input");
console.log("openai-node: passed");
