// The toolbar: which runs, which view, which colours, and which images.
import {Combobox} from "./combobox.js";
import {rampOf} from "./colours.js";
import {fillSelect, make, makeChoice} from "./elements.js";
import {count, figure, outcomeText, ruleText, unitText} from "./format.js";
import {icon, makeButton} from "./icons.js";
import {showKeys} from "./keys.js";
import {ALL_RULES} from "./sides.js";
import {SCALES, SHOWN, STYLES, VIEWS} from "./state.js";
import {showVerdict} from "./verdict.js";

const FEW_IMAGES = 8; // up to this many need no search
const RAMP_ENDS = {
  signed: ["lowers the logit", "raises it"],
  magnitude: ["no influence", "strong"],
  overlay: ["no influence", "strong"],
};

export class Toolbar {
  constructor(viewer) {
    this.viewer = viewer;
    this.makeRunControls();
    this.makeViewControls();
    this.makeStyleControls();
    this.makeFilters();
    this.element = make("header.toolbar", {hidden: true}, this.firstLine(), this.secondLine());
  }

  /** A listener that puts what was chosen in a select into the state. */
  pick(key) {
    return {onchange: (event) => this.viewer.change({[key]: event.target.value})};
  }

  makeRunControls() {
    this.run = make("select", {id: "run", ...this.pick("run")});
    this.against = make("select", {id: "against", ...this.pick("vs")});
    this.runBadges = [0, 1].map((r) => make(`b.badge.side-${r}`, {"aria-hidden": "true"}, "AB"[r]));
    this.againstGroup = make(
      "span.group",
      {},
      make("label", {for: "against"}, "against"),
      this.runBadges[1],
      this.against,
    );
    this.verdict = make("button.verdict", {
      type: "button",
      hidden: true,
      onclick: () => showVerdict(this.viewer),
    });
  }

  makeViewControls() {
    const {viewer} = this;
    this.view = makeChoice("View", VIEWS, (view) => viewer.change({view}));
    this.image = make("select", {
      "aria-label": "Image",
      onchange: (event) => viewer.change({image: Number(event.target.value)}),
    });
    this.cls = new Combobox("Class", (cls) => viewer.change({cls}));
    this.size = make("input.slider", {
      type: "range",
      id: "size",
      min: 40,
      max: 256,
      step: 4,
      oninput: () => viewer.change({size: Number(this.size.value)}),
    });
    this.sizeGroup = make("span.group.size", {}, make("label", {for: "size"}, "Size"), this.size);
  }

  makeStyleControls() {
    const {viewer} = this;
    this.style = makeChoice("Colours", STYLES, (style) => viewer.change({style}));
    this.ramp = make("span.ramp", {"aria-hidden": "true"});
    this.ends = [make("span"), make("span")];
    this.scale = makeChoice("Scale", SCALES, (scale) => viewer.change({scale}));
    this.ruleGroup = make("span.group");
    this.hint = make("span.hint");
  }

  makeFilters() {
    const {viewer} = this;
    this.show = make("select", {"aria-label": "Which images", ...this.pick("show")});
    this.find = make("input", {
      type: "search",
      "aria-label": "Find an image",
      placeholder: "Find an image",
      oninput: () => viewer.change({find: this.find.value}),
    });
    this.filters = make(
      "span.group.filters",
      {},
      this.show,
      make("span.search", {}, icon("search"), this.find),
    );
  }

  firstLine() {
    const {viewer} = this;
    const {toggleTheme, hasLink} = viewer.host;
    const run = make(
      "span.group",
      {},
      make("label", {for: "run"}, "Run"),
      this.runBadges[0],
      this.run,
    );
    const choosers = [run, this.againstGroup, this.view, this.image, this.cls.element];
    const theme = toggleTheme
      ? makeButton("Light or dark", "theme", () => viewer.host.toggleTheme())
      : null;
    const link = hasLink
      ? makeButton("Copy a link to this view", "link", () => viewer.copyLink())
      : null;
    const keys = makeButton("Keys", "keys", () => showKeys(viewer));
    const buttons = make("span.buttons", {}, link, theme, keys);
    return makeLine("div.line", choosers, [this.verdict, buttons]);
  }

  secondLine() {
    const word = (text) => make("span.word", {"aria-hidden": "true"}, text);
    const style = make("span.group", {}, word("Colours"), this.style);
    const legend = make("span.group.legend", {}, this.ends[0], this.ramp, this.ends[1]);
    const scale = make("span.group", {}, word("Scale"), this.scale);
    const left = [style, legend, scale, this.ruleGroup];
    return makeLine("div.line.small", left, [this.hint, this.filters, this.sizeGroup]);
  }

  /** List the runs that there are. */
  fillRuns() {
    const {catalogue, state} = this.viewer;
    const names = catalogue.runs.map(({run}) => run);
    // A run with two callbacks has two records, which only their ids tell apart.
    const isUnique = (name) => names.indexOf(name) === names.lastIndexOf(name);
    const options = catalogue.runs.map(({id, run}) => [id, isUnique(run) ? run : id]);
    const others = options.filter(([id]) => id !== state.run);
    // A list that is open would close if it were filled again.
    const content = JSON.stringify([options, state.run, state.vs]);
    if (content === this.listed) return;
    this.listed = content;
    fillSelect(this.run, options, state.run);
    fillSelect(this.against, [["", "nothing"], ...others], state.vs);
    this.againstGroup.hidden = options.length < 2;
  }

