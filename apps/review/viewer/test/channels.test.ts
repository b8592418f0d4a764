import { expect, test } from "vitest";
import { FALSE_COLOUR, NOTHING, carried, chosen, painterOf, windowsOf } from "../src/channels";
import type { ChannelText, Range } from "../src/types";

const windows = (high: number): Record<string, Range> =>
  ({ auto: [0, high], "full range": [0, 2 * high] });
const CHANNELS: ChannelText[] = [
  { name: "t1", start: 0, count: 1, windows: windows(100) },
  { name: "rgb", start: 1, count: 3, windows: windows(50) },
  { name: "t2", start: 4, count: 1, windows: windows(1000) },
];
const CHOICE = { channel: "", red: "", green: "", blue: "" };
// Two pixels: of t1, of the three planes of rgb, of t2.
const VALUES = new Float32Array([0, 100, 50, 0, 0, 0, 25, 25, 1000, 500]);
const LAYER = { kind: "<f4" as const, channels: 5, height: 1, width: 2 };

function painted(changes: object, window = "auto", byHand: Range = [0, 50]): number[] {
  const out = new Uint8ClampedArray(8);
  painterOf(CHANNELS, { ...CHOICE, ...changes }, window, byHand)(VALUES, LAYER, out);
  return [...out];
}

test("one channel at a time, the first one where the chosen is not there", () => {
  expect(painted({})).toEqual([0, 0, 0, 255, 255, 255, 255, 255]);
  expect(painted({ channel: "flair" })).toEqual(painted({ channel: "t1" }));
  expect(painted({ channel: "t2" })).toEqual([255, 255, 255, 255, 127, 127, 127, 255]);
  expect(painted({ channel: "rgb" })).toEqual([255, 0, 127, 255, 0, 0, 127, 255]);
});

test("up to three in false colour, each in its own window, a colour file by its mean", () => {
  const all = { channel: FALSE_COLOUR };
  expect(painted(all)).toEqual([0, 127, 255, 255, 255, 42, 127, 255]);
  expect(painted(all, "full range")).toEqual([0, 63, 127, 255, 127, 21, 63, 255]);
  expect(painted({ ...all, red: "t2", green: NOTHING, blue: NOTHING }))
    .toEqual([255, 0, 0, 255, 127, 0, 0, 255]);
  expect(chosen(CHANNELS.slice(0, 2), { ...CHOICE, ...all }).map((each) => each?.name))
    .toEqual(["t1", "rgb", undefined]);
});

test("a window set by hand is that of the first channel, and lies alike in the others", () => {
  expect(carried([20, 60], [0, 100], [-10, 10])).toEqual([-6, 2]);
  // [0, 50] is half of t1's auto: half of the others' as well.
  expect(painted({ channel: FALSE_COLOUR }, "by hand"))
    .toEqual([0, 255, 255, 255, 255, 85, 255, 255]);
  expect(windowsOf(CHANNELS, { ...CHOICE, channel: "t2" }, {})).toEqual(windows(1000));
  expect(windowsOf([], CHOICE, windows(7))).toEqual(windows(7));
});
