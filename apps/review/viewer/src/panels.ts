// Three panels in sync, each an OpenSeadragon: the image, the map over it, and a third one. Cases
// are prepared unseen; to show one is to make it opaque.

import OpenSeadragon from "openseadragon";
import { chosen, painterOf, windowsOf, type Choice } from "./channels";
import { coloured, grey, type Painter } from "./pixels";
import { corners, type Point } from "./regions";
import {
  inside, pointed, regionsIn, regionsOn, sides, sourceIndex, voxelText, withRegionsOn, type Index,
} from "./slices";
import { NOTHING, type Sketch } from "./tools";
import { PaintedSource, imageOptions, layersOf, type Layer } from "./tiles";
import type { Card, CaseText, PlaneText, Range } from "./types";
import { SliceSource, Volume, type SliceLayer, type Visit } from "./volume";

export interface Appearance extends Choice {
  window: string; // a name in CaseText.windows, or "by hand"
  byHand: Range;
  palette: string;
  opacity: number; // 0 to 1
  overlay: boolean;
  third: string;
  contours: boolean;
  truth: boolean;
  view: string; // a plane's name or THREE; "" for the plane that was scored
}

/** A case as far as it has been fetched. `images` are its pictures in the three panels; those of a
 * volume are made for one `view`. */
export interface Prepared {
  card: Card;
  text: CaseText;
  layers: Map<string, Layer>;
  volume: Volume | null;
  view: string;
  images: Placed[];
  outlines: Map<string, number[][]>;
}

type Role = "image" | "over" | "third";

interface Placed {
  panel: number;
  role: Role;
  plane: PlaneText | null; // of a slice
  stretch: [wide: number, high: number]; // of its pixels
  source: PaintedSource;
  item: OpenSeadragon.TiledImage | null;
}

interface Panel {
  box: HTMLElement;
  title: HTMLElement;
  viewer: OpenSeadragon.Viewer;
  drawing: HTMLCanvasElement;
}

const CROSS = "rgba(255, 220, 0, 0.75)";
export const COLOURS: Record<string, string> = { contours: "#00e5ff", truth: "#7CFC00", region: "#ffd400",
  others: "#e69fda" };
const PAINTERS = 100; // that are kept; a drag of the window makes many
const NAMES = ["image", "heatmap over it", "heatmap"];

export class Panels {
  private panels: Panel[] = [];
  private cases = new Map<string, Prepared>();
  private forgotten = new WeakSet<Prepared>();
  private coming = new Map<string, Promise<Prepared>>();
  private shown: Prepared | null = null;
  private painters = new Map<string, Painter>();
  // The last case, and what of its image was in view, null for all of it.
  private left: { before: Prepared | null; seen: OpenSeadragon.Rect | null } =
    { before: null, seen: null };
  private returning: OpenSeadragon.Rect | null = null; // the same for a part of the image
  private homing = false; // once the panels have their sizes, they show the whole image
  private leading = 0; // the panel that was touched last
  private visits = new Map<string, Visit>(); // to volumes, by ticket
  private frame = 0; // the request for a frame in which slices are painted
  onSlice: () => void = () => {}; // another slice is shown
  onProblem: (text: string) => void = () => {};
  region = ""; // those of the case on the screen
  others = ""; // those of other readers
  private sketch = NOTHING; // what is being drawn

