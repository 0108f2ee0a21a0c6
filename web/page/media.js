// @ts-check
/**
 * What a payload of bytes is, by its first bytes: names and declared types are not trusted.
 *
 * Owns: the table of beginnings. Must not: decode anything.
 */

/** @typedef {{ mime: string, suffix: string }} Media */

/** @typedef {"audio" | "video"} MediaKind */

/**
 * @param {Uint8Array} bytes
 * @param {MediaKind} kind what containers that hold either are taken for
 * @returns {Media | null}
 */
export function sniff(bytes, kind) {
  if (starts(bytes, "RIFF") && starts(bytes, "WAVE", 8)) return { mime: "audio/wav", suffix: "wav" };
  if (starts(bytes, "OggS")) return { mime: `${kind}/ogg`, suffix: "ogg" };
  if (starts(bytes, "fLaC")) return { mime: "audio/flac", suffix: "flac" };
  if (starts(bytes, "ID3")) return { mime: "audio/mpeg", suffix: "mp3" };
  if (starts(bytes, "\x1a\x45\xdf\xa3")) return { mime: `${kind}/webm`, suffix: "webm" };
  if (starts(bytes, "ftyp", 4)) return { mime: `${kind}/mp4`, suffix: kind === "audio" ? "m4a" : "mp4" };
  return sniffFrames(bytes);
}

/**
 * Sound without a container begins with a frame: twelve bits set, then version and layer.
 * @param {Uint8Array} bytes
 * @returns {Media | null}
 */
function sniffFrames(bytes) {
  const [first = 0, second = 0] = bytes;
  if (bytes.length < 4 || first !== 0xff) return null;
  // ADTS has layer 0, which MPEG audio does not use.
  if ((second & 0xf6) === 0xf0) return { mime: "audio/aac", suffix: "aac" };
  if ((second & 0xe0) === 0xe0 && (second & 0x06) !== 0) return { mime: "audio/mpeg", suffix: "mp3" };
  return null;
}

/**
 * @param {Uint8Array} bytes
 * @param {string} beginning one character a byte
 * @param {number} [at]
 */
function starts(bytes, beginning, at = 0) {
  for (let index = 0; index < beginning.length; index += 1) {
    if (bytes[at + index] !== beginning.charCodeAt(index)) return false;
  }
  return true;
}

/**
 * A size for people.
 * @param {number} bytes
 */
export function sizeText(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} KiB`;
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}
