// One class over time: a row for each image, with its maps at their places on the slider's axis.
import {clamp, make} from "./elements.js";
import {makePhoto} from "./photos.js";
import {Scene} from "./scene.js";
import {Tile, snapSize} from "./tiles.js";

const SPACE = 10; // pixels between columns, at least

class Film extends Scene {
  update() {
    const {t, timeline} = this.viewer;
    this.heads.forEach((head, i) => mark(head, this.columns[i] === t));
    this.placeAt(this.movingHead, t).hidden = this.columns.includes(t);
    this.movingHead.textContent = timeline.caption(t);
    for (const row of this.rows) if (row.inSight) this.follow(row);
    this.filter();
  }

  show(row) {
    super.show(row);
    this.follow(row);
  }

  /** Mark the column of the slider's moment. Between two columns, a moving one shows it. */
  follow({columns, moving}) {
    const {t} = this.viewer;
    const between = !this.columns.includes(t);
    columns.forEach((tile, i) => tile.element.classList.toggle("now", this.columns[i] === t));
    this.placeAt(moving.element, t).hidden = !between;
    if (between) moving.draw();
  }

  /** Only the moving tiles show other maps when the slider moves. */
  get tilesInSight() {
    return this.rows.filter((row) => row.inSight && row.moving).map((row) => row.moving);
  }

  placeAt(element, t) {
    element.style.left = `${this.x(t) - this.size / 2}px`;
    return element;
  }
}

function mark(head, now) {
  head.classList.toggle("now", now);
  if (now) head.setAttribute("aria-current", "true");
  else head.removeAttribute("aria-current");
}

export function buildFilm(viewer) {
  const film = new Film(viewer);
  const {timeline, sides, axis} = viewer;
  film.size =
    viewer.state.size ||
    snapSize(
      Math.floor(clamp(axis.width / Math.min(timeline.length, 10) - SPACE, 64, 132)),
      sides[0].run.shape,
    );
  film.axisInset = film.size / 2; // so that the first and the last column are whole
  const length = axis.width - 2 * film.axisInset;
  const {end} = timeline;
  film.x = (t) => film.axisInset + (end > 0 ? (t / end) * length : 0);
  film.columns = spread(timeline.length, Math.ceil(((film.size + SPACE) * end) / length));
  const number = `${film.columns.length} of ${timeline.length}`;
  const some = `${number} observations have a column; the slider shows all`;
  film.hint = film.columns.length < timeline.length ? [some] : [];
  film.heads = film.columns.map((t) => film.placeAt(makeHead(viewer, t), t));
  film.movingHead = make("span.head.now.moving");
  const strip = make("div.strip", {}, film.heads, film.movingHead);
  film.list = make("div.rows");
  film.node = make("div.film", {}, make("div.heads", {}, make("span.film-lead"), strip), film.list);
  film.node.style.setProperty("--size", `${film.size}px`);
  film.node.style.setProperty("--lead", `${clamp(film.size, 48, 110)}px`);
  for (let image = 0; image < viewer.rowCount; image++) {
    const present = sides.filter(({run}) => image < run.images.length);
    present.forEach((side, i) =>
      film.list.append(makeFilmRow(film, side, image, i === 0, i === present.length - 1)),
    );
  }
  return film;
}

/** Positions from the first to the last of `length`, as even as possible and `every` apart. */
function spread(length, every) {
  const parts = Math.max(1, Math.floor((length - 1) / Math.max(1, every)));
  if (length === 1) return [0];
  return Array.from({length: parts + 1}, (_, i) => Math.round((i * (length - 1)) / parts));
}

function makeHead(viewer, t) {
  return make(
    "button.head",
    {type: "button", onclick: () => viewer.go(t)},
    viewer.timeline.caption(t),
  );
}

function makeFilmRow(film, side, image, first, last) {
  const {viewer} = film;
  const {run} = side;
  const {cls} = viewer.state;
  const named = cls === "strongest" || (cls === "label" && !run.explainsTruth);
  const options = {size: film.size, named};
  const photo = first || viewer.otherImages ? makePhoto(run, image, 110) : make("span.photo.ditto");
  const name = make("span.name", {}, run.labelText(image) || run.images[image]);
  const lead = make(
    "button.film-lead",
    {type: "button", onclick: () => viewer.openImage(image)},
    photo,
    side.makeBadge(),
    name,
  );
  lead.title = `${run.images[image]}: open`;
  return film.addRow(make(`div.film-row${last ? ".last" : ""}`, {}, lead), image, (row) => {
    row.columns = film.columns.map(
      (t) => new Tile(viewer, side, image, {...options, at: t, open: () => viewer.go(t)}),
    );
    row.columns.forEach((tile, i) => film.placeAt(tile.element, film.columns[i]));
    row.moving = new Tile(viewer, side, image, {...options, open: () => viewer.openImage(image)});
    row.moving.element.classList.add("now", "moving");
    row.element.append(
      make(
        "div.strip",
        {},
        [...row.columns, row.moving].map((tile) => tile.element),
      ),
    );
    return row.columns;
  });
}
