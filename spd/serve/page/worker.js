// Runs the graphs of a bundle with onnxruntime-web. `python -m tools.page` puts the files in ort/ and model/ beside it.

import * as ort from "./ort/ort.wasm.min.mjs";
import { fit, letterbox, toGraph } from "./letterbox.js";

ort.env.wasm.wasmPaths = new URL("ort/", import.meta.url).href;

const loaded = load();
let scene = null; // {photo, place, cache}

const calls = {
  info: async () => (await loaded).info,

  async encode(file) {
    const { info, encoder } = await loaded;
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
      throw new Error(`${file.name || "The file"} is not an image that this browser can show`);
    });
    const photo = { width: bitmap.width, height: bitmap.height };
    const start = performance.now();
    const image = letterbox(rowsOf(bitmap), photo, info);
    bitmap.close();
    const tensor = new ort.Tensor("uint8", image, [1, info.height, info.width, 3]);
    const cache = await encoder.run({ image: tensor });
    scene = { photo, place: fit(photo, info), cache };
    return { ...photo, encodeMs: performance.now() - start };
  },

  async depth(points) {
    const { decoder } = await loaded;
    const start = performance.now();
    const inGraph = toGraph(points, scene.photo, scene.place);
    const asked = new ort.Tensor("float32", inGraph, [1, inGraph.length / 2, 2]);
    const { depth } = await decoder.run({ ...scene.cache, points: asked }, ["depth"]);
    return { depth: depth.data, ms: performance.now() - start };
  },
};

let last = Promise.resolve(); // a session runs one thing at a time

addEventListener("message", ({ data: { id, name, values } }) => {
  last = last.then(() => calls[name](...values)).then(
    (result) => postMessage({ id, result }),
    (error) => postMessage({ id, error: error.message.split("\n")[0] }),
  );
});

async function load() {
  const info = await (await fetched("model/info.json")).json();
  const session = async (name) => {
    const graph = new Uint8Array(await (await fetched(`model/${info.graphs[name]}`)).arrayBuffer());
    return ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  };
  const encoder = await session("encoder");
  return { info, encoder, decoder: await session("decoder") };
}

async function fetched(path) {
  const response = await fetch(new URL(path, import.meta.url)).catch(() => ({ ok: false, status: "no answer" }));
  if (!response.ok) throw new Error(`${path} cannot be fetched (${response.status}); make the site again`);
  return response;
}

/** Reads rows of a bitmap as RGBA; transparency lies on white. */
function rowsOf(bitmap) {
  return (from, count) => {
    const canvas = new OffscreenCanvas(bitmap.width, count);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, bitmap.width, count);
    context.drawImage(bitmap, 0, -from);
    return context.getImageData(0, 0, bitmap.width, count).data;
  };
}
