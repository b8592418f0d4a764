// The choice between the files that an image was put together from, and of those in false colour.

import { COLOURS, FALSE_COLOUR, NOTHING, chosen, type Choice } from "./channels";
import { choice, labelled, make, setOptions } from "./dom";
import type { ChannelText } from "./types";

export class ChannelBar {
  readonly root = make("span", { class: "controls" });
  private readonly colours = make("span", { class: "controls" });
  private readonly channel: HTMLSelectElement;
  private readonly selects: HTMLSelectElement[];

  constructor(choose: (changes: Partial<Choice>) => void) {
    this.channel = choice("Channel", (channel) => choose({ channel }));
    this.selects = COLOURS.map((colour) =>
      choice(`Channel in ${colour}`, (name) => choose({ [colour]: name })));
    this.colours.append(...COLOURS.map((colour, n) => labelled(colour, this.selects[n]!)));
    this.root.append(labelled("Channel", this.channel), this.colours);
  }

  show(channels: ChannelText[], of: Choice): void {
    const names = channels.map((each) => each.name), shown = chosen(channels, of);
    this.root.hidden = names.length === 0;
    const isFalse = of.channel === FALSE_COLOUR;
    this.colours.hidden = !isFalse;
    const more = names.length > 1 ? [FALSE_COLOUR] : [];
    setOptions(this.channel, [...names, ...more], isFalse ? FALSE_COLOUR : shown[0]?.name ?? "");
    if (!isFalse) return;
    this.selects.forEach((select, n) =>
      setOptions(select, [...names, NOTHING], shown[n]?.name ?? NOTHING));
  }
}
