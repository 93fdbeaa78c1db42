// The package `eventsource`: reconnects by itself, as a browser's EventSource does.

import { EventSource } from "eventsource";
import { printEvent, printStop } from "./reading.mjs";

const alive = setInterval(() => {}, 60_000); // the package does not keep Node from exiting

const source = new EventSource(process.argv[2]);
source.onmessage = ({ lastEventId, data }) => printEvent(lastEventId, data);
source.onerror = ({ code }) => {
  if (source.readyState !== EventSource.CLOSED) return; // it reconnects
  printStop(code);
  clearInterval(alive);
};
