// The viewer as a whole: it opens runs, holds the state and the time, and tells the parts of it.
import {Catalogue} from "./catalogue.js";
import {Dialogs} from "./dialogs.js";
import {Dock} from "./dock.js";
import {clamp, draw, inNextFrame, make} from "./elements.js";
import {buildFilm} from "./film.js";
import {buildGrid} from "./grid.js";
import {listenToKeys} from "./keys.js";
import {
  explainNothing,
  findNotes,
  makeEmptyMessage,
  makeMessage,
  makeWaitingMessage,
} from "./notes.js";
import {describeCell, findGrownCell} from "./outline.js";
import {Player} from "./player.js";
import {ALL_RULES, findScales, makeSides} from "./sides.js";
import {buildSingle} from "./single.js";
import {Refusal} from "./source.js";
import {describeState, readState} from "./state.js";
import {Timeline} from "./timeline.js";
import {Toolbar} from "./toolbar.js";

const POLL = 5000; // milliseconds between looks for new observations
const REST = 250; // milliseconds until the slider is taken to rest
const AHEAD = [1, 2, 3, -1]; // observations that are fetched before they are asked for
const PADDING = 20; // pixels on both sides of the stage and the dock
const BUILDERS = {all: buildGrid, image: buildSingle, time: buildFilm};
const REPAINTS = new Set(["style", "scale"]); // parts of the state that need no other elements
const FILTERS = new Set(["show", "find"]);

/** The filter for the photo under an overlay: the mean of the channels at 0.6 of its brightness. */
function makeFilter() {
  const row = ".2 .2 .2 0 0";
  const values = `${row} ${row} ${row} 0 0 0 1 0`;
  const matrix = draw("feColorMatrix", {type: "matrix", values});
  const filter = draw(
    "filter",
    {id: "saliency-dimmed", "color-interpolation-filters": "sRGB"},
    matrix,
  );
  return draw("svg", {width: 0, height: 0, class: "unseen", "aria-hidden": "true"}, filter);
}

/** Open a viewer in `root`, whose content it replaces. */
export async function openViewer(root, source, host) {
  const viewer = new Viewer(root, source, host);
  globalThis.saliencyViewer = viewer; // for those who look into it with the browser's console
  await viewer.start();
  return viewer;
}

class Viewer {
  constructor(root, source, host) {
    Object.assign(this, {root, host});
    this.catalogue = new Catalogue(source);
    this.state = readState({});
    this.runs = []; // those that are open
    this.t = 0;
    this.ready = false; // whether there is something to see
    this.fresh = 0; // observations that arrived while the reader looked back
    this.growing = false;
    this.dark = false;
    this.x = (position) =>
      this.axis.inset +
      (position / Math.max(1, this.timeline.end)) * (this.axis.width - 2 * this.axis.inset);
  }

  async start() {
    this.buildFrame();
    this.state = readState(this.host.readLink());
    this.host.onTheme((dark) => this.setTheme(dark));
    listenToKeys(this);
    await this.refresh();
    this.host.onReload?.(() => this.refresh());
    if (this.host.live) setInterval(() => this.poll(), POLL);
    if (this.host.takesFocus) this.stage.focus({preventScroll: true});
  }

  buildFrame() {
    this.dialogs = new Dialogs();
    this.player = new Player(this);
    this.toolbar = new Toolbar(this);
    this.dock = new Dock(this);
    this.dock.setPlaying(false);
    this.heading = make("h1.unseen", {}, "Saliency over training");
    this.stage = make("main.stage", {tabIndex: -1, "aria-label": "Maps"});
    this.dock.element.append(this.dialogs.notice);
    this.root.classList.add("saliency");
    this.root.replaceChildren(
      makeFilter(),
      this.toolbar.element,
      this.stage,
      this.dock.element,
      this.dialogs.element,
    );
    new ResizeObserver(inNextFrame(() => this.resize())).observe(this.stage);
  }

  // What there is

  get visible() {
    return this.root.offsetHeight > 10;
  }

  poll() {
    if (this.visible && !document.hidden && !this.player.playing) this.refresh();
  }

  /** Look what runs there are, and show those of the state if they are new or have changed. */
  async refresh() {
    this.refreshDue = true;
    if (this.refreshing) return; // the refresh under way will look again
    this.refreshing = true;
    try {
      while (this.refreshDue) {
        this.refreshDue = false;
        const runs = await this.readRuns();
        // If the reader chose another run in the meantime, this one is not shown.
        if (runs && !this.refreshDue) this.take(runs);
        else if (runs) this.catalogue.forget();
      }
    } finally {
      this.refreshing = false;
    }
  }

