/** An event of a job. `id` is its cursor; times are epoch milliseconds. */
export type JobEvent =
  | { type: "queued"; id: string; at_ms: number }
  | { type: "started"; id: string; attempt: number; model: string; upstream: string; at_ms: number }
  | { type: "chunk"; id: string; text: string; merged?: number; at_ms?: number; logprobs?: object; annotations?: object[] }
  | { type: "reasoning"; id: string; text: string; merged?: number; at_ms?: number }
  | { type: "tool_call"; id: string; index: number; arguments?: string; call_id?: string; name?: string; merged?: number; at_ms?: number }
  | { type: "refusal"; id: string; text: string; merged?: number; at_ms?: number }
  | { type: "retrying"; id: string; attempt: number; reason: string; message: string; retry_in_s: number; at_ms: number }
  | { type: "completed"; id: string; finish_reason?: string; usage?: Usage; at_ms?: number }
  | { type: "failed"; id: string; code: string; message: string; at_ms: number }
  | { type: "cancelled"; id: string; at_ms: number };

/** The number of tokens, if the upstream reports it. */
export interface Usage {
  prompt_tokens?: number;
  completion_tokens?: number;
  prompt_tokens_details?: Record<string, number>;
  completion_tokens_details?: Record<string, number>;
}

/** The end of a line of a batch. */
export interface LineEnded {
  number: number;
  job_id: string;
  outcome: "completed" | "failed" | "cancelled";
  cursor: string;
}

export interface CallOptions {
  /** Sent as `?ticket=`. A function is called for the first one, and when one has expired. */
  ticket?: string | (() => string | Promise<string>);
  headers?: HeadersInit;
  signal?: AbortSignal;
  /** In place of the global `fetch`. */
  fetch?: (url: string, options: RequestInit) => Promise<Response>;
}

export interface FollowOptions<E> extends CallOptions {
  /** Called with each event, and the id of the last one. Return true to stop. */
  onEvent: (event: E, id: string) => unknown;
  /** Called when events arrive again, and when the connection is lost. */
  onState?: (state: "live" | "waiting") => void;
  /** The id of the last event that you have. By default all events come. */
  after?: string;
  /** A name in `sessionStorage` under which the id of the last event is kept over reloads. */
  keep?: string;
}

/**
 * Call `onEvent` with each event to the terminal one, until it returns true, or until the signal
 * aborts. Reconnects after the last event, and returns its id. Throws `DarkqError` if a retry cannot
 * succeed, and what `onEvent` throws.
 */
export function follow<E = JobEvent>(url: string, options: FollowOptions<E>): Promise<string>;

/** Cancel by a POST, and return the new status. */
export function cancel<S = { state: string }>(url: string, options?: CallOptions): Promise<S>;

/** An error response; status 0 is no response. `canRetry` is true if a retry can succeed. */
export class DarkqError extends Error {
  constructor(status: number, error?: { code?: string; message?: string }, retryAfterS?: number);
  readonly status: number;
  readonly code: string;
  readonly retryAfterS: number;
  readonly canRetry: boolean;
}
