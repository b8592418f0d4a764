import { expect, test } from "vitest";
import { EMPTY, ahead, card as open, judged, message, moved, received, retried, undone } from "../src/queue";
import { dropped } from "../src/outbox";
import type { Card, Data } from "../src/types";

const card = (ticket: string, hidden = false, stays = hidden): Card => ({
  ticket, label: ticket, title: ticket, facts: [], warnings: [], hidden, stays,
  verdict: "", comment: "", region: "", others: "",
});
const data = (changes: Partial<Data> = {}): Data => ({
  session: "s", seq: 0, open: "b", cards: ["a", "b", "c", "d"].map((ticket) => card(ticket)),
  order: ["a", "b", "c", "d"], unjudged: ["c", "d"], receipts: [], keys: {}, reviewer: "Ada",
  address: "", palettes: {}, ...changes,
});
const verdict = (id: string) => ({
  id, verdict: "normal", comment: "", region: "", places: [], seconds: 2,
});
const start = received(EMPTY, data());

test("a page that is behind does not move the reviewer back", () => {
  const twice = moved(moved(start, 1).state, 1).state;
  expect(twice.open).toBe("d");
  expect(received(twice, data({ seq: 1, open: "c" })).open).toBe("d");
  expect(received(twice, data({ seq: 2, open: "d" })).open).toBe("d");
  expect(received(twice, data({ seq: 2, open: "a" })).open).toBe("a"); // a click in the list
});

test("an app that was started anew does not take the open case's card away", () => {
  const on = moved(start, 1).state;
  const after = received(on, data({ session: "t", open: "a", cards: [card("a")] }));
  expect([after.open, open(after)?.ticket]).toEqual(["c", "c"]);
  expect(message(after).open).toBe("c");
});

test("what cannot be recorded is tried again, or given up", () => {
  const one = judged(start, verdict("1"), true).state;
  const receipts = [{ id: "1", text: "no such case", problem: true }];
  const failed = received(one, data({ seq: 1, open: "c", receipts }));
  expect(retried(failed).outbox.length).toBe(1);
  expect([dropped(failed).outbox, dropped(failed).failed]).toEqual([[], []]);
  expect(dropped(one).outbox.length).toBe(1); // on its way
});

test("a verdict goes to the case it was given on, and the next unjudged one opens", () => {
  const first = judged(start, verdict("1"), true).state;
  const second = judged(first, verdict("2"), true).state;
  expect(second.open).toBe("d");
  expect(message(second)).toEqual({
    seq: 2, open: "d",
    verdicts: [
      { ...verdict("1"), ticket: "b", painted: "b" }, { ...verdict("2"), ticket: "c", painted: "c" },
    ],
  });
});

test("the next to judge follows the case on the screen, also while the page is behind", () => {
  const back = moved(start, -1).state;
  expect(judged(back, verdict("1"), true).state.open).toBe("b");
  const seen = { ...card("b"), verdict: "normal" };
  const after = received(back, data({ cards: [card("a"), seen, card("c"), card("d")] }));
  expect(judged(after, verdict("1"), true).state.open).toBe("c");
});

test("nothing is judged that is not painted, nor by nobody", () => {
  expect(judged(start, verdict("1"), false).refused).toContain("not here yet");
  expect(judged(start, verdict("1"), false).state).toBe(start);
  const nobody = received(EMPTY, data({ reviewer: "" }));
  expect(judged(nobody, verdict("1"), true).refused).toContain("name");
});

test("what is not acknowledged is kept and sent again, what is acknowledged only once", () => {
  const two = judged(judged(start, verdict("1"), true).state, verdict("2"), true).state;
  const receipts = [
    { id: "1", text: "normal, record 1", problem: false },
    { id: "2", text: "locked", problem: true },
  ];
  const after = received(two, data({ seq: 2, open: "d", receipts }));
  expect(after.outbox.map((each) => each.id)).toEqual(["2"]);
  expect(after.last?.text).toBe("normal, record 1");
  expect(after.failed.map((each) => each.id)).toEqual(["2"]);
  const again = retried(after);
  expect(again.failed).toEqual([]);
  expect(message(again)).toMatchObject({ seq: 3, verdicts: [{ id: "2" }] });
});

test("the last receipt is worded anew, and forgotten with the case that it named", () => {
  const one = judged(start, verdict("1"), true).state;
  const named = { id: "1", text: "took back normal on x.png, record 2", problem: false };
  const after = received(one, data({ seq: 1, receipts: [named] }));
  expect(after.last?.text).toContain("x.png");
  const unnamed = { ...named, text: "took back normal, record 2" };
  expect(received(after, data({ seq: 2, receipts: [unnamed] })).last?.text).not.toContain("x.png");
  expect(received(after, data({ seq: 2, receipts: [] })).last).toBe(null);
});

test("a hidden case stays until Python shows its scores, and is judged once", () => {
  const hidden = received(EMPTY, data({ cards: [card("b", true)], order: ["b"], unjudged: [] }));
  const after = judged(hidden, verdict("1"), true).state;
  expect(after.open).toBe("b");
  expect(message(after).open).toBe("");
  expect(judged(after, verdict("2"), true).refused).not.toBe("");
  const shown = received(after, data({ seq: 1, open: "shown", cards: [card("shown")] }));
  expect(shown.open).toBe("shown");
  expect(shown.waiting).toBe(false);
});

test("the ends of the list are said, and a case that has not come yet", () => {
  const end = received(EMPTY, data({ open: "d" }));
  expect(moved(end, 1).refused).toContain("end of the list");
  expect(moved({ ...end, seq: 1 }, 1).refused).toContain("not here yet");
});

test("undo leaves the choice of the case to Python", () => {
  const after = undone(start, "9").state;
  expect(message(after)).toMatchObject({ seq: 1, open: "", verdicts: [{ verdict: "undo" }] });
});

test("the next to judge is fetched first, then neighbours, none without a card", () => {
  expect(ahead(start)).toEqual(["c", "a", "d"]);
  expect(ahead(received(EMPTY, data({ cards: [card("a"), card("d")] })))).toEqual(["d", "a"]);
});

test("in a study a hidden case does not stay: the next one opens at once", () => {
  const cards = ["a", "b", "c", "d"].map((ticket) => card(ticket, true, false));
  const step = judged(received(EMPTY, data({ cards })), verdict("1"), true);
  expect([step.state.open, step.state.waiting]).toEqual(["c", false]);
});
