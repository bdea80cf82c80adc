// Which runs there are, and reading those that are chosen when they are new or have changed.
import {Blocks} from "./blocks.js";
import {Run} from "./run.js";

export class Catalogue {
  constructor(source) {
    this.source = source;
    this.blocks = new Blocks();
    this.runs = []; // what can be chosen
    this.unreadable = []; // the ids of damaged records
    this.notice = "";
    this.read = null; // the ids and stamps of what was read last
  }

  /** Look what runs there are. */
  async look() {
    const {runs, unreadable, notice} = await this.source.list();
    Object.assign(this, {runs, unreadable, notice});
  }

  /** Put runs that there are into the state: the one that started last, compared with nothing. */
  choose(state) {
    const has = (id) => this.runs.some((run) => run.id === id);
    const latest = this.runs.reduce((a, b) => ((b.started ?? "") > (a.started ?? "") ? b : a));
    if (!has(state.run)) state.run = latest.id;
    if (!has(state.vs) || state.vs === state.run) state.vs = "";
  }

  /** Read the runs of the state; null if they are as they were. */
  async open({run, vs}) {
    const ids = [run, vs].filter(Boolean);
    const stamps = ids
      .map((id) => `${id} ${this.runs.find((each) => each.id === id).stamp}`)
      .join("\n");
    if (stamps === this.read) return null;
    const infos = await Promise.all(ids.map((id) => this.source.describe(id)));
    this.read = stamps;
    return infos.map((info) => new Run(info, this.source, this.blocks));
  }

  /** Read again next time, whatever the stamps are. */
  forget() {
    this.read = null;
  }
}
