// Numbers over time: a lane for each, on the slider's axis, with the value under the cursor.
import {draw, make} from "./elements.js";
import {boundsText, figure, percent} from "./format.js";

// The most lanes, by the least height of the viewer in pixels: maps need the room more.
const LANES_BY_HEIGHT = [
  [720, 4],
  [600, 3],
  [440, 2],
  [0, 1],
];
const PART_OF_HEIGHT = 0.4; // of the viewer, that lanes may take if they were chosen
const HEIGHT = 34; // pixels of a lane
const ROOM = 5; // pixels above and below the line
const LEAST_RANGE = 0.1; // of a lane of shares, so that noise does not look like change
const TRUE_CLASS = "p(true class)";

// What readers look for first. Names that match nothing come last, in the order of the alphabet.
const RANKS = [
  /^p\(true class\)$/,
  /acc|f1|auc|precision|recall/i,
  /^moved_mass$/,
  /^image_moved_mass$/,
  /\.share$/,
  /val.*loss/i,
  /^drift\.first$/,
  /loss/i,
];

// What the measures of this package mean, in plain words. Curves of the run have no such words.
const MOVED = "the part of the measured gradient's profile, on an 8 × 8 grid, that";
const MEANINGS = [
  [/^drift\.first$/, `${MOVED} has moved since the first observation, 0 to 1`],
  [/^drift\.previous$/, `${MOVED} has moved since the previous observation, 0 to 1`],
  [/^moved_mass$/, `${MOVED} lies elsewhere than in good runs, 0 to 1`],
  [/^image_moved_mass$/, "as moved_mass, but compared image by image"],
  [/\.share$/, "the part of the measured gradient that lies inside this region, 0 to 1"],
];

/**
 * The lanes for the sides and the state of a viewer: those that were chosen, or what readers look
 * for first; also the `names` of all that could be drawn, and how many of them at `most`.
 */
export function buildLanes(viewer) {
  const series = findSeries(viewer);
  const height = viewer.root.clientHeight;
  const usual = LANES_BY_HEIGHT.find(([least]) => height >= least)[1];
  const most = Math.max(usual, Math.floor((PART_OF_HEIGHT * height) / HEIGHT));
  const names = [...series.keys()].sort((a, b) => rankOf(a) - rankOf(b) || a.localeCompare(b));
  const chosen = readChoice(viewer.state.lanes);
  const present = names.filter((name) => chosen?.includes(name));
  // Another run may have none of what was chosen; then it is shown as usual.
  const isChosen = chosen && (present.length > 0 || chosen.length === 0);
  const shown = isChosen ? present.slice(0, most) : names.slice(0, usual);
  return {lanes: shown.map((name) => new Lane(viewer, name, series.get(name))), names, most};
}

/** The names that a link holds as JSON; null if it holds none, or nonsense. */
function readChoice(text) {
  try {
    const names = JSON.parse(text);
    return Array.isArray(names) ? names : null;
  } catch {
    return null;
  }
}

function rankOf(name) {
  const rank = RANKS.findIndex((pattern) => pattern.test(name));
  return rank < 0 ? RANKS.length : rank;
}

/** For each name, the points [position, value] of each run, in order. */
function findSeries({timeline, runs, state}) {
  const series = new Map();
  runs.forEach((run, r) => {
    const isShown = state.view === "image" && state.image < run.images.length;
    for (const [name, step, value] of listNumbers(run, isShown ? state.image : null)) {
      if (typeof value !== "number") continue;
      if (!series.has(name))
        series.set(
          name,
          Array.from(runs, () => []),
        );
      series.get(name)[r].push([timeline.positionOfStep(r, step), value]);
    }
  });
  for (const points of [...series.values()].flat()) points.sort(([a], [b]) => a - b);
  return series;
}

/** All numbers of a run as [name, step, value]; for an image also the chance of its true class. */
function* listNumbers(run, image) {
  const curves = run.info.scalars ?? {};
  for (const [name, points] of Object.entries(curves)) {
    for (const [step, value] of points) yield [name, step, value];
  }
  // Of observations that were thinned out, the numbers are left.
  for (const {step, metrics, measures} of [...run.moments, ...(run.info.thinned ?? [])]) {
    for (const [name, value] of Object.entries({...metrics, ...measures})) {
      // A curve has more points than there are observations.
      if (!Object.hasOwn(curves, name) && name !== "epoch") yield [name, step, value];
    }
  }
  if (image === null) return;
  for (const [m, {step}] of run.moments.entries()) {
    const slot = run.trueSlot(m, image);
    if (slot >= 0) yield [TRUE_CLASS, step, run.probabilities(m, image)[slot]];
  }
}

