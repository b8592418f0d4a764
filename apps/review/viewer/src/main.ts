// The viewer as Streamlit mounts it: what is drawn around the panels, keys, and messages to Python.
// It is made once; Streamlit calls the default function each time Python sends data.

import { ChannelBar } from "./channelBar";
import { button, choice, labelled, make, setOptions } from "./dom";
import { action, isOthers } from "./keys";
import { keep, kept } from "./kept";
import { GALLERY, ReceiptLine, VIEWER, dropped, keptOutbox, newId } from "./outbox";
import { Panels, type Appearance, type Prepared } from "./panels";
import { dragged } from "./pixels";
import {
  EMPTY, ahead, card, judged, message, moved, received, retried, skipped, undone,
  type State, type Step,
} from "./queue";
import { Clock } from "./clock";
import { keepVoxel, voxelIn, within } from "./place";
import { SliceBar } from "./sliceBar";
import { sourceNumber, wheelSteps } from "./slices";
import { style } from "./style";
import { BRUSH, TOOLS, Tools, type Tool } from "./tools";
import type { Card, Data, Message, Progress, Verdict } from "./types";
import { THREE } from "./volume";

interface Component {
  data: Data;
  parentElement: HTMLElement;
  setStateValue: (name: string, value: Message) => void;
}

const SIGNS: Record<string, string> = { normal: "✓", anomalous: "✗", unsure: "?", "bad image": "⊘" };
const LONGEST = 40; // letters of regions that are shown
const VOLUMES = 2; // neighbours that are fetched while volumes are looked at
const EVERY = 250; // milliseconds between two questions how far the reading is
const READOUT = "Intensity and anomaly under the pointer are shown here.";
const HELP = "N → next · P ← previous · J next unjudged · Z undo · O overlay · + − opacity · "
  + "0 whole image · B box · L outline · G polygon · D brush · E eraser · [ ] brush's size · "
  + "W window · Esc pan · Ctrl Z last region back · Del discard regions · wheel zoom · "
  + "right drag window · in volumes: wheel ↑ ↓ slices, Ctrl + wheel zoom, V next view, "
  + "click crosshair";

class Viewer {
  private state: State = EMPTY;
  private send: (message: Message) => void = () => {};
  private painted = ""; // ticket of the case that is painted
  private asked = voxelIn(location.href);
  private showing = 0; // counts the cases shown
  private pointer: PointerEvent | null = null; // where it is in the panels
  private clock = new Clock();
  private timed = ""; // ticket of the case that the clock runs for
  private comments = new Map<string, string>(); // by ticket, until the verdict
  private regions = new Map<string, string>();
  private before: [ticket: string, regions: string][] = []; // regions as they were, the last one last
  private isTabbed = false; // the focus was brought by the keyboard
  private isRestored = false; // the outbox of before the page was made again
  private sound: AudioContext | null = null;
  private appearance: Appearance = {
    window: "auto", byHand: [0, 255], palette: "inferno", opacity: 0.7, overlay: true,
    third: "heatmap", contours: false, truth: false, view: "",
    channel: "", red: "", green: "", blue: "",
  };

  private title = make("div", { class: "name" });
  private facts = make("div", { class: "facts" });
  private verdicts = make("span", { class: "verdicts" });
  private problem = make("div", { class: "problem", role: "status" });
  private refused = make("div", { class: "refused", role: "alert" });
  private receipts = new ReceiptLine(VIEWER, GALLERY, {
    box: () => this.state, reviewer: () => this.state.data?.reviewer ?? "",
    send: () => this.resend(), drop: () => this.drop(),
  });
  private place = make("div", { class: "panels" });
  private readout = make("output", {}, READOUT);
  private comment = make("input", {
    type: "text", maxlength: "4000", "aria-label": "Comment, kept with the verdict",
    placeholder: "Comment, kept with the verdict",
  });
  private region = make("span", { class: "region" });
  private windows = choice("Window", (window) => this.choose({ window }));
  private palettes = choice("Colours", (palette) => this.choose({ palette }));
  private channels = new ChannelBar((changes) => this.choose(changes));
  private thirds = choice("Third panel", (third) => this.choose({ third }));
  private only = choice("Picture", () => this.showOnly(this.only.selectedIndex));
  private onlyLabel = labelled("Picture", this.only);
  private opacity = make("input", {
    type: "range", min: "0", max: "100", step: "5", "aria-label": "Heatmap's opacity, %",
  });
  private switches: Record<"overlay" | "contours" | "truth", HTMLInputElement>;
  private tools: Tools;
  private toolButtons = new Map<Tool, HTMLButtonElement>();
  private brush = make("input", {
    type: "range", min: String(BRUSH[0]), max: String(BRUSH[1]), "aria-label": "Brush's size",
  });
  private mapControls = make("span", { class: "controls" });
  readonly root = make("section", { id: "viewer", "aria-label": "Case", "data-painted": "false" });
  private panels: Panels | null = null;
  private bar = new SliceBar({
    goTo: (index) => this.panels?.goTo(index), step: (slices) => this.panels?.move(slices),
    view: (view) => this.choose({ view }),
  });

