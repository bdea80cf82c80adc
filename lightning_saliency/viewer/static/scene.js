// What stands on the stage in any view: rows of tiles, and what the network says of an image.
import {make} from "./elements.js";
import {percent} from "./format.js";
import {findImages, findOrder} from "./filters.js";

const REACH = "200px"; // rows that are nearer than this to what is in sight are painted already

export class Scene {
  constructor(viewer) {
    this.viewer = viewer;
    this.node = make("div");
    this.rows = [];
    this.sayings = [];
    this.hint = []; // nodes and texts for the toolbar
    this.axisInset = 8; // of the time axis at both ends: half the width of the slider's thumb
    this.watch = new IntersectionObserver((entries) => this.meet(entries), {rootMargin: REACH});
  }

  get tilesInSight() {
    return this.rows.filter((row) => row.inSight).flatMap((row) => row.tiles);
  }

  /** A row of an image. `fill(row)` makes its tiles when it comes into sight for the first time. */
  addRow(element, image, fill) {
    element.row = {element, image, fill, tiles: [], inSight: false};
    this.rows.push(element.row);
    this.watch.observe(element);
    return element;
  }

  meet(entries) {
    for (const entry of entries) {
      const {row} = entry.target;
      row.inSight = entry.isIntersecting;
      if (!row.inSight) continue;
      if (!row.tiles.length) row.tiles = row.fill(row);
      this.show(row);
    }
  }

  show(row) {
    for (const tile of row.tiles) tile.draw();
  }

  /** Show the moment of the slider. */
  update() {
    this.repaint();
    for (const {element, side, image} of this.sayings) say(element, this.viewer, side, image);
    this.filter();
  }

  repaint() {
    for (const row of this.rows) if (row.inSight) this.show(row);
  }

  /** Hide the rows of images that were not asked for. */
  filter() {
    const images = findImages(this.viewer);
    for (const {element, image} of this.rows) element.hidden = !images.has(image);
    this.viewer.showNothing(images.size === 0);
    this.viewer.showCount(images.size);
  }

  /** Put what changed most at the top. It needs maps, so it is done when the slider rests. */
  async sort() {
    const changed = this.viewer.state.show === "changed";
    if (!this.list || (!changed && !this.sorted)) return;
    const order = changed ? await findOrder(this.viewer) : null;
    if (changed && (!order || !this.list.isConnected)) return;
    this.sorted = changed;
    const place = new Map(order?.map((image, i) => [image, i]));
    const rank = ({image}) => place.get(image) ?? image;
    const rows = [...this.rows].sort((a, b) => rank(a) - rank(b)); // a stable sort
    this.list.append(...rows.map((row) => row.element));
  }

  /** A place for what the network of a side takes an image for. */
  makeSaying(side, image) {
    const element = make("span.saying");
    this.sayings.push({element, side, image});
    return element;
  }

  /** The maps that are in sight at position t, fetched ahead. */
  fetchAt(t) {
    const works = [];
    for (const tile of this.tilesInSight) {
      const m = this.viewer.timeline.moment(tile.side.r, t);
      const {run, rule} = tile.side;
      if (tile.at !== null || m < 0 || tile.slotAt(m) < 0) continue;
      works.push(run.fetchMaps(m, rule, tile.image, tile.shownAt(m)));
    }
    return Promise.allSettled(works);
  }

  close() {
    this.watch.disconnect();
  }
}

function say(element, viewer, side, image) {
  const m = viewer.timeline.moment(side.r, viewer.t);
  const {run} = side;
  const wrong = m >= 0 && run.wrong(m, image);
  const truth = run.labelText(image);
  element.classList.toggle("wrong", wrong);
  element.textContent =
    m < 0 ? "not observed yet" : sayingText(run, m, image, viewer.state.view === "image");
  element.title = wrong ? `${truth}, ${element.textContent}` : truth;
}

function sayingText(run, m, image, long) {
  const name = run.takenFor(m, image);
  // Only the probabilities of explained classes are recorded.
  const slot = name ? run.predictedSlot(m, image) : run.trueSlot(m, image);
  const chance = slot < 0 ? "" : `, ${percent(run.probabilities(m, image)[slot])}`;
  if (run.wrong(m, image)) return long ? `✗ taken for ${name}${chance}` : `✗ ${name}`;
  const right = run.labelText(image) || name;
  return long ? `${right || "–"}${chance}` : right || run.images[image];
}
