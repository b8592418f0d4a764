import { expect, test } from "vitest";
import { action } from "../src/keys";
import { coloured, decoded, dragged, grey, place } from "../src/pixels";
import { added, box, corners, outline } from "../src/regions";

const press = (key: string, changes = {}) => ({
  key, ctrlKey: false, metaKey: false, altKey: false, repeat: false, ...changes,
});
const VERDICTS = { "1": "normal", "2": "anomalous" };

test("keys", () => {
  expect(action(press("1"), VERDICTS)).toBe("verdict:normal");
  expect(action(press("1", { repeat: true }), VERDICTS)).toBe("");
  expect(action(press("N"), VERDICTS)).toBe("next");
  expect(action(press("n", { ctrlKey: true }), VERDICTS)).toBe("");
  expect(action(press("x"), VERDICTS)).toBe("");
  expect(action(press("b"), { b: "bad image" })).toBe("verdict:bad image");
});

test("places on a scale, as in Python", () => {
  expect([-1, 0, 1, 9.99, 10, 11, NaN].map((value) => place(value, [0, 10]))).toEqual(
    [0, 0, 25, 254, 255, 255, 0]);
});

test("grey and colour images, of bytes and of floats", () => {
  const layer = { kind: "|u1" as const, channels: 3, height: 1, width: 2 };
  const out = new Uint8ClampedArray(8);
  grey([0, 100])(decoded(new Uint8Array([0, 100, 50, 0, 200, 100]).buffer, "|u1"), layer, out);
  expect([...out]).toEqual([0, 127, 255, 255, 255, 0, 255, 255]);
  const one = { ...layer, kind: "<f4" as const, channels: 1 };
  grey([0, 1])(new Float32Array([0.5, NaN]), one, out);
  expect([...out]).toEqual([127, 127, 127, 255, 0, 0, 0, 255]);
});

test("a map over an image is the more opaque the higher", () => {
  const palette = new Uint8Array(768).map((_, n) => Math.floor(n / 3));
  const layer = { kind: "<f4" as const, channels: 1, height: 1, width: 2 };
  const out = new Uint8ClampedArray(8);
  coloured([0, 1], palette, true)(new Float32Array([0, 1]), layer, out);
  expect([...out]).toEqual([0, 0, 0, 0, 255, 255, 255, 255]);
});

test("a drag of the window", () => {
  expect(dragged([0, 100], [0, 400], 100, 0)).toEqual([-50, 150]);
  expect(dragged([0, 100], [0, 400], 0, 10)).toEqual([10, 110]);
  expect(dragged([0, 100], [0, 400], -1000, 0)[1]).toBeGreaterThan(50); // never turned over
});

test("regions", () => {
  expect(box([5.2, 9.9], [2.5, 3.1], 32, 32)).toBe("2,3,4,7");
  expect(box([-3, -3], [99, 99], 32, 16)).toBe("0,0,32,16");
  expect(outline([[0, 0], [0.2, 0.1], [4, 0], [4, 40]], 32, 16)).toBe("0,0 4,0 4,16");
  expect(outline([[0, 0], [4, 0]], 32, 16)).toBe("");
  expect(corners("2,3,4,7; 0,0 4,0 4,16")).toEqual([
    [[2, 3], [6, 3], [6, 10], [2, 10], [2, 3]], [[0, 0], [4, 0], [4, 16], [0, 0]],
  ]);
  expect(corners("")).toEqual([]);
  expect([added("", "1,2,3,4"), added("1,2,3,4", "5,6,7,8")]).toEqual(
    ["1,2,3,4", "1,2,3,4; 5,6,7,8"]);
});
