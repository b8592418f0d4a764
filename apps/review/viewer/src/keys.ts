// Which key does what.

export const MOVES: Record<string, string> = {
  n: "next", arrowright: "next", p: "previous", arrowleft: "previous", z: "undo", j: "unjudged",
  o: "overlay", "+": "more", "=": "more", "-": "less", "0": "home",
  b: "box", l: "outline", escape: "pan", delete: "discard", "?": "help",
};

interface Press {
  key: string;
  ctrlKey: boolean;
  metaKey: boolean;
  altKey: boolean;
  repeat: boolean;
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
