// Which jobs are listed: state, model, search, page, or the lines of a batch.

import { byId, offer, write } from "./dom.js";
import { count, many } from "./format.js";

const TYPING_MS = 250;
const PAGE_JOBS = 40;
const MAX_LISTED = 1000;
const [search, state, model] = [byId("search"), byId("state"), byId("filter-model")];
const [newer, older, place, empty] = [byId("newer"), byId("older"), byId("place"), byId("jobs-empty")];

export class ListControls {
  #start = 0;
  #batch = null;
  #changed;
  #timer = 0;

  /** `changed` is called after the query has changed. */
  constructor(changed) {
    this.#changed = changed;
    search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#turn(0), TYPING_MS);
    });
    for (const select of [state, model]) select.addEventListener("change", () => this.#turn(0));
    newer.addEventListener("click", () => this.#turn(Math.max(0, this.#start - PAGE_JOBS)));
    older.addEventListener("click", () => this.#turn(this.#start + PAGE_JOBS));
    byId("batch-close").addEventListener("click", () => this.openBatch(null));
    byId("clear").addEventListener("click", () => this.clear());
  }

  /** The query of the stream. */
  get query() {
    const query = new URLSearchParams();
    const put = (name, value) => value && query.set(name, value);
    if (this.#batch) put("batch", this.#batch.id);
    else {
      put("state", state.value);
      put("model", model.value);
      put("text", search.value.trim());
    }
    put("start", this.#start ? String(this.#start) : "");
    return query.toString();
  }

  /** List the lines of a batch: `{id, name}`; null lists the jobs again. */
  openBatch(batch) {
    this.#batch = batch;
    byId("batch-chip").hidden = !batch;
    byId("filters").hidden = Boolean(batch);
    write(byId("jobs-title"), batch ? `Lines of ${batch.name}` : "Jobs");
    this.#turn(0);
  }

  clear() {
    search.value = state.value = model.value = "";
    this.#turn(0);
  }

  #turn(start) {
    this.#start = start;
    byId("jobs-scroll").scrollTop = 0;
    this.#changed();
  }

  /** Show what a snapshot says of the list: how many there are, and the models. */
  show({ listing, shows_prompts }) {
    const { jobs, start, matched, total, models, counts } = listing;
    this.#start = start;
    const isFiltered = !this.#batch && Boolean(search.value.trim() || state.value || model.value);
    const isWhole = jobs.length === matched;
    write(byId("jobs-count"), isWhole ? many(matched, this.#batch ? "line" : "job") : `${count(jobs.length)} of ${count(matched)}`);
    byId("pager").hidden = isWhole && start === 0;
    const of = isFiltered ? `${count(matched)} found in ${count(total)}` : `${total >= MAX_LISTED ? "the latest " : ""}${count(matched)}`;
    write(place, `${count(start + 1)}–${count(start + jobs.length)} of ${of}`);
    newer.disabled = start === 0;
    older.disabled = start + jobs.length >= matched;
    search.placeholder = shows_prompts ? "Search prompts and ids" : "Search ids";
    const isListed = !model.value || models.includes(model.value);
    offer(model, ["", ...models, ...(isListed ? [] : [model.value])], "all models");
    for (const option of state.options) write(option, labelOf(option.value, counts));
    empty.hidden = jobs.length > 0 || isFiltered || Boolean(this.#batch);
    byId("jobs-none").hidden = jobs.length > 0 || !(isFiltered || this.#batch);
    byId("clear").hidden = Boolean(this.#batch);
    write(byId("jobs-none-text"), this.#batch ? "No line is in Redis now. A line whose answer was taken is in the output of its batch." : "No job matches.");
  }
}

const labelOf = (name, counts) => (name ? `${name} (${count(counts[name] ?? 0)})` : "all states");