  constructor(
    private readonly element: HTMLElement,
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
    if (known) {
      known.card = card;
      return Promise.resolve(known);
    }
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
      this.forgotten.add(each);
      for (const placed of each.images) this.remove(placed);
    }
  }

  private async fetch(card: Card): Promise<Prepared> {
    const response = await fetch(`${this.address}case/${card.ticket}`);
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.problem ?? "the app does not answer");
    const text = answer as CaseText;
    const volume = this.volumeOf(card.ticket, text);
    const layers = volume ? volume.layersIn(volume.scored)
      : layersOf(this.address, card.ticket, text);
    const outlines = new Map<string, number[][]>();
    const prepared: Prepared = { card, text, layers, volume, view: "", images: [], outlines };
    if (layers.size === 0) return prepared; // files can be put back: ask again next time
    this.place(prepared);
    await Promise.all(prepared.images.map((each) => this.add(prepared, each)));
    volume?.fetchAhead(volume.planes(prepared.view));
    this.cases.set(card.ticket, prepared);
    this.replaceThird(prepared); // another one was chosen meanwhile
    if (this.appearance.contours || this.appearance.truth) this.fetchOutlines(prepared);
    return prepared;
  }

  private volumeOf(ticket: string, text: CaseText): Volume | null {
    const grid = text.volume;
    if (!grid) return null;
    let visit = this.visits.get(ticket);
    if (!visit) {
      const plane = grid.planes[0]!;
      const middle = sides(grid, plane).map((side) => Math.floor(side / 2));
      const index = sourceIndex(grid, plane, [grid.start, middle[1]!, middle[2]!]);
      visit = { index, seen: new Set() };
      this.visits.set(ticket, visit);
    }
    return new Volume(this.address, ticket, text, grid, visit);
  }

  /** Say which pictures stand where. */
  private place(prepared: Prepared): void {
    const { volume } = prepared;
    prepared.view = this.appearance.view;
    prepared.images = [];
    const put = (panel: number, role: Role, layer: Layer, plane: PlaneText | null = null) => {
      const source = this.source(prepared, role, layer, plane);
      const stretch: [number, number] = plane ? volume!.stretch(plane) : [1, 1];
      prepared.images.push({ panel, role, plane, stretch, source, item: null });
    };
    const planes: (PlaneText | null)[] = volume ? volume.planes(prepared.view) : [null];
    planes.forEach((plane, panel) => {
      const layers: Map<string, Layer> = plane ? volume!.layersIn(plane) : prepared.layers;
      const image = layers.get("image")!, heatmap = layers.get("heatmap");
      put(panel, "image", image, plane);
      if (!heatmap) return;
      if (planes.length > 1) {
        put(panel, "over", heatmap, plane);
        return;
      }
      put(1, "image", image, plane);
      put(1, "over", heatmap, plane);
      put(2, "third", layers.get(this.appearance.third) ?? heatmap, plane);
    });
  }

  private source(
    prepared: Prepared, role: Role, layer: Layer, plane: PlaneText | null,
  ): PaintedSource {
    const painter = this.painter(prepared, role, layer);
    if (plane) return new SliceSource(layer as SliceLayer, painter, prepared.volume!.stretch(plane));
    const { width, height } = prepared.text;
    return new PaintedSource(layer, painter, imageOptions(layer, [width, height]));
  }

  /** Put a picture of a case into its panel, unseen, or to be seen if the case is on the screen. One
   * that another has taken the place of meanwhile is taken out again. */
  private add(prepared: Prepared, placed: Placed): Promise<void> {
    const { viewer } = this.panels[placed.panel]!;
    return new Promise((resolve, reject) => {
      viewer.addTiledImage({
        tileSource: placed.source, width: 1, opacity: 0, preload: true,
        success: (event: unknown) => {
          placed.item = (event as { item: OpenSeadragon.TiledImage }).item;
          const isLate = this.forgotten.has(prepared) || !prepared.images.includes(placed);
          if (isLate) this.remove(placed);
          else if (prepared === this.shown) placed.item.setOpacity(this.opacity(placed.role));
          resolve();
        },
        error: () => reject(new Error("the picture cannot be drawn")),
      } as unknown as OpenSeadragon.TileSourceSpecifier);
    });
  }

  private remove({ panel, item }: Placed): void {
    if (item) this.panels[panel]!.viewer.world.removeItem(item);
  }

  // -- The case on the screen ----------------------------------------------------------------------

  /** Show a prepared case; zoom and place stay where the image has the size of the one before, also
   * when its map appears beside it. */
  show(next: Prepared): void {
    if (this.shown) this.left = { before: this.shown, seen: this.part() };
    const { before, seen } = this.left, wasHidden = !this.shown;
    for (const each of this.shown && before !== next ? this.shown.images : [])
      each.item?.setOpacity(0);
    this.shown = next;
    if (next.volume && next.view !== this.appearance.view) this.placeAnew(next);
    const panels = new Set(next.images.map((each) => each.panel));
    this.panels.forEach(({ box }, n) => { box.hidden = !panels.has(n); });
    this.element.dataset.panels = String(panels.size);
    this.panels.forEach(({ title }, n) => { title.textContent = this.titleOf(next, n); });
    this.repaint(next);
    for (const each of next.images) each.item?.setOpacity(this.opacity(each.role));
    const isAlike = shapeOf(before) === shapeOf(next);
    if (wasHidden || !isAlike) {
      if (seen && (isAlike || isOneSize(before, next))) this.returning = seen;
      else this.homing = true;
    }
    if (next.volume) this.arrive();
    this.redraw();
  }

  private titleOf({ volume, view, layers }: Prepared, panel: number): string {
    const planes = volume?.planes(view) ?? [];
    if (planes.length > 1) return planes[panel]!.name;
    if (panel === 2 && layers.has(this.appearance.third)) return this.appearance.third;
    return NAMES[panel]!;
  }

  /** Make the pictures of a volume anew, for another view. */
  private placeAnew(prepared: Prepared): void {
    for (const each of prepared.images) this.remove(each);
    this.place(prepared);
    for (const each of prepared.images)
      this.add(prepared, each).catch((error: Error) => this.onProblem(error.message));
    this.homing = true;
  }

  /** Show no image. */
  hide(): void {
    for (const each of this.shown?.images ?? []) each.item?.setOpacity(0);
    if (this.shown) this.left = { before: this.shown, seen: this.part() };
    this.shown = null;
    for (const { box } of this.panels) box.hidden = true;
  }

  /** Whether every tile of the case on the screen is here for what is in view. */
  isLoaded(): boolean {
    const images = this.shown?.images ?? [];
    if (this.homing || this.returning) {
      if (this.isSized() && images.every(({ item }) => item !== null)) {
        if (this.homing) this.home();
        else for (const { viewer } of this.panels) viewer.viewport?.fitBounds(this.returning!, true);
        [this.homing, this.returning] = [false, null];
      }
      return false;
    }
    return images.length > 0 && images.every(({ item, source }) =>
      item !== null && item.getFullyLoaded() && source.isCurrent);
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
    const { third, view } = this.appearance;
    this.appearance = appearance;
    if (view !== appearance.view && this.shown?.volume) {
      this.show(this.shown);
      this.onSlice();
    }
    if (third !== appearance.third) {
      for (const each of this.cases.values()) this.replaceThird(each);
      if (this.shown) this.panels[2]!.title.textContent = this.titleOf(this.shown, 2);
    }
    for (const each of this.cases.values()) this.repaint(each);
    for (const each of this.shown?.images ?? []) each.item?.setOpacity(this.opacity(each.role));
    if (this.shown && (appearance.contours || appearance.truth)) this.fetchOutlines(this.shown);
    this.redraw();
  }

  /** Show all of the image; those of other cases, which wait unseen, have other shapes. */
  home(): void {
    for (const { panel, item } of this.shown?.images ?? [])
      if (item) this.panels[panel]!.viewer.viewport.fitBounds(item.getBounds(true), true);
  }

  /** What the panel that was touched last shows of its image; null for all of it. */
  private part(): OpenSeadragon.Rect | null {
    const image = this.shown?.images.find(({ panel }) => panel === this.leading);
    if (!image?.item) return null;
    const all = image.item.getBounds(true);
    const seen = this.panels[image.panel]!.viewer.viewport.getBounds(true);
    const isAll = seen.width >= all.width * 0.999 && seen.height >= all.height * 0.999;
    return isAll ? null : seen;
  }

  window(prepared = this.shown): Range {
    return this.windows(prepared)[this.windowName(prepared)] ?? this.appearance.byHand;
  }

  /** The windows that a case has, of several channels those of the first on the screen. */
  windows(prepared = this.shown): Record<string, Range> {
    const text = prepared?.text;
    return text ? windowsOf(text.channels, this.appearance, text.windows) : {};
  }

  /** The name of the window that a case is shown in: "auto" where it has not the one that was chosen,
   * and where one that was set by hand on another case would show nothing of it. */
  windowName(prepared = this.shown): string {
    const { window, byHand } = this.appearance, windows = this.windows(prepared);
    if (window !== "by hand") return windows[window] ? window : "auto";
    const full = windows["full range"];
    return full && (byHand[1] <= full[0] || byHand[0] >= full[1]) ? "auto" : window;
  }

  /** Put the third picture that was chosen in the place of the one that a case has. */
  private replaceThird(prepared: Prepared): void {
    const place = prepared.images.findIndex(({ role }) => role === "third");
    const old = prepared.images[place];
    const layers = old?.plane ? prepared.volume!.layersIn(old.plane) : prepared.layers;
    const layer = layers.get(this.appearance.third) ?? layers.get("heatmap");
    if (!old || !layer || layer === old.source.layer) return;
    const source = this.source(prepared, "third", layer, old.plane);
    const placed = { ...old, source, item: null };
    prepared.images[place] = placed;
    this.remove(old);
    this.add(prepared, placed).catch((error: Error) => this.onProblem(error.message));
  }

  private repaint(prepared: Prepared): void {
    for (const { role, source } of prepared.images)
      source.repaint(this.painter(prepared, role, source.layer));
  }

  /** What paints a layer as the reader has chosen: the same one as long as the choice is. */
  private painter(prepared: Prepared, role: Role, layer: Layer): Painter {
    const { scale } = prepared.text, { palette } = this.appearance;
    if (layer.name === "heatmap") {
      const colours = this.palettes[palette] ?? Object.values(this.palettes)[0]!;
      return this.known(`${palette} ${role} ${scale}`, () =>
        coloured(scale, colours, role === "over"));
    }
    const { channels } = prepared.text;
    if (layer.name === "image" && channels.length) {
      const { red, green, blue, channel, byHand } = this.appearance;
      const name = this.windowName(prepared);
      const choice = [channel, red, green, blue, name, byHand, ...channels.map((each) =>
        [each.name, each.start, each.count, JSON.stringify(each.windows)].join())];
      return this.known(JSON.stringify(choice), () =>
        painterOf(channels, this.appearance, name, byHand));
    }
    const window: Range = layer.name === "image" ? this.window(prepared) : [0, 255];
    return this.known(`grey ${window}`, () => grey(window));
  }

  private known(name: string, make: () => Painter): Painter {
    if (this.painters.size > PAINTERS) this.painters.clear();
    const painter = this.painters.get(name) ?? make();
    this.painters.set(name, painter);
    return painter;
  }

  private opacity(role: Role): number {
    const { opacity, overlay } = this.appearance;
    if (role !== "over") return 1;
    return overlay ? opacity : 0;
  }

  redraw(): void {
    for (const { viewer } of this.panels) viewer.forceRedraw();
    this.panels.forEach((_, n) => this.draw(n));
  }

  // -- Slices --------------------------------------------------------------------------------------

  /** The volume on the screen. */
  get volume(): Volume | null {
    return this.shown?.volume ?? null;
  }

  /** The planes that the panels show. */
  get planes(): PlaneText[] {
    return this.shown?.volume?.planes(this.shown.view) ?? [];
  }

  /** The plane of the panel that was touched last. */
  get plane(): PlaneText | null {
    return this.planes[this.planes.length > 1 ? this.leading : 0] ?? null;
  }

  /** Go `step` slices further in the plane that was touched last. */
  move(step: number): void {
    if (this.volume && this.plane) this.goTo(this.volume.moved(this.plane, step));
  }

  /** Go to a voxel. Its slices are painted in the next frame. */
  goTo(index: Index): void {
    const { volume } = this;
    if (!volume || index.join() === volume.index.join()) return;
    volume.goTo(index);
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.arrive();
    });
    this.onSlice();
  }

  /** Note that the slices on the screen were seen. */
  see(): void {
    this.volume?.see(this.visible(this.planes), this.volume.index);
  }

  /** The names of the slices of a case that were seen. */
  seen(ticket: string): string[] {
    return [...(this.visits.get(ticket)?.seen ?? [])];
  }

  /** Paint the slices that the volume is at, and fetch those around them. A slice was seen when it
   * stayed for two frames: OpenSeadragon draws in the first or the second. */
  private arrive(): void {
    const { shown, volume, planes } = this;
    if (!shown || !volume) return;
    const index = volume.index;
    let isHere = true;
    for (const { source } of shown.images) {
      if ((source as SliceSource).refresh()) continue;
      isHere = false;
      const isStill = () => volume === this.volume && index === volume.index;
      source.layer.fetch(source.layer.url(0, 0, 0)).then(
        () => { if (isStill()) this.arrive(); },
        (error: Error) => { if (isStill()) this.onProblem(`No slice: ${error.message}`); });
    }
    volume.fetchAhead(planes);
    if (this.appearance.contours || this.appearance.truth) this.fetchOutlines(shown);
    this.redraw();
    if (isHere && this.isLoaded())
      requestAnimationFrame(() => requestAnimationFrame(() =>
        volume.see(this.visible(planes), index)));
  }

  /** Those of the planes whose panel is on the screen: a narrow window has room for one. */
  private visible(planes: PlaneText[]): PlaneText[] {
    if (planes.length < 2) return planes;
    return planes.filter((_, n) => getComputedStyle(this.panels[n]!.box).visibility !== "hidden");
  }

  /** Draw the crosshair, the letters of the patient's directions and the regions of a slice. */
  private drawSlice(context: CanvasRenderingContext2D, placed: Placed): void {
    const { volume } = this, plane = placed.plane!;
    const { grid, index } = volume!;
    this.regions(context, placed, (text) => regionsIn(grid, plane, index, text));
    const { width, height } = context.canvas;
    if (this.planes.length > 1) {
      const [, row, column] = inside(grid, plane, index);
      const { x, y } = this.toScreen(placed, [column + 0.5, row + 0.5]);
      context.fillStyle = CROSS;
      for (const [from, to] of [[0, x - 12], [x + 12, width]] as const)
        context.fillRect(from, y - 0.5, Math.max(to - from, 0), 1);
      for (const [from, to] of [[0, y - 12], [y + 12, height]] as const)
        context.fillRect(x - 0.5, from, 1, Math.max(to - from, 0));
    }
    const [left, right, top, bottom] = plane.edges;
    context.font = "600 14px sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineWidth = 3;
    context.strokeStyle = "#000";
    context.fillStyle = "#fff";
    const letters = [[left, 12, height / 2], [right, width - 12, height / 2],
      [top, width / 2, 14], [bottom, width / 2, height - 12]] as const;
    for (const [letter, x, y] of letters) {
      context.strokeText(letter, x, y);
      context.fillText(letter, x, y);
    }
  }

  // -- Lines over the picture ----------------------------------------------------------------------

  /** The addresses of the outlines of a name, for each plane on the screen. */
  private outlinesOf({ volume, view }: Prepared, name: string): string[] {
    if (!volume) return [name];
    return volume.planes(view).map((plane) => this.outlineOf(volume, plane, name));
  }

  private outlineOf(volume: Volume, plane: PlaneText, name: string): string {
    return `${name}/${plane.name}/${inside(volume.grid, plane, volume.index)[0]}`;
  }

  private fetchOutlines(prepared: Prepared): void {
    for (const name of prepared.text.outlines.flatMap((each) => this.outlinesOf(prepared, each))) {
      if (prepared.outlines.has(name)) continue;
      prepared.outlines.set(name, []);
      fetch(`${this.address}outline/${prepared.card.ticket}/${name}`)
        .then((response) => (response.ok ? response.json() : Promise.reject(new Error())))
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
    const placed = this.shown?.images.find((each) => each.panel === number);
    if (!this.shown || !placed?.item) return;

    const { volume } = this;
    for (const name of ["truth", "contours"] as const) {
      if (!this.appearance[name]) continue;
      const key = volume && placed.plane ? this.outlineOf(volume, placed.plane, name) : name;
      for (const line of this.shown.outlines.get(key) ?? []) {
        const points: Point[] = [];
        for (let n = 0; n < line.length; n += 2) points.push([line[n]!, line[n + 1]!]);
        this.line(context, placed, points, COLOURS[name]!);
      }
    }
    if (placed.plane) this.drawSlice(context, placed);
    else this.regions(context, placed, corners);
    if (this.planes.length < 2 || number === this.leading) this.stroke(context, placed);
  }

  /** Draw the reviewer's regions, and dashed those of others. */
  private regions(
    context: CanvasRenderingContext2D, placed: Placed, outlines: (regions: string) => Point[][],
  ): void {
    for (const line of outlines(this.region)) this.line(context, placed, line, COLOURS.region!);
    context.save();
    context.setLineDash([6, 4]);
    for (const line of outlines(this.others))
      this.line(context, placed, line, COLOURS.others!);
    context.restore();
  }

  /** Draw what the reviewer is drawing: of a brush all that it has covered, and its ring. */
  private stroke(context: CanvasRenderingContext2D, placed: Placed): void {
    const { points, radius, erases } = this.sketch;
    const colour = erases ? "#ffffff" : COLOURS.region!;
    const last = points.at(-1);
    if (!radius || !last) {
      this.line(context, placed, points, colour);
      return;
    }
    const wide = Math.max(2 * radius * this.scale(), 1);
    context.save();
    context.globalAlpha = 0.4;
    [context.lineCap, context.lineJoin] = ["round", "round"];
    if (points.length > 1) this.line(context, placed, points.slice(0, -1), colour, wide);
    context.restore();
    const at = this.toScreen(placed, last);
    context.beginPath();
    context.arc(at.x, at.y, wide / 2, 0, 2 * Math.PI);
    context.strokeStyle = colour;
    context.stroke();
  }

  private line(
    context: CanvasRenderingContext2D, placed: Placed, points: Point[],
    colour: string, wide = 1.5,
  ): void {
    if (points.length < 2) return;
    context.beginPath();
    for (const point of points) {
      const at = this.toScreen(placed, point);
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

  /** The place in a panel, in screen pixels, of a point in the pixels of the image. */
  private toScreen({ item, stretch }: Placed, [x, y]: Point): OpenSeadragon.Point {
    const point = new OpenSeadragon.Point(x * stretch[0], y * stretch[1]);
    return item!.imageToViewerElementCoordinates(point);
  }

  // -- The pointer ---------------------------------------------------------------------------------

  drawSketch(sketch: Sketch): void {
    if (sketch === this.sketch || sketch.points.length + this.sketch.points.length === 0) return;
    this.sketch = sketch;
    this.panels.forEach((_, n) => this.draw(n));
  }

  /** Pixels of the screen for one of the image. */
  scale(): number {
    const placed = this.shown?.images.find(({ panel }) => panel === this.leading)
      ?? this.shown?.images[0];
    if (!placed?.item) return 1;
    return this.toScreen(placed, [1, 0]).x - this.toScreen(placed, [0, 0]).x;
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
      const placed = this.shown?.images.find((each) => each.panel === n);
      if (box.hidden || !placed?.item || !box.contains(event.target as Node)) continue;
      const bounds = box.getBoundingClientRect();
      const point = new OpenSeadragon.Point(event.clientX - bounds.left, event.clientY - bounds.top);
      const { x, y } = placed.item.viewerElementToImageCoordinates(point);
      return [x / placed.stretch[0], y / placed.stretch[1]];
    }
    return null;
  }

  /** The values under a place, as text; "" outside the image. */
  read([x, y]: Point): string {
    const { shown, volume, plane } = this;
    const [column, row] = [Math.floor(x), Math.floor(y)];
    if (!shown || column < 0 || row < 0) return "";
    const [width, height] = this.size;
    if (column >= width || row >= height) return "";
    const layers: Map<string, Layer> = volume && plane ? volume.layersIn(plane) : shown.layers;
    const parts = [`x ${column}, y ${row}`];
    let largest = 1;
    const add = (label: string, name: string, start?: number, count?: number) => {
      const found = layers.get(name)?.value(column, row, start, count);
      if (!found) return;
      parts.push(`${label} ${numberText(found.value)}`);
      largest = Math.max(largest, found.block);
    };
    if (!shown.text.channels.length) add("intensity", "image");
    for (const each of new Set(chosen(shown.text.channels, this.appearance)))
      if (each) add(each.name, "image", each.start, each.count);
    add("anomaly", "heatmap");
    if (volume && plane)
      parts.push(voxelText(volume.grid, plane, pointed(volume.grid, plane, volume.index, [x, y])));
    const about = largest > 1 ? ` (of ${largest} × ${largest} pixels; zoom in for each)` : "";
    return parts.join(" · ") + about;
  }

  /** Width and height of the picture in the panel that was touched last. */
  get size(): [width: number, height: number] {
    const { shown, volume, plane } = this;
    if (volume && plane) {
      const [, height, width] = sides(volume.grid, plane);
      return [width, height];
    }
    return shown ? [shown.text.width, shown.text.height] : [0, 0];
  }

  /** The regions in the panel that was touched last, in the pixels of its picture. */
  regionsHere(): string {
    const { volume, plane, region } = this;
    return volume && plane ? regionsOn(volume.grid, plane, volume.index, region) : region;
  }

  /** All regions of the case, with these in place of those in the panel that was touched last. */
  withRegionsHere(here: string): string {
    const { volume, plane, region } = this;
    return volume && plane ? withRegionsOn(volume.grid, plane, volume.index, region, here) : here;
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
    this.element.append(box);
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
    viewer.addHandler("canvas-click", (event) => { if (event.quick) this.cross(number, event); });
    viewer.addHandler("update-viewport", () => this.draw(number));
    viewer.addHandler("viewport-change", () => this.follow(number));
    viewer.addHandler("tile-unloaded", (event) => {
      const url = event.tile.getUrl();
      for (const each of this.cases.values())
        for (const { panel, source } of each.images) if (panel === number) source.forget(url);
    });
    return { box, title, viewer, drawing };
  }

  /** Have the other planes go to the voxel under a click. */
  private cross(number: number, event: OpenSeadragon.CanvasClickEvent): void {
    const { volume, plane } = this;
    const placed = this.shown?.images.find((each) => each.panel === number);
    if (!volume || !plane || this.planes.length < 2 || !placed?.item) return;
    const { x, y } = placed.item.viewerElementToImageCoordinates(event.position);
    const point: Point = [x / placed.stretch[0], y / placed.stretch[1]];
    this.goTo(pointed(volume.grid, plane, volume.index, point));
  }

  /** Have the other panels show what one of them was moved to. */
  private follow(number: number): void {
    if (number !== this.leading || this.planes.length > 1) return;
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

/** A text that is the same for cases between which zoom and place stay. */
function isOneSize(before: Prepared | null, next: Prepared): boolean {
  return before !== null && !before.volume && !next.volume
    && before.text.width === next.text.width && before.text.height === next.text.height;
}

function shapeOf(prepared: Prepared | null): string {
  if (!prepared) return "";
  const { text, view, images } = prepared;
  const stretches = images.map(({ panel, stretch }) => `${panel}: ${stretch.join()}`);
  return [text.width, text.height, view, ...stretches].join(" ");
}

/** A number with four digits. */
export function numberText(value: number): string {
  return Number.isNaN(value) ? "not scored" : String(Number(value.toPrecision(4)));
}
