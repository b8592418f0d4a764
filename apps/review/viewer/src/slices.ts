// Slices of a volume: where they lie in the source and in the patient, as anodetect.data.geometry
// and record.marks have it. Plain functions. A place (d, h, w) counts slices, rows and columns as
// they are shown; an index (i, j, k) counts voxels of the source. Both begin at 0.

import { corners, type Point } from "./regions";
import type { PlaneText, Profile, Range, VolumeText } from "./types";

export type Index = [number, number, number];

const OPPOSITE: Record<string, string> = { L: "R", R: "L", P: "A", A: "P", S: "I", I: "S" };
const ACROSS: Record<string, number> = { sagittal: 0, coronal: 1, axial: 2 }; // of x, y, z

/** Numbers of slices, rows and columns. */
export function sides(volume: VolumeText, plane: PlaneText): Index {
  return plane.axes.map((axis) => volume.shape[axis]!) as Index;
}

/** The place of a source's index in the slices of a plane. */
export function inside(volume: VolumeText, plane: PlaneText, index: Index): Index {
  return plane.axes.map((axis, n) =>
    plane.flipped[n] ? volume.shape[axis]! - 1 - index[axis]! : index[axis]!) as Index;
}

/** The source's index of a place in the slices of a plane. */
export function sourceIndex(volume: VolumeText, plane: PlaneText, place: Index): Index {
  const index: Index = [0, 0, 0];
  plane.axes.forEach((axis, n) => {
    index[axis] = plane.flipped[n] ? volume.shape[axis]! - 1 - place[n]! : place[n]!;
  });
  return index;
}

/** The source's number of the slice that an index lies in. */
export function sourceNumber(plane: PlaneText, index: Index): number {
  return index[plane.axes[0]]!;
}

/** The name of the slice that an index lies in, as it goes on record: "axial 12". */
export function placeName(plane: PlaneText, index: Index): string {
  return `${plane.name} ${sourceNumber(plane, index)}`;
}

/** An index moved by `step` slices on the screen; it stays in the volume. */
export function moved(volume: VolumeText, plane: PlaneText, index: Index, step: number): Index {
  const place = inside(volume, plane, index);
  place[0] = limited(place[0] + step, sides(volume, plane)[0]);
  return sourceIndex(volume, plane, place);
}

/** The index of the voxel under a point of a slice; it stays in the volume. */
export function pointed(
  volume: VolumeText, plane: PlaneText, index: Index, [x, y]: Point,
): Index {
  const [, height, width] = sides(volume, plane);
  const place = inside(volume, plane, index);
  return sourceIndex(volume, plane,
    [place[0], limited(Math.floor(y), height), limited(Math.floor(x), width)]);
}

function limited(number: number, count: number): number {
  return Math.min(Math.max(number, 0), count - 1);
}

/** How much wider and higher a slice's pixels are than the finer of the two. */
export function stretch(volume: VolumeText, plane: PlaneText): [wide: number, high: number] {
  const high = volume.spacing[plane.axes[1]]!, wide = volume.spacing[plane.axes[2]]!;
  const finest = Math.min(high, wide);
  return [wide / finest, high / finest];
}

// -- In the patient --------------------------------------------------------------------------------

/** The millimetres of an index, toward the patient's left, back and head. */
export function millimetres(volume: VolumeText, index: Index): Index {
  const { origin, steps, places } = volume;
  const start = places ? between(places, index[0]) : origin;
  return [0, 1, 2].map((axis) => {
    const along = places ? 0 : index[0] * steps[0]![axis]!;
    return start[axis]! + along + index[1] * steps[1]![axis]! + index[2] * steps[2]![axis]!;
  }) as Index;
}

function between(places: number[][], at: number): number[] {
  const before = Math.min(Math.max(Math.floor(at), 0), places.length - 2);
  return places[before]!.map((value, n) =>
    value + (at - before) * (places[before + 1]![n]! - value));
}

/** Millimetres with the letter of their direction: "12 mm S". */
export function directed(value: number, axis: number, digits = 0): string {
  const letter = "LPS"[axis]!;
  return `${Math.abs(value).toFixed(digits)} mm ${value >= 0 ? letter : OPPOSITE[letter]}`;
}

/** The slice that an index lies in: "axial, slice 3 of 40, 12 mm S". */
export function sliceText(volume: VolumeText, plane: PlaneText, index: Index): string {
  const [depth, height, width] = sides(volume, plane);
  const number = inside(volume, plane, index)[0];
  const axis = ACROSS[plane.name];
  if (axis === undefined) return `frame ${number + 1} of ${depth}`;
  const text = `${plane.name}, slice ${number + 1} of ${depth}`;
  const middle = sourceIndex(volume, plane, [number, (height - 1) / 2, (width - 1) / 2]);
  return `${text}, ${directed(millimetres(volume, middle)[axis]!, axis)}`;
}

/** The voxel at an index: its numbers in the source and its millimetres. */
export function voxelText(volume: VolumeText, plane: PlaneText, index: Index): string {
  const voxel = `voxel ${index.join(", ")}`;
  if (ACROSS[plane.name] === undefined) return voxel;
  const place = millimetres(volume, index).map((value, axis) => directed(value, axis, 1));
  return `${voxel} · ${place.join(", ")}`;
}

