// The maps that are in memory. They are fetched and dropped in blocks of about a megabyte.

const MOST_BYTES = 256_000_000;

/** Blocks by name; those that were used least recently make room for new ones. */
export class Blocks {
  constructor(most = MOST_BYTES) {
    this.most = most;
    this.bytes = 0;
    this.loaded = new Map();
    this.loading = new Map();
  }

  /** The block if it is in memory. */
  peek(name) {
    const block = this.loaded.get(name);
    if (block) {
      // A map lists its keys in the order of insertion, so the latest moves to the end.
      this.loaded.delete(name);
      this.loaded.set(name, block);
    }
    return block;
  }

  /** The block, read by `read()` if it is not in memory; who asks twice waits for one reading. */
  async get(name, read) {
    const block = this.peek(name);
    if (block) return block;
    if (!this.loading.has(name)) {
      const work = read().then((values) => this.keep(name, values));
      this.loading.set(
        name,
        work.finally(() => this.loading.delete(name)),
      );
    }
    return this.loading.get(name);
  }

  keep(name, values) {
    this.loaded.set(name, values);
    this.bytes += values.length;
    for (const [old, block] of this.loaded) {
      if (this.bytes <= this.most || old === name) break;
      this.loaded.delete(old);
      this.bytes -= block.length;
    }
    return values;
  }
}
