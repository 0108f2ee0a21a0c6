// @ts-check
/**
 * Counts what was lost and what came twice, from the numbers that a backend gives its messages.
 *
 * A backend may write `metadata.seq` (1, 2, 3, ... in decimal) for each `metadata.source` and each target. A gap is
 * counted as lost and taken back when the message comes late; a number seen again is a duplicate. Messages without a
 * number count for nothing here.
 *
 * Owns: the two figures, and bounded memory of numbers. Must not: hold a message.
 */

/** So many numbers behind the highest are remembered, for each stream. */
export const WINDOW = 1024;

/** So many streams are remembered; the one that was quiet for longest is forgotten first. */
export const MAX_STREAMS = 256;

/** @typedef {{ first: number, highest: number, seen: Set<number> }} Stream */

/** @typedef {"new" | "late" | "duplicate" | "unnumbered"} Verdict */

export class Numbering {
  lost = 0;
  duplicate = 0;

  /** @type {Map<string, Stream>} */
  #streams = new Map();

  /**
   * Takes one message's number into account.
   * @param {string} target the room, the user, or everyone
   * @param {Record<string, string>} metadata
   * @returns {Verdict}
   */
  take(target, metadata) {
    const seq = readSeq(metadata.seq);
    if (seq === null) return "unnumbered";
    const key = `${target}\n${metadata.source ?? ""}`;
    const stream = this.#streams.get(key);
    // Deleted and set again, so that the map's order is the order of last use.
    this.#streams.delete(key);
    if (!stream || this.#startedAnew(stream, seq)) {
      this.#remember(key, { first: seq, highest: seq, seen: new Set([seq]) });
      return "new";
    }
    this.#streams.set(key, stream);
    return this.#place(stream, seq);
  }

  /** Forgets where streams stood, because what comes meanwhile is not waited for; the figures stay. */
  forget() {
    this.#streams.clear();
  }

  /**
   * The same for one target.
   * @param {string} target
   */
  forgetTarget(target) {
    for (const key of this.#streams.keys()) {
      if (key.startsWith(`${target}\n`)) this.#streams.delete(key);
    }
  }

  /** How many streams are remembered. */
  get size() {
    return this.#streams.size;
  }

  /**
   * A 1 that is further behind than what is remembered is a source that began again.
   * @param {Stream} stream
   * @param {number} seq
   */
  #startedAnew(stream, seq) {
    return seq === 1 && stream.highest - seq >= WINDOW;
  }

  /**
   * @param {string} key
   * @param {Stream} stream
   */
  #remember(key, stream) {
    this.#streams.set(key, stream);
    if (this.#streams.size > MAX_STREAMS) {
      for (const oldest of this.#streams.keys()) {
        this.#streams.delete(oldest);
        break;
      }
    }
  }

  /**
   * @param {Stream} stream
   * @param {number} seq
   * @returns {Verdict}
   */
  #place(stream, seq) {
    if (seq > stream.highest) {
      this.lost += seq - stream.highest - 1;
      stream.highest = seq;
      stream.seen.add(seq);
      if (stream.seen.size > WINDOW) prune(stream);
      return "new";
    }
    // So old that it is not known whether it was seen: it is shown, and changes no figure.
    if (seq <= stream.highest - WINDOW) return "late";
    if (stream.seen.has(seq)) {
      this.duplicate += 1;
      return "duplicate";
    }
    stream.seen.add(seq);
    // What came before the first one that was heard had never been counted as lost.
    if (seq > stream.first) this.lost -= 1;
    return "late";
  }
}

/** @param {Stream} stream */
function prune(stream) {
  for (const seq of stream.seen) {
    if (seq <= stream.highest - WINDOW) stream.seen.delete(seq);
  }
}

/**
 * @param {unknown} text
 * @returns {number | null}
 */
function readSeq(text) {
  if (typeof text !== "string" || !/^[1-9][0-9]{0,15}$/.test(text)) return null;
  const seq = Number(text);
  return Number.isSafeInteger(seq) ? seq : null;
}
