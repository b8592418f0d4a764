// The viewer's looks, in the colours of Streamlit's theme.

export const style = `
#viewer { container-type: inline-size; font-family: var(--st-font, sans-serif); color: var(--st-text-color, inherit);
  display: flex; flex-direction: column; gap: 0.4rem; font-size: 0.875rem; }
#viewer .head { min-height: 2.6em; overflow-wrap: anywhere; }
#viewer .name { font-weight: 600; }
#viewer .row, #viewer .controls, #viewer .tools, #viewer .verdicts {
  display: flex; flex-wrap: wrap; gap: 0.4rem 0.6rem; align-items: center; }
#viewer [hidden] { display: none; }
#viewer label { display: inline-flex; gap: 0.3rem; align-items: center; }
#viewer button, #viewer select, #viewer input[type=text] {
  font: inherit; color: inherit; padding: 0.3rem 0.7rem; border-radius: 0.5rem;
  border: 1px solid color-mix(in srgb, currentColor 35%, transparent);
  background: var(--st-background-color, transparent); }
#viewer button { cursor: pointer; min-height: 2.2rem; }
#viewer button:disabled { opacity: 0.5; cursor: default; }
#viewer button[aria-pressed=true] { outline: 2px solid currentColor; }
#viewer .row > span > button + button:not([data-verdict], .tools *) { margin-left: 0.4rem; }
#viewer input[type=text] { flex: 1; min-width: 12rem; }
#viewer [data-verdict] { border-width: 2px; font-weight: 600; }
#viewer [data-verdict=normal] { border-color: #0072b2; border-radius: 1.2rem; }
#viewer [data-verdict=anomalous] { border-color: #d55e00; border-radius: 0; }
#viewer [data-verdict=unsure] { border-color: #cc79a7; border-style: dashed; }
#viewer [data-verdict="bad image"] { border-color: currentColor; border-style: double; border-width: 4px; }
#viewer .refused { color: #fff; background: #8a1c2b; padding: 0.3rem 0.6rem; border-radius: 0.4rem; }
#viewer .problem progress { width: min(20rem, 100%); margin-left: 0.6rem; vertical-align: middle; }
#viewer .refused:empty, #viewer .problem:empty { display: none; }
#viewer .receipt[data-state=failed] { color: #d55e00; font-weight: 600; }
#viewer .slices { display: flex; flex-direction: column; gap: 0.2rem; }
#viewer .slices canvas { width: 100%; height: 64px; cursor: pointer; touch-action: none; }
#viewer .slices canvas[hidden] { display: none; }
#viewer .slices input[type=range] { width: 100%; margin: 0; }
#viewer output { opacity: 0.75; min-height: 1.3em; }
#viewer .panels { position: relative; display: grid; gap: 4px; grid-template-columns: 1fr;
  height: clamp(15rem, calc(100cqw / 3 + 2rem), 72vh); overflow: hidden; }
#viewer .panels[data-panels="1"] { height: clamp(15rem, 100cqw, 72vh); }
#viewer .panels[data-panels="3"] { grid-template-columns: repeat(3, 1fr); }
#viewer .panel { position: relative; background: #000; overflow: hidden; min-width: 0; }
#viewer .panel[hidden] { display: block; position: absolute; visibility: hidden; width: 240px;
  height: 240px; left: -9999px; }
#viewer .title { position: absolute; left: 0.4rem; top: 0.2rem; color: #fff; pointer-events: none;
  text-shadow: 0 0 3px #000, 0 0 3px #000; z-index: 3; }
#viewer .drawing { position: absolute; inset: 0; pointer-events: none; z-index: 2; }
#viewer[data-tool] .panel { cursor: crosshair; touch-action: none; }
#viewer[data-tool=pan] .panel { cursor: grab; }
#viewer[data-tool=window] .panel { cursor: ns-resize; }
#viewer .narrow { display: none; }
@container (max-width: 740px) { /* one picture at a time, of 240 pixels or more */
  #viewer .narrow { display: inline-flex; }
  #viewer .panels[data-panels="3"] { grid-template-columns: 1fr;
    height: clamp(15rem, 100cqw, 60vh); }
  #viewer .panels[data-panels="3"][data-only="0"] .panel:not([data-number="0"]),
  #viewer .panels[data-panels="3"][data-only="1"] .panel:not([data-number="1"]),
  #viewer .panels[data-panels="3"][data-only="2"] .panel:not([data-number="2"]) {
    position: absolute; visibility: hidden; width: 240px; height: 240px; left: -9999px; }
}
@media (pointer: coarse) { /* fingers */
  #viewer button, #viewer select, #viewer label, #viewer input[type=text],
  #viewer input[type=range] { min-height: 2.75rem; }
  #viewer button { min-width: 2.75rem; }
  #viewer .key { display: none; }
  #viewer input[type=checkbox] { width: 1.5rem; height: 1.5rem; }
}
`;
