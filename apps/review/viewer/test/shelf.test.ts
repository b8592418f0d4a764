import { expect, test } from "vitest";
import { CAPTION, GAP, gone, grid, inView, judged, lineAt } from "../src/shelf";

test("pictures are at least 240 pixels wide, in as many columns as there is room for", () => {
  for (const width of [200, 240, 487, 488, 820, 1280, 1920])
    for (const wanted of [100, 240, 480]) {
      const { columns, side, cell, height } = grid(width, wanted, 1000);
      expect(side).toBeGreaterThanOrEqual(Math.min(Math.max(wanted, 240), width));
      expect(columns * side + (columns - 1) * GAP).toBeLessThanOrEqual(width);
      expect((columns + 1) * Math.max(wanted, 240) + columns * GAP).toBeGreaterThan(width);
      expect(height).toBe(Math.ceil(1000 / columns) * cell);
      expect(cell).toBe(side + CAPTION + GAP);
    }
});

test("cells in view are drawn, and few others, wherever the list is scrolled to", () => {
  const of = grid(1000, 240, 100_000);
  for (const top of [0, 1, 5000, of.height - 700]) {
    const [first, end] = inView(of, top, 700, 100_000);
    for (let place = 0; place < 100_000; place++) {
      const y = Math.floor(place / of.columns) * of.cell;
      if (y + of.cell > top && y < top + 700) {
        expect(place).toBeGreaterThanOrEqual(first);
        expect(place).toBeLessThan(end);
      }
    }
    expect(end - first).toBeLessThan(40);
  }
  expect(inView(grid(1000, 240, 2), 0, 700, 2)).toEqual([0, 2]);
});

test("arrows stay within the list", () => {
  expect(gone(0, "ArrowLeft", 3, 10)).toBe(0);
  expect(gone(4, "ArrowDown", 3, 10)).toBe(7);
  expect(gone(8, "ArrowDown", 3, 10)).toBe(8);
  expect([gone(4, "Home", 3, 10), gone(4, "End", 3, 10), gone(4, "x", 3, 10)]).toEqual([0, 9, 4]);
});

test("every selected case gets a verdict of its own, and none if one was not painted", () => {
  let n = 0;
  const id = () => String(n++);
  const { given } = judged(["a", "b"], new Map([["a", "p"], ["b", "q"], ["c", "r"]]), "normal", id);
  expect(given).toEqual([
    { id: "0", ticket: "a", verdict: "normal", painted: "p" },
    { id: "1", ticket: "b", verdict: "normal", painted: "q" },
  ]);
  const mixed = judged(["a", "d"], new Map([["a", "p"]]), "normal", id);
  expect(mixed.given).toEqual([]);
  expect(mixed.refused).toContain("1 of 2 selected");
  expect(judged([], new Map([["a", "p"]]), "normal", id).refused).toContain("Select");
});

test("the line of a table under the pointer, scrolled or not, and none in its head", () => {
  const at = (down: number, scrolled: number) => lineAt(down, scrolled, 40 + 10 * 44, 44, 10);
  expect([at(0, 0), at(39, 0), at(40, 0), at(83, 0), at(84, 0)]).toEqual([-1, -1, 0, 0, 1]);
  expect([at(39, 100), at(40, 100), at(40, 44), at(479, 0), at(480, 0)]).toEqual([-1, 2, 1, 9, -1]);
});
