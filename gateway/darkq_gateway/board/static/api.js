// Calls of the gateway. If it requires an API key, a call waits until the user has entered one.

import { DarkqError as ApiError } from "./darkq.js";
import { anotherKey, key } from "./key.js";

/** An error response. `canRetry` is true if a retry can succeed. */
export { ApiError };

/** Send a request and return the response. Throws `ApiError`, and `TypeError` without a connection. */
export async function ask(path, options = {}) {
  for (;;) {
    const used = key();
    const headers = new Headers(options.headers);
    if (used) headers.set("Authorization", `Bearer ${used}`);
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response;
    if (response.status !== 401) throw await errorOf(response);
    await anotherKey(used);
    options.signal?.throwIfAborted();
  }
}

export async function get(path) {
  return (await ask(path)).json();
}

export async function post(path, body, headers = {}) {
  const options = { method: "POST", headers };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { ...headers, "Content-Type": "application/json" };
  }
  return (await ask(path, options)).json();
}

async function errorOf(response) {
  const retryAfterS = Number(response.headers.get("Retry-After")) || 0;
  const body = await response.json().catch(() => ({}));
  return new ApiError(response.status, body.error, retryAfterS);
}

/** Return a message for people about an error. */
export function reason(error) {
  return error instanceof ApiError ? error.message : "the gateway does not respond";
}
