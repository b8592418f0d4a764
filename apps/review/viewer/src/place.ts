// The voxel that the reviewer is at, in the page's address: a reload and a link come back to it.

import type { Index } from "./slices";

export const VOXEL = "voxel";
const PAUSE = 400; // milliseconds without another slice; browsers refuse many changes at once

/** The voxel that an address names, or null. */
export function voxelIn(address: string): Index | null {
  const text = new URL(address).searchParams.get(VOXEL) ?? "";
  if (!/^\d{1,6},\d{1,6},\d{1,6}$/.test(text)) return null;
  return text.split(",").map(Number) as Index;
}

/** The address with another voxel, or with none. */
export function withVoxel(address: string, index: Index | null): string {
  const url = new URL(address);
  if (index) url.searchParams.set(VOXEL, index.join());
  else url.searchParams.delete(VOXEL);
  return url.href;
}

/** A voxel within a volume of this shape. */
export function within(index: Index, shape: Index): Index {
  return index.map((value, axis) => Math.min(value, shape[axis]! - 1)) as Index;
}

let timer = 0;

/** Write the voxel to the page's address, once the reviewer rests. */
export function keepVoxel(index: Index | null): void {
  clearTimeout(timer);
  timer = window.setTimeout(() => {
    const address = withVoxel(location.href, index);
    if (address !== location.href) history.replaceState(history.state, "", address);
  }, PAUSE);
}
