// Compiled by `npm run types`, never run: what a caller may write.
import { cancel, DarkqError, follow, type JobEvent, type LineEnded } from "./darkq.js";

let text = "";
const onEvent = (event: JobEvent): boolean => {
  if (event.type === "started") text = "";
  if (event.type === "chunk") text += event.text;
  return event.type === "failed" && event.code === "model_unknown";
};
const last: string = await follow("/jobs/1/events", {
  onEvent,
  onState: (state) => console.log(state === "live"),
  after: "1-0",
  keep: "darkq:1",
  ticket: async () => (await fetch("/ticket")).text(),
  signal: AbortSignal.timeout(1000),
});
await follow<LineEnded>("/batches/1/events", { onEvent: (end) => void end.outcome, after: last });
const { state } = await cancel("/jobs/1/cancel", { ticket: "t" });
console.log(state, text, new DarkqError(503).canRetry);
// @ts-expect-error: `onEvent` is required.
await follow("/jobs/1/events", {});
// @ts-expect-error: no event has this type.
await follow("/jobs/1/events", { onEvent: (event) => event.type === "begun" });
