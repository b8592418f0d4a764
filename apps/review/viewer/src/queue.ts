// Which case is open, and what has been recorded but not yet acknowledged. Plain functions on a
// state that is never changed in place; Python may be several messages behind.

import { acknowledged, type Outbox } from "./outbox";
import type { Card, Data, Message, Verdict } from "./types";

export interface State extends Outbox<Verdict> {
  seq: number; // of the last message
  open: string; // ticket of the case on the screen, "" for none
  waiting: boolean; // Python decides what comes next
  cards: Map<string, Card>;
  data: Data | null;
  judged: Set<string>; // tickets judged here
}

export interface Step {
  state: State;
  refused: string; // why nothing was done, "" otherwise
}

export const EMPTY: State = {
  seq: 0, open: "", waiting: true, cards: new Map(), data: null, outbox: [], failed: [], last: null,
  judged: new Set(),
};

/** Take in what Python sent. A page that is behind changes the neighbours, not the open case. */
export function received(state: State, data: Data): State {
  const isCurrent = data.seq >= state.seq;
  return {
    ...state,
    ...acknowledged(state, data.receipts),
    seq: Math.max(state.seq, data.seq),
    open: isCurrent ? data.open : state.open,
    waiting: isCurrent ? false : state.waiting,
    // Cards of a page that is behind may lack the open case.
    cards: new Map([...(isCurrent ? [] : state.cards),
      ...data.cards.map((card): [string, Card] => [card.ticket, card])]),
    data,
    judged: isCurrent ? new Set() : state.judged,
  };
}

export function card(state: State): Card | undefined {
  return state.cards.get(state.open);
}

/** Open the case `step` places further in the list. */
export function moved(state: State, step: number): Step {
  const order = state.data?.order ?? [];
  const place = order.indexOf(state.open);
  const next = place < 0 ? order[0] : order[place + step];
  if (next === undefined) {
    const isEnd = state.data !== null && state.data.seq >= state.seq;
    return refuse(state, isEnd ? "This is the end of the list." : "The next case is not here yet.");
  }
  return { state: opened(state, next), refused: "" };
}

/** Open the next case that the reviewer has not judged. */
export function skipped(state: State): Step {
  const next = state.data ? nextToJudge(state, state.judged) : "";
  if (next) return { state: opened(state, next), refused: "" };
  const isBehind = state.data !== null && state.data.seq < state.seq;
  return refuse(state, isBehind ? "The next case is not here yet."
    : "You have judged all that is listed.");
}

/** Record a verdict on the open case, which `isPainted` or is refused, and open the next one. */
export function judged(
  state: State, verdict: Omit<Verdict, "ticket" | "painted">, isPainted: boolean,
): Step {
  const open = card(state);
  if (!state.data?.reviewer) return refuse(state, "Enter your name in the sidebar to judge.");
  if (!open || !isPainted) return refuse(state, "Not recorded: the image is not here yet.");
  if (state.waiting) return refuse(state, "Not recorded: the next case is not here yet.");

  const done = new Set(state.judged).add(open.ticket);
  const outbox = [...state.outbox, { ...verdict, ticket: open.ticket, painted: open.ticket }];
  // A hidden case stays, and Python shows its scores; in a study it does not.
  const next = open.stays ? "" : nextToJudge(state, done);
  const after = { ...state, outbox, judged: done };
  if (next) return { state: opened(after, next), refused: "" };
  return { state: { ...after, seq: state.seq + 1, waiting: true }, refused: "" };
}

/** Take the reviewer's last verdict back; Python says which one it was, and opens its case. */
export function undone(state: State, id: string): Step {
  if (!state.data?.reviewer) return refuse(state, "Enter your name in the sidebar first.");
  const undo = { id, ticket: "", verdict: "undo", painted: "", comment: "", region: "",
    places: [], seconds: null };
  const outbox = [...state.outbox, undo];
  return { state: { ...state, outbox, seq: state.seq + 1, waiting: true }, refused: "" };
}

/** Send again what was not recorded. */
export function retried(state: State): State {
  return { ...state, seq: state.seq + 1, failed: [] };
}

/** The message to Python: where the reviewer is, and all that is not acknowledged. */
export function message(state: State): Message {
  return { seq: state.seq, open: state.waiting ? "" : state.open, verdicts: state.outbox };
}

/** The tickets to fetch before they are asked for, the likeliest first. */
export function ahead(state: State): string[] {
  const data = state.data;
  if (!data) return [];
  const place = data.order.indexOf(state.open);
  const around = [data.order[place + 1], data.order[place - 1], data.order[place + 2]];
  const wanted = [nextToJudge(state, state.judged), ...around];
  const tickets = new Set<string>();
  for (const ticket of wanted) {
    if (ticket && ticket !== state.open && state.cards.has(ticket)) tickets.add(ticket);
  }
  return [...tickets];
}

/** The next case in the list that the reviewer has not judged, "" where Python has to look. */
function nextToJudge(state: State, done: Set<string>): string {
  const { order, unjudged } = state.data!;
  const place = order.indexOf(state.open);
  const isLeft = (ticket: string) =>
    ticket !== state.open && !done.has(ticket) && state.cards.get(ticket)?.verdict === "";
  // The page may be behind: its `unjudged` comes after the case that it shows.
  const after = place < 0 ? [] : order.slice(place + 1);
  return [...after, ...unjudged].find(isLeft) ?? "";
}

function opened(state: State, ticket: string): State {
  return { ...state, open: ticket, seq: state.seq + 1, waiting: false };
}

function refuse(state: State, refused: string): Step {
  return { state, refused };
}