  constructor() {
    this.switches = {
      overlay: this.makeSwitch("overlay"), contours: this.makeSwitch("contours"),
      truth: this.makeSwitch("truth"),
    };
    this.tools = this.makeTools();
    for (const [tool, [name, key]] of Object.entries(TOOLS) as [Tool, [string, string]][])
      this.toolButtons.set(tool, button(`${name} · ${key}`, () => this.take(tool)));
    this.brush.addEventListener("input", () => this.resize(Number(this.brush.value)));
    this.opacity.addEventListener("input", () =>
      this.choose({ opacity: Number(this.opacity.value) / 100 }));
    this.comment.addEventListener("input", () =>
      this.comments.set(this.state.open, this.comment.value));
    this.comment.addEventListener("keydown", (event) => { // the next key is the case's, at once
      if (!event.isComposing && event.key === "Enter") this.comment.blur();
    });
    this.layOut();
    this.listenToWheel();
    this.place.addEventListener("pointermove", (event) => { this.pointer = event; });
    this.place.addEventListener("pointerleave", () => { this.pointer = null; });
    window.addEventListener("keydown", (event) => this.press(event), true);
    window.addEventListener("pointerdown", () => { this.isTabbed = false; }, true);
    this.remember();
  }

  /** Take in what Python sent, and show the case it asks for. */
  receive(data: Data, send: (message: Message) => void): void {
    const before = this.state;
    this.send = send;
    this.state = received(before, data);
    const isAnew = before.data?.session !== data.session;
    if (!this.isRestored && data.reviewer) {
      this.isRestored = true;
      const kept = keptOutbox<Verdict>(VIEWER, data.reviewer);
      this.state = { ...this.state, outbox: [...kept, ...this.state.outbox] };
    }
    if (!this.panels) {
      const palettes: Record<string, Uint8Array> = {};
      for (const [name, text] of Object.entries(data.palettes))
        palettes[name] = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
      this.panels = new Panels(this.place, this.appearance, palettes, data.address);
      this.panels.onSlice = () => this.slide();
      this.panels.onProblem = (text) => this.say(text);
    }
    if (before.open !== this.state.open || this.painted !== this.state.open) this.open();
    else this.prefetch();
    this.drawCase();
    this.receipts.draw();
    // Streamlit has just written the address, perhaps with an older voxel.
    keepVoxel(this.panels.volume?.index ?? null);
    // An app that was started anew, or a page, has not received what is in the outbox.
    if (isAnew && (before.data !== null || this.state.outbox.length)) this.receipts.retry();
  }

  // -- The case ------------------------------------------------------------------------------------

  private open(): void {
    const open = card(this.state), panels = this.panels!;
    const number = ++this.showing;
    this.unpaint();
    this.drawCase();
    if (!open) return;
    const ready = panels.has(open.ticket);
    if (ready) {
      ready.card = open;
      this.show(ready, number);
    } else {
      panels.hide();
      this.follow(open.ticket);
      panels.prepare(open).then(
        (prepared) => { if (number === this.showing) this.show(prepared, number); },
        (error: Error) => { if (number === this.showing) this.say(`No image: ${error.message}`); },
      );
    }
  }