class Lane {
  constructor(viewer, name, series) {
    Object.assign(this, {viewer, name, series});
    const {verdict, areas} = viewer.runs[0].info;
    this.finding = verdict?.findings?.find((finding) => finding.measure === name);
    this.area = name.endsWith(".share") ? areas?.[name.slice(0, -".share".length)] : undefined;
    [this.low, this.high] = this.findRange();
    this.values = series.map((_, r) => make(`span.value.side-${r}`));
    this.dots = series.map((_, r) => draw("circle", {r: 3.5, class: `dot side-${r}`}));
    const label = make(`span.lane-name${this.finding ? `.${this.finding.mark}` : ""}`, {}, name);
    this.element = make(
      "div.lane",
      {title: this.explain()},
      make("div.lane-label", {}, label, make("span.values", {}, this.values)),
      this.drawPicture(),
    );
  }

  explain() {
    const meaning = MEANINGS.find(([pattern]) => pattern.test(this.name))?.[1];
    const parts = [meaning ? `${this.name}: ${meaning}` : this.name];
    if (this.finding) parts.push(`${this.finding.mark}: allowed ${boundsText(this.finding)}`);
    if (this.area !== undefined) parts.push(`dotted: ${percent(this.area)} of the area`);
    return parts.join("; ");
  }

  /** All values, and what they are compared with, are in sight. */
  findRange() {
    const values = this.series.flat().map(([, value]) => value);
    const shares = values.every((value) => value >= 0 && value <= 1);
    const bounds = this.finding ? [this.finding.low ?? 0, this.finding.high ?? 1] : [];
    const all = [...values, ...bounds, ...(this.area === undefined ? [] : [this.area])];
    const low = all.reduce((a, b) => Math.min(a, b));
    const high = all.reduce((a, b) => Math.max(a, b));
    const more = Math.max(0, LEAST_RANGE - (high - low)) / 2;
    if (shares && !/loss/i.test(this.name))
      return [Math.max(0, low - more), Math.min(1, high + more)];
    return high > low ? [low, high] : [low - 0.5, high + 0.5];
  }

  y(value) {
    return HEIGHT - ROOM - ((value - this.low) / (this.high - this.low)) * (HEIGHT - 2 * ROOM);
  }

  drawPicture() {
    const {width, margin} = this.viewer.axis;
    const picture = draw("svg", {width: width + margin, height: HEIGHT, "aria-hidden": "true"});
    const drawAcross = (y, kind) => draw("line", {x2: width, y1: y, y2: y, class: kind});
    const drawBound = (value, y) => draw("text", {x: width + 6, y, class: "bound"}, figure(value));
    picture.append(drawAcross(HEIGHT - 0.5, "floor"));
    if (this.finding) picture.append(this.drawAllowed(width));
    if (this.area !== undefined) picture.append(drawAcross(this.y(this.area), "area"));
    picture.append(...this.series.map((points, r) => this.drawLine(points, r)), ...this.dots);
    picture.append(drawBound(this.high, 12), drawBound(this.low, HEIGHT - 7));
    return picture;
  }

  drawAllowed(width) {
    const top = this.y(this.finding.high ?? this.high);
    const bottom = this.y(this.finding.low ?? this.low);
    return draw("rect", {width, y: top, height: Math.max(2, bottom - top), class: "allowed"});
  }

  drawLine(points, r) {
    const places = points.map(([position, value]) => [this.viewer.x(position), this.y(value)]);
    if (places.length === 1) {
      const [[cx, cy]] = places;
      return draw("circle", {cx, cy, r: 2.5, class: `dot side-${r}`});
    }
    const path = places.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");
    return draw("path", {d: path && `M${path}`, class: `line side-${r}`});
  }

  /** Show the last value up to position t. */
  update(t) {
    this.series.forEach((points, r) => {
      const point = points.findLast(([position]) => position <= t + 1e-6);
      this.values[r].textContent = figure(point?.[1]);
      this.dots[r].setAttribute("visibility", point ? "visible" : "hidden");
      if (!point) return;
      this.dots[r].setAttribute("cx", this.viewer.x(point[0]));
      this.dots[r].setAttribute("cy", this.y(point[1]));
    });
  }

  get text() {
    return `${this.name} ${this.values.map((value) => value.textContent).join(" against ")}`;
  }
}
