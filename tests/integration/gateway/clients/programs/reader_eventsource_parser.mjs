// `eventsource-parser` decodes the body of a `fetch`. The loop around it reconnects.

import { EventSourceParserStream } from "eventsource-parser/stream";
import { isEnd, isFinal, pause, printEvent, printStop } from "./reading.mjs";

let lastId = "";
let retryMs = 1000;

/** Read one response; return what the reader stops at, or undefined if it should reconnect. */
async function read(url) {
  const { status, body } = await fetch(url, { headers: lastId ? { "Last-Event-ID": lastId } : {} });
  if (status !== 200) return isFinal(status) ? status : undefined;
  const parser = new EventSourceParserStream({ onRetry: (ms) => (retryMs = ms) });
  for await (const { id, data } of body.pipeThrough(new TextDecoderStream()).pipeThrough(parser)) {
    printEvent(id, data);
    lastId = id;
    if (isEnd(data)) return JSON.parse(data).type;
  }
}

let stop;
while (!stop) {
  stop = await read(process.argv[2]).catch(() => undefined); // the connection was lost
  if (!stop) await pause(retryMs);
}
printStop(stop);