  /** Show how far the app is with reading the case, as long as that is what is said. */
  private async follow(ticket: string): Promise<void> {
    const bar = make("progress", { "aria-label": "Reading the image", max: "1" });
    const step = make("span", { class: "step" });
    this.say("Reading the image … ", step, bar);
    while (bar.isConnected) {
      await new Promise((done) => setTimeout(done, EVERY));
      const answer = await fetch(`${this.state.data!.address}progress/${ticket}`).catch(() => null);
      const found = answer?.ok ? await answer.json() as Progress | null : null;
      if (!found) continue;
      bar.value = Math.max(found.share, bar.value);
      step.textContent = found.text;
    }
  }

  private show(prepared: Prepared, number: number): void {
    if (prepared.layers.size === 0) {
      this.panels!.hide();
      this.bar.hide();
      this.say(prepared.text.notes.join(" ") || "There is no image to show.");
      this.prefetch();
      return;
    }
    this.say([prepared.text.found, ...prepared.text.notes].filter(Boolean).join(" · "));
    this.panels!.region = this.regionOf(prepared.card);
    this.tools.stop();
    this.panels!.show(prepared);
    this.drawControls(prepared);
    this.drawSlice();
    this.awaitPaint(number);
    const volume = this.panels!.volume, asked = this.asked;
    this.asked = null; // it is of the first case alone
    if (volume && asked) this.panels!.goTo(within(asked, volume.grid.shape));
  }

  /** Another slice of the same volume is on its way. */
  private slide(): void {
    this.tools.stop();
    this.painted = "";
    this.root.dataset.painted = "false";
    this.drawSlice();
    this.awaitPaint(++this.showing);
  }

  /** Say that the case is painted once all its tiles are drawn and a frame has passed since. */
  private awaitPaint(number: number): void {
    requestAnimationFrame(() => {
      if (number !== this.showing) return;
      if (!this.panels!.isLoaded()) {
        this.awaitPaint(number);
        return;
      }
      this.panels!.redraw();
      requestAnimationFrame(() => {
        if (number !== this.showing) return;
        if (this.timed !== this.state.open) this.clock.start();
        this.timed = this.state.open;
        this.painted = this.state.open;
        this.panels!.see();
        this.root.dataset.painted = "true";
        this.read();
        this.prefetch();
      });
    });
  }

  /** Say the values under a pointer that stays where it is. */
  private read(): void {
    const at = this.pointer && this.panels!.at(this.pointer);
    if (at) this.readout.textContent = this.panels!.read(at) || " ";
  }

  private unpaint(): void {
    this.readout.textContent = READOUT; // no other image's values
    this.painted = this.timed = "";
    this.root.dataset.painted = "false";
    this.root.dataset.case = card(this.state)?.label ?? "";
    this.root.dataset.slice = "";
  }

  private prefetch(): void {
    const isLarge = this.panels!.volume !== null; // volumes take long to read
    const wanted = ahead(this.state).slice(0, isLarge ? VOLUMES : undefined);
    this.panels!.keep(new Set([this.state.open, ...wanted]));
    for (const ticket of wanted) {
      const next = this.state.cards.get(ticket);
      if (next) this.panels!.prepare(next).catch(() => {}); // said when it is opened
    }
  }

  // -- What the reviewer does ----------------------------------------------------------------------

  private press(event: KeyboardEvent): void {
    if (!this.root.isConnected || !this.state.data) return;
    if (event.key === "Tab") this.isTabbed = true;
    if (isOthers(event.key, event.composedPath()[0], this.isTabbed)) return;
    const isBack = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
    if (isBack ? this.takeBack() : this.tools.key(event.key)) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    const what = action(event, this.state.data.keys);
    if (!what) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    this.act(what);
  }

  private act(what: string): void {
    const { opacity, overlay } = this.appearance;
    if (what.startsWith("verdict:")) this.judge(what.slice("verdict:".length));
    else if (what === "next") this.step(moved(this.state, 1));
    else if (what === "previous") this.step(moved(this.state, -1));
    else if (what === "unjudged") this.step(skipped(this.state));
    else if (what === "undo") this.step(undone(this.state, newId()));
    else if (what === "overlay") this.choose({ overlay: !overlay });
    else if (what === "more") this.choose({ opacity: Math.min(opacity + 0.1, 1) });
    else if (what === "less") this.choose({ opacity: Math.max(opacity - 0.1, 0) });
    else if (what === "home") this.panels!.home();
    else if (what === "discard") this.keepRegion("");
    else if (what === "larger") this.resize(this.tools.brush * 1.25 + 1);
    else if (what === "smaller") this.resize(this.tools.brush / 1.25 - 1);
    else if (what === "up") this.panels!.move(-1);
    else if (what === "down") this.panels!.move(1);
    else if (what === "view") this.nextView();
    else if (what === "help") this.say(this.help());
    else this.take(what as Tool);
  }

