// From a photo to the graph's image, with the very integers of Pillow's bilinear resize, which `spd.preprocess` uses.
// Pillow shrinks a photo more than twice as high as wide by its height first; there a value may differ by 1.

const PAD_COLOUR = [124, 116, 104];
const BITS = 22; // of Pillow's fixed-point weights

/** Placement of a width x height photo in a graph's image: {across, down} pixels of it, at {left, top}. */
export function fit(photo, graph) {
  const rounded = (a, b) => Math.max(1, Math.floor((2 * a + b) / (2 * b)));
  const wide = photo.width * graph.height >= photo.height * graph.width;
  const across = wide ? graph.width : rounded(photo.width * graph.height, photo.height);
  const down = wide ? rounded(photo.height * graph.width, photo.width) : graph.height;
  return { across, down, left: (graph.width - across) >> 1, top: (graph.height - down) >> 1 };
}

/** Points (u, v) of the photo as points of the graph's image: Float32Array. */
export function toGraph(points, photo, { across, down, left, top }) {
  return Float32Array.from(points, (value, at) =>
    at % 2 ? value * (down / photo.height) + top : value * (across / photo.width) + left,
  );
}

/** The graph's image, uint8 [height, width, 3]. `rows(from, count)` gives RGBA bytes of rows of the photo. */
export function letterbox(rows, photo, graph) {
  const { across, down, left, top } = fit(photo, graph);
  const narrow = new Uint8Array(photo.height * across * 3);
  const columns = weights(photo.width, across);
  const strip = Math.max(1, Math.floor(4e6 / photo.width)); // 16 MB of RGBA at once
  for (let from = 0; from < photo.height; from += strip) {
    const count = Math.min(strip, photo.height - from);
    const pixels = rows(from, count);
    for (let y = 0; y < count; y++) {
      sums(pixels, 4 * y * photo.width, 4, columns, narrow, 3 * (from + y) * across, 3);
    }
  }
  const image = new Uint8Array(graph.height * graph.width * 3);
  for (let at = 0; at < image.length; at++) image[at] = PAD_COLOUR[at % 3];
  const lines = weights(photo.height, down);
  for (let x = 0; x < across; x++) {
    sums(narrow, 3 * x, 3 * across, lines, image, 3 * (top * graph.width + left + x), 3 * graph.width);
  }
  return image;
}

/** For each of `count` pixels, which of `size` pixels it is made of, and with which weights, as whole numbers. */
function weights(size, count) {
  const scale = size / count;
  const support = Math.max(1, scale); // a triangle over two pixels of the larger grid
  return Array.from({ length: count }, (_, at) => {
    const centre = (at + 0.5) * scale;
    const from = Math.max(0, Math.trunc(centre - support + 0.5));
    const to = Math.min(size, Math.trunc(centre + support + 0.5));
    const heights = [];
    for (let x = from; x < to; x++) heights.push(Math.max(0, 1 - Math.abs((x - centre + 0.5) / support)));
    const sum = heights.reduce((total, height) => total + height, 0);
    return { from, parts: Int32Array.from(heights, (height) => Math.floor(0.5 + (height / sum) * 2 ** BITS)) };
  });
}

/** Weighted sums of RGB pixels that lie `step` bytes apart, written `outStep` bytes apart. */
function sums(source, start, step, kernels, out, outStart, outStep) {
  for (let at = 0; at < kernels.length; at++) {
    const { from, parts } = kernels[at];
    let [red, green, blue] = [1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1)];
    for (let part = 0, place = start + from * step; part < parts.length; part++, place += step) {
      red += source[place] * parts[part];
      green += source[place + 1] * parts[part];
      blue += source[place + 2] * parts[part];
    }
    const place = outStart + at * outStep;
    out[place] = red >> BITS;
    out[place + 1] = green >> BITS;
    out[place + 2] = blue >> BITS;
  }
}
