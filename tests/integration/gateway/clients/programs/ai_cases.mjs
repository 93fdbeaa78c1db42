// What each provider of the AI SDK does.

import assert from "node:assert/strict";
import * as ai from "ai";
import { z } from "zod";
import { REAL, THOUGHT, testCase } from "./reporting.mjs";

const Weather = z.object({ city: z.string(), sky: z.enum(["clear", "cloudy"]) });
const weatherTool = ai.tool({
  description: "The weather of the next days.",
  inputSchema: z.object({ city: z.string(), days: z.number().int() }),
  execute: async ({ city, days }) => `rain in ${city} for ${days} days`,
});

/** Register the cases; each runs with all of `models`, functions from a name to a model. */
export function checkProvider(...models) {
  const each = (check) => async () => {
    for (const model of models) await check(model);
  };

  testCase("three turns of a chat", each(async (model) => {
    const messages = [];
    for (const content of ["One", "Two", "Three"]) {
      messages.push({ role: "user", content });
      const { text, response } = await ai.generateText({ model: model("scripted-text"), messages });
      messages.push(...response.messages);
      assert.match(text, new RegExp(`: ${content}$`));
    }
    assert.equal(messages.length, 6);
  }));

  testCase("`streamText` with a tool, its result, and the answer", each(async (model) => {
    const result = ai.streamText({
      model: model("scripted-tools"),
      prompt: "What is the weather in Paris?",
      tools: { get_weather: weatherTool },
      stopWhen: ai.stepCountIs(3),
    });
    const kinds = new Set();
    for await (const part of result.fullStream) {
      if (part.type === "error") throw part.error;
      kinds.add(part.type);
    }
    assert.equal(await result.text, "The tool said: rain in Paris for 7 days");
    assert.equal((await result.steps).length, 2);
    for (const kind of ["tool-input-start", "tool-input-delta", "tool-call", "tool-result"]) {
      assert(kinds.has(kind), [...kinds].join());
    }
  }));

  testCase("`generateObject`, real model", each(async (model) => {
    const { object } = await ai.generateObject({
      model: model(REAL),
      schema: Weather,
      prompt: "What is the weather in Paris?",
      maxOutputTokens: 100,
    });
    Weather.parse(object);
  }));

  testCase("`Output.object`, streamed, real model", each(async (model) => {
    const result = ai.streamText({
      model: model(REAL),
      output: ai.Output.object({ schema: Weather }),
      prompt: "What is the weather in Paris?",
      maxOutputTokens: 100,
    });
    Weather.parse(await result.output);
  }));

  testCase("reasoning, and a second turn after it", each(async (model) => {
    const messages = [{ role: "user", content: "A number?" }];
    const first = await ai.generateText({ model: model("scripted-reasoning"), messages });
    assert.equal(first.text, "Seven.");
    messages.push(...first.response.messages, { role: "user", content: "Again?" });
    const second = ai.streamText({ model: model("scripted-reasoning"), messages });
    assert.equal(await second.text, "Seven.");
  }));
}
