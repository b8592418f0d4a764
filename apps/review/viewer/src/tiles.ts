// Tiles: fetched once as values, painted as often as window or colours change.

import OpenSeadragon from "openseadragon";
import type { Painter, Values } from "./pixels";
import { decoded } from "./pixels";
import type { CaseText, LayerText } from "./types";

const KEPT = 256 * 2 ** 20; // bytes of tiles
const SMALLEST = 512; // pixels that a kept picture of a few pixels is enlarged to

/** The values of tiles by their addresses; the oldest are forgotten. */
class Store {
  private kept = new Map<string, Values>();
  private coming = new Map<string, Promise<Values>>();
  private bytes = 0;

  get(url: string): Values | undefined {
    return this.kept.get(url);
  }

  fetch(url: string, kind: LayerText["kind"]): Promise<Values> {
    const known = this.kept.get(url);
    if (known) return Promise.resolve(known);
    let coming = this.coming.get(url);
    if (!coming) {
      coming = this.load(url, kind).finally(() => this.coming.delete(url));
      this.coming.set(url, coming);
    }
    return coming;
  }

  private async load(url: string, kind: LayerText["kind"]): Promise<Values> {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`tile: ${response.status}`);
    const values = decoded(await response.arrayBuffer(), kind);
    this.kept.set(url, values);
    this.bytes += values.byteLength;
    for (const [oldest, old] of this.kept) {
      if (this.bytes <= KEPT) break;
      this.kept.delete(oldest);
      this.bytes -= old.byteLength;
    }
    return values;
  }
}

const store = new Store();

/** One layer of a case: the addresses, sizes and values of its tiles. */
export class Layer {
  readonly levels: number; // the last one has the layer's own pixels

  constructor(
    protected readonly address: string,
    protected readonly ticket: string,
    readonly name: string,
    readonly text: LayerText,
    readonly tile: number,
  ) {
    let levels = 1;
    while (Math.max(text.width, text.height) > tile * 2 ** (levels - 1)) levels++;
    this.levels = levels;
  }

  url(level: number, column: number, row: number): string {
    return `${this.address}tile/${this.ticket}/${this.name}/${level}/${column}/${row}`;
  }

  /** Width and height of a tile in pixels of its level. */
  size(level: number, column: number, row: number): [number, number] {
    const block = 2 ** (this.levels - 1 - level);
    const width = Math.ceil(this.text.width / block), height = Math.ceil(this.text.height / block);
    return [Math.min(this.tile, width - column * this.tile),
      Math.min(this.tile, height - row * this.tile)];
  }

  fetch(url: string): Promise<Values> {
    return store.fetch(url, this.text.kind);
  }

  /** The values at an address, if they are here. */
  kept(url: string): Values | undefined {
    return store.get(url);
  }

  /** The value at a pixel, the mean over `count` channels from `start` on, from the finest level that
   * is here, and the number of pixels along a side that it stands for. */
  value(
    x: number, y: number, start = 0, count = this.text.channels,
  ): { value: number; block: number } | null {
    for (let level = this.levels - 1; level >= 0; level--) {
      const block = 2 ** (this.levels - 1 - level);
      const column = Math.floor(x / block / this.tile), row = Math.floor(y / block / this.tile);
      const values = store.get(this.url(level, column, row));
      if (!values) continue;
      const [width, height] = this.size(level, column, row);
      const at = (Math.floor(y / block) - row * this.tile) * width
        + Math.floor(x / block) - column * this.tile;
      let sum = 0;
      for (let n = start; n < start + count; n++) sum += values[at + n * width * height]!;
      return { value: sum / count, block };
    }
    return null;
  }
}

export function layersOf(address: string, ticket: string, text: CaseText): Map<string, Layer> {
  const layers = new Map<string, Layer>();
  for (const [name, layer] of Object.entries(text.layers))
    layers.set(name, new Layer(address, ticket, name, layer, text.tile));
  return layers;
}

interface Painted {
  url: string; // of the values
  context: CanvasRenderingContext2D;
  picture: ImageData;
  values: Values;
}

/** The tiles of one layer as OpenSeadragon reads them, painted by `painter`. */
export class PaintedSource extends OpenSeadragon.TileSource {
  protected painted = new Map<string, Painted>();

  constructor(readonly layer: Layer, private painter: Painter, options: object) {
    super(options as ConstructorParameters<typeof OpenSeadragon.TileSource>[0]);
  }

  /** Whether what is painted is what the layer is at. */
  get isCurrent(): boolean {
    return true;
  }

  /** Paint all tiles anew, in place, unless they are painted so. */
  repaint(painter: Painter): void {
    if (painter === this.painter) return;
    this.painter = painter;
    for (const each of this.painted.values()) this.paint(each);
  }

  /** Paint what the layer is at; return whether it is here. */
  refresh(): boolean {
    return true;
  }

  forget(url: string): void {
    this.painted.delete(url);
  }

  override getTileUrl(level: number, column: number, row: number): string {
    return this.layer.url(level, column, row);
  }

  override downloadTileStart(job: OpenSeadragon.ImageJob): void {
    const { level, x, y } = job.tile as unknown as { level: number; x: number; y: number };
    const url = this.layer.url(level, x, y);
    this.layer.fetch(url).then((values) => {
      const [width, height] = this.layer.size(level, x, y);
      const context = canvas(width, height);
      const picture = context.createImageData(width, height);
      const painted = { url, context, picture, values };
      this.painted.set(job.src, painted);
      this.paint(painted);
      this.refresh(); // of a volume another slice was gone to meanwhile
      job.finish(isSmall(this.layer) ? enlarged(context, this) : context, null, "context2d");
    }, (error: Error) => job.fail(error.message, null));
  }

  override downloadTileAbort(): void {} // tiles are small, and soon asked for again

  protected paint({ context, picture, values }: Painted): void {
    this.painter(values, this.layer.text, picture.data);
    context.putImageData(picture, 0, 0);
  }
}

/** A picture kept in a few pixels is stretched over the image, whose shape it may not have. */
function isSmall(layer: Layer): boolean {
  return layer.name === "reconstruction" || layer.name === "difference";
}

/** What OpenSeadragon is told of a layer of an image of this size. */
export function imageOptions(layer: Layer, [width, height]: [number, number]): object {
  if (!isSmall(layer)) {
    const { width, height } = layer.text;
    const [tileSize, maxLevel] = [layer.tile, layer.levels - 1];
    return { width, height, tileSize, tileOverlap: 0, minLevel: 0, maxLevel };
  }
  const scale = SMALLEST / Math.max(width, height);
  const size = { width: Math.ceil(width * scale), height: Math.ceil(height * scale) };
  return { ...size, tileSize: SMALLEST, tileOverlap: 0, minLevel: 0, maxLevel: 0 };
}

function enlarged(small: CanvasRenderingContext2D, source: PaintedSource): CanvasRenderingContext2D {
  const { x, y } = source.dimensions;
  const large = canvas(x, y);
  large.drawImage(small.canvas, 0, 0, x, y);
  return large;
}

function canvas(width: number, height: number): CanvasRenderingContext2D {
  const element = document.createElement("canvas");
  element.width = width;
  element.height = height;
  return element.getContext("2d")!;
}
