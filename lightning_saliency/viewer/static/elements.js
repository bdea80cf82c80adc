// Elements and drawings are made here. Text from data only ever becomes a text node, never markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An HTML element: `make("button.chip", {onclick, "aria-label": "…"}, "text", child)`.
 * Names with a dash, `role` and `for` are attributes, `on…` are listeners, all others properties.
 */
export function make(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  element.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** An SVG element; a child that is a string becomes text. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A row of choices of which one is taken. `choose(key)` is called for a choice of the user. */
export function makeChoice(name, options, choose) {
  const group = make("div.choice", {role: "radiogroup", "aria-label": name});
  for (const [key, text] of Object.entries(options)) {
    const input = make("input", {type: "radio", name, value: key, onchange: () => choose(key)});
    group.append(make("label", {}, input, make("span", {}, text)));
  }
  group.set = (chosen) => {
    for (const input of group.querySelectorAll("input")) input.checked = input.value === chosen;
  };
  return group;
}

/** Replace the options of a select by `[value, text]` pairs, with one of them chosen. */
export function fillSelect(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => make("option", {value}, text)));
  select.value = chosen;
}

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Return a function that runs `work` once in the next frame, however often it is called. */
export function inNextFrame(work) {
  let due = 0;
  return () => {
    cancelAnimationFrame(due);
    due = requestAnimationFrame(work);
  };
}
