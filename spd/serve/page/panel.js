// The column beside the photo: the last answer, the list of marks, the lens.

import { ASSUMED_VIEW, distance, focalOfView, viewOfFocal } from "./geometry.js";
import { float32Text, metres, microseconds } from "./format.js";

/** Whether the photo is touched rather than clicked. */
export const TOUCH = matchMedia("(pointer: coarse)").matches;

const byId = (id) => document.getElementById(id);
const pixel = ({ u, v }) => `${u}, ${v}`;

/** The text that a mark stands for: a depth, or the length of a line in space. */
export const markText = ({ ends }, camera) =>
  metres(ends.length === 1 ? ends[0].depth : distance(ends[0], ends[1], camera));

/** Shows the last answer large. Without a mark it says what to do. */
export function showReading(mark, camera) {
  byId("reading").classList.toggle("idle", !mark);
  byId("value").textContent = mark ? markText(mark, camera) : `${TOUCH ? "Tap" : "Click"} the photo`;
  byId("detail").textContent = mark ? detail(mark) : "for the depth of a point. Drag to measure between two points.";
}

function detail({ ends, ms }) {
  if (ends.length === 1) return `deep at ${pixel(ends[0])} · ${microseconds(ms)}`;
  return `from ${metres(ends[0].depth)} to ${metres(ends[1].depth)} deep · ${microseconds(ms)}`;
}

/** Lists the marks; `remove(mark)` is called by their buttons. */
export function listMarks(marks, camera, remove) {
  const rows = marks.map((mark) => {
    const row = document.createElement("li");
    const cells = [
      ["number", mark.number],
      ["what", markText(mark, camera)],
      ["where quiet", mark.ends.map(pixel).join("\n")],
      ["time quiet", microseconds(mark.ms)],
    ];
    for (const [name, text] of cells) {
      const cell = document.createElement("span");
      cell.className = name;
      cell.textContent = text;
      row.append(cell);
    }
    const button = document.createElement("button");
    button.type = "button";
    button.ariaLabel = `Delete ${mark.ends.length === 1 ? "point" : "line"} ${mark.number}`;
    button.textContent = "×";
    button.addEventListener("click", () => remove(mark));
    row.append(button);
    return row;
  });
  byId("marks").replaceChildren(...rows);
  byId("download").disabled = byId("clear").disabled = !marks.length;
}

/** Every end of every mark as CSV: u, v in pixels, depth in metres with all its digits. */
export function csv(marks) {
  const ends = marks.flatMap((mark) => mark.ends);
  return ["u,v,depth", ...ends.map(({ u, v, depth }) => `${u},${v},${float32Text(depth)}`)].join("\n") + "\n";
}

/** The two fields of the lens, which follow each other. */
export class Lens {
  focal = NaN;
  #side = NaN;

  /** Calls `changed()` after the user has typed a focal length or a field of view. */
  constructor(changed) {
    const listen = (id, focalOf) =>
      byId(id).addEventListener("input", ({ target }) => {
        if (!target.validity.valid || !target.value) return;
        this.#set(focalOf(Number(target.value)), "as given here", id);
        changed();
      });
    listen("focal", (focal) => focal);
    listen("view-angle", (degrees) => focalOfView(degrees, this.#side));
  }

  /** Takes what a photo says of its lens: focal length in pixels, or null. */
  start({ width, height, focalPx }) {
    this.#side = Math.max(width, height);
    if (focalPx) this.#set(focalPx, "from the photo");
    else this.#set(focalOfView(ASSUMED_VIEW, this.#side), "assumed");
  }

  #set(focal, origin, typed = "") {
    this.focal = focal;
    const view = viewOfFocal(focal, this.#side);
    if (typed !== "focal") byId("focal").value = focal.toFixed(1);
    if (typed !== "view-angle") byId("view-angle").value = view.toFixed(1);
    byId("lens-short").textContent = `${Math.round(focal)} px, ${origin}`;
    byId("lens-note").textContent =
      origin === "assumed"
        ? `The photo does not say its focal length. ${ASSUMED_VIEW}° across the longer side is assumed, as in a phone's main camera. Lengths of lines depend on it, depths do not.`
        : "Lengths of lines and the 3D view depend on it, depths do not. The field of view is across the longer side.";
  }
}
