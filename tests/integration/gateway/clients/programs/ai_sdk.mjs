// The AI SDK with its provider for OpenAI: over Responses, its default, and over chat.

import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import * as ai from "ai";
import { run, testCase } from "./reporting.mjs";
import { checkProvider } from "./ai_cases.mjs";

const openai = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY });

checkProvider(
  (name) => openai(name),
  (name) => openai.chat(name),
);

testCase("`previousResponseId`", async () => {
  const first = await ai.generateText({ model: openai("scripted-text"), prompt: "One" });
  const second = await ai.generateText({
    model: openai("scripted-text"),
    prompt: "Two",
    providerOptions: {
      openai: { previousResponseId: first.providerMetadata.openai.responseId },
    },
  });
  assert.equal(second.text, "3 messages, the last one: Two");
});

testCase("`experimental_startBatch`, its status and its results", async () => {
  const requests = [{ id: "a", type: "text", model: "scripted-text", prompt: "Hello" }];
  const batch = await ai.experimental_startBatch({ provider: openai, requests });
  const deadline = Date.now() + 90_000;
  let state = batch;
  while (state.status === "pending") {
    assert(Date.now() < deadline, JSON.stringify(state));
    await new Promise((resolve) => setTimeout(resolve, 200));
    state = await ai.experimental_getBatchStatus({ provider: openai, batch });
  }
  assert.equal(state.status, "completed");
  const results = [];
  for await (const result of ai.experimental_getBatchResults({ provider: openai, batch })) {
    results.push([result.id, result.status, result.text]);
  }
  assert.deepEqual(results, [["a", "succeeded", "1 messages, the last one: Hello"]]);
});

await run();
