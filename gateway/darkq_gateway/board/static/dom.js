// Makes elements. Strings become text nodes only, never HTML.

export const byId = (id) => document.getElementById(id);

/** Make an element with attributes and children; strings become text. */
export const node = (tag, ...content) => fill(document.createElement(tag), ...content);

/** Make an SVG element. */
export const shape = (tag, ...content) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), ...content);

function fill(element, attributes = {}, ...children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Make a small button. `press` is called with it at each click. */
export function button(label, press, attributes = {}) {
  const made = node("button", { type: "button", class: "quiet small", ...attributes }, label);
  made.addEventListener("click", () => press(made));
  return made;
}

/** Make the head of an item: what it is, and a pill for its state. */
export const head = (...children) => node("div", { class: "head" }, ...children, node("span", { class: "pill" }));

/** Offer names in a select; the chosen one stays chosen, if it is among them. */
export function offer(select, names, nameless) {
  if (names.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => node("option", { value: name }, name || nameless)));
  if (names.includes(chosen)) select.value = chosen;
}

/** Set an element's text if it differs: screen readers announce each change. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show a state by its name and colour. */
export function mark(pill, state) {
  write(pill, state);
  pill.dataset.state = state;
}

/** Show or hide an error. */
export function complain(element, message) {
  element.hidden = !message;
  write(element, message ?? "");
}

/**
 * Give a container one element per item, in order. An element stays as long as the key of its item
 * exists, and so keeps the focus.
 */
export function list(container, items, keyOf, make, update) {
  const known = new Map([...container.children].map((child) => [child.dataset.key, child]));
  let place = container.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let element = known.get(key);
    known.delete(key);
    if (!element) {
      element = make(item);
      element.dataset.key = key;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else container.insertBefore(element, place);
  }
  for (const gone of known.values()) gone.remove();
}
