// Beside the list of cases: the picture of the line that the pointer or the keyboard is on. The list
// is Streamlit's own table, which paints its lines itself; only their heights are known.

import { make } from "./dom";
import { lineAt } from "./shelf";

interface Data {
  address: string;
  shelf: string;
  tickets: string[]; // of the lines
  list: string; // the beginning of the table's key
  rowHeight: number;
}

const SIDE = 320, GAP = 8; // pixels
const STYLE = `position:fixed;z-index:999999;width:${SIDE}px;height:${SIDE}px;background:#000;`
  + "border-radius:0.4rem;overflow:hidden;pointer-events:none;box-shadow:0 2px 12px #0008";

class Peek {
  private data: Data | null = null;
  private image = make("img", { alt: "", style: "width:100%;height:100%;object-fit:contain" });
  private root = make("div", { id: "peek", style: STYLE, hidden: "" }, this.image);
  private line = -1;

  constructor() {
    document.body.append(this.root);
    window.addEventListener("pointermove", (event) => this.point(event), true);
    window.addEventListener("pointerdown", () => this.show(-1, null), true);
    window.addEventListener("keyup", (event) => this.step(event), true);
    this.image.addEventListener("load", () => { this.root.dataset.painted = "true"; });
    this.image.addEventListener("error", () => this.show(-1, null));
  }

  receive(data: Data): void {
    const isOther = data.tickets.join() !== this.data?.tickets.join();
    this.data = data;
    if (isOther) this.show(-1, null);
  }

  private listOf(target: EventTarget | null): HTMLElement | null {
    if (!this.data || !(target instanceof Element)) return null;
    return target.closest<HTMLElement>(`[class*="st-key-${this.data.list}"]`);
  }

  private point(event: PointerEvent): void {
    const list = event.pointerType === "touch" ? null : this.listOf(event.composedPath()[0] ?? null);
    const scrolled = list?.querySelector<HTMLElement>(".dvn-scroller");
    if (!list || !scrolled) {
      this.show(-1, null);
      return;
    }
    const { rowHeight, tickets } = this.data!;
    const top = scrolled.getBoundingClientRect().top;
    this.show(lineAt(event.clientY - top, scrolled.scrollTop, scrolled.scrollHeight, rowHeight,
      tickets.length), list, event.clientY);
  }

  /** The line that the keys have gone to, as the table tells screen readers. */
  private step(event: KeyboardEvent): void {
    const list = this.listOf(event.composedPath()[0] ?? null);
    const cell = list?.querySelector("[role=gridcell][aria-selected=true], td[aria-selected=true]");
    const row = cell?.closest("[aria-rowindex]")?.getAttribute("aria-rowindex");
    const isAway = !list || !row || event.key === "Escape";
    this.show(isAway ? -1 : Number(row) - 2, list); // the first row is the head, and counted from 1
  }

  /** Show the picture of a line, as far down the window as it may be; −1 for none. */
  private show(line: number, list: HTMLElement | null, y = innerHeight / 2): void {
    const ticket = this.data?.tickets[line];
    this.root.hidden = !ticket || !list;
    if (!ticket || !list) {
      this.line = -1;
      return;
    }
    const { right } = list.getBoundingClientRect();
    this.root.style.left = `${Math.max(Math.min(right + GAP, innerWidth - SIDE - GAP), 0)}px`;
    this.root.style.top = `${Math.max(Math.min(y - SIDE / 2, innerHeight - SIDE - GAP), 0)}px`;
    if (line === this.line && this.root.dataset.ticket === ticket) return;
    this.line = line;
    this.root.dataset.ticket = ticket;
    this.root.dataset.painted = "false";
    this.image.src = `${this.data!.address}thumbnail/${this.data!.shelf}/${ticket}`;
  }
}

let peek: Peek | null = null;

export default function mount({ data }: { data: Data }): void {
  peek ??= new Peek();
  peek.receive({ ...data, address: new URL(data.address, document.baseURI).href });
}
