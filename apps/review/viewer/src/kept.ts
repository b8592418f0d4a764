// The reviewer's choices of tool and looks outlive the page: the browser keeps them.

const PLACE = "anodetect-choices";

/** Return what was kept, with the given choices where nothing of that kind was. */
export function kept<T extends object>(choices: T): T {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE) ?? "{}");
    const known: Partial<T> = {};
    for (const [name, value] of Object.entries(choices))
      if (shape(found[name]) === shape(value)) known[name as keyof T] = found[name];
    return { ...choices, ...known };
  } catch {
    return choices;
  }
}

export function keep(choices: object): void {
  try {
    localStorage.setItem(PLACE, JSON.stringify(choices));
  } catch { /* no storage here: the choices last as long as the page */ }
}

/** The type of a value; of a list with its length. */
function shape(value: unknown): string {
  if (!Array.isArray(value)) return typeof value;
  return `${value.length} ${value.map((each) => typeof each).join()}`;
}
