// The gallery: thumbnails of all listed cases, of which those in view are in the page. It is made
// once; Streamlit calls the default function each time Python sends data.

import { button, make } from "./dom";
import {
  GALLERY, ReceiptLine, VIEWER, acknowledged, dropped, keptOutbox, newId, type Outbox,
} from "./outbox";
import { gone, grid, inView, judged, type Given, type Grid, type Item } from "./shelf";
import type { Receipt } from "./types";

interface Data {
  shelf: string; // where the items are fetched from
  stamp: string; // changes when an item may have changed
  count: number; // cells
  total: number; // cases listed; more than cells where there are too many
  keys: Record<string, string>; // key → verdict
  reviewer: string;
  receipts: Receipt[];
  address: string;
}

interface Component {
  data: Data;
  parentElement: HTMLElement;
  setStateValue: (name: string, value: { seq: number; open: string; verdicts: Given[] }) => void;
}

const PAGE = 48; // items that are fetched at a time
const SIGNS: Record<string, string> = { normal: "✓", anomalous: "✗", unsure: "?", "bad image": "⊘" };
const MOVES = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];
const STYLE = `
#gallery { font-family: var(--st-font, sans-serif); color: var(--st-text-color, inherit);
  font-size: 0.875rem; display: flex; flex-direction: column; gap: 0.4rem; }
#gallery .bar { display: flex; flex-wrap: wrap; gap: 0.4rem 0.6rem; align-items: center; }
#gallery button { font: inherit; color: inherit; padding: 0.3rem 0.7rem; border-radius: 0.5rem;
  min-height: 2.2rem; cursor: pointer; background: var(--st-background-color, transparent);
  border: 1px solid color-mix(in srgb, currentColor 35%, transparent); }
#gallery button:disabled { opacity: 0.5; cursor: default; }
#gallery [data-verdict] { border-width: 2px; font-weight: 600; }
#gallery button[data-verdict=normal] { border-color: #0072b2; border-radius: 1.2rem; }
#gallery button[data-verdict=anomalous] { border-color: #d55e00; border-radius: 0; }
#gallery button[data-verdict=unsure] { border-color: #cc79a7; border-style: dashed; }
#gallery button[data-verdict="bad image"] { border-color: currentColor; border-style: double;
  border-width: 4px; }
#gallery .refused { color: #fff; background: #8a1c2b; padding: 0.3rem 0.6rem; border-radius: 0.4rem; }
#gallery .refused:empty { display: none; }
#gallery .receipt[data-state=failed] { color: #d55e00; font-weight: 600; }
#gallery .window { height: clamp(20rem, calc(100vh - 13rem), 100rem); overflow-y: auto;
  position: relative; outline-offset: -2px; }
#gallery .cell { position: absolute; cursor: pointer; overflow: hidden; border-radius: 0.4rem; }
#gallery .cell[aria-selected=true] { outline: 4px solid #56b4e9; outline-offset: -4px; }
#gallery .cell.current { box-shadow: inset 0 0 0 2px currentColor; }
#gallery .picture { background: #000; display: grid; place-items: center; color: #ddd; }
#gallery .picture img { width: 100%; height: 100%; object-fit: contain; display: block; }
#gallery .cell[aria-selected=true] .picture { opacity: 0.8; }
#gallery .caption { display: block; padding: 0.1rem 0.3rem; line-height: 1.25; height: 44px; }
#gallery .caption span { display: block; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
`;

class Gallery {
  private data: Data | null = null;
  private send: Component["setStateValue"] = () => {};
  private items = new Map<number, Item>();
  private asked = new Set<number>(); // pages under way or here
  private cells = new Map<number, HTMLElement>();
  private selected = new Set<string>(); // tickets
  private proofs = new Map<string, string>(); // that came with thumbnails, by ticket
  private painted = new Map<string, string>(); // proofs of those that were on the screen
  private box: Outbox<Given> = { outbox: [], failed: [], last: null };
  private isRestored = false; // what was on its way before the page was made again
  private seq = Date.now();
  private current = 0;
  private anchor = 0;
  private wanted = 240;
  private grid: Grid = grid(1000, 240, 0);
  private stamp = "";

