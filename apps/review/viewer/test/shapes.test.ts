import { expect, test } from "vitest";
import { corners, type Point } from "../src/regions";
import { erased, painted, strokeOf } from "../src/shapes";

const SIZE: [number, number] = [60, 40];

/** The pixels whose centres lie in any region of a text, by brute force. */
function pixels(regions: string): Set<string> {
  const found = new Set<string>();
  for (const line of corners(regions))
    for (let y = 0; y < SIZE[1]; y++)
      for (let x = 0; x < SIZE[0]; x++) if (isIn(x + 0.5, y + 0.5, line)) found.add(`${x},${y}`);
  return found;
}

function isIn(x: number, y: number, line: Point[]): boolean {
  let inside = false;
  for (let n = 1; n < line.length; n++) {
    const [[x0, y0], [x1, y1]] = [line[n - 1]!, line[n]!];
    if (y0 > y !== y1 > y && x < x0 + ((x1 - x0) * (y - y0)) / (y1 - y0)) inside = !inside;
  }
  return inside;
}

const sorted = (found: Set<string>) => [...found].sort();
const box = (left: number, top: number, width: number, height: number) =>
  pixels(`${left},${top},${width},${height}`);

test("a small brush paints whole pixels", () => {
  expect(painted("", strokeOf([[5.2, 7.9]], 0.5), SIZE)).toBe("5,7,1,1");
  expect(painted("", strokeOf([[5.2, 7.9], [9.4, 7.1]], 0.5), SIZE)).toBe("5,7,5,1");
  expect(painted("", strokeOf([[5.5, 7.5]], 1.5), SIZE)).toBe("4,6,3,3");
});

test("a brush paints what lies within its radius", () => {
  const found = pixels(painted("", strokeOf([[20, 20], [40, 20]], 6), SIZE));
  for (let y = 0; y < SIZE[1]; y++) {
    for (let x = 0; x < SIZE[0]; x++) {
      const along = Math.min(Math.max(x + 0.5, 20), 40);
      const far = Math.hypot(x + 0.5 - along, y + 0.5 - 20);
      if (far < 5) expect(found.has(`${x},${y}`)).toBe(true);
      if (far > 7) expect(found.has(`${x},${y}`)).toBe(false);
    }
  }
});

test("a stroke joins the regions it touches and leaves the others", () => {
  const after = painted("2,2,4,4; 10,10,5,5; 50,30 55,30 52,35", strokeOf([[3, 4], [3, 9]], 2), SIZE);
  expect(after).toMatch(/^10,10,5,5; 50,30 55,30 52,35; /);
  const all = pixels(after);
  for (const pixel of box(2, 2, 4, 4)) expect(all.has(pixel)).toBe(true);
  expect(painted("", strokeOf([[-30, -30]], 5), SIZE)).toBe(""); // outside the picture
  for (const line of corners(painted("", strokeOf([[0, 0], [59, 39]], 9), SIZE)))
    for (const [x, y] of line) expect(x >= 0 && y >= 0 && x <= 60 && y <= 40).toBe(true);
});

test("what is erased is no longer marked, and all else is", () => {
  const hole = erased("10,10,20,20", strokeOf([[20, 20]], 0.5)); // in the middle
  const expected = box(10, 10, 20, 20);
  expected.delete("20,20");
  expect(sorted(pixels(hole))).toEqual(sorted(expected));

  expect(erased("4,6,10,20", strokeOf([[8.5, 14.5], [8.5, 17.5]], 0.5))).toBe(
    "14,26 4,26 4,18 8,18 9,18 9,14 8,14 8,18 4,18 4,26 4,6 14,6"); // also in Python's tests

  const rest = erased("0,0,9,3; 20,20,4,4", strokeOf([[4.5, -9], [4.5, 12]], 0.5));
  expect(rest.split("; ").sort()).toEqual(["0,0,4,3", "20,20,4,4", "5,0,4,3"]);
  expect(erased("3,3,4,4", strokeOf([[5, 5]], 9))).toBe("");
});

test("holes, by brute force", () => {
  let random = 7;
  const next = (most: number) => (random = (random * 16807) % 2147483647) % most;
  let regions = "5,5,50,30";
  const expected = pixels(regions);
  for (let n = 0; n < 40; n++) {
    const at: Point = [8 + next(20) + 0.5, 8 + next(10) + 0.5]; // close together
    const stroke = strokeOf([at], 0.5), pixel = `${Math.floor(at[0])},${Math.floor(at[1])}`;
    regions = n % 3 ? erased(regions, stroke) : painted(regions, stroke, SIZE);
    if (n % 3) expected.delete(pixel);
    else expected.add(pixel);
  }
  expect(sorted(pixels(regions))).toEqual(sorted(expected));
  expect(expected.size).toBeLessThan(1490);
});
