// The page: a photo goes to the engine; its answers go to the stage, the panel and the cloud.

import { Cloud } from "./cloud.js";
import { Engine } from "./engine.js";
import { aboutMetres } from "./format.js";
import { depthInGrid, distance, gridColumns, quantiles } from "./geometry.js";
import { csv, Lens, listMarks, markText, showReading, TOUCH } from "./panel.js";
import { paintDepth, paintScale } from "./ramp.js";
import { listenForPhotos } from "./sources.js";
import { Stage } from "./stage.js";

const CELLS = { hover: 64 * 48, fine: 160 * 120 }; // a fine grid takes seconds on a slow CPU
const HELP = {
  photo: TOUCH
    ? "Tap for the depth of a point, drag to measure between two."
    : "Click for the depth of a point, drag to measure between two. Keys: arrows, Enter, Space.",
  depth: "Near is light, far is dark. Everything works as on the photo.",
  cloud: "Drag to turn, scroll or pinch to come closer.",
};

const byId = (id) => document.getElementById(id);
const engine = new Engine();
const stage = new Stage({ ask: (point) => mark([point]), measure: (a, b) => mark([a, b]), coarse, coarseLine });
const lens = new Lens(showMarks);
const cloud = new Cloud(byId("cloud"));

let photo = null; // {name, width, height}, in pixels
let grid = null; // depths all over the photo, coarse
let refined = false; // whether the finer grid was asked for
let marks = [];
let counted = 0;
let taking = new AbortController(); // of the photo that is being encoded

const camera = () => ({ ...photo, focal: lens.focal });

async function take(file) {
  taking.abort();
  const { signal } = (taking = new AbortController());
  byId("status").textContent = "Encoding …";
  document.body.classList.add("busy");
  const url = URL.createObjectURL(file);
  try {
    const image = Object.assign(new Image(), { src: url });
    // What the browser cannot show, the engine may still read, or can say what it is.
    const shown = await image.decode().then(() => true, () => false);
    const encoded = await engine.encode(file, signal);
    if (signal.aborted) return;
    begin({ name: file.name || "photo", ...encoded }, shown ? url : "");
    await fetchGrid(CELLS.hover, signal);
    showView();
  } catch (error) {
    if (!signal.aborted) fail(error.message);
  } finally {
    if (byId("photo").src !== url) URL.revokeObjectURL(url);
    if (!signal.aborted) {
      document.body.classList.remove("busy");
      showStatus();
    }
  }
}

/** Shows a photo that was just encoded, in place of the last one. */
function begin(encoded, url) {
  fail("");
  URL.revokeObjectURL(byId("photo").src);
  byId("photo").src = url;
  [photo, grid, refined, marks, counted] = [encoded, null, false, [], 0];
  document.body.dataset.state = "photo";
  byId("welcome").hidden = true;
  byId("stage").hidden = byId("panel").hidden = false;
  byId("replace").append(byId("choose"));
  byId("open").textContent = "New photo";
  showStatus();
  lens.start(photo);
  stage.photo = photo;
  choose(url ? "photo" : "depth");
  showMarks();
  byId("frame").focus({ preventScroll: true });
}

async function fetchGrid(cells, signal) {
  const { max_points: most = cells } = await engine.info();
  const fetched = await engine.grid(gridColumns(Math.min(cells, most), photo));
  if (signal.aborted) return;
  grid = fetched;
  const [near, far] = quantiles(grid.depth, [0.01, 0.99]);
  paintDepth(byId("map"), grid, near, far);
  const [low, , high] = byId("scale").children;
  [low.textContent, high.textContent] = [aboutMetres(near), aboutMetres(far)];
}

function coarse(point) {
  return grid && depthInGrid(grid, point, photo);
}

function coarseLine(a, b) {
  return grid && distance({ ...a, depth: coarse(a) }, { ...b, depth: coarse(b) }, camera());
}

/** Asks the exact depth of one point or of the two ends of a line, and keeps the answer as a mark. */
async function mark(points) {
  const { signal } = taking;
  const number = ++counted;
  try {
    const { depth, ms } = await engine.depth(Float32Array.from(points.flatMap(({ u, v }) => [u, v])));
    if (signal.aborted) return;
    fail("");
    marks.push({ number, ends: points.map((point, at) => ({ ...point, depth: depth[at] })), ms });
    marks.sort((a, b) => a.number - b.number); // answers may overtake each other
    showMarks();
  } catch (error) {
    if (!signal.aborted) fail(error.message);
  }
}

function showMarks() {
  showReading(marks.at(-1), camera());
  listMarks(marks, camera(), (gone) => keep(marks.filter((one) => one !== gone)));
  stage.draw(marks.map((one) => ({ ...one, label: markText(one, camera()) })));
  cloud.focal = lens.focal;
}

function keep(those) {
  marks = those;
  showMarks();
}

/** Shows the view that is chosen: with the grid that is there at once, and again when the finer one has come. */
async function showView() {
  const name = byId("views").querySelector("[aria-pressed=true]").dataset.view;
  byId("map").hidden = byId("scale").hidden = name !== "depth";
  byId("frame").hidden = name === "cloud";
  byId("cloud").hidden = name !== "cloud";
  byId("help").textContent = HELP[name];
  try {
    if (name !== "cloud") cloud.stop();
    else if (grid) cloud.show(grid, byId("photo"), camera());
    if (name !== "photo" && grid && !refined) await refine();
  } catch (error) {
    fail(error.message);
  }
}

async function refine() {
  const { signal } = taking;
  refined = true;
  document.body.classList.add("refining");
  try {
    await fetchGrid(CELLS.fine, signal);
    if (!signal.aborted) showView();
  } catch (error) {
    if (signal.aborted) return;
    refined = false;
    throw error;
  } finally {
    document.body.classList.remove("refining");
  }
}

function choose(view) {
  for (const button of byId("views").children) button.ariaPressed = String(button.dataset.view === view);
  showView();
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv(marks)], { type: "text/csv" }));
  link.download = `${photo.name.replace(/\.[^.]*$/, "")}.depth.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href));
}

function showStatus() {
  byId("status").textContent = photo
    ? `${photo.width} × ${photo.height}, encoded in ${Math.round(photo.encodeMs)} ms`
    : "";
}

function fail(message) {
  byId("error").textContent = message;
  byId("error").hidden = !message;
}

async function start() {
  byId("privacy").textContent = engine.privacy;
  paintScale(byId("scale").querySelector("canvas"));
  byId("views").addEventListener("click", ({ target }) => target.dataset.view && choose(target.dataset.view));
  byId("clear").addEventListener("click", () => keep([]));
  byId("download").addEventListener("click", download);
  addEventListener("pagehide", () => engine.forget());
  listenForPhotos(take, fail);
  if (TOUCH) byId("welcome").querySelector("h2").textContent = "Start with a photo";
  byId("status").textContent = engine.loading;
  try {
    const info = await engine.info();
    byId("model").textContent = [info.preset ?? info.name, `${info.width} × ${info.height}`, info.precision, info.backend].join(" · ");
    byId("demo").hidden = !info.demo;
    if (byId("status").textContent === engine.loading) showStatus();
  } catch (error) {
    fail(error.message);
  }
}

start();
