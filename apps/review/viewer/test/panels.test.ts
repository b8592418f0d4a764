// Pictures that arrive late, with an OpenSeadragon that adds them when a test says.

import { beforeEach, expect, test, vi } from "vitest";
import type { Appearance, Panels as Real } from "../src/panels";
import type { Card, LayerText, PlaneText } from "../src/types";

interface Item { name: string; opacity: number; setOpacity: (opacity: number) => void }
const getBounds = () => ({ width: 1, height: 1 });
const worlds: Item[][] = [];
let adding: (() => void)[] = []; // pictures on their way, the first one first

class Viewer {
  private items: Item[] = [];
  world = { removeItem: (item: Item) => { this.items.splice(this.items.indexOf(item), 1); } };
  viewport = { getBounds };
  constructor() { worlds.push(this.items); }
  addHandler(): void {}
  forceRedraw(): void {}
  addTiledImage({ tileSource, success }: {
    tileSource: { layer: { name: string; ticket: string } }; success: (event: object) => void;
  }): void {
    const { name, ticket } = tileSource.layer;
    const item = { name: `${ticket} ${name}`, opacity: 0, getBounds,
      setOpacity(opacity: number) { this.opacity = opacity; } };
    adding.push(() => {
      this.items.push(item);
      success({ item });
    });
  }
}
vi.mock("openseadragon", () => ({ default: { Viewer, TileSource: class {}, Point: class {} } }));

const element = () => new Proxy({ dataset: {} } as Record<string, unknown>, {
  get: (own, name: string) => own[name] ?? (() => element()),
}) as unknown as HTMLElement;
vi.stubGlobal("document", { createElement: element });

const LOOKS = { window: "auto", byHand: [0, 1], palette: "grey", opacity: 1, overlay: true,
  third: "heatmap", contours: false, truth: false, view: "", channel: "", red: "", green: "",
  blue: "" } as Appearance;
const LAYER = { kind: "|u1", channels: 1, height: 8, width: 8 } as LayerText;
const CASE = { height: 8, width: 8, tile: 8, outlines: [], windows: { auto: [0, 1] }, scale: [0, 1],
  notes: [], channels: [], volume: null, found: "",
  layers: { image: LAYER, heatmap: LAYER, reconstruction: LAYER, difference: LAYER } };

let panels: Real;
const later = () => new Promise((done) => setTimeout(done, 0));
const ready = async (ticket: string) => {
  const coming = panels.prepare({ ticket } as Card);
  await later();
  for (const add of adding.splice(0)) add();
  return coming;
};
/** What the third panel shows. */
const seen = () => worlds[2]!.filter(({ opacity }) => opacity > 0).map(({ name }) => name);

beforeEach(async () => {
  vi.stubGlobal("fetch", async () => ({ ok: true, json: async () => CASE }));
  const { Panels } = await import("../src/panels");
  [worlds.length, adding] = [0, []];
  panels = new Panels(element(), { ...LOOKS }, { grey: new Uint8Array(768) }, "viewer/");
});

test("of two third pictures that arrive out of order the one chosen last is seen", async () => {
  panels.show(await ready("a"));
  expect(seen()).toEqual(["a heatmap"]);
  panels.change({ ...LOOKS, third: "reconstruction" });
  panels.change({ ...LOOKS, third: "difference" });
  const [first, second] = adding.splice(0);
  second!();
  first!();
  await later();
  expect(seen()).toEqual(["a difference"]);
  expect(worlds[2]!.length).toBe(1);
});

test("a picture that arrives after its case was left is not seen over the next one", async () => {
  const [a, b] = [await ready("a"), await ready("b")];
  panels.show(a);
  panels.change({ ...LOOKS, third: "difference" });
  panels.show(b);
  for (const add of adding.splice(0)) add();
  await later();
  expect(seen()).toEqual(["b difference"]);
});

test("a case that was on its way when another third picture was chosen has that one", async () => {
  const coming = panels.prepare({ ticket: "a" } as Card);
  await later();
  panels.change({ ...LOOKS, third: "difference" });
  for (const add of adding.splice(0)) add();
  panels.show(await coming);
  for (const add of adding.splice(0)) add();
  await later();
  expect(seen()).toEqual(["a difference"]);
});

test("a picture of a case that was forgotten meanwhile is taken out again", async () => {
  await ready("a");
  panels.change({ ...LOOKS, third: "difference" });
  panels.keep(new Set());
  for (const add of adding.splice(0)) add();
  await later();
  expect(worlds.map((items) => items.length)).toEqual([0, 0, 0]);
});

test("a slice that arrives after another was gone to does not take its place", async () => {
  const { SliceLayer, SliceSource } = await import("../src/volume");
  const answers = new Map<string, (value: number) => void>();
  vi.stubGlobal("fetch", (url: string) => new Promise((done) => answers.set(url, (value) =>
    done({ ok: true, arrayBuffer: async () => new Uint8Array([value]).buffer }))));
  const plane = { name: "axial", axes: [0, 1, 2], flipped: [false, false, false],
    edges: ["R", "L", "A", "P"] } as PlaneText;
  const layer = new SliceLayer("v/", "t", "image", { ...LAYER, height: 1, width: 1 }, plane);
  const painted: number[] = [];
  const source = new SliceSource(layer, (values) => { painted.push(values[0]!); }, [1, 1]);
  const arrives = async (number: number) => {
    answers.get(layer.urlOf(number))!(number);
    await later();
  };

  layer.number = 10;
  source.downloadTileStart({ src: "tile", tile: { level: 0, x: 0, y: 0 }, finish: () => {} } as never);
  layer.fetch(layer.urlOf(11));
  await arrives(11);
  layer.number = 11;
  expect(source.refresh()).toBe(true); // nothing is painted yet
  await arrives(10);
  expect(painted.at(-1)).toBe(11);
  expect(source.isCurrent).toBe(true);
});
