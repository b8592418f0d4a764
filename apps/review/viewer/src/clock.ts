// How long a case is looked at: the time in which its page is hidden does not count.

interface Page {
  readonly hidden: boolean;
  addEventListener(name: string, run: () => void): void;
}

export class Clock {
  private counted = 0; // milliseconds until the page was hidden last
  private since: number | null = null; // null while nothing counts

  constructor(private page: Page = document, private now: () => number = () => performance.now()) {
    page.addEventListener("visibilitychange", () => this.change());
  }

  /** Start anew. */
  start(): void {
    this.counted = 0;
    this.since = this.page.hidden ? null : this.now();
  }

  /** The seconds since the start. */
  seconds(): number {
    const open = this.since === null ? 0 : this.now() - this.since;
    return (this.counted + open) / 1000;
  }

  private change(): void {
    const now = this.now();
    if (this.page.hidden && this.since !== null) this.counted += now - this.since;
    this.since = this.page.hidden ? null : now;
  }
}
