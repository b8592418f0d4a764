// What a press on the picture does: pan, set the window, or mark regions. Two fingers zoom, whatever
// the tool. OpenSeadragon sees the presses that this leaves to it.

import { added, box, outline, type Point } from "./regions";
import { erased, painted, strokeOf } from "./shapes";

export type Tool = "pan" | "window" | "box" | "outline" | "polygon" | "brush" | "eraser";

/** Each tool with its name on the button and its key. */
export const TOOLS: Record<Tool, [name: string, key: string]> = {
  pan: ["Pan", "Esc"], window: ["Window", "W"], box: ["Box", "B"], outline: ["Outline", "L"],
  polygon: ["Polygon", "G"], brush: ["Brush", "D"], eraser: ["Eraser", "E"],
};
export const BRUSH: [least: number, most: number] = [2, 200]; // diameter in pixels of the screen
const NEAR = 14; // pixels of the screen within which a press is on the polygon's first corner

/** What is being drawn, in the picture's pixels: a line, thin for a radius of 0. */
export interface Sketch {
  points: Point[];
  radius: number;
  erases: boolean;
}

export const NOTHING: Sketch = { points: [], radius: 0, erases: false };

/** The picture as the tools see it. */
export interface Picture {
  at(event: MouseEvent): Point | null;
  size(): [width: number, height: number] | null;
  scale(): number; // pixels of the screen for one of the picture
  zoom(by: number, from: MouseEvent, to: MouseEvent): void; // and move what is at `from`
  regions(): string; // those of this picture, in its pixels
  keep(regions: string): void;
  sketch(sketch: Sketch): void;
  window(right: number, down: number): void; // a drag of so many pixels of the screen
  read(at: Point): void;
}

export class Tools {
  tool: Tool = "pan";
  brush = 24;
  private points: Point[] = []; // of what is being drawn
  private button = -1;
  private start: MouseEvent | null = null;
  private last: MouseEvent | null = null;
  private fingers = new Map<number, MouseEvent>();

  constructor(private readonly place: HTMLElement, private readonly picture: Picture) {
    place.addEventListener("contextmenu", (event) => event.preventDefault());
    place.addEventListener("pointerdown", (event) => this.press(event), true);
    place.addEventListener("pointermove", (event) => this.move(event), true);
    for (const type of ["pointerup", "pointercancel"] as const)
      place.addEventListener(type, (event) => this.lift(event), true);
    place.addEventListener("dblclick", () => this.close(), true);
    place.addEventListener("pointerleave", () => this.draw());
  }

  take(tool: Tool): void {
    this.tool = tool;
    this.stop();
  }

  /** Forget what is being drawn. */
  stop(): void {
    this.points = [];
    this.button = -1;
    this.draw();
  }

  /** Take a key for the polygon that is being drawn; false where it means something else. */
  key(key: string): boolean {
    if (this.tool !== "polygon" || this.points.length === 0) return false;
    if (key === "Enter") this.close();
    else if (key === "Escape") this.stop();
    else if (key === "Backspace") {
      this.points.pop();
      this.draw();
    } else return false;
    return true;
  }

  // -- Presses -------------------------------------------------------------------------------------

  private press(event: PointerEvent): void {
    const at = this.picture.at(event);
    const own = event.button === 2 || event.button === 0 && this.tool !== "pan";
    if (!at || !own) return;
    event.stopPropagation();
    event.preventDefault();
    if (event.pointerType === "touch") {
      this.fingers.set(event.pointerId, event);
      if (this.fingers.size > 1) { // a pinch draws nothing
        if (this.tool !== "polygon") this.points = [];
        this.button = -1;
        this.draw();
        return;
      }
    }
    this.place.setPointerCapture(event.pointerId);
    [this.button, this.start, this.last] = [event.button, event, event];
    if (this.setsWindow()) return;
    if (this.tool === "polygon") this.corner(at, event);
    else this.points = [at];
    this.draw(at);
  }

