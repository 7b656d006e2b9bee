// The one thing that the page wants of EXIF: the focal length.

const EXIF_FOLDER = 0x8769;
const FOCAL_LENGTH_35MM = 0xa405;
const FILM_DIAGONAL = Math.hypot(36, 24); // mm; the equivalent focal length has the photo's diagonal angle

/** Focal length in pixels that a JPEG file states for a photo of this size, or null. */
export async function focalPixels(file, { width, height }) {
  try {
    const millimetres = equivalent(new DataView(await file.slice(0, 1 << 17).arrayBuffer()));
    return millimetres > 0 ? (millimetres * Math.hypot(width, height)) / FILM_DIAGONAL : null;
  } catch (error) {
    if (error instanceof RangeError) return null; // cut off
    throw error;
  }
}

/** Millimetres for 35 mm film; 0 or undefined where the file does not say. */
function equivalent(bytes) {
  if (bytes.getUint16(0) !== 0xffd8) return undefined;
  for (let at = 2; bytes.getUint8(at) === 0xff; at += 2 + bytes.getUint16(at + 2)) {
    const isExif = bytes.getUint8(at + 1) === 0xe1 && bytes.getUint32(at + 4) === 0x45786966;
    if (isExif) return inTiff(new DataView(bytes.buffer, at + 10));
    if (bytes.getUint8(at + 1) === 0xda) return undefined; // the pixels begin
  }
  return undefined;
}

function inTiff(tiff) {
  const little = tiff.getUint16(0) === 0x4949;
  const entry = (folder, tag) => {
    for (let at = 0; at < tiff.getUint16(folder, little); at++) {
      const place = folder + 2 + 12 * at;
      if (tiff.getUint16(place, little) !== tag) continue;
      const short = tiff.getUint16(place + 2, little) === 3;
      return short ? tiff.getUint16(place + 8, little) : tiff.getUint32(place + 8, little);
    }
    return undefined;
  };
  const folder = entry(tiff.getUint32(4, little), EXIF_FOLDER);
  return folder && entry(folder, FOCAL_LENGTH_35MM);
}
