// The time axis that runs share. It counts epochs: the untrained network is at 0 and the end of
// epoch e at e + 1. The slider runs over the moments of all runs, which stand equally far apart.
import {clamp} from "./elements.js";

const SAME = 1e-6; // epochs: moments of two runs that are nearer than this are one

const isUntrained = ({caption, epoch}) => caption === "untrained" || epoch < 0;
const atEnd = (moment) => !isUntrained(moment) && moment.caption.startsWith("epoch");

/** The step at which each epoch ended, of those that did. */
function findEnds(moments) {
  return new Map(moments.filter(atEnd).map(({epoch, step}) => [epoch, step]));
}

/**
 * Steps in an epoch that has not ended. Nobody knows, but it is at least as long as what there is
 * of it; and runs that share this length are aligned by step, which is right in their first epoch.
 */
function guessLength(runs) {
  const lengths = runs.flatMap(({moments}) => {
    const ends = findEnds(moments);
    return moments.map(({epoch, step}) => step - (ends.get(epoch - 1) ?? 0));
  });
  return lengths.reduce((a, b) => Math.max(a, b), 1) + 1;
}

/** The place of each moment of a run on the axis of epochs. */
export function placeMoments(moments, lengthOfOpen) {
  const ends = findEnds(moments);
  return moments.map((moment) => {
    if (isUntrained(moment)) return 0;
    if (atEnd(moment)) return moment.epoch + 1;
    const before = ends.get(moment.epoch - 1) ?? 0;
    const length = (ends.get(moment.epoch) ?? before + lengthOfOpen) - before;
    return moment.epoch + clamp((moment.step - before) / (length || 1), 1e-5, 1 - 1e-5);
  });
}

export class Timeline {
  /** @param runs - the runs that share the axis; the first one gives the captions. */
  constructor(runs) {
    this.runs = runs;
    const lengthOfOpen = guessLength(runs);
    this.places = runs.map((run) => placeMoments(run.moments, lengthOfOpen));
    const all = this.places.flat().sort((a, b) => a - b);
    this.epochs = all.filter((place, i) => i === 0 || place - all[i - 1] > SAME);
    this.latest = this.places.map((places) => this.epochs.map((epoch) => lastUntil(places, epoch)));
  }

  get length() {
    return this.epochs.length;
  }
  get end() {
    return this.epochs.length - 1;
  }

  /** The moment of run r that is seen at t: its last one so far; -1 before its first. */
  moment(r, t) {
    return this.latest[r][t];
  }

  /** Whether run r was observed at t, and not only before. */
  observed(r, t) {
    const m = this.moment(r, t);
    return m >= 0 && Math.abs(this.places[r][m] - this.epochs[t]) <= SAME;
  }

  caption(t) {
    const r = this.runs.findIndex((_, index) => this.observed(index, t));
    return this.runs[r].moments[this.moment(r, t)].caption;
  }

  /** A short text for a tick of the axis; empty between the ends of epochs. */
  tick(t) {
    const epoch = this.epochs[t];
    if (epoch === 0) return "untrained";
    return Number.isInteger(epoch) ? String(epoch - 1) : "";
  }

  /** The position t, possibly between two moments, of a step of run r. */
  positionOfStep(r, step) {
    const {moments} = this.runs[r];
    const places = this.places[r];
    let i = 0;
    while (i + 1 < moments.length && moments[i + 1].step <= step) i++;
    const next = Math.min(i + 1, moments.length - 1);
    const span = moments[next].step - moments[i].step;
    const part = span > 0 ? clamp((step - moments[i].step) / span, 0, 1) : 0;
    return this.position(places[i] + part * (places[next] - places[i]));
  }

  /** The position t of a place on the axis of epochs. */
  position(epoch) {
    const after = this.epochs.findIndex((each) => each >= epoch - SAME);
    if (after < 0) return this.end;
    if (after === 0 || this.epochs[after] - epoch <= SAME) return after;
    const before = this.epochs[after - 1];
    return after - 1 + (epoch - before) / (this.epochs[after] - before);
  }
}

/** The index of the last of the ascending `places` up to `epoch`; -1 if there is none. */
function lastUntil(places, epoch) {
  return places.findLastIndex((place) => place <= epoch + SAME);
}
