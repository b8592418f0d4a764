// Regions as text, in whole pixels of the image: "x,y,width,height" or "x,y x,y x,y …"; several are
// separated by "; ".

export type Point = [x: number, y: number];

const limited = (value: number, most: number) => Math.min(Math.max(value, 0), most);

/** The box of all pixels that lie between two corners, cut to the image. */
export function box(from: Point, to: Point, width: number, height: number): string {
  const left = limited(Math.floor(Math.min(from[0], to[0])), width - 1);
  const top = limited(Math.floor(Math.min(from[1], to[1])), height - 1);
  const right = limited(Math.ceil(Math.max(from[0], to[0])), width);
  const bottom = limited(Math.ceil(Math.max(from[1], to[1])), height);
  return `${left},${top},${Math.max(right - left, 1)},${Math.max(bottom - top, 1)}`;
}

/** The outline through points, cut to the image; "" if fewer than three differ. */
export function outline(points: Point[], width: number, height: number): string {
  const corners: string[] = [];
  for (const [x, y] of points) {
    const corner = `${limited(Math.round(x), width)},${limited(Math.round(y), height)}`;
    if (!corners.includes(corner)) corners.push(corner);
  }
  return corners.length < 3 ? "" : corners.join(" ");
}

/** The corners of each region of a text, closed. */
export function corners(regions: string): Point[][] {
  return regions.split(";").map((region) => ofOne(region.trim())).filter((each) => each.length > 0);
}

/** The regions of a text and one more. */
export function added(regions: string, region: string): string {
  return [regions, region].filter(Boolean).join("; ");
}

function ofOne(region: string): Point[] {
  const points = region.split(" ").map((part) => part.split(",").map(Number));
  const first = points[0]!;
  if (first.length === 4) {
    const [x, y, w, h] = first as [number, number, number, number];
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]];
  }
  if (points.length < 3) return [];
  return [...points, first].map((point) => [point[0]!, point[1]!]);
}
