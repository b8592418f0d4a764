// From values to colours, as anodetect.output.pictures does it in Python.

import type { LayerText, Range } from "./types";

export type Values = Uint8Array | Uint16Array | Int16Array | Float32Array;
export type Painter = (values: Values, layer: LayerText, out: Uint8ClampedArray) => void;

const KINDS = { "|u1": Uint8Array, "<u2": Uint16Array, "<i2": Int16Array, "<f4": Float32Array };

export function decoded(bytes: ArrayBuffer, kind: LayerText["kind"]): Values {
  return new KINDS[kind](bytes);
}

/** Return where a value lies between the ends of a span, 0 to 255; 0 where it is NaN. */
export function place(value: number, [low, high]: Range): number {
  const at = ((value - low) * 255) / Math.max(high - low, 1e-9);
  return at > 0 ? Math.min(Math.trunc(at), 255) : 0;
}

/** Paint [C, h, w] black at the lower end of the window, white at the upper one. */
export function grey(window: Range): Painter {
  const tables = new Map<string, Uint8Array>(); // of places, by the type of the values
  return (values, layer, out) => {
    const count = values.length / layer.channels;
    const at = lookup(values, window, tables);
    if (layer.channels === 1) {
      const words = asWords(out);
      for (let n = 0; n < count; n++) words[n] = OPAQUE | (at(values[n]!) * 0x010101);
      return;
    }
    const green = layer.channels === 3 ? count : 0, blue = 2 * green;
    for (let n = 0; n < count; n++) {
      out[4 * n] = at(values[n]!);
      out[4 * n + 1] = at(values[n + green]!);
      out[4 * n + 2] = at(values[n + blue]!);
      out[4 * n + 3] = 255;
    }
  };
}

/** Planes of [C, h, w], `count` from `start` on, and the window that they are shown in. */
export interface Part {
  start: number;
  count: number;
  window: Range;
}

/** Paint these planes of [C, h, w] alone. */
export function only({ start, count }: Part, painter: Painter): Painter {
  return (values, layer, out) =>
    painter(planes(values, layer, start, count), { ...layer, channels: count }, out);
}

function planes(values: Values, layer: LayerText, start: number, count: number): Values {
  const size = values.length / layer.channels;
  return values.subarray(start * size, (start + count) * size);
}

/** Paint planes of [C, h, w] in red, green and blue, null for none; a colour file by its mean. */
export function falseColour(parts: (Part | null)[]): Painter {
  return (values, layer, out) => {
    out.fill(255);
    for (let colour = 0; colour < 3; colour++) {
      const part = parts[colour];
      const found = part ? planes(values, layer, part.start, part.count) : null;
      const size = values.length / layer.channels;
      for (let n = 0; n < size; n++) {
        let sum = 0;
        for (let plane = 0; found && plane < part!.count; plane++) sum += found[n + plane * size]!;
        out[4 * n + colour] = part ? place(sum / part.count, part.window) : 0;
      }
    }
  };
}

/** Paint a map [1, h, w] in the colours of a palette; `over` an image, the more opaque the higher. */
export function coloured(scale: Range, palette: Uint8Array, over: boolean): Painter {
  const colours = new Uint32Array(256);
  const parts = new Uint8ClampedArray(colours.buffer);
  for (let at = 0; at < 256; at++)
    parts.set([palette[3 * at]!, palette[3 * at + 1]!, palette[3 * at + 2]!, over ? at : 255], 4 * at);
  return (values, _, out) => {
    const words = asWords(out);
    for (let n = 0; n < values.length; n++) words[n] = colours[place(values[n]!, scale)]!;
  };
}

const OPAQUE = 0xff000000; // as browsers' machines keep it, the lowest byte first

/** The pixels of a picture, one word each. */
function asWords(out: Uint8ClampedArray): Uint32Array {
  return new Uint32Array(out.buffer, out.byteOffset, out.length / 4);
}

/** Whole numbers have few values: their places are computed once. */
function lookup(
  values: Values, window: Range, tables: Map<string, Uint8Array>,
): (value: number) => number {
  if (values instanceof Float32Array) return (value) => place(value, window);
  const lowest = values instanceof Int16Array ? -32768 : 0, kind = values.constructor.name;
  const table = tables.get(kind) ?? new Uint8Array(values instanceof Uint8Array ? 256 : 65536);
  if (!tables.has(kind))
    for (let n = 0; n < table.length; n++) table[n] = place(n + lowest, window);
  tables.set(kind, table);
  return (value) => table[value - lowest]!;
}

/** A window after a drag: to the right it gets wider, downward its middle gets higher, by the share
 * of `full` that the drag is of 400 screen pixels. */
export function dragged(window: Range, full: Range, right: number, down: number): Range {
  const step = Math.max(full[1] - full[0], 1e-9) / 400;
  const middle = (window[0] + window[1]) / 2 + down * step;
  const half = Math.max((window[1] - window[0]) / 2 + (right * step) / 2, step / 2);
  return [middle - half, middle + half];
}
