// A box to choose one of many things by typing a part of its name.
import {make} from "./elements.js";

const MOST_MATCHES = 60; // that are listed; typing more narrows them down

export class Combobox {
  /** `choose(value)` is called for a choice of the user. */
  constructor(name, choose) {
    this.choose = choose;
    this.options = [];
    this.id = `list-of-${name.toLowerCase().replaceAll(" ", "-")}`;
    this.list = make("ul.matches", {
      role: "listbox",
      id: this.id,
      "aria-label": name,
      hidden: true,
    });
    this.input = make("input", {
      type: "text",
      role: "combobox",
      autocomplete: "off",
      spellcheck: false,
      "aria-label": name,
      "aria-autocomplete": "list",
      "aria-controls": this.id,
      "aria-expanded": "false",
      onfocus: () => this.open(),
      onclick: () => this.open(),
      oninput: () => this.fill(this.input.value),
      onblur: () => this.close(),
      onkeydown: (event) => this.key(event),
    });
    this.element = make("div.combobox", {}, this.input, this.list);
  }

  /** Set the choices, as `[value, text]`, and the one that is taken. */
  set(options, value) {
    this.options = options;
    this.value = value;
    if (this.list.hidden) this.close(); // somebody may be typing while a run grows
  }

  open() {
    if (!this.list.hidden) return;
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.input.select();
    this.fill("");
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    this.input.value = this.options.find(([value]) => value === this.value)?.[1] ?? "";
  }

  fill(words) {
    this.list.hidden = false;
    const wanted = words.trim().toLowerCase();
    const matches = this.options.filter(([, text]) => text.toLowerCase().includes(wanted));
    this.matches = matches.slice(0, MOST_MATCHES);
    this.list.replaceChildren(
      ...this.matches.map(([value, text], i) =>
        make(
          "li",
          {
            role: "option",
            id: `${this.id}-${i}`,
            "aria-selected": "false",
            // The box would lose the focus, and with it the list, before a click arrives.
            onpointerdown: (event) => {
              event.preventDefault();
              this.take(value);
            },
          },
          text,
        ),
      ),
    );
    const rest = matches.length - this.matches.length;
    if (rest > 0)
      this.list.append(
        make("li.rest", {role: "presentation"}, `${rest} more: type a part of the name`),
      );
    if (!matches.length) this.list.append(make("li.rest", {role: "presentation"}, "no such name"));
    const taken = wanted ? 0 : this.matches.findIndex(([value]) => value === this.value);
    this.mark(this.matches.length ? Math.max(0, taken) : -1);
  }

  mark(index) {
    this.marked = index;
    [...this.list.querySelectorAll("[role=option]")].forEach((item, i) => {
      item.setAttribute("aria-selected", String(i === index));
      if (i === index) item.scrollIntoView({block: "nearest"});
    });
    if (index < 0) this.input.removeAttribute("aria-activedescendant");
    else this.input.setAttribute("aria-activedescendant", `${this.id}-${index}`);
  }

  key(event) {
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
    if (step && this.list.hidden) this.open();
    else if (step) this.mark(Math.min(this.matches.length - 1, Math.max(0, this.marked + step)));
    else if (event.key === "Enter" && this.matches[this.marked])
      this.take(this.matches[this.marked][0]);
    else if (event.key === "Escape") this.close();
    else return;
    event.preventDefault();
  }

  take(value) {
    this.value = value;
    this.close();
    this.choose(value);
  }
}
