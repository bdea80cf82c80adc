// The entry of the tab: TensorBoard imports this module into a frame and calls render().
import {openViewer} from "./viewer.js";
import {ServerSource} from "./source.js";
import {TensorBoardHost} from "./tab.js";

export async function render() {
  document.documentElement.lang = "en";
  document.title = "Saliency";
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = "./viewer.css";
  // Sizes are measured at once, so the sheet must be there first.
  const ready = new Promise((done) => {
    style.onload = style.onerror = done;
  });
  document.head.append(style);
  await ready;
  await openViewer(document.body, new ServerSource("./"), new TensorBoardHost());
}
