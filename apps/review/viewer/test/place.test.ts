import { expect, test } from "vitest";
import { voxelIn, within, withVoxel } from "../src/place";

const PAGE = "http://127.0.0.1:8501/?reviewer=Ada&case=a%20%26b.nii.gz";

test("the voxel goes into the address and comes back, and nothing else changes", () => {
  const address = withVoxel(PAGE, [3, 40, 127]);
  expect(voxelIn(address)).toEqual([3, 40, 127]);
  const { searchParams } = new URL(address);
  expect([searchParams.get("reviewer"), searchParams.get("case")]).toEqual(["Ada", "a &b.nii.gz"]);
  expect(voxelIn(withVoxel(address, null))).toBe(null);
  expect(voxelIn(withVoxel(address, [0, 0, 0]))).toEqual([0, 0, 0]);
});

test("what is no voxel is none, and one outside the volume is at its edge", () => {
  for (const text of ["", "1,2", "1,2,3,4", "-1,2,3", "a,b,c", "1e3,2,3", "9999999,1,1"])
    expect(voxelIn(`${PAGE}&voxel=${text}`)).toBe(null);
  expect(within([5, 500, 2], [10, 20, 3])).toEqual([5, 19, 2]);
});
