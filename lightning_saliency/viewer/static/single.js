// One image: its photo, large, and all of its maps. A map opens its class over time.
import {clamp, make} from "./elements.js";
import {icon} from "./icons.js";
import {findColumns} from "./grid.js";
import {outlinePhoto} from "./outline.js";
import {makePhoto} from "./photos.js";
import {Scene} from "./scene.js";
import {Tile, snapSize} from "./tiles.js";

const GAP_OF_MAPS = 12; // pixels
const SMALLEST = 72; // pixels of a map
const LARGEST = 210;
const LARGEST_OF_FEW = 520;
const FEW_MAPS = 3;
const GAP_OF_SIDES = 28;

export function buildSingle(viewer) {
  const scene = new Scene(viewer);
  const {sides} = viewer;
  const width = Math.round(clamp(viewer.stageWidth * 0.24, 140, 320));
  const room = viewer.stageWidth - width - 28;
  scene.hint = ["A map opens its class over time."];
  // A few maps of each side are compared best next to one another.
  const together = sides.length > 1 && sides[0].run.slots <= FEW_MAPS;
  const share = together ? (room + GAP_OF_SIDES) / sides.length - GAP_OF_SIDES : room;
  const sections = sides.map((side) => makeSection(scene, side, share));
  scene.node = make(
    "div.single",
    {},
    makeAside(scene, width),
    make(together ? "div.maps.together" : "div.maps", {}, sections),
  );
  scene.sayings.forEach(({element}) => element.classList.add("long"));
  return scene;
}

function makeAside(scene, width) {
  const {viewer} = scene;
  const {
    sides,
    state: {image},
  } = viewer;
  const {run} = sides[0];
  const last = run.images.length - 1;
  const turn = (name, text, to) =>
    make(
      "button.turn",
      {type: "button", disabled: to < 0 || to > last, onclick: () => viewer.openImage(to)},
      ...(name === "before" ? [icon(name), text] : [text, icon(name)]),
    );
  const aside = make(
    "section.aside",
    {"aria-label": "Photo"},
    outlinePhoto(makePhoto(run, image, width, run.images[image]), viewer.outlined, run),
    make("h2", {}, run.images[image]),
    sides.map((side) =>
      image < side.run.images.length
        ? make("p", {}, side.makeBadge(), scene.makeSaying(side, image))
        : null,
    ),
    make("p.turns", {}, turn("before", "previous", image - 1), turn("after", "next", image + 1)),
  );
  aside.style.width = `${width}px`;
  return aside;
}

function makeSection(scene, side, room) {
  const {viewer} = scene;
  const {image, cls} = viewer.state;
  const title = viewer.sides.length > 1 ? make("h3", {}, side.makeBadge(), side.title) : null;
  if (image >= side.run.images.length) {
    return make("section.class-maps", {}, title, make("p", {}, "This run has no such image."));
  }
  const shown = findColumns(side.run, image, cls);
  const size = (scene.size = viewer.state.size || findSize(viewer, side.run.shape, shown, room));
  const makeTile = (slot) => {
    const options = {size, slot, shown, named: true, open: () => openClass(viewer, side, slot)};
    return new Tile(viewer, side, image, options);
  };
  const row = scene.addRow(make("div.wrap"), image, ({element}) => {
    const tiles = shown.map(makeTile);
    element.append(...tiles.map((tile) => tile.element));
    return tiles;
  });
  row.style.setProperty("--size", `${size}px`);
  return make("section.class-maps", {}, title, row);
}

/** The size of the maps of a side, in as few rows of the same length as are readable. */
function findSize({sides, stageHeight}, shape, shown, room) {
  const most = Math.max(1, Math.floor((room + GAP_OF_MAPS) / (SMALLEST + GAP_OF_MAPS)));
  const least = sides.length > 1 || shown.length <= FEW_MAPS ? 1 : 2;
  const rows = Math.max(least, Math.ceil(shown.length / most));
  const fits = (room + GAP_OF_MAPS) / Math.ceil(shown.length / rows) - GAP_OF_MAPS;
  const few = shown.length <= FEW_MAPS;
  const largest = few ? clamp(stageHeight - 110, LARGEST, LARGEST_OF_FEW) : LARGEST;
  return snapSize(Math.floor(clamp(fits, SMALLEST, largest)), shape);
}

/** Show the class of a slot over time; a slot may be of another class at another moment. */
function openClass(viewer, {run, r}, slot) {
  const m = viewer.timeline.moment(r, viewer.t);
  if (m >= 0) viewer.openClass(run.targets(m, viewer.state.image)[slot]);
}
