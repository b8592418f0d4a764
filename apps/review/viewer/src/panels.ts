// Three panels in sync, each an OpenSeadragon: the image, the map over it, and a third one. Cases
// are prepared unseen; to show one is to make it opaque.

import OpenSeadragon from "openseadragon";
import { coloured, grey, type Painter } from "./pixels";
import { corners, type Point } from "./regions";
import { NOTHING, type Sketch } from "./tools";
import { PaintedSource, layersOf, type Layer } from "./tiles";
import type { Card, CaseText, Range } from "./types";

export interface Appearance {
  window: string; // a name in CaseText.windows, or "by hand"
  byHand: Range;
  palette: string;
  opacity: number; // 0 to 1
  overlay: boolean;
  third: string;
  contours: boolean;
  truth: boolean;
}

/** A case as far as it has been fetched. `images` are its pictures in the three panels. */
export interface Prepared {
  card: Card;
  text: CaseText;
  layers: Map<string, Layer>;
  images: Placed[];
  outlines: Map<string, number[][]>;
}

interface Placed {
  panel: number;
  role: "image" | "over" | "third";
  source: PaintedSource;
  item: OpenSeadragon.TiledImage | null;
}

interface Panel {
  box: HTMLElement;
  title: HTMLElement;
  viewer: OpenSeadragon.Viewer;
  drawing: HTMLCanvasElement;
}

const COLOURS: Record<string, string> = { contours: "#00e5ff", truth: "#7CFC00", region: "#ffd400" };
const NAMES = ["image", "heatmap over it", "heatmap"];

export class Panels {
  private panels: Panel[] = [];
  private cases = new Map<string, Prepared>();
  private coming = new Map<string, Promise<Prepared>>();
  private shown: Prepared | null = null;
  private homing = false; // once the panels have their sizes, they show the whole image
  private leading = 0; // the panel that was touched last
  region = ""; // those of the case on the screen
  private sketch = NOTHING; // what is being drawn

  constructor(
    private readonly place: HTMLElement,
    public appearance: Appearance,
    private palettes: Record<string, Uint8Array>,
    private address: string,
  ) {
    for (const name of NAMES) this.panels.push(this.panel(name, this.panels.length));
  }

  // -- Cases ---------------------------------------------------------------------------------------

  /** Fetch a case's description and, unseen, its tiles. */
  prepare(card: Card): Promise<Prepared> {
    const known = this.cases.get(card.ticket);
    if (known) return Promise.resolve({ ...known, card });
    let coming = this.coming.get(card.ticket);
    if (!coming) {
      coming = this.fetch(card).finally(() => this.coming.delete(card.ticket));
      this.coming.set(card.ticket, coming);
    }
    return coming;
  }

  has(ticket: string): Prepared | undefined {
    return this.cases.get(ticket);
  }

  /** Forget all cases but these, and free their tiles. */
  keep(tickets: Set<string>): void {
    for (const [ticket, each] of this.cases) {
      if (tickets.has(ticket) || each === this.shown) continue;
      this.cases.delete(ticket);
      for (const { panel, item } of each.images)
        if (item) this.panels[panel]!.viewer.world.removeItem(item);
    }
  }

