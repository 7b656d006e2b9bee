// Pixels, space and coarse maps. Points are (u, v) in pixels of the photo as shown: (0, 0) is the outer corner of the
// first pixel, whose centre is (0.5, 0.5). Depth is in metres along the optical axis; x points right, y down, z forward.

/** Field of view across the longer side, in degrees, of a photo that says nothing of its lens: a phone's main camera. */
export const ASSUMED_VIEW = 65;

const HALF_DEGREE = Math.PI / 360;

/** Focal length in pixels that gives a field of view (degrees) across `side` pixels. */
export const focalOfView = (degrees, side) => side / 2 / Math.tan(degrees * HALF_DEGREE);

/** Field of view in degrees across `side` pixels at a focal length in pixels. */
export const viewOfFocal = (focal, side) => Math.atan(side / 2 / focal) / HALF_DEGREE;

/** The point in space, metres, seen at `{u, v, depth}`; the optical axis goes through the middle of the photo. */
export function toSpace({ u, v, depth }, { width, height, focal }) {
  return [((u - width / 2) / focal) * depth, ((v - height / 2) / focal) * depth, depth];
}

/** Metres between two points `{u, v, depth}` in space. */
export function distance(a, b, camera) {
  const [p, q] = [toSpace(a, camera), toSpace(b, camera)];
  return Math.hypot(p[0] - q[0], p[1] - q[1], p[2] - q[2]);
}

/** Columns of a grid of about `cells` square cells across a photo. */
export const gridColumns = (cells, { width, height }) => Math.max(1, Math.floor(Math.sqrt((cells * width) / height)));

/** Rows of a grid of `columns` square cells across a photo. */
export const gridRows = (columns, { width, height }) => Math.max(1, Math.round((columns * height) / width));

/** Centres (u, v) of the cells of a grid, row by row: Float32Array [2 * columns * rows]. */
export function gridPoints(columns, rows, { width, height }) {
  const points = new Float32Array(2 * columns * rows);
  for (let j = 0, at = 0; j < rows; j++) {
    for (let i = 0; i < columns; i++) {
      points[at++] = ((i + 0.5) * width) / columns;
      points[at++] = ((j + 0.5) * height) / rows;
    }
  }
  return points;
}

/** Depth at (u, v), bilinear between the cells of a grid `{width, height, depth}` that covers the photo. */
export function depthInGrid(grid, { u, v }, photo) {
  const [x0, x1, fx] = neighbours((u * grid.width) / photo.width - 0.5, grid.width);
  const [y0, y1, fy] = neighbours((v * grid.height) / photo.height - 0.5, grid.height);
  const at = (x, y) => grid.depth[y * grid.width + x];
  const top = at(x0, y0) * (1 - fx) + at(x1, y0) * fx;
  const bottom = at(x0, y1) * (1 - fx) + at(x1, y1) * fx;
  return top * (1 - fy) + bottom * fy;
}

function neighbours(place, count) {
  const low = Math.floor(place);
  const within = (index) => Math.min(count - 1, Math.max(0, index));
  return [within(low), within(low + 1), place - low];
}

/** The values below which the given parts of a grid's depths lie, such as [0.02, 0.98]. */
export function quantiles(depth, parts) {
  const sorted = Float32Array.from(depth).sort();
  return parts.map((part) => sorted[Math.round(part * (sorted.length - 1))]);
}
