// OpenAI's SDK for JavaScript.

import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { zodFunction, zodResponseFormat, zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { REAL, THOUGHT, run, testCase } from "./reporting.mjs";

const client = new OpenAI({ maxRetries: 0 });
const messages = [{ role: "user", content: "What is the weather in Paris?" }];
const Weather = z.object({ city: z.string(), sky: z.enum(["clear", "cloudy"]) });
const Trip = z.object({ city: z.string(), days: z.int() });
const tool = zodFunction({ name: "get_weather", parameters: Trip });

testCase("`chat.completions.parse` with a zod schema, real model", async () => {
  const answer = await client.chat.completions.parse({
    model: REAL,
    messages,
    max_completion_tokens: 100,
    response_format: zodResponseFormat(Weather, "weather"),
  });
  Weather.parse(answer.choices[0].message.parsed);
});

testCase("`chat.completions.stream` with tools", async () => {
  const stream = client.chat.completions.stream({ model: "scripted-parallel", messages, tools: [tool] });
  const done = [];
  stream.on("tool_calls.function.arguments.done", (event) => done.push(event.parsed_arguments));
  const answer = await stream.finalChatCompletion();
  assert.deepEqual(done, [{ city: "Paris", days: 7 }]);
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
});

testCase("`chat.completions.runTools`", async () => {
  const runner = client.chat.completions.runTools({
    model: "scripted-tools",
    messages,
    tools: [
      zodFunction({ name: "get_weather", parameters: Trip, function: ({ city }) => `rain in ${city}` }),
    ],
  });
  assert.equal(await runner.finalContent(), "The tool said: rain in Paris");
});

testCase("reasoning and a refusal in chat", async () => {
  let answer = await client.chat.completions.create({ model: "scripted-reasoning", messages });
  assert.equal(answer.choices[0].message.reasoning_content, THOUGHT);
  answer = await client.chat.completions.parse({
    model: "scripted-refusal",
    messages,
    response_format: zodResponseFormat(Weather, "weather"),
  });
  assert.equal(answer.choices[0].message.refusal, "I cannot help with that.");
});

testCase("`responses.parse` with a zod schema, real model", async () => {
  const answer = await client.responses.parse({
    model: REAL,
    input: "What is the weather in Paris?",
    max_output_tokens: 100,
    text: { format: zodTextFormat(Weather, "weather") },
  });
  Weather.parse(answer.output_parsed);
});

testCase("`responses.stream` with a tool, its result, and the answer", async () => {
  const tools = [zodResponsesFunction({ name: "get_weather", parameters: Trip })];
  const input = [{ role: "user", content: "What is the weather in Paris?" }];
  const stream = client.responses.stream({ model: "scripted-tools", input, tools });
  let pieces = "";
  stream.on("response.function_call_arguments.delta", (event) => (pieces += event.delta));
  const first = await stream.finalResponse();
  const call = first.output.find((item) => item.type === "function_call");
  assert.equal(pieces, call.arguments);
  assert.deepEqual(call.parsed_arguments, { city: "Paris", days: 7 });
  const output = { type: "function_call_output", call_id: call.call_id, output: "rain" };
  const { parsed_arguments: _, ...plainCall } = call;
  const answer = await client.responses.create({
    model: "scripted-tools",
    input: [...input, plainCall, output],
    tools,
  });
  assert.equal(answer.output_text, "The tool said: rain");
});

testCase("reasoning over Responses, and `previous_response_id`", async () => {
  const first = await client.responses.create({ model: "scripted-reasoning", input: "A number?" });
  assert.deepEqual(
    first.output.map((item) => item.type),
    ["reasoning", "message"],
  );
  const second = await client.responses.create({
    model: "scripted-text",
    input: "Two",
    previous_response_id: first.id,
  });
  assert.equal(second.output_text, "3 messages, the last one: Two");
});

testCase("a batch by files: a schema with a real model, a tool", async () => {
  const bodies = {
    schema: {
      model: REAL,
      messages,
      max_completion_tokens: 100,
      response_format: zodResponseFormat(Weather, "weather"),
    },
    tool: { model: "scripted-tools", messages, tools: [tool] },
  };
  const lines = Object.entries(bodies).map(([custom_id, body]) =>
    JSON.stringify({ custom_id, method: "POST", url: "/v1/chat/completions", body }),
  );
  const file = await client.files.create({
    file: await toFile(Buffer.from(lines.join("\n")), "requests.jsonl"),
    purpose: "batch",
  });
  let batch = await client.batches.create({
    input_file_id: file.id,
    endpoint: "/v1/chat/completions",
    completion_window: "24h",
  });
  const deadline = Date.now() + 200_000;
  while (!["completed", "failed", "expired", "cancelled"].includes(batch.status)) {
    assert(Date.now() < deadline, JSON.stringify(batch));
    await new Promise((resolve) => setTimeout(resolve, 200));
    batch = await client.batches.retrieve(batch.id);
  }
  assert(batch.output_file_id, JSON.stringify(batch));
  const output = await (await client.files.content(batch.output_file_id)).text();
  const answers = Object.fromEntries(
    output
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
      .map((line) => [line.custom_id, line.response.body.choices[0].message]),
  );
  Weather.parse(JSON.parse(answers.schema.content));
  const call = answers.tool.tool_calls[0].function;
  assert.deepEqual(JSON.parse(call.arguments), { city: "Paris", days: 7 });
});

await run();
