// Formats numbers and times for people.

const UNIT = "\u00a0"; // no line break between a number and its unit
const integer = new Intl.NumberFormat("en");

export const count = (number) => integer.format(number);

/** A rate: 3.4, 120. */
export const rate = (perSecond) =>
  perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : count(Math.round(perSecond));

/** A short duration: 420 ms, 7.1 s, 3 min. */
export function length(ms) {
  if (ms < 1000) return `${Math.round(Math.max(0, ms))}${UNIT}ms`;
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)}${UNIT}s` : age(ms);
}

/** The age of something: 12 s, 3 min, 5 h, 2 d. */
export function age(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds}${UNIT}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}${UNIT}min`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3600)}${UNIT}h` : `${Math.floor(seconds / 86_400)}${UNIT}d`;
}

/** The beginning of an id; the title attribute has all of it. */
export const short = (id) => (id.length > 14 ? `${id.slice(0, 11)}…` : id);

/** A job's time to its first chunk, if known. */
export function first(job) {
  return job.first_chunk_ms && job.queued_ms ? length(job.first_chunk_ms - job.queued_ms) : "–";
}

/** A job's chunks per second: recently while it runs, else in its whole last attempt. */
export function pace(job) {
  if (job.chunks_per_s) return rate(job.chunks_per_s);
  if (!job.finished_ms || !job.chunks) return "–";
  return rate(job.chunks / Math.max(0.001, (job.finished_ms - job.started_ms) / 1000));
}

/** Join what there is: 2 jobs · draining. */
export const dots = (...parts) => parts.filter(Boolean).join(" · ");

/** The sum of what `of` returns for each item. */
export const sum = (items, of) => items.reduce((total, item) => total + of(item), 0);

/** Plural or singular: 1 worker, 3 workers. */
export const many = (number, one) => `${count(number)} ${number === 1 ? one : `${one}s`}`;

/** A time of the day: 14:03:22. */
export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export const ended = (state) => ["completed", "failed", "cancelled"].includes(state);