  /** The runs of the state; nothing if there is nothing new to show. */
  async readRuns() {
    const {catalogue, state} = this;
    try {
      await catalogue.look();
      if (!catalogue.runs.length) {
        this.showMessage(makeEmptyMessage(catalogue));
        return null;
      }
      catalogue.choose(state);
      this.toolbar.fillRuns();
      return await catalogue.open(state);
    } catch (error) {
      // If nobody answers, the server may only be restarting: what is on the screen stays there.
      if (!this.ready || error instanceof Refusal)
        this.showMessage(makeMessage("The runs could not be read", error.message));
      return null;
    }
  }

  /** Show runs that were just read: the same ones, grown, or others. */
  take(runs) {
    const had = this.ready ? this.timeline : null;
    const same = had && this.shapeOf(runs) === this.shapeOf(this.runs);
    this.runs = runs;
    const waiting = runs.find((run) => !run.moments.length);
    if (waiting) {
      this.showMessage(makeWaitingMessage(waiting));
      return;
    }
    const timeline = (this.timeline = new Timeline(runs));
    this.noteGrowth(had, same);
    this.t = this.state.at === null ? timeline.end : Math.round(timeline.position(this.state.at));
    this.state.image = clamp(Math.trunc(this.state.image), 0, runs[0].images.length - 1);
    if (same && this.state.view !== "time") this.renew();
    else this.arrange();
  }

  /** What must be the same for the elements to stay as they are when a run grows. */
  shapeOf(runs) {
    return JSON.stringify(
      runs.map((run) => [
        run.id,
        run.info.fingerprint,
        run.images.length,
        run.slots,
        run.shape,
        run.rules,
        run.sameTargets,
      ]),
    );
  }

  noteGrowth(had, same) {
    const more = same ? this.timeline.length - had.length : 0;
    this.fresh = this.state.at === null || !same ? 0 : Math.max(0, this.fresh + more);
    this.growing =
      this.host.live &&
      (same ? this.growing || more > 0 : false) &&
      this.runs.some((run) => !run.info.finished);
  }

  /** Put grown runs in the place of what they were. */
  renew() {
    for (const side of this.sides) side.run = this.runs[side.r];
    this.scales = findScales(this.sides);
    this.dock.build();
    this.toolbar.update();
    this.writeNotes();
    this.update();
  }

  /** Everything that depends on the runs. */
  arrange() {
    this.ready = true;
    this.rules = this.runs[0].rules;
    if (this.state.rule !== ALL_RULES && !this.rules.includes(this.state.rule))
      this.state.rule = "";
    this.sides = makeSides(this.runs, this.state.rule);
    this.scales = findScales(this.sides);
    this.otherImages = this.runs.some(
      (run) => run.info.fingerprint !== this.runs[0].info.fingerprint,
    );
    this.rowCount = this.runs[0].images.length;
    this.toolbar.fillRun();
    this.build();
  }

  /** The cell that is outlined on maps; null for none. */
  get outlined() {
    return this.state.outline === "grown" ? findGrownCell(this.runs[0]) : null;
  }

  /** The factor from a map in units of its own peak to units of the scale. */
  gain(side, peak) {
    return this.state.scale === "run" && peak !== null ? peak / this.scales.get(side.rule) : 1;
  }

  // What is on the screen

  /** Show a message in place of maps. */
  showMessage(message) {
    this.ready = false;
    this.catalogue.forget();
    this.scene?.close();
    this.toolbar.element.hidden = this.catalogue.runs.length === 0;
    this.dock.element.hidden = true;
    this.stage.replaceChildren(this.heading, message);
  }

  build() {
    const {scrollTop} = this.stage;
    const sameView = this.builtView === this.state.view;
    this.scene?.close();
    this.toolbar.element.hidden = this.dock.element.hidden = false;
    this.measure();
    // The dock comes first, because it leaves the stage its height.
    this.dock.build();
    this.measure();
    this.scene = BUILDERS[this.state.view](this);
    if (this.axis.inset !== this.scene.axisInset) {
      this.axis.inset = this.scene.axisInset;
      this.dock.build();
    }
    this.notes = make("div.notes");
    this.nothing = make("p.nothing", {hidden: true});
    this.stage.replaceChildren(this.heading, this.notes, this.scene.node, this.nothing);
    this.stage.dataset.view = this.builtView = this.state.view;
    this.stage.scrollTop = sameView ? scrollTop : 0;
    this.toolbar.update();
    this.writeNotes();
    this.update();
    this.save();
  }