  private judge(verdict: string): void {
    const ticket = this.state.open;
    const isPainted = this.painted !== "" && this.painted === ticket;
    const open = card(this.state);
    const comment = this.commentOf(open), region = this.regionOf(open);
    const places = this.panels!.seen(ticket), seconds = this.clock.seconds();
    const mine = { id: newId(), verdict, comment, region, places, seconds };
    const step = judged(this.state, mine, isPainted);
    if (!step.refused) {
      this.comments.delete(ticket);
      this.regions.delete(ticket);
      this.before = this.before.filter(([each]) => each !== ticket);
    }
    this.step(step);
  }

  private step({ state, refused }: Step): void {
    this.refused.textContent = refused;
    if (refused) {
      this.beep();
      return;
    }
    const before = this.state;
    this.state = state;
    if (state.outbox.length > before.outbox.length) this.receipts.sent();
    if (state.open !== before.open) this.open();
    else if (state.waiting) this.unpaint();
    // The picture comes first: the message makes Streamlit draw the whole page.
    requestAnimationFrame(() => requestAnimationFrame(() => this.send(message(this.state))));
  }

  private resend(): void {
    this.state = retried(this.state);
    this.send(message(this.state));
  }

  private drop(): void {
    this.state = { ...this.state, ...dropped(this.state) };
    this.receipts.draw();
  }

  private choose(changes: Partial<Appearance>): void {
    this.appearance = { ...this.appearance, ...changes };
    this.panels?.change(this.appearance);
    const shown = this.panels?.has(this.state.open);
    if (shown) this.drawControls(shown);
    this.keepChoices();
  }

  /** Where there is room for one picture, show this one. */
  private showOnly(number: number): void {
    this.place.dataset.only = String(number);
    if (this.painted) this.awaitPaint(++this.showing); // its slice was not seen before
  }

  private nextView(): void {
    const views = this.panels!.volume?.views ?? [];
    const place = views.indexOf(this.panels!.planes.length > 1 ? views.at(-1)!
      : this.panels!.plane?.name ?? "");
    if (views.length > 1) this.choose({ view: views[(place + 1) % views.length]! });
  }

  private take(tool: Tool): void {
    this.tools.take(tool);
    this.root.dataset.tool = tool;
    for (const [name, each] of this.toolButtons)
      each.setAttribute("aria-pressed", String(name === tool));
    this.brush.hidden = tool !== "brush" && tool !== "eraser";
    this.keepChoices();
  }

  private resize(brush: number): void {
    this.tools.brush = Math.round(Math.min(Math.max(brush, BRUSH[0]), BRUSH[1]));
    this.brush.value = String(this.tools.brush);
    this.keepChoices();
  }

  private keepChoices(): void {
    keep({ ...this.appearance, tool: this.tools.tool, brush: this.tools.brush });
  }

  /** Go on with tool and looks as they were chosen last, in this browser. */
  private remember(): void {
    const { tool, brush, ...looks } = kept({ ...this.appearance, tool: "pan", brush: 24 });
    this.appearance = looks;
    this.resize(brush);
    this.take(tool in TOOLS ? tool as Tool : "pan");
  }

  private keepRegion(region: string): void {
    this.before.push([this.state.open, this.regionOf(card(this.state))]);
    this.setRegion(region);
  }

  /** Undo the last change of this case's regions; false where there is none. */
  private takeBack(): boolean {
    const last = this.before.map(([ticket]) => ticket).lastIndexOf(this.state.open);
    if (last < 0) return false;
    this.setRegion(this.before.splice(last, 1)[0]![1]);
    return true;
  }

  private setRegion(region: string): void {
    this.regions.set(this.state.open, region);
    this.panels!.region = region;
    this.panels!.redraw();
    this.drawRegion();
  }

