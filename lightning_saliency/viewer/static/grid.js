// All images: a photo and the maps of its classes for each. Short rows stand next to one another.
import {clamp, make} from "./elements.js";
import {outlinePhoto} from "./outline.js";
import {makePhoto} from "./photos.js";
import {Scene} from "./scene.js";
import {Tile, snapSize} from "./tiles.js";

const MOST_COLUMNS = 12; // classes of an image that are shown
const LEAST_COLUMNS = 5; // the same, in a narrow window
const NAMED = 84; // pixels: a tile that is less wide has no room for the name of its class
const GAP = 10; // pixels between tiles
const CARD_GAP = 28; // pixels between rows that stand next to one another
const FEW = 3; // up to this many classes, the sides of a comparison share a row

/** The slots of an image that are shown: all, or the true, a chosen and the most probable ones. */
export function findColumns(run, image, cls, most = MOST_COLUMNS) {
  const slots = Array.from({length: run.slots}, (_, slot) => slot);
  if (slots.length <= MOST_COLUMNS) return slots;
  const last = run.moments.length - 1;
  const p = run.probabilities(last, image);
  const targets = run.targets(last, image);
  const labels = run.labels(image);
  const rank = (slot) =>
    labels.includes(targets[slot]) ? 3 : String(targets[slot]) === cls ? 2 : p[slot];
  return slots.sort((a, b) => rank(b) - rank(a)).slice(0, most);
}

export function buildGrid(viewer) {
  const scene = new Scene(viewer);
  const plan = planGrid(viewer);
  const {sides} = viewer;
  scene.hint = makeLegend(sides[0].run);
  scene.size = plan.size;
  scene.list = make("div.rows");
  const kind = plan.across > 1 ? "div.grid.gallery" : "div.grid";
  scene.node = make(kind, {}, plan.headed ? makeHeads(sides[0].run) : null, scene.list);
  scene.node.style.setProperty("--size", `${plan.size}px`);
  scene.node.style.setProperty("--card", `${(plan.perRow + 1) * (plan.size + GAP) - GAP}px`);
  for (let image = 0; image < viewer.rowCount; image++) {
    const present = sides.filter(({run}) => image < run.images.length);
    const groups = plan.together ? [present] : present.map((side) => [side]);
    groups.forEach((group, i) => {
      scene.list.append(makeRow(scene, plan, image, group, i === 0, i === groups.length - 1));
    });
  }
  return scene;
}

/**
 * How rows are laid out: whether the sides of a comparison stand `together` in a row, how many
 * tiles there are `perRow`, their `size`, how many rows stand `across`, and whether the columns
 * are `headed` by the names of their classes, so that the tiles need not be named.
 */
function planGrid(viewer) {
  const {sides, state} = viewer;
  const most = findMost(viewer);
  const perSide = findColumns(sides[0].run, 0, state.cls, most).length;
  const together = sides.length === 1 || perSide <= FEW;
  const perRow = together ? perSide * sides.length : perSide;
  const {size, across} = layOut(viewer, perRow, together);
  const aligned = sides.every(
    ({run}) => run.sameTargets && run.slots === perSide && run.slots <= MOST_COLUMNS,
  );
  const headed = aligned && across === 1 && (!together || sides.length === 1);
  return {together, perRow, size, across, headed, most};
}

/** How many of very many classes are shown: as many as can be named. */
function findMost({stageWidth}) {
  const fit = Math.floor((stageWidth + GAP) / (NAMED + GAP)) - 1;
  return clamp(fit, LEAST_COLUMNS, MOST_COLUMNS);
}

/** What the frame and the bold words mean. */
function makeLegend(run) {
  if (run.slots === 1) return [describeOnlyMaps(run)];
  const word = run.isMultiLabel ? "strongest" : "predicted";
  const truth = run.explainsTruth ? [make("span.key-true"), "true class"] : [];
  const isKnown = run.moments.some(({predicted}) => predicted.some((each) => each !== null));
  return isKnown ? [...truth, make("span.key-predicted"), make("b", {}, word)] : truth;
}

/** What the maps of a run are of that has one for each image. */
function describeOnlyMaps(run) {
  const isAlways = (find) =>
    run.moments.every((_, m) => run.images.every((_, image) => find(m, image) === 0));
  if (isAlways((m, image) => run.trueSlot(m, image))) return "Maps of the true class";
  if (run.sameTargets) return `Maps of ${run.className(run.targets(0, 0)[0])}`;
  return isAlways((m, image) => run.predictedSlot(m, image)) ? `Maps of ${run.predictedText}` : "";
}

/** The size of a tile, and how many rows stand next to one another. */
function layOut(viewer, perRow, together) {
  const room = viewer.stageWidth;
  const chosen = viewer.state.size;
  const {shape} = viewer.sides[0].run;
  const cardWidth = (size) => (perRow + 1) * (size + GAP) - GAP + CARD_GAP;
  const most = Math.ceil(viewer.rowCount / 3); // at least three rows below one another
  const across = together
    ? clamp(Math.floor((room + CARD_GAP) / cardWidth(chosen || 84)), 1, most)
    : 1;
  if (chosen) return {size: chosen, across};
  const fits = ((room + CARD_GAP) / across - CARD_GAP + GAP) / (perRow + 1) - GAP;
  // Four rows and a bit are in sight, so that it is plain that there are more.
  const high = across > 1 ? 128 : clamp(viewer.stageHeight / 3.9 - 30, 72, 150);
  return {size: snapSize(Math.floor(Math.max(40, Math.min(fits, high))), shape), across};
}

function makeHeads(run) {
  const heads = run
    .targets(0, 0)
    .map((target) => make("span.head", {title: run.className(target)}, run.className(target)));
  return make("div.heads", {}, make("span.head"), heads);
}

function makeRow(scene, plan, image, group, first, last) {
  const {viewer} = scene;
  const [side] = group;
  const isPhoto = first || viewer.otherImages;
  const photo = isPhoto
    ? outlinePhoto(makePhoto(side.run, image, plan.size), viewer.outlined, side.run)
    : make("span.photo.ditto");
  const badge = plan.together ? null : side.makeBadge();
  const words = make("span.words", {}, badge, scene.makeSaying(side, image));
  const open = () => viewer.openImage(image);
  const lead = make("button.lead", {type: "button", onclick: open}, photo, words);
  lead.title = `${side.run.images[image]}: open`;
  return scene.addRow(make(`div.row${last ? ".last" : ""}`, {}, lead), image, ({element}) => {
    const tiles = interleave(group.map((each) => makeTiles(viewer, plan, image, each, open)));
    element.append(...tiles.map((tile) => tile.element));
    return tiles;
  });
}

function makeTiles(viewer, {size, headed, together, most}, image, side, open) {
  const shown = findColumns(side.run, image, viewer.state.cls, most);
  const lettered = together && viewer.sides.length > 1;
  const options = {size, shown, named: !headed, lettered, open};
  return shown.map((slot) => new Tile(viewer, side, image, {...options, slot}));
}

/** The tiles of all sides for the first class, then for the second, and so on. */
function interleave([first, ...others]) {
  return first.flatMap((tile, i) => [tile, ...others.map((tiles) => tiles[i]).filter(Boolean)]);
}
