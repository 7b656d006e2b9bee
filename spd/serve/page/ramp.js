// Colours of the depth map.

const STOPS = [[255, 236, 179], [246, 173, 85], [214, 92, 74], [124, 51, 112], [38, 28, 72]];

/** RGB, 0 to 255, for a place between near (0) and far (1). */
export function colour(place) {
  const at = Math.min(1, Math.max(0, place)) * (STOPS.length - 1);
  const low = Math.min(STOPS.length - 2, Math.floor(at));
  return STOPS[low].map((value, channel) => value + (STOPS[low + 1][channel] - value) * (at - low));
}

/** Paints a grid's depths, one pixel for each cell, from `near` to `far` metres. */
export function paintDepth(canvas, grid, near, far) {
  [canvas.width, canvas.height] = [grid.width, grid.height];
  const image = new ImageData(grid.width, grid.height);
  grid.depth.forEach((depth, cell) => {
    // Logarithmic: a step of a tenth looks the same near and far.
    image.data.set([...colour(Math.log(depth / near) / Math.log(far / near)), 255], 4 * cell);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Paints the ramp itself, near at the left. */
export function paintScale(canvas) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    context.fillStyle = `rgb(${colour(x / (canvas.width - 1)).map(Math.round).join(" ")})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}
