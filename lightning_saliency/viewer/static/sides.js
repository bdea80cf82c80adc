// The sides of a comparison. A side is a run with one of its rules; several runs, several rules of
// one run, or both, stand next to one another.
import {make} from "./elements.js";
import {ruleText} from "./format.js";

export const ALL_RULES = "*"; // the choice of all rules of a run

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const COLOURS = 4; // of badges; with more rules, they repeat

/** The sides that runs and the chosen rule make: one if nothing is compared. */
export function makeSides(runs, chosen) {
  const rules = chosen === ALL_RULES ? runs[0].rules : [chosen || runs[0].rules[0]];
  const pairs = runs.flatMap((run, r) => rules.map((rule) => ({run, r, rule})));
  return pairs.map((pair, index) => new Side(pair, runs.length > 1, rules, index));
}

class Side {
  /** Letters and colours are those of runs if there are several, or else those of rules. */
  constructor({run, r, rule}, severalRuns, rules, index) {
    Object.assign(this, {run, r, rule});
    const number = severalRuns && rules.length > 1 ? rules.indexOf(rule) + 1 : "";
    const place = severalRuns ? r : index;
    const letter = LETTERS[place % LETTERS.length];
    this.letter = severalRuns || rules.length > 1 ? `${letter}${number}` : "";
    this.colour = place % COLOURS;
    this.title = rules.length > 1 ? `${run.name}, ${ruleText(rule)}` : run.name;
  }

  makeBadge() {
    return this.letter
      ? make(`b.badge.side-${this.colour}`, {title: this.title}, this.letter)
      : null;
  }
}

/** The scale of each rule, in logits per input unit. All runs share it, so that they compare. */
export function findScales(sides) {
  const scales = new Map();
  for (const {run, rule} of sides) {
    scales.set(rule, Math.max(scales.get(rule) ?? 0, run.highPeak(rule)));
  }
  return scales;
}
