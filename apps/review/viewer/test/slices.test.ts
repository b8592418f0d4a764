import { expect, test } from "vitest";
import { decoded, grey } from "../src/pixels";
import {
  drawnText, extent, inside, millimetres, moved, placeName, pointed, regionsIn, regionsOn, ring,
  sides, sliceAt, slicesWith, sliceText, sourceIndex, sourceNumber, stretch, voxelText, wheelSteps, withRegionsOn,
} from "../src/slices";
import type { PlaneText, VolumeText } from "../src/types";

// What anodetect.data.geometry and record.marks say of a volume whose rows run against the screen's.
const AXIAL: PlaneText = {
  name: "axial", axes: [2, 1, 0], flipped: [false, true, false], edges: ["R", "L", "A", "P"],
};
const CORONAL: PlaneText = {
  name: "coronal", axes: [1, 2, 0], flipped: [true, true, false], edges: ["R", "L", "S", "I"],
};
const SAGITTAL: PlaneText = {
  name: "sagittal", axes: [0, 2, 1], flipped: [false, true, true], edges: ["A", "P", "S", "I"],
};
const VOLUME: VolumeText = {
  shape: [48, 32, 14], planes: [AXIAL, CORONAL, SAGITTAL], spacing: [1, 2, 5],
  origin: [-10, 30, -20], steps: [[1, 0, 0], [0, -2, 0], [0, 0, 5]], places: null, start: 5,
  profile: null,
};

test("places in the slices of each plane, and back", () => {
  expect(inside(VOLUME, AXIAL, [12, 9, 5])).toEqual([5, 22, 12]);
  expect(inside(VOLUME, CORONAL, [12, 9, 5])).toEqual([22, 8, 12]);
  expect(inside(VOLUME, SAGITTAL, [12, 9, 5])).toEqual([12, 8, 22]);
  for (const plane of VOLUME.planes)
    expect(sourceIndex(VOLUME, plane, inside(VOLUME, plane, [12, 9, 5]))).toEqual([12, 9, 5]);
  expect(VOLUME.planes.map((plane) => sides(VOLUME, plane))).toEqual(
    [[14, 32, 48], [32, 14, 48], [48, 14, 32]]);
  expect(VOLUME.planes.map((plane) => sourceNumber(plane, [12, 9, 5]))).toEqual([5, 9, 12]);
  expect(VOLUME.planes.map((plane) => stretch(VOLUME, plane))).toEqual([[1, 2], [1, 5], [1, 2.5]]);
});

test("millimetres, of even slices and of uneven ones", () => {
  expect(millimetres(VOLUME, [12, 9, 5])).toEqual([2, 12, 5]);
  const uneven: VolumeText = {
    ...VOLUME, steps: [[0, 0.5, 3], [1, 0, 0], [0, 2, 0]], places: [[0, 0, 0], [0, 0, 2], [0, 1, 6]],
  };
  expect(millimetres(uneven, [1.5, 2, 3])).toEqual([2, 6.5, 4]);
  expect(sliceText(VOLUME, AXIAL, [0, 0, 3])).toBe("axial, slice 4 of 14, 5 mm I");
  expect(sliceText(VOLUME, CORONAL, [0, 28, 0])).toBe("coronal, slice 4 of 32, 26 mm A");
  expect(sliceText(VOLUME, SAGITTAL, [3, 0, 0])).toBe("sagittal, slice 4 of 48, 7 mm R");
  expect(voxelText(VOLUME, AXIAL, [12, 9, 5])).toBe(
    "voxel 12, 9, 5 · 2.0 mm L, 12.0 mm P, 5.0 mm S");
  const frames = { ...AXIAL, name: "frames" };
  expect(sliceText(VOLUME, frames, [0, 0, 3])).toBe("frame 4 of 14");
  expect(voxelText(VOLUME, frames, [1, 2, 3])).toBe("voxel 1, 2, 3");
});

test("the way through slices ends at the first and the last", () => {
  expect(moved(VOLUME, AXIAL, [1, 2, 3], 2)).toEqual([1, 2, 5]);
  expect(moved(VOLUME, CORONAL, [1, 2, 3], 1)).toEqual([1, 1, 3]); // slices run against the source
  expect(moved(VOLUME, AXIAL, [1, 2, 3], 99)).toEqual([1, 2, 13]);
  expect(moved(VOLUME, AXIAL, [1, 2, 3], -99)).toEqual([1, 2, 0]);
  expect(pointed(VOLUME, AXIAL, [1, 2, 3], [12.9, 22.1])).toEqual([12, 9, 3]);
  expect(pointed(VOLUME, SAGITTAL, [1, 2, 3], [-5, 99])).toEqual([1, 31, 0]);
});

