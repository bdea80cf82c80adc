// What the viewer asks of TensorBoard, whose page holds our frame: the link, the theme, reloading.

const PREFIX = "p.saliency."; // of our keys in the hash of TensorBoard's address

export class TensorBoardHost {
  constructor() {
    this.live = true;
    this.hasLink = true;
    this.takesFocus = true; // keys work at once; in somebody's notebook that would be rude
    this.channel = new MessageChannel();
    this.channel.port1.onmessage = (event) => this.receive(JSON.parse(event.data));
    window.parent.postMessage("experimental.bootstrap", "*", [this.channel.port2]);
  }

  /** Answer each message, as the plugin API wants it. We listen for a press of "reload" only. */
  receive({type, id, isReply}) {
    if (isReply) return;
    if (type === "experimental.DataReloaded") this.reload?.();
    this.channel.port1.postMessage(
      JSON.stringify({type, id, payload: null, error: null, isReply: true}),
    );
  }

  onReload(reload) {
    this.reload = reload;
  }

  /** The plugin API answers {} until the hash has changed once, so the hash itself is read. */
  readLink() {
    try {
      return readHash(window.parent.location.hash);
    } catch {
      return {}; // a host of another origin
    }
  }

  writeLink(link) {
    try {
      const {location, history} = window.parent;
      const hash = writeHash(location.hash, link);
      // The whole path, because TensorBoard gives our frame another base address.
      const path = location.pathname + location.search;
      if (hash) history.replaceState(history.state, "", path + hash);
    } catch {
      // A host of another origin keeps its address to itself.
    }
  }

  link() {
    try {
      return window.parent.location.href;
    } catch {
      return window.location.href;
    }
  }

  onTheme(show) {
    try {
      const {body} = window.parent.document;
      const look = () => show(body.classList.contains("dark-mode"));
      new MutationObserver(look).observe(body, {attributes: true, attributeFilter: ["class"]});
      look();
    } catch {
      show(matchMedia("(prefers-color-scheme: dark)").matches);
    }
  }
}

function readHash(hash) {
  const link = {};
  for (const part of hash.slice(1).split("&")) {
    const [key, value = ""] = part.split("=");
    if (key.startsWith(PREFIX)) link[key.slice(PREFIX.length)] = decodeURIComponent(value);
  }
  return link;
}

/** The hash with our keys replaced; nothing if another tab is in front, whose address it is. */
function writeHash(hash, link) {
  const parts = hash
    .slice(1)
    .split("&")
    .filter((part) => part && !part.startsWith(PREFIX));
  if (parts[0] !== "saliency") return null;
  for (const [key, value] of Object.entries(link))
    parts.push(`${PREFIX}${key}=${encodeURIComponent(value)}`);
  return `#${parts.join("&")}`;
}
