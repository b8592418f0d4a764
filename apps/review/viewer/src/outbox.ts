// Verdicts that are not acknowledged yet outlive a reload of the page: the browser's tab keeps them.
// Each has an id, so that one that had arrived is not recorded twice.

import type { Verdict } from "./types";

const PLACE = "anodetect-outbox";

/** A new id: 128 random bits. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function keepOutbox(reviewer: string, verdicts: Verdict[]): void {
  try {
    if (verdicts.length) sessionStorage.setItem(PLACE, JSON.stringify({ reviewer, verdicts }));
    else sessionStorage.removeItem(PLACE);
  } catch { /* no storage here: a reload loses them, and the receipt does not say "Saved" */ }
}

/** What this reviewer had in the outbox when the page was left. */
export function keptOutbox(reviewer: string): Verdict[] {
  try {
    const kept = JSON.parse(sessionStorage.getItem(PLACE) ?? "{}");
    return kept.reviewer === reviewer && Array.isArray(kept.verdicts) ? kept.verdicts : [];
  } catch {
    return [];
  }
}
