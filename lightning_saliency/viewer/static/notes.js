// Sentences for the reader: what is missing, what cannot be compared, and how to begin.
import {make} from "./elements.js";
import {isExplained} from "./filters.js";
import {count} from "./format.js";

const EXAMPLE = `import pytorch_lightning as pl
from lightning_saliency import SaliencyCallback

trainer = pl.Trainer(callbacks=[SaliencyCallback()])`;

/** What stands on the stage in place of maps. */
export function makeMessage(heading, words, ...more) {
  return make("div.message", {}, make("h2", {}, heading), make("p", {}, words), more);
}

/** For a log folder without a run: what to do, and what was found in it that cannot be shown. */
export function makeEmptyMessage({notice, unreadable}) {
  const words =
    "Train with the callback, and log into this folder. " +
    "The first observation, of the untrained network, appears here by itself.";
  const faults = [notice, ...unreadable.map((id) => `${id} is damaged and cannot be read.`)];
  const paragraphs = faults.filter(Boolean).map((fault) => make("p", {}, fault));
  return makeMessage(
    "Nothing recorded here yet",
    words,
    make("pre", {}, make("code", {}, EXAMPLE)),
    paragraphs,
  );
}

/** For a run without an observation that can be read. */
export function makeWaitingMessage(run) {
  const {unreadable} = run.info;
  const words = unreadable
    ? `${count(unreadable, "file")} could not be read.`
    : "The first one appears here by itself.";
  return makeMessage(`No observation of ${run.name} yet`, words);
}

/** What a reader should know about the runs that are open. */
export function findNotes(notice, runs, otherImages) {
  const notes = notice ? [notice] : [];
  if (otherImages)
    notes.push("These runs have different probe images: the rows are not of the same pictures.");
  for (const {
    name,
    info: {unreadable, cut = []},
  } of runs) {
    if (unreadable) notes.push(`${count(unreadable, "file")} of ${name} could not be read.`);
    notes.push(...cut);
  }
  return notes;
}

/** Why no image is listed. */
export function explainNothing(viewer) {
  const {
    state: {view, show, find},
    sides: [{run, r}],
    timeline,
    t,
  } = viewer;
  const images = run.images.keys();
  if (view === "time" && ![...images].some((image) => isExplained(viewer, image)))
    return "This class was not explained for any image.";
  const m = timeline.moment(r, t);
  if (show === "wrong" && !(m >= 0 && run.canJudge(m)))
    return "The record does not say which images are taken for a wrong class at this moment.";
  const found = find ? `No image is called “${find}”` : "No image";
  if (show === "wrong")
    return `${found} ${find ? "and" : "is"} taken for a wrong class at this moment.`;
  return `${found}.`;
}
