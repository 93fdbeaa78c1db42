// Calls of the gateway. If it requires an API key, a call waits until the user has entered one.

import { DarkqError } from "./darkq.js";
import { anotherKey, key } from "./key.js";

/** Send a request and return the response. Throws `DarkqError`, and `TypeError` without a connection. */
export async function ask(path, options = {}) {
  for (;;) {
    const used = key();
    const headers = new Headers(options.headers);
    if (used) headers.set("Authorization", `Bearer ${used}`);
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response;
    if (response.status !== 401) {
      const { error } = await response.json().catch(() => ({}));
      throw new DarkqError(response.status, error, Number(response.headers.get("Retry-After")) || 0);
    }
    await anotherKey(used);
    options.signal?.throwIfAborted();
  }
}

export async function get(path) {
  return (await ask(path)).json();
}

export async function post(path, body, headers = {}) {
  const json = body && { body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } };
  return (await ask(path, { method: "POST", headers, ...json })).json();
}

/** Return a message for people about an error. */
export function reason(error) {
  return error instanceof DarkqError ? error.message : "the gateway does not respond";
}
