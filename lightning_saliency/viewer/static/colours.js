// From a map's bytes to pixels, with the package's own colour tables.
//
// A byte is a value in steps of the map's own peak: ±levels is ±1, and -128 stands for a map that
// has values which are not finite.
import {TABLES} from "./tables.js";

const NOT_FINITE = -128;
const OVERLAY_GAMMA = 0.7; // as in draw/colours.py: it brings up what is faint
const TABLE_NAMES = {signed: "RdBu_r", magnitude: "inferno", overlay: "hot"};
const MOST_PALETTES = 4000;

const decodedTables = new Map();
const palettes = new Map();

/** 256 RGBA words, one for each byte. `gain` is the map's peak as a part of the scale. */
export function findPalette(style, dark, levels, gain) {
  // Gains that differ by less than half a level of 255 have the same colours.
  const key = `${style} ${dark} ${levels} ${gain.toFixed(3)}`;
  if (!palettes.has(key)) {
    if (palettes.size >= MOST_PALETTES) palettes.clear();
    palettes.set(key, buildPalette(style, dark, levels, gain));
  }
  return palettes.get(key);
}

function buildPalette(style, dark, levels, gain) {
  const words = new Uint32Array(256);
  const table = findTable(style, dark);
  for (let byte = 0; byte < 256; byte++) {
    const value = (byte << 24) >> 24; // the byte with its sign
    if (value === NOT_FINITE) continue; // transparent, so that the hatching shows
    const x = Math.max(-1, Math.min(1, (value / levels) * gain));
    const strength = Math.abs(x);
    const at = 3 * Math.round(255 * (style === "signed" ? x / 2 + 0.5 : strength));
    const alpha = style === "overlay" ? Math.round(255 * strength ** OVERLAY_GAMMA) : 255;
    words[byte] = (alpha << 24) | (table[at + 2] << 16) | (table[at + 1] << 8) | table[at];
  }
  return words;
}

/** 256 × RGB. Signed maps get a table of their own on dark paper, so that zero does not glare. */
function findTable(style, dark) {
  const name = style === "signed" && dark ? "night" : TABLE_NAMES[style];
  if (!decodedTables.has(name))
    decodedTables.set(name, name === "night" ? nightTable() : decode(name));
  return decodedTables.get(name);
}

function decode(name) {
  return Uint8Array.from(atob(TABLES[name]), (letter) => letter.charCodeAt(0));
}

/** Diverging colours around the grey of dark paper. */
function nightTable() {
  const bytes = new Uint8Array(768);
  const middle = [27, 28, 31];
  const blue = [92, 172, 255];
  const red = [255, 110, 82];
  for (let i = 0; i < 256; i++) {
    const x = (i - 127.5) / 127.5;
    const end = x > 0 ? red : blue;
    const part = Math.abs(x) ** 0.8;
    for (let c = 0; c < 3; c++)
      bytes[3 * i + c] = Math.round(middle[c] + part * (end[c] - middle[c]));
  }
  return bytes;
}

const reusedPictures = new Map();

/** Paint one map, `h × w` bytes of `values` from `start`, at its own resolution. */
export function paintMap(canvas, values, start, [h, w], words) {
  const picture = findPicture(h, w);
  const pixels = picture.pixels;
  for (let i = 0; i < pixels.length; i++) pixels[i] = words[values[start + i] & 255];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, {width: w, height: h});
  // A context that expects to be read keeps its pixels in main memory: no upload for each tile.
  canvas.context ??= canvas.getContext("2d", {willReadFrequently: true});
  canvas.context.putImageData(picture, 0, 0);
}

function findPicture(h, w) {
  const key = `${h} ${w}`;
  if (!reusedPictures.has(key)) {
    const picture = new ImageData(w, h);
    picture.pixels = new Uint32Array(picture.data.buffer);
    reusedPictures.set(key, picture);
  }
  return reusedPictures.get(key);
}

/** The colours of a style from left to right, as a CSS gradient. */
export function rampOf(style, dark) {
  const table = findTable(style, dark);
  const stops = [];
  for (let i = 0; i <= 255; i += 15) {
    stops.push(`rgb(${table[3 * i]} ${table[3 * i + 1]} ${table[3 * i + 2]})`);
  }
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