// -- Regions ---------------------------------------------------------------------------------------

/** The regions of a record that lie in the slice of an index, in pixels of the slice as shown. */
export function regionsOn(
  volume: VolumeText, plane: PlaneText, index: Index, regions: string,
): string {
  const here = placeName(plane, index);
  const found = parts(regions).filter(([place]) => place === here);
  return found.map(([, shape]) => turned(volume, plane, shape)).join("; ");
}

/** All regions of a record, with these, in pixels as shown, for those in the slice of an index. */
export function withRegionsOn(
  volume: VolumeText, plane: PlaneText, index: Index, regions: string, here: string,
): string {
  const place = placeName(plane, index);
  const others = parts(regions).filter(([each]) => each !== place);
  const own = parts(here).map(([, shape]) => [place, turned(volume, plane, shape)]);
  return [...others, ...own].map(([each, shape]) => `${each}: ${shape}`).join("; ");
}

/** The outlines of those regions of a record that lie in the slice of an index, as it is shown. */
export function regionsIn(
  volume: VolumeText, plane: PlaneText, index: Index, regions: string,
): Point[][] {
  return corners(regionsOn(volume, plane, index, regions));
}

/** The numbers, on the screen from 0 and rising, of the slices of a plane with regions on record. */
export function slicesWith(volume: VolumeText, plane: PlaneText, regions: string): number[] {
  const [depth] = sides(volume, plane);
  const found = new Set<number>();
  for (const [place] of parts(regions)) {
    const [name, text] = place.split(" "), number = Number(text);
    if (name === plane.name) found.add(plane.flipped[0] ? depth - 1 - number : number);
  }
  return [...found].sort((one, other) => one - other);
}

/** Where there are regions on record, slices counted from 1: "axial 3–4, 9, coronal 12". */
export function drawnText(volume: VolumeText, regions: string): string {
  return volume.planes.map((plane) => {
    const numbers = slicesWith(volume, plane, regions);
    return numbers.length ? `${plane.name} ${ranges(numbers.map((number) => number + 1))}` : "";
  }).filter(Boolean).join(", ");
}

/** Rising numbers as "3–17, 20". */
function ranges(numbers: number[]): string {
  const runs: [first: number, last: number][] = [];
  for (const number of numbers) {
    const run = runs.at(-1);
    if (run && run[1] === number - 1) run[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => first === last ? `${first}` : `${first}–${last}`).join(", ");
}

/** The regions of a text: place, "" where it names none, and shape. */
function parts(regions: string): [place: string, shape: string][] {
  return regions.split(";").filter((part) => part.trim()).map((part) => {
    const [place, shape] = part.includes(":") ? part.split(":") : ["", part];
    return [place!.trim(), shape!.trim()];
  });
}

/** A shape in the source's pixels, if it is one on the screen, and the other way round. */
function turned(volume: VolumeText, plane: PlaneText, shape: string): string {
  return shape.split(" ").map((part) => {
    const [x, y, width = 0, height = 0] = part.split(",").map(Number) as
      [number, number, number?, number?];
    const corner = turn(volume, plane, [x, y], [width, height]);
    return [...corner, ...part.split(",").slice(2)].join(",");
  }).join(" ");
}

/** A corner in the source's pixels, if it is one on the screen, and the other way round; of a box
 * the corner with the lowest numbers. */
function turn(
  volume: VolumeText, plane: PlaneText, [x, y]: Point, [boxWidth, boxHeight]: Point,
): Point {
  const [, height, width] = sides(volume, plane);
  return [plane.flipped[2] ? width - x - boxWidth : x,
    plane.flipped[1] ? height - y - boxHeight : y];
}

// -- Ahead -----------------------------------------------------------------------------------------

/** The numbers of the slices to have ready around one, the likeliest first: `ahead` of them in the
 * direction of travel, 1 or −1, and half as many behind. */
export function ring(number: number, count: number, direction: number, ahead: number): number[] {
  const numbers: number[] = [];
  for (let step = 1; step <= ahead; step++) {
    numbers.push(number + direction * step);
    if (step % 2 === 0) numbers.push(number - (direction * step) / 2);
  }
  return numbers.filter((each) => each >= 0 && each < count);
}

/** The slices that the wheel was turned by, and what is left of its way until the next one: a notch
 * is one slice, and so are 50 pixels of a touchpad. */
export function wheelSteps(
  rest: number, turned: number, mode: number,
): { steps: number; rest: number } {
  if (mode !== 0 || Math.abs(turned) >= 50) return { steps: Math.sign(turned), rest: 0 };
  const way = (Math.sign(rest) === -Math.sign(turned) ? 0 : rest) + turned;
  const steps = Math.trunc(way / 50) + 0; // no −0
  return { steps, rest: way - 50 * steps };
}

// -- Profile ---------------------------------------------------------------------------------------

/** The range of a profile's scores and its threshold. */
export function extent({ scores, threshold }: Profile): Range {
  const values = scores.filter((score): score is number => score !== null);
  if (threshold !== null) values.push(threshold);
  const low = Math.min(...values), high = Math.max(...values);
  return values.length ? [low, high > low ? high : low + 1] : [0, 1];
}

/** The slice at a share of the profile's width, 0 to 1. */
export function sliceAt(share: number, count: number): number {
  return limited(Math.floor(share * count), count);
}
