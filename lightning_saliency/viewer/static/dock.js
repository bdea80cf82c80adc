// The dock at the bottom: lanes of numbers, and the slider on the same axis. One cursor runs
// through all of them, and dragging in a lane moves it.
import {draw, make} from "./elements.js";
import {count} from "./format.js";
import {icon, makeButton} from "./icons.js";
import {LaneMenu} from "./lane_menu.js";
import {buildLanes} from "./lanes.js";

const THUMB = 16; // pixels: half of it is how far a slider's ends are from those of its track
const TICK_SPACE = 64; // pixels between ticks with words

export class Dock {
  constructor(viewer) {
    this.viewer = viewer;
    this.lanes = [];
    this.menu = new LaneMenu(viewer);
    this.lanesBox = make("div.lanes", {onpointerdown: (event) => this.scrub(event)});
    this.cursor = make("div.cursor");
    this.slider = make("input.slider", {
      type: "range",
      min: 0,
      step: 1,
      "aria-label": "Moment of the training",
      oninput: () => viewer.seek(Number(this.slider.value)),
    });
    this.ticks = draw("svg", {class: "ticks", height: 18, "aria-hidden": "true"});
    this.playButton = makeButton("Play", "play", () => viewer.player.toggle());
    this.moment = make("div.moment");
    this.news = make("button.news", {
      type: "button",
      hidden: true,
      onclick: () => viewer.seek(viewer.timeline.end),
    });
    this.status = make("div.unseen", {role: "status"});
    const parts = [this.lanesBox, this.makeTransport(), this.status];
    this.element = make("footer.dock", {hidden: true}, parts);
  }

  makeTransport() {
    const {viewer} = this;
    const first = makeButton("First observation", "first", () => viewer.seek(0));
    const end = () => viewer.seek(viewer.timeline.end);
    const last = makeButton("Last observation", "last", end);
    const controls = make("div.controls", {}, first, this.playButton, last, this.moment);
    const axis = make("div.axis", {}, this.slider, this.ticks);
    return make("div.transport", {}, controls, axis, this.menu.element, this.news);
  }

  build() {
    const {axis, timeline} = this.viewer;
    const {lanes, names, most} = buildLanes(this.viewer);
    this.lanes = lanes;
    this.menu.fill({names, most, shown: lanes.map(({name}) => name)});
    this.lanesBox.replaceChildren(...this.lanes.map((lane) => lane.element), this.cursor);
    this.slider.max = timeline.end;
    this.slider.disabled = timeline.length < 2;
    this.slider.style.width = `${axis.width - 2 * axis.inset + THUMB}px`;
    this.slider.style.marginLeft = `${axis.inset - THUMB / 2}px`;
    this.ticks.setAttribute("width", axis.width + axis.margin);
    this.ticks.replaceChildren(...this.drawTicks());
  }

  drawTicks() {
    const {axis, timeline, x} = this.viewer;
    const every = Math.max(1, Math.ceil(timeline.length / Math.floor(axis.width / TICK_SPACE)));
    const ticks = [];
    for (let t = 0; t < timeline.length; t++) {
      const last = t === timeline.end;
      const crowded = timeline.end - t < 0.7 * every;
      const named = last || t === 0 || (t % every === 0 && !crowded);
      const at = x(t);
      ticks.push(draw("line", {x1: at, x2: at, y1: 0, y2: named ? 6 : 3}));
      const anchor =
        axis.inset > 20 || (t > 0 && !last) ? "middle" : last && t > 0 ? "end" : "start";
      if (named) ticks.push(draw("text", {x: at, y: 16, "text-anchor": anchor}, timeline.tick(t)));
    }
    return ticks;
  }

  update() {
    const {viewer} = this;
    const {timeline, t} = viewer;
    const caption = timeline.caption(t);
    const m = timeline.moment(0, t);
    const step = m < 0 ? "" : `step ${viewer.runs[0].moments[m].step.toLocaleString("en")}`;
    this.slider.value = t;
    this.slider.setAttribute("aria-valuetext", [caption, step].filter(Boolean).join(", "));
    this.cursor.style.transform = `translateX(${viewer.axis.gutter + viewer.x(t)}px)`;
    // In a narrow window, it may break between its two parts only.
    const parts = [step, `${t + 1} of ${timeline.length}`].filter(Boolean);
    const where = parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
    this.moment.replaceChildren(make("b", {}, caption), make("span", {}, where));
    for (const lane of this.lanes) lane.update(t);
    this.showNews();
    // While it plays, a voice could not keep up.
    if (!viewer.player.playing)
      this.status.textContent = [caption, ...this.lanes.map((lane) => lane.text)].join(", ");
  }

  /** Whether the run is still training, and what arrived while the reader looked back. */
  showNews() {
    const {viewer} = this;
    const behind = viewer.timeline.end - viewer.t;
    const fresh = Math.min(viewer.fresh, behind);
    this.news.hidden = !viewer.growing;
    this.news.replaceChildren(
      make("span.pulse", {"aria-hidden": "true"}),
      fresh ? `live, ${count(fresh, "new one", "new ones")}` : "live",
    );
    this.news.title = fresh
      ? "Go to the last observation"
      : "This run is training; new observations appear by themselves";
  }

  setPlaying(playing) {
    const name = playing ? "Pause" : "Play";
    this.playButton.replaceChildren(icon(playing ? "pause" : "play"));
    this.playButton.title = name;
    this.playButton.setAttribute("aria-label", name);
  }

  scrub(event) {
    const {viewer} = this;
    const {axis} = viewer;
    const left = this.lanesBox.getBoundingClientRect().left + axis.gutter + axis.inset;
    if (event.clientX < left - axis.inset || event.button !== 0) return;
    const seek = ({clientX}) =>
      viewer.seek(
        Math.round(((clientX - left) / (axis.width - 2 * axis.inset)) * viewer.timeline.end),
      );
    seek(event);
    this.lanesBox.setPointerCapture(event.pointerId);
    this.lanesBox.onpointermove = seek;
    this.lanesBox.onpointerup = this.lanesBox.onpointercancel = () => {
      this.lanesBox.onpointermove = null;
    };
  }
}
