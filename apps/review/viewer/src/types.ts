// The data that Python sends and receives; see viewing.py and routes.py.

export type Range = [low: number, high: number];

/** What a case is called and what is known of it, before its image is fetched. */
export interface Card {
  ticket: string;
  label: string; // the row's path; of a hidden case its number in the list
  title: string;
  facts: string[];
  warnings: string[];
  hidden: boolean;
  stays: boolean; // after its verdict, with its scores
  verdict: string; // the reviewer's own, "" for none
  comment: string; // its own, until another is written
  region: string;
  others: string; // regions of other readers, once the reviewer has judged
}

export interface Receipt {
  id: string;
  text: string;
  problem: boolean;
}

/** What Python sends each time it draws the page. `seq` is that of the last message it received. */
export interface Data {
  session: string; // another one once the app was started anew, which then knows of no message
  seq: number;
  open: string; // ticket of the case that Python has open
  cards: Card[];
  order: string[]; // tickets around the open case, as listed
  unjudged: string[]; // tickets to judge after the open case
  receipts: Receipt[];
  keys: Record<string, string>; // key → verdict
  reviewer: string;
  address: string; // of tiles and descriptions
  palettes: Record<string, string>; // name → 256 colours, RGB, in base64
}

/** Something the reviewer recorded; `verdict` is "undo" to take the last one back. */
export interface Verdict {
  id: string;
  ticket: string;
  verdict: string;
  painted: string; // ticket of the case that was on the screen
  comment: string;
  region: string;
  seconds: number | null; // for which the case was on the screen
  places: string[]; // the slices of a volume that were on the screen
}

export interface Message {
  seq: number;
  open: string; // ticket; "" leaves the choice to Python
  verdicts: Verdict[];
}

/** How far the reading of a case is; see progress.py. */
export interface Progress {
  share: number;
  text: string;
}

export interface LayerText {
  kind: "|u1" | "<u2" | "<i2" | "<f4";
  channels: number;
  height: number;
  width: number;
}

/** One of several files of an image: the planes of its layer "image" that it has, and its windows. */
export interface ChannelText {
  name: string;
  start: number;
  count: number;
  windows: Record<string, Range>;
}

/** A case as Python describes it. Without an image `layers` is empty and `notes` say why. */
export interface CaseText {
  height: number;
  width: number;
  tile: number;
  layers: Record<string, LayerText>;
  outlines: string[];
  windows: Record<string, Range>;
  scale: Range;
  notes: string[];
  channels: ChannelText[]; // none of an image of one file
  volume: VolumeText | null;
  found: string; // of an image: how many regions count
}

/** A plane: the source's axes that become slices, rows and columns, which of them run against the
 * source's, and the letters at the left, right, top and bottom edge. */
export interface PlaneText {
  name: string;
  axes: [number, number, number];
  flipped: [boolean, boolean, boolean];
  edges: [string, string, string, string];
}

/** The scores of slices, in the order of the screen; see slices.py. */
export interface Profile {
  scores: (number | null)[];
  unscored: string[];
  marked: number[];
  threshold: number | null;
  found: string;
}

/** Where a volume's voxels lie; see slices.py. The first plane is the one that was scored. */
export interface VolumeText {
  shape: [number, number, number];
  planes: PlaneText[];
  spacing: [number, number, number];
  origin: number[];
  steps: number[][];
  places: number[][] | null;
  start: number;
  profile: Profile | null;
}
