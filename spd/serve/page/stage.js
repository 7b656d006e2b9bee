// The photo on the page: pointer and keys on it become points and lines, and marks are drawn over it.

import { aboutMetres } from "./format.js";

const DRAG = 6; // CSS pixels that a pointer moves before a click becomes a line
const STRIDE = 16; // CSS pixels that an arrow key moves the crosshair
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);

/** Shows a photo and its marks. A mark is {number, ends: [{u, v, depth}], label}: one end is a point, two are a line. */
export class Stage {
  #frame = byId("frame");
  #hover = byId("hover");
  #photo = null;
  #pressed = null; // where the pointer went down
  #cross = null; // the keyboard's crosshair
  #anchor = null; // where the keyboard's line begins
  #marks = [];
  #actions;

  /** Actions: ask(point), measure(a, b); coarse(point) and coarseLine(a, b) give metres, or null before the grid is there. */
  constructor(actions) {
    this.#actions = actions;
    const listen = (name, action) => this.#frame.addEventListener(name, (event) => this.#photo && action(event));
    listen("pointerdown", (event) => this.#press(event));
    listen("pointermove", (event) => this.#move(event));
    listen("pointerup", (event) => this.#release(event));
    listen("pointercancel", () => this.#rest());
    listen("pointerleave", () => this.#pressed || this.#rest());
    listen("keydown", (event) => this.#key(event));
    listen("blur", () => this.#rest());
  }

  /** Takes a photo's size in pixels, and forgets the last one. */
  set photo(photo) {
    [this.#photo, this.#marks, this.#cross, this.#anchor] = [photo, [], null, null];
    this.#rest();
    byId("stage").style.setProperty("--ratio", photo.width / photo.height);
  }

  /** Draws marks in place of those before. */
  draw(marks) {
    this.#marks = marks;
    this.#paint();
  }

  /** The centre of the pixel under a pointer. */
  #pixel({ clientX, clientY }) {
    const { left, top, width, height } = this.#frame.getBoundingClientRect();
    return this.#centre(((clientX - left) / width) * this.#photo.width, ((clientY - top) / height) * this.#photo.height);
  }

  #centre(u, v) {
    const within = (value, count) => Math.min(count - 1, Math.max(0, Math.floor(value))) + 0.5;
    return { u: within(u, this.#photo.width), v: within(v, this.#photo.height) };
  }

  #press(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    this.#frame.setPointerCapture(event.pointerId);
    this.#pressed = { point: this.#pixel(event), x: event.clientX, y: event.clientY, moved: false };
    [this.#cross, this.#anchor] = [null, null];
    if (event.pointerType !== "mouse") this.#point(this.#pressed.point);
  }

  #move(event) {
    const point = this.#pixel(event);
    const pressed = this.#pressed;
    if (!pressed) {
      this.#cross = null;
      this.#paint();
      this.#point(point);
      return;
    }
    pressed.moved ||= Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > DRAG;
    if (pressed.moved) this.#stretch(pressed.point, point);
  }

  #release(event) {
    const pressed = this.#pressed;
    this.#pressed = null;
    if (!pressed) return;
    const point = this.#pixel(event);
    this.#rest();
    if (pressed.moved) this.#actions.measure(pressed.point, point);
    else this.#actions.ask(pressed.point);
    if (event.pointerType === "mouse") this.#point(point);
  }

  #key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const cross = this.#cross ?? this.#centre(this.#photo.width / 2, this.#photo.height / 2);
    if (step) {
      const stride = event.shiftKey ? 1 : (STRIDE * this.#photo.width) / this.#frame.clientWidth;
      this.#cross = this.#cross ? this.#centre(cross.u + step[0] * stride, cross.v + step[1] * stride) : cross;
    } else if (event.key === "Enter") {
      this.#actions.ask(cross);
    } else if (event.key === " ") {
      if (this.#anchor) this.#actions.measure(this.#anchor, cross);
      [this.#cross, this.#anchor] = [cross, this.#anchor ? null : cross];
    } else if (event.key === "Escape") {
      this.#anchor = null;
    } else {
      return;
    }
    event.preventDefault();
    this.#showCross();
  }

  #showCross() {
    if (this.#anchor) this.#stretch(this.#anchor, this.#cross);
    else this.#paint();
    if (this.#cross && !this.#anchor) this.#point(this.#cross);
    byId("whisper").textContent = this.#hover.hidden ? "" : this.#hover.textContent;
  }

  #rest() {
    this.#pressed = null;
    this.#hover.hidden = true;
    this.#paint();
  }

  /** Shows the coarse depth beside a point. */
  #point(point) {
    this.#say(point, this.#actions.coarse(point));
  }

  /** Shows a line that is being drawn, and its coarse length. */
  #stretch(a, b) {
    this.#paint([a, b]);
    this.#say(b, this.#actions.coarseLine(a, b));
  }

  #say(point, value) {
    this.#hover.hidden = value === null;
    if (value === null) return;
    this.#hover.textContent = aboutMetres(value);
    this.#place(this.#hover, point);
  }

  #place(element, { u, v }) {
    const [x, y] = [u / this.#photo.width, v / this.#photo.height];
    element.style.left = `${100 * x}%`;
    element.style.top = `${100 * y}%`;
    element.classList.toggle("to-the-left", x > 0.8);
    element.classList.toggle("below", y < 0.1);
  }

  /** Draws all marks, a line that is being drawn, and the keyboard's crosshair. */
  #paint(stretched = null) {
    const [shapes, labels] = [[], []];
    for (const { number, ends, label } of this.#marks) {
      shapes.push(...this.#shapes(ends));
      const middle = { u: (ends[0].u + ends.at(-1).u) / 2, v: (ends[0].v + ends.at(-1).v) / 2 };
      const tag = document.createElement("span");
      tag.textContent = label;
      tag.dataset.number = number;
      this.#place(tag, middle);
      labels.push(tag);
    }
    if (stretched) shapes.push(...this.#shapes(stretched));
    if (this.#cross) shapes.push(this.#shape("circle", { ...this.#at(this.#cross, "c"), r: 11, class: "cross" }));
    if (this.#cross) shapes.push(this.#shape("circle", { ...this.#at(this.#cross, "c"), r: 1.5, class: "end" }));
    byId("lines").replaceChildren(...shapes);
    byId("labels").replaceChildren(...labels);
  }

  #shapes(ends) {
    const line = ends.length === 2 && { ...this.#at(ends[0], "", 1), ...this.#at(ends[1], "", 2) };
    const strokes = line ? ["casing", "line"].map((name) => this.#shape("line", { ...line, class: name })) : [];
    return [...strokes, ...ends.map((end) => this.#shape("circle", { ...this.#at(end, "c"), r: 5, class: "end" }))];
  }

  /** Attributes of a place: cx and cy with the prefix "c", x1 and y1 with the suffix 1. */
  #at({ u, v }, prefix = "", suffix = "") {
    const share = (value, whole) => `${(100 * value) / whole}%`;
    return {
      [`${prefix}x${suffix}`]: share(u, this.#photo.width),
      [`${prefix}y${suffix}`]: share(v, this.#photo.height),
    };
  }

  #shape(name, attributes) {
    const shape = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
    return shape;
  }
}
