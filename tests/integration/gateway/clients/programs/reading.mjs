// What the readers of event streams print: a JSON line per event, and one that says where they stop.

/** Print an event as it was received. */
export const printEvent = (id, data) => console.log(JSON.stringify({ id, data: JSON.parse(data) }));

/** Print the end: the type of the terminal event, or the HTTP status that ended the reading. */
export const printStop = (stop) => console.log(JSON.stringify({ stop }));

/** Whether an event is the last one of its job. */
export const isEnd = (data) => ["completed", "failed", "cancelled"].includes(JSON.parse(data).type);

/** Whether a further request after this status cannot succeed. */
export const isFinal = (status) => status === 204 || (status >= 400 && status < 500 && status !== 429);

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
