// The verdict of the attention check: what failed, what grew, and what moved most.
import {draw, make} from "./elements.js";
import {boundsText, count, figure, outcomeText, percent} from "./format.js";
import {CELLS, describeCell, findGrownCell, outlinePhoto} from "./outline.js";
import {makePhoto} from "./photos.js";

const MOST_IMAGES = 8;
const MOST_CLASSES = 6;
const MARKS = {pass: "✓ pass", warn: "! warn", fail: "✗ fail"};

export function showVerdict(viewer) {
  const {verdict} = viewer.runs[0].info;
  const {why, findings = []} = verdict;
  viewer.dialogs.show(
    outcomeText(verdict.outcome),
    why ? make("p", {}, why) : null,
    make("p.faint", {}, describeBasis(verdict)),
    findings.length ? makeFindings(findings) : null,
    makeGrowth(viewer, verdict),
    makeImages(viewer, verdict.images ?? []),
    makeClasses(viewer, verdict.classes ?? []),
  );
}

function describeBasis({good_runs: good, left_out: left}) {
  const parts = [
    good ? `Compared with ${count(good, "good run")}.` : "No good runs to compare with.",
  ];
  if (left)
    parts.push(`${count(left, "image was", "images were")} left out, for want of a finite map.`);
  return parts.join(" ");
}

function makeFindings(findings) {
  const rows = findings.map((finding) =>
    make(
      "tr",
      {title: finding.requirement ?? ""},
      make(`td.mark.${finding.mark}`, {}, MARKS[finding.mark] ?? finding.mark),
      make("th", {scope: "row"}, finding.measure),
      make("td.number", {}, figure(finding.value)),
      make("td", {}, boundsText(finding)),
      make("td.faint", {}, finding.source),
    ),
  );
  const heads = ["Result", "Measure", "Value", "Allowed", "Because of"].map((head) =>
    make("th", {scope: "col"}, head),
  );
  return make(
    "div.table",
    {},
    make("table", {}, make("thead", {}, make("tr", {}, heads)), make("tbody", {}, rows)),
  );
}

/** What grew, with a picture of where, and a way to its maps. */
function makeGrowth(viewer, {growth, occluded}) {
  if (!growth) return null;
  const scattered = growth.scattered
    ? make(
        "p",
        {},
        "No one place grew: the whole profile shifted, as after a change of recipe, ",
        "or by a cue at several places or without a place. What grew most:",
      )
    : null;
  const place = growth.region ?? describeCell(growth);
  const words = make(
    "p",
    {},
    make("b", {}, place),
    ` had ${percent(growth.before)} of the gradient in the good runs, `,
    `and has ${percent(growth.now)} in this one.`,
  );
  const hidden = occluded
    ? make(
        "p",
        {},
        "When it is hidden, the probability of the true class goes " +
          `from ${percent(occluded.before)} to ${percent(occluded.after)}.`,
      )
    : null;
  const look = () => {
    viewer.dialogs.close();
    const outline = findGrownCell(viewer.runs[0]) ? "grown" : "";
    viewer.change({view: "all", show: "all", find: "", at: null, outline});
    viewer.seek(viewer.timeline.end);
  };
  const button = make("button.plain", {type: "button", onclick: look}, "See it in all images");
  return make(
    "section",
    {},
    make("h3", {}, "What grew"),
    make("div.growth", {}, drawCell(growth), make("div", {}, scattered, words, hidden, button)),
  );
}

function drawCell({row, column}) {
  const side = 56 / CELLS;
  const cells = draw("svg", {width: 56, height: 56, class: "cells", "aria-hidden": "true"});
  for (let i = 0; i < CELLS * CELLS; i++) {
    const y = Math.floor(i / CELLS);
    const x = i % CELLS;
    cells.append(
      draw("rect", {
        x: x * side + 0.5,
        y: y * side + 0.5,
        width: side - 1,
        height: side - 1,
        class: y === row && x === column ? "grown" : "cell",
      }),
    );
  }
  return cells;
}

function makeImages(viewer, images) {
  const run = viewer.runs[0];
  const present = images.filter(({index}) => index < run.images.length).slice(0, MOST_IMAGES);
  if (!present.length) return null;
  const buttons = present.map(({name, index, moved}) =>
    make(
      "button.moved",
      {type: "button", onclick: () => viewer.openImage(index)},
      outlinePhoto(makePhoto(run, index, 84), findGrownCell(run), run),
      make("span.name", {}, name),
      make("span.faint", {}, figure(moved)),
    ),
  );
  return make(
    "section",
    {},
    make("h3", {}, "Images that moved most"),
    make("div.moved-list", {}, buttons),
  );
}

function makeClasses(viewer, classes) {
  if (classes.length < 2) return null;
  const buttons = classes.slice(0, MOST_CLASSES).map(({name, index, moved, bound}) => {
    const surprising = typeof bound === "number" && moved > bound;
    const number = make(surprising ? "span.surprising" : "span.faint", {}, figure(moved));
    const title = typeof bound === "number" ? `in good runs at most ${figure(bound)}` : "";
    return make(
      "button.plain",
      {type: "button", title, onclick: () => viewer.openClass(index)},
      `${name} `,
      number,
    );
  });
  return make(
    "section",
    {},
    make("h3", {}, "Classes that moved most"),
    make("div.moved-list", {}, buttons),
  );
}
