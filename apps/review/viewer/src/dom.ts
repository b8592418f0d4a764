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
