// A volume in the panels: one tile a slice, painted anew in place when another slice comes, and the
// slices around it fetched before they are asked for.

import type { Painter } from "./pixels";
import {
  inside, moved, placeName, ring, sides, stretch, type Index,
} from "./slices";
import { Layer, PaintedSource } from "./tiles";
import type { CaseText, LayerText, PlaneText, VolumeText } from "./types";

export const THREE = "three planes"; // the name of the view with all of them

const AHEAD = 40; // slices that are fetched ahead, where they are small
const BYTES = 64 * 2 ** 20; // of the slices ahead, where they are not
const PARALLEL = 4; // requests
const SIZES = { "|u1": 1, "<u2": 2, "<i2": 2, "<f4": 4 };

/** Where a reviewer is in a volume, and the slices that were on the screen. */
export interface Visit {
  index: Index;
  seen: Set<string>;
}

/** One layer of a volume in one plane; its only tile is the slice that it is at. */
export class SliceLayer extends Layer {
  number = 0;

  constructor(
    address: string, ticket: string, name: string, text: LayerText, readonly plane: PlaneText,
  ) {
    super(address, ticket, name, text, Math.max(text.width, text.height));
  }

  override url(): string {
    return this.urlOf(this.number);
  }

  urlOf(number: number): string {
    return `${this.address}slice/${this.ticket}/${this.name}/${this.plane.name}/${number}`;
  }

  get bytes(): number {
    return SIZES[this.text.kind] * this.text.channels * this.text.width * this.text.height;
  }
}

let made = 0;

/** A layer's slices as OpenSeadragon reads them: one tile, whose pixels change. */
export class SliceSource extends PaintedSource {
  private readonly id = `slice-${made++}`;

  constructor(private readonly slices: SliceLayer, painter: Painter, [wide, high]: [number, number]) {
    const width = slices.text.width * wide, height = slices.text.height * high;
    const tileSize = Math.ceil(Math.max(width, height));
    super(slices, painter, { width, height, tileSize, tileOverlap: 0, minLevel: 0, maxLevel: 0 });
  }

  override getTileUrl(): string {
    return this.id;
  }

  override get isCurrent(): boolean {
    const url = this.slices.url();
    return this.painted.size > 0 && [...this.painted.values()].every((each) => each.url === url);
  }

  /** Paint the slice that the layer is at, if its values are here; return whether they are. */
  override refresh(): boolean {
    const url = this.slices.url(), values = this.slices.kept(url);
    if (!values) return false;
    for (const each of this.painted.values()) {
      if (each.url === url) continue;
      each.url = url;
      each.values = values;
      this.paint(each);
    }
    return true;
  }
}

/** A volume's layers in each plane, and the slice that each of them is at. */
export class Volume {
  private readonly layers = new Map<string, Map<string, SliceLayer>>();
  private direction = 1;
  private waiting: { layer: SliceLayer; number: number }[] = [];
  private busy = 0;

  constructor(
    address: string, ticket: string, text: CaseText, readonly grid: VolumeText,
    private readonly visit: Visit,
  ) {
    for (const plane of grid.planes) {
      const [, height, width] = sides(grid, plane);
      const layers = new Map<string, SliceLayer>();
      for (const [name, layer] of Object.entries(text.layers))
        layers.set(name, new SliceLayer(address, ticket, name, { ...layer, height, width }, plane));
      this.layers.set(plane.name, layers);
    }
    this.place();
  }

  get index(): Index {
    return this.visit.index;
  }

  get scored(): PlaneText {
    return this.grid.planes[0]!;
  }

  /** The planes of a view, one for each panel; the scored one where it has no such view. */
  planes(view: string): PlaneText[] {
    if (view === THREE && this.grid.planes.length > 1) return inOrder(this.grid.planes);
    return [this.grid.planes.find(({ name }) => name === view) ?? this.scored];
  }

  /** The names of the views that there are. */
  get views(): string[] {
    const names = inOrder(this.grid.planes).map(({ name }) => name);
    return names.length > 1 ? [...names, THREE] : names;
  }

  layersIn(plane: PlaneText): Map<string, SliceLayer> {
    return this.layers.get(plane.name)!;
  }

  stretch(plane: PlaneText): [number, number] {
    return stretch(this.grid, plane);
  }

  /** Go to another voxel. */
  goTo(index: Index): void {
    const before = inside(this.grid, this.scored, this.index)[0];
    const after = inside(this.grid, this.scored, index)[0];
    if (after !== before) this.direction = after > before ? 1 : -1;
    this.visit.index = index;
    this.place();
  }

  /** The index `step` slices further in a plane. */
  moved(plane: PlaneText, step: number): Index {
    this.direction = step > 0 ? 1 : -1;
    return moved(this.grid, plane, this.index, step);
  }

  /** Note that the slices of these planes are on the screen. */
  see(planes: PlaneText[], index: Index): void {
    for (const plane of planes) this.visit.seen.add(placeName(plane, index));
  }

  /** Fetch the slices around those of some planes, the likeliest first; what was asked for before
   * and has not begun is forgotten. */
  fetchAhead(planes: PlaneText[]): void {
    this.waiting = [];
    for (const plane of planes) {
      const layers = [...this.layersIn(plane).values()];
      const bytes = layers.reduce((sum, layer) => sum + layer.bytes, 0) * planes.length;
      const ahead = Math.min(AHEAD, Math.max(Math.floor(BYTES / bytes), 2));
      const [depth] = sides(this.grid, plane);
      for (const number of ring(layers[0]!.number, depth, this.direction, ahead))
        for (const layer of layers) this.waiting.push({ layer, number });
    }
    this.fetchNext();
  }

  private fetchNext(): void {
    while (this.busy < PARALLEL && this.waiting.length) {
      const { layer, number } = this.waiting.shift()!;
      const url = layer.urlOf(number);
      if (layer.kept(url)) continue;
      this.busy++;
      layer.fetch(url).catch(() => {}).finally(() => { // said when the slice is shown
        this.busy--;
        this.fetchNext();
      });
    }
  }

  private place(): void {
    for (const plane of this.grid.planes) {
      const number = inside(this.grid, plane, this.index)[0];
      for (const layer of this.layersIn(plane).values()) layer.number = number;
    }
  }
}

function inOrder(planes: PlaneText[]): PlaneText[] {
  return [...planes].sort((one, other) => one.name.localeCompare(other.name));
}
