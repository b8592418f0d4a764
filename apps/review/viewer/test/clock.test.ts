import { expect, test } from "vitest";
import { Clock } from "../src/clock";

test("the time in which the page is hidden does not count", () => {
  let now = 0, change = () => {};
  const page = { hidden: false, addEventListener: (_: string, run: () => void) => { change = run; } };
  const clock = new Clock(page, () => now);
  const at = (time: number, hidden: boolean) => { now = time; page.hidden = hidden; change(); };
  clock.start();
  at(2_000, true);
  at(60_000, false);
  now = 61_500;
  expect(clock.seconds()).toBe(3.5);
  at(62_000, true);
  clock.start(); // a case that opens behind another window
  now = 90_000;
  expect(clock.seconds()).toBe(0);
  at(91_000, false);
  now = 92_000;
  expect(clock.seconds()).toBe(1);
});
