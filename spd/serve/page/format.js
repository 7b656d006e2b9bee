// How numbers are written.

/** Metres to the millimetre, from 10 m on to the centimetre. */
export const metres = (value) => `${value.toFixed(value < 9.9995 ? 3 : 2)} m`;

/** Metres from the coarse grid, marked as such. */
export const aboutMetres = (value) => `~${value.toFixed(value < 9.95 ? 2 : 1)} m`;

/** Microseconds of a time in milliseconds. */
export const microseconds = (ms) => `${Math.round(ms * 1000).toLocaleString("en")} µs`;

/** A float32 in the fewest digits that give it back. */
export function float32Text(value) {
  for (let digits = 6; digits < 9; digits++) {
    const text = Number(value.toPrecision(digits));
    if (Math.fround(text) === value) return String(text);
  }
  return String(Number(value.toPrecision(9)));
}
