// The gallery's state as plain functions: which cells are on the screen, what is selected, and which
// verdicts are not acknowledged yet.

export interface Item {
  ticket: string;
  label: string; // the row's name; of a hidden case its number in the list
  facts: string;
  flagged: boolean;
  verdict: string; // the reviewer's own, "" for none
}

/** One verdict on one case; "undo" takes the last one back. */
export interface Given {
  id: string;
  ticket: string;
  verdict: string;
  painted: string; // what came with the thumbnail that was on the screen
}

export interface Grid {
  columns: number;
  side: number; // pixels of a cell's picture
  cell: number; // pixels of a cell's height
  height: number; // pixels of all rows
}

export const GAP = 8, CAPTION = 44, SMALLEST = 240;

/** The grid of `count` cells in a window of this width; pictures are at least SMALLEST wide, unless
 * the window is narrower. */
export function grid(width: number, wanted: number, count: number): Grid {
  const least = Math.max(wanted, SMALLEST);
  const columns = Math.max(Math.floor((width + GAP) / (least + GAP)), 1);
  const side = Math.floor((width - (columns - 1) * GAP) / columns);
  const cell = side + CAPTION + GAP;
  return { columns, side, cell, height: Math.ceil(count / columns) * cell };
}

/** The first cell to draw and the one after the last: those in view and a row before and after. */
export function inView(of: Grid, top: number, height: number, count: number): [number, number] {
  const first = Math.max(Math.floor(top / of.cell) - 1, 0);
  const last = Math.ceil((top + height) / of.cell) + 1;
  return [Math.min(first * of.columns, count), Math.min(last * of.columns, count)];
}

/** The cell to go to from `place` with a key, or `place` where there is none. */
export function gone(place: number, key: string, columns: number, count: number): number {
  const steps: Record<string, number> = {
    ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
    Home: -place, End: count - 1 - place,
  };
  const next = place + (steps[key] ?? 0);
  return next < 0 || next >= count ? place : next;
}

/** The verdicts on all selected cases, or why there are none: one that was not painted is never
 * judged, and then none is. */
export function judged(
  selected: Iterable<string>, painted: ReadonlyMap<string, string>, verdict: string, id: () => string,
): { given: Given[]; refused: string } {
  const tickets = [...selected];
  const unseen = tickets.filter((ticket) => !painted.has(ticket)).length;
  if (tickets.length === 0) return { given: [], refused: "Select a picture first." };
  if (unseen)
    return { given: [], refused: `Not recorded: ${unseen} of ${tickets.length} selected have not `
      + "been on the screen." };
  return {
    given: tickets.map((ticket) =>
      ({ id: id(), ticket, verdict, painted: painted.get(ticket) ?? "" })),
    refused: "",
  };
}

/** The line of a table that is `down` pixels below its upper edge, −1 for none: it is scrolled by
 * `scrolled`, and `high` altogether, its head included. */
export function lineAt(
  down: number, scrolled: number, high: number, rowHeight: number, count: number,
): number {
  const head = Math.max(high - count * rowHeight, 0);
  if (down < head) return -1; // the head does not scroll
  const line = Math.floor((down - head + scrolled) / rowHeight);
  return line < count ? line : -1;
}