  /** What is written or marked here, or else what the reviewer's own verdict says. */
  private commentOf(open: Card | undefined): string {
    return open ? this.comments.get(open.ticket) ?? open.comment : "";
  }

  private regionOf(open: Card | undefined): string {
    return open ? this.regions.get(open.ticket) ?? open.region : "";
  }

  // -- The pointer ---------------------------------------------------------------------------------

  private makeTools(): Tools {
    return new Tools(this.place, {
      at: (event) => this.panels?.at(event) ?? null,
      size: () => this.panels?.size ?? null,
      scale: () => this.panels?.scale() ?? 1,
      zoom: (by, from, to) => this.panels?.pinch(by, from, to),
      regions: () => this.panels?.regionsHere() ?? "",
      keep: (regions) => this.keepRegion(this.panels!.withRegionsHere(regions)),
      sketch: (sketch) => this.panels?.drawSketch(sketch),
      window: (right, down) => this.dragWindow(right, down),
      read: (at) => { this.readout.textContent = this.panels!.read(at) || " "; },
    });
  }

  /** In volumes the wheel goes through slices; with Ctrl it zooms, as it does in images. */
  private listenToWheel(): void {
    let rest = 0;
    this.place.addEventListener("wheel", (event) => {
      if (!this.panels?.volume || event.ctrlKey || event.metaKey) return;
      event.stopPropagation();
      event.preventDefault();
      const turned = wheelSteps(rest, event.deltaY, event.deltaMode);
      rest = turned.rest;
      if (turned.steps) this.panels.move(turned.steps);
    }, { capture: true, passive: false });
  }

  private dragWindow(right: number, down: number): void {
    const prepared = this.panels!.has(this.state.open);
    const full = this.panels!.windows(prepared)["full range"];
    if (!full) return;
    this.choose({ window: "by hand", byHand: dragged(this.panels!.window(), full, right, down) });
  }

  // -- Drawing -------------------------------------------------------------------------------------

  private layOut(): void {
    this.onlyLabel.className = "narrow";
    this.showOnly(1);
    const moves = make("span", {},
      button("Previous · P", () => this.act("previous")), button("Next · N", () => this.act("next")));
    const undo = button("Undo · Z", () => this.act("undo"));
    const keys = button("Keys · ?", () => this.act("help"));
    this.mapControls.append(
      labelled("Colours", this.palettes), labelled("Third panel", this.thirds),
      this.switchLabel("overlay", "Overlay · O"), labelled("Opacity", this.opacity),
      this.switchLabel("contours", "Contours"), this.switchLabel("truth", "Truth"));
    const tools = make("span", { class: "tools" }, ...this.toolButtons.values(), this.brush,
      button("Discard regions", () => this.act("discard")), this.region);
    this.root.append(
      make("style", {}, style),
      make("div", { class: "head" }, this.title, this.facts),
      make("div", { class: "row" }, moves, this.verdicts, undo, this.receipts.root),
      this.refused, this.problem, this.place, this.bar.root, this.readout,
      make("div", { class: "row" }, this.onlyLabel, this.channels.root,
        labelled("Window", this.windows),
        this.mapControls),
      make("div", { class: "row" }, tools, this.comment, keys));
  }

  private drawCase(): void {
    const open = card(this.state);
    this.title.textContent = open?.title ?? "";
    this.facts.replaceChildren(...[...(open?.facts ?? []), ...(open?.warnings ?? [])].map(
      (line) => make("div", {}, line)));
    if (document.activeElement !== this.comment)
      this.comment.value = this.commentOf(open);
    this.drawVerdicts(open);
    this.drawRegion();
  }

  private drawVerdicts(open: Card | undefined): void {
    const keys = Object.entries(this.state.data?.keys ?? {});
    const shape = keys.flat().join();
    if (this.verdicts.dataset.keys !== shape) {
      this.verdicts.dataset.keys = shape;
      this.verdicts.replaceChildren(...keys.map(([key, verdict]) => {
        const name = verdict[0]!.toUpperCase() + verdict.slice(1);
        return button(`${SIGNS[verdict] ?? ""} ${name} · ${key.toUpperCase()}`,
          () => this.judge(verdict), { "data-verdict": verdict });
      }));
    }
    for (const each of this.verdicts.querySelectorAll("button")) {
      each.disabled = !this.state.data?.reviewer;
      each.setAttribute("aria-pressed", String(each.dataset.verdict === open?.verdict));
    }
  }

