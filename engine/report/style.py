"""How a report looks and reacts: its style sheet and its script, without anything of a run."""

#: Light or dark as the reader's system is; viewers are black in both, because air is.
STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --text: #1a1e24; --muted: #5d6672; --line: #e1e5ea;
  --accent: #1766c2; --second: #b3540a; --warn: #fff4dc; --warn-line: #d99a1c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101317; --card: #191d23; --text: #e9ecf0; --muted: #98a2ae; --line: #2b313a;
    --accent: #6db3ff; --second: #f0a35c; --warn: #33290f; --warn-line: #b98a26;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
main, header, footer { max-width: 1480px; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 1.75rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .25rem 0; max-width: 75ch; }
p.note { margin-top: .6rem; max-width: 110ch; }
.muted, footer, .note { color: var(--muted); }
.note { font-size: .875rem; }
.cards { display: flex; flex-wrap: wrap; gap: .75rem; margin-top: 1rem; }
.card, .box { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: .7rem 1rem; }
.card b { display: block; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card span { font-size: .82rem; color: var(--muted); }
.box { padding: .9rem 1.1rem; overflow-x: auto; }
.warnings { background: var(--warn); border-color: var(--warn-line); margin-top: 1rem; overflow-wrap: anywhere; }
.warnings ul { margin: .3rem 0 0; padding-left: 1.2rem; }
.two { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
.two > * { min-width: 0; }
.loose { align-items: start; }

.controls {
  position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; align-items: center; gap: .4rem 1.4rem;
  background: var(--page); padding: .55rem 0; margin-bottom: .5rem; border-bottom: 1px solid var(--line);
}
.controls label { display: flex; align-items: center; gap: .5rem; font-size: .875rem; white-space: nowrap; }
.controls input[type=range] { width: 9.5rem; accent-color: var(--accent); }
.controls input[type=checkbox] { accent-color: var(--accent); }
.controls output { min-width: 4.6rem; text-align: right; color: var(--muted); font-variant-numeric: tabular-nums; }
.viewers { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 35rem), 1fr)); }
.viewers.large { grid-template-columns: minmax(0, 1fr); }
.viewer { margin: 0; min-width: 0; background: #000; color: #f1f3f5; border-radius: 10px; padding: .8rem .9rem; }
.viewer { border: 1px solid var(--line); }
.viewer figcaption { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .7rem; margin-bottom: .4rem; }
.viewer .note { color: #a4adb7; }
.planes { display: grid; font-size: .75rem; color: #a4adb7; }
.planes > span { display: flex; justify-content: space-between; padding: 0 .35rem; min-width: 0; overflow: hidden; }
.planes b { color: #f1f3f5; }
.screen { width: 100%; min-height: 4rem; line-height: 0; }
.screen canvas { cursor: crosshair; }
.bar { margin: .55rem auto 0; max-width: 22rem; font-size: .8rem; color: #cfd5db; }
.bar i { display: block; height: .55rem; border-radius: 3px; border: 1px solid #3a424c; }
.bar span { display: flex; justify-content: space-between; font-variant-numeric: tabular-nums; }

table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
td { overflow-wrap: anywhere; }
th { font-weight: 500; }
thead th, .terms th { color: var(--muted); }
.terms { width: 100%; }
.terms th { width: 11rem; overflow-wrap: anywhere; }
.figures td { white-space: nowrap; }
.figures td { text-align: right; }
.figures thead th:not(:first-child) { text-align: right; }
.figures th, .figures td { padding-right: 1.4rem; }
thead .gain, .gain { color: var(--accent); font-weight: 600; }
svg { width: 100%; height: auto; max-width: 36rem; display: block; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono",
  Menlo, Consolas, monospace; }
details { margin-top: .6rem; }
summary { cursor: pointer; color: var(--accent); font-size: .9rem; }
details pre, details table { margin-top: .6rem; }
.scroll { max-height: 26rem; overflow: auto; }
footer { font-size: .82rem; padding-top: 2rem; padding-bottom: 2.5rem; }
@media (max-width: 40rem) {
  main, header, footer { padding-left: .8rem; padding-right: .8rem; }
  .controls { position: static; }
  .controls label { width: 100%; }
  .cards { gap: .5rem; }
  .card { flex: 1 1 40%; padding: .6rem .8rem; }
  .controls label.switch { width: auto; }
  .controls label.wide { display: none; }
  .controls .name { width: 4.2rem; }
  .controls input[type=range] { flex: 1; min-width: 0; }
  .viewer { padding: .6rem .5rem; }
  .terms th { width: 7.5rem; }
  .figures th, .figures td { padding-right: .7rem; }
}
"""

#: One cut for all viewers: a click, a drag or a slider moves it everywhere.
SCRIPT = """
"use strict";
window.addEventListener("load", () => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const axes = ["X", "Y", "Z"];
  const sliders = axes.map((axis) => document.getElementById("cut-" + axis));
  const outputs = axes.map((axis) => document.getElementById("mm-" + axis));
  // The patient's right is on the left: brainsprite's first sagittal slice is the volume's last.
  const mirrored = (index, axis) => (axis === 0 ? page.shape[0] - 1 - index : index);
  let cut = page.cut.slice();
  const viewers = page.viewers.map((settings) => {
    const numSlice = Object.fromEntries(axes.map((name, axis) => [name, mirrored(cut[axis], axis)]));
    const viewer = brainsprite({...settings, numSlice, onclick: () => {
      move(axes.map((name, axis) => mirrored(viewer.numSlice[name], axis)));
    }});
    return viewer;
  });
  const move = (next) => {
    cut = next;
    axes.forEach((name, axis) => {
      const row = page.affine[axis];
      const mm = row[0] * cut[0] + row[1] * cut[1] + row[2] * cut[2] + row[3];
      const text = (Math.abs(mm) < 0.05 ? 0 : mm).toFixed(1).replace("-", "\\u2212");
      sliders[axis].value = cut[axis];
      outputs[axis].textContent = text + " mm";
      for (const viewer of viewers) viewer.numSlice[name] = mirrored(cut[axis], axis);
    });
    for (const viewer of viewers) viewer.drawAll();
  };
  sliders.forEach((slider, axis) => slider.addEventListener("input", () => {
    move(cut.map((index, other) => (other === axis ? Number(slider.value) : index)));
  }));
  document.getElementById("crosshair").addEventListener("change", (event) => {
    for (const viewer of viewers) viewer.crosshair = event.target.checked;
    move(cut);
  });
  document.getElementById("large").addEventListener("change", (event) => {
    document.getElementById("viewers").classList.toggle("large", event.target.checked);
    window.dispatchEvent(new Event("resize"));
  });
  // Released outside of a viewer, the mouse would go on moving the cut.
  window.addEventListener("mouseup", () => {
    for (const viewer of viewers) viewer.canvas.removeEventListener("mousemove", viewer.clickBrain, false);
  });
  move(cut);
  document.documentElement.dataset.ready = "true";
});
"""
