// The icons of the viewer, drawn for it on a grid of 20 × 20 with lines 1.6 wide.
import {draw, make} from "./elements.js";

const LINES = {
  play: "M6.5 4.2 15.5 10l-9 5.8z",
  pause: "M7 4.5v11M13 4.5v11",
  first: "M4.5 4.5v11M15.5 5 9 10l6.5 5z",
  last: "M15.5 4.5v11M4.5 5 11 10l-6.5 5z",
  before: "M12 5 7 10l5 5",
  after: "M8 5l5 5-5 5",
  link:
    "M8.3 6.2 10 4.5a3.9 3.9 0 0 1 5.5 5.5l-1.7 1.7M11.7 13.8 10 15.5A3.9 3.9 0 0 1 4.5 10" +
    "l1.7-1.7M7.8 12.2l4.4-4.4",
  theme: "M10 3.2a6.8 6.8 0 1 0 0 13.6zM10 3.2a6.8 6.8 0 0 1 0 13.6M10 6h3.6M10 10h6.5M10 14h3.6",
  keys: "M3 5.5h14v9H3zM5.8 8.3h.8M9.6 8.3h.8M13.4 8.3h.8M6.5 11.8h7",
  lanes: "M3.2 3.5v13h13.6M6 12.2l3-3.4 2.8 2.2 4.6-5.5",
  search: "M8.8 3.8a5 5 0 1 1 0 10 5 5 0 0 1 0-10zM12.5 12.5l4 4",
  close: "M5 5l10 10M15 5 5 15",
};
const FILLED = new Set(["play", "first", "last"]);

export function icon(name) {
  const shape = draw("path", {
    d: LINES[name],
    fill: FILLED.has(name) ? "currentColor" : "none",
    stroke: "currentColor",
    "stroke-width": 1.6,
    "stroke-linecap": "round",
    "stroke-linejoin": "round",
  });
  return draw("svg", {viewBox: "0 0 20 20", width: 20, height: 20, "aria-hidden": "true"}, shape);
}

/** A button that is an icon, with a name for those who cannot see it. */
export function makeButton(name, picture, onclick) {
  return make(
    "button.icon",
    {type: "button", title: name, "aria-label": name, onclick},
    icon(picture),
  );
}
