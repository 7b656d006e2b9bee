// The engine behind the page that `spd-serve` answers with: the service encodes and decodes.
//
// Every engine has: info(), encode(file, signal), depth(points), grid(columns), forget(). It holds one photo, the last.

/** Encodes and asks by HTTP. Errors are of one line, for the reader. */
export class Engine {
  privacy = "The photo goes to this server only, which forgets it when you choose another or leave.";
  loading = "";
  #info = null;
  #scene = null;
  #file = null;

  /** What `GET /info` says. */
  async info() {
    this.#info ??= await (await request("info")).json();
    return this.#info;
  }

  /** Encodes an image file in place of the last one: {width, height, encodeMs, focalPx}. On an error the last one stays. */
  async encode(file, signal) {
    const most = (await this.info()).max_upload_bytes;
    if (file.size > most) {
      throw new Error(`${file.name || "The photo"} has ${megabytes(file.size)}, this service takes up to ${megabytes(most)}; resize it first`);
    }
    const scene = await this.#upload(file, signal);
    this.forget();
    [this.#scene, this.#file] = [scene.id, file];
    return { width: scene.width, height: scene.height, encodeMs: scene.encode_ms, focalPx: scene.focal_px };
  }

  /** Depths at points, Float32Array [2 K] of (u, v): {depth: Float32Array [K], ms}. */
  async depth(points) {
    const headers = { "Content-Type": "application/octet-stream", Accept: "application/octet-stream" };
    const response = await this.#ask("depth", { method: "POST", headers, body: points });
    const ms = Number(/depth;dur=([\d.e+-]+)/.exec(response.headers.get("Server-Timing"))?.[1]);
    return { depth: new Float32Array(await response.arrayBuffer()), ms };
  }

  /** Depths at the cells of a coarse grid: {width, height, depth: Float32Array}, row by row. */
  async grid(columns) {
    const response = await this.#ask(`grid?width=${columns}`, { headers: { Accept: "application/octet-stream" } });
    const [width, height] = response.headers.get("X-Grid").split(" ").map(Number);
    return { width, height, depth: new Float32Array(await response.arrayBuffer()) };
  }

  /** Deletes the scene, also while the page is being left. Whoever comes back to it and asks has it encoded again. */
  forget() {
    if (this.#scene !== null) fetch(`scenes/${this.#scene}`, { method: "DELETE", keepalive: true }).catch(() => {});
    this.#scene = null;
  }

  async #upload(file, signal) {
    // The service looks into what is not said to be an image, and then says what it is.
    const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" };
    return (await request("scenes", { method: "POST", headers, body: file, signal })).json();
  }

  /** Asks the scene. One that the service has dropped meanwhile is encoded again, once. */
  async #ask(path, options) {
    const scene = this.#scene;
    try {
      if (scene !== null) return await request(`scenes/${scene}/${path}`, options);
    } catch (error) {
      if (error.status !== 404 && error.status !== 410) throw error;
    }
    if (scene === this.#scene) this.#scene = (await this.#upload(this.#file)).id;
    return request(`scenes/${this.#scene}/${path}`, options);
  }
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer; is spd-serve still running?");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  throw Object.assign(new Error(said?.error ?? `The service answered ${response.status}`), { status: response.status });
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
