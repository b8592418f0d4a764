// Which of an image's several files are shown, and how: one of them, or up to three in false colour.

import { falseColour, grey, only, type Painter, type Part } from "./pixels";
import type { ChannelText, Range } from "./types";

export const FALSE_COLOUR = "false colour", NOTHING = "nothing";
export const COLOURS = ["red", "green", "blue"] as const;

/** The reviewer's choice: a channel's name or FALSE_COLOUR, and a name for each colour. What is not
 * there, such as "", stands for the first channel, or for that in the colour's own place. */
export interface Choice {
  channel: string;
  red: string;
  green: string;
  blue: string;
}

/** The channels to show: one, or those in red, green and blue, null for none. */
export function chosen(channels: ChannelText[], choice: Choice): (ChannelText | null)[] {
  const named = (name: string) => channels.find((each) => each.name === name);
  if (choice.channel !== FALSE_COLOUR) return [named(choice.channel) ?? channels[0] ?? null];
  return COLOURS.map((colour, place) => {
    if (choice[colour] === NOTHING) return null;
    return named(choice[colour]) ?? channels[place] ?? null;
  });
}

/** The windows to choose from: those of the first channel on the screen. */
export function windowsOf(
  channels: ChannelText[], choice: Choice, ofOne: Record<string, Range>,
): Record<string, Range> {
  return chosen(channels, choice).find((each) => each !== null)?.windows ?? ofOne;
}

/** A window that was set by hand on one channel, for another: it lies to its "auto" as there. */
export function carried(window: Range, from: Range, to: Range): Range {
  const times = (to[1] - to[0]) / Math.max(from[1] - from[0], 1e-9);
  return [to[0] + (window[0] - from[0]) * times, to[0] + (window[1] - from[0]) * times];
}

/** What paints the channels on the screen in a window of this name, or set by hand. */
export function painterOf(channels: ChannelText[], choice: Choice, name: string, byHand: Range): Painter {
  const shown = chosen(channels, choice), first = shown.find((each) => each !== null);
  const parts = shown.map((each): Part | null => {
    if (!each) return null;
    const auto = each.windows["auto"]!;
    const window = each.windows[name] ?? (name !== "by hand" ? auto
      : each === first ? byHand : carried(byHand, first!.windows["auto"]!, auto));
    return { start: each.start, count: each.count, window };
  });
  const one = parts[0];
  return parts.length === 1 && one ? only(one, grey(one.window)) : falseColour(parts);
}
