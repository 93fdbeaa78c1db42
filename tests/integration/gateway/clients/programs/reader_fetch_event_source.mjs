// `@microsoft/fetch-event-source` reconnects by itself, and stops if a handler throws.

import { fetchEventSource } from "@microsoft/fetch-event-source";
import { isEnd, isFinal, printEvent, printStop } from "./reading.mjs";

// What it uses of a browser.
Object.assign(globalThis, { window: globalThis, document: new EventTarget() });

const [url, handlers] = process.argv.slice(2);
let stop;

const mine = {
  async onopen({ status }) {
    if (isFinal(status)) stop = status;
    if (status !== 200) throw new Error(`HTTP status ${status}`);
  },
  onclose() {
    if (!stop) throw new Error("the stream ended before the job"); // a gateway that was replaced
  },
  onerror(error) {
    if (stop) throw error; // else it reconnects
  },
};
await fetchEventSource(url, {
  onmessage({ id, data }) {
    printEvent(id, data);
    if (isEnd(data)) stop = JSON.parse(data).type;
  },
  ...(handlers === "none" ? {} : mine),
}).catch(() => {});
printStop(stop ?? "end of stream");