  private async fetch(card: Card): Promise<Prepared> {
    const response = await fetch(`${this.address}case/${card.ticket}`);
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.problem ?? "the app does not answer");
    const text = answer as CaseText;
    const layers = layersOf(this.address, card.ticket, text);
    const prepared: Prepared = { card, text, layers, images: [], outlines: new Map() };
    if (layers.size === 0) return prepared; // files can be put back: ask again next time
    for (const [panel, role, layer] of this.roles(prepared)) {
      const source = new PaintedSource(layer, this.painter(prepared, role, layer),
        [text.width, text.height]);
      prepared.images.push({ panel, role, source, item: null });
    }
    await Promise.all(prepared.images.map((each) => this.add(each)));
    this.cases.set(card.ticket, prepared);
    if (this.appearance.contours || this.appearance.truth) this.fetchOutlines(prepared);
    return prepared;
  }

  private roles({ layers }: Prepared): [number, Placed["role"], Layer][] {
    const image = layers.get("image")!, heatmap = layers.get("heatmap");
    const roles: [number, Placed["role"], Layer][] = [[0, "image", image]];
    if (!heatmap) return roles;
    const third = layers.get(this.appearance.third) ?? heatmap;
    return [...roles, [1, "image", image], [1, "over", heatmap], [2, "third", third]];
  }

  private add(placed: Placed): Promise<void> {
    const { viewer } = this.panels[placed.panel]!;
    return new Promise((resolve, reject) => {
      viewer.addTiledImage({
        tileSource: placed.source, width: 1, opacity: 0, preload: true,
        success: (event: unknown) => {
          placed.item = (event as { item: OpenSeadragon.TiledImage }).item;
          resolve();
        },
        error: () => reject(new Error("the picture cannot be drawn")),
      } as unknown as OpenSeadragon.TileSourceSpecifier);
    });
  }

  // -- The case on the screen ----------------------------------------------------------------------

  /** Show a prepared case; zoom and place stay where the image has the size of the one before. */
  show(next: Prepared): void {
    const before = this.shown;
    const isAlike = before?.text.width === next.text.width
      && before.text.height === next.text.height;
    this.shown = next;
    const panels = new Set(next.images.map((each) => each.panel));
    this.panels.forEach(({ box }, n) => { box.hidden = !panels.has(n); });
    this.place.dataset.panels = String(panels.size);
    this.panels[2]!.title.textContent = next.layers.has(this.appearance.third)
      ? this.appearance.third : "heatmap";
    for (const each of before && before !== next ? before.images : []) each.item?.setOpacity(0);
    this.repaint(next);
    for (const each of next.images) each.item?.setOpacity(this.opacity(each.role));
    this.homing ||= !isAlike || before.images.length !== next.images.length;
    this.redraw();
  }

  /** Show no image. */
  hide(): void {
    for (const each of this.shown?.images ?? []) each.item?.setOpacity(0);
    this.shown = null;
    for (const { box } of this.panels) box.hidden = true;
  }

  /** Whether every tile of the case on the screen is here for what is in view. */
  isLoaded(): boolean {
    const images = this.shown?.images ?? [];
    if (this.homing) {
      if (this.isSized()) {
        this.home();
        this.homing = false;
      }
      return false;
    }
    return images.length > 0 && images.every(({ item }) => item !== null && item.getFullyLoaded());
  }

  /** Whether OpenSeadragon has noticed the sizes of all panels on the screen. */
  private isSized(): boolean {
    return this.panels.every(({ box, viewer }) => {
      if (box.hidden || !viewer.viewport) return true;
      const known = viewer.viewport.getContainerSize();
      return Math.abs(known.x - box.clientWidth) < 2 && Math.abs(known.y - box.clientHeight) < 2;
    });
  }

  /** Apply what the reader has chosen. */
  change(appearance: Appearance): void {
    const third = this.appearance.third;
    this.appearance = appearance;
    if (third !== appearance.third) this.replaceThird();
    for (const each of this.cases.values()) this.repaint(each);
    for (const each of this.shown?.images ?? []) each.item?.setOpacity(this.opacity(each.role));
    if (this.shown && (appearance.contours || appearance.truth)) this.fetchOutlines(this.shown);
    this.redraw();
  }

  home(): void {
    for (const { viewer } of this.panels) if (viewer.viewport) viewer.viewport.goHome(true);
  }

  window(prepared = this.shown): Range {
    const { window, byHand } = this.appearance;
    if (window === "by hand" || !prepared) return byHand;
    return prepared.text.windows[window] ?? prepared.text.windows["auto"] ?? byHand;
  }

  private replaceThird(): void {
    const shown = this.shown;
    for (const each of this.cases.values()) {
      const old = each.images.find(({ role }) => role === "third");
      const layer = each.layers.get(this.appearance.third) ?? each.layers.get("heatmap");
      if (!old || !layer) continue;
      if (old.item) this.panels[2]!.viewer.world.removeItem(old.item);
      old.item = null;
      old.source = new PaintedSource(layer, this.painter(each, "third", layer),
        [each.text.width, each.text.height]);
      this.add(old).then(() => { if (each === shown) old.item?.setOpacity(1); });
    }
    this.panels[2]!.title.textContent = this.appearance.third;
  }

  private repaint(prepared: Prepared): void {
    for (const { role, source } of prepared.images)
      source.repaint(this.painter(prepared, role, source.layer));
  }

  private painter(prepared: Prepared, role: Placed["role"], layer: Layer): Painter {
    if (layer.name === "heatmap") {
      const palette = this.palettes[this.appearance.palette] ?? Object.values(this.palettes)[0]!;
      return coloured(prepared.text.scale, palette, role === "over");
    }
    if (layer.name === "image") return grey(this.window(prepared));
    return grey([0, 255]);
  }

  private opacity(role: Placed["role"]): number {
    const { opacity, overlay } = this.appearance;
    if (role !== "over") return 1;
    return overlay ? opacity : 0;
  }

  redraw(): void {
    for (const { viewer } of this.panels) viewer.forceRedraw();
    this.panels.forEach((_, n) => this.draw(n));
  }

  // -- Lines over the picture ----------------------------------------------------------------------

  private fetchOutlines(prepared: Prepared): void {
    for (const name of prepared.text.outlines) {
      if (prepared.outlines.has(name)) continue;
      prepared.outlines.set(name, []);
      fetch(`${this.address}outline/${prepared.card.ticket}/${name}`)
        .then((response) => response.json())
        .then((lines: number[][]) => {
          prepared.outlines.set(name, lines);
          this.redraw();
        })
        .catch(() => prepared.outlines.delete(name));
    }
  }

  private draw(number: number): void {
    const { drawing, box } = this.panels[number]!;
    const [width, height] = [box.clientWidth, box.clientHeight];
    if (drawing.width !== width || drawing.height !== height) {
      drawing.width = width;
      drawing.height = height;
    }
    const context = drawing.getContext("2d")!;
    context.clearRect(0, 0, width, height);
    const item = this.shown?.images.find((each) => each.panel === number)?.item;
    if (!this.shown || !item) return;

    for (const name of ["truth", "contours"] as const) {
      if (!this.appearance[name]) continue;
      for (const line of this.shown.outlines.get(name) ?? []) {
        const points: Point[] = [];
        for (let n = 0; n < line.length; n += 2) points.push([line[n]!, line[n + 1]!]);
        this.line(context, item, points, COLOURS[name]!);
      }
    }
    for (const line of corners(this.region)) this.line(context, item, line, COLOURS.region!);
    this.stroke(context, item);
  }

  /** Draw what the reviewer is drawing: of a brush all that it has covered, and its ring. */
  private stroke(context: CanvasRenderingContext2D, item: OpenSeadragon.TiledImage): void {
    const { points, radius, erases } = this.sketch;
    const colour = erases ? "#ffffff" : COLOURS.region!;
    const last = points.at(-1);
    if (!radius || !last) {
      this.line(context, item, points, colour);
      return;
    }
    const wide = Math.max(2 * radius * this.scale(), 1);
    context.save();
    context.globalAlpha = 0.4;
    [context.lineCap, context.lineJoin] = ["round", "round"];
    if (points.length > 1) this.line(context, item, points.slice(0, -1), colour, wide);
    context.restore();
    const at = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(...last));
    context.beginPath();
    context.arc(at.x, at.y, wide / 2, 0, 2 * Math.PI);
    context.strokeStyle = colour;
    context.stroke();
  }

  private line(
    context: CanvasRenderingContext2D, item: OpenSeadragon.TiledImage, points: Point[],
    colour: string, wide = 1.5,
  ): void {
    if (points.length < 2) return;
    context.beginPath();
    for (const [x, y] of points) {
      const at = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y));
      context.lineTo(at.x, at.y);
    }
    context.lineWidth = wide;
    context.strokeStyle = colour;
    context.stroke();
  }

  /** The names of the pictures on the screen. */
  titles(): string[] {
    return this.panels.filter(({ box }) => !box.hidden).map(({ title }) => title.textContent ?? "");
  }

  // -- The pointer ---------------------------------------------------------------------------------

  drawSketch(sketch: Sketch): void {
    if (sketch === this.sketch || sketch.points.length + this.sketch.points.length === 0) return;
    this.sketch = sketch;
    this.panels.forEach((_, n) => this.draw(n));
  }

  /** Pixels of the screen for one of the image. */
  scale(): number {
    const item = this.shown?.images.find(({ panel }) => panel === this.leading)?.item
      ?? this.shown?.images[0]?.item;
    if (!item) return 1;
    const [zero, one] = [0, 1].map((x) =>
      item.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, 0)));
    return one!.x - zero!.x;
  }

  /** Zoom about a place under the fingers, and move it along with them. */
  pinch(by: number, from: MouseEvent, to: MouseEvent): void {
    for (const [n, { box, viewer }] of this.panels.entries()) {
      if (box.hidden || !box.contains(from.target as Node)) continue;
      this.leading = n;
      const bounds = box.getBoundingClientRect();
      const place = (event: MouseEvent) => viewer.viewport.pointFromPixel(
        new OpenSeadragon.Point(event.clientX - bounds.left, event.clientY - bounds.top), true);
      const before = place(from);
      viewer.viewport.zoomBy(by, before, true);
      viewer.viewport.panBy(before.minus(place(to)), true);
    }
  }

  /** The place in the image under a pointer, in pixels, and null outside the panels. */
  at(event: MouseEvent): Point | null {
    for (const [n, { box }] of this.panels.entries()) {
      const item = this.shown?.images.find((each) => each.panel === n)?.item;
      if (box.hidden || !item || !box.contains(event.target as Node)) continue;
      const bounds = box.getBoundingClientRect();
      const point = new OpenSeadragon.Point(event.clientX - bounds.left, event.clientY - bounds.top);
      const { x, y } = item.viewerElementToImageCoordinates(point);
      return [x, y];
    }
    return null;
  }

  /** The values under a place, as text; "" outside the image. */
  read([x, y]: Point): string {
    const shown = this.shown;
    const [column, row] = [Math.floor(x), Math.floor(y)];
    if (!shown || column < 0 || row < 0) return "";
    if (column >= shown.text.width || row >= shown.text.height) return "";
    const parts = [`x ${column}, y ${row}`];
    let largest = 1;
    for (const [name, label] of [["image", "intensity"], ["heatmap", "anomaly"]] as const) {
      const found = shown.layers.get(name)?.value(column, row);
      if (!found) continue;
      parts.push(`${label} ${numberText(found.value)}`);
      largest = Math.max(largest, found.block);
    }
    const about = largest > 1 ? ` (of ${largest} × ${largest} pixels; zoom in for each)` : "";
    return parts.join(" · ") + about;
  }

  // -- Making a panel ------------------------------------------------------------------------------

  private panel(name: string, number: number): Panel {
    const box = document.createElement("div");
    box.className = "panel";
    box.dataset.number = String(number);
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", name);
    const title = document.createElement("div");
    title.className = "title";
    title.textContent = name;
    this.place.append(box);
    const viewer = new OpenSeadragon.Viewer({
      element: box, drawer: "canvas", showNavigationControl: false, blendTime: 0,
      animationTime: 0.15, maxZoomPixelRatio: 32, minZoomImageRatio: 0.5, visibilityRatio: 0.3,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false },
      gestureSettingsTouch: { dblClickToZoom: false }, imageSmoothingEnabled: false,
    });
    const drawing = document.createElement("canvas");
    drawing.className = "drawing";
    box.append(drawing, title);
    for (const event of ["pointerover", "pointerdown", "wheel"])
      box.addEventListener(event, () => { this.leading = number; }, { capture: true, passive: true });
    viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; });
    viewer.addHandler("canvas-double-click", () => this.home());
    viewer.addHandler("update-viewport", () => this.draw(number));
    viewer.addHandler("viewport-change", () => this.follow(number));
    viewer.addHandler("tile-unloaded", (event) => {
      const url = event.tile.getUrl();
      for (const each of this.cases.values())
        for (const { panel, source } of each.images) if (panel === number) source.forget(url);
    });
    return { box, title, viewer, drawing };
  }

  /** Have the other panels show what one of them was moved to. */
  private follow(number: number): void {
    if (number !== this.leading) return;
    const { viewport } = this.panels[number]!.viewer;
    const [zoom, centre] = [viewport.getZoom(true), viewport.getCenter(true)];
    this.panels.forEach(({ viewer }, n) => {
      if (n === number || !viewer.viewport) return;
      const own = viewer.viewport;
      if (Math.abs(own.getZoom(true) - zoom) > 1e-9 * zoom) own.zoomTo(zoom, undefined, true);
      if (own.getCenter(true).distanceTo(centre) > 1e-9) own.panTo(centre, true);
    });
  }
}

/** A number with four digits. */
export function numberText(value: number): string {
  return Number.isNaN(value) ? "not scored" : String(Number(value.toPrecision(4)));
}
