// One recorded run: what was explained, and what the network said, at each of its moments.
//
// The maps of an image are counted by slot: slot k of a moment is of the class `targets(m, i)[k]`.
// Classes, their number, the size of the maps and the rules may differ between moments.

const BLOCK_BYTES = 1_500_000;
const HIGH = 0.95; // the part of all peaks up to which a scale of the whole run goes
const MANY_CLASSES = 16; // above this, only the maps that are shown are fetched

export class Run {
  constructor(info, source, blocks) {
    Object.assign(this, {info, source, blocks});
    this.id = info.id;
    this.name = info.run;
    this.moments = info.moments;
    this.images = info.images;
    this.rules = info.rules?.length ? info.rules : ["gradient"];
    this.shape = info.map ?? [1, 1];
    this.levels = info.levels ?? 127;
    this.slots = Math.max(0, ...this.moments.map((_, m) => this.slotsAt(m)));
    this.sparse = this.slots > MANY_CLASSES && !source.wholeObservations;
    this.perBlock = this.countPerBlock();
    this.explained = new Map(); // answers of `explains`
    // Runs of early versions do not say it.
    this.isMultiLabel = info.multi_label ?? this.images.some((_, i) => this.labels(i).length > 1);
    // A model can predict any number of labels, or none, so the strongest is not called predicted.
    this.predictedText = this.isMultiLabel ? "the strongest label" : "the predicted class";
  }

  targets(m, image) {
    return (this.moments[m].targets ?? this.info.targets)[image];
  }
  probabilities(m, image) {
    return this.moments[m].p[image];
  }
  slotsAt(m) {
    return this.moments[m].p[0].length;
  }
  shapeAt(m) {
    return this.moments[m].map ?? this.shape;
  }
  labels(image) {
    return this.info.labels?.[image] ?? [];
  }
  className(index) {
    return this.info.class_names?.[index] ?? String(index);
  }
  labelText(image) {
    return this.labels(image)
      .map((label) => this.className(label))
      .join(", ");
  }

  /** Whether there are maps of a rule at moment m; rules may change when a run is resumed. */
  has(m, rule) {
    return (this.moments[m].rules ?? this.rules).includes(rule);
  }

  /** The class that an image is taken for, explained or not; null if the record does not say it. */
  predicted(m, image) {
    return this.moments[m].predicted[image];
  }

  /** The slot of the predicted class; -1 if it was not explained. */
  predictedSlot(m, image) {
    return this.targets(m, image).indexOf(this.predicted(m, image));
  }

  /** The class that an image is taken for, in words; empty if the record does not say it. */
  takenFor(m, image) {
    const predicted = this.predicted(m, image);
    return predicted === null ? "" : this.className(predicted);
  }

  /** Whether it is known for any image if its predicted class is a true one. */
  canJudge(m) {
    const isKnown = (predicted, image) => predicted !== null && this.labels(image).length > 0;
    return this.moments[m].predicted.some(isKnown);
  }

  /** Whether an image is taken for a class that is not a true one. */
  wrong(m, image) {
    const labels = this.labels(image);
    const predicted = this.predicted(m, image);
    return predicted !== null && labels.length > 0 && !labels.includes(predicted);
  }

  /** The first slot of a true class; -1 if none was explained. */
  trueSlot(m, image) {
    const labels = this.labels(image);
    return this.targets(m, image).findIndex((target) => labels.includes(target));
  }

  /**
   * The slot of the class that the reader chose: "label" for the true one, "strongest" for the
   * predicted one, or the number of a class; -1 if that was not explained.
   */
  findSlot(m, image, cls) {
    if (cls === "strongest") return this.predictedSlot(m, image);
    if (cls !== "label") return this.targets(m, image).indexOf(Number(cls));
    const isLabelled = this.explainsTruth && this.labels(image).length > 0;
    return isLabelled ? this.trueSlot(m, image) : 0;
  }

  /** Whether the true class of any image was explained at any moment. */
  get explainsTruth() {
    this.truthIsExplained ??= this.moments.some((_, m) =>
      this.images.some((_, image) => this.trueSlot(m, image) >= 0),
    );
    return this.truthIsExplained;
  }

  /** Whether a chosen class of an image was explained at any moment. */
  explains(image, cls) {
    const key = `${image} ${cls}`;
    if (!this.explained.has(key))
      this.explained.set(
        key,
        this.moments.some((_, m) => this.findSlot(m, image, cls) >= 0),
      );
    return this.explained.get(key);
  }

  /** The peak of a map in logits per input unit; null if it has values that are not finite. */
  peak(m, rule, image, slot) {
    return this.peaks(m, rule)[image][slot];
  }

  peaks(m, rule) {
    const {peaks, peaks_by_rule: byRule} = this.moments[m];
    return byRule?.[rule] ?? peaks;
  }

  /** A peak that few maps of a rule exceed in the whole run, so that one of them hides no other. */
  highPeak(rule) {
    const rows = this.moments.flatMap((_, m) => (this.has(m, rule) ? this.peaks(m, rule) : []));
    const peaks = rows
      .flat()
      .filter((peak) => peak !== null)
      .sort((a, b) => a - b);
    return peaks[Math.floor(HIGH * (peaks.length - 1))] || 1;
  }

  /** Whether all images have the same classes in the same order at all moments. */
  get sameTargets() {
    const {targets} = this.info;
    return Boolean(targets) && targets.every((row) => String(row) === String(targets[0]));
  }

  /** The map of a slot if it is in memory: its block of bytes, and where it starts there. */
  peekMap(m, rule, image, slot, shown) {
    const values = this.blocks.peek(this.blockName(m, rule, image, shown));
    const [h, w] = this.shapeAt(m);
    const place = this.sparse
      ? shown.indexOf(slot)
      : (image % this.perBlock) * this.slotsAt(m) + slot;
    return values && {values, start: place * h * w};
  }

  /** Fetch the block with the maps of an image; `shown` are the slots of it that are in view. */
  fetchMaps(m, rule, image, shown) {
    const name = this.blockName(m, rule, image, shown);
    return this.blocks.get(name, () =>
      this.source.readMaps(this, this.request(m, rule, image, shown)),
    );
  }

  request(m, rule, image, shown) {
    const request = {step: this.moments[m].step};
    const rules = this.moments[m].rules ?? this.rules;
    if (rule !== rules[0]) request.rule = rule;
    if (this.sparse) return {...request, images: [image], slots: shown};
    const first = image - (image % this.perBlock);
    const all = this.images.length;
    const length = Math.min(this.perBlock, all - first);
    if (length < all) request.images = Array.from({length}, (_, i) => first + i);
    return request;
  }

  /** The stamp names an observation for good: a resumed run may write another at the same step. */
  blockName(m, rule, image, shown) {
    const {step, stamp} = this.moments[m];
    const part = this.sparse ? `${image}:${shown}` : Math.floor(image / this.perBlock);
    return `${this.id} ${step} ${stamp} ${rule} ${part}`;
  }

  countPerBlock() {
    if (this.source.wholeObservations) return this.images.length;
    const perImage = this.slots * this.shape[0] * this.shape[1];
    return Math.max(1, Math.floor(BLOCK_BYTES / Math.max(1, perImage)));
  }
}
