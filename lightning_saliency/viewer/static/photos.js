// The photos of a run come as one sheet; an element shows its part of it as a background.
import {make} from "./elements.js";

const WIDEST = 4096; // pixels, of a sheet
const sheets = new Map(); // by address, so that a run that grows keeps its sheet

/** A square with the photo of an image. Without a label it is left out of what is read aloud. */
export function makePhoto(run, image, size, label = null) {
  const described = label === null ? {"aria-hidden": "true"} : {role: "img", "aria-label": label};
  const photo = make("span.photo", described);
  findSheet(run).then(
    (sheet) => showPart(photo, sheet, image, size),
    () => photo.classList.add("missing"),
  );
  return photo;
}

function showPart(photo, {background, columns, rows, side}, image, size) {
  const column = image % columns;
  const row = Math.floor(image / columns);
  const place = (index, all) => `${all > 1 ? (100 * index) / (all - 1) : 0}%`;
  photo.style.backgroundImage = background;
  photo.style.backgroundSize = `${columns * 100}% ${rows * 100}%`;
  photo.style.backgroundPosition = `${place(column, columns)} ${place(row, rows)}`;
  photo.classList.toggle("sharp", 2 * side <= size);
}

function findSheet(run) {
  const address = run.source.photosAddress(run);
  if (!address) return Promise.reject(new Error("no photos"));
  if (!sheets.has(address)) sheets.set(address, loadSheet(address, run.images.length));
  return sheets.get(address);
}

/** Name an address in the style sheet: hundreds of elements use it, and a page holds it as data. */
function publish(address) {
  const name = `--saliency-sheet-${sheets.size}`;
  document.documentElement.style.setProperty(name, `url("${address}")`);
  return `var(${name})`;
}

function loadSheet(address, count) {
  return new Promise((done, fail) => {
    const picture = new Image();
    picture.onload = () => {
      try {
        done({background: publish(picture.src), ...layOfSheet(picture, count)});
      } catch (error) {
        fail(error);
      }
    };
    picture.onerror = () => {
      sheets.delete(address); // it may be there the next time
      fail(new Error("no photos"));
    };
    picture.src = address;
  });
}

/** A sheet has as many photos in a row as fit into 4096 pixels. They are squares. */
function layOfSheet({naturalWidth, naturalHeight}, count) {
  for (let columns = count; columns > 0; columns--) {
    const rows = Math.ceil(count / columns);
    const side = naturalWidth / columns;
    if (side * rows === naturalHeight && (rows === 1 || side * (columns + 1) > WIDEST)) {
      return {columns, rows, side};
    }
  }
  throw new Error("a sheet of another shape");
}
