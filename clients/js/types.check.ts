// Compiled by `npm run types`, never run: what a caller may write, and what is an error.
import { cancel, DarkqError, follow, type JobEvent, type LineEnded, type Usage } from "@darkq/client";

let text = "";
let usage: Usage | undefined;

/** Return whether to stop. The compiler requires a case for every type of event. */
function onEvent(event: JobEvent): boolean {
  switch (event.type) {
    case "started":
      text = "";
      return false;
    case "chunk":
    case "reasoning":
    case "refusal":
      text += event.text;
      return false;
    case "tool_call":
      text = text.concat(event.arguments ?? event.name ?? "");
      return event.index > 0;
    case "completed":
      usage = event.usage;
      return usage?.completion_tokens === 0;
    case "failed":
      return event.code === "model_unknown";
    case "retrying":
      return event.retry_in_s > 60;
    case "queued":
    case "cancelled":
      return event.at_ms === 0;
    default:
      return event satisfies never;
  }
}

const last: string = await follow("/jobs/1/events", {
  onEvent,
  onState: (state) => console.log(state === "live"),
  after: "1-0",
  keep: "darkq:1",
  ticket: async () => (await fetch("/ticket")).text(),
  signal: AbortSignal.timeout(1000),
});
await follow<LineEnded>("/batches/1/events", { onEvent: (end) => void end.outcome, after: last });
await follow("/jobs/1/events", { onEvent: (event, id) => event.id === id, headers: { Authorization: "Bearer k" } });
const { state } = await cancel("/jobs/1/cancel", { ticket: "t", fetch: (url, options) => fetch(url, options) });
console.log(state, text, new DarkqError(503).canRetry);
await cancel("/jobs/1/cancel").catch((error: unknown) => {
  if (error instanceof DarkqError) console.log(error.status + error.retryAfterS, error.code.length, error.message);
});

// @ts-expect-error: `onEvent` is required.
await follow("/jobs/1/events", {});
// @ts-expect-error: no event has this type.
await follow("/jobs/1/events", { onEvent: (event) => event.type === "begun" });
// @ts-expect-error: only some events have a text.
await follow("/jobs/1/events", { onEvent: (event) => void event.text });
// @ts-expect-error: a ticket is a string, or a function that returns one.
await follow("/jobs/1/events", { onEvent, ticket: { id: "t" } });
// @ts-expect-error: there is no other state.
await follow("/jobs/1/events", { onEvent, onState: (state) => state === "lost" });
// @ts-expect-error: the status of an error does not change.
new DarkqError(503).status = 200;
