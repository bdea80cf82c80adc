// The entry of a page that carries its runs: the file of `report`, and the frame in a notebook.
//
// The page has an element #app, in which a static picture may stand until this script replaces it,
// and the data that `PageSource` reads. Each run of its index is what `run` answers, and has its
// photos as a `data:` address in `photos_uri`, the `levels` of a byte, and in `cut` what was left
// out to keep the file small, as sentences.
import {PageSource} from "./source.js";
import {openViewer} from "./viewer.js";

class PageHost {
  constructor() {
    this.live = false;
    this.hasLink = location.protocol !== "about:"; // a notebook's frame has no address of its own
    this.takesFocus = false;
  }

  readLink() {
    return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  }

  writeLink(link) {
    try {
      history.replaceState(null, "", `#${new URLSearchParams(link)}`);
    } catch {
      // The address of a sandboxed frame cannot be changed.
    }
  }

  link() {
    return location.href;
  }

  onTheme(show) {
    const preference = matchMedia("(prefers-color-scheme: dark)");
    this.show = show;
    this.dark = preference.matches;
    preference.addEventListener("change", () => this.setTheme(preference.matches));
    show(this.dark);
  }

  /** A page has no other switch for it. */
  toggleTheme() {
    this.setTheme(!this.dark);
  }

  setTheme(dark) {
    this.dark = dark;
    this.show(dark);
  }
}

openViewer(document.getElementById("app"), new PageSource(document), new PageHost());
