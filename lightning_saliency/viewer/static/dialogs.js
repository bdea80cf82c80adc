// The one dialog, and short notices.
import {make} from "./elements.js";
import {icon} from "./icons.js";

const NOTICE_TIME = 1800; // milliseconds

export class Dialogs {
  constructor() {
    this.heading = make("h2", {id: "dialog-heading"});
    this.body = make("div.dialog-body");
    const close = make(
      "button.icon",
      {type: "button", "aria-label": "Close", title: "Close", onclick: () => this.close()},
      icon("close"),
    );
    const onclick = (event) => {
      if (event.target === this.element) this.close();
    }; // next to the sheet
    this.element = make(
      "dialog",
      {"aria-labelledby": "dialog-heading", onclick},
      make("div.sheet", {}, make("header", {}, this.heading, close), this.body),
    );
    this.notice = make("div.notice", {role: "status"});
  }

  get open() {
    return this.element.open;
  }

  show(heading, ...children) {
    this.heading.textContent = heading;
    this.body.replaceChildren(...children.flat().filter((child) => child !== null));
    if (!this.open) this.element.showModal();
  }

  close() {
    this.element.close();
  }

  notify(text) {
    this.notice.textContent = text;
    this.notice.classList.add("on");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.notice.classList.remove("on"), NOTICE_TIME);
  }

  /** Put a link on the clipboard; where that is not allowed, show it so that it can be copied. */
  async copy(link) {
    try {
      await navigator.clipboard.writeText(link);
      this.notify("Link copied");
    } catch {
      const box = make("textarea", {value: link, readOnly: true, rows: 4, "aria-label": "Link"});
      this.show("Link to this view", box);
      box.select();
    }
  }
}