  measure() {
    const {clientWidth, clientHeight} = this.stage;
    const gutter = clientWidth < 900 ? 196 : 236;
    const margin = 44;
    Object.assign(this, {
      stageWidth: clientWidth - 2 * PADDING,
      stageHeight: clientHeight,
      builtSize: `${clientWidth} ${clientHeight}`,
    });
    this.axis = {
      gutter,
      margin,
      inset: 8,
      width: Math.max(120, clientWidth - 2 * PADDING - gutter - margin),
    };
    this.root.style.setProperty("--gutter", `${gutter}px`);
    this.root.style.setProperty("--margin", `${margin}px`);
  }

  resize() {
    const {clientWidth, clientHeight} = this.stage;
    if (this.ready && this.visible && this.builtSize !== `${clientWidth} ${clientHeight}`)
      this.build();
  }

  writeNotes() {
    const notes = findNotes(this.catalogue.notice, this.runs, this.otherImages);
    this.notes.replaceChildren(...notes.map((note) => make("p", {}, note)));
    if (this.outlined) this.notes.append(this.makeOutlineNote());
  }

  makeOutlineNote() {
    const hide = () => {
      this.change({outline: ""});
      this.stage.focus({preventScroll: true}); // the button is gone
    };
    return make(
      "p.outline-note",
      {},
      make("i.outline", {"aria-hidden": "true"}),
      `The gradient grew most in ${describeCell(this.outlined)}. `,
      make("button.plain", {type: "button", onclick: hide}, "Hide the outline"),
    );
  }

  /** Show the moment of the slider everywhere. */
  update() {
    this.scene.update();
    this.dock.update();
    clearTimeout(this.prefetching);
    this.prefetching = setTimeout(() => this.prefetch(), 30);
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.scene.sort(), REST);
  }

  async prefetch() {
    for (const step of AHEAD) {
      const t = this.t + step;
      if (t >= 0 && t <= this.timeline.end) await this.scene.fetchAt(t);
    }
  }

  /** Say why the list is empty, if it is. */
  showNothing(empty) {
    this.nothing.hidden = !empty;
    if (empty) this.nothing.textContent = explainNothing(this);
  }

  showCount(number) {
    this.toolbar.showCount(number);
  }

  setTheme(dark) {
    this.dark = dark;
    this.root.dataset.theme = dark ? "dark" : "light";
    this.toolbar.showLegend();
    this.scene?.repaint();
  }

  // What the reader does

  /** Go to a position in time. */
  go(t) {
    this.t = clamp(t, 0, this.timeline.end);
    this.state.at = this.t === this.timeline.end ? null : this.timeline.epochs[this.t];
    if (this.state.at === null) this.fresh = 0;
    this.update();
    if (!this.player.playing) this.save();
  }

  /** Go to a position by hand, which ends playing. */
  seek(t) {
    this.player.stop();
    this.go(t);
  }

  /** Change parts of the state. */
  change(changes) {
    Object.assign(this.state, changes);
    const keys = Object.keys(changes);
    const only = (some) => keys.every((key) => some.has(key));
    if (keys.includes("run") || keys.includes("vs")) this.refresh();
    else if (!this.ready) return;
    else if (keys.includes("rule")) this.arrange();
    else if (only(REPAINTS)) this.scene.repaint();
    else if (only(FILTERS)) this.update();
    else this.build();
    if (!this.ready) return;
    this.toolbar.update();
    this.save();
  }

  openImage(image) {
    this.dialogs.close();
    this.change({view: "image", image: clamp(image, 0, this.rowCount - 1)});
    this.stage.focus({preventScroll: true});
  }

  openClass(index) {
    this.dialogs.close();
    this.change({view: "time", cls: String(index)});
  }

  /** Write the state to the address, once it is at rest: browsers limit how often. */
  save() {
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.host.writeLink(describeState(this.state)), 200);
  }

  copyLink() {
    clearTimeout(this.saving);
    this.host.writeLink(describeState(this.state));
    this.dialogs.copy(this.host.link());
  }
}