test("regions go on record in the source's pixels and come back", () => {
  const index: [number, number, number] = [3, 28, 3]; // the fourth slice of each plane
  const recorded = (plane: PlaneText, shape: string) =>
    withRegionsOn(VOLUME, plane, index, "", shape);
  expect(recorded(AXIAL, "3,4,5,6")).toBe("axial 3: 3,22,5,6");
  expect(recorded(CORONAL, "3,4,5,6")).toBe("coronal 28: 3,4,5,6");
  expect(recorded(SAGITTAL, "3,4,5,6")).toBe("sagittal 3: 24,4,5,6");
  expect(recorded(AXIAL, "1,2 5,2 5,9")).toBe("axial 3: 1,30 5,30 5,23");

  const kept = "axial 3: 3,22,5,6; axial 4: 0,0,1,1; sagittal 3: 31,12 27,12 27,5";
  const [box] = regionsIn(VOLUME, AXIAL, index, kept);
  expect(new Set(box!.map(String))).toEqual(new Set(["3,4", "8,4", "8,10", "3,10"]));
  expect(regionsIn(VOLUME, SAGITTAL, index, kept)).toEqual([[[1, 2], [5, 2], [5, 9], [1, 2]]]);
  expect(regionsIn(VOLUME, CORONAL, index, kept)).toEqual([]);
  expect(regionsOn(VOLUME, AXIAL, index, kept)).toBe("3,4,5,6");
  expect(withRegionsOn(VOLUME, AXIAL, index, kept, "3,4,5,6; 0,0,1,1")).toBe(
    "axial 4: 0,0,1,1; sagittal 3: 31,12 27,12 27,5; axial 3: 3,22,5,6; axial 3: 0,31,1,1");
  expect(withRegionsOn(VOLUME, SAGITTAL, index, kept, "")).toBe(
    "axial 3: 3,22,5,6; axial 4: 0,0,1,1"); // erased
  expect(placeName(CORONAL, index)).toBe("coronal 28");
});

test("slices with regions on record are those of the screen", () => {
  const kept = "axial 3: 3,22,5,6; axial 4: 0,0,1,1; axial 3: 0,31,1,1; coronal 28: 3,4,5,6";
  expect(slicesWith(VOLUME, AXIAL, kept)).toEqual([3, 4]);
  expect(slicesWith(VOLUME, CORONAL, kept)).toEqual([3]); // slices run against the source
  expect(slicesWith(VOLUME, SAGITTAL, kept)).toEqual([]);
  expect(drawnText(VOLUME, kept)).toBe("axial 4–5, coronal 4");
  expect(drawnText(VOLUME, `${kept}; axial 9: 0,0,1,1`)).toBe("axial 4–5, 10, coronal 4");
  expect(drawnText(VOLUME, "")).toBe("");
});

test("slices ahead come first, then half as many behind", () => {
  expect(ring(5, 20, 1, 4)).toEqual([6, 7, 4, 8, 9, 3]);
  expect(ring(5, 20, -1, 4)).toEqual([4, 3, 6, 2, 1, 7]);
  expect(ring(0, 3, 1, 8)).toEqual([1, 2]);
});

test("a notch of the wheel is one slice, and so is the way of a touchpad", () => {
  expect(wheelSteps(30, 120, 0)).toEqual({ steps: 1, rest: 0 });
  expect(wheelSteps(0, -3, 1)).toEqual({ steps: -1, rest: 0 }); // lines
  expect(wheelSteps(0, 30, 0)).toEqual({ steps: 0, rest: 30 });
  expect(wheelSteps(30, 30, 0)).toEqual({ steps: 1, rest: 10 });
  expect(wheelSteps(40, -20, 0)).toEqual({ steps: 0, rest: -20 }); // turned back
});

test("the profile", () => {
  const profile = { scores: [1, null, 3], unscored: [], marked: [], threshold: 4, found: "" };
  expect(extent(profile)).toEqual([1, 4]);
  expect(extent({ ...profile, scores: [null], threshold: null })).toEqual([0, 1]);
  expect([0, 0.33, 0.34, 1].map((share) => sliceAt(share, 3))).toEqual([0, 0, 1, 2]);
});

test("Hounsfield units keep their sign and their steps until black and white are chosen", () => {
  const values = decoded(new Int16Array([-1024, 40, 3071]).buffer, "<i2");
  const out = new Uint8ClampedArray(12);
  grey([0, 80])(values, { kind: "<i2", channels: 1, height: 1, width: 3 }, out);
  expect([out[0], out[4], out[8]]).toEqual([0, 127, 255]);
});
