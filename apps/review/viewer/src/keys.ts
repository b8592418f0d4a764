// Which key does what.

export const MOVES: Record<string, string> = {
  n: "next", arrowright: "next", p: "previous", arrowleft: "previous", z: "undo", j: "unjudged",
  o: "overlay", "+": "more", "=": "more", "-": "less", "0": "home",
  b: "box", l: "outline", g: "polygon", d: "brush", e: "eraser", w: "window", "[": "smaller",
  "]": "larger", escape: "pan", delete: "discard", "?": "help",
  arrowup: "up", arrowdown: "down", v: "view",
};

interface Press {
  key: string;
  ctrlKey: boolean;
  metaKey: boolean;
  altKey: boolean;
  repeat: boolean;
}

const TYPED = "input:not([type=checkbox], [type=radio], [type=range]), textarea, select, "
  + "[contenteditable=true], [role=combobox], [data-testid=stDialog]";
const MOVED = "input[type=radio], input[type=range], [role=slider], [role=radio], [role=tab], "
  + "[role=grid], [data-testid=data-grid-canvas]";
const MOVING = /^(Arrow|Home|End|Page)/;

/** Whether a key is meant for the widget that has the focus: where text is typed, where Escape closes
 * something, and, for those who came `tabbed`, where arrows move something. */
export function isOthers(key: string, target: EventTarget | undefined, tabbed: boolean): boolean {
  if (!(target instanceof Element)) return false;
  if (target.closest(TYPED) || key === "Escape" && target.closest("[role=dialog]")) return true;
  return tabbed && MOVING.test(key) && target.closest(MOVED) !== null;
}

/** Return what a key does: a verdict's name, an action of MOVES, or "" for nothing. A key that is
 * held down judges once. Verdicts win over other actions, since their keys can be chosen. */
export function action(press: Press, verdicts: Record<string, string>): string {
  if (press.ctrlKey || press.metaKey || press.altKey) return "";
  const key = press.key.toLowerCase();
  const verdict = verdicts[key];
  if (verdict) return press.repeat ? "" : `verdict:${verdict}`;
  return MOVES[key] ?? "";
}
