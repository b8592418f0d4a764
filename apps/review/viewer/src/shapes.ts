// Brush and eraser: a stroke over the picture joins the regions it touches, or is taken away from
// them. Clipper2 computes shapes in whole pixels of the source.

import {
  EndType, FillRule, JoinType, areaPaths, area, difference, getBounds, inflatePaths, intersect,
  pointInPolygon, PointInPolygonResult, trimCollinear, union, type Path64, type Paths64,
} from "clipper2-ts";
import { corners, type Point } from "./regions";

const SQUARE = 2; // a brush of a smaller radius, in pixels, paints whole pixels
const RULE = FillRule.NonZero;

/** The regions of a text after a stroke of the brush, cut to the picture. Regions that the stroke
 * does not touch stay as they are written. */
export function painted(regions: string, stroke: Path64[], size: [number, number]): string {
  let joined = intersect(stroke, [frame(0, 0, ...size)], RULE);
  if (joined.length === 0) return regions;
  const apart: string[] = [];
  for (const region of split(regions)) {
    const shape = shapeOf(region);
    if (touches(shape, joined)) joined = union(joined, shape, RULE);
    else apart.push(region);
  }
  return [...apart, ...texts(joined)].join("; ");
}

/** The regions of a text after a stroke of the eraser. */
export function erased(regions: string, stroke: Path64[]): string {
  const left: string[] = [];
  for (const region of split(regions)) {
    const shape = shapeOf(region);
    if (touches(shape, stroke)) left.push(...texts(difference(shape, stroke, RULE)));
    else left.push(region);
  }
  return left.join("; ");
}

/** What a brush of a radius covers along points of the picture. A small one covers whole pixels. */
export function strokeOf(points: Point[], radius: number): Paths64 {
  if (radius >= SQUARE) {
    const line = points.map(([x, y]) => ({ x: Math.round(x), y: Math.round(y) }));
    if (line.length === 1) line.push({ ...line[0]! });
    return inflatePaths([line], radius, JoinType.Round, EndType.Round);
  }
  const side = Math.max(Math.round(2 * radius), 1);
  const squares = between(points).map(([x, y]) => {
    const [left, top] = [Math.round(x - side / 2), Math.round(y - side / 2)];
    return frame(left, top, left + side, top + side);
  });
  return union(squares, RULE);
}

/** The points and those between them, at most half a pixel apart. */
function between(points: Point[]): Point[] {
  const found = points.slice(0, 1);
  for (const [x, y] of points.slice(1)) {
    const [fromX, fromY] = found.at(-1)!;
    const steps = Math.ceil(2 * Math.max(Math.abs(x - fromX), Math.abs(y - fromY)));
    for (let n = 1; n <= steps; n++)
      found.push([fromX + ((x - fromX) * n) / steps, fromY + ((y - fromY) * n) / steps]);
  }
  return found;
}

function frame(left: number, top: number, right: number, bottom: number): Path64 {
  return [{ x: left, y: top }, { x: right, y: top }, { x: right, y: bottom }, { x: left, y: bottom }];
}

function split(regions: string): string[] {
  return regions.split(";").map((region) => region.trim()).filter(Boolean);
}

function shapeOf(region: string): Paths64 {
  const path = (corners(region)[0] ?? []).slice(0, -1).map(([x, y]) => ({ x, y }));
  // An outline that was drawn by hand may cross itself: a pixel is in it by the rule of masks.
  return union(loops(path), FillRule.EvenOdd);
}

/** An outline in parts that pass no point twice: the ways to holes and back are no part of them. */
function loops(path: Path64): Paths64 {
  const found: Paths64 = [];
  const open: Path64 = [];
  for (const point of path) {
    const at = open.findIndex(({ x, y }) => x === point.x && y === point.y);
    if (at >= 0) found.push(open.splice(at));
    open.push(point);
  }
  return [...found, open].filter((each) => each.length > 2);
}

function touches(one: Paths64, other: Paths64): boolean {
  return Math.abs(areaPaths(intersect(one, other, RULE))) > 0;
}

/** Paths as the texts of regions, a box as that of a box. */
function texts(paths: Paths64): string[] {
  const straight = paths.map((path) => trimCollinear(path));
  const outer = straight.filter((path) => area(path) > 0);
  const holes = straight.filter((path) => area(path) < 0);
  return outer.map((path) => textOf(path, holes.filter((hole) => aroundOf(hole, outer) === path)));
}

function textOf(path: Path64, holes: Paths64): string {
  const { left, top, right, bottom } = getBounds(path);
  if (holes.length === 0 && Math.abs(area(path)) === (right - left) * (bottom - top))
    return `${left},${top},${right - left},${bottom - top}`;
  return holes.reduce(joined, path).map(({ x, y }) => `${x},${y}`).join(" ");
}

/** An outline and a hole in it as one line, which goes to the hole and back the same way, between the
 * pixels: whole numbers are the corners of pixels. */
function joined(path: Path64, hole: Path64): Path64 {
  let [from, to, nearest] = [0, 0, Infinity];
  for (const [n, one] of path.entries()) {
    for (const [m, other] of hole.entries()) {
      const far = Math.hypot(one.x - other.x, one.y - other.y);
      if (far < nearest) [from, to, nearest] = [n, m, far];
    }
  }
  const around = [...hole.slice(to), ...hole.slice(0, to + 1)];
  const turn = { x: path[from]!.x, y: hole[to]!.y };
  return [...path.slice(0, from + 1), turn, ...around, turn, ...path.slice(from)];
}

/** The smallest outline that has a hole inside. */
function aroundOf(hole: Path64, all: Paths64): Path64 | undefined {
  const has = (each: Path64) => hole.every(
    (point) => pointInPolygon(point, each) !== PointInPolygonResult.IsOutside);
  return all.filter(has).sort((one, other) => area(one) - area(other))[0];
}
