// The engine that needs no server: the graphs run in this browser, in a worker, so that the page never waits.

import { focalPixels } from "./exif.js";
import { gridPoints, gridRows } from "./geometry.js";

const PART = 256; // points asked at once: between the parts of a grid there is time for a click

/** As the engine of server.js. */
export class Engine {
  privacy = "The photo stays in this browser: nothing is sent anywhere.";
  loading = "Loading the network …";
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #asked = 0;
  #info = null;
  #photo = null;

  constructor() {
    this.#worker.addEventListener("message", ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    });
    this.#worker.addEventListener("error", () => {
      for (const { reject } of this.#waiting.values()) reject(new Error("ONNX Runtime cannot be loaded in this browser"));
      this.#waiting.clear();
    });
  }

  async info() {
    return (this.#info ??= this.#call("info"));
  }

  async encode(file) {
    const { width, height, encodeMs } = await this.#call("encode", file);
    this.#photo = { width, height };
    return { width, height, encodeMs, focalPx: await focalPixels(file, this.#photo) };
  }

  async depth(points) {
    const photo = this.#photo;
    const depth = new Float32Array(points.length / 2);
    let ms = 0;
    for (let from = 0; from < depth.length; from += PART) {
      if (this.#photo !== photo) throw new Error("Another photo has taken the place of this one");
      const part = await this.#call("depth", points.slice(2 * from, 2 * (from + PART)));
      depth.set(part.depth, from);
      ms += part.ms;
    }
    return { depth, ms };
  }

  async grid(columns) {
    const rows = gridRows(columns, this.#photo);
    const { depth } = await this.depth(gridPoints(columns, rows, this.#photo));
    return { width: columns, height: rows, depth };
  }

  forget() {} // the next photo takes the place of this one

  #call(name, ...values) {
    return new Promise((resolve, reject) => {
      this.#waiting.set(++this.#asked, { resolve, reject });
      this.#worker.postMessage({ id: this.#asked, name, values });
    });
  }
}
