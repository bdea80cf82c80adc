// Numbers and moments in words.

/** A probability; a dash if it is not finite, and "0%" only for exactly 0. */
export function percent(p) {
  if (p === null || p === undefined) return "–";
  if (p > 0 && p < 0.005) return "<1%";
  return `${Math.round(100 * p)}%`;
}

/** A number of any size in about three digits; a dash if there is none. */
export function figure(value) {
  if (value === undefined || value === null) return "–";
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(1);
  if (size >= 100) return value.toFixed(0);
  return value.toFixed(size >= 10 ? 1 : 3);
}

/** Bounds in words. */
export function boundsText({low, high}) {
  if (low === null && high === null) return "no bound";
  if (low === null) return `at most ${figure(high)}`;
  if (high === null) return `at least ${figure(low)}`;
  return `${figure(low)} to ${figure(high)}`;
}

export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

/** The outcome of a check as a heading, with a sign in front for those who do not see colours. */
export function outcomeText(outcome) {
  if (outcome === "pass") return "✓ Attention passes";
  if (outcome === "fail") return "✗ Attention fails";
  return `Attention: ${outcome}`;
}

/** A rule's name as a person writes it. */
export function ruleText(rule) {
  const words = rule.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The unit that maps share; methods of other libraries have units of their own. */
export function unitText(rules) {
  const gradients = ["gradient", "guided_backprop", "deconvnet"];
  return [...rules].every((rule) => gradients.includes(rule)) ? " logits per input unit" : "";
}