  private verdicts = make("span", { class: "bar" });
  private chosen = make("span", { role: "status" });
  private receipts = new ReceiptLine(GALLERY, VIEWER, {
    box: () => this.box, reviewer: () => this.data?.reviewer ?? "",
    send: () => this.resend(), drop: () => this.drop(),
  });
  private refused = make("div", { class: "refused", role: "alert" });
  private size = make("input", {
    type: "range", min: "240", max: "640", step: "40", value: "240", "aria-label": "Pictures' size",
  });
  private space = make("div");
  private window = make("div", {
    class: "window", role: "listbox", tabindex: "0", "aria-multiselectable": "true",
    "aria-label": "Listed cases",
  }, this.space);
  readonly root = make("section", { id: "gallery", "aria-label": "Gallery" });

  constructor() {
    const bar = make("div", { class: "bar" }, this.verdicts,
      button("Undo · Z", () => this.undo()),
      button("Select none · Esc", () => this.choose([])),
      button("Open · Enter", () => this.open(this.current)),
      make("label", {}, "Size ", this.size), this.chosen, this.receipts.root);
    this.root.append(make("style", {}, STYLE), bar, this.refused, this.window);
    this.size.addEventListener("input", () => { this.wanted = Number(this.size.value); this.lay(); });
    this.window.addEventListener("scroll", () => this.draw());
    window.addEventListener("keydown", (event) => this.press(event), true);
    new ResizeObserver(() => this.lay()).observe(this.window);
  }

  receive(data: Data, send: Component["setStateValue"]): void {
    this.send = send;
    this.data = data;
    this.box = acknowledged(this.box, data.receipts);
    const kept = this.isRestored ? [] : keptOutbox<Given>(GALLERY, data.reviewer);
    if (data.reviewer) this.isRestored = true;
    this.box.outbox = [...kept, ...this.box.outbox];
    if (kept.length) this.receipts.retry();
    const stamp = `${data.shelf} ${data.stamp}`;
    if (stamp !== this.stamp) {
      this.stamp = stamp;
      this.asked.clear(); // the items stay until the new ones are here: each has its own ticket
      this.current = Math.min(this.current, Math.max(data.count - 1, 0));
    }
    this.drawVerdicts();
    this.lay();
  }

  // -- Drawing -------------------------------------------------------------------------------------

  private lay(): void {
    if (!this.data) return;
    const place = Math.floor(this.window.scrollTop / this.grid.cell) * this.grid.columns;
    const width = Math.max(this.window.clientWidth - 4, 100);
    const before = this.grid;
    this.grid = grid(width, this.wanted, this.data.count);
    this.space.style.height = `${this.grid.height}px`;
    if (before.columns !== this.grid.columns || before.side !== this.grid.side) {
      this.window.scrollTop = Math.floor(place / this.grid.columns) * this.grid.cell;
      for (const cell of this.cells.values()) cell.remove();
      this.cells.clear();
    }
    this.draw();
  }

  private draw(): void {
    const data = this.data;
    if (!data) return;
    const [first, end] = inView(
      this.grid, this.window.scrollTop, this.window.clientHeight, data.count);
    for (const [place, cell] of this.cells) {
      if (place >= first && place < end) continue;
      cell.remove();
      this.cells.delete(place);
    }
    for (let place = first; place < end; place++) {
      this.fetch(Math.floor(place / PAGE));
      this.drawCell(place);
    }
    const more = data.total > data.count ? ` (the first ${data.count} of ${data.total})` : "";
    this.chosen.textContent = `${this.selected.size} selected${more}`;
    this.receipts.draw();
  }

  private drawCell(place: number): void {
    const { columns, side, cell: height } = this.grid;
    let cell = this.cells.get(place);
    if (!cell) {
      cell = make("div", { class: "cell", role: "option", "data-place": String(place) },
        make("div", { class: "picture" }), make("div", { class: "caption" }));
      const left = (place % columns) * (side + 8), top = Math.floor(place / columns) * height;
      cell.style.cssText = `left:${left}px;top:${top}px;width:${side}px`;
      (cell.firstElementChild as HTMLElement).style.height = `${side}px`;
      cell.addEventListener("click", (event) => this.click(place, event));
      cell.addEventListener("dblclick", () => this.open(place));
      this.cells.set(place, cell);
      this.space.append(cell);
    }
    const item = this.items.get(place);
    cell.classList.toggle("current", place === this.current);
    cell.setAttribute("aria-selected", String(!!item && this.selected.has(item.ticket)));
    if (item && cell.dataset.shown !== item.ticket) this.fill(cell, item);
    if (item) this.caption(cell, item);
  }

