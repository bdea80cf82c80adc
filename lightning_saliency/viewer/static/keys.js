// The keys, which work without a click first, and the list of them.
import {make} from "./elements.js";
import {STYLES} from "./state.js";

const HELP = [
  ["← →", "one observation back or on; with Shift ten"],
  ["Home End", "the first and the last observation"],
  ["k Space", "play and pause"],
  ["a i t", "all images, one image, over time"],
  ["[ ]", "the image before and after"],
  ["1 2 3", "signed, magnitude, overlay"],
  ["f", "the scale: each map or the whole run"],
  ["Esc", "back to all images"],
  ["?", "this list"],
];

export function showKeys(viewer) {
  const rows = HELP.map(([keys, meaning]) =>
    make(
      "tr",
      {},
      make(
        "th",
        {scope: "row"},
        keys.split(" ").map((key) => make("kbd", {}, key)),
      ),
      make("td", {}, meaning),
    ),
  );
  viewer.dialogs.show("Keys", make("table", {}, make("tbody", {}, rows)));
}

/** What a key does, or nothing if it belongs to the element that has the focus. */
function findAction(viewer, {key, shiftKey, target}) {
  const stride = shiftKey ? 10 : 1;
  const {state, timeline} = viewer;
  const styles = Object.keys(STYLES);
  // Arrows choose in a row of choices, and Space presses what has the focus.
  const inChoice = target.matches("input[type=radio]");
  const pressable = inChoice || target.matches("button");
  const actions = {
    ArrowRight: inChoice ? null : () => viewer.seek(viewer.t + stride),
    ArrowLeft: inChoice ? null : () => viewer.seek(viewer.t - stride),
    Home: () => viewer.seek(0),
    End: () => viewer.seek(timeline.end),
    k: () => viewer.player.toggle(),
    " ": pressable ? null : () => viewer.player.toggle(),
    a: () => viewer.change({view: "all"}),
    i: () => viewer.change({view: "image"}),
    t: () => viewer.change({view: "time"}),
    "[": () => viewer.openImage(state.image - 1),
    "]": () => viewer.openImage(state.image + 1),
    f: () => viewer.change({scale: state.scale === "map" ? "run" : "map"}),
    Escape: () => viewer.change({view: "all"}),
    "?": () => showKeys(viewer),
  };
  styles.forEach((style, i) => {
    actions[i + 1] = () => viewer.change({style});
  });
  return actions[key];
}

export function listenToKeys(viewer) {
  document.addEventListener("keydown", (event) => {
    const {target} = event;
    const typing = target.matches?.("select, textarea, input:not([type=range], [type=radio])");
    if (
      event.altKey ||
      event.ctrlKey ||
      event.metaKey ||
      typing ||
      viewer.dialogs.open ||
      !viewer.ready
    )
      return;
    const act = findAction(viewer, event);
    if (!act) return;
    event.preventDefault();
    act();
  });
}
