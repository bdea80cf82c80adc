// Where the gradient grew most, as the verdict says: an outline on maps and photos.
import {make} from "./elements.js";

export const CELLS = 8; // per side of the grid in which the gradient is measured

/** The cell that grew most; null without one. Of a region that grew, no record holds the mask. */
export function findGrownCell({info: {verdict}}) {
  const growth = verdict?.growth;
  if (!growth || (growth.region ?? null) !== null) return null;
  const inside = (index) => index >= 0 && index < CELLS;
  return inside(growth.row) && inside(growth.column) ? growth : null;
}

export const describeCell = ({row, column}) =>
  `row ${row + 1}, column ${column + 1} of the ${CELLS} × ${CELLS} grid`;

/** The outline of a cell on a square that holds a picture of the shape [h, w]; null without one. */
export function makeOutline(cell, [h, w]) {
  if (!cell) return null;
  const outline = make("i.outline", {"aria-hidden": "true"});
  const longest = Math.max(h, w);
  const place = (index, side) => (longest - side) / 2 + (index * side) / CELLS;
  outline.style.left = `${(100 * place(cell.column, w)) / longest}%`;
  outline.style.top = `${(100 * place(cell.row, h)) / longest}%`;
  outline.style.width = `${(100 * w) / longest / CELLS}%`;
  outline.style.height = `${(100 * h) / longest / CELLS}%`;
  return outline;
}

/** Draw the outline of a cell, if there is one, on the photo of an image of a run. */
export function outlinePhoto(photo, cell, run) {
  const outline = makeOutline(cell, run.shape);
  if (outline) photo.append(outline);
  return photo;
}
