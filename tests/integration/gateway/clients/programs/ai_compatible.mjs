// The AI SDK with its provider for services that are compatible with OpenAI.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { run } from "./reporting.mjs";
import { checkProvider } from "./ai_cases.mjs";

const provider = createOpenAICompatible({
  name: "darkq",
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});

checkProvider((name) => provider(name));

await run();