  private move(event: PointerEvent): void {
    if (this.fingers.has(event.pointerId) && this.fingers.size > 1) {
      this.pinch(event);
      return;
    }
    if (this.button >= 0 && this.setsWindow()) {
      this.picture.window(event.clientX - this.last!.clientX, event.clientY - this.last!.clientY);
      this.last = event;
      return;
    }
    const at = this.picture.at(this.button === 0 ? this.inSamePanel(event) : event);
    if (!at) return;
    if (this.button === 0 && this.tool === "box") this.points = [this.points[0]!, at];
    else if (this.button === 0 && this.tool !== "polygon") this.points.push(at);
    else this.picture.read(at);
    this.draw(at);
  }

  private lift(event: PointerEvent): void {
    this.fingers.delete(event.pointerId);
    const isOwn = this.button === 0 && event.type === "pointerup" && !this.setsWindow();
    this.button = -1;
    if (isOwn && this.tool !== "polygon") this.finish();
  }

  private setsWindow(): boolean {
    return this.button === 2 || this.tool === "window";
  }

  /** The event as if it were in the panel that the drag started in. */
  private inSamePanel({ clientX, clientY }: MouseEvent): MouseEvent {
    return { clientX, clientY, target: this.start!.target } as MouseEvent;
  }

  /** Zoom by what two fingers move apart, about what lies between them. */
  private pinch(event: PointerEvent): void {
    const before = [...this.fingers.values()].slice(0, 2);
    const { target } = this.fingers.get(event.pointerId)!; // the panel, not what holds the pointer
    const { clientX, clientY } = event;
    this.fingers.set(event.pointerId, { clientX, clientY, target } as MouseEvent);
    const after = [...this.fingers.values()].slice(0, 2);
    const by = apart(after) / Math.max(apart(before), 1);
    this.picture.zoom(by, middle(before), middle(after));
  }

  // -- Regions -------------------------------------------------------------------------------------

  /** One more corner of the polygon, or its end, on the first corner. */
  private corner(at: Point, event: PointerEvent): void {
    const near = NEAR * (event.pointerType === "touch" ? 2 : 1) / this.picture.scale();
    const first = this.points[0];
    const isEnd = first && this.points.length > 2
      && Math.hypot(first[0] - at[0], first[1] - at[1]) < near;
    if (isEnd) this.close();
    else this.points.push(at);
  }

  /** End the polygon; a double press has made its last corner twice. */
  private close(): void {
    if (this.tool !== "polygon" || this.points.length === 0) return;
    this.finish();
  }

  private finish(): void {
    const [points, size] = [this.points, this.picture.size()];
    this.points = [];
    if (size && points.length) {
      const before = this.picture.regions();
      const after = this.marked(before, points, size);
      if (after !== before) this.picture.keep(after);
    }
    this.draw();
  }

  private marked(regions: string, points: Point[], size: [number, number]): string {
    if (this.tool === "brush") return painted(regions, strokeOf(points, this.radius()), size);
    if (this.tool === "eraser") return erased(regions, strokeOf(points, this.radius()));
    if (this.tool === "box" && points.length < 2) return regions; // pressed, not drawn
    const region = this.tool === "box" ? box(points[0]!, points[1]!, ...size)
      : outline(points, ...size);
    return added(regions, region);
  }

  private radius(): number {
    return this.brush / 2 / Math.max(this.picture.scale(), 1e-6);
  }

  /** Show what is being drawn, with the pointer at a place. */
  private draw(at?: Point): void {
    const brushes = this.tool === "brush" || this.tool === "eraser";
    const radius = brushes ? this.radius() : 0;
    let points = this.points;
    if (this.tool === "box" && points.length > 1) points = sides(points[0]!, points[1]!);
    else if (at && (brushes || this.tool === "polygon" && points.length)) points = [...points, at];
    this.picture.sketch({ points, radius, erases: this.tool === "eraser" });
  }
}

function sides(from: Point, to: Point): Point[] {
  return [from, [to[0], from[1]], to, [from[0], to[1]], from];
}

function apart([one, other]: MouseEvent[]): number {
  return Math.hypot(one!.clientX - other!.clientX, one!.clientY - other!.clientY);
}

function middle([one, other]: MouseEvent[]): MouseEvent {
  const [clientX, clientY] = [
    (one!.clientX + other!.clientX) / 2, (one!.clientY + other!.clientY) / 2];
  return { clientX, clientY, target: one!.target } as MouseEvent;
}