  private fill(cell: HTMLElement, item: Item): void {
    cell.dataset.shown = item.ticket;
    cell.dataset.painted = "false";
    const picture = cell.firstElementChild!;
    const image = make("img", { alt: "" });
    picture.replaceChildren(image);
    this.load(image, item).then(
      () => requestAnimationFrame(() => requestAnimationFrame(() => this.paint(cell, item))),
      () => { if (image.isConnected) picture.replaceChildren("No picture"); },
    );
  }

  /** Fetch a picture, and keep the proof that comes with it. */
  private async load(image: HTMLImageElement, { ticket }: Item): Promise<void> {
    const answer = await fetch(`${this.data!.address}thumbnail/${this.data!.shelf}/${ticket}`);
    if (!answer.ok) throw new Error(answer.statusText);
    image.src = URL.createObjectURL(await answer.blob());
    try {
      await image.decode();
    } finally {
      URL.revokeObjectURL(image.src);
    }
    this.proofs.set(ticket, answer.headers.get("Anodetect-Proof") ?? "");
  }

  /** Note a picture that has been on the screen: at least half of it in the window. */
  private paint(cell: HTMLElement, item: Item): void {
    if (!cell.isConnected || cell.dataset.shown !== item.ticket) return;
    const shown = cell.firstElementChild!.getBoundingClientRect();
    const around = this.window.getBoundingClientRect();
    const bottom = Math.min(shown.bottom, around.bottom, innerHeight);
    const seen = bottom - Math.max(shown.top, around.top, 0);
    cell.dataset.painted = "true";
    const proof = this.proofs.get(item.ticket);
    if (proof && seen >= shown.height / 2) this.painted.set(item.ticket, proof);
  }

  private caption(cell: HTMLElement, item: Item): void {
    const sign = item.verdict ? `${SIGNS[item.verdict] ?? ""} ${item.verdict} · ` : "";
    const text = `${sign}${item.flagged ? "⚑ " : ""}${item.facts}`;
    const caption = cell.lastElementChild!;
    if (caption.textContent === item.label + text) return;
    caption.replaceChildren(
      make("span", { title: item.label }, item.label), make("span", {}, text));
    cell.setAttribute("aria-label", `${item.label}, ${text}`);
  }

  private drawVerdicts(): void {
    const keys = Object.entries(this.data!.keys);
    if (this.verdicts.dataset.keys !== keys.flat().join()) {
      this.verdicts.dataset.keys = keys.flat().join();
      this.verdicts.replaceChildren(...keys.map(([key, verdict]) => {
        const name = verdict[0]!.toUpperCase() + verdict.slice(1);
        return button(`${SIGNS[verdict] ?? ""} ${name} · ${key.toUpperCase()}`,
          () => this.judge(verdict), { "data-verdict": verdict });
      }));
    }
    for (const each of this.verdicts.querySelectorAll("button"))
      each.disabled = !this.data!.reviewer;
  }

