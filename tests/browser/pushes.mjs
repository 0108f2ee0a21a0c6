/**
 * Pushes by the business client's own command line, and a sound to push.
 *
 * Owns: the calls. Must not: look at a page.
 */

import { execFile } from "node:child_process";
import { promisify } from "node:util";

const run = promisify(execFile);

/** How long a push may take, in milliseconds. */
const PUSHED_WITHIN_MS = 20_000;

/** Pushes; gives back the report. Fails where it reached nobody. */
export async function push(action, ...flags) {
  const args = ["--action", action, "--json", ...flags];
  const { stdout } = await run(process.env.RINGCAST_BIZ, args, { timeout: PUSHED_WITHIN_MS });
  const lines = stdout.trim().split("\n");
  return JSON.parse(lines[lines.length - 1]);
}

/** A WAV file of one second: a tone of 440 Hz, 8 kHz, 16 bits, one channel. */
export function makeWav() {
  const rate = 8_000;
  const samples = rate;
  const wav = Buffer.alloc(44 + samples * 2);
  wav.write("RIFF", 0);
  wav.writeUInt32LE(36 + samples * 2, 4);
  wav.write("WAVEfmt ", 8);
  wav.writeUInt32LE(16, 16);
  wav.writeUInt16LE(1, 20);
  wav.writeUInt16LE(1, 22);
  wav.writeUInt32LE(rate, 24);
  wav.writeUInt32LE(rate * 2, 28);
  wav.writeUInt16LE(2, 32);
  wav.writeUInt16LE(16, 34);
  wav.write("data", 36);
  wav.writeUInt32LE(samples * 2, 40);
  for (let at = 0; at < samples; at += 1) {
    wav.writeInt16LE(Math.round(8_000 * Math.sin((2 * Math.PI * 440 * at) / rate)), 44 + at * 2);
  }
  return wav;
}
