// A point cloud in WebGL: the cells of a depth grid in space, coloured by the photo. It begins as the photo was taken.

import { depthInGrid, gridPoints, gridRows, quantiles, toSpace } from "./geometry.js";

const COLUMNS = 320; // points across: more than the grid has, for the photo's detail
const EDGE = 0.2; // relative step of depth across a cell beyond which it hangs between two surfaces, and is left out
const SWAY = { angle: 0.3, seconds: 9 };
const LIMITS = { pitch: 1.2, near: 0.35, far: 4 };
const STRIDE = 0.08; // radians that an arrow key turns

const VERTEX = `
attribute vec3 position; attribute vec3 tint;
uniform vec3 pivot; uniform vec2 turn; uniform float away; uniform vec2 lens; uniform float spread;
varying vec3 shade;
void main() {
  vec3 p = position - pivot;
  p = vec3(cos(turn.x) * p.x + sin(turn.x) * p.z, p.y, cos(turn.x) * p.z - sin(turn.x) * p.x);
  p = vec3(p.x, cos(turn.y) * p.y - sin(turn.y) * p.z, cos(turn.y) * p.z + sin(turn.y) * p.y);
  float z = p.z + away;
  gl_Position = vec4(lens.x * p.x, -lens.y * p.y, z * 0.998 - 0.02, z);
  gl_PointSize = max(1.5, spread * position.z / z);
  shade = tint;
}`;

const FRAGMENT = `
precision mediump float;
varying vec3 shade;
void main() {
  if (length(gl_PointCoord - 0.5) > 0.5) discard;
  gl_FragColor = vec4(shade, 1.0);
}`;

/** Draws on a canvas, which turns by drag, wheel, pinch and keys; it sways gently until it is touched. */
export class Cloud {
  #canvas;
  #gl = null;
  #places = {};
  #image = null;
  #shown = null; // {grid, tints, camera, count, pivot}
  #turn = [0, 0];
  #zoom = 1;
  #swayed = 0; // seconds that it has swayed
  #touched = false;
  #frame = 0;
  #pointers = new Map();