  private drawControls(prepared: Prepared): void {
    const { palette, third, opacity } = this.appearance;
    const hasMap = prepared.layers.has("heatmap");
    const names = Object.keys(this.panels!.windows(prepared));
    this.channels.show(prepared.text.channels, this.appearance);
    setOptions(this.windows, [...names, "by hand"], this.panels!.windowName(prepared));
    setOptions(this.palettes, Object.keys(this.state.data?.palettes ?? {}), palette);
    const thirds = [...prepared.layers.keys()].filter((name) => name !== "image");
    setOptions(this.thirds, thirds, thirds.includes(third) ? third : "heatmap");
    const titles = this.panels!.titles();
    setOptions(this.only, titles, titles[Number(this.place.dataset.only)] ?? titles[0] ?? "");
    this.onlyLabel.hidden = titles.length < 2;
    this.thirds.parentElement!.hidden = this.panels!.planes.length > 1;
    this.opacity.value = String(Math.round(opacity * 100));
    for (const name of ["overlay", "contours", "truth"] as const)
      this.switches[name].checked = this.appearance[name];
    this.mapControls.hidden = !hasMap;
    this.switches.truth.parentElement!.hidden = !prepared.text.outlines.includes("truth");
  }

  /** Say which slice is on the screen, and which have regions. */
  private drawSlice(): void {
    const { volume, plane } = this.panels!;
    keepVoxel(volume ? volume.index : null);
    if (!volume || !plane) {
      this.bar.hide();
      this.root.dataset.slice = this.root.dataset.plane = "";
      return;
    }
    const isThree = this.panels!.planes.length > 1;
    const { region, others } = this.panels!;
    this.bar.show(volume, isThree ? volume.scored : plane, isThree ? THREE : plane.name,
      { own: region, others });
    this.root.dataset.slice = String(sourceNumber(plane, volume.index));
    this.root.dataset.plane = plane.name;
  }

  private drawRegion(): void {
    const region = this.regionOf(card(this.state));
    const count = region.split(";").filter((each) => each.trim()).length;
    let what = count > 1 ? `${count} regions` : `region ${region}`;
    if (what.length > LONGEST) what = "1 region";
    this.region.textContent = region ? `${what}, kept with the verdict` : "";
    this.region.title = region;
    if (!this.panels) return;
    this.panels.others = card(this.state)?.others ?? "";
    // Not while the volume of the case before is still on the screen.
    if (this.panels.volume && this.panels.has(this.state.open)?.volume === this.panels.volume)
      this.drawSlice();
  }

  private help(): string {
    const verdicts = Object.entries(this.state.data?.keys ?? {}).map(
      ([key, verdict]) => `${key.toUpperCase()} ${verdict}`);
    return `${verdicts.join(" · ")} · ${HELP}`;
  }

  private say(text: string, ...more: Node[]): void {
    this.problem.replaceChildren(text, ...more);
  }

  private beep(): void {
    try {
      this.sound ??= new AudioContext();
      const tone = this.sound.createOscillator();
      tone.frequency.value = 220;
      tone.connect(this.sound.destination);
      tone.start();
      tone.stop(this.sound.currentTime + 0.12);
    } catch { /* no sound: the words stand */ }
  }

  private makeSwitch(name: "overlay" | "contours" | "truth"): HTMLInputElement {
    const element = make("input", { type: "checkbox" });
    element.addEventListener("change", () => this.choose({ [name]: element.checked }));
    return element;
  }

  private switchLabel(name: "overlay" | "contours" | "truth", text: string): HTMLElement {
    return make("label", {}, this.switches[name], text);
  }
}

let viewer: Viewer | null = null;

export default function mount({ data, parentElement, setStateValue }: Component): void {
  viewer ??= new Viewer();
  if (viewer.root.parentElement !== parentElement) parentElement.append(viewer.root);
  const address = new URL(data.address, document.baseURI).href;
  viewer.receive({ ...data, address }, (sent) => setStateValue("sent", sent));
}
