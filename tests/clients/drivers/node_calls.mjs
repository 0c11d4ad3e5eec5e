// The official Node client. Arguments as for calls.py; it is found beside the environment that it was installed into.
import { createRequire } from "node:module";

const [engine, gateway, key, home] = process.argv.slice(2);
const require = createRequire(`${home}/`);
const OpenAI = require("openai");
const { version } = require(`${home}/node_modules/openai/package.json`);
const question = "Where does Anna Tovberg live?";
const messages = [{ role: "user", content: question }];
const schema = {
  type: "object", properties: { kind: { type: "string", enum: ["town", "village"] } }, required: ["kind"], additionalProperties: false,
};

const joined = async (stream, text) => {
  let whole = "";
  for await (const event of stream) whole += text(event) ?? "";
  return whole;
};

const calls = {
  "models, listed": async ({ client }) => (await client.models.list()).data.length,
  "models, one": async ({ client, model }) => (await client.models.retrieve(model)).id,
  "chat": async ({ client, model }) => (await client.chat.completions.create({ model, messages, max_tokens: 8, temperature: 0 })).choices[0].message.content,
  "chat, streamed": async ({ client, model }) => joined(
    await client.chat.completions.create({ model, messages, max_tokens: 8, temperature: 0, stream: true }), (chunk) => chunk.choices[0]?.delta?.content),
  "chat, stream helper": async ({ client, model }) => client.chat.completions.stream({ model, messages, max_tokens: 8, temperature: 0 }).finalContent(),
  "chat, JSON schema": async ({ client, model }) => JSON.parse((await client.chat.completions.create({
    model, messages, max_tokens: 40, response_format: { type: "json_schema", json_schema: { name: "place", strict: true, schema } },
  })).choices[0].message.content).kind,
  "responses": async ({ client, model }) => (await client.responses.create({ model, input: question, max_output_tokens: 8, temperature: 0 })).output_text,
  "responses, streamed": async ({ client, model }) => joined(
    await client.responses.create({ model, input: question, max_output_tokens: 8, temperature: 0, stream: true }),
    (event) => (event.type === "response.output_text.delta" ? event.delta : "")),
};

for (const [server, baseURL, model] of [["engine", engine, "base"], ["gateway", gateway, "distilledprag"]]) {
  const client = new OpenAI({ baseURL, apiKey: key, maxRetries: 0 });
  for (const [call, make] of Object.entries(calls)) {
    let result;
    try {
      const made = await make({ client, model });
      result = made ? "answered" : `empty: ${made}`;
    } catch (error) {
      result = error.status && error.status < 500 ? `refused: ${error.status} ${error.param ?? ""}`.trim() : `failed: ${String(error).slice(0, 300)}`;
    }
    console.log(JSON.stringify({ client: "openai (Node)", version, server, call, result }));
  }
}
