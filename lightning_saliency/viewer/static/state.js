// What the reader chose. A link holds all of it, and restores the view anywhere.

export const VIEWS = {all: "All images", image: "One image", time: "Over time"};
export const STYLES = {signed: "Signed", magnitude: "Magnitude", overlay: "Overlay"};
export const SCALES = {map: "Each map", run: "Whole run"};
export const SHOWN = {all: "All images", wrong: "Wrong now", changed: "Changed most first"};

const DEFAULTS = {
  run: "", // the id of a run; empty for the one that started last
  vs: "", // the id of the run to compare with
  at: null, // a place on the axis of epochs; null for the last observation, also when more arrive
  view: "all",
  image: 0,
  cls: "label", // or "strongest", or the number of a class
  rule: "", // empty for the first, or "*" for all
  style: "signed",
  scale: "map",
  show: "all",
  find: "",
  lanes: "", // the names of the lanes that are drawn, as JSON; empty for the usual ones
  outline: "", // "grown" for the cell of the verdict
  size: 0, // pixels per side of a map; 0 for what fits
};
const NUMBERS = new Set(["at", "image", "size"]);
const CHOICES = {view: VIEWS, style: STYLES, scale: SCALES, show: SHOWN};

/** The state that a link describes; whatever it has that is unknown is left at its default. */
export function readState(link) {
  const state = {...DEFAULTS};
  for (const key of Object.keys(DEFAULTS)) {
    const value = NUMBERS.has(key) ? readNumber(link[key]) : link[key];
    if (value === undefined || (CHOICES[key] && !Object.hasOwn(CHOICES[key], value))) continue;
    state[key] = value;
  }
  return state;
}

function readNumber(text) {
  const number = Number.parseFloat(text);
  return number >= 0 && number < Infinity ? number : undefined;
}

/** What a link must hold to restore the state. The run is named even if it was not chosen. */
export function describeState(state) {
  const differs = ([key, value]) => key === "run" || value !== DEFAULTS[key];
  return Object.fromEntries(Object.entries(state).filter(differs));
}
