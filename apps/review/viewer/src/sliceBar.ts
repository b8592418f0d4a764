// Below the panels of a volume: which view, which slice, and the profile of the slices' scores.

import { numberText } from "./panels";
import { extent, inside, sides, sliceAt, sliceText, sourceIndex, type Index } from "./slices";
import type { PlaneText, Profile } from "./types";
import type { Volume } from "./volume";

interface Actions {
  goTo: (index: Index) => void;
  step: (slices: number) => void;
  view: (name: string) => void;
}

const HIGH = 64; // pixels of the profile

export class SliceBar {
  readonly root = document.createElement("div");
  private views = document.createElement("select");
  private slider = document.createElement("input");
  private text = document.createElement("span");
  private found = document.createElement("div");
  private profile = document.createElement("canvas");
  private shown: { volume: Volume; plane: PlaneText } | null = null;

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

  /** Show where the reviewer is in a volume; `view` is the view, `plane` the one that is moved. */
  show(volume: Volume, plane: PlaneText, view: string): void {
    this.shown = { volume, plane };
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
    this.found.textContent = grid.profile?.found ?? "";
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

    const { volume, plane } = this.shown!;
    const count = profile.scores.length, [low, high] = extent(profile);
    const x = (number: number) => ((number + 0.5) / count) * width;
    const y = (score: number) => HIGH - 8 - ((score - low) / (high - low)) * (HIGH - 14);
    const ink = getComputedStyle(this.root).color;
    this.mark(context, x(inside(volume.grid, plane, volume.index)[0]), width / count);
    context.fillStyle = "#00a5b5"; // slices with regions
    for (const number of profile.marked)
      context.fillRect(x(number) - Math.max(width / count / 2, 1), HIGH - 4, Math.max(width / count, 2), 4);
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