  private fetch(page: number): void {
    if (this.asked.has(page)) return;
    this.asked.add(page);
    const { address, shelf, count } = this.data!, stamp = this.stamp;
    const start = page * PAGE;
    if (start >= count) return;
    fetch(`${address}gallery/${shelf}/${start}/${Math.min(PAGE, count - start)}`)
      .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(answer.statusText))))
      .then((items: Item[]) => {
        if (stamp !== this.stamp) return;
        items.forEach((item, n) => this.items.set(start + n, item));
        this.draw();
        this.look();
      })
      .catch(() => setTimeout(() => { this.asked.delete(page); this.draw(); }, 2000));
  }

  // -- What the reviewer does ----------------------------------------------------------------------

  private press(event: KeyboardEvent): void {
    if (!this.root.isConnected || !this.data) return;
    const target = event.composedPath()[0];
    if (target instanceof Element && target.closest("input, textarea, select, "
      + "[contenteditable=true], [role=dialog], [role=combobox]")) return;
    const isWithin = target instanceof Element && this.window.contains(target);
    const onButton = target instanceof Element && target.closest("button");
    const key = event.key.toLowerCase(), verdict = this.data.keys[key];
    if (event.altKey || ((event.ctrlKey || event.metaKey) && !(isWithin && key === "a"))) return;
    if (verdict) { if (!event.repeat) this.judge(verdict); }
    else if (key === "z") this.undo();
    else if (key === "escape") this.choose([]);
    else if (isWithin && key === "a") this.choose(this.onScreen());
    else if (isWithin && key === " ") this.toggle(this.current);
    else if (key === "enter" && !onButton) this.open(this.current);
    else if (isWithin && MOVES.includes(event.key)) this.move(event.key, event.shiftKey);
    else return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }

  private move(key: string, extends_: boolean): void {
    const next = gone(this.current, key, this.grid.columns, this.data!.count);
    this.current = next;
    const top = Math.floor(next / this.grid.columns) * this.grid.cell;
    const bottom = top + this.grid.cell - this.window.clientHeight;
    if (this.window.scrollTop > top) this.window.scrollTop = top;
    else if (this.window.scrollTop < bottom) this.window.scrollTop = bottom;
    if (extends_) this.range(this.anchor, next);
    else this.anchor = next;
    this.draw();
  }

  private click(place: number, event: MouseEvent): void {
    this.window.focus();
    this.current = place;
    if (event.shiftKey) this.range(this.anchor, place);
    else this.toggle(place);
    this.anchor = event.shiftKey ? this.anchor : place;
    this.draw();
  }

  private toggle(place: number): void {
    const ticket = this.items.get(place)?.ticket;
    if (!ticket) return;
    if (!this.selected.delete(ticket)) this.selected.add(ticket);
    this.draw();
  }

  private range(one: number, other: number): void {
    for (let place = Math.min(one, other); place <= Math.max(one, other); place++) {
      const ticket = this.items.get(place)?.ticket;
      if (ticket) this.selected.add(ticket);
    }
    this.draw();
  }

  private choose(tickets: string[]): void {
    this.selected = new Set(tickets);
    this.refused.textContent = "";
    this.draw();
  }

  private onScreen(): string[] {
    const tickets = [...this.cells.values()].map((cell) => cell.dataset.shown ?? "");
    return tickets.filter((ticket) => this.painted.has(ticket));
  }

  private judge(verdict: string): void {
    if (!this.data?.reviewer) {
      this.refused.textContent = "Enter your name in the sidebar to judge.";
      return;
    }
    const { given, refused } = judged(this.selected, this.painted, verdict, newId);
    this.refused.textContent = refused;
    if (refused) return;
    this.selected.clear();
    this.post(given);
  }

  private undo(): void {
    if (!this.data?.reviewer) return;
    this.post([{ id: newId(), ticket: "", verdict: "undo", painted: "" }]);
  }

  private post(given: Given[]): void {
    this.box = { ...this.box, outbox: [...this.box.outbox, ...given] };
    this.receipts.sent();
    this.tell("");
    this.draw();
  }

  private open(place: number): void {
    const ticket = this.items.get(place)?.ticket;
    if (ticket) this.tell(ticket);
  }

  private resend(): void {
    this.box = { ...this.box, failed: [] };
    this.tell("");
  }

  private drop(): void {
    this.box = dropped(this.box);
    this.draw();
  }

  private tell(open: string): void {
    this.send("sent", { seq: ++this.seq, open, verdicts: this.box.outbox });
  }

  /** Pictures that were painted out of view count once they are scrolled to. */
  look(): void {
    for (const [place, cell] of this.cells) {
      const item = this.items.get(place);
      if (item && cell.dataset.painted === "true") this.paint(cell, item);
    }
  }
}

let gallery: Gallery | null = null;

export default function mount({ data, parentElement, setStateValue }: Component): void {
  if (!gallery) {
    gallery = new Gallery();
    setInterval(() => gallery!.look(), 250);
  }
  if (gallery.root.parentElement !== parentElement) parentElement.append(gallery.root);
  const address = new URL(data.address, document.baseURI).href;
  gallery.receive({ ...data, address }, setStateValue);
}
