// Playing: one observation after another, each shown in full before the next.
import {clamp} from "./elements.js";

const WHOLE = 8000; // milliseconds from the first to the last observation, about

export class Player {
  constructor(viewer) {
    this.viewer = viewer;
    this.playing = false;
  }

  toggle() {
    if (this.playing) this.stop();
    else this.start();
  }

  async start() {
    const {viewer} = this;
    if (viewer.timeline.length < 2) return;
    this.setPlaying(true);
    const round = (this.round = Symbol("a round of playing")); // ends when another one starts
    if (viewer.t === viewer.timeline.end) viewer.go(0);
    const pause = clamp(WHOLE / viewer.timeline.length, 120, 700);
    while (viewer.t < viewer.timeline.end) {
      const next = viewer.t + 1;
      await Promise.all([
        viewer.scene.fetchAt(next),
        new Promise((done) => setTimeout(done, pause)),
      ]);
      if (this.round !== round || !this.playing) return;
      // A hidden tab of TensorBoard keeps its frame, which is no pixel high.
      if (!viewer.visible) break;
      viewer.go(next);
    }
    this.stop();
  }

  stop() {
    if (!this.playing) return;
    this.setPlaying(false);
    this.viewer.save();
  }

  setPlaying(playing) {
    this.playing = playing;
    this.viewer.dock.setPlaying(playing);
  }
}
