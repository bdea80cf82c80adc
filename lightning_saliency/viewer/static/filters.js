// Which images are in the list, and in which order.

/** The images that the reader asked for, as a set. */
export function findImages(viewer) {
  const {
    state,
    sides: [{run, r}],
    timeline,
    t,
  } = viewer;
  const found = new Set();
  const m = timeline.moment(r, t);
  const words = state.find.trim().toLowerCase();
  for (let image = 0; image < viewer.rowCount; image++) {
    if (state.view === "image") found.add(image);
    // A row without a single map would only take the place of others.
    else if (state.view === "time" && !isExplained(viewer, image)) continue;
    else if (state.show === "wrong" && !(m >= 0 && run.wrong(m, image))) continue;
    else if (!words || describeImage(run, m, image).includes(words)) found.add(image);
  }
  return found;
}

/** Whether any side has a map of an image for the class that was chosen. */
export function isExplained({sides, state}, image) {
  return sides.some(({run}) => image < run.images.length && run.explains(image, state.cls));
}

/** Everything that a search may be for: the name, the labels, and what it is taken for now. */
function describeImage(run, m, image) {
  const taken = m < 0 ? "" : run.takenFor(m, image);
  return [run.images[image], run.labelText(image), taken].join(" ").toLowerCase();
}

/**
 * The images, those first whose map of the true class differs most: between the two sides, or,
 * with one side, from its first observation. The difference is the moved mass of squared values.
 */
export async function findOrder(viewer) {
  const [a, b] = viewer.sides;
  const {t} = viewer;
  const here = viewer.timeline.moment(a.r, t);
  const there = b ? viewer.timeline.moment(b.r, t) : 0;
  if (here < 0 || there < 0) return null;
  const images = Array.from({length: viewer.rowCount}, (_, i) => i);
  const moved = await Promise.all(
    images.map(async (image) => {
      const maps = await Promise.all([
        readShares(a, here, image),
        readShares(b ?? a, there, image),
      ]);
      return maps.every(Boolean) ? movedMass(...maps) : -1;
    }),
  );
  if (viewer.t !== t) return null; // the slider went on; it will be asked again
  return images.sort((i, j) => moved[j] - moved[i] || i - j);
}

/** The share of each pixel in a map of squared values; null if it cannot be had. */
async function readShares({run, rule}, m, image) {
  if (image >= run.images.length || !run.has(m, rule)) return null;
  const slot = Math.max(0, run.trueSlot(m, image));
  try {
    await run.fetchMaps(m, rule, image, [slot]);
  } catch {
    return null;
  }
  const map = run.peekMap(m, rule, image, slot, [slot]);
  if (!map || run.peak(m, rule, image, slot) === null) return null;
  const [h, w] = run.shapeAt(m);
  const part = map.values.subarray(map.start, map.start + h * w);
  const shares = Float32Array.from(part, (value) => value * value);
  const sum = shares.reduce((total, share) => total + share, 0);
  return sum ? shares.map((share) => share / sum) : null;
}

function movedMass(a, b) {
  if (a.length !== b.length) return -1;
  let moved = 0;
  for (let i = 0; i < a.length; i++) moved += Math.max(0, a[i] - b[i]);
  return moved;
}