  /** List what the first run has. */
  fillRun() {
    const [run] = this.viewer.runs;
    const {rules} = this.viewer;
    fillSelect(
      this.image,
      run.images.map((name, i) => [i, name]),
      this.viewer.state.image,
    );
    fillSelect(this.show, Object.entries(SHOWN), this.viewer.state.show);
    this.classes = listClasses(run);
    this.ruleGroup.replaceChildren();
    if (rules.length < 2) return;
    const options = Object.fromEntries([
      ...rules.map((rule) => [rule, ruleText(rule)]),
      [ALL_RULES, "Side by side"],
    ]);
    this.rule = makeChoice("Rule", options, (rule) => this.viewer.change({rule}));
    this.markRules();
    this.ruleGroup.append(make("span.word", {"aria-hidden": "true"}, "Rule"), this.rule);
  }

  /** Give the rules that stand side by side the badges that their maps have. */
  markRules() {
    if (this.viewer.state.rule !== ALL_RULES) return;
    for (const side of this.viewer.sides.filter(({r}) => r === 0)) {
      const {parentElement: label} = this.rule.querySelector(
        `input[value="${CSS.escape(side.rule)}"]`,
      );
      label.querySelector("span").prepend(side.makeBadge(), " ");
    }
  }

  /** Show the state. */
  update() {
    const {viewer} = this;
    const {
      state,
      runs: [run],
      scene,
    } = viewer;
    this.view.set(state.view);
    this.style.set(state.style);
    this.scale.set(state.scale);
    this.rule?.set(state.rule || viewer.rules[0]);
    for (const badge of this.runBadges) badge.hidden = viewer.runs.length < 2;
    this.image.hidden = state.view !== "image";
    this.image.value = state.image;
    // Of many classes, a chosen one gets a column among all images too.
    this.cls.element.hidden = !(state.view === "time" || run.sparse);
    const ofTime = run.explainsTruth ? "the true class" : "the first explained class";
    const label = state.view === "time" ? ofTime : "true and most probable";
    this.cls.set(
      [
        ["label", label],
        ...(state.view === "time" ? [["strongest", run.predictedText]] : []),
        ...this.classes,
      ],
      state.cls,
    );
    this.filters.hidden = state.view === "image" || run.images.length <= FEW_IMAGES;
    this.show.value = state.show;
    if (document.activeElement !== this.find) this.find.value = state.find;
    this.size.value = scene.size ?? state.size;
    this.showLegend();
    this.showVerdict(run.info.verdict);
  }

  showLegend() {
    const {style} = this.viewer.state;
    this.ramp.style.background = rampOf(style, this.viewer.dark);
    RAMP_ENDS[style].forEach((words, i) => {
      this.ends[i].textContent = words;
    });
    this.ramp.parentElement.title = this.explainScale();
  }

  explainScale() {
    const {state, scales} = this.viewer;
    if (state.scale === "map") return "Colours end at the peak of each map";
    const ends = [...(scales?.values() ?? [])].map((end) => `±${figure(end)}`).join(" and ");
    return `Colours end at ${ends}${unitText(scales?.keys() ?? [])}`;
  }

  showVerdict(verdict) {
    this.verdict.hidden = !verdict;
    if (!verdict) return;
    this.verdict.textContent = outcomeText(verdict.outcome);
    this.verdict.dataset.outcome = verdict.outcome;
  }

  /** Say how many images there are, if it is not all of them. */
  showCount(number) {
    const {viewer} = this;
    const all = viewer.rowCount;
    const {view, show, find} = viewer.state;
    const isFiltered = show === "wrong" || find.trim();
    const why = view === "time" && !isFiltered ? " with maps of this class" : "";
    this.hint.replaceChildren(
      ...(number < all ? [`${number} of ${count(all, "image")}${why}`] : viewer.scene.hint),
    );
  }
}

/** A line of controls, each part of which wraps on its own. */
function makeLine(kind, left, right) {
  return make(kind, {}, make("div.part", {}, left), make("div.part.right", {}, right));
}

/** `[value, name]` of each explained class; of classes with the same name, also the number. */
function listClasses(run) {
  const moments = run.info.targets ? run.moments.slice(0, 1) : run.moments;
  const explained = new Set(
    moments.flatMap((_, m) => run.images.flatMap((_, image) => run.targets(m, image))),
  );
  const indices = [...explained].sort((a, b) => a - b);
  const classes = indices.map((index) => [String(index), run.className(index)]);
  const times = new Map();
  for (const [, name] of classes) times.set(name, (times.get(name) ?? 0) + 1);
  return classes.map(([index, name]) => [index, times.get(name) > 1 ? `${name} (${index})` : name]);
}
