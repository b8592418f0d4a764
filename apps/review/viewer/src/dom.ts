// Elements of the page.

/** Make an element with attributes and children. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K, attributes: Record<string, string> = {}, ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Make a button. Its text is a name, or a name and the key that does the same: "Next · N". */
export function button(text: string, run: () => void, attributes: Record<string, string> = {}) {
  const [name, key] = text.split(" · ");
  const element = make("button", { type: "button", ...attributes }, name!);
  if (key) element.append(make("span", { class: "key" }, ` · ${key}`));
  element.addEventListener("click", run);
  return element;
}

/** Make a list to choose from. */
export function choice(label: string, run: (value: string) => void) {
  const element = make("select", { "aria-label": label });
  element.addEventListener("change", () => run(element.value));
  return element;
}

/** Have a list offer these names. */
export function setOptions(select: HTMLSelectElement, names: string[], chosen: string): void {
  if ([...select.options].map((each) => each.value).join() !== names.join())
    select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  select.value = chosen;
}

export function labelled(text: string, control: HTMLElement): HTMLElement {
  return make("label", {}, text, control);
}
