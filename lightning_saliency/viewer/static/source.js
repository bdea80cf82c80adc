// Where runs come from: the routes of a server, or the page itself.
//
// A source lists runs, describes one, and reads its maps and photos. It knows nothing of views.

/** What a server that answers says when it does not give what was asked for. */
export class Refusal extends Error {}

/** The routes under `base`, which is relative so that any path prefix survives. */
export class ServerSource {
  constructor(base) {
    this.base = base;
    this.wholeObservations = false;
  }

  /** The `runs`, the ids of records that are `unreadable`, and a `notice` for the reader. */
  async list() {
    return (await this.get("runs")).json();
  }

  async describe(id) {
    return (await this.get(`run?${new URLSearchParams({id})}`)).json();
  }

  /** Maps as int8 (image, class, h, w); without `images` or `slots` all of them. */
  async readMaps(run, {step, rule, images, slots}) {
    const query = new URLSearchParams({id: run.id, step});
    if (images) query.set("images", images.join());
    if (slots) query.set("k", slots.join());
    if (rule) query.set("rule", rule);
    // A resumed run may write another observation at the same step, so the server is asked.
    const answer = await this.get(`maps?${query}`, {cache: "no-cache"});
    return new Int8Array(await answer.arrayBuffer());
  }

  photosAddress(run) {
    return `${this.base}photos?${new URLSearchParams({id: run.id})}`;
  }

  async get(path, options) {
    const answer = await fetch(this.base + path, options);
    if (!answer.ok) throw new Refusal((await answer.text()) || `${answer.status}`);
    return answer;
  }
}

/**
 * A page that carries its runs: a JSON list in `#saliency-index`, and the maps of each observation
 * as base64 of zlib in `#m-<run>-<step>`, or `#m-<run>-<step>-<rule>` after the first rule.
 */
export class PageSource {
  constructor(page) {
    this.page = page;
    this.runs = JSON.parse(page.getElementById("saliency-index").textContent);
    this.wholeObservations = true;
  }

  async list() {
    const runs = this.runs.map(({id, run, stamp, started}) => ({id, run, stamp, started}));
    return {runs, unreadable: [], notice: ""};
  }

  async describe(id) {
    return this.runs.find((run) => run.id === id);
  }

  async readMaps(run, {step, rule}) {
    const index = this.runs.findIndex((each) => each.id === run.id);
    const blob = this.page.getElementById(`m-${index}-${step}${rule ? `-${rule}` : ""}`);
    return inflate(blob.textContent.trim());
  }

  photosAddress(run) {
    return run.info.photos_uri;
  }
}

/** Bytes of base64 of zlib. Nothing is decoded through a canvas, which some browsers falsify. */
async function inflate(text) {
  const bytes =
    Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Int8Array(await new Response(stream).arrayBuffer());
}
