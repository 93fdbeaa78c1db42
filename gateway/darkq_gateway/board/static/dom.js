// Elements are made here, and text only ever becomes text: no string is read as HTML.

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

/** Set an element's text, if it is another one: what has not changed is not announced again. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show a state by its name, and by a colour. */
export function mark(pill, state) {
  write(pill, state);
  pill.dataset.state = state;
}

/** Show an error, or none. */
export function complain(element, message) {
  element.hidden = !message;
  write(element, message ?? "");
}

/**
 * Let a container have one element per item, in their order. Elements stay while their key does,
 * and so does the focus.
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
