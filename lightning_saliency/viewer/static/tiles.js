// A tile is one map of one image: the picture, a bar for the probability of its class, and words.
import {make} from "./elements.js";
import {percent} from "./format.js";
import {findPalette, paintMap} from "./colours.js";
import {makeOutline} from "./outline.js";
import {makePhoto} from "./photos.js";

export class Tile {
  /**
   * @param viewer - the state, the time and the scales
   * @param side - the run and the rule of the map
   * @param image - the index of the image
   * @param options - `size` in pixels; the `slot` of the map, or null for the class of the state;
   *   all `shown` slots of this image; the position `at` in time, or null for that of the slider;
   *   whether it is `named`; whether it has the letter of its side; `open`, what a click does
   */
  constructor(viewer, side, image, options) {
    Object.assign(this, {viewer, side, image}, {slot: null, shown: null, at: null, ...options});
    this.canvas = make("canvas", {"aria-hidden": "true"});
    const longest = Math.max(...side.run.shape);
    this.canvas.classList.toggle("sharp", 2 * longest <= this.size * devicePixelRatio);
    const outline = makeOutline(viewer.outlined, side.run.shape);
    const photo = makePhoto(side.run, image, this.size);
    this.picture = make("span.picture", {}, photo, this.canvas, outline);
    this.bar = make("i");
    this.name = make("span.name");
    this.chance = make("span.chance");
    const letter = this.lettered ? side.makeBadge() : null;
    this.element = make(
      "button.tile",
      {type: "button", onclick: () => this.open()},
      this.picture,
      make("span.bar", {}, this.bar),
      make("span.words", {}, letter, this.name, this.chance),
    );
  }

  /** The observation that is shown; -1 before the first one. */
  get moment() {
    return this.viewer.timeline.moment(this.side.r, this.at ?? this.viewer.t);
  }

  /** The slot of the class that is shown at moment m; -1 if that class was not explained. */
  slotAt(m) {
    const {run, rule} = this.side;
    if (!run.has(m, rule)) return -1;
    if (this.slot !== null) return this.slot < run.slotsAt(m) ? this.slot : -1;
    return run.findSlot(m, this.image, this.viewer.state.cls);
  }

  shownAt(m) {
    return this.shown ?? [this.slotAt(m)];
  }

  draw() {
    const m = this.moment;
    const slot = m < 0 ? -1 : this.slotAt(m);
    this.element.classList.toggle("absent", slot < 0);
    if (slot < 0) this.writeAbsent(m);
    else {
      this.write(m, slot);
      this.paint(m, slot);
    }
  }

  paint(m, slot) {
    const {run, rule} = this.side;
    const map = run.peekMap(m, rule, this.image, slot, this.shownAt(m));
    this.picture.classList.toggle("waiting", !map);
    if (!map) {
      this.fetch(m);
      return;
    }
    const {style} = this.viewer.state;
    const peak = run.peak(m, rule, this.image, slot);
    const gain = this.viewer.gain(this.side, peak);
    const palette = findPalette(style, this.viewer.dark, run.levels, gain);
    paintMap(this.canvas, map.values, map.start, run.shapeAt(m), palette);
    this.picture.classList.toggle("overlaid", style === "overlay" && peak !== null);
    this.picture.classList.toggle("broken", peak === null);
  }

  async fetch(m) {
    try {
      await this.side.run.fetchMaps(m, this.side.rule, this.image, this.shownAt(m));
    } catch {
      this.picture.classList.remove("waiting");
      this.element.classList.add("absent");
      this.describe("could not be read");
      return;
    }
    // The slider may have moved on in the meantime.
    if (this.moment === m && this.element.isConnected) this.draw();
  }

  write(m, slot) {
    const {run} = this.side;
    const p = run.probabilities(m, this.image)[slot];
    const target = run.targets(m, this.image)[slot];
    const name = run.className(target);
    const isTrue = run.labels(this.image).includes(target);
    const isPredicted = run.predicted(m, this.image) === target;
    this.bar.style.transform = `scaleX(${p ?? 0})`;
    this.chance.textContent = percent(p);
    this.name.textContent = this.named ? name : "";
    const {classList} = this.element;
    // Where an image has one map only, there is nothing to tell apart.
    classList.toggle("only", run.slots === 1);
    classList.toggle("true", isTrue && run.slots > 1);
    classList.toggle("predicted", isPredicted && run.slots > 1);
    const t = this.at ?? this.viewer.t;
    classList.toggle("stale", !this.viewer.timeline.observed(this.side.r, t));
    this.describe(
      // What is read aloud starts with what is seen, as those who speak to a computer expect it.
      [this.lettered ? this.side.letter : "", this.name.textContent, percent(p)].join(" ").trim(),
      this.named ? "" : name,
      isTrue ? "the true class" : "",
      isPredicted ? run.predictedText : "",
      run.peak(m, this.side.rule, this.image, slot) === null ? "not finite" : "",
      run.images[this.image],
      run.moments[m].caption,
      this.side.letter ? this.side.title : "",
    );
  }

  writeAbsent(m) {
    this.name.textContent = "";
    this.chance.textContent = m < 0 ? "not yet" : "not explained";
    this.element.classList.remove("true", "predicted", "stale");
    this.describe(this.chance.textContent, this.side.run.images[this.image]);
  }

  describe(...parts) {
    const text = parts.filter(Boolean).join(", ");
    if (this.description === text) return;
    this.description = this.element.title = text;
    this.element.setAttribute("aria-label", text);
  }
}

/** The largest size up to `size` that needs no interpolation, unless it is far smaller. */
export function snapSize(size, [h, w]) {
  const longest = Math.max(h, w);
  const whole = Math.floor(size / longest) * longest;
  return 2 * longest <= size || whole > 0.8 * size ? whole : size;
}
