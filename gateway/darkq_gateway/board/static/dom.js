// Makes elements. Strings become text nodes only, never HTML.

export const byId = (id) => document.getElementById(id);

/** Make an element with attributes and children; strings become text. */
export function node(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Make an SVG element. */
export function shape(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
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