  constructor(canvas) {
    this.#canvas = canvas;
    const listen = (name, action) => canvas.addEventListener(name, action.bind(this));
    listen("pointerdown", this.#press);
    listen("pointermove", this.#drag);
    for (const name of ["pointerup", "pointercancel"]) listen(name, ({ pointerId }) => this.#pointers.delete(pointerId));
    listen("wheel", this.#wheel);
    listen("keydown", this.#key);
    new ResizeObserver(() => this.#draw()).observe(canvas);
  }

  /** Shows a grid's depths with the colours of an image; `camera` has width, height and focal in pixels. */
  show(grid, image, camera) {
    this.#gl ??= this.#context();
    if (this.#image !== image.src) {
      [this.#image, this.#turn, this.#zoom, this.#swayed] = [image.src, [0, 0], 1, 0];
      this.#touched = matchMedia("(prefers-reduced-motion: reduce)").matches;
    }
    const size = { width: COLUMNS, height: gridRows(COLUMNS, camera) };
    this.#shown = { grid, size, tints: tintsOf(image, size), camera };
    this.#fill();
    this.#run();
  }

  /** Focal length in pixels, which spreads the cloud. */
  set focal(focal) {
    if (!this.#shown || this.#canvas.hidden) return;
    this.#shown.camera = { ...this.#shown.camera, focal };
    this.#fill();
    this.#draw();
  }

  /** Ends the motion. */
  stop() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
  }

  #context() {
    const gl = this.#canvas.getContext("webgl", { antialias: true });
    if (!gl) throw new Error("The 3D view needs WebGL, which this browser does not offer");
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    for (const name of ["pivot", "turn", "away", "lens", "spread"]) this.#places[name] = gl.getUniformLocation(program, name);
    for (const name of ["position", "tint"]) {
      const place = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, (this.#places[name] = gl.createBuffer()));
      gl.enableVertexAttribArray(place);
      if (name === "position") gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
      else gl.vertexAttribPointer(place, 3, gl.UNSIGNED_BYTE, true, 0, 0);
    }
    return gl;
  }

  /** Puts positions and colours into the buffers. */
  #fill() {
    const { grid, size, tints, camera } = this.#shown;
    const points = gridPoints(size.width, size.height, camera);
    const solid = solidCells(grid);
    const [positions, colours] = [[], []];
    for (let cell = 0; cell < size.width * size.height; cell++) {
      const [u, v] = [points[2 * cell], points[2 * cell + 1]];
      const [x, y] = [Math.floor((u * grid.width) / camera.width), Math.floor((v * grid.height) / camera.height)];
      if (!solid[y * grid.width + x]) continue;
      positions.push(...toSpace({ u, v, depth: depthInGrid(grid, { u, v }, camera) }, camera));
      colours.push(tints[4 * cell], tints[4 * cell + 1], tints[4 * cell + 2]);
    }
    const gl = this.#gl;
    const load = (name, values) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.#places[name]);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    };
    load("position", new Float32Array(positions));
    load("tint", new Uint8Array(colours));
    this.#shown.count = positions.length / 3;
    this.#shown.pivot = quantiles(grid.depth, [0.5])[0];
  }

  #run() {
    this.stop();
    let last = performance.now();
    const step = (now) => {
      if (!this.#touched) {
        this.#swayed += Math.min(0.1, (now - last) / 1000);
        const phase = (2 * Math.PI * this.#swayed) / SWAY.seconds;
        this.#turn = [SWAY.angle * Math.sin(phase), 0.3 * SWAY.angle * Math.sin(2 * phase)];
        this.#frame = requestAnimationFrame(step);
      }
      last = now;
      this.#draw();
    };
    this.#frame = requestAnimationFrame(step);
  }

  #draw() {
    if (!this.#shown || this.#canvas.hidden) return;
    const [gl, canvas, { camera, size, pivot, count }] = [this.#gl, this.#canvas, this.#shown];
    const dense = Math.min(2, devicePixelRatio);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(1, Math.round(side * dense)));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniform3f(this.#places.pivot, 0, 0, pivot);
    gl.uniform2fv(this.#places.turn, this.#turn);
    gl.uniform1f(this.#places.away, (1.12 * pivot) / this.#zoom); // a step back from where the photo was taken
    gl.uniform2f(this.#places.lens, (2 * camera.focal) / camera.width, (2 * camera.focal) / camera.height);
    gl.uniform1f(this.#places.spread, (1.7 * width) / size.width); // discs overlap a little
    gl.drawArrays(gl.POINTS, 0, count);
  }

  #look(yaw, pitch, zoom) {
    this.#touched = true;
    const within = (value, low, high) => Math.min(high, Math.max(low, value));
    this.#turn = [this.#turn[0] + yaw, within(this.#turn[1] + pitch, -LIMITS.pitch, LIMITS.pitch)];
    this.#zoom = within(this.#zoom * zoom, LIMITS.near, LIMITS.far);
    this.#draw();
  }

  #press(event) {
    this.#touched = true;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, event);
  }

  #drag(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const gap = () => {
      const [a, b] = this.#pointers.values();
      return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
    };
    const two = this.#pointers.size === 2;
    const was = two ? gap() : 1;
    this.#pointers.set(event.pointerId, event);
    if (two) this.#look(0, 0, gap() / Math.max(1, was));
    else this.#look((event.clientX - before.clientX) / 200, (before.clientY - event.clientY) / 200, 1);
  }

  #wheel(event) {
    event.preventDefault();
    this.#look(0, 0, Math.exp(-event.deltaY / 600));
  }

  #key(event) {
    const step = {
      ArrowLeft: [-STRIDE, 0, 1], ArrowRight: [STRIDE, 0, 1], ArrowUp: [0, STRIDE, 1], ArrowDown: [0, -STRIDE, 1],
      "+": [0, 0, 1.1], "=": [0, 0, 1.1], "-": [0, 0, 1 / 1.1],
    }[event.key];
    if (!step) return;
    event.preventDefault();
    this.#look(...step);
  }
}

/** The colour of the photo in each cell of a grid, RGBA; of a photo that is not shown, grey. */
function tintsOf(image, { width, height }) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = "grey";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  if (image.naturalWidth) context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

/** 1 for the cells of a grid that lie on a surface, or else 0: what hangs between a near and a far one is an artefact of the grid. */
function solidCells({ width, height, depth }) {
  const step = (a, b) => Math.abs(a - b) / Math.min(a, b);
  return depth.map((_, cell) => {
    const [x, y] = [cell % width, Math.floor(cell / width)];
    const across = x > 0 && x < width - 1 ? step(depth[cell - 1], depth[cell + 1]) : 0;
    const down = y > 0 && y < height - 1 ? step(depth[cell - width], depth[cell + width]) : 0;
    return Number(across < EDGE && down < EDGE);
  });
}
