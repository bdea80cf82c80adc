// The menu of the lanes: which numbers are drawn over time.
import {make} from "./elements.js";
import {makeButton} from "./icons.js";

export class LaneMenu {
  constructor(viewer) {
    this.viewer = viewer;
    this.button = makeButton("Choose curves", "lanes", () => this.toggle());
    this.button.setAttribute("aria-controls", "lane-menu");
    this.button.setAttribute("aria-expanded", "false");
    this.list = make("ul");
    this.room = make("p.faint");
    const back = make(
      "button.plain",
      {type: "button", onclick: () => viewer.change({lanes: ""})},
      "Show the usual ones",
    );
    this.panel = make(
      "div.lane-menu",
      {id: "lane-menu", role: "group", "aria-label": "Curves", hidden: true},
      this.list,
      this.room,
      back,
    );
    this.element = make("div.lane-chooser", {}, this.button, this.panel);
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("focusout", ({relatedTarget: to}) => {
      if (to && !this.element.contains(to)) this.close();
    });
    document.addEventListener("pointerdown", ({target}) => {
      if (!this.element.contains(target)) this.close();
    });
  }

  toggle() {
    if (!this.panel.hidden) {
      this.close();
      return;
    }
    this.panel.hidden = false;
    this.button.setAttribute("aria-expanded", "true");
    this.list.querySelector("input")?.focus();
  }

  close() {
    this.panel.hidden = true;
    this.button.setAttribute("aria-expanded", "false");
  }

  key(event) {
    if (event.key !== "Escape" || this.panel.hidden) return;
    event.stopPropagation(); // it would lead to another view too
    this.close();
    this.button.focus();
  }

  /** List the `names` that can be drawn, of which `shown` are, and `most` can be. */
  fill({names, shown, most}) {
    this.element.hidden = names.length === 0;
    this.names = names;
    // The boxes stay as they are if they can: one of them may have the focus.
    const content = JSON.stringify(names);
    if (content !== this.listed)
      this.list.replaceChildren(...names.map((name) => this.makeItem(name)));
    this.listed = content;
    const full = shown.length >= most;
    this.boxes().forEach((box, i) => {
      box.checked = shown.includes(names[i]);
      box.disabled = full && !box.checked;
    });
    this.room.hidden = !full || names.length <= shown.length;
    this.room.textContent = `This window has room for ${most}.`;
  }

  makeItem(name) {
    const box = make("input", {type: "checkbox", onchange: () => this.choose()});
    return make("li", {}, make("label", {}, box, make("span", {}, name)));
  }

  boxes() {
    return [...this.list.querySelectorAll("input")];
  }

  choose() {
    const boxes = this.boxes();
    const chosen = this.names.filter((_, i) => boxes[i].checked);
    this.viewer.change({lanes: JSON.stringify(chosen)});
  }
}
