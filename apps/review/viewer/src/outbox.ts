// Verdicts on their way to Python, the viewer's and the gallery's. Those that are not acknowledged yet
// outlive a reload of the page: the browser's tab keeps them. Each has an id, so that one that had
// arrived is not recorded twice.

import { button, make } from "./dom";
import type { Receipt } from "./types";

export interface Sent {
  id: string;
}

export interface Outbox<V extends Sent> {
  outbox: V[]; // not acknowledged
  failed: Receipt[]; // of the outbox, not recorded
  last: Receipt | null; // of what was recorded last
}

/** Where the tab keeps what is on its way, and what that is of. */
export interface Place {
  key: string;
  name: string;
}

export const VIEWER: Place = { key: "anodetect-outbox", name: "one case" };
export const GALLERY: Place = { key: "anodetect-gallery", name: "the gallery" };
const PATIENCE = 15_000; // milliseconds until a verdict that is not acknowledged is called late
const AGAIN = 5_000; // milliseconds until what is not acknowledged is sent again

/** A new id: 128 random bits. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// -- What is on its way ----------------------------------------------------------------------------

/** What is left on its way once these receipts have come. */
export function acknowledged<V extends Sent>(
  { outbox, last }: Outbox<V>, receipts: Receipt[],
): Outbox<V> {
  const sent = new Set(outbox.map(({ id }) => id));
  const mine = receipts.filter(({ id }) => sent.has(id));
  const done = new Set(mine.filter(({ problem }) => !problem).map(({ id }) => id));
  const saved = mine.filter(({ problem }) => !problem).at(-1) ?? last;
  return {
    outbox: outbox.filter(({ id }) => !done.has(id)),
    failed: mine.filter(({ problem }) => problem),
    // As it is worded now: of a case that has been hidden since, the name is gone.
    last: receipts.find(({ id }) => id === saved?.id) ?? null,
  };
}

/** Give up what was not recorded. */
export function dropped<V extends Sent>({ outbox, failed, last }: Outbox<V>): Outbox<V> {
  const lost = new Set(failed.map(({ id }) => id));
  return { outbox: outbox.filter(({ id }) => !lost.has(id)), failed: [], last };
}

export function keepOutbox<V>({ key }: Place, reviewer: string, verdicts: V[]): void {
  try {
    if (verdicts.length) sessionStorage.setItem(key, JSON.stringify({ reviewer, verdicts }));
    else sessionStorage.removeItem(key);
  } catch { /* no storage here: a reload loses them, and the receipt does not say "Saved" */ }
}

/** What this reviewer had on its way when the page was left. */
export function keptOutbox<V>({ key }: Place, reviewer: string): V[] {
  try {
    const kept = JSON.parse(sessionStorage.getItem(key) ?? "{}");
    return kept.reviewer === reviewer && Array.isArray(kept.verdicts) ? kept.verdicts : [];
  } catch {
    return [];
  }
}

// -- The line that says so -------------------------------------------------------------------------

interface Actions<V extends Sent> {
  box: () => Outbox<V>;
  reviewer: () => string;
  send: () => void; // all of it, with no verdict failed any more
  drop: () => void; // those that failed
}

/** What is being saved, what was, and what was not, with a way to try again. What is not
 * acknowledged is sent again by itself, since a page that lost its app and has it back may say
 * nothing. */
export class ReceiptLine<V extends Sent> {
  readonly root = make("span", { class: "receipt", role: "status" });
  private sentAt = 0;
  private triedAt = 0;

  constructor(
    private readonly place: Place, private readonly elsewhere: Place,
    private readonly actions: Actions<V>,
  ) {
    setInterval(() => this.tick(), 1000);
  }

  /** Something was put on its way. */
  sent(): void {
    this.sentAt = this.triedAt = Date.now();
    this.draw();
  }

  /** Send all of it again. */
  retry(): void {
    this.sentAt = this.triedAt = Date.now();
    this.actions.send();
    this.draw();
  }

  private tick(): void {
    if (!this.root.isConnected) return;
    const { outbox, failed } = this.actions.box();
    if (outbox.length && !failed.length && Date.now() - this.triedAt > AGAIN) {
      this.triedAt = Date.now();
      this.actions.send();
    }
    this.draw();
  }

  draw(): void {
    const { outbox, failed, last } = this.actions.box(), reviewer = this.actions.reviewer();
    if (reviewer) keepOutbox(this.place, reviewer, outbox);
    const isLate = outbox.length > 0 && Date.now() - this.sentAt > PATIENCE;
    let text = last ? `Saved: ${last.text}` : "";
    if (outbox.length) text = `Saving ${outbox.length} …`;
    if (isLate) text = `${outbox.length} not saved yet: does the app still run?`;
    if (failed.length)
      text = `NOT saved: ${[...new Set(failed.map((each) => each.text))].join("; ")}`;
    const others = keptOutbox(this.elsewhere, reviewer).length;
    if (others) text += ` · ${others} of ${this.elsewhere.name} not saved yet: open it again`;
    if (this.root.dataset.text === text) return;
    this.root.dataset.text = text;
    const isWrong = failed.length > 0 || isLate || others > 0;
    this.root.dataset.state = isWrong ? "failed" : outbox.length ? "saving" : "saved";
    this.root.replaceChildren(text);
    if (failed.length || isLate) this.root.append(" ", button("Try again", () => this.retry()));
    if (failed.length) this.root.append(" ", button("Give up", () => this.actions.drop()));
  }
}
