// Below the panels of a volume: which view, which slice, and the profile of the slices' scores.

import { COLOURS, numberText } from "./panels";
import {
  drawnText, extent, inside, sides, sliceAt, slicesWith, sliceText, sourceIndex, type Index,
} from "./slices";
import type { PlaneText, Profile } from "./types";
import type { Volume } from "./volume";

interface Actions {
  goTo: (index: Index) => void;
  step: (slices: number) => void;
  view: (name: string) => void;
}

/** The regions on record, or to be, of the reviewer and of others. */
export interface Drawn {
  own: string;
  others: string;
}

const HIGH = 64; // pixels of the profile
const MARK = 4; // pixels of the marks of slices at its edges

export class SliceBar {
  readonly root = document.createElement("div");
  private views = document.createElement("select");
  private slider = document.createElement("input");
  private text = document.createElement("span");
  private found = document.createElement("div");
  private profile = document.createElement("canvas");
  private shown: { volume: Volume; plane: PlaneText; drawn: Drawn } | null = null;

  constructor(private readonly actions: Actions) {
    this.root.className = "slices";
    this.root.hidden = true;
    this.text.className = "slice";
    this.slider.type = "range";
    this.slider.min = "1";
    this.slider.setAttribute("aria-label", "Slice");
    this.views.setAttribute("aria-label", "Planes");
    this.profile.setAttribute("role", "img");
    this.profile.setAttribute("aria-label", "Score of each slice; a click goes there");
    this.views.addEventListener("change", () => actions.view(this.views.value));
    this.slider.addEventListener("input", () => this.goTo(Number(this.slider.value) - 1));
    this.listen();

    const row = document.createElement("div");
    row.className = "row";
    const label = document.createElement("label");
    label.append("Planes", this.views);
    row.append(label, this.arrow("▲", "Slice before · ↑", -1),
      this.arrow("▼", "Slice after · ↓", 1), this.text);
    this.root.append(row, this.profile, this.slider, this.found);
    new ResizeObserver(() => this.draw()).observe(this.profile);
  }

  hide(): void {
    this.root.hidden = true;
    this.shown = null;
  }

  /** Show where the reviewer is in a volume; `view` is the view, `plane` the one that is moved, and
   * `drawn` are the regions whose slices are marked. */
  show(volume: Volume, plane: PlaneText, view: string, drawn: Drawn): void {
    this.shown = { volume, plane, drawn };
    const { grid, index } = volume;
    const number = inside(grid, plane, index)[0], profile = this.profileOf(volume, plane);
    this.root.hidden = false;
    if (this.views.dataset.names !== volume.views.join()) {
      this.views.dataset.names = volume.views.join();
      this.views.replaceChildren(...volume.views.map((name) => new Option(name)));
    }
    this.views.parentElement!.hidden = volume.views.length < 2;
    this.views.value = volume.views.includes(view) ? view : volume.scored.name;
    this.slider.max = String(Math.max(sides(grid, plane)[0], 2));
    this.slider.value = String(number + 1);

    const parts = [sliceText(grid, plane, index)];
    const score = profile?.scores[number], reason = profile?.unscored[number];
    if (typeof score === "number") parts.push(`score ${numberText(score)}`);
    if (reason) parts.push(`not scored: ${reason}`);
    this.text.textContent = parts.join(" · ");
    const own = drawnText(grid, drawn.own), others = drawnText(grid, drawn.others);
    this.found.textContent = [grid.profile?.found, own && `regions drawn: ${own}`,
      others && `drawn by others: ${others}`].filter(Boolean).join(" · ");
    this.profile.hidden = profile === null;
    this.draw();
  }

  private profileOf(volume: Volume, plane: PlaneText): Profile | null {
    return plane === volume.scored ? volume.grid.profile : null;
  }

  private arrow(sign: string, name: string, step: number): HTMLElement {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = sign;
    button.title = name;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => this.actions.step(step));
    return button;
  }

  private listen(): void {
    const go = (event: PointerEvent) => {
      const { left, width } = this.profile.getBoundingClientRect();
      const count = Number(this.slider.max);
      this.goTo(sliceAt((event.clientX - left) / width, count));
    };
    this.profile.addEventListener("pointerdown", (event) => {
      this.profile.setPointerCapture(event.pointerId);
      go(event);
    });
    this.profile.addEventListener("pointermove", (event) => { if (event.buttons) go(event); });
  }

  private goTo(number: number): void {
    if (!this.shown) return;
    const { volume, plane } = this.shown;
    const [depth] = sides(volume.grid, plane);
    const place = inside(volume.grid, plane, volume.index);
    place[0] = Math.min(number, depth - 1);
    this.actions.goTo(sourceIndex(volume.grid, plane, place));
  }

  // -- The profile ---------------------------------------------------------------------------------

  private draw(): void {
    const profile = this.shown && this.profileOf(this.shown.volume, this.shown.plane);
    const width = this.profile.clientWidth, ratio = window.devicePixelRatio || 1;
    if (!profile || !width) return;
    this.profile.width = Math.round(width * ratio);
    this.profile.height = Math.round(HIGH * ratio);
    const context = this.profile.getContext("2d")!;
    context.scale(ratio, ratio);

    const { volume, plane, drawn } = this.shown!;
    const count = profile.scores.length, [low, high] = extent(profile);
    const x = (number: number) => ((number + 0.5) / count) * width;
    const y = (score: number) => HIGH - 8 - ((score - low) / (high - low)) * (HIGH - 18);
    const ink = getComputedStyle(this.root).color;
    this.mark(context, x(inside(volume.grid, plane, volume.index)[0]), width / count);
    const edge = (numbers: number[], colour: string, top: number) => {
      const wide = Math.max(width / count, 2);
      context.fillStyle = colour;
      for (const number of numbers) context.fillRect(x(number) - wide / 2, top, wide, MARK);
    };
    edge(profile.marked, "#00a5b5", HIGH - MARK); // slices with regions of the heatmap
    edge(slicesWith(volume.grid, plane, drawn.own), COLOURS.region!, 0);
    edge(slicesWith(volume.grid, plane, drawn.others), COLOURS.others!, MARK);
    context.strokeStyle = context.fillStyle = ink;
    this.scores(context, profile, x, y, width / count);
    if (profile.threshold === null) return;
    context.setLineDash([4, 4]);
    context.beginPath();
    context.moveTo(0, y(profile.threshold));
    context.lineTo(width, y(profile.threshold));
    context.stroke();
  }

  private mark(context: CanvasRenderingContext2D, x: number, wide: number): void {
    const side = Math.max(wide, 3);
    context.fillStyle = "rgba(255, 160, 0, 0.45)";
    context.fillRect(x - side / 2, 0, side, HIGH);
  }

  /** The scores as a line, with a gap where a slice was not scored. */
  private scores(
    context: CanvasRenderingContext2D, { scores }: Profile, x: (number: number) => number,
    y: (score: number) => number, wide: number,
  ): void {
    context.lineWidth = 1.25;
    context.beginPath();
    let isOpen = false;
    scores.forEach((score, number) => {
      if (score === null) {
        isOpen = false;
        return;
      }
      if (isOpen) context.lineTo(x(number), y(score));
      else context.moveTo(x(number), y(score));
      isOpen = true;
    });
    context.stroke();
    if (wide < 6) return;
    scores.forEach((score, number) => {
      if (score !== null) context.fillRect(x(number) - 1.5, y(score) - 1.5, 3, 3);
    });
  }
}
